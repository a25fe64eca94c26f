"""Annotations, feature shards, vocabularies and batches."""
