"""GloVe or other word vectors from a text file: one vector a word, through torchtext.

Source: Pennington et al. 2014; file `glove.6B.300d.txt`, or any file with a word and its numbers a line (a
first line of counts, as word2vec writes it, is allowed). Text is lower-cased and cut into words; token id 0
is padding, 1 an unknown word, n + 2 the n-th word of the file. Words without a vector:

* `shared` (TACoS in MESM's published code): all get one vector, drawn as `torch.manual_seed(2019);
torch.randn(dim)`.
* `drop` (Charades in that code): they are left out.

The file's numbers are parsed once and kept in the cache folder, named by the file's sha256.
"""

from __future__ import annotations

import codecs
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.extractors.contracts import TextFeatures
from mesm.extractors.encoders.network_encoder import check_options
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.sources import Untrained, WeightsFile, WeightsRequest, cache_folder

NAME = "glove"
DEFAULT_WEIGHTS = "glove-6b-300d"

PADDING_ID, UNKNOWN_ID, FIRST_WORD_ID = 0, 1, 2

UNKNOWN_SEED = 2019
"""The seed of MESM's published training script, whose first draw is the unknown word's vector."""

_OPTIONS = ("unknown", "split", "rule")
_WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")


class GloveEncoder:
    """Sentences to one vector a word."""

    name = NAME

    def __init__(
        self,
        ids: Mapping[str, int],
        vectors: np.ndarray,
        *,
        unknown: str,
        split: Callable[[str], Sequence[str]],
        spec: Mapping[str, Any],
    ) -> None:
        self.ids = ids
        self.vectors = vectors
        """(words + 2, dim) float32: padding, the unknown word, then the file's words."""
        self.unknown = unknown
        self.split = split
        self.dim = vectors.shape[1]
        self.spec = {"encoder": NAME, "dim": self.dim, "unknown": unknown, **spec}

    def encode(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Look the words of each sentence up; `pooled` is None, and a sentence may have no words left."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> TextFeatures:
        ids = [self.ids.get(word, UNKNOWN_ID) for word in self.split(text)]
        if self.unknown == "drop":
            ids = [word_id for word_id in ids if word_id != UNKNOWN_ID]
        token_ids = np.array(ids, dtype=np.int64)
        return TextFeatures(self.vectors[token_ids], token_ids, None)


def plain_words(text: str) -> list[str]:
    """Cut a lower-cased text into words and punctuation marks; apostrophes and hyphens stay inside words."""
    return _WORD.findall(text.lower())


def build_encoder(request: WeightsRequest, device: torch.device, options: Mapping[str, Any]) -> GloveEncoder:
    """Build the encoder; a table look-up, it does not use the device.

    Options: `unknown` (`shared` or `drop`); `split`, a function from a text to its words, with its name as
    `rule` for the spec (default: `plain_words`).
    """
    check_options(NAME, options, _OPTIONS)
    unknown = options.get("unknown", "shared")
    if unknown not in ("shared", "drop"):
        raise EncoderError(f"option unknown of glove is {unknown!r}; expected shared or drop")
    if ("split" in options) != ("rule" in options):
        raise EncoderError("encoder glove takes the options split and rule together: a function and its name")
    weights = request.resolve(DEFAULT_WEIGHTS)
    if isinstance(weights, Untrained):
        raise WeightsError("encoder glove has no untrained weights: give a text file of word vectors")
    words, vectors = load_vectors(weights)
    table = torch.cat([torch.zeros(1, vectors.shape[1]), unknown_vector(vectors.shape[1])[None], vectors])
    return GloveEncoder(
        {word: number + FIRST_WORD_ID for number, word in enumerate(words)},
        table.numpy(),
        unknown=unknown,
        split=options.get("split", plain_words),
        spec={"weights": weights.identity, "rule": options.get("rule", "plain")},
    )


def unknown_vector(dim: int) -> torch.Tensor:
    """Return the vector (dim,) that all unknown words share; torch's global random state is left alone."""
    return torch.randn(dim, generator=torch.Generator().manual_seed(UNKNOWN_SEED))


def load_vectors(weights: WeightsFile) -> tuple[list[str], torch.Tensor]:
    """Return a file's words and vectors (words, dim) float32.

    torchtext would take its cache by the file's name alone, leave a broken one when interrupted, and try to
    download what it misses; so it parses into a temporary folder, and what it made is published by the file's
    sha256. Raises WeightsError when the file is no table of vectors.
    """
    cached = cache_folder() / "vectors" / f"{weights.sha256}.pt"
    if not cached.is_file():
        _parse(weights.path, cached)
    words, _, vectors, _ = torch.load(cached, weights_only=True)
    vectors = vectors[: len(words)]
    if not words or not torch.isfinite(vectors).all():
        raise WeightsError(f"{weights.path} holds {len(words)} words, or numbers that are not finite; get it again")
    return words, vectors


def _cleaned(path: Path, folder: Path) -> Path:
    """Return the file, or a copy of it without blank lines and a byte order mark, which torchtext takes for words.

    Raises WeightsError for a text that is not UTF-8, whose words torchtext would leave out.
    """
    with path.open("rb") as stream:
        head = stream.read(3)
        stream.seek(0)
        if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise WeightsError(f"{path} is UTF-16; save it as UTF-8, as by `iconv -f UTF-16 -t UTF-8`")
        clean = head != codecs.BOM_UTF8
        for number, line in enumerate(stream, start=1):
            clean = clean and bool(line.strip())
            try:
                line.partition(b" ")[0].decode()
            except UnicodeDecodeError as error:
                raise WeightsError(
                    f"{path}: line {number} is not UTF-8 text, but perhaps Latin-1; expected a word and its numbers"
                ) from error
        if clean:
            return path.resolve()
        copy = folder / path.name
        stream.seek(len(head) if head == codecs.BOM_UTF8 else 0)
        with copy.open("wb") as target:
            target.writelines(line for line in stream if line.strip())
    return copy


def _parse(path: Path, cached: Path) -> None:
    from torchtext.vocab import Vectors

    cached.parent.mkdir(parents=True, exist_ok=True)
    # torchtext 0.6 turns the checking of certificates off for the whole process.
    make_context = ssl._create_default_https_context
    try:
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            Vectors(str(_cleaned(path, Path(folder))), cache=folder)
            os.replace(Path(folder) / f"{path.name}.pt", cached)
    except (RuntimeError, ValueError, TypeError, OSError, LookupError, AttributeError, EOFError) as error:
        raise WeightsError(f"{path} is not a text file of word vectors: {error}") from error
    finally:
        ssl._create_default_https_context = make_context
