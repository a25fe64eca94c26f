"""Released checkpoints of EMB: exact, with the words of their vectors found again, and refused where these differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.evaluate.trained import load_trained
from mesm.pipeline.importers.checkpoint import import_checkpoint
from mesm.tools.parity_elastic import formula_weight, golden_batch
from mesm.tools.parity_mesm import published_shapes

GOLDEN = Path(__file__).parents[2] / "model" / "networks" / "golden" / "emb.npz"
DURATION_S = 30.0


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def annotations(folder: Path, words: list[str]) -> Path:
    """Charades-STA in which word i is said so often that it comes at place i."""
    lines = [f"V 1.0 5.0##{' '.join(words[: len(words) - number])}" for number in range(len(words))]
    folder.mkdir(exist_ok=True)
    (folder / "charades_sta_train.txt").write_text("\n".join(lines[:20]))
    (folder / "charades_sta_test.txt").write_text("\n".join(lines[20:]))
    for split in ("train", "test"):
        (folder / f"Charades_v1_{split}.csv").write_text(f"id,length\nV,{DURATION_S}\n")
    return folder


def words_of(count: int) -> list[str]:
    return [f"w{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(count)]


def released(folder: Path, golden: dict[str, np.ndarray]) -> tuple[Path, Path]:
    """A checkpoint as the published training writes it, and a table of word vectors that has other words, too."""
    shapes = published_shapes(golden)
    state = {name: torch.from_numpy(formula_weight(name, shape)) for name, shape in shapes.items()}
    vectors = golden["word_vectors"]
    state["embedding_net.word_emb.pad_vec"] = torch.zeros(1, 300)
    state["embedding_net.word_emb.glove_vec"] = torch.from_numpy(vectors)
    state["position.pe"] = torch.zeros(128, 128)
    torch.save(
        {"epoch": 9, "step": 900, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}},
        folder / "model_best.pth.tar",
    )
    others = np.ones((3, 300), np.float32)
    rows = np.concatenate((np.zeros((1, 300), np.float32), others, vectors[::-1]))
    table = WordVectors(("", "never", "said", "here", *words_of(len(vectors))[::-1]), rows)
    table.save(folder / "glove.safetensors")
    return folder / "model_best.pth.tar", folder / "glove.safetensors"


def test_released_emb_answers_as_the_published_code(tmp_path: Path, golden: dict[str, np.ndarray]) -> None:
    source, table = released(tmp_path, golden)
    words = words_of(len(golden["word_vectors"]))
    place = annotations(tmp_path / "annotations", words)
    import_checkpoint(source, tmp_path / "run", annotations=place, word_vectors=table)
    trained = load_trained(tmp_path / "run", torch.device("cpu"))
    assert trained.config.name == "charades-i3d-glove-emb"
    assert trained.config.model.behaviour == "official"  # type: ignore[attr-defined]
    assert WordVectors.load(tmp_path / "run" / "glove.safetensors").words == ("", *words)
    with torch.inference_mode():
        output = trained.network(golden_batch(golden, [1]))
    expected = torch.from_numpy(golden["official/alone/1/start_logits"])
    torch.testing.assert_close(output.start_logits, expected, atol=2e-5, rtol=0)


def test_other_words_than_those_of_the_checkpoint_are_refused_by_the_first(
    tmp_path: Path, golden: dict[str, np.ndarray]
) -> None:
    source, table = released(tmp_path, golden)
    words = words_of(len(golden["word_vectors"]))
    words[4], words[5] = words[5], words[4]
    place = annotations(tmp_path / "annotations", words)
    with pytest.raises(PipelineError, match=r"first that differs is number 5, 'waf'"):
        import_checkpoint(source, tmp_path / "run", annotations=place, word_vectors=table)
    with pytest.raises(PipelineError, match=r"58 word vectors without their words; give --annotations"):
        import_checkpoint(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fewer_words_than_the_checkpoint_has_are_refused(tmp_path: Path, golden: dict[str, np.ndarray]) -> None:
    source, table = released(tmp_path, golden)
    place = annotations(tmp_path / "annotations", words_of(57))
    with pytest.raises(PipelineError, match=r"it has 58, they 57; the first that differs is number 58, none"):
        import_checkpoint(source, tmp_path / "run", annotations=place, word_vectors=table)
