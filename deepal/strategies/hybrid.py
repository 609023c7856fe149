"""Strategies made of strategies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Literal

import torch
from torch import Tensor

from deepal.functional import fisher, noise, turns
from deepal.numeric import is_count
from deepal.strategies.base import (
    Choice,
    Composed,
    Needs,
    QueryStrategy,
    Scoring,
    Sizes,
    View,
    choose,
    one_a_sample,
    together,
    top_k,
)


@dataclass(frozen=True)
class Prefilter(Composed):
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
        super().__post_init__()
        if self.keep is not None and self.factor is not None:
            raise ValueError(f"Prefilter takes keep={self.keep} or factor={self.factor}, not both.")
        if self.keep is not None and not is_count(self.keep):
            raise ValueError(f"Prefilter(keep={self.keep}) must be a whole number of rows, 1 at least.")
        if self.factor is not None and not 1 <= self.factor < inf:
            raise ValueError(
                f"Prefilter(factor={self.factor}) must be a number, 1 at least: fewer rows than the query cannot do."
            )

    @property
    def parts(self) -> tuple[QueryStrategy, ...]:
        return self.by, self.then

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]  # up to `keep`; with a factor, each query has a list of its own
        return self.keep is not None and self.then.keeps_prefix

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        kept = choose(self.by, view, self._keep(query_size), generator).rows.sort().values
        choice = choose(self.then, view.take(kept), query_size, generator)
        return Choice(kept[choice.rows], choice.scores, choice.notes)

    def workspace(self, sizes: Sizes) -> int:
        kept = min(self._keep(sizes.query_size), sizes.pool)
        by, then = replace(sizes, query_size=kept), replace(sizes, pool=kept)
        return max(self.by.workspace(by), self.then.workspace(then))

    def _keep(self, query_size: int) -> int:
        if self.keep is not None:
            return max(self.keep, query_size)
        return round(query_size * (self.factor or 10))


@dataclass(frozen=True)
class PerGroup(Composed):
    """What another strategy asks, but no more than `limit` images of one group (a patient, a video) in a query, as long as
    there are others: images of one group say much the same.

    Args: of: the strategy; limit: images of one group a query.
    """

    of: QueryStrategy
    limit: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_count(self.limit):
            raise ValueError(f"PerGroup(limit={self.limit}) must be a whole number, 1 at least.")

    @property
    def parts(self) -> tuple[QueryStrategy, ...]:
        return (self.of,)

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return together(self.of.needs, {"pool": ("group",)})

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]
        return self.of.keeps_prefix

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        """Longer and longer queries of `of`, until one has as many within the limit as are wanted, or can be; then its
        others, one more of each group at a time."""
        groups, state, asked = view.pool["group"], generator.get_state(), query_size
        possible = int(groups.unique(return_counts=True)[1].clamp_max(self.limit).sum())
        while True:
            generator.set_state(state)  # the same coins for each length, so that longer queries begin like shorter ones
            choice = choose(self.of, view, asked, generator)
            turn = turns.occurrence(groups[choice.rows]) // self.limit
            if int((turn == 0).sum()) >= min(query_size, possible):
                first = turn.sort(stable=True).indices[:query_size]
                return replace(
                    choice, rows=choice.rows[first], scores=None if choice.scores is None else choice.scores[first]
                )
            asked *= 2


@dataclass(frozen=True)
class Projected(Composed):
    """What another strategy asks for by the directions alone in which embeddings are spread most (their principal
    components, from the mean of the pool): of many features, by which distances say little, what can be compared.

    Args: of: the strategy; width: how many directions.
    """

    of: QueryStrategy
    width: int = 32
    projects = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_count(self.width):
            raise ValueError(f"Projected(width={self.width}) must be a whole number, 1 at least.")
        _refuse_no_comparison(self, self.of)

    @property
    def parts(self) -> tuple[QueryStrategy, ...]:
        return (self.of,)

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]
        return self.of.keeps_prefix

    def workspace(self, sizes: Sizes) -> int:
        width = min(self.width, sizes.embedding)
        rows = sizes.pool + sizes.labeled
        directions = fisher.workspace_of_directions(sizes.embedding) if width < sizes.embedding else 0
        return (
            4 * rows * width + directions + self.of.workspace(replace(sizes, widths={**sizes.widths, "embedding": width}))
        )

    def once(self, view: View, query_size: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        return self.of.once(self._projected(view), query_size, generator)

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        return choose(self.of, self._projected(view), query_size, generator)

    def _projected(self, view: View) -> View:
        (points,) = one_a_sample(self, view.pool["embedding"])
        if self.width >= points.shape[1]:
            return view
        sets = {"pool": view.pool}
        if "embedding" in self.needs.get("labeled", ()):
            sets["labeled"] = view.labeled
        mean = fisher.mean(points)
        directions = fisher.principal_directions(points, self.width, mean).float()
        joined = {
            of: each.joined({"embedding": fisher.projected(each["embedding"], directions, mean)})
            for of, each in sets.items()
        }
        return replace(view, **joined)


@dataclass(frozen=True)
class ComparedBy(Composed):
    """What another strategy asks for where it compares images by another signal than their embedding:
    `ComparedBy(CoreSet(), "latent")` covers the latent of `VAAL`.

    Args: of: the strategy; signal: the name of the other, (B, D).
    """

    of: QueryStrategy
    signal: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_no_comparison(self, self.of)

    @property
    def parts(self) -> tuple[QueryStrategy, ...]:
        return (self.of,)

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return {
            of: tuple(dict.fromkeys(self.signal if name == "embedding" else name for name in names))
            for of, names in self.of.needs.items()
        }

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]
        return self.of.keeps_prefix

    def workspace(self, sizes: Sizes) -> int:
        return self.of.workspace(replace(sizes, widths={**sizes.widths, "embedding": sizes.widths.get(self.signal, 0)}))

    def once(self, view: View, query_size: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        return self.of.once(self._renamed(view), query_size, generator)

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        return choose(self.of, self._renamed(view), query_size, generator)

    def _renamed(self, view: View) -> View:
        sets = {"pool": view.pool, "labeled": view.labeled, "holdout": view.holdout}
        return replace(
            view,
            **{
                of: sets[of].joined({"embedding": sets[of][self.signal]})
                for of, names in self.of.needs.items()
                if "embedding" in names
            },
        )


def _refuse_no_comparison(by: QueryStrategy, of: QueryStrategy) -> None:
    """Raises ValueError where a strategy does not compare images by any representation."""
    if of.of_last_layer or "embedding" not in of.needs.get("pool", ()):
        raise ValueError(
            f"{type(by).__name__}(of={of!r}) takes a strategy that compares embeddings, such as CoreSet(), and not one "
            f"that reads them as inputs of the last layer."
        )


Kind = Literal["power", "softmax", "softrank"]


@dataclass(frozen=True)
class Stochastic(Composed):
    """A query drawn by the scores of another acquisition, not cut off at the largest: what scores high alone may say the
    same twice (Kirsch et al., 2023). It is a draw without replacement in proportion to s^beta (`power`), exp(beta s)
    (`softmax`) or rank^-beta (`softrank`), by Gumbel noise on the logarithm; noise belongs to a sample, so that it is the
    same however the pool is cut up. PowerBALD is `Stochastic(of=BALD())`.

    Args: of: gives the scores; kind: as above; beta: 0 is uniform, and the larger the nearer to the largest scores.
    """

    of: Scoring
    kind: Kind = "power"
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.of, Scoring):
            raise ValueError(
                f"Stochastic(of={self.of!r}) draws by the scores of single samples, which this does not give; BALD() and "
                f"Margin() do, and so does every Acquisition."
            )
        if self.kind not in _LOG_WEIGHTS:
            raise ValueError(f"Stochastic(kind={self.kind!r}) must be one of {', '.join(_LOG_WEIGHTS)}.")
        if not (self.beta >= 0 and isfinite(self.beta)):
            raise ValueError(f"Stochastic(beta={self.beta}) must be a number from 0 on.")

    @property
    def parts(self) -> tuple[QueryStrategy, ...]:
        return (self.of,)

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        scores = self.of.scores(view, generator)
        if self.kind == "power" and len(scores) and scores.min() < -1e-6:
            raise ValueError(
                f"{self!r} raises scores to a power, and some are negative; take kind='softmax' or 'softrank'."
            )
        seed, positions = noise.seed_of(generator), view.pool.positions
        weighed = _LOG_WEIGHTS[self.kind](
            scores.double(), self.beta, lambda: noise.uniform(seed, positions, torch.tensor(1))
        )
        perturbed = weighed + noise.gumbel(seed, positions)
        rows = top_k(perturbed, query_size, generator, by=repr(self))
        return Choice(rows, scores[rows])


def _power(scores: Tensor, beta: float, toss: Callable[[], Tensor]) -> Tensor:
    """No score has no weight beside others, whatever beta, but for 0, which is uniform."""
    weighed = beta * scores.clamp_min(torch.finfo(torch.float32).tiny).log()
    return weighed.masked_fill(scores <= 0, _NO_WEIGHT) if beta else weighed


def _softrank(scores: Tensor, beta: float, toss: Callable[[], Tensor]) -> Tensor:
    """By the place of each score among all, from 1 for the largest; between equal scores coins decide."""
    order = toss().argsort()
    order = order[scores[order].argsort(descending=True, stable=True)]
    places = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)
    return -beta * torch.empty_like(places).index_copy_(0, order, places).log()


_NO_WEIGHT = -1e9  # and noise beside it, so that of rows that have none each is as likely
_LOG_WEIGHTS: Mapping[Kind, Callable[[Tensor, float, Callable[[], Tensor]], Tensor]] = {
    "power": _power,
    "softmax": lambda scores, beta, toss: beta * scores,
    "softrank": _softrank,
}
