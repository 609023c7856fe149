"""Choosing rows that cover a set: greedy k-center and D^2 sampling. N rows, D features, K rows to choose.

Both choose row after row, so the first k of K rows are what a budget of k would have chosen, and both ask one thing of
the set, a `Geometry`: squared distances to a row. Distances are taken from differences, in fp64, block by block: the
expanded form |a|^2 + |b|^2 - 2ab in fp32 turns a distance of 0.02 into 1.4, makes near-duplicates negative, and breaks
exact ties.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

First = Literal["max_norm", "uniform", "norm"]


_BLOCK = 2048  # rows at a time: differences of a block stay in cache


class Geometry(Protocol):
    """What a selection needs to know of N rows: their squared norms, and squared distances to one of them."""

    def __len__(self) -> int: ...

    @property
    def norm2(self) -> Tensor:
        """Squared norms, (N,), fp64."""
        ...

    def dist2(self, row: int) -> Tensor:
        """Squared distances of all rows to row `row`, (N,), fp64, not negative, 0 for equal rows."""
        ...


class Points:
    """Rows of plain features (N, D) under the Euclidean distance."""

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.norm2 = self.dist2_to(points.new_zeros(points.shape[1:]))

    def __len__(self) -> int:
        return len(self.points)

    def dist2(self, row: int) -> Tensor:
        return self.dist2_to(self.points[row])

    def dist2_to(self, place: Tensor) -> Tensor:
        """Squared distances of all rows to a place (D,), (N,), fp64."""
        place = place.double()
        return _by_block(lambda points: _square(points.double() - place), self.points)

    def dist2_to_nearest(self, centers: Tensor) -> Tensor:
        """Squared distance of every row to the nearest of `centers` (L, D), L > 0, shape (N,), fp64.

        Products find which center is nearest, in fp64 from the centers' mean; the difference to that one is the distance.
        """
        centers = centers.double()
        origin = centers.mean(0)
        moved = centers - origin
        half = _square(moved) / 2

        def dist2(points: Tensor) -> Tensor:
            points = points.double()
            best = torch.addmm(half, points - origin, moved.T, alpha=-1).argmin(1)
            return _square(points - centers[best])

        return _by_block(dist2, self.points)


class FactoredGradients:
    """Rows that are last-layer gradients e h^T of shape (C, D), held as their factors (see `gradients`).

    Distances come from e h^T - e' h'^T = (e - e') h^T + e' (h - h')^T, so that equal rows are at distance 0 exactly.

    Args: logit_gradient (N, C), embedding (N, D).
    """

    def __init__(self, logit_gradient: Tensor, embedding: Tensor) -> None:
        self.error, self.embedding = logit_gradient, embedding
        norm2 = [_by_block(lambda factor: _square(factor.double()), each) for each in (logit_gradient, embedding)]
        self.norm2 = norm2[0] * norm2[1]

    def __len__(self) -> int:
        return len(self.error)

    def dist2(self, row: int) -> Tensor:
        of_row, at_row = self.error[row].double(), self.embedding[row].double()

        def dist2(error: Tensor, embedding: Tensor) -> Tensor:
            embedding = embedding.double()
            apart, away = error.double() - of_row, embedding - at_row
            cross = (apart @ of_row) * torch.linalg.vecdot(embedding, away)
            return (_square(apart) * _square(embedding) + _square(of_row) * _square(away) + 2 * cross).clamp_min(0)

        return _by_block(dist2, self.error, self.embedding)


def k_center(points: Tensor, centers: Tensor, query_size: int) -> Tensor:
    """Greedy k-center, farthest first: repeatedly the row farthest from all centers so far  (Gonzalez, 1985).

    The largest distance that remains is at most twice the smallest possible for as many centers. On a tie the lowest
    row wins; without centers it starts at the row farthest from the mean. Each row is taken once, duplicates included.

    Args: points (N, D); centers (L, D), L = 0 allowed; query_size K. Returns min(K, N) rows, in the order of choice.

    >>> k_center(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), torch.tensor([[0.0]]), 2)
    tensor([3, 2])
    """
    if not len(points):
        return torch.empty(0, dtype=torch.long)
    geometry = Points(points)
    taken = torch.zeros(len(points), dtype=torch.bool)
    nearest = geometry.dist2_to_nearest(centers) if len(centers) else torch.full_like(geometry.norm2, torch.inf)
    first = nearest if len(centers) else geometry.dist2_to(points.double().mean(0))
    chosen: list[int] = []
    for turn in range(min(query_size, len(points))):
        row = _first_largest((nearest if turn else first).masked_fill(taken, -1))
        nearest = nearest.minimum(geometry.dist2(row))
        chosen.append(row)
        taken[row] = True
    return torch.tensor(chosen, dtype=torch.long)


def d2_sampling(geometry: Geometry, query_size: int, generator: torch.Generator, first: First = "max_norm") -> Tensor:
    """k-means++ seeding: each next row is drawn with probability proportional to its squared distance to the rows so
    far  (Arthur & Vassilvitskii, 2007).

    Args:
        geometry: the N rows.
        query_size: K; all N rows come back, in some order, where K >= N.
        generator: source of every draw.
        first: the first row is the one of largest norm (BADGE's authors), drawn uniformly (k-means++), or drawn in
            proportion to its squared norm.
    Returns min(K, N) distinct rows, in the order of choice. Where only rows of distance zero remain, the rest is uniform.

    >>> d2_sampling(Points(torch.tensor([[0.0], [0.0], [8.0]])), 2, torch.Generator().manual_seed(0))
    tensor([2, 1])
    """
    size = len(geometry)
    taken = torch.zeros(size, dtype=torch.bool)
    chosen: list[int] = []
    nearest = geometry.norm2 if first == "norm" else torch.ones(size, dtype=torch.float64)  # weights of the first draw
    for turn in range(min(query_size, size)):
        if turn == 0 and first == "max_norm":
            row = _first_largest(geometry.norm2)
        else:
            row = _draw(nearest.masked_fill(taken, 0), taken, generator)
        nearest = geometry.dist2(row) if turn == 0 else nearest.minimum(geometry.dist2(row))
        chosen.append(row)
        taken[row] = True
    return torch.tensor(chosen, dtype=torch.long)


def _draw(weights: Tensor, taken: Tensor, generator: torch.Generator) -> int:
    """One row in proportion to its weight, uniform over the rows not taken where all weights are zero.

    A cumulative sum and a search: `torch.multinomial` refuses more than 2^24 rows.
    """
    cumulative = weights.cumsum(0)
    if cumulative[-1] <= 0:
        cumulative = (~taken).double().cumsum(0)
    point = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
    row = int(torch.searchsorted(cumulative, point, right=True))
    if row == len(weights):  # the product was rounded up to the whole sum: the last row of any weight
        row = int(torch.searchsorted(cumulative, cumulative[-1]))
    return row


def _by_block(work: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    """`work` on a block of rows at a time, (N,): nothing of the size of the arrays is made."""
    blocks = [work(*some) for some in zip(*(each.split(_BLOCK) for each in arrays), strict=True)]
    return torch.cat(blocks)


def _square(rows: Tensor) -> Tensor:
    """Squared norm of each row."""
    return torch.linalg.vecdot(rows, rows)


def _first_largest(values: Tensor) -> int:
    """Row of the largest value, the lowest on a tie (which `argmax` does not promise)."""
    return int((values == values.max()).nonzero()[0])
