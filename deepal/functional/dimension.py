"""Whether distances tell rows apart. In spaces of many dimensions the nearest row is hardly nearer than any other, and a
few rows are the nearest of most: what compares rows by distance then says little. N rows, D features.

All of these are said of a sample of rows, without copies among them: distances of zero are not of the space.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from deepal.functional import neighbors
from deepal.functional.geometry import full_precision

_SAMPLE, _NEIGHBORS = 2000, 10


class Spread(NamedTuple):
    """How distances are spread.

    Args:
        hubness: skewness of how often a row is among the 10 nearest of others; 0 where each is as often as any, above 2
            where few rows are near to most (Radovanovic et al., 2010).
        contrast: mean distance over the mean distance to the nearest; 1 where all are as far (He et al., 2012).
        dimension: of the space around a row, by how the distances to its two nearest grow (Facco et al., 2017).
    """

    hubness: float
    contrast: float
    dimension: float


@full_precision()
def spread(points: Tensor, generator: torch.Generator) -> Spread | None:
    """Of 2,000 rows drawn at random; None where there are fewer than 50 distinct ones among them.

    Args: points: (N, D).
    """
    rows = torch.randperm(len(points), generator=generator)[:_SAMPLE].sort().values
    some = points[rows].float().unique(dim=0)
    if len(some) < 5 * _NEIGHBORS:
        return None
    some = some - some.mean(0)
    dist2, near = neighbors.k_nearest(some, _NEIGHBORS)
    distance = dist2.double().sqrt()
    occurrences = torch.bincount(near.flatten(), minlength=len(some)).double()
    return Spread(_skewness(occurrences), _contrast(some, distance), _dimension(distance))


def _skewness(counts: Tensor) -> float:
    centered = counts - counts.mean()
    return float(centered.pow(3).mean() / centered.square().mean().pow(1.5).clamp_min(1e-12))


def _contrast(points: Tensor, distance: Tensor) -> float:
    count = len(points)
    return float(torch.cdist(points, points).double().sum() / (count * (count - 1)) / distance[:, 0].mean())


def _dimension(distance: Tensor) -> float:
    """By maximum likelihood: the ratios of the second distance to the first are of a Pareto law of that exponent."""
    return float((len(distance) - 1) / (distance[:, 1] / distance[:, 0]).log().sum().clamp_min(1e-12))
