"""MESM: tensors in, tensors out; no file is opened here."""

from mesm.model.batch import Batch, Targets, WordMask
from mesm.model.layouts import Layout
from mesm.model.losses import LossConfig, compute_losses
from mesm.model.networks.mesm import Mesm, MesmConfig, Output
from mesm.model.ranking import span_scores

__all__ = [
    "Batch",
    "Layout",
    "LossConfig",
    "Mesm",
    "MesmConfig",
    "Output",
    "Targets",
    "WordMask",
    "compute_losses",
    "span_scores",
]
