"""The published figures, and what the published code made them with."""

from __future__ import annotations

PAPER: dict[str, dict[str, dict[str, float]]] = {
    "charades-vgg-glove": {
        "test": {"R1@0.5": 56.69, "R1@0.7": 35.99, "mAP@0.5": 67.94, "mAP@0.75": 33.64, "mAP avg": 37.33}
    },
    "charades-clip-slowfast": {
        "test": {"R1@0.5": 61.24, "R1@0.7": 38.04, "mAP@0.5": 70.31, "mAP@0.75": 36.36, "mAP avg": 38.57}
    },
    "charades-cg-clip-slowfast": {
        "novel_composition": {"R1@0.5": 44.39, "R1@0.7": 23.27, "mIoU": 39.89},
        "novel_word": {"R1@0.5": 52.66, "R1@0.7": 31.22, "mIoU": 46.38},
    },
    "charades-cg-i3d-glove": {
        "novel_composition": {"R1@0.5": 46.19, "R1@0.7": 26.00, "mIoU": 41.40},
        "novel_word": {"R1@0.5": 50.50, "R1@0.7": 33.67, "mIoU": 46.20},
    },
    "tacos-c3d-glove": {"test": {"R1@0.1": 65.03, "R1@0.3": 52.69, "R1@0.5": 39.52, "mIoU": 36.94}},
    "qvhighlights-clip-slowfast": {
        "test": {"R1@0.5": 62.78, "R1@0.7": 45.20, "mAP@0.5": 62.64, "mAP@0.75": 41.45, "mAP avg": 40.68}
    },
}
"""The paper's tables (MESM, AAAI 2024): setting, split, figure."""


EPOCHS = 200


SELECT_ON = {
    "charades-vgg-glove": "test",
    "charades-clip-slowfast": "test",
    "tacos-c3d-glove": "test",
    "charades-cg-clip-slowfast": "novel_composition",
    "charades-cg-i3d-glove": "novel_composition",
}
"""The split that the published code chose its best epoch on; QVHighlights has a validation split."""


RELEASED = {
    "clip": "clip_image.hdf5",
    "slowfast-8x8-r50": "slowfast.hdf5",
    "vgg16": "vgg.hdf5",
    "c3d": "c3d.hdf5",
    "i3d-inception": "i3d.hdf5",
}
