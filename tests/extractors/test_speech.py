"""The sound of films, and what a Whisper network hears in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colours import GREY, write_film
from tiny_whisper import save_whisper, write_sound

from mesm.extractors.decoding.sound import RATE, SoundReader
from mesm.extractors.errors import EncoderError, ProbeError, WeightsError
from mesm.extractors.speech import Said, Transcriber, goes_on


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sound(tmp_path_factory.mktemp("sound") / "a.mkv", (2, 440), (3, 0), (33, 880), start_s=1.5)


def loud(samples: np.ndarray) -> list[float]:
    """Root mean square of each half second."""
    halves = samples[: len(samples) // (RATE // 2) * (RATE // 2)].reshape(-1, RATE // 2)
    return [round(float(value), 1) for value in np.sqrt((halves**2).mean(1))]


def test_sound_lies_where_the_film_has_it(film: Path) -> None:
    with SoundReader(film) as sound:
        first = sound.read(0.0, 8.0)
        assert loud(first) == [0.0] * 3 + [0.4] * 4 + [0.0] * 6 + [0.4] * 3
        again = sound.read(3.0, 5.0)
        np.testing.assert_array_equal(again, first[3 * RATE :])
        assert len(sound.read(30.0, 30.0)) == round(9.5 * RATE)
        assert len(sound.read(100.0, 30.0)) == 0
        with pytest.raises(ValueError, match="forwards"):
            sound.read(0.0, 1.0)


def test_little_is_held_of_a_long_film(film: Path) -> None:
    with SoundReader(film) as sound:
        most = 0
        for second in range(39):
            assert len(sound.read(second, 2.0)) <= 2 * RATE
            most = max(most, len(sound._held))
        assert most < 4 * RATE


def test_films_without_sound_and_broken_ones(tmp_path: Path) -> None:
    silent = write_film(tmp_path / "silent.mp4", (2, GREY))
    with SoundReader(silent) as sound:
        assert sound.silent
        assert len(sound.read(0.0, 30.0)) == 0
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(ProbeError):
        SoundReader(tmp_path / "text.mp4")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n")
    with pytest.raises(ProbeError):
        SoundReader(tmp_path / "list.m3u8")


def test_a_torn_film_says_what_is_left(film: Path, tmp_path: Path) -> None:
    content = film.read_bytes()
    torn = tmp_path / "torn.mkv"
    torn.write_bytes(content[: len(content) // 2])
    with SoundReader(torn) as sound:
        assert 2 * RATE < len(sound.read(0.0, 60.0)) < 39 * RATE


def test_words_lie_inside_the_film_and_follow_one_another(whisper: Path, film: Path) -> None:
    transcriber = Transcriber.from_model(str(whisper))
    windows = list(transcriber.transcribe(film))
    said = [one for some, _ in windows for one in some]
    assert len(windows) >= 2
    assert said
    assert all(0 <= one.start_s < one.end_s <= 39.6 and one.text for one in said)
    until = [second for _, second in windows]
    assert until == sorted(set(until))
    assert until[-1] >= 39.5
    assert list(transcriber.transcribe(film, until[0])) == windows[1:]


def test_silence_is_not_heard(whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = write_sound(tmp_path / "quiet.mkv", (31, 0))
    transcriber = Transcriber.from_model(str(whisper))
    monkeypatch.setattr(transcriber, "_segments", lambda _: pytest.fail("heard silence"))
    assert [said for said, _ in transcriber.transcribe(quiet)] == [[], []]


def test_a_sentence_that_may_go_on_is_left_to_the_next_window() -> None:
    one, two, first = Said(1, 9, "a"), Said(9, 29.9, "b"), Said(0.2, 30, "c")
    assert goes_on([one, two]) == ([one], 9)
    assert goes_on([one]) == ([one], 30.0)
    assert goes_on([first]) == ([first], 30.0)
    assert goes_on([]) == ([], 30.0)


def test_other_models_and_missing_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="could not be had from the hub"):
        Transcriber.from_model("nobody/nothing", download=False)
    with pytest.raises(WeightsError, match="not a model that transformers can load"):
        Transcriber.from_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(EncoderError, match="expected a Whisper one"):
        Transcriber.from_model(str(tmp_path))
