"""Strategies after which every image has one like it among the labeled (`functional.herding`)."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from deepal.functional import competence, herding, neighbors, uncertainty
from deepal.functional.geometry import directions
from deepal.strategies.base import Choice, QueryStrategy, Sizes, View, one_a_sample

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaxHerding(QueryStrategy):
    """The rows to which all others are most similar, by a Gaussian kernel on directions from the mean: the best of the
    coverage methods where labels are few (Bae et al., 2024).

    Args:
        width: of the kernel exp(-(distance / width)^2).
        anchors: where the pool is larger, so many of its rows, drawn at random, stand for all.
    """

    width: float = 1.0
    anchors: int = 20_000
    needs = {"pool": ("embedding",), "labeled": ("embedding",)}

    def __post_init__(self) -> None:
        if not self.width >= _NARROWEST or self.anchors < 1:
            raise ValueError(f"{self!r} needs a width of at least {_NARROWEST}, and anchors.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        points, labeled = directions(*one_a_sample(self, view.pool["embedding"], view.labeled["embedding"]))
        kernel = herding.Gaussian(points, points[_some(len(points), self.anchors, generator)], self.width)
        rows, gains = herding.herd(kernel, query_size, cover=kernel.cover(labeled))
        return Choice(rows, gains)

    def workspace(self, sizes: Sizes) -> int:
        return herding.workspace(sizes.pool, sizes.labeled, min(self.anchors, sizes.pool), sizes.embedding)


@dataclass(frozen=True)
class UHerding(QueryStrategy):
    """MaxHerding in which a row matters by how uncertain it is, so that it turns from coverage to uncertainty as labels
    come (Bae et al., 2025).

    A row weighs one minus its margin, with logits divided by a temperature; the kernel is as wide as the smallest distance
    between labeled rows, so that it narrows as they fill the space. With nothing labeled all rows weigh the same, and it is
    MaxHerding.

    Args:
        temperature: above 0, of the logits; None for the one that calibrates them best on the validation set, from 1 to
            20, and 1 where there is none.
        anchors: as for `MaxHerding`.
    """

    temperature: float | None = None
    anchors: int = 20_000
    needs = {"pool": ("embedding", "logits"), "labeled": ("embedding",), "holdout": ("logits",)}

    def __post_init__(self) -> None:
        if not (self.temperature is None or self.temperature > 0) or self.anchors < 1:
            raise ValueError(f"{self!r} needs a temperature above 0, and anchors.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        embedding, logits = one_a_sample(self, *view.pool["embedding", "logits"])
        points, labeled = directions(*one_a_sample(self, embedding, view.labeled["embedding"]))
        at = _some(len(points), self.anchors, generator)
        weights, width = torch.ones(len(at)), 1.0
        if len(labeled):
            some = logits[at].double()
            weights = uncertainty.margin(torch.softmax((some - some.amax(1, True)) / self._temperature(view), -1))
            width = max(_NARROWEST, _smallest_distance(labeled))
        kernel = herding.Gaussian(points, points[at], width)
        rows, gains = herding.herd(kernel, query_size, weights, kernel.cover(labeled))
        return Choice(rows, gains, {"width": width})

    def workspace(self, sizes: Sizes) -> int:
        compared = 8 * sizes.labeled * sizes.embedding  # labeled rows with each other
        return compared + herding.workspace(sizes.pool, sizes.labeled, min(self.anchors, sizes.pool), sizes.embedding)

    def _temperature(self, view: View) -> float:
        if self.temperature is not None or not len(view.holdout):
            return self.temperature or 1.0
        return uncertainty.calibrating_temperature(view.holdout["logits"], view.holdout["target"])


@dataclass(frozen=True)
class FacilityLocation(QueryStrategy):
    """The rows to which all others are most similar, by the cosine of their directions from the mean: the second step of
    Suggestive Annotation, whose first is a `Prefilter` by uncertainty (Yang et al., 2017).

    Args: anchors: as for `MaxHerding`.
    """

    anchors: int = 20_000
    needs = {"pool": ("embedding",), "labeled": ("embedding",)}

    def __post_init__(self) -> None:
        if self.anchors < 1:
            raise ValueError(f"{self!r} needs anchors.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        points, labeled = directions(*one_a_sample(self, view.pool["embedding"], view.labeled["embedding"]))
        kernel = herding.Cosine(points, points[_some(len(points), self.anchors, generator)])
        rows, gains = herding.herd(kernel, query_size, cover=kernel.cover(labeled))
        return Choice(rows, gains)

    def workspace(self, sizes: Sizes) -> int:
        return herding.workspace(sizes.pool, sizes.labeled, min(self.anchors, sizes.pool), sizes.embedding)


@dataclass(frozen=True)
class ProbCover(QueryStrategy):
    """The balls of one radius that cover most of what no labeled row's ball covers, on directions from the mean
    (Yehuda et al., 2022).

    The radius decides everything. By the authors' rule it is the largest at which 95 % of all balls hold one class only,
    with the clusters of k-means for classes; on raw pixels that is too small, and it is said where balls are so small that
    the query cannot cover a tenth of the pool. `MaxHerding` has no such cliff.

    Args:
        radius: above 0; None for the rule.
        purity: the share of balls of one class, for the rule.
        classes: as many clusters are made for the rule; as many as labels are asked for by default.
    """

    radius: float | None = None
    purity: float = 0.95
    classes: int | None = None
    needs = {"pool": ("embedding",), "labeled": ("embedding",)}

    def __post_init__(self) -> None:
        _refuse_rule(self, self.radius, self.purity, self.classes)

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]  # unless the radius comes of the query size
        return self.radius is not None or self.classes is not None

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        points, labeled = directions(*one_a_sample(self, view.pool["embedding"], view.labeled["embedding"]))
        radius = self.radius or _pure_radius(points, self.classes or query_size, self.purity, generator)
        balls, covered = neighbors.balls(points, radius), _covered(points, labeled, radius)
        _warn_of_small_balls(self, radius, balls, query_size)
        order = torch.randperm(len(points), generator=generator).to(points.device)
        rows, gains = herding.max_cover(balls, query_size, covered, order)
        return Choice(rows, gains.double(), {"radius": radius})

    def workspace(self, sizes: Sizes) -> int:
        """But for the balls, which the radius decides: 12 bytes for each row in each of them."""
        directions = herding.workspace(sizes.pool, sizes.labeled, 0, sizes.embedding)
        return directions + neighbors.workspace_of_balls(sizes.pool)


@dataclass(frozen=True)
class DCoM(QueryStrategy):
    """Coverage while little is covered, margin when much is: the more of the pool lies in balls around labels, the more
    uncertainty counts (Mishal & Weinshall, 2024).

    Each labeled row has a ball of its own, the largest in which enough rows are predicted to be of its class; the pool's
    balls have the mean of these radii. A row is worth S (1 - margin) + (1 - S) (what its ball would cover), both brought
    to [0, 1] for each choice, with S the competence p / (1 + exp(-k (coverage - a))), which is 1 at full coverage.
    Published code carries radii from cycle to cycle and finds new ones for new labels alone; here they are found anew for
    all labels, from the first radius, with the model of the cycle.

    Args:
        radius: of the balls while nothing is labeled; None for `ProbCover`'s rule.
        purity, classes: for the rule.
        steepness, center: of the competence, k and a.
    """

    radius: float | None = None
    purity: float = 0.95
    classes: int | None = None
    steepness: float = 50.0
    center: float = 0.8
    needs = {"pool": ("embedding", "probs"), "labeled": ("embedding",)}

    def __post_init__(self) -> None:
        _refuse_rule(self, self.radius, self.purity, self.classes)

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]
        return self.radius is not None or self.classes is not None

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        embedding, probs = one_a_sample(self, *view.pool["embedding", "probs"])
        points, labeled = directions(*one_a_sample(self, embedding, view.labeled["embedding"]))
        radius = self.radius or _pure_radius(points, self.classes or query_size, self.purity, generator)
        covered, doubt = torch.zeros(len(points), dtype=torch.bool, device=points.device), 0.0
        if len(labeled):
            coverage = float(_covered(points, labeled, radius).double().mean())
            target, purity = view.labeled["target"], 0.2 * coverage + 0.4
            radii = competence.pure_radii(points, probs.argmax(1), labeled, target, purity)
            covered = competence.covered(points, labeled, radii)
            doubt = competence.competence(float(covered.double().mean()), self.steepness, self.center)
            radius = float(radii.mean())
        balls = neighbors.balls(points, radius)
        order = torch.randperm(len(points), generator=generator).to(points.device)
        rows = competence.cover_and_doubt(balls, query_size, covered, uncertainty.margin(probs), doubt, order)
        return Choice(rows, notes={"radius": radius, "competence": doubt})

    def workspace(self, sizes: Sizes) -> int:
        """But for the balls, which the radius decides: 12 bytes for each row in each of them."""
        directions = herding.workspace(sizes.pool, sizes.labeled, 0, sizes.embedding)
        return 3 * directions + neighbors.workspace_of_balls(sizes.pool)  # with what is compared with what is labeled


_NARROWEST = 1e-6  # a kernel between directions in single precision: within less there are copies alone


def _some(count: int, most: int, generator: torch.Generator) -> Tensor:
    """All rows, or so many of them."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:most].sort().values


def _smallest_distance(points: Tensor) -> float:
    """The smallest distance between rows that are not copies of each other; 1 where there are none."""
    distinct = points.unique(dim=0)
    return float(neighbors.k_nearest(distinct, 1)[0].min().sqrt()) if len(distinct) > 1 else 1.0


def _covered(points: Tensor, labeled: Tensor, radius: float) -> Tensor:
    """Which rows lie within a radius of something labeled."""
    if not len(labeled):
        return torch.zeros(len(points), dtype=torch.bool, device=points.device)
    return neighbors.nearest(points, labeled)[0].squeeze(1) < radius**2


def _pure_radius(points: Tensor, classes: int, purity: float, generator: torch.Generator) -> float:
    """A radius by the rule, of two classes at least: within one all balls are pure, and would hold everything."""
    return min(neighbors.pure_radius(points, max(2, classes), purity, generator), _WIDEST)


_WIDEST = 2.0  # between directions


def _refuse_rule(strategy: QueryStrategy, radius: float | None, purity: float, classes: int | None) -> None:
    if not (radius is None or radius > 0) or not 0 < purity <= 1 or not (classes is None or classes > 0):
        raise ValueError(f"{strategy!r} needs a radius and classes above 0, or None, and a purity above 0 and up to 1.")


def _warn_of_small_balls(strategy: QueryStrategy, radius: float, balls: neighbors.Balls, query_size: int) -> None:
    mean = len(balls.members) / max(1, len(balls.starts) - 1)
    if mean * 10 * query_size < len(balls.starts) - 1:
        log.warning(
            "%r: a ball of radius %.3g holds %.1f of %d rows on average, so that %d of them cover little, and the rest is "
            "left to chance; give a larger radius, or take MaxHerding().",
            strategy, radius, mean, len(balls.starts) - 1, query_size,
        )  # fmt: skip
