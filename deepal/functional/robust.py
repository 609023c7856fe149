"""k-center with outliers, to the optimum: the radius within which all rows but some have a center. N rows, D features, K
rows to choose; for pools of some hundred rows, by mixed-integer programming (HiGHS, in SciPy)."""

from typing import NamedTuple

import torch
from torch import Tensor

from deepal.functional import coverage
from deepal.functional.geometry import Points


class Centers(NamedTuple):
    """Args: rows: (K,) in the order of choice; radius: within which all rows but the outliers have a center; proven:
    whether no smaller radius is possible."""

    rows: Tensor
    radius: float
    proven: bool


def workspace(rows: int) -> int:
    """Bytes that the search holds at most. Args: rows: N."""
    return 50 * rows * rows


def k_center(points: Tensor, centers: Tensor, query_size: int, outliers: int, nodes: int = 10_000) -> Centers:
    """The rows with the smallest radius there is, by bisection of all distances: for each, HiGHS looks for centers, or
    shows that there are none  (Sener & Savarese, 2018; their search of squared distances halves them, which leaves out the
    optimum, and lets no row be an outlier).

    Args:
        points: (N, D), N of some hundred: N^2 distances are held.
        centers: (L, D), L = 0 allowed: these are centers in any case.
        query_size: K, less than N.
        outliers: so many rows need no center.
        nodes: of the search tree of each distance, after which it counts as too small; then nothing is proven.
    """
    greedy = coverage.k_center(points, centers, query_size, ignore=outliers)
    apart, known = _apart(points, points), torch.full((len(points),), torch.inf, dtype=torch.float64)
    if len(centers):
        known = _apart(points, centers).amin(1)
    best, proven = greedy, True
    radius = _radius(apart, known, best, outliers)
    least = _radius(apart, known, torch.arange(len(points)), outliers)  # where all are centers
    possible = torch.cat([apart.flatten(), known]).unique()
    possible = possible[(possible >= least) & (possible < radius)]
    low, high = 0, len(possible)  # possible[high:] are
    while low < high:
        middle = (low + high) // 2
        found, certain = _centers_within(apart <= possible[middle], known <= possible[middle], query_size, outliers, nodes)
        if found is None:
            low, proven = middle + 1, proven and certain
        else:
            best, radius = found, _radius(apart, known, found, outliers)
            high = min(middle, int(torch.searchsorted(possible, radius)))
    for row in best:  # the search cares for no more than that there are centers: some may be of no use
        if _radius(apart, known, best[best != row], outliers) <= radius:
            best = best[best != row]
    return Centers(_in_order(points, centers, best, query_size, outliers), radius**0.5, proven)


def _centers_within(near: Tensor, known: Tensor, query_size: int, outliers: int, nodes: int) -> tuple[Tensor | None, bool]:
    """Rows so that all others but the outliers are near one, and whether it is certain that there are none."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix, eye, hstack

    open_rows = (~known).nonzero().squeeze(1)
    size, left = near.shape[1], len(open_rows)
    covered = hstack([csr_matrix(near[open_rows].double().numpy()), eye(left)])
    is_center = torch.cat([torch.ones(size), torch.zeros(left)]).double().numpy()
    solution = milp(
        c=0 * is_center,
        constraints=[
            LinearConstraint(covered, lb=1),
            LinearConstraint(is_center, ub=query_size),
            LinearConstraint(1 - is_center, ub=outliers),
        ],
        integrality=1,
        bounds=Bounds(0, 1),
        options={"node_limit": nodes},
    )
    if solution.x is None:
        return None, solution.status == _INFEASIBLE
    return torch.from_numpy(solution.x[:size] > 0.5).nonzero().squeeze(1), True


_INFEASIBLE = 2  # SciPy's word for it


def _apart(points: Tensor, others: Tensor) -> Tensor:
    """Squared distances of all rows to all others, (N, M), fp64."""
    wide = Points(points).wide(slice(None))
    return torch.stack([Points.dist2(wide, (other,)) for other in others.double()], 1)


def _radius(apart: Tensor, known: Tensor, rows: Tensor, outliers: int) -> float:
    """The squared radius of these centers, but for so many rows."""
    nearest = apart[:, rows].amin(1).minimum(known) if len(rows) else known
    return float(nearest.sort(descending=True).values[min(outliers, len(nearest) - 1)])


def _in_order(points: Tensor, centers: Tensor, rows: Tensor, query_size: int, outliers: int) -> Tensor:
    """Farthest first, and filled up with others where fewer centers do as well."""
    order = rows[coverage.k_center(points[rows], centers, len(rows))]
    others = torch.ones(len(points), dtype=torch.bool).index_fill_(0, order, False).nonzero().squeeze(1)
    known, missing = torch.cat([centers, points[order]]), query_size - len(order)
    more = coverage.k_center(points[others], known, missing, ignore=outliers)
    return torch.cat([order, others[more]])
