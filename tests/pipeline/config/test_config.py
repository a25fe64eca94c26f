"""Configurations: every mistake is reported at once with the nearest valid name, and what is read can be written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from mesm.model.network_config import Sizes
from mesm.pipeline.config.errors import ConfigError
from mesm.pipeline.config.load import config_from_plain, load_config, shipped_configs
from mesm.pipeline.config.schema import Config, to_plain


def written(place: Path, text: str, name: str = "mine.yaml") -> Path:
    path = place / name
    path.write_text(text)
    return path


def mistakes(path: Path | str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    return [line.strip() for line in str(raised.value).splitlines()[1:]]


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configuration_round_trips_through_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config.name == name
    assert load_config(written(tmp_path, config.to_yaml())) == config
    assert config_from_plain(to_plain(config), "a checkpoint") == config


def test_every_setting_of_the_paper_is_shipped_and_described() -> None:
    shipped = shipped_configs()
    assert {
        "charades-clip-slowfast",
        "charades-vgg-glove",
        "charades-cg-clip-slowfast",
        "charades-cg-i3d-glove",
        "tacos-c3d-glove",
        "qvhighlights-clip-slowfast",
        "demo",
    } <= set(shipped)
    assert all(len(line) > 20 for line in shipped.values())


def test_settings_hold_the_published_constants() -> None:
    tacos, highlights = load_config("tacos-c3d-glove"), load_config("qvhighlights-clip-slowfast")
    assert (tacos.loss.label, tacos.loss.saliency, tacos.loss.rank_divisor, tacos.loss.triplet) == (6, 1, 1, True)
    assert (tacos.dataset.max_queries_per_group, tacos.dataset.max_rows, tacos.train.batch_groups) == (10, 600, 3)
    assert tacos.model.separate_word_feed_forward
    assert (highlights.loss.rebuild_words, highlights.loss.saliency, highlights.loss.triplet) == (0.5, 1, True)
    assert (highlights.dataset.max_rows, highlights.dataset.rows, highlights.dataset.max_words) == (75, "truncate", 32)
    assert highlights.train.seed == 2018
    charades = load_config("charades-cg-clip-slowfast")
    assert (charades.loss.label, charades.loss.saliency, charades.loss.rank_divisor) == (4, 4, 12)
    assert (charades.train.lr, charades.train.weight_decay, charades.train.clip_norm) == (2e-4, 1e-4, 0.1)


def test_all_mistakes_are_reported_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "trian: {}\n"
        "train: {learning_rat: 1, epochs: many, ema: 1.5, schedule: cosin}\n"
        "features: {video: clip}\n"
        "dataset: 3\n",
    )
    found = mistakes(path, "train.batch_groups=0", "nonsense")
    expected = (
        "override 'nonsense': expected key=value",
        "trian: unknown key (did you mean 'train'?)",
        "train.learning_rat: unknown key",
        "train.epochs: expected a whole number, found 'many'",
        "train.ema: expected at least 0 and at most 0.99999, found 1.5",
        "train.schedule: expected one of constant, linear, cosine, found 'cosin' (did you mean 'cosine'?)",
        "train.batch_groups: expected at least 1, found 0",
        "features.video: expected a list, found 'clip'",
        "dataset: expected a section with keys, found 3",
    )
    assert len(found) == len(expected)
    for text in expected:
        assert any(line.startswith(text) for line in found), text


DERIVED = [f.name for f in dataclasses.fields(Sizes)]


@pytest.mark.parametrize("key", DERIVED)
def test_sizes_that_follow_from_the_features_cannot_be_set(key: str) -> None:
    assert mistakes("demo", f"model.{key}=3")[0].startswith(f"model.{key}: unknown key")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=2.5", "train.epochs: expected a whole number, found 2.5"),
        ("train.epochs=true", "train.epochs: expected a whole number, found True"),
        ("train.compile=1", "train.compile: expected true or false, found 1"),
        ("train.lr=fast", "train.lr: expected a number, found 'fast'"),
        ("train.lr=.nan", "train.lr: expected at least 0, found nan"),
        ("train.lr=null", "train.lr: expected a number, found None"),
        ("dataset.test_splits=test", "dataset.test_splits: expected a list, found 'test'"),
        ("dataset.test_splits=[1]", "dataset.test_splits.0: expected text, found 1"),
        ("features.video.0.options=3", "features.video.0.options: expected a section, found 3"),
        ("features.video.7.weights=x", "override 'features.video.7.weights=x': the list has no entry 7"),
        ("features.video.x.weights=x", "override 'features.video.x.weights=x': the list has no entry x"),
        ("name.deeper=1", "override 'name.deeper=1': "),
        ("train.lr=[", "override 'train.lr=[': the value is not valid YAML"),
        ("=1", "override '=1': expected key=value"),
        ("model.masks=[1]", "model.masks: expected one of fixed, official, found [1]"),
        ("dataset.clip_len=0", "dataset.clip_len: "),
        ("features.video=[]", "features.video: "),
        ("model.heads=7", "model: "),
        ("model.dropout=2", "model.dropout: "),
        ("loss.temperature=0", "loss.temperature: "),
        ("model.decoder_layers=0", "model.decoder_layers: "),
        ("dataset.max_words=2", "dataset.max_words: "),
        ("train.lr=.inf", "train.lr: "),
    ],
)
def test_wrong_value_is_named(override: str, message: str) -> None:
    assert mistakes("charades-clip-slowfast", override)[0].startswith(message)


def test_overrides_reach_lists_sections_and_numbers_without_a_dot() -> None:
    config = load_config(
        "charades-clip-slowfast",
        [
            "train.lr=1e-4",
            "features.video.1.weights=untrained:0",
            "dataset.test_splits=[a, b]",
            "features.text.options={architecture: small}",
            "model.context=attention",
        ],
    )
    assert config.train.lr == 1e-4
    assert [stream.weights for stream in config.features.video] == ["default", "untrained:0"]
    assert config.dataset.test_splits == ("a", "b")
    assert config.features.text.options == {"architecture": "small"}
    assert config.model.context == "attention"


def test_a_list_of_the_base_can_be_changed_where_the_file_itself_says_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "base: charades-clip-slowfast\n")
    assert load_config(path, ["features.video.0.clip_len=2"]).features.video[0].clip_len == 2.0


def test_override_of_one_run_does_not_leak_into_the_next() -> None:
    load_config("charades-clip-slowfast", ["features.video.0.clip_len=2"])
    assert load_config("charades-clip-slowfast").features.video[0].clip_len == 1.0


def test_override_of_a_section_does_not_reach_its_alias() -> None:
    config = load_config("demo", ["features.video.0.options.architecture.embed_dim=4"])
    assert config.features.video[0].options["architecture"]["embed_dim"] == 4
    assert config.features.text.options == load_config("demo").features.text.options


def test_file_names_its_base_and_says_what_differs(tmp_path: Path) -> None:
    written(tmp_path, "base: tacos-c3d-glove\ntrain: {epochs: 7}\n", "middle.yaml")
    path = written(tmp_path, f"base: {tmp_path / 'middle.yaml'}\ntrain: {{lr: 1}}\n")
    config = load_config(path)
    assert (config.name, config.train.epochs, config.train.lr) == ("mine", 7, 1.0)
    assert config.dataset.reader == "tacos"


def test_base_is_found_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "train: {epochs: 7}\n", "base.yaml")
    path = written(tmp_path, "base: base.yaml\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_config(path).train.epochs == 7


def test_files_that_are_based_on_each_other_are_refused(tmp_path: Path) -> None:
    first = written(tmp_path, "base: second.yaml\n", "first.yaml")
    written(tmp_path, "base: first.yaml\n", "second.yaml")
    with pytest.raises(ConfigError, match="based on itself"):
        load_config(first)


def test_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"'charades-clip-slow'.*did you mean 'charades-clip-slowfast'.*tacos-c3d"):
        load_config("charades-clip-slow")


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- 1", "expected a mapping")])
def test_file_that_is_no_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, text))


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bytes\.yaml"):
        load_config(tmp_path / "bytes.yaml")


def test_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == Config(name="mine")


def test_stored_configuration_of_another_version_says_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"runs/a cannot be used.*\n.*train\.epoch: unknown key"):
        config_from_plain({"train": {"epoch": 3}}, "runs/a")


def test_written_configuration_holds_no_derived_size() -> None:
    content = yaml.safe_load(Config().to_yaml())
    assert not set(DERIVED) & set(content["model"])


def test_options_that_exclude_each_other_are_refused() -> None:
    (mistake,) = mistakes("tacos-c3d-glove", "train.group_by_length=true")
    assert "dataset.max_queries_per_group" in mistake


def test_what_ties_queries_together_is_not_compiled() -> None:
    (mistake,) = mistakes("charades-clip-slowfast", "train.compile=true", "model.segment_context=group")
    assert "model.segment_context=group" in mistake
    assert load_config("charades-clip-slowfast", ["train.compile=true"])


def test_ranking_by_frames_needs_the_frame_classifier() -> None:
    (mistake,) = mistakes("charades-mini", "evaluate.rank_by=frames")
    assert "model.encoder_loss bce" in mistake
    assert load_config("charades-mini", ["evaluate.rank_by=frames", "model.encoder_loss=bce"])


def test_ranking_by_frames_takes_one_moment_a_query() -> None:
    frames = ["evaluate.rank_by=frames"]
    with pytest.raises(ConfigError, match="several; use class"):
        load_config("qvhighlights-clip-slowfast", frames, recipe="fast")
    assert load_config("charades-mini", frames, recipe="fast").ranking == "frames"


@pytest.mark.parametrize(
    ("name", "recipe", "expected"),
    [("charades-mini", "fast", True), ("qvhighlights-clip-slowfast", "fast", False), ("charades-mini", "", False)],
)
def test_answers_are_ranked_by_frames_where_that_can_be(name: str, recipe: str, expected: bool) -> None:
    assert load_config(name, ["evaluate.rank_by=auto"], recipe).ranking == ("frames" if expected else "class")


def test_the_recipe_for_little_data_chooses_no_epoch() -> None:
    for name in ("charades-mini", "charades-mini-span-map", "own-clip-span-map"):
        train = load_config(name, recipe="small-data").train
        assert train.validate_every > train.epochs
    assert load_config("charades-mini-span-map", recipe="small-data").train.ema == 0.99
    fast, small = (load_config("charades-mini", recipe=recipe).model for recipe in ("fast", "small-data"))
    assert small == fast
