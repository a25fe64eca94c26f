"""What published checkpoints hold, or need, that follows from a network's options or from its annotations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.text.vocabulary import Vocabulary, tokens_as_they_come
from mesm.datasets.text.words import split_words
from mesm.model.layers.grid import GridHead
from mesm.model.network_config import NetworkConfig
from mesm.model.networks.msat import MsatConfig
from mesm.model.position import position_codes
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config

CANDIDATES, POSITIONS = "bert_layer.iou_mask_map", "bert_layer.vlbert.postion_encoding.pos_table"
CLOSE = 1e-5


def without_tables(tensors: Mapping[str, Tensor], network: NetworkConfig, source: Path) -> dict[str, Tensor]:
    """Leave MSAT's map of candidates and table of positions out of its parameters.

    PipelineError when they are not those that its options make: answers would not be the published ones.
    """
    if not isinstance(network, MsatConfig):
        return dict(tensors)
    size = network.clips + 1
    head = GridHead(1, 1, network.clips, 0.0)
    expected = {
        CANDIDATES: torch.zeros(size, size).index_put_((head.starts, head.ends), torch.ones(())),
        POSITIONS: position_codes(network.positions, network.positions, network.dim)[None],
    }
    for name, table in expected.items():
        found = tensors.get(name)
        if found is None:
            raise PipelineError(f"{source} has no {name}; expected a complete checkpoint of MSAT")
        if found.shape != table.shape or not torch.allclose(found.float(), table, atol=CLOSE, rtol=0):
            raise PipelineError(
                f"{source}: its {name}, {list(found.shape)}, is not that of this setting, {list(table.shape)}; name "
                "the setting by --setting, or the checkpoint is of another network"
            )
    return {name: value for name, value in tensors.items() if name not in expected}


def vocabulary_of_training(config: Config, annotations: Path) -> Vocabulary:
    """Rebuild the vocabulary of all words of the training split; PipelineError when it is not of the network's size."""
    queries = read_annotations(config.dataset.reader, annotations, config.dataset.train_split)
    found = tokens_as_they_come(split_words(query.query, config.features.text.words) for query in queries)
    expected = config.features.text.vocabulary_size + 1
    if found.classes != expected:
        raise PipelineError(
            f"the words of {config.dataset.train_split} in {annotations} make a vocabulary of {found.classes} classes, "
            f"the checkpoint has {expected}; give the annotations that it was trained on, or none"
        )
    return found
