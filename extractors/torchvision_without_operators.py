"""Make `import torchvision` work beside a torch build that it was not compiled for.

PyPI's torchvision is compiled for CUDA builds of torch. Beside a CPU build its C++ library cannot be loaded, and
importing it fails because it registers fake kernels for `nms`, an operator that was never declared. Declaring the
schema is enough for its models and transforms, which are all that is used here. Nothing happens on a matching install.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

# The declarations live only as long as this object.
_declarations: torch.library.Library | None = None


def declare_missing_torchvision_operators() -> bool:
    """Declare `torchvision::nms` and `qnms` when torchvision's C++ library cannot be loaded; True if needed."""
    global _declarations
    if _declarations is not None:
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    libraries = sorted(Path(spec.origin).parent.glob("_C*"))
    for library in libraries:
        try:
            torch.ops.load_library(str(library))
            return False
        except OSError:
            continue
    _declarations = torch.library.Library("torchvision", "DEF")
    _declarations.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declarations.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return True


declare_missing_torchvision_operators()
