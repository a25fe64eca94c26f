"""How a configuration's predictions are post-processed and scored."""

from __future__ import annotations

from dataclasses import replace

from mesm.pipeline.config.schema import Config
from mesm.pipeline.evaluate.protocols import Protocol, find_protocol

_FAMILIES = {"tacos": "tacos", "qvhighlights": "qvhighlights"}


def protocol_of(config: Config) -> Protocol:
    """Return how this configuration's predictions are post-processed and scored."""
    dataset = config.dataset
    family = _FAMILIES.get(dataset.reader, "charades")
    protocol = find_protocol(family, published=config.evaluate.published, clip_len_s=dataset.clip_len)
    return replace(protocol, nms_iou=config.evaluate.nms if config.evaluate.nms >= 0 else None)
