"""Splits in memory: frames, words, targets, batches."""
