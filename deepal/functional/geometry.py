"""Sets of rows as greedy selection sees them: squared distances, approximate in bulk and exact where it matters.

In bulk they are matrix products in single precision, |a|^2 + |b|^2 - 2 a.b, of which is known by how much they may be
wrong. One by one they are taken from differences, in double precision: the expanded form turns a distance of 0.02 into 1.4,
makes near-duplicates negative, and breaks exact ties. Whoever chooses compares the first where they are clear, and asks for
the second where they are not, so that what is chosen is what the second alone would have chosen.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from math import frexp
from typing import NamedTuple, Self

import torch
from torch import Tensor

ROWS = 2048  # at a time: their products with some centers stay in cache


def in_cache(width: int) -> int:
    """How many rows of so many numbers stay in cache in double precision."""
    return max(1, 2**16 // max(1, width))


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of single precision are computed in it, whatever else has been asked of training: how wrong they may be is
    known then. It decorates functions too."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def working(points: Tensor) -> torch.dtype:
    """What rows are computed in: double precision where they have it, and single where they have less, or whole numbers."""
    return torch.float64 if points.dtype == torch.float64 else torch.float32


Wide = tuple[Tensor, ...]
"""The factors of some rows, (n, D) each, fp64."""


class Block(NamedTuple):
    """Some rows in single precision, moved and scaled so that their distances keep their digits.

    Args: factors: matrices (R, D), row by row; norm2: (R,), squared norms; rounding: the part of |a|^2 + |b|^2 by which a
        squared distance from products may be wrong.
    """

    factors: tuple[Tensor, ...]
    norm2: Tensor
    rounding: float

    def __len__(self) -> int:
        return len(self.norm2)

    def take(self, rows: Tensor | slice) -> "Block":
        return Block(tuple(_taken(factor, rows) for factor in self.factors), self.norm2[rows], self.rounding)

    def above(self, others: "Block") -> Tensor:
        """What squared distances (R, S) are at most; they are at least that less `slack`."""
        products = torch.mm(self.factors[0], others.factors[0].T)
        for own, other in zip(self.factors[1:], others.factors[1:], strict=True):
            products.mul_(torch.mm(own, other.T))
        more = 1 + self.rounding
        return products.mul_(-2).add_(more * others.norm2).add_((more * self.norm2).unsqueeze(1))

    def slack(self, norm2: Tensor) -> Tensor:
        """By how much what `above` says of rows may be too large, where the others have these squared norms."""
        return 2 * self.rounding * (self.norm2 + norm2)

    def slack_within(self, dist2: Tensor) -> Tensor:
        """The same for others that are not farther than these squared distances, whose norms are limited by that; and a
        hundredth more, for distances that are above these by as much."""
        return 2.02 * self.rounding * (3 * self.norm2 + 2 * dist2)


class Geometry(ABC):
    """N rows under the Euclidean distance. A row is the outer product of its factors, one or several vectors.

    Args: factors: matrices (N, D), on one device, in any precision, memory-mapped or not.
    """

    def __init__(self, *factors: Tensor) -> None:
        self.factors = factors
        self.device = factors[0].device
        self.width = sum(factor.shape[1] for factor in factors)
        self.rounding = (self.width + 8) * 2.0**-24  # a half in the last place, D times
        self._norm2: Tensor | None = None  # of all blocks, once they have been gone through

    def __len__(self) -> int:
        return len(self.factors[0])

    def beside(self, *factors: Tensor) -> Self:
        """Other rows in the same place and scale, so that blocks of both can be compared."""
        other = copy(self)
        other.factors, other._norm2 = factors, None
        return other

    @property
    @abstractmethod
    def unit(self) -> float:
        """What a squared distance of 1 between blocks is."""

    @abstractmethod
    def moved(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        """The factors of some rows in single precision, moved and scaled so that squared distances keep their digits."""

    @staticmethod
    @abstractmethod
    def dist2(one: Wide, other: Wide) -> Tensor:
        """Squared distances of some rows to others, pair by pair, or to one, (n,), fp64: not negative, 0 for equal rows."""

    def wide(self, rows: Tensor | slice) -> Wide:
        """Some rows in double precision, as they are."""
        return tuple(_taken(factor, rows).double() for factor in self.factors)

    def block(self, rows: Tensor | slice) -> Block:
        """Some rows."""
        factors = self.moved(rows)
        if self._norm2 is not None:
            return Block(factors, _taken(self._norm2, rows), self.rounding)
        return Block(factors, math.prod(torch.linalg.vector_norm(each, dim=1) for each in factors).square_(), self.rounding)

    def norm2(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Squared norms of rows, (n,), fp64."""
        norm2 = torch.ones((), dtype=torch.float64, device=self.device)
        for factor in self.factors:
            norm2 = norm2 * torch.cat([_square(some.double()) for some in factor[rows].split(ROWS)])
        return norm2

    def longest(self) -> Tensor:
        """The row of largest norm, the lowest on a tie, (1,)."""
        norm2 = torch.cat([self.length2(block) for _, block in self.blocks()])
        long = (norm2 >= norm2.max() * (1 - 8 * self.rounding)).nonzero().squeeze(1)
        return long[self.norm2(long).argmax()].unsqueeze(0)

    def length2(self, block: Block) -> Tensor:
        """Squared norms of rows, (R,), in the block's unit, as single precision has them."""
        return block.norm2

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """All rows, some at a time. Raises ValueError where rows are not finite, or too long to be
        compared."""
        norm2 = []
        for start in range(0, len(self), ROWS):
            rows = slice(start, min(start + ROWS, len(self)))
            block = self.block(rows)
            if not block.norm2.isfinite().all():
                if not all(each.isfinite().all() for each in self.wide(rows)):
                    raise ValueError(f"of rows {rows.start} to {rows.stop - 1} some are NaN or infinite; leave them out.")
                raise ValueError(
                    f"of rows {rows.start} to {rows.stop - 1} some are so much longer than the others that single "
                    f"precision cannot hold both; see what they are, or normalise the features."
                )
            norm2.append(block.norm2)
            yield rows, block
        self._norm2 = torch.cat(norm2) if norm2 else None


class Points(Geometry):
    """Rows of plain features, (N, D).

    Args: points: as `Geometry` takes them.
    """

    def __init__(self, points: Tensor) -> None:
        super().__init__(points)
        sample = _sample(points)
        mean = sample.mean(0)
        around = sample - mean
        moves = bool(mean.square().sum() > _NEAR * around.square().sum(1).mean()) or points.dtype == torch.float64
        self.origin = mean if moves else None  # any place near the rows will do, and to move them takes a copy
        self._scale = _power_of_two(around if moves else sample)

    @property
    def unit(self) -> float:
        return self._scale**-2

    def moved(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        moved = _taken(self.factors[0], rows)
        if self.origin is not None:
            moved = moved.to(self.origin.dtype) - self.origin
        return (_scaled(moved, self._scale),)

    def length2(self, block: Block) -> Tensor:
        if self.origin is None:
            return block.norm2
        origin = _scaled(self.origin, self._scale)
        return torch.linalg.vector_norm(block.factors[0] + origin, dim=1).square()

    @staticmethod
    def dist2(one: Wide, other: Wide) -> Tensor:
        return (one[0] - other[0]).square_().sum(-1)


class FactoredGradients(Geometry):
    """Rows that are last-layer gradients e h^T of shape (C, D), held as their factors (see `gradients`).

    Exact distances come from e h^T - e' h'^T = (e - e') h^T + e' (h - h')^T, so that equal rows are at distance 0.

    Args: logit_gradient (N, C), embedding (N, D).
    """

    def __init__(self, logit_gradient: Tensor, embedding: Tensor) -> None:
        super().__init__(logit_gradient, embedding)
        self._scales = [_power_of_two(_sample(factor)) for factor in self.factors]

    @property
    def unit(self) -> float:
        return (self._scales[0] * self._scales[1]) ** -2

    def moved(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        return tuple(_scaled(_taken(factor, rows), scale) for factor, scale in zip(self.factors, self._scales, strict=True))

    @staticmethod
    def dist2(one: Wide, other: Wide) -> Tensor:
        (error, embedding), (other_error, other_embedding) = one, other
        apart, away = error - other_error, embedding - other_embedding
        cross = (apart * other_error).sum(-1) * (embedding * away).sum(-1)
        dist2 = _square(apart) * _square(embedding) + _square(other_error) * _square(away) + 2 * cross
        return dist2.clamp_min_(0)


_NEAR = 4  # an origin as far as twice the spread of the rows takes two or three bits of their distances, and no copy


def directions(points: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Rows as directions from the mean of the first set, of length 1: then distances are between 0 and 2 whatever the
    representation, and squared distances are twice one minus the cosine.

    Args: points (N, D), others (M, D). Returns as many sets, in single precision or better; a row at the mean stays there.

    >>> directions(torch.tensor([[1.0, 1.0], [1.0, 3.0], [1.0, 5.0]]))[0].tolist()
    [[0.0, -1.0], [0.0, 0.0], [0.0, 1.0]]
    """
    rows, made = in_cache(points.shape[1]), []
    mean = torch.stack([some.sum(0, dtype=torch.float64) for some in points.split(rows)]).sum(0) / max(1, len(points))
    for each in (points, *others):
        moved = torch.empty(each.shape, dtype=working(each), device=each.device)
        for some, place in zip(each.split(rows), moved.split(rows), strict=True):
            place.copy_(some.double() - mean)
            place /= torch.linalg.vector_norm(place, dim=1, keepdim=True).clamp_min(torch.finfo(place.dtype).tiny)
        made.append(moved)
    return tuple(made)


def _square(rows: Tensor) -> Tensor:
    """Squared norm of each row."""
    return rows.square().sum(-1)


def _taken(factor: Tensor, rows: Tensor | slice) -> Tensor:
    """Some rows of a factor (for several, `factor[rows]` takes twice the time)."""
    return factor[rows] if isinstance(rows, slice) else factor.index_select(0, rows)


def _sample(rows: Tensor) -> Tensor:
    """Some rows, evenly, in single precision or better; a row of zeros where there are none."""
    some = rows[:: max(1, len(rows) // ROWS)] if len(rows) else rows.new_zeros(1, rows.shape[1])
    return some.to(working(some))


def _power_of_two(sample: Tensor) -> float:
    """What brings the largest number of a sample near 1, without a rounding; 1 where its square is far from the ends of
    single precision as it is."""
    power = frexp(float(sample.abs().max()))[1]
    return 1.0 if abs(power) < 32 else 2.0**-power


def _scaled(rows: Tensor, scale: float) -> Tensor:
    """Rows times a power of two, in single precision; where nothing has to be done, as they are."""
    return (rows * scale).float() if scale != 1 else rows.float()
