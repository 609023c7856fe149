"""Choosing rows that stand for the others: each row is as well represented as by the most similar of those that were
chosen, and the next choice is the one that adds most  (greedy maximisation of a submodular function: at least 1 - 1/e of
what is possible, Nemhauser et al., 1978). N rows, K rows to choose.

With a similarity of 1 within a radius and 0 beyond, that is max cover (ProbCover); with a kernel that falls smoothly,
MaxHerding; with weights for how much each row matters, UHerding; with cosines, facility location.
"""

from abc import ABC, abstractmethod
from collections import Counter

import torch
from torch import Tensor

from deepal.functional.geometry import ROWS, full_precision, working
from deepal.functional.neighbors import Balls


class Kernel(ABC):
    """Similarities between rows, not negative, and never all of them at once.

    Args:
        points: (N, D), the rows.
        anchors: (M, D), what is to be represented; the rows themselves by default. Where there are very many rows, a
            random part of them stands for all.
    """

    def __init__(self, points: Tensor, anchors: Tensor | None = None) -> None:
        self.points = points
        self.anchors = points if anchors is None else anchors
        self.dtype = working(points)  # in which they are compared

    @abstractmethod
    def between(self, points: Tensor, anchors: Tensor) -> Tensor:
        """Similarities of some with others, (n, m), in [0, 1], in `dtype`."""

    @full_precision()
    def cover(self, points: Tensor) -> Tensor:
        """How well each anchor is represented by these rows, (M,); not at all where there are none."""
        cover = self.anchors.new_zeros(len(self.anchors), dtype=self.dtype)
        for some, best in zip(self.anchors.split(ROWS), cover.split(ROWS), strict=True):
            for each in points.split(ROWS) if len(points) else ():
                torch.maximum(best, self.between(each, some).amax(0), out=best)
        return cover


class Gaussian(Kernel):
    """exp(-|a - b|^2 / width^2), without a half in the exponent, as the authors of MaxHerding have it  (Bae et al., 2024).

    Args: width: above 0. Where it is far less than rows are long, products in single precision cannot tell what is within
        it, and double is taken.
    """

    def __init__(self, points: Tensor, anchors: Tensor | None = None, width: float = 1.0) -> None:
        super().__init__(points, anchors)
        self.width = width
        longest = max(
            (float(torch.linalg.vector_norm(some.float(), dim=1).max()) for some in points.split(ROWS) if len(some)),
            default=0.0,
        )
        if width < _NARROW * longest:
            self.dtype = torch.float64

    def between(self, points: Tensor, anchors: Tensor) -> Tensor:
        points, anchors = points.to(self.dtype), anchors.to(self.dtype)
        norm2, of_anchors = (torch.linalg.vector_norm(each, dim=1).square() for each in (points, anchors))
        dist2 = torch.addmm(of_anchors, points, anchors.T, alpha=-2).add_(norm2.unsqueeze(1)).clamp_min_(0)
        return dist2.mul_(-1 / self.width**2).exp_()


_NARROW = 0.02


class Cosine(Kernel):
    """The cosine of rows of length 1, or 0 where it is negative, as for the similarities of facility location."""

    def between(self, points: Tensor, anchors: Tensor) -> Tensor:
        return (points.to(self.dtype) @ anchors.to(self.dtype).T).clamp_(0, 1)


def workspace(rows: int, labeled: int, anchors: int, width: int) -> int:
    """Bytes that `herd` holds at most, with directions of the rows and of what is labeled. Args: rows: N; labeled: L;
    anchors: M; width: D."""
    return rows * (4 * width + 28) + 4 * (labeled + anchors) * width


@full_precision()
def herd(
    kernel: Kernel,
    query_size: int,
    weights: Tensor | None = None,
    cover: Tensor | None = None,
    *,
    work: Counter[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedily the rows that add most to  sum_j weight_j max_{i chosen} kernel(i, j).

    What a row adds only falls when others join, so what it would have added some choices ago bounds it from above; rows are
    looked at from the largest bound down, for as long as a bound is above the best  (Minoux, 1978).

    Args:
        kernel: of N rows and M anchors.
        query_size: K.
        weights: (M,), not negative; 1 by default.
        cover: (M,), how well each anchor is represented to begin with (`Kernel.cover` of what is labeled); not at all by
            default.
        work: gets how many gains were computed (`gains`).
    Returns min(K, N) distinct rows, in the order of choice, and what each added. On a tie the lowest row wins, as far as
    the precision of the kernel tells. Raises ValueError where a row, a weight or what is covered is not finite.
    """
    points, anchors = kernel.points, kernel.anchors
    work = Counter() if work is None else work
    cover = anchors.new_zeros(len(anchors), dtype=kernel.dtype) if cover is None else cover.clone()
    weights = torch.ones_like(cover) if weights is None else weights.to(cover.dtype)
    bounds = _gains(kernel, torch.arange(len(points), device=points.device), weights, cover, work)
    if not bounds.isfinite().all():
        raise ValueError("herding needs finite features and weights, and some are NaN or infinite.")
    chosen, added = [], []
    for turn in range(min(query_size, len(points))):
        if turn:
            _bring_up_to_date(kernel, bounds, weights, cover, work)
        best, row = bounds.max(0)  # the first, where several add as much
        chosen.append(row)
        added.append(best)
        bounds[row] = -torch.inf
        for some, known in zip(anchors.split(ROWS), cover.split(ROWS), strict=True):
            torch.maximum(known, kernel.between(points[row].unsqueeze(0), some)[0], out=known)
    if not chosen:
        return torch.empty(0, dtype=torch.long, device=points.device), bounds[:0]
    return torch.stack(chosen), torch.stack(added)


_LOOK = 8  # rows at first, and then twice as many each time


def _bring_up_to_date(kernel: Kernel, bounds: Tensor, weights: Tensor, cover: Tensor, work: Counter[str]) -> None:
    """Replace the largest bounds by gains, until the largest of all is one."""
    fresh, look = torch.zeros_like(bounds, dtype=torch.bool), _LOOK
    while not fresh[bounds.argmax()]:
        look *= 2
        rows = bounds.topk(min(look, len(bounds))).indices
        rows = rows[~fresh[rows] & (bounds[rows] > -torch.inf)]
        bounds[rows] = _gains(kernel, rows, weights, cover, work)
        fresh[rows] = True


def _gains(kernel: Kernel, rows: Tensor, weights: Tensor, cover: Tensor, work: Counter[str]) -> Tensor:
    """What each row would add, (n,), fp64."""
    work["gains"] += len(rows)
    gains = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    blocks = zip(kernel.anchors.split(ROWS), cover.split(ROWS), weights.split(ROWS), strict=True)
    for anchors, known, weight in blocks:
        for some, gain in zip(rows.split(_TILE), gains.split(_TILE), strict=True):
            gain += (kernel.between(kernel.points[some], anchors).sub_(known).clamp_min_(0) @ weight).double()
    return gains


_TILE = 256  # rows at a time: their similarities with a block of anchors stay in cache


class Cover:
    """Which of N rows lie in a ball that was chosen, and what each ball would add to that: a counter a row, which falls as
    the members of its ball are covered, so that all choices together take O(E).

    Args:
        balls: of the rows.
        covered: (N,), rows that lie in a ball to begin with, as those around labels do.
        order: (N,), all rows in the order in which they are chosen where they are worth as much. Numbers of rows are often
            equal, and where balls are small they all are one: in the order of the data set, which may be that of its
            classes, the first class would be chosen.

    Attributes:
        adds: (N,), how many rows of its ball are not covered yet.
        left: (N,), whether the row has not been chosen.
    """

    def __init__(self, balls: Balls, covered: Tensor, order: Tensor) -> None:
        self._balls, self._covered, self._place = balls, torch.zeros_like(covered), order.argsort()
        self.left, self.adds = torch.ones_like(covered), balls.starts.diff()
        self._cover(covered.nonzero().squeeze(1))

    def choose(self, worth: Tensor) -> tuple[Tensor, int]:
        """Take the ball of the row that is worth most of those that are left. Args: worth: (N,), not negative. Returns the
        row (1,), and how many it has covered first."""
        worth = worth.masked_fill(~self.left, -1)
        ties = (worth == worth.max()).nonzero().squeeze(1)
        row = ties[self._place[ties].argmin()].unsqueeze(0)
        within = self._balls.of(row)
        new = within[~self._covered[within]]
        self._cover(new)
        self.left[row] = False
        return row, len(new)

    def _cover(self, rows: Tensor) -> None:
        """Rows that were not covered are; those in whose balls they lie are those in their balls."""
        self._covered[rows] = True
        for some in rows.split(_TILE):
            losers = self._balls.of(some)
            self.adds.index_add_(0, losers, torch.full_like(losers, -1))


def max_cover(balls: Balls, query_size: int, covered: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Greedily the rows whose balls hold most of what is in no ball yet.

    Args: balls: of N rows; query_size: K; covered, order: as for `Cover`.
    Returns min(K, N) distinct rows, and how many each covered first.
    """
    cover, query_size = Cover(balls, covered, order), min(query_size, len(covered))
    chosen, added = order.new_zeros(query_size), torch.zeros(query_size, dtype=torch.long)
    for turn in range(query_size):
        chosen[turn], added[turn] = cover.choose(cover.adds)
    return chosen, added
