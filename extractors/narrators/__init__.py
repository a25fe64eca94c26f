"""Models that say in words what a frame shows."""

from mesm.extractors import torchvision_without_operators as _shim  # noqa: F401  must precede any import of torchvision
