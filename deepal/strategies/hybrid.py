"""Strategies made of strategies."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepal.strategies.base import Choice, Needs, QueryStrategy, View, choose


@dataclass(frozen=True)
class Prefilter(QueryStrategy):
    """Keep what `by` chooses first, and let `then` choose among that: an expensive or diverse strategy on a short list.

    What `then` needs of the pool is read for the rows kept alone, in a second scan.

    Args:
        by: chooses the short list.
        then: chooses from it.
        keep: length of the short list (of the query, where that is longer), or
        factor: its length in multiples of the query size. One of the two is given; the factor is 10 where neither is.
    """

    by: QueryStrategy
    then: QueryStrategy
    keep: int | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.factor is not None:
            raise ValueError(f"Prefilter takes keep={self.keep} or factor={self.factor}, not both.")
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"Prefilter(keep={self.keep}) must keep at least one row.")
        if self.factor is not None and not self.factor >= 1:
            raise ValueError(f"Prefilter(factor={self.factor}) must be at least 1: fewer rows than the query cannot do.")

    @property
    def needs(self) -> Needs:  # type: ignore[override]  # what its parts need, said of both
        sets = {**self.by.needs, **self.then.needs}
        return {of: tuple(dict.fromkeys((*self.by.needs.get(of, ()), *self.then.needs.get(of, ())))) for of in sets}

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]  # up to `keep`; with a factor, each query has a list of its own
        return self.keep is not None and self.then.keeps_prefix

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        kept = choose(self.by, view, self._keep(query_size), generator).rows.sort().values
        choice = choose(self.then, view.take(kept), query_size, generator)
        return Choice(kept[choice.rows], choice.scores)

    def _keep(self, query_size: int) -> int:
        if self.keep is not None:
            return max(self.keep, query_size)
        return round(query_size * (self.factor or 10))


@dataclass(frozen=True)
class PerGroup(QueryStrategy):
    """What another strategy asks, but no more than `limit` images of one group (a patient, a video) in a query, as long as
    there are others: images of one group say much the same.

    Args: of: the strategy; limit: images of one group a query.
    """

    of: QueryStrategy
    limit: int = 1

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"PerGroup(limit={self.limit}) must be at least 1.")

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return {**self.of.needs, "pool": (*self.of.needs.get("pool", ()), "group")}

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]
        return self.of.keeps_prefix

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        """Longer and longer queries of `of`, until enough of one are within the limit; then its others, one more of each
        group at a time."""
        groups, state, asked = view.pool["group"], generator.get_state(), query_size
        while True:
            generator.set_state(state)  # the same coins for each length, so that longer queries begin like shorter ones
            choice = choose(self.of, view, asked, generator)
            turn = _occurrence(groups[choice.rows]) // self.limit
            if int((turn == 0).sum()) >= query_size or asked >= len(view.pool):
                first = turn.sort(stable=True).indices[:query_size]
                return Choice(choice.rows[first], None if choice.scores is None else choice.scores[first])
            asked *= 2


def _occurrence(groups: Tensor) -> Tensor:
    """(n,), how often the group of each row has come before."""
    order = groups.sort(stable=True).indices
    of_sorted = groups[order]
    starts = torch.cat([torch.ones(1, dtype=torch.bool), of_sorted[1:] != of_sorted[:-1]])[: len(groups)]
    row = torch.arange(len(groups))
    first = torch.where(starts, row, 0).cummax(0).values if len(groups) else row
    return torch.empty_like(row).index_copy_(0, order, row - first)
