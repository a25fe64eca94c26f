"""A released checkpoint becomes a run directory, every tensor accounted for and nothing inside it executed."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared import shared_path

from mesm.datasets.text.vocabulary import Vocabulary
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.evaluate.trained import load_trained
from mesm.pipeline.importers.checkpoint import import_checkpoint
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.directory import RunDirectory
from mesm.tools.parity_mesm import formula_weight, golden_batch, golden_network, published_shapes, recognise

DIM, FEED_FORWARD, VIDEO_DIM = 16, 24, 10
CPU = torch.device("cpu")
VGG, TACOS, CSF, QVH = ("charades-vgg-glove", "tacos-c3d-glove", "charades-clip-slowfast", "qvhighlights-clip-slowfast")
TEXT_DIMS = {VGG: 300, TACOS: 300, CSF: 512, QVH: 512}
WORD_CLASSES = {VGG: 1112, TACOS: 1112, CSF: 1114, QVH: 5003}

Shapes = dict[str, tuple[int, ...]]


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, size: int = DIM) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _feed_forward(layer: str, suffix: str = "") -> Shapes:
    return {
        **_linear(f"{layer}.linear1{suffix}", FEED_FORWARD, DIM),
        **_linear(f"{layer}.linear2{suffix}", DIM, FEED_FORWARD),
        **_norm(f"{layer}.norm1{suffix}"),
        **_norm(f"{layer}.norm2{suffix}"),
    }


def _attention_layer(layer: str, separate: bool = False) -> Shapes:
    return {
        f"{layer}.self_attn.in_proj_weight": (3 * DIM, DIM),
        f"{layer}.self_attn.in_proj_bias": (3 * DIM,),
        **_linear(f"{layer}.self_attn.out_proj", DIM, DIM),
        f"{layer}.activation.weight": (1,),
        **_feed_forward(layer),
        **(_feed_forward(layer, "_1") if separate else {}),
    }


def _decoder_layer(layer: str, first: bool) -> Shapes:
    projections = [
        "sa_qcontent",
        "sa_qpos",
        "sa_kcontent",
        "sa_kpos",
        "sa_v",
        "ca_qcontent",
        "ca_kcontent",
        "ca_kpos",
        "ca_v",
        "ca_qpos_sine",
        *(["ca_qpos"] if first else []),
    ]
    shapes: Shapes = {f"{layer}.activation.weight": (1,), **_feed_forward(layer), **_norm(f"{layer}.norm3")}
    for name in [*(f"{p}_proj" for p in projections), "self_attn.out_proj", "cross_attn.out_proj"]:
        shapes |= _linear(f"{layer}.{name}", DIM, DIM)
    return shapes


def _mlp(name: str, *sizes: int) -> Shapes:
    shapes: Shapes = {}
    for i, (columns, rows) in enumerate(itertools.pairwise(sizes)):
        shapes |= _linear(f"{name}.layers.{i}", rows, columns)
    return shapes


def _projection(name: str, size: int) -> Shapes:
    shapes: Shapes = {}
    for i, columns in enumerate((size, DIM)):
        shapes |= {**_norm(f"{name}.{i}.LayerNorm", columns), **_linear(f"{name}.{i}.net.1", DIM, columns)}
    return shapes


def released_shapes(setting: str) -> Shapes:
    """Names and shapes of a released checkpoint of a setting, with a narrower network."""
    text_dim, classes = TEXT_DIMS[setting], WORD_CLASSES[setting]
    shapes: Shapes = {
        "global_rep_token": (DIM,),
        "global_rep_pos": (DIM,),
        "masked_token": (text_dim,),
        "unknown_token": (text_dim,),
        "ss_reconstructor.masked_sent_token": (DIM,),
        "query_embed.weight": (10, 2),
        "txt_position_embed.position_embeddings.weight": (17, DIM),
        **_norm("txt_position_embed.LayerNorm"),
        **_norm("transformer.decoder.norm"),
    }
    for i in range(2):
        shapes |= _attention_layer(f"enhance_encoder.t2v_encoder.layers.{i}", separate=setting == TACOS)
        shapes |= _attention_layer(f"t2v_encoder.t2v_encoder.layers.{i}")
        shapes |= _attention_layer(f"transformer.encoder.layers.{i}")
        shapes |= _decoder_layer(f"transformer.decoder.layers.{i}", first=i == 0)
    for i in range(4):
        shapes |= _attention_layer(f"ss_reconstructor.recon_trans.layers.{i}")
    shapes |= _mlp("transformer.decoder.query_scale", DIM, DIM, DIM)
    shapes |= _mlp("transformer.decoder.ref_point_head", DIM, DIM, DIM)
    shapes |= _mlp("transformer.decoder.bbox_embed", DIM, DIM, DIM, 2)
    shapes |= _mlp("transformer.decoder.ref_anchor_head", DIM, DIM, 1)
    shapes |= _mlp("span_embed", DIM, DIM, DIM, 2)
    shapes |= {**_linear("class_embed", 2, DIM), **_linear("saliency_proj1", DIM, DIM)}
    shapes |= {**_linear("saliency_proj2", DIM, DIM), **_projection("input_txt_proj", text_dim)}
    shapes |= {**_projection("input_vid_proj", VIDEO_DIM), **_projection("ss_reconstructor.output_sent_proj", DIM)}
    shapes |= _norm("output_txt_proj.0.LayerNorm") | _linear("output_txt_proj.0.net.1", DIM, DIM)
    return shapes | _linear("output_txt_proj.1", classes, DIM)


def released(setting: str = CSF, **changes: Any) -> dict[str, Any]:
    """A checkpoint in the released layout, its weights by the golden files' formula."""
    model = {name: torch.from_numpy(formula_weight(name, s)) for name, s in released_shapes(setting).items()}
    opt = argparse.Namespace(v_feat_dim=VIDEO_DIM, device=torch.device("cpu"), dset_name="x", lr=2e-4)
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    content = {"model": model, "optimizer": optimizer, "lr_scheduler": {"step_size": 400}, "epoch": 57, "opt": opt}
    return content | changes


def write(place: Path, content: Mapping[str, Any] | object) -> Path:
    path = place / "model_test_best.ckpt"
    torch.save(content, path)
    return path


def test_fabricated_names_are_those_of_the_published_network() -> None:
    for name, setting in (("golden_charades_csf.npz", CSF), ("golden_tacos_c3d.npz", TACOS)):
        published = published_shapes(np.load(shared_path(f"golden/{name}")))
        ours = released_shapes(setting)
        assert set(ours) == set(published)
        assert {n: len(s) for n, s in ours.items()} == {n: len(s) for n, s in published.items()}


@pytest.mark.parametrize("setting", [CSF, VGG, TACOS, QVH])
def test_imported_network_is_the_golden_network_of_the_same_weights(tmp_path: Path, setting: str) -> None:
    source = write(tmp_path, released(setting))
    import_checkpoint(source, tmp_path / "run", trust_pickle=True)
    trained = load_trained(tmp_path / "run", CPU)
    shapes = released_shapes(setting)
    expected = golden_network(shapes, "official", recognise(shapes)).eval()
    assert trained.config.name == setting
    assert trained.network.config.masks == "official"
    assert trained.network.config.segment_context == ("group" if setting == QVH else "clip")
    ours = trained.network.state_dict()
    assert set(ours) == set(expected.state_dict())
    for name, value in expected.state_dict().items():
        assert torch.equal(ours[name], value), name


def test_full_size_checkpoint_answers_as_the_published_network(tmp_path: Path) -> None:
    golden = dict(np.load(shared_path("golden/golden_charades_csf.npz")))
    shapes = published_shapes(golden)
    model = {name: torch.from_numpy(formula_weight(name, shape)) for name, shape in shapes.items()}
    source = write(tmp_path, released() | {"model": model, "opt": argparse.Namespace(v_feat_dim=2816)})
    import_checkpoint(source, tmp_path / "run", trust_pickle=True)
    trained = load_trained(tmp_path / "run", CPU)
    with torch.no_grad():
        output = trained.network(golden_batch(golden, recognise(shapes), training=False))
    prefix = "official_masks/eval/outputs"
    np.testing.assert_allclose(output.spans[0], golden[f"{prefix}/pred_spans"], atol=2e-5)
    np.testing.assert_allclose(output.logits[0], golden[f"{prefix}/pred_logits"], atol=2e-5)


def test_options_object_is_refused_without_trust_and_the_message_says_how(tmp_path: Path) -> None:
    source = write(tmp_path, released())
    with pytest.raises(PipelineError, match=r"argparse\.Namespace.*--trust-pickle"):
        import_checkpoint(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_file_without_objects_needs_no_trust(tmp_path: Path) -> None:
    content = released()
    del content["opt"]
    run = import_checkpoint(write(tmp_path, content), tmp_path / "run")
    assert run.checkpoint_path(BEST).exists()


class _Attack:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("trust", [False, True])
def test_other_objects_are_never_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: bool) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (released(epoch=_Attack()), released(opt=argparse.Namespace(lr=_Attack()))):
        with pytest.raises(PipelineError, match=r"mkdir|Namespace"):
            import_checkpoint(write(tmp_path, content), tmp_path / "run", trust_pickle=trust)
    assert not (tmp_path / "attacked").exists()


def test_trust_ends_with_the_import(tmp_path: Path) -> None:
    source = write(tmp_path, released())
    import_checkpoint(source, tmp_path / "run", trust_pickle=True)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("content", [b"", b"no torch file", b"PK\x03\x04 broken"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=r"x\.ckpt"):
        import_checkpoint(path, tmp_path / "run", trust_pickle=True)
    with pytest.raises(PipelineError, match="cannot be read: No such file"):
        import_checkpoint(tmp_path / "absent.ckpt", tmp_path / "run")


@pytest.mark.parametrize("content", [[1], {"weights": 1}, {"model": {}}, {"model": {"a": 1}}])
def test_other_layouts_are_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(PipelineError, match="model"):
        import_checkpoint(write(tmp_path, content), tmp_path / "run", trust_pickle=True)


def test_every_tensor_is_accounted_for_and_all_problems_listed(tmp_path: Path) -> None:
    content = released()
    model = content["model"]
    for name in [name for name in model if name.startswith("transformer.decoder.layers.1.")]:
        del model[name]
    model["span_embed.layers.9.weight"] = torch.zeros(2)
    model["surprise.weight"] = torch.zeros(2)
    model["class_embed.weight"] = torch.zeros(3, DIM)
    with pytest.raises(PipelineError) as raised:
        import_checkpoint(write(tmp_path, content), tmp_path / "run", trust_pickle=True)
    text = str(raised.value)
    assert "missing" in text
    assert "decoder.layers.1." in text
    assert "surprise.weight" in text
    assert "span_embed.layers.9.weight" in text
    assert f"class_embed.weight [3, {DIM}], expected [2, {DIM}]" in text


def test_text_encoder_and_unused_tensors_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = released()
    content["model"]["text_encoder.ln_final.weight"] = torch.zeros(2)
    import_checkpoint(write(tmp_path, content), tmp_path / "run", trust_pickle=True)
    said = capsys.readouterr().err
    assert "1 tensors of the frozen text encoder" in said
    assert "11 tensors that the published network holds but answers without" in said


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    content = released()
    content["model"]["class_embed.bias"][0] = float("nan")
    with pytest.raises(PipelineError, match=r"not finite in class_embed\.bias"):
        import_checkpoint(write(tmp_path, content), tmp_path / "run", trust_pickle=True)


def test_opt_file_counts_the_frames_without_temporal_columns(tmp_path: Path) -> None:
    source, opt = write(tmp_path, released()), tmp_path / "opt.json"
    opt.write_text(json.dumps({"v_feat_dim": VIDEO_DIM - 2}))
    import_checkpoint(source, tmp_path / "run", opt=opt, trust_pickle=True)
    opt.write_text(json.dumps({"v_feat_dim": VIDEO_DIM}))
    with pytest.raises(PipelineError, match=r"says v_feat_dim 10; give the opt\.json"):
        import_checkpoint(source, tmp_path / "run", opt=opt, trust_pickle=True)
    for text in ("{", "[]", "{}"):
        opt.write_text(text)
        with pytest.raises(PipelineError, match=r"opt\.json"):
            import_checkpoint(source, tmp_path / "run", opt=opt, trust_pickle=True)


def test_own_options_that_contradict_the_weights_are_refused(tmp_path: Path) -> None:
    content = released(opt=argparse.Namespace(v_feat_dim=4096))
    with pytest.raises(PipelineError, match="v_feat_dim 4096"):
        import_checkpoint(write(tmp_path, content), tmp_path / "run", trust_pickle=True)


def test_setting_can_be_named_and_must_fit(tmp_path: Path) -> None:
    source = write(tmp_path, released())
    import_checkpoint(source, tmp_path / "run", trust_pickle=True, setting="charades-cg-clip-slowfast")
    assert load_trained(tmp_path / "run", CPU).config.dataset.reader == "charades-cg"
    with pytest.raises(PipelineError, match=r"not trained in the setting tacos-c3d-glove.*--setting"):
        import_checkpoint(source, tmp_path / "other", trust_pickle=True, setting=TACOS)


def test_meta_says_where_the_weights_came_from(tmp_path: Path) -> None:
    run = import_checkpoint(write(tmp_path, released()), tmp_path / "run", trust_pickle=True)
    checkpoint = run.load(BEST)
    assert checkpoint is not None
    imported = checkpoint.meta["imported"]
    assert (imported["source"], imported["epoch"], len(imported["sha256"])) == ("model_test_best.ckpt", 57, 64)
    assert checkpoint.meta["fingerprints"] == {}
    assert (run.path / "config.yaml").exists()


def test_unknown_word_vector_of_tacos_is_the_first_draw_after_the_published_seed(tmp_path: Path) -> None:
    run = import_checkpoint(write(tmp_path, released(TACOS)), tmp_path / "run", trust_pickle=True)
    checkpoint = run.load(BEST)
    assert checkpoint is not None
    with torch.random.fork_rng():
        torch.manual_seed(2019)
        expected = torch.randn(300)
    assert torch.equal(torch.tensor(checkpoint.meta["text"]["unknown_vector"]), expected)


def test_published_vocabulary_is_read_from_the_annotations(tmp_path: Path) -> None:
    folder = shared_path("annotations/TACoS/annotations")
    source = write(tmp_path, released(TACOS))
    run = import_checkpoint(source, tmp_path / "run", trust_pickle=True, annotations=folder)
    checkpoint = run.load(BEST)
    assert checkpoint is not None
    vocabulary = Vocabulary.from_json(checkpoint.meta["vocabulary"])
    assert vocabulary.classes == 1112
    first = (folder / "GloVe_tokenized_count.txt").read_text().split()[0]
    assert vocabulary.label(first) == 0


def test_annotations_without_counts_are_refused_and_none_leave_words_unknown(tmp_path: Path) -> None:
    source = write(tmp_path, released())
    with pytest.raises(PipelineError, match=r"no CLIP_tokenized_count\.txt"):
        import_checkpoint(source, tmp_path / "run", trust_pickle=True, annotations=tmp_path)
    import_checkpoint(source, tmp_path / "run", trust_pickle=True)
    vocabulary = load_trained(tmp_path / "run", CPU).vocabulary
    assert (vocabulary.tokens, vocabulary.classes) == ((), 1114)


def test_import_twice_is_the_same_and_another_run_is_not_overwritten(tmp_path: Path) -> None:
    source = write(tmp_path, released())
    run = import_checkpoint(source, tmp_path / "run", trust_pickle=True)
    before = run.checkpoint_path(BEST).read_bytes()
    import_checkpoint(source, tmp_path / "run", trust_pickle=True)
    assert run.checkpoint_path(BEST).read_bytes() == before
    other = write(tmp_path, released(epoch=58))
    with pytest.raises(PipelineError, match="another checkpoint; choose another --out"):
        import_checkpoint(other, tmp_path / "run", trust_pickle=True)
    RunDirectory(tmp_path / "trained").create()
    RunDirectory(tmp_path / "trained").set_metrics([{"epoch": 0}])
    with pytest.raises(PipelineError, match="training run; choose another --out"):
        import_checkpoint(source, tmp_path / "trained", trust_pickle=True)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>Sign in to continue</html>", "it begins like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (b"", "it is empty"),
        (b"\x80\x02}q\x00.", "is not a checkpoint that torch can read"),
    ],
)
def test_what_was_saved_in_the_place_of_a_checkpoint_is_named(
    tmp_path: Path, content: bytes, words: str, trust: bool
) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=words) as caught:
        import_checkpoint(path, tmp_path / "run", trust_pickle=trust)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_archives_and_tensors_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(40 * 1024**2))
    with pytest.raises(PipelineError, match="unpack to 41,943,040"):
        import_checkpoint(path, tmp_path / "run")
    with pytest.raises(PipelineError, match="announce 4,398,046,511,104 bytes"):
        import_checkpoint(write(tmp_path, {"model": {"a": torch.ones(1).expand(2**40)}}), tmp_path / "run")


def test_numbers_that_are_none_once_they_are_narrowed_are_refused(tmp_path: Path) -> None:
    content = released()
    name = next(iter(content["model"]))
    content["model"][name] = torch.full_like(content["model"][name], 1e300, dtype=torch.float64)
    with pytest.raises(PipelineError, match=f"not finite in {name}"):
        import_checkpoint(write(tmp_path, content), tmp_path / "run", trust_pickle=True)
