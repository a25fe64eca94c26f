"""Errors of the stages that the command line shows as one message."""

from __future__ import annotations


class PipelineError(Exception):
    """A stage cannot do what was asked; the message says what was found, expected and what to do."""


class ConfigError(PipelineError):
    """The configuration holds mistakes; the message lists all of them."""
