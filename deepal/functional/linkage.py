"""Clusters by average linkage, of tens of thousands of rows, without a distance matrix. N rows, D features.

The mean squared distance between the rows of two clusters is |c - c'|^2 + s + s', of their centroids c and their mean
squared distances s to these, so that a cluster is a point and a number. And a pair of clusters, each the other's nearest,
stays such a pair whatever else is merged: all these pairs are merged at once, round after round, and what comes out is the
tree that merging one closest pair after another would have made (Murtagh, 1983).
"""

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from deepal.functional.geometry import full_precision

_PRODUCTS = 2**22  # of distances at a time
_TIE = 2.0**-44  # of squared norms: distances that differ by less are as close


def workspace(rows: int, width: int) -> int:
    """Bytes that average linkage holds at most. Args: rows: N; width: D."""
    return 24 * min(rows * rows, _PRODUCTS) + 24 * rows * width


@full_precision()
def average_linkage(points: Tensor, clusters: int) -> Tensor:
    """Agglomerative clusters by the mean squared distance between their rows, down to so many  (Sokal & Michener, 1958).
    Between pairs that are as close a coin of their own decides.

    Args: points: (N, D); clusters: from 1; there are N where it is more. Returns (N,) integers from 0, numbered by the
    first row of each. Raises ValueError where a value is not finite.

    >>> average_linkage(torch.tensor([[0.0], [1.0], [9.0], [9.5]]), 2)
    tensor([0, 0, 1, 1])
    """
    if not points.isfinite().all():
        raise ValueError("average linkage needs finite features, and some are NaN or infinite.")
    count = len(points)
    merged = _merges(points)[: max(0, count - max(1, clusters))]
    edges = coo_array((torch.ones(len(merged)).numpy(), (merged[:, 0].numpy(), merged[:, 1].numpy())), (count, count))
    return torch.from_numpy(connected_components(edges, directed=False)[1]).long()


def _merges(points: Tensor) -> Tensor:
    """(N - 1, 2), a row of either cluster that was merged, the closest pair of clusters first."""
    distinct, kind, copies = points.unique(dim=0, return_inverse=True, return_counts=True)
    row = torch.full((len(distinct),), len(points)).scatter_reduce_(0, kind, torch.arange(len(points)), "amin")
    is_copy = row[kind] != torch.arange(len(points))
    pairs = [torch.stack([row[kind][is_copy], is_copy.nonzero().squeeze(1)], 1)]
    centroid = distinct.double() - points.mean(0, dtype=torch.float64)
    size, spread = copies.double(), centroid.new_zeros(len(distinct))
    coin = torch.rand(len(distinct), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    heights = [centroid.new_zeros(len(pairs[0]))]
    if len(row) < 2:
        return pairs[0]
    distance, nearest = _nearest(centroid, spread, coin, torch.arange(len(row)))
    while len(row) > 1:
        here = torch.arange(len(row))
        first = here[(nearest[nearest] == here) & (here < nearest)]
        if not len(first):  # rounding, among equal distances
            first = distance.argmin().unsqueeze(0)
        second = nearest[first]
        pairs.append(torch.stack([row[first], row[second]], 1))
        heights.append(distance[first])
        changed = torch.zeros(len(row), dtype=torch.bool)
        changed[torch.cat([first, second])] = True
        changed |= changed[nearest]
        a, b = (size[each].unsqueeze(1) for each in (first, second))
        between = (centroid[first] - centroid[second]).square().sum(1)
        a_share, b_share = (a / (a + b)).squeeze(1), (b / (a + b)).squeeze(1)
        spread[first] = a_share * spread[first] + b_share * spread[second] + a_share * b_share * between
        centroid[first] = (a * centroid[first] + b * centroid[second]) / (a + b)
        size[first] += size[second]
        stays = torch.ones(len(row), dtype=torch.bool).index_fill_(0, second, False)
        place = stays.cumsum(0) - 1
        row, size, spread, coin, centroid = (each[stays] for each in (row, size, spread, coin, centroid))
        distance, nearest, changed = distance[stays], place[nearest[stays]], changed[stays]
        if len(row) > 1:
            distance[changed], nearest[changed] = _nearest(centroid, spread, coin, changed.nonzero().squeeze(1))
    return torch.cat(pairs)[torch.cat(heights).sort(stable=True).indices]


def _nearest(centroid: Tensor, spread: Tensor, coin: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of these clusters, the mean squared distance to the nearest other, and which that is. Rounding may tell equal
    distances apart otherwise for one of a pair than for the other, and the first of several would be the nearest to all: no
    more than one pair at a time would be each other's nearest. A coin of the pair itself, as small as rounding, decides."""
    norm2 = centroid.square().sum(1) + spread
    least = _TIE * float(norm2.max())
    found = []
    for some in rows.split(max(1, _PRODUCTS // max(1, len(centroid)))):
        apart = torch.addmm(norm2, centroid[some], centroid.T, alpha=-2).add_(norm2[some].unsqueeze(1))
        apart.add_((coin[some].unsqueeze(1) + coin).frac_(), alpha=least)
        apart[torch.arange(len(some)), some] = torch.inf
        found.append(apart.min(1))
    if not found:
        return centroid.new_empty(0), torch.empty(0, dtype=torch.long)
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
