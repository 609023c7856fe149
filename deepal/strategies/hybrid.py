"""Strategies made of strategies."""

from dataclasses import dataclass

import torch

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
