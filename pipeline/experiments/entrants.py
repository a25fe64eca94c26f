"""The networks of a comparison: one configuration with each of them in it, alike in all that must be equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesm.model.registry import find_network, networks_that_learn
from mesm.pipeline.config.errors import ConfigError, PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import Config, to_plain
from mesm.pipeline.train.state import differences

EQUAL_IN_TRAINING = ("epochs", "select_by", "validate_every")
"""Settings of `train` that every network has in common; a recipe may give each its own of the others."""
OWN_OPTIONS = {"model.network": "--networks", "train.seed": "--seeds"}
"""Settings that a comparison has options of its own for."""


def parse_networks(text: str) -> list[str]:
    """Read `a,b`, by default all that learn; PipelineError for a name that is not there, or stands there twice."""
    names = [name.strip() for name in text.split(",")] if text else list(networks_that_learn())
    for name in names:
        try:
            find_network(name)
        except ValueError as error:
            raise PipelineError(f"--networks {text!r}: {error}") from error
    if len(set(names)) < len(names):
        raise PipelineError(f"--networks {text!r}: a network stands there twice")
    return names


def configurations(
    name: str, networks: Sequence[str], recipe: str = "", overrides: Sequence[str] = (), epochs: int | None = None
) -> dict[str, Config]:
    """Read the same configuration with each network in it.

    Raises ConfigError with the mistakes of every network, such as an override that one of them has no option for, and
    PipelineError when they would not be treated alike.
    """
    own = OWN_OPTIONS if epochs is None else {**OWN_OPTIONS, "train.epochs": "--epochs"}
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in own:
            raise PipelineError(f"--set {override}: a comparison takes {key} from {own[key]}")
    settings = [*overrides, *([] if epochs is None else [f"train.epochs={epochs}"])]
    configs: dict[str, Config] = {}
    mistakes: dict[str, list[str]] = {}
    for network in networks:
        try:
            configs[network] = load_config(name, settings, recipe, network)
        except ConfigError as error:
            mistakes.setdefault(str(error), []).append(network)
    if mistakes:
        texts = [f"{', '.join(found)}: {text}" for text, found in mistakes.items()]
        raise ConfigError(
            "\n".join(texts) + "\nwhat --config, --recipe and --set say holds for every network of a comparison; "
            "a recipe may say below networks.NAME what holds for one"
        )
    _refuse_unequal(configs)
    return configs


def common_settings(config: Config) -> dict[str, Any]:
    """Return what must be equal for all networks."""
    plain = to_plain(config)
    # How a network orders its answers is its own affair, and where the annotations lie changes nothing.
    del plain["evaluate"]["rank_by"], plain["dataset"]["annotations"]
    train = {key: plain["train"][key] for key in EQUAL_IN_TRAINING}
    return {key: plain[key] for key in ("dataset", "features", "evaluate")} | {"train": train}


def own_settings(config: Config) -> dict[str, Any]:
    """Return what one network may have of its own, but for the seed."""
    plain = to_plain(config)
    own = {key: value for key, value in plain["train"].items() if key not in (*EQUAL_IN_TRAINING, "seed", "log")}
    return {"model": plain["model"], "loss": plain["loss"], "train": own, "rank_by": config.ranking}


def _refuse_unequal(configs: Mapping[str, Config]) -> None:
    (first, config), *others = configs.items()
    for network, other in others:
        found = list(differences(common_settings(config), common_settings(other)))
        if found:
            raise PipelineError(
                f"the networks would not be treated alike ({first} there, {network} here):\n  "
                + "\n  ".join(found)
                + "\ntake it out of the recipe's section of one network"
            )
