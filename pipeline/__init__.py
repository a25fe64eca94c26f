"""The stages of the pipeline, their configuration and the command line."""

__version__ = "0.1.0"
