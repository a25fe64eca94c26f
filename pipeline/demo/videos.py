"""Make the demo's corpus: real H.264 files of moving shapes, and sentences with the times that they describe.

`python -m mesm.pipeline.demo.videos FOLDER` writes

    FOLDER/videos/demo-0000.mp4 ...   drawn and encoded; a file that exists is kept
    FOLDER/annotations.jsonl          one query a line, all splits, in the `jsonl` annotation format
    FOLDER/scenes.jsonl               one video a line: its events, for looking into errors by kind of event
    FOLDER/corpus.json                what the folder was made from; a folder of another seed is refused

Everything follows from the seed. A video is written under a temporary name and renamed, so a killed run
leaves no half-written file under a final name and the next run goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import av
import numpy as np

from mesm.datasets.errors import DatasetError
from mesm.datasets.plain_text import read_json
from mesm.datasets.shards.publishing import remove_stale_temporaries, replace_file, write_errors
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.demo.scenes import SHAPES, Actor, Scene, plan_scene
from mesm.pipeline.run.text_files import publish_text

GENERATOR = 1
"""Raised whenever the same seed would give other videos."""
BLINK_PERIOD_S = 0.9
RIM = 0.14

Progress = Callable[[int, int], None]


class DemoCorpusError(PipelineError):
    """The folder holds something else than this corpus, or a process that draws it died."""


@dataclass(frozen=True)
class CorpusPaths:
    """Where the parts of a generated corpus are."""

    root: Path
    videos: Path
    """Folder of `<video_id>.mp4` files."""
    annotations: Path
    """`jsonl` annotations of all splits."""
    scenes: Path
    """One line a video: split, size, frame rate, events."""


def generate_corpus(
    out: Path, *, videos: int = 120, seed: int = 0, workers: int = 2, on_progress: Progress | None = None
) -> CorpusPaths:
    """Draw the videos that are missing in `out` and write the annotations; makes the folder.

    `on_progress(done, total)` is called once at the start and after each video. Raises DemoCorpusError when
    `out` was made from another seed or by another version of this generator, and FeatureError when the disk
    is full or the folder cannot be written.
    """
    paths = CorpusPaths(out, out / "videos", out / "annotations.jsonl", out / "scenes.jsonl")
    _claim_folder(out / "corpus.json", seed)
    with write_errors(paths.videos):
        paths.videos.mkdir(exist_ok=True)
    scenes = [plan_scene(index, seed) for index in range(videos)]
    publish_text(paths.scenes, _json_lines(_scene_record(scene) for scene in scenes))
    publish_text(paths.annotations, _json_lines(r for scene in scenes for r in annotation_records(scene)))
    remove_stale_temporaries(paths.videos)
    missing = [i for i, scene in enumerate(scenes) if not _video_path(paths.videos, scene).exists()]
    done = videos - len(missing)
    if on_progress:
        on_progress(done, videos)
    for _ in _draw_all(missing, seed, paths.videos, workers):
        done += 1
        if on_progress:
            on_progress(done, videos)
    return paths


def annotation_records(scene: Scene) -> list[dict[str, object]]:
    """Return a scene's queries as records of the `jsonl` annotation format."""
    return [
        {
            "query_id": f"{scene.video_id}-q{number}",
            "video_id": scene.video_id,
            "query": query.text,
            "moments": [[query.start_s, query.end_s]],
            "duration_s": round(scene.duration_s, 4),
            "split": scene.split,
        }
        for number, query in enumerate(scene.queries)
    ]


def draw_scene(scene: Scene) -> Iterator[np.ndarray]:
    """Yield the frames of a scene: (height, width, 3) uint8 RGB."""
    times = np.arange(scene.frame_count) / float(scene.fps)
    background = _Background(scene)
    actors = (*scene.distractors, *scene.actors)
    cast = [(actor, actor.track(times), _opacity(actor, times)) for actor in actors]
    for number, time_s in enumerate(times):
        frame = background.at(float(time_s))
        for actor, track, opacity in cast:
            if opacity[number] > 0:
                _stamp(frame, actor, track[number], float(opacity[number]))
        yield frame


def write_video(scene: Scene, path: Path) -> None:
    """Draw and encode a scene as H.264 in mp4; the file appears under its name only when it is complete."""
    write_scenes([scene], path)


def write_scenes(scenes: Sequence[Scene], path: Path, on_progress: Progress | None = None) -> None:
    """Draw and encode scenes of one size and rate one after the other as one file; see `write_video`."""
    replace_file(path, lambda temporary: _encode(scenes, temporary, on_progress or (lambda *_: None)))


def _encode(scenes: Sequence[Scene], path: Path, on_progress: Progress) -> None:
    first = scenes[0]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=first.fps)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast", "crf": "23", "g": "48"}
        for number, scene in enumerate(scenes, start=1):
            for frame in draw_scene(scene):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            on_progress(number, len(scenes))
        container.mux(stream.encode())


class _Background:
    """Two muted textures that drift and fade into each other."""

    def __init__(self, scene: Scene) -> None:
        rng = np.random.default_rng([*scene.background_seed, 1])
        self._shape = (scene.height, scene.width)
        self._textures = [_texture(rng, scene.height + 48, scene.width + 48) for _ in range(2)]
        self._periods_s = rng.uniform(14, 30, 3)
        self._phases = rng.uniform(0, 2 * np.pi, 3)

    def at(self, time_s: float) -> np.ndarray:
        """Return a new frame that may be drawn on."""
        waves = np.sin(2 * np.pi * time_s / self._periods_s + self._phases)
        y, x = (24 + 23 * waves[:2]).astype(int)
        weight = np.uint16(128 + 100 * waves[2])
        height, width = self._shape
        one, other = (texture[y : y + height, x : x + width] for texture in self._textures)
        mixed: np.ndarray = one * weight + other * (np.uint16(256) - weight)
        return (mixed >> 8).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Plane waves, blocks and grain between two muted colours: (height, width, 3) uint16, below 256."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    field = np.zeros((height, width), np.float32)
    for _ in range(4):
        direction, wavelength = rng.uniform(0, np.pi), rng.uniform(18, 90)
        field += np.sin((x * np.cos(direction) + y * np.sin(direction)) * (2 * np.pi / wavelength))
    blocks = rng.normal(0, 1, (height // 16 + 1, width // 16 + 1)).astype(np.float32)
    field += blocks.repeat(16, 0).repeat(16, 1)[:height, :width] * 0.6
    field += rng.normal(0, 0.25, field.shape).astype(np.float32)
    mix = (0.5 + 0.5 * np.tanh(field / 2))[..., None]
    grey = rng.uniform(60, 150, (2, 1))
    dark, light = grey + rng.uniform(-22, 22, (2, 3))
    return np.clip(dark + (light - dark) * mix, 0, 255).astype(np.uint16)


def _opacity(actor: Actor, times: np.ndarray) -> np.ndarray:
    """How visible an actor is in each frame: 0 outside its window, faint in the last third of a blink."""
    start_s, end_s = actor.window
    opacity = ((times >= start_s) & (times < end_s)).astype(np.float32)
    for phase in actor.phases:
        if phase.kind == "blink":
            inside = (times >= phase.start_s) & (times < phase.end_s)
            off = ((times - phase.start_s) % BLINK_PERIOD_S) > BLINK_PERIOD_S * 0.66
            opacity[inside & off] = 0.4
    return opacity


def _stamp(frame: np.ndarray, actor: Actor, state: np.ndarray, opacity: float) -> None:
    """Blend an actor into the frame, touching only the rectangle that it covers."""
    height, width = frame.shape[:2]
    radius = float(state[2]) * min(height, width)
    x = width / 2 + float(state[0]) * min(height, width)
    y = height / 2 + float(state[1]) * min(height, width)
    reach = int(radius) + 2
    left, right = max(0, int(x) - reach), min(width, int(x) + reach + 1)
    top, bottom = max(0, int(y) - reach), min(height, int(y) + reach + 1)
    if left >= right or top >= bottom:
        return
    u = ((np.arange(left, right, dtype=np.float32) - x) / radius)[None, :]
    v = ((np.arange(top, bottom, dtype=np.float32) - y) / radius)[:, None]
    cosine, sine = np.float32(np.cos(state[3])), np.float32(np.sin(state[3]))
    outside = _OUTLINES[actor.shape](u * cosine + v * sine, v * cosine - u * sine)
    cover = np.clip(0.5 - outside * radius, 0, 1)[..., None] * opacity
    shade = np.where(outside > -RIM, np.float32(0.6), np.float32(1))[..., None]
    patch = frame[top:bottom, left:right]
    patch[:] = patch + cover * (shade * np.asarray(actor.rgb, np.float32) - patch)


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance to the outline in units of the radius, negative inside; so are the other outlines."""
    return np.hypot(u, v) - 0.95


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.8


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(v, np.abs(u) * 0.866 - v * 0.5) - 0.5


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(a, b) - 0.32, np.maximum(a, b) - 0.92)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points: fold the angle onto half a point, then the distance to the line from tip to notch."""
    half = np.float32(np.pi / 5)
    angle = np.abs((np.arctan2(u, -v) + half) % (2 * half) - half)
    distance = np.hypot(u, v)
    notch_x, notch_y = 0.48 * np.cos(half), 0.48 * np.sin(half)
    length = np.hypot(1 - notch_x, notch_y)
    return ((distance * np.cos(angle) - 1) * notch_y + distance * np.sin(angle) * (1 - notch_x)) / length


_OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
}
assert set(_OUTLINES) == set(SHAPES)


def _draw_all(indices: Sequence[int], seed: int, folder: Path, workers: int) -> Iterator[int]:
    """Draw the given videos in `workers` processes and yield each index when its file is in place."""
    if workers <= 1 or len(indices) <= 1:
        for index in indices:
            scene = plan_scene(index, seed)
            write_video(scene, _video_path(folder, scene))
            yield index
        return
    context = multiprocessing.get_context("spawn")
    processes, ends = [], []
    for share in range(min(workers, len(indices))):
        end, far_end = context.Pipe(duplex=False)
        arguments = (list(indices[share::workers]), seed, folder, far_end, os.getpid())
        processes.append(context.Process(target=_draw_share, args=arguments, daemon=True))
        processes[-1].start()
        far_end.close()
        ends.append(end)
    try:
        yield from _collect(ends, len(indices))
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _collect(ends: list[Connection], expected: int) -> Iterator[int]:
    """Yield what the drawing processes report; raise when they are gone before everything is drawn."""
    open_ends: list[Connection] = list(ends)
    drawn = 0
    while open_ends:
        for end in wait(open_ends):
            assert isinstance(end, Connection)
            try:
                answer = end.recv()
            except EOFError:
                open_ends.remove(end)
                continue
            if isinstance(answer, str):
                raise DemoCorpusError(f"drawing a demo video failed: {answer}")
            drawn += 1
            yield answer
    if drawn < expected:
        raise DemoCorpusError(
            f"a process that draws demo videos ended early: {drawn} of {expected} were drawn; "
            "start the same command again to go on (was the memory full?)"
        )


def _draw_share(indices: Sequence[int], seed: int, folder: Path, report: Connection, parent: int) -> None:
    """Body of a drawing process; it stops by itself when its parent was killed."""
    try:
        for index in indices:
            if os.getppid() != parent:
                return
            scene = plan_scene(index, seed)
            write_video(scene, _video_path(folder, scene))
            report.send(index)
    except (OSError, DatasetError, av.FFmpegError) as error:
        report.send(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        return


def _video_path(folder: Path, scene: Scene) -> Path:
    return folder / f"{scene.video_id}.mp4"


def _scene_record(scene: Scene) -> dict[str, object]:
    """What happens in a video, as plain values."""
    return {
        "video_id": scene.video_id,
        "split": scene.split,
        "size": [scene.width, scene.height],
        "fps": str(scene.fps),
        "duration_s": round(scene.duration_s, 4),
        "events": [
            {"colour": actor.colour, "shape": actor.shape, "phases": [asdict(p) for p in actor.phases]}
            for actor in scene.actors
        ],
        "distractors": [{"colour": actor.colour, "shape": actor.shape} for actor in scene.distractors],
        "query_kinds": [query.kind for query in scene.queries],
    }


def _json_lines(records: Iterable[dict[str, object]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _claim_folder(marker: Path, seed: int) -> None:
    """Note what this folder is made from, or check that it was made from the same."""
    wanted = {"generator": GENERATOR, "seed": seed}
    if not marker.exists():
        publish_text(marker, json.dumps(wanted) + "\n")
        return
    try:
        found = read_json(marker)
    except ValueError:
        found = "something that is not JSON"
    if found != wanted:
        raise DemoCorpusError(
            f"{marker.parent} holds a demo corpus of {found}, asked for was {wanted}; "
            "choose another folder or delete that one"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the generator."""
    parser = argparse.ArgumentParser("mesm.pipeline.demo.videos", description="Make the demo's corpus.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--videos", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)

    def show(done: int, total: int) -> None:
        print(f"{done} of {total} videos", file=sys.stderr)

    try:
        paths = generate_corpus(
            options.out, videos=options.videos, seed=options.seed, workers=options.workers, on_progress=show
        )
    except (PipelineError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(paths.annotations)
    return 0


if __name__ == "__main__":
    sys.exit(main())
