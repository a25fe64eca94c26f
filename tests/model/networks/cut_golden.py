"""Cut small golden files, which a clone can hold, out of complete ones with numbers of the published codes.

`python tests/model/networks/cut_golden.py OUT FILE.npz...`: of each file two queries, each alone, with all that
`mesm.tools.parity` needs to compare their answers. The files that are cut are not part of the project.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mesm.tools.parity_mesm import golden_batch, published_shapes, recognise

KEPT = ("network", "setting", "source", "torch", "weight_factors", "parameter_names")
OUTPUTS = ("pred_logits", "pred_spans", "saliency_scores", "aux_outputs/0/pred_logits", "aux_outputs/0/pred_spans")
MOST_FRAMES = 60


def cut_baseline(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep the two queries with the shortest videos."""
    lengths = golden["batch/video_mask"].sum(1)
    chosen = np.argsort(lengths, kind="stable")[:2]
    width = int(lengths[chosen].max())
    arrays = {name: golden[name] for name in KEPT if name in golden}
    for name in ("video_feat", "video_mask"):
        arrays[f"batch/{name}"] = golden[f"batch/{name}"][chosen][:, :width]
    for name in ("text_feat", "text_mask"):
        arrays[f"batch/{name}"] = golden[f"batch/{name}"][chosen]
    for place, number in enumerate(chosen):
        for name in OUTPUTS:
            if f"alone/{number}/eval/outputs/{name}" in golden:
                arrays[f"alone/{place}/eval/outputs/{name}"] = golden[f"alone/{number}/eval/outputs/{name}"]
    return arrays


def cut_mesm(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep two queries about short videos; without the mask defects they are answered in a batch as alone."""
    shapes = published_shapes(golden)
    setting = recognise(shapes, "batch/saliency_label" in golden)
    batch = golden_batch(golden, setting, training=False)
    lengths = golden["batch/video_mask"].astype(bool).sum(1)
    chosen = np.argsort(lengths, kind="stable")[[0, -1 if lengths.max() <= MOST_FRAMES else 1]]
    width = int(lengths[chosen].max())
    arrays = {
        "network": np.array("mesm"),
        "setting": np.array(setting.name),
        "parameter_names": golden["parameter_names"],
        "batch/video_feat": golden["batch/video_feat"][chosen][:, :width],
        "batch/video_mask": golden["batch/video_mask"][chosen][:, :width].astype(bool),
        "batch/text_feat": batch.words.vectors.numpy()[chosen],
        "batch/text_mask": batch.words.mask.numpy()[chosen],
    }
    for place, number in enumerate(chosen):
        for name in OUTPUTS:
            found = golden[f"fixed_masks/eval/outputs/{name}"][number : number + 1]
            arrays[f"alone/{place}/eval/outputs/{name}"] = found[:, : lengths[number]] if "saliency" in name else found
    return arrays


def cut_grid(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep inputs, answers and losses of a file of MSAT or of asymmetric co-attention with the contrast."""
    kept = (*KEPT, "options", "buffer_names", "features/", "batch/", "buffers/", "state/before/")
    of_mode = ("total", "losses/", "outputs/logits_visual")
    arrays = {name: value for name, value in golden.items() if name.startswith(kept)}
    for mode in ("eval", "train"):
        names = tuple(f"{mode}/{name}" for name in of_mode)
        arrays |= {name: value for name, value in golden.items() if name.startswith(names)}
    arrays["eval/outputs/logits_iou_every"] = golden["eval/outputs/logits_iou"][:, :, ::8, ::8]
    return arrays


def cut_elastic(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep the two queries with the shortest videos, each alone, in both behaviours."""
    lengths = golden["batch/video_length"]
    chosen = np.argsort(lengths, kind="stable")[:2]
    arrays = {name: golden[name] for name in ("network", "parameter_names", "word_vectors")}
    arrays["setting"] = np.array(f"{golden['setting']}-i3d-glove")
    arrays |= {name: golden[name][chosen] for name in golden if name.startswith("batch/") and "char" not in name}
    arrays["batch/video_feat"] = arrays["batch/video_feat"][:, : lengths[chosen].max()]
    for behaviour in ("official", "fixed"):
        for place, number in enumerate(chosen):
            prefix = f"{behaviour}/alone/{number}/"
            found = {name.removeprefix(prefix): golden[name] for name in golden if name.startswith(prefix)}
            arrays |= {f"{behaviour}/alone/{place}/{name}": value for name, value in found.items()}
    return arrays


def cut(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cut a file by its layout."""
    if "batch/video_length" in golden:
        return cut_elastic(golden)
    if "batch/map_gt" in golden:
        return cut_grid(golden)
    return cut_baseline(golden) if "network" in golden else cut_mesm(golden)


if __name__ == "__main__":
    out, *files = map(Path, sys.argv[1:])
    for file in files:
        with np.load(file, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
        kept = cut(content)
        target = out / f"{kept['network']}.npz"
        np.savez_compressed(target, **kept)
        print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
