"""The video and text encoders."""

from mesm.extractors import torchvision_without_operators as _shim  # noqa: F401  must precede any import of torchvision
