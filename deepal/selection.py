"""`deepal select`: choose from files of signals, without a model, a run, or a loop. What a foundation model says of a pool
is all that is needed."""

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from deepal import preflight, tables
from deepal.data import arrays
from deepal.functional import gradients
from deepal.room import Room, free_memory
from deepal.signals import NAMES, Score, Signals, refuse_shape
from deepal.strategies.base import (
    Choice,
    QueryStrategy,
    Sizes,
    View,
    choose,
    refuse_no_strategy,
    refuse_query_size,
    warn_of_distances,
)

log = logging.getLogger(__name__)

COLUMNS = ("id", "position", "rank", "score")
"""Of the table that is written."""

_DERIVED: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "probs": ("logits", lambda logits: torch.softmax(logits, -1)),
    "logit_gradient": ("logits", gradients.logit_gradient),
}
"""Signals that another one implies."""
_BLOCK = 8192  # rows at a time


@dataclass(kw_only=True)
class Selection:
    """A query from files.

    Args:
        strategy: chooses.
        signals: for each signal that it needs, the file or files that hold it, a row a sample: `features.npy`, a pattern of
            shards, a file of safetensors, at any address (`deepal.data.arrays.read`). `logits` say `probs` and
            `logit_gradient` too. Of signals that it does not need only the rows are counted.
        ids: a table with a column `id`, or a file with one a line, in the order of the rows; without the spaces around
            them. None: they are numbered from 0.
        labeled: ids of the samples that have a label, in such a file; the number of its class in a column `label`, for
            strategies that read it.
        exclude: ids of samples that are never chosen.
        query_size: how many to choose.
        seed: of every coin.
        threads: of torch; None for what it takes by itself.
        cache: where shards are joined, and files from elsewhere copied to.

    >>> Selection(strategy=TypiClust(), signals={"embedding": "features.npy"}).chosen()             # doctest: +SKIP
    """

    strategy: QueryStrategy
    signals: dict[str, str] = field(default_factory=dict)
    ids: Path | None = None
    labeled: Path | None = None
    exclude: Path | None = None
    query_size: int = 10
    seed: int = 0
    threads: int | None = None
    cache: Path = arrays.CACHE

    def chosen(self) -> list[dict[str, object]]:
        """What to ask, in order: `id`, `position` (its row), `rank`, and `score` where the strategy has one.

        Raises ValueError for a signal that is needed and not given, for files of unequal lengths, unknown or repeated ids,
        a query larger than what can be chosen, and for what the strategy refuses; FileNotFoundError for a file that is not
        there.
        """
        self._refuse_bad_options()
        files, rows = self._files()
        names = _Names(self.ids, rows)
        known = list(_rows_of(self.labeled)) if self.labeled else []
        labeled = names.positions([row["id"] for row in known], f"labeled={self.labeled}")
        out = [row["id"] for row in _rows_of(self.exclude)] if self.exclude else []
        excluded = names.positions(out, f"exclude={self.exclude}")
        free = torch.ones(len(names), dtype=torch.bool)
        free[labeled] = free[excluded] = False
        pool = free.nonzero().squeeze(1)
        refuse_query_size(self.query_size, len(pool))
        source = _Files(files, Room(self.cache))
        source.labels = {int(position): row for position, row in zip(labeled, known, strict=True)}
        cycle = {"cycle": torch.zeros(len(labeled), dtype=torch.long)}
        view = View(Signals(pool, source), Signals(labeled, source, cycle))
        widths = {name: source.width(name) for name in self.strategy.needs.get("pool", ())}
        sizes = Sizes(len(pool), len(labeled), self.query_size, widths)
        preflight.refuse_too_large(self.strategy, sizes, free_memory())
        choice = self._choice(view)
        positions, scores = pool[choice.rows].tolist(), [None] if choice.scores is None else choice.scores.tolist()
        return [
            {"id": names[position], "position": position, "rank": rank, "score": scores[rank % len(scores)]}
            for rank, position in enumerate(positions)
        ]

    def _choice(self, view: View) -> Choice:
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.threads or before)
            choice = choose(self.strategy, view, self.query_size, torch.Generator().manual_seed(self.seed))
            warn_of_distances(self.strategy, view)
        finally:
            torch.set_num_threads(before)
        if choice.notes:
            log.info("%r: %s", self.strategy, ", ".join(f"{name} {value:.4g}" for name, value in choice.notes.items()))
        return choice

    @property
    def _needed(self) -> set[str]:
        """Names of what is read of each sample."""
        needed = {name for of, names in self.strategy.needs.items() if of != "holdout" for name in names}
        return needed - _OF_LABELED

    def _refuse_bad_options(self) -> None:
        refuse_no_strategy(self.strategy)
        if self.threads is not None:
            preflight.refuse_bad_threads(self.threads)
        known = sorted(self._needed | set(NAMES))
        for name in self.signals:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                raise ValueError(
                    f"there is no signal '{name}'; {f'the nearest is {close[0]}' if close else f'take {known}'}."
                )

    def _files(self) -> tuple[dict[str, Tensor], int | None]:
        """The array of each signal that is needed, or of what says it; and how many rows they and all others have, None
        where there are none."""
        wanted = {name: name if name in self.signals else _DERIVED.get(name, (name,))[0] for name in self._needed}
        missing = sorted(name for name, file in wanted.items() if file not in self.signals)
        if missing:
            name = missing[0]
            other = f", or {_DERIVED[name][0]}=FILE, which imply it" if name in _DERIVED else ""
            raise ValueError(
                f"{self.strategy!r} needs {', '.join(missing)}; give signals {name}=FILE, a row a sample{other}."
            )
        files = {name: arrays.read(self.signals[name], self.cache) for name in sorted(set(wanted.values()))}
        if not self.signals and not self.ids:
            raise ValueError(
                f"{self.strategy!r} reads no signals, so that nothing says how large the pool is; give ids=FILE."
            )
        for name, file in files.items():
            if name == "group" and file.ndim != 1:
                raise ValueError(f"signals.group={self.signals[name]} has shape {list(file.shape)}; give one number a row.")
            if name not in _WHOLE and file.dtype not in arrays.FLOATS:
                raise ValueError(
                    f"signals.{name}={self.signals[name]} holds {file.dtype}, and signals are floats of 16, 32 or 64 bits."
                )
            refuse_shape(name, file)
        lengths = {name: len(files[name]) for name in files}
        lengths |= {name: arrays.rows(self.signals[name], self.cache) for name in self.signals if name not in files}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"signals of one pool have as many rows each, and these have {lengths}.")
        return files, next(iter(lengths.values()), None)


_OF_LABELED = {"target", "cycle"}
_WHOLE = {"group", "history"}  # of numbers of groups and of classes


class _Names:
    """What people call the samples. Args: path: as `Selection.ids`; rows: of the signals, where there are any."""

    def __init__(self, path: Path | None, rows: int | None) -> None:
        self._ids = [row["id"] for row in _rows_of(path)] if path else [str(row) for row in range(rows or 0)]
        if rows is not None and len(self._ids) != rows:
            header = f"; if {self._ids[0]!r} is a column, call it id" if len(self._ids) == rows + 1 else ""
            raise ValueError(f"ids={path} names {len(self._ids)} samples, and the signals have {rows} rows{header}.")
        self._position = {name: position for position, name in enumerate(self._ids)}
        if len(self._position) < len(self._ids):
            twice = next(name for position, name in enumerate(self._ids) if self._position[name] != position)
            raise ValueError(f"ids={path} names {twice!r} more than once.")

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int) -> str:
        return self._ids[position]

    def positions(self, names: Sequence[str], said_by: str) -> Tensor:
        """Rows of these samples. Raises ValueError for one that is not known, or repeated."""
        unknown = [name for name in names if name not in self._position]
        if unknown:
            raise ValueError(f"{said_by}: {len(unknown)} ids are not in the pool: {', '.join(map(repr, unknown[:5]))}.")
        name, times = next(iter(Counter(names).most_common(1)), ("", 1))
        if times > 1:
            raise ValueError(f"{said_by} names {name!r} {times} times; name each sample once.")
        return torch.tensor([self._position[name] for name in names], dtype=torch.long)


def _rows_of(path: Path) -> Iterator[Mapping[str, str]]:
    """Rows of a table with a column `id`; or, of a file without one, its lines."""
    columns = tables.columns_of(path)
    if len(columns) > 1 and "id" not in columns:
        raise ValueError(f"{path} has the columns {', '.join(columns)} and no column id; name the one that has the ids so.")
    if "id" in columns:
        for line, row in tables.read(path):
            if not row.get("id", "").strip():
                raise ValueError(f"{path}, line {line}, has no id.")
            yield {**row, "id": row["id"].strip()}
    else:
        yield from ({"id": line.strip()} for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())


class _Files:
    """A source of signals in mapped files. Of some rows, what is read is copied; of all of them, it is the file."""

    def __init__(self, files: Mapping[str, Tensor], room: Room) -> None:
        self.files, self.room = files, room
        self.labels: dict[int, Mapping[str, str]] = {}  # rows of the table of labeled samples, by position

    def width(self, name: str) -> int:
        """How many numbers a row of this signal has."""
        return self._of(name, torch.zeros(1, dtype=torch.long)).numel()

    def read(self, positions: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        every = torch.equal(positions, torch.arange(len(next(iter(self.files.values())))))
        at_hand = {name: self.files[name] for name in names if name in self.files and every}
        kept = (
            {} if len(at_hand) == len(names) else self._copied(positions, [each for each in names if each not in at_hand])
        )
        return {**at_hand, **kept}

    def _copied(self, positions: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        kept = self.room.of(len(positions), {name: self._of(name, positions[:1]) for name in names})
        for rows in torch.arange(len(positions)).split(_BLOCK):
            for name in names:
                kept[name][rows] = self._of(name, positions[rows]).to(kept[name].dtype)
        return kept

    def _of(self, name: str, positions: Tensor) -> Tensor:
        if name in self.files:
            return self.files[name][positions]
        if name == "target":
            return torch.tensor([self._class_of(self.labels[int(position)]) for position in positions], dtype=torch.long)
        other, derive = _DERIVED[name]
        return derive(self.files[other][positions].float())

    def _class_of(self, row: Mapping[str, str]) -> int:
        """The number of a labeled sample's class."""
        classes = next((self.files[name].shape[-1] for name in ("probs", "logits") if name in self.files), None)
        said = row.get("label", "").strip()
        if not said.isascii() or not said.isdigit() or (classes is not None and int(said) >= classes):
            raise ValueError(
                f"the strategy reads the class of what is labeled, and {row['id']} has {said or 'none'!r}; give the table "
                f"of labeled samples a column label, with a number from 0{f' to {classes - 1}' if classes else ''}, as in "
                f"the columns of probs."
            )
        return int(said)

    def map(self, positions: Tensor, names: tuple[str, ...], score: Score) -> Tensor:
        scores = [score({name: self._of(name, some) for name in names}) for some in positions.split(_BLOCK)]
        return torch.cat(scores) if scores else torch.empty(0)
