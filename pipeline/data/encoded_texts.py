"""Texts into a folder of features: what it lacks is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mesm.datasets.shards.fingerprints import text_key
from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.contracts import TextEncoder, TextFeatures

TEXTS_PER_BATCH = 256


TEXTS_PER_SHARD = 4096


def extract_texts(texts: Sequence[str], encoder: TextEncoder, folder: FeatureFolder) -> int:
    """Encode the texts that the folder lacks, keyed by `text_key`; return how many were encoded."""
    lacking = {key: text for text in texts if (key := text_key(text)) not in folder}
    keys = sorted(lacking)
    if not keys:
        return 0
    with folder.writer() as writer:
        for start in range(0, len(keys), TEXTS_PER_BATCH):
            batch = keys[start : start + TEXTS_PER_BATCH]
            for key, features in zip(batch, encoder.encode([lacking[key] for key in batch]), strict=True):
                writer.add(key, _text_arrays(features), meta={"text": lacking[key]})
            if writer.pending >= TEXTS_PER_SHARD:
                writer.publish()
    return len(keys)


def _text_arrays(features: TextFeatures) -> Mapping[str, np.ndarray]:
    arrays = {"tokens": features.tokens, "token_ids": features.token_ids}
    return arrays if features.pooled is None else {**arrays, "pooled": features.pooled}
