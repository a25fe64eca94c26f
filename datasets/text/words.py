"""Words of a query: how sentences are cut into words, and how strongly each is drawn for masking.

Rules of tokenisation, all lower-casing:

* `letters`: runs of a-z and apostrophes (the text of charades-mini).
* `alphanumeric`: runs of a-z and 0-9. Counting train and test with it gives the published
  `GloVe_tokenized_count.txt` of Charades and TACoS exactly.
* `treebank`: words and punctuation after the manner of the Penn Treebank, by the rules of `treebank_words`.
* `punctuation-spaces`: what white space separates, with a space for each of , / " - ; . & ? ! ( and ) (MSAT).
* `nltk`: `nltk.word_tokenize`, as the published code does; needs NLTK and its `punkt` data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mesm.datasets.errors import DatasetError

Rule = Literal["letters", "alphanumeric", "treebank", "punctuation-spaces", "nltk"]
TagSource = Literal["closed-class", "nltk"]

CONTENT_WEIGHT = 2
OTHER_WEIGHT = 1
SPECIAL_PIECES = frozenset({"<start_of_text>", "<end_of_text>", "<|startoftext|>", "<|endoftext|>"})
PIECE_END = "</w>"

# Tags of the Penn Treebank whose words count as content (MESM section 1.3; WRB holds RB and counts, too).
_CONTENT_TAGS = ("NN", "VB", "JJ", "RB")

# English words that the Penn Treebank tags CC, CD, DT, EX, IN, MD, PDT, POS, PRP, PRP$, RP, TO, UH, WDT, WP;
# forms of be, have and do, `not` and the wh-adverbs carry content tags there and are left out.
_CLOSED_CLASS = """
    a an the this that these those some any no each every either neither another all both half such
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its
    itself we us our ours ourselves they them their theirs themselves themself one
    who whom whose which what whoever whatever there
    and or but nor yet & plus
    of in on at to for from with without by about into onto out off up down over under above below between
    among through throughout during before after behind beside besides beneath underneath near across against
    along alongside around inside outside within toward towards upon past until till since than as if because
    while whilst although though unless whether like unlike via per except amid amongst despite beyond atop
    versus vs
    can could may might must shall should will would ca wo cannot
    'll 'd 's ' t
    zero two three four five six seven eight nine ten eleven twelve hundred thousand
    oh yes yeah hello hi hey ok okay please
"""
CLOSED_CLASS_WORDS = frozenset(_CLOSED_CLASS.split())

_LETTERS = re.compile(r"[a-z']+")
_ALPHANUMERIC = re.compile(r"[a-z0-9]+")
_TREEBANK = re.compile(
    r"""
      (?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|a\.m|p\.m)\.(?=\s+\S)    # an abbreviation inside the text
    | \.{2,} | -{2,}
    | (?: [^\s.,:;?!()\[\]{}<>"“”`$%\#&@…] | (?<=\d)[,:](?=\d) | (?<!\s)\.(?=\w) )+
    | \S
    """,
    re.VERBOSE,
)
_PUNCTUATION = str.maketrans(dict.fromkeys(',/"-;.&?!()', " "))
_CONTRACTION = re.compile(r"(.+?)(n't|'(?:s|m|d|ll|re|ve))")
_FUSED = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "gimme": ("gim", "me"),
    "lemme": ("lem", "me"),
}


def split_words(text: str, rule: Rule) -> list[str]:
    """Cut a sentence into lower-case words by one of the rules above.

    Raises DatasetError for an unknown rule, or when `nltk` is asked for and cannot be had.
    """
    rules: Mapping[str, Callable[[str], list[str]]] = {
        "letters": lambda sentence: _LETTERS.findall(_plain_apostrophes(sentence).lower()),
        "alphanumeric": lambda sentence: _ALPHANUMERIC.findall(sentence.lower()),
        "treebank": treebank_words,
        "punctuation-spaces": lambda sentence: sentence.translate(_PUNCTUATION).lower().split(),
        "nltk": _nltk_words,
    }
    if rule not in rules:
        raise DatasetError(f"unknown rule of tokenisation: {rule!r}; expected one of: {', '.join(rules)}")
    return rules[rule](text)


def treebank_words(text: str) -> list[str]:
    """Cut a sentence as the Penn Treebank does, in lower case.

    Punctuation marks are words of their own, runs of dots or dashes together. Dots stay inside numbers and
    abbreviations, commas and colons between digits; hyphens and slashes stay inside words. `n't`, `'s`, `'m`,
    `'d`, `'ll`, `'re`, `'ve` are cut off their words, fused forms such as `cannot` fall in two, quoting
    apostrophes are words.
    """
    words: list[str] = []
    for chunk in _TREEBANK.findall(_plain_apostrophes(text).lower()):
        words += _FUSED.get(chunk) or _cut_apostrophes(chunk)
    return words


def word_weights(words: Sequence[str], source: TagSource = "closed-class") -> np.ndarray:
    """Return how strongly each word is drawn for masking: 2 for nouns, verbs, adjectives and adverbs, else 1.

    (words,) int64. `closed-class`: an alphabetic word is content unless `CLOSED_CLASS_WORDS` lists it;
    numbers and punctuation are not. `nltk`: by the tags of `nltk.pos_tag`, as published; needs NLTK and its
    tagger's data.
    """
    if source == "nltk":
        content = [any(part in tag for part in _CONTENT_TAGS) for tag in _nltk_tags(words)]
    elif source == "closed-class":
        content = [_is_content(word) for word in words]
    else:
        raise DatasetError(f"unknown source of word weights: {source!r}; expected closed-class or nltk")
    return np.where(np.asarray(content, dtype=bool), CONTENT_WEIGHT, OTHER_WEIGHT).astype(np.int64)


def piece_weights(pieces: Sequence[str], source: TagSource = "closed-class") -> np.ndarray:
    """Return the masking weights of CLIP's BPE pieces: `word_weights`, and 0 for start and end of the text.

    (pieces,) int64. Pieces stand as in the BPE vocabulary, `</w>` closing a word. With `closed-class`, all
    pieces of a word get the weight of the whole word; pieces without any `</w>` are words. With `nltk` each
    piece is tagged for itself, as published.
    """
    spoken = [index for index, piece in enumerate(pieces) if piece not in SPECIAL_PIECES]
    bare = [pieces[index].removesuffix(PIECE_END).strip() for index in spoken]
    closed = [pieces[index].endswith(PIECE_END) for index in spoken]
    weights = np.zeros(len(pieces), dtype=np.int64)
    if not spoken:
        return weights
    if source == "nltk" or not any(closed):
        weights[spoken] = word_weights(bare, source)
        return weights
    number = np.concatenate([[0], np.cumsum(closed)[:-1]]).astype(np.int64)
    whole = [""] * (int(number[-1]) + 1)
    for piece, word in zip(bare, number.tolist(), strict=True):
        whole[word] += piece
    weights[spoken] = word_weights(whole, source)[number]
    return weights


def _is_content(word: str) -> bool:
    word = _plain_apostrophes(word).lower()
    has_letters = any(character.isalpha() for character in word)
    starts_with_digit = word[:1].isdigit()
    return has_letters and not starts_with_digit and word not in CLOSED_CLASS_WORDS


def _plain_apostrophes(text: str) -> str:
    return text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").replace("\N{LEFT SINGLE QUOTATION MARK}", "'")


def _cut_apostrophes(chunk: str) -> list[str]:
    contraction = _CONTRACTION.fullmatch(chunk)
    if contraction and contraction[1].strip("'"):
        return [*_cut_apostrophes(contraction[1]), contraction[2]]
    core = chunk.strip("'")
    if not core or core == chunk:
        return [chunk]
    before = len(chunk) - len(chunk.lstrip("'"))
    after = len(chunk) - len(chunk.rstrip("'"))
    return [*["'"] * before, core, *["'"] * after]


def _nltk_words(text: str) -> list[str]:
    return [word.lower() for word in _ask_nltk("word_tokenize", "punkt_tab", text)]


def _nltk_tags(words: Sequence[str]) -> list[str]:
    return [tag for _, tag in _ask_nltk("pos_tag", "averaged_perceptron_tagger_eng", list(words))]


def _ask_nltk(function: str, data_name: str, argument: object) -> Any:
    try:
        import nltk
    except ImportError as error:
        advice = "run `pip install 'mesm-pipeline[pos]'`, or choose another source"
        raise DatasetError(f"NLTK is asked for but not installed: {advice}") from error
    try:
        return getattr(nltk, function)(argument)
    except LookupError as error:
        raise DatasetError(
            f"NLTK's data {data_name!r} is not on this machine: run `python -m nltk.downloader {data_name}`, "
            "or choose another source"
        ) from error
