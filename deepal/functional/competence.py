"""DCoM's balance of coverage and doubt  (Mishal & Weinshall, 2024). N rows, L labeled rows."""

from math import exp

import torch
from torch import Tensor

from deepal.functional.geometry import full_precision
from deepal.functional.herding import Cover
from deepal.functional.neighbors import Balls

_WIDEST, _RESOLUTION = 1.1, 0.05  # of the balls around labeled rows


def competence(coverage: float, steepness: float = 50.0, center: float = 0.8) -> float:
    """How much doubt counts beside coverage: p / (1 + exp(-k (coverage - a))), with p such that it is 1 at full coverage.

    >>> competence(1.0), round(competence(0.8), 3), round(competence(0.0), 3)
    (1.0, 0.5, 0.0)
    """
    return (1 + exp(-steepness * (1 - center))) / (1 + exp(min(700.0, -steepness * (coverage - center))))


@full_precision()
def pure_radii(points: Tensor, predicted: Tensor, labeled: Tensor, target: Tensor, purity: float) -> Tensor:
    """For each labeled row the radius of a ball about as large as it can be with this share of its class, by bisection of
    [0, 1.1] to 0.05.

    Args: points (N, D), what is predicted of them (N,); labeled (L, D), their classes (L,); purity: in [0, 1].
    Returns (L,).
    """
    everything, classes = torch.cat([labeled, points]), torch.cat([target, predicted])
    radii = []
    for some, wanted in zip(labeled.split(_ROWS), target.split(_ROWS), strict=True):
        distances, same = torch.cdist(some, everything), classes == wanted.unsqueeze(1)
        low, high = distances.new_zeros(len(some)), distances.new_full((len(some),), _WIDEST)
        while float((high - low).max()) > _RESOLUTION:
            middle = (low + high) / 2
            within = distances < middle.unsqueeze(1)
            pure = (within & same).sum(1) >= purity * within.sum(1)
            low, high = torch.where(pure, middle, low), torch.where(pure, high, middle)
        radii.append((low + high) / 2)
    return torch.cat(radii)


@full_precision()
def covered(points: Tensor, labeled: Tensor, radii: Tensor) -> Tensor:
    """Which rows lie in the ball of a labeled row, (N,)."""
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for some, radius in zip(labeled.split(_ROWS), radii.split(_ROWS), strict=True):
        found |= (torch.cdist(points, some) < radius).any(1)
    return found


def cover_and_doubt(
    balls: Balls, query_size: int, covered: Tensor, doubt: Tensor, competence: float, order: Tensor
) -> Tensor:
    """Greedily the rows of largest  S doubt + (1 - S) (what the ball would cover),  each brought to [0, 1] among the rows
    that are left, for each choice anew.

    Args: balls: of N rows; covered (N,), order (N,): as for `Cover`; doubt (N,); competence: S.
    Returns min(K, N) distinct rows, in the order of choice.
    """
    cover, chosen = Cover(balls, covered, order), order.new_zeros(min(query_size, len(covered)))
    for turn in range(len(chosen)):
        adds = _scaled(cover.adds.double(), cover.left)
        chosen[turn], _ = cover.choose(competence * _scaled(doubt.double(), cover.left) + (1 - competence) * adds)
    return chosen


_ROWS = 64  # labeled rows at a time


def _scaled(values: Tensor, among: Tensor) -> Tensor:
    """Values brought to [0, 1] among some rows; 0 where all are equal."""
    least, most = values[among].aminmax()
    return (values - least) / (most - least) if most > least else torch.zeros_like(values)
