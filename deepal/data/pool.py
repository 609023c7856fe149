"""Which positions of a data set are labeled, with what, and in which cycle."""

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any


class Pool:
    """The candidates of a run, by their positions in the data set: labeled, set aside, or free to be asked.

    Positions are what everyone outside speaks; strategies speak rows. The two meet in `index`: row r of the pool is
    position `index[r]`.

    >>> pool = Pool([10, 11, 12, 13])
    >>> pool.label([12], [7], cycle=0)
    >>> pool.index, pool.labeled, pool.labels, pool.cycles
    ([10, 11, 13], [12], [7], [0])
    """

    def __init__(self, candidates: Iterable[int]) -> None:
        self._candidates = sorted(candidates)
        self._free = set(self._candidates)
        self._index: list[int] | None = None
        self.labeled: list[int] = []
        """Labeled positions, in the order in which they were labeled."""
        self.labels: list[Any] = []
        """What each labeled position is trained on: the number of its class, or numbers in lists."""
        self.cycles: list[int] = []
        """The cycle in which each labeled position was asked."""
        self.pseudo_labeled: list[int] = []
        """Free positions that a model trains on as if they were labeled."""
        self.pseudo_labels: list[int] = []
        """What it trains on there."""

    @property
    def index(self) -> list[int]:
        """The positions that can still be asked, ascending: row to position."""
        if self._index is None:
            self._index = [position for position in self._candidates if position in self._free]
        return self._index

    def __len__(self) -> int:
        """How many positions can still be asked."""
        return len(self._free)

    @property
    def trained(self) -> tuple[list[int], list[Any]]:
        """Positions that a model trains on, and on what."""
        return [*self.labeled, *self.pseudo_labeled], [*self.labels, *self.pseudo_labels]

    def digest(self) -> str:
        """A hash of what a model learns from: answers that were corrected since make another."""
        return blake2b(json.dumps(self.trained).encode(), digest_size=6).hexdigest()

    def label(self, positions: Sequence[int], labels: Sequence[Any], cycle: int) -> None:
        """Record labels. Raises ValueError, and records none, where a position cannot be asked or there are not as many
        labels as positions."""
        if len(positions) != len(labels):
            raise ValueError(f"{len(positions)} positions were answered with {len(labels)} labels; one each is needed.")
        self._take(positions)
        self.labeled += positions
        self.labels += labels
        self.cycles += [cycle] * len(positions)

    def pseudo_label(self, positions: Iterable[int], labels: Iterable[int]) -> None:
        """Have a model train on positions as if they were labeled so, those of them that are free. They stay so."""
        pairs = [(position, label) for position, label in zip(positions, labels, strict=True) if position in self._free]
        self.pseudo_labeled = [position for position, _ in pairs]
        self.pseudo_labels = [label for _, label in pairs]

    def set_aside(self, positions: Sequence[int]) -> None:
        """Take positions out without a label: an abstention, or an image that cannot be used."""
        self._take(positions)

    def require_free(self, positions: Sequence[int]) -> None:
        """Raises ValueError, naming them, where positions repeat, are no candidates, or are labeled or set aside."""
        if len(set(positions)) != len(positions):
            raise ValueError(f"positions must be distinct, and {_repeated(positions)} occur more than once.")
        wrong = [position for position in positions if position not in self._free]
        if wrong:
            candidates = set(self._candidates)
            taken = [position for position in wrong if position in candidates]
            if taken:
                raise ValueError(f"positions {taken[:10]} are labeled or set aside already; each is labeled once.")
            raise ValueError(f"positions {wrong[:10]} are not in the pool of {len(self._candidates)} candidates.")

    def _take(self, positions: Sequence[int]) -> None:
        self.require_free(positions)
        self._free.difference_update(positions)
        self._index = None


def _repeated(positions: Sequence[int]) -> list[int]:
    return sorted({position for position in positions if positions.count(position) > 1})[:10]
