"""Typed errors of the datasets: each says what was found, what was expected and what to do next."""

from __future__ import annotations


class DatasetError(Exception):
    """Base of all errors that annotations, features or vocabularies can cause."""


class AnnotationError(DatasetError):
    """An annotation file is missing or holds records that cannot be read; lists all of them at once."""


class FeatureError(DatasetError):
    """Features are missing, damaged, or were made with another specification."""
