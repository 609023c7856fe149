"""Strategies that share one query among several others, or among parts of the pool (`functional.ranking`,
`functional.turns`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, isfinite
from numbers import Real

import torch
from torch import Tensor

from deepal.functional import herding, ranking, turns
from deepal.functional.geometry import directions
from deepal.numeric import is_count
from deepal.signals import NonFiniteError
from deepal.strategies.base import (
    Acquisition,
    Choice,
    Composed,
    Needs,
    QueryStrategy,
    Scoring,
    Sizes,
    View,
    choose,
    one_a_sample,
    predicted,
    together,
    top_k,
)


@dataclass(frozen=True)
class Mixture(Composed, Scoring):
    """What several acquisitions put first together. Their scores are of different scales, so it is their places that are
    averaged: of each the share of the pool that it puts behind a row, rows of equal score alike (Borda, 1781). What makes
    all scores of one larger in the same order, a logarithm say, changes nothing.

    Args: of: two or more that score single rows; weights: of each, not negative; None: all alike.
    """

    of: Sequence[Scoring]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", _several(self, self.of))
        object.__setattr__(self, "weights", _shares(self, "weights", self.weights, len(self.of)))
        super().__post_init__()
        for each in self.of:
            if not isinstance(each, Scoring):
                raise ValueError(
                    f"Mixture(of=[{each!r}, ...]) averages the places of single samples, which this does not score; "
                    f"Split(of=[...]) gives each strategy a part of the query."
                )

    @property
    def parts(self) -> Sequence[QueryStrategy]:
        return self.of

    def scores(self, view: View, generator: torch.Generator) -> Tensor:
        """Those that score row by row are asked in one pass."""
        by_row = [each for each in self.of if isinstance(each, Acquisition)]
        found: Iterator[Tensor] = iter(())
        if by_row:
            names = together(*(each.needs for each in by_row)).get("pool", ())
            said = view.pool.map(lambda signals: torch.stack([each.score_rows(signals) for each in by_row], 1), names)
            found = iter(said.unbind(1))
        assert self.weights
        total = torch.zeros(len(view.pool), dtype=torch.float64)
        for each, weight in zip(self.of, self.weights, strict=True):
            scores = next(found) if isinstance(each, Acquisition) else each.scores(view, generator)
            if wrong := int((~scores.isfinite()).sum()):
                raise NonFiniteError(f"{each!r} gave {wrong} of {len(scores)} rows a score that is NaN or infinite.")
            total += weight * ranking.places(scores)
        return total


@dataclass(frozen=True)
class Split(Composed):
    """A part of the query by each of several strategies, one after another: each chooses from what those before have left.
    What is asked takes turns, so that a query that is half answered has half of each.

    Args: of: two or more; shares: of the query that each has, in proportion; None: all alike.
    """

    of: Sequence[QueryStrategy]
    shares: Sequence[float] | None = None
    keeps_prefix = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", _several(self, self.of))
        object.__setattr__(self, "shares", _shares(self, "shares", self.shares, len(self.of)))
        super().__post_init__()

    @property
    def parts(self) -> Sequence[QueryStrategy]:
        return self.of

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        assert self.shares
        left, chosen, when = torch.arange(len(view.pool)), [], []
        notes: dict[str, float] = {}
        for part, count in zip(self.of, turns.shared(query_size, self.shares), strict=True):
            choice = choose(part, view.take(left), count, generator)
            chosen.append(left[choice.rows])
            when.append((torch.arange(count) + 0.5) / max(count, 1))
            notes |= {f"{type(part).__name__} {name}": value for name, value in choice.notes.items()}
            left = left[torch.ones(len(left), dtype=torch.bool).index_fill_(0, choice.rows, False)]
        in_turn = torch.cat(when).sort(stable=True).indices
        return Choice(torch.cat(chosen)[in_turn], notes=notes)


@dataclass(frozen=True)
class Schedule(Composed):
    """One strategy after another: the first as long as labels are few, as for a cold start, then the next.

    Args:
        of: two or more, in that order.
        until: when each but the last has done its part, in ascending order: from 1 on a number of labels; below 1 how well
            the labeled images cover the pool, from 0 to 1, by the kernel of `MaxHerding`, exp(-distance^2) on directions
            from the mean, of the model of the cycle.
    """

    of: Sequence[QueryStrategy]
    until: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", _several(self, self.of))
        object.__setattr__(self, "until", _numbers(self, "until", self.until))
        super().__post_init__()
        by_labels = [each >= 1 for each in self.until]
        if len(self.until) != len(self.of) - 1 or not all(each > 0 and isfinite(each) for each in self.until):
            raise ValueError(
                f"Schedule(until={[*self.until]}) must say of each of its {len(self.of)} strategies but the last when it "
                f"has done its part: a number of labels, or below 1 how well they cover the pool."
            )
        if any(one >= two for one, two in pairwise(self.until) if (one >= 1) == (two >= 1)) or not (
            all(by_labels) or not any(by_labels)
        ):
            raise ValueError(f"Schedule(until={[*self.until]}) must ascend, and be all of labels or all of coverage.")

    @property
    def parts(self) -> Sequence[QueryStrategy]:
        return self.of

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        covers: Needs = {"pool": ("embedding",), "labeled": ("embedding",)} if self.until[0] < 1 else {}
        return together(*(part.needs for part in self.of), covers)

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]
        return all(part.keeps_prefix for part in self.of)

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        reached = float(len(view.labeled)) if self.until[0] >= 1 else self._covered(view)
        stage = sum(reached >= each for each in self.until)
        choice = choose(self.of[stage], view, query_size, generator)
        return replace(choice, notes={**choice.notes, "stage": float(stage), "reached": reached})

    def _covered(self, view: View) -> float:
        points, labeled = directions(*one_a_sample(self, view.pool["embedding"], view.labeled["embedding"]))
        return float(herding.Gaussian(points).cover(labeled).mean())

    def workspace(self, sizes: Sizes) -> int:
        own = herding.workspace(sizes.pool, sizes.labeled, sizes.pool, sizes.embedding) if self.until[0] < 1 else 0
        return max(own, super().workspace(sizes))


@dataclass(frozen=True)
class Partition(Composed):
    """For pools whose signals do not fit: another strategy chooses a whole query from each of several parts of the pool,
    drawn at random, and then from all that it has chosen there.

    Rows that score by themselves are the same as without; k-center comes within four times the smallest radius there is,
    where it comes within twice on the whole (Malkomes et al., 2015). Of other strategies nothing is proved.

    Args: of: the strategy; into: how many.
    """

    of: QueryStrategy
    into: int = 10
    keeps_prefix = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_count(self.into):
            raise ValueError(f"Partition(into={self.into}) must be a whole number, 1 at least.")

    @property
    def parts(self) -> Sequence[QueryStrategy]:
        return (self.of,)

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        shuffled = torch.randperm(len(view.pool), generator=generator)
        parts = [rows.sort().values for rows in shuffled.tensor_split(self.into)]
        kept = torch.cat([rows[choose(self.of, view.take(rows), query_size, generator).rows] for rows in parts])
        kept = kept.sort().values
        choice = choose(self.of, view.take(kept), query_size, generator)
        return replace(choice, rows=kept[choice.rows])

    def workspace(self, sizes: Sizes) -> int:
        part = ceil(sizes.pool / self.into)
        kept = min(sizes.pool, self.into * sizes.query_size)
        return max(self.of.workspace(replace(sizes, pool=each)) for each in (part, kept))


@dataclass(frozen=True)
class Balanced(Composed):
    """What another strategy asks, but so much of each predicted class that the labeled set becomes as even as it can: the
    classes that have the fewest labels come first (Bengar et al., 2022). For pools that hold much of few classes.

    Args: of: the strategy.
    """

    of: QueryStrategy
    keeps_prefix = False

    @property
    def parts(self) -> Sequence[QueryStrategy]:
        return (self.of,)

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return together(self.of.needs, {"pool": ("probs",)})

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        classes_of = view.pool.map(lambda signals: predicted(self, signals["probs"]).float(), ("probs",)).long()
        classes = int(torch.cat([classes_of, view.labeled["target"].long().flatten()]).max()) + 1
        there, known = (torch.bincount(each.long(), minlength=classes) for each in (classes_of, view.labeled["target"]))
        quotas = turns.evened_out(known, there, query_size, generator)
        scores = self.of.scores(view, generator) if isinstance(self.of, Scoring) else None
        chosen, found = [], []
        for number in quotas.nonzero().flatten().tolist():
            rows, quota = (classes_of == number).nonzero().flatten(), int(quotas[number])
            if scores is None:
                chosen.append(rows[choose(self.of, view.take(rows), quota, generator).rows])
            else:
                chosen.append(rows[top_k(scores[rows], quota, generator, by=repr(self.of))])
                found.append(scores[chosen[-1]])
        rows = torch.cat(chosen)
        in_turn = turns.occurrence(classes_of[rows]).sort(stable=True).indices
        return Choice(rows[in_turn], torch.cat(found)[in_turn] if found else None)


def _several(by: QueryStrategy, of: Sequence[QueryStrategy]) -> tuple[QueryStrategy, ...]:
    """Raises ValueError where this is no list of two or more."""
    if not isinstance(of, Sequence) or isinstance(of, str) or len(of) < 2:
        raise ValueError(f"{type(by).__name__}(of={of!r}) takes a list of two strategies or more.")
    return tuple(of)


def _numbers(by: QueryStrategy, name: str, given: Sequence[float]) -> tuple[float, ...]:
    """Raises ValueError where this is no list of numbers."""
    if not isinstance(given, Sequence) or not all(isinstance(each, Real) for each in given):
        raise ValueError(f"{type(by).__name__}({name}={given!r}) takes a list of numbers.")
    return tuple(given)


def _shares(by: QueryStrategy, name: str, given: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Raises ValueError where there is not one for each, not negative, and more than nothing in all."""
    shares = (1.0,) * count if given is None else _numbers(by, name, given)
    if len(shares) != count or not all(each >= 0 and isfinite(each) for each in shares) or not sum(shares) > 0:
        raise ValueError(
            f"{type(by).__name__}({name}={[*shares]}) needs one for each of its {count} strategies, none negative, and not "
            f"all 0."
        )
    return shares
