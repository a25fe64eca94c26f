"""The stages of the pipeline, their configuration and the command line."""

from mesm.pipeline._version import __version__

__all__ = ["__version__"]
