"""Annotation files of the field's datasets, read into one kind of record."""
