"""What a query strategy is: it reads signals and chooses rows. It never sees a model, a loader, a device or a file."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from deepal.functional import dimension
from deepal.signals import NonFiniteError, Signals

log = logging.getLogger(__name__)

Needs = Mapping[str, tuple[str, ...]]
"""Which signals are read of which set: `{"pool": ("embedding",), "labeled": ("embedding",)}`."""


@dataclass(frozen=True)
class View:
    """What a strategy may look at: the pool to choose from, what is labeled already (with `target` and `cycle`), and the
    validation set (with `target`), which is empty where there is none."""

    pool: Signals
    labeled: Signals
    holdout: Signals = field(default_factory=lambda: Signals.of({}))

    def take(self, rows: Tensor) -> "View":
        """The same view with only these rows in the pool."""
        return replace(self, pool=self.pool.take(rows))


@dataclass(frozen=True)
class Choice:
    """Rows of the pool to label, in the order to ask, with a score each where the strategy has one.

    Args:
        notes: what the strategy has to say of the query, by name; kept in the ledger.
        pseudo_labels: (rows, classes) of other rows, ascending, that the next model trains on as if they were labeled so.
    """

    rows: Tensor
    scores: Tensor | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    pseudo_labels: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Sizes:
    """How large a selection is.

    Args: pool, labeled: how many rows; query_size: as asked for; widths: how many numbers a row of each signal has.
    """

    pool: int
    labeled: int
    query_size: int
    widths: Mapping[str, int]

    @classmethod
    def of(cls, view: View, query_size: int) -> "Sizes":
        """Those of a view, by the signals that it has at hand."""
        known = {name: view.pool[name] for name in view.pool.at_hand}
        widths = {name: signal[:1].numel() for name, signal in known.items() if len(signal)}
        return cls(len(view.pool), len(view.labeled), query_size, widths)

    @property
    def embedding(self) -> int:
        """Features of an embedding."""
        return self.widths.get("embedding", 0)


class QueryStrategy(ABC):
    """Chooses what to label next. A subclass is a frozen dataclass with `needs` and `select`, and is final: to vary a
    strategy, wrap it in another (`Prefilter(by=Margin(), then=CoreSet())`)."""

    needs: Needs = {}
    keeps_prefix: bool = True
    """Whether the first k of K chosen rows are what a query of k would have chosen: then a query that is answered in part
    is a good query. Methods that choose row after row do, methods that choose a set at once do not."""
    joint: bool = False
    """Whether it reads draws of several samples together, which then have to be consistent."""
    of_last_layer: bool = False
    """Whether it reads the embedding as what the last layer was given, so that no other representation can stand for it."""
    projects: bool = False
    """Whether it compares embeddings by fewer directions than they have."""
    trains_next: bool = False
    """Whether it has the next model trained on rows that nobody labels (`Choice.pseudo_labels`)."""
    artifacts: tuple[str, ...] = ()
    """Names of signals of the pool that it computes itself, once in a run."""

    @abstractmethod
    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        """Choose `query_size` distinct rows of `view.pool` (all of them where it holds no more).

        Called through `choose`, which checks what comes back. Every coin is tossed with `generator`.
        """

    def workspace(self, sizes: Sizes) -> int:
        """How many bytes `select` holds at most, signals apart: what cannot be had is refused before the first epoch."""
        return 40 * sizes.pool  # scores, and their order

    def once(self, view: View, query_size: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """The signals that `artifacts` names, integers (n, ...), a row for each of `view.pool`: computed of the whole pool
        before the first query, kept with the run, and read like any other from then on. Rows that come to the pool later
        read -1."""
        return {}


class Composed(QueryStrategy):
    """A strategy made of others: what they need, it needs. A subclass is a frozen dataclass with `parts` and `select`, and
    asks a part by `choose`; one that has a `__post_init__` calls this one too.

    >>> @dataclass(frozen=True)
    ... class HalfAtRandom(Composed):
    ...     of: QueryStrategy
    ...     keeps_prefix = False
    ...
    ...     @property
    ...     def parts(self):
    ...         return (self.of,)
    ...
    ...     def select(self, view, query_size, generator):
    ...         first = choose(self.of, view, query_size // 2, generator).rows
    ...         others = torch.randperm(len(view.pool), generator=generator)
    ...         others = others[~torch.isin(others, first)]
    ...         return Choice(torch.cat([first, others[: query_size - len(first)]]))

    Raises ValueError for a part that is no strategy, and for one that has the next model trained on its pseudo-labels:
    inside another nobody does that.
    """

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.parts, Sequence):
            raise ValueError(f"{name}.parts must be a list of strategies, and is {self.parts!r}.")
        for part in self.parts:
            if isinstance(part, type):
                raise ValueError(f"{name} is made of strategies, and {part.__name__} is a class: {part.__name__}().")
            if not isinstance(part, QueryStrategy):
                raise ValueError(f"{name} is made of strategies, as Margin() is one, and {part!r} is none.")
            if part.trains_next:
                raise ValueError(
                    f"{name} has {part!r} inside, where nobody trains on pseudo-labels; put {type(part).__name__} around "
                    f"the whole: {type(part).__name__}(of={name}(...))."
                )

    @property
    @abstractmethod
    def parts(self) -> Sequence[QueryStrategy]:
        """The others, all of them."""

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return together(*(part.needs for part in self.parts))

    @property
    def joint(self) -> bool:  # type: ignore[override]
        return any(part.joint for part in self.parts)

    @property
    def of_last_layer(self) -> bool:  # type: ignore[override]
        return any(part.of_last_layer for part in self.parts)

    @property
    def projects(self) -> bool:  # type: ignore[override]
        return any(part.projects for part in self.parts)

    @property
    def artifacts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Raises ValueError where two parts compute signals of one name."""
        names = [name for part in self.parts for name in part.artifacts]
        if len({*names}) < len(names):
            raise ValueError(f"{self!r} is made of two strategies that compute {', '.join({*names})}; have one of them.")
        return tuple(names)

    def workspace(self, sizes: Sizes) -> int:
        return max(part.workspace(sizes) for part in self.parts)

    def once(self, view: View, query_size: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {name: each for part in self.parts for name, each in part.once(view, query_size, generator).items()}


def together(*needs: Needs) -> Needs:
    """All that any of these names."""
    sets = dict.fromkeys(of for each in needs for of in each)
    return {of: tuple(dict.fromkeys(name for each in needs for name in each.get(of, ()))) for of in sets}


class Scoring(QueryStrategy):
    """A strategy that takes the rows of highest score. Ties are broken by the generator."""

    @abstractmethod
    def scores(self, view: View, generator: torch.Generator) -> Tensor:
        """The score of each row of the pool, (N,), higher is more informative."""

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        scores = self.scores(view, generator)
        rows = top_k(scores, query_size, generator, by=repr(self))
        return Choice(rows, scores[rows])


@dataclass(frozen=True)
class Acquisition(Scoring):
    """A strategy that scores each row by itself: `score` runs inside the scan, batch by batch, so only the scores are ever
    kept.

    Args: reduce: how the scores of a sample's sites (labels, pixels) become one. The mean of pixels asks for images that
        are doubtful all over, the maximum for one doubtful pixel, the sum for much that is doubtful.
    """

    reduce: Literal["mean", "max", "sum"] = field(default="mean", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.reduce not in _REDUCTIONS:
            raise ValueError(f"{type(self).__name__}(reduce={self.reduce!r}) must be one of {', '.join(_REDUCTIONS)}.")

    @abstractmethod
    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        """One finite number a row, (B,), or a site, (B, ...), higher is more informative, from the signals that
        `needs["pool"]` names."""

    def scores(self, view: View, generator: torch.Generator) -> Tensor:
        return view.pool.map(self.score_rows, self.needs["pool"])

    def score_rows(self, signals: Mapping[str, Tensor]) -> Tensor:
        """`score`, with one number a row, (B,)."""
        return self.reduced(self.score(signals))

    def reduced(self, scores: Tensor) -> Tensor:
        """One number a row, (B,), of one a site, (B, ...)."""
        return scores if scores.ndim == 1 else _REDUCTIONS[self.reduce](scores.flatten(1), 1)


_REDUCTIONS: Mapping[str, Callable[[Tensor, int], Tensor]] = {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}


def one_a_sample(strategy: QueryStrategy, *signals: Tensor) -> tuple[Tensor, ...]:
    """The signals, for strategies that measure distances between samples. Raises ValueError, naming the strategy, where a
    signal has sites: a sample is then many points, and which of them are compared is not for a strategy to guess."""
    for signal in signals:
        if signal.ndim != 2:
            raise ValueError(
                f"{strategy!r} compares samples by one vector each, and this module says one a site, of shape "
                f"(samples, {', '.join(map(str, signal.shape[1:]))}); take a strategy that scores samples (Entropy, say), "
                f"or a module whose embedding is pooled."
            )
    return signals


def predicted(strategy: QueryStrategy, probs: Tensor) -> Tensor:
    """The predicted class of each sample, (B,), of probs (B, C). Raises ValueError, naming the strategy, where a sample has
    sites: then it has many."""
    if probs.ndim != 2:
        raise ValueError(
            f"{type(strategy).__name__} takes one class a sample, and this module says probs of shape "
            f"(samples, {', '.join(map(str, probs.shape[1:]))})."
        )
    return probs.argmax(1)


def top_k(scores: Tensor, k: int, generator: torch.Generator, by: str) -> Tensor:
    """The rows of the k largest scores, largest first, ties in the generator's order. It is said where all are equal, so
    that coins alone decide.

    Raises NonFiniteError, naming `by`, where a score is NaN or infinite: sorting would rank NaN first.
    """
    wrong = int((~scores.isfinite()).sum())
    if wrong:
        raise NonFiniteError(
            f"{by} gave {wrong} of {len(scores)} rows a score that is NaN or infinite; nothing was chosen."
        )
    if k < len(scores) and scores.min() == scores.max():
        log.warning(
            "%s gave all of %d rows the same score, %.4g, so that coins decide; where it asks how much draws or members "
            "disagree, there have to be two at least, that differ.",
            by, len(scores), float(scores[0]),
        )  # fmt: skip
    shuffled = torch.randperm(len(scores), generator=generator)
    return shuffled[scores[shuffled].sort(descending=True, stable=True).indices[:k]]


def choose(strategy: QueryStrategy, view: View, query_size: int, generator: torch.Generator) -> Choice:
    """Let `strategy` select, and check that it chose as many distinct rows of the pool as it was asked for. What it
    computes once in a run is computed of this pool, unless the view has it."""
    query_size = min(query_size, len(view.pool))
    if not query_size:
        return Choice(torch.empty(0, dtype=torch.long))
    if not set(strategy.artifacts) <= view.pool.at_hand:
        view = replace(view, pool=view.pool.joined(strategy.once(view, query_size, generator)))
    choice = strategy.select(view, query_size, generator)
    rows = choice.rows
    if len(rows) != query_size or len(rows.unique()) != query_size or (rows < 0).any() or (rows >= len(view.pool)).any():
        raise ValueError(
            f"{strategy!r} must choose {query_size} distinct rows of a pool of {len(view.pool)}, and chose {rows.tolist()}."
        )
    if choice.pseudo_labels is not None and torch.isin(choice.pseudo_labels[0], rows).any():
        raise ValueError(f"{strategy!r} gave pseudo-labels to rows that it asks people for.")
    return choice


def warn_of_distances(strategy: QueryStrategy, view: View) -> None:
    """Say it where a strategy has compared embeddings whose distances hardly differ, with the cure."""
    compares = "embedding" in strategy.needs.get("pool", ()) and not strategy.of_last_layer and not strategy.projects
    if not compares or "embedding" not in view.pool.at_hand:
        return
    points = view.pool["embedding"]
    found = dimension.spread(points, torch.Generator().manual_seed(0)) if points.ndim == 2 else None
    if found and found.contrast < _CONTRAST:
        log.warning(
            "%r compares embeddings of %d features, by which an image is on average only %.2f times as far from another as "
            "from the nearest (hubness %.1f, about %.0f dimensions): distances say little there. "
            "Projected(of=%r, width=32) compares them by their principal components.",
            strategy, points.shape[1], found.contrast, found.hubness, found.dimension, strategy,
        )  # fmt: skip


_CONTRAST = 1.25  # below it coverage methods lose half of what they gain on Random, and more (docs/reproduction.md)


def refuse_no_strategy(strategy: Any) -> None:
    """Raises ValueError for a name, a class or anything else that is none, and for one that takes a run."""
    if not isinstance(strategy, QueryStrategy):
        raise ValueError(f"strategy={strategy!r} must be a strategy, as CoreSet() is.")
    refuse_hidden_parts(strategy)
    if strategy.trains_next:
        raise ValueError(f"{strategy!r} is for runs: nobody trains here; take the strategy that is inside.")


def refuse_hidden_parts(strategy: QueryStrategy) -> None:
    """Raises ValueError for a strategy that has another inside and is no `Composed`: of what the other needs, computes once
    or has trained, nobody would know."""
    for name, value in vars(strategy).items():
        if isinstance(value, QueryStrategy) and not isinstance(strategy, Composed):
            raise ValueError(
                f"{type(strategy).__name__} has another strategy in {name}={value!r}; derive it from "
                f"deepal.strategies.Composed, and name that in `parts`."
            )


def refuse_query_size(query_size: int, free: int) -> None:
    """Raises ValueError where so many cannot be chosen of so many samples."""
    if not free:
        raise ValueError("there is nothing to choose: all samples are labeled already, or excluded.")
    if not 0 < query_size <= free:
        raise ValueError(f"query_size={query_size} must be from 1 to {free}, the samples that can be chosen.")


def select(
    strategy: QueryStrategy,
    pool: Mapping[str, Any],
    labeled: Mapping[str, Any] | Sequence[int] = (),
    *,
    query_size: int,
    seed: int = 0,
) -> list[int]:
    """Choose from arrays alone, for people who have signals and no loop: arrays in, positions out.

    Args:
        strategy: any query strategy.
        pool: the signals by name, arrays or tensors with one row a sample.
        labeled: either the signals of the labeled set by name, or the positions in `pool` that are labeled already:
            these are then never chosen.
        query_size: how many to choose.
        seed: of every coin the strategy tosses.
    Returns positions in `pool`, in the order to ask. Raises ValueError for a signal that is needed and not given, for
    positions out of range or repeated, and for a query size that is not positive or larger than what can be chosen.

    >>> from deepal.strategies import Margin
    >>> select(Margin(), {"probs": [[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]]}, labeled=[1], query_size=1)
    [2]
    """
    refuse_no_strategy(strategy)
    whole = Signals.of({name: torch.as_tensor(array) for name, array in pool.items()})
    if isinstance(labeled, Mapping) and labeled:
        known = Signals.of({name: torch.as_tensor(array) for name, array in labeled.items()})
        free = torch.arange(len(whole))
    else:
        taken = torch.as_tensor(list(labeled) or torch.empty(0, dtype=torch.long))
        if taken.is_floating_point() or taken.dtype == torch.bool:
            raise ValueError(f"labeled must hold positions, which are whole numbers, and holds {taken.dtype}.")
        taken = taken.long()
        if len(taken.unique()) != len(taken) or (taken < 0).any() or (taken >= len(whole)).any():
            raise ValueError(
                f"labeled must hold distinct positions from 0 to {len(whole) - 1}, and holds {taken.tolist()}."
            )
        known = whole.take(taken)
        free = torch.ones(len(whole), dtype=torch.bool).index_fill_(0, taken, False).nonzero().squeeze(1)
    refuse_query_size(query_size, len(free))
    view = View(pool=whole.take(free), labeled=known)
    choice = choose(strategy, view, query_size, torch.Generator().manual_seed(seed))
    return [int(position) for position in free[choice.rows]]
