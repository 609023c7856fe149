"""Choosing rows that cover a set: greedy k-center and D^2 sampling. N rows, D features, K rows to choose.

Both choose row after row, so the first k of K rows are what a budget of k would have chosen, and both ask one thing of
the set, a `Geometry`: squared distances to a row. Distances are held in fp64 after centering: the expanded form
|a|^2 + |b|^2 - 2ab in fp32 can turn a distance of 0.02 into 1.4, and near-duplicates into negative numbers.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

First = Literal["max_norm", "uniform", "norm"]


class Geometry(Protocol):
    """What a selection needs to know of N rows: their squared norms, and squared distances to one of them."""

    def __len__(self) -> int: ...

    @property
    def norm2(self) -> Tensor:
        """Squared norms, (N,), fp64."""
        ...

    def dist2(self, row: int) -> Tensor:
        """Squared distances of all rows to row `row`, (N,), fp64, not negative."""
        ...


class Points:
    """Rows of plain features (N, D) under the Euclidean distance.

    Args: points (N, D); centered: measure from the rows' mean, which changes no distance and keeps their digits, but
    does change `norm2`.
    """

    def __init__(self, points: Tensor, centered: bool = True) -> None:
        self.points = points.double()
        self.origin = self.points.mean(0) if centered and len(points) else self.points.new_zeros(points.shape[1:])
        self.points = self.points - self.origin
        self.norm2 = torch.linalg.vector_norm(self.points, dim=1).square()

    def __len__(self) -> int:
        return len(self.points)

    def dist2(self, row: int) -> Tensor:
        return (self.norm2 + self.norm2[row] - 2 * (self.points @ self.points[row])).clamp_min(0)

    def nearest2(self, centers: Tensor, block: int = 1024) -> Tensor:
        """Squared distance of every row to the nearest of `centers` (L, D); infinite where there is none. Shape (N,)."""
        nearest = torch.full_like(self.norm2, torch.inf)
        for some in centers.split(block):
            others = some.double() - self.origin
            norm2 = torch.linalg.vector_norm(others, dim=1).square()
            for start in range(0, len(self), block):
                rows = slice(start, start + block)
                dist2 = torch.addmm(norm2, self.points[rows], others.T, alpha=-2).amin(1) + self.norm2[rows]
                nearest[rows] = torch.minimum(nearest[rows], dist2.clamp_min(0))
        return nearest


class FactoredGradients:
    """Rows that are last-layer gradients e h^T of shape (C, D), held as their factors (see `gradients`).

    Args: logit_gradient (N, C), embedding (N, D).
    """

    def __init__(self, logit_gradient: Tensor, embedding: Tensor) -> None:
        self.error, self.embedding = logit_gradient.double(), embedding.double()
        norms = torch.linalg.vector_norm(self.error, dim=1) * torch.linalg.vector_norm(self.embedding, dim=1)
        self.norm2 = norms.square()

    def __len__(self) -> int:
        return len(self.error)

    def dist2(self, row: int) -> Tensor:
        inner = (self.error @ self.error[row]) * (self.embedding @ self.embedding[row])
        return (self.norm2 + self.norm2[row] - 2 * inner).clamp_min(0)


def k_center(points: Tensor, centers: Tensor, query_size: int) -> Tensor:
    """Greedy k-center, farthest first: repeatedly the row farthest from all centers so far  (Gonzalez, 1985).

    The largest distance that remains is at most twice the smallest possible for as many centers. On a tie the lowest
    row wins; without centers it starts at the row farthest from the mean. Each row is taken once, duplicates included.

    Args: points (N, D); centers (L, D), L = 0 allowed; query_size K. Returns min(K, N) rows, in the order of choice.

    >>> k_center(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), torch.tensor([[0.0]]), 2)
    tensor([3, 2])
    """
    geometry = Points(points)
    nearest = geometry.nearest2(centers) if len(centers) else geometry.norm2.clone()
    chosen: list[int] = []
    for _ in range(min(query_size, len(geometry))):
        row = _first_largest(nearest)
        nearest = geometry.dist2(row) if not chosen and not len(centers) else nearest.minimum(geometry.dist2(row))
        chosen.append(row)
        nearest[row] = -1  # taken: below every distance, and it stays there
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


def _first_largest(values: Tensor) -> int:
    """Row of the largest value, the lowest on a tie (which `argmax` does not promise)."""
    return int((values == values.max()).nonzero()[0])
