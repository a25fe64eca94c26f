"""Decoding, frame sampling, the video and text encoders, and the registry of their weights."""

from mesm.extractors import compatibility as _compatibility  # noqa: F401  must precede any import of torchvision
