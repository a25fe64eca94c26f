"""What is known of a network before it is built: its options, and what follows from them and from the features."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag, auto

TEMPORAL_COLUMNS = 2
"""The last columns of a frame's row: where it begins and ends in the video, as fractions."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network that follow from the features; a checkpoint stores them."""

    video_dim: int
    """Width of the frame features, the two temporal endpoint columns included."""
    text_dim: int
    word_classes: int
    """Classes of the rebuilding of masked words: the vocabulary, unknown, and start and end where the text has them."""


class Draw(Flag):
    """What is drawn at random for a batch to train on, in this order."""

    NONE = 0
    OTHER_QUERY = auto()
    """For each query a random one of another group, which does not describe its video."""
    NEXT_QUERY = auto()
    """For each query the next one of another group in the batch, after the last one the first; where there is no other
    group, the next one. Of groups of one query each, that is a roll by one."""
    MASKED_WORDS = auto()
    """Words that are hidden, to be rebuilt."""
    ROW_PAIRS = auto()
    """Pairs of rows of which one should score higher than the other."""
    MASKED_WORDS_ALIKE = auto()
    """Words that are hidden, to be rebuilt, each with the same probability, but one at least and never all."""


class Asked(Enum):
    """How a network reads the sentences of `Batch.sentences`, if it reads them: its features must be of one model."""

    NOT = auto()
    PLAIN = auto()
    """The query as it is; the generic vector is the mean of all queries that are asked."""
    IN_FORMS = auto()
    """The mean of the query in several forms; the generic vector is that of sentences that fit any picture."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes and switches of a network, and what follows from them before it is built.

    Every network's own has a field `network` that can only hold its name, which tells the configurations apart.
    """

    @property
    def name(self) -> str:
        """The network's name in the registry."""
        return str(self.network)  # type: ignore[attr-defined]

    def draws(self) -> Draw:
        """Return what training draws for a batch."""
        return Draw.NONE

    def rankings(self) -> tuple[str, ...]:
        """Return the values of `evaluate.rank_by` that the network can do, the published one first."""
        return ("class",)

    def ties(self) -> list[str]:
        """Return the options under which a query's answer depends on the other queries of its batch."""
        return []

    def reads_in_file_order(self) -> bool:
        """Say whether answers are to be made in batches of the file's order, as they depend on who meets whom."""
        return False

    def reads_narration(self) -> bool:
        """Say whether the network reads what a narrator says of the videos."""
        return False

    def compiles(self) -> bool:
        """Say whether a compiler can take the network in few pieces; recurrent layers throughout leave it nothing."""
        return True

    def most_words(self) -> int | None:
        """Return how many words a query may have; None: any number."""
        return None

    def most_queries(self) -> int | None:
        """Return how many queries a step may hold; None: any number."""
        return None

    def sentences(self) -> Asked:
        """Say whether and how the network reads sentences as wholes."""
        return Asked.NOT

    def problems(self) -> list[str]:
        """Say which values, each possible by itself, cannot go together."""
        return []
