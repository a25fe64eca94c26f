"""The networks by name: a table of where each one stands; nothing is imported before it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesm.model.network import Network
    from mesm.model.network_config import NetworkConfig, Sizes

DEFAULT = "mesm"
"""The network of configurations that name none."""


@dataclass(frozen=True)
class NetworkEntry:
    """One network: three classes of a module of `mesm.model.networks`, as `module:class`."""

    name: str
    network: str
    config: str
    losses: str
    source: str
    """Paper and year."""
    learns: bool = True
    """False: it has no parameters, so that there is nothing to train and no checkpoint."""

    def network_class(self) -> type[Network]:
        """Import the network's class."""
        return _load(self.network)

    def config_class(self) -> type[NetworkConfig]:
        """Import the class of the configuration's section `model`."""
        return _load(self.config)

    def losses_class(self) -> type[Any]:
        """Import the class of the configuration's section `loss`."""
        return _load(self.losses)


NETWORKS: Mapping[str, NetworkEntry] = {
    entry.name: entry
    for entry in (
        NetworkEntry("mesm", "mesm:Mesm", "mesm:MesmConfig", "mesm:MesmLosses", "MESM, AAAI 2024"),
        NetworkEntry("qd-detr", "qd_detr:QdDetr", "qd_detr:QdDetrConfig", "qd_detr:QdDetrLosses", "QD-DETR, CVPR 2023"),
        NetworkEntry(
            "moment-detr",
            "moment_detr:MomentDetr",
            "moment_detr:MomentDetrConfig",
            "moment_detr:MomentDetrLosses",
            "Moment-DETR, NeurIPS 2021",
        ),
        NetworkEntry("emb", "emb:Emb", "emb:EmbConfig", "emb:EmbLosses", "EMB, ECCV 2022"),
        NetworkEntry("tea", "emb:Tea", "emb:TeaConfig", "emb:EmbLosses", "TEA, 2024"),
        NetworkEntry(
            "span-map",
            "span_map:SpanMap",
            "span_map:SpanMapConfig",
            "span_map:SpanMapLosses",
            "this project, for little data",
        ),
        NetworkEntry("msat", "msat:Msat", "msat:MsatConfig", "msat:MsatLosses", "MSAT, CVPR 2021"),
        NetworkEntry(
            "zero-shot",
            "zero_shot:ZeroShotNetwork",
            "zero_shot:ZeroShotConfig",
            "zero_shot:ZeroShotLosses",
            "an image-text model's similarities, no training",
            learns=False,
        ),
    )
}


def find_network(name: str) -> NetworkEntry:
    """Return the row of a network; ValueError with the nearest name when there is none."""
    if name not in NETWORKS:
        close = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"there is no network {name!r}{hint}; expected one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def networks_that_learn() -> dict[str, NetworkEntry]:
    """Return the networks that are trained, by name."""
    return {name: entry for name, entry in NETWORKS.items() if entry.learns}


def build_network(config: NetworkConfig, sizes: Sizes) -> Network:
    """Build the network that a configuration describes."""
    return find_network(config.name).network_class()(config, sizes)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"mesm.model.networks.{module}"), name)
