"""Choosing rows that cover a set: greedy k-center and D^2 sampling. N rows, D features, K rows to choose.

Both choose row after row, so the first k of K rows are what a budget of k would have chosen, and both need distances to the
nearest row chosen so far, which only fall: see `bounds` for how few of them have to be computed. What is chosen is what
distances from differences, in double precision, say.
"""

from collections import Counter
from math import isqrt
from typing import Literal, get_args

import torch
from torch import Tensor

from deepal.functional.bounds import Bounds
from deepal.functional.geometry import ROWS, Geometry, Points, full_precision

First = Literal["max_norm", "uniform", "norm"]


def workspace(rows: int, centers: int, width: int) -> int:
    """Bytes that k-center and D2 sampling hold at most. Args: rows: N; centers: labeled, and to choose; width: D."""
    return rows * (64 if centers > _FEW else 40) + 4 * centers * width


def k_center(
    points: Tensor,
    centers: Tensor,
    query_size: int,
    *,
    ignore: int = 0,
    work: Counter[str] | None = None,
) -> Tensor:
    """Greedy k-center, farthest first: repeatedly the row farthest from all centers so far  (Gonzalez, 1985).

    The largest distance that remains is at most twice the smallest possible for as many centers. On a tie the lowest
    row wins; without centers it starts at the row farthest from the mean. Each row is taken once, duplicates included.

    Args:
        points: (N, D), in memory or memory-mapped, of any precision.
        centers: (L, D), L = 0 allowed.
        query_size: K.
        ignore: so many rows, the farthest at the time of each choice, are passed over: they may be outliers.
        work: gets what was done (see `Bounds`).
    Returns min(K, N) rows, in the order of choice.

    >>> k_center(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), torch.tensor([[0.0]]), 2)
    tensor([3, 2])
    """
    geometry = Points(points)
    labeled = geometry.beside(centers) if len(centers) else None
    bounds = Bounds(geometry, min(query_size, len(points)), labeled, work)
    if not bounds.size:
        return bounds.chosen
    with full_precision():
        if labeled is None:
            bounds.add(_farthest_from_the_mean(geometry))
            bounds.renew()
        elif len(labeled) <= _FEW:
            bounds.lower_all(labeled.block(slice(None, None, max(1, len(labeled) // _PIVOTS))))
        else:
            bounds.lower_by_cells(isqrt(len(labeled)))
        levels = tuple(level + ignore for level in _LEVELS)
        while bounds.room:
            _farthest_first(bounds, None, -1.0, levels, ignore)
            if bounds.are_old:
                bounds.renew()
            elif bounds.room:
                _decide_tie(bounds, ignore)
    return bounds.chosen


_PIVOTS = 128  # labeled rows, about, that all others are compared with in the beginning
_FEW = 2048  # labeled rows: with more, cells are worth their while
_LEVELS = (32768, 2048, 128)  # rows that are looked at together, of these, and of these
_LOOK = {"cpu": 1}  # choices before it is asked whether they hold
_LOOK_ELSEWHERE = 64  # on other devices, where to ask is to wait


def _farthest_first(bounds: Bounds, rows: Tensor | None, others: float, levels: tuple[int, ...], ignore: int) -> None:
    """Choose among rows, or among all, for as long as the farthest is farther than all other rows can be."""
    if rows is not None and len(levels) < 2:
        rows = bounds.update(rows, least=others)
    if rows is not None and not levels:
        _spread(bounds, rows, others, ignore)
        return
    looked = None
    while bounds.room and not bounds.are_old:
        some, best, rest = bounds.largest(levels[0], rows)
        if best <= others or looked == (best, bounds.room):
            break
        looked = best, bounds.room
        _farthest_first(bounds, some, max(rest, others), levels[1:], ignore)


def _spread(bounds: Bounds, rows: Tensor, others: float, ignore: int) -> None:
    """Choose among rows that are up to date, from all distances between them."""
    bounds.measure(rows)
    look = _LOOK.get(rows.device.type, _LOOK_ELSEWHERE)
    wide, upper, near, first = bounds.geometry.wide(rows), bounds.upper[rows], bounds.nears(rows), len(bounds)
    places, hold = [], []
    for turn in range(min(bounds.room, len(rows) - ignore)):
        best, place = _farthest(upper, ignore)
        holds = best > others
        if turn % look == 0 and not holds:
            break
        dist2 = bounds.geometry.dist2(wide, tuple(factor[place] for factor in wide))
        dist2[place] = -1
        if look > 1:
            dist2.masked_fill_(~holds, torch.inf)
        near = torch.where(dist2 < upper, first + turn, near)
        upper = torch.minimum(upper, dist2)
        places.append(place)
        hold.append(holds)
    bounds.work["exact"] += len(places) * len(rows)
    if places:
        bounds.add(rows[torch.stack(places)[torch.stack(hold)]])
        bounds.note(rows, upper, near)


def _farthest(dist2: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """The largest but for so many, and its place; the first, where several are as large."""
    if not ignore:
        best, place = dist2.max(0)
        return best, place
    ordered = dist2.sort(descending=True, stable=True)
    return ordered.values[ignore], ordered.indices[ignore]


def _decide_tie(bounds: Bounds, ignore: int) -> None:
    """Choose where more rows than are looked at together have the same bound, the largest of all, or where no more are left
    than may be passed over; or find that some of them are nearer than that."""
    ignore = min(ignore, len(bounds.upper) - len(bounds.chosen) - 1)
    bound = bounds.upper.topk(ignore + 1).values[-1]
    ties = (bounds.upper >= bound).nonzero().squeeze(1)
    for some in ties.split(ROWS):
        bounds.measure(bounds.update(some))
    ordered = bounds.upper[ties].sort(descending=True, stable=True)
    if ordered.values[ignore] == bound:
        count = bounds.room if bound == 0 else 1  # at 0 all that is left, but for what is passed over, are copies
        bounds.add(ties[ordered.indices[ignore : ignore + count]])


def _farthest_from_the_mean(points: Points) -> Tensor:
    """The row, (1,)."""
    total = sum(some.sum(0, dtype=torch.float64) for some in points.factors[0].split(ROWS))
    mean = points.beside((total / len(points)).unsqueeze(0))
    center = mean.block(slice(None))
    parts = [(each.above(center)[:, 0], each.slack(center.norm2)) for _, each in points.blocks()]
    above, slack = (torch.cat(each) for each in zip(*parts, strict=True))
    far = (above >= (above - slack).max()).nonzero().squeeze(1)
    exact = points.dist2(points.wide(far), mean.wide(slice(None)))
    return far[exact.argmax()].unsqueeze(0)


def d2_sampling(
    geometry: Geometry,
    query_size: int,
    generator: torch.Generator,
    first: First = "max_norm",
    *,
    labeled: Geometry | None = None,
    work: Counter[str] | None = None,
) -> Tensor:
    """k-means++ seeding: each next row is drawn with probability proportional to its squared distance to the rows so
    far  (Arthur & Vassilvitskii, 2007).

    Rows are drawn by bounds of their squared distances, and a row is accepted with the probability that its squared
    distance has of its bound: so it is accepted in proportion to its squared distance, exactly, and only rows that are
    drawn have to be measured.

    Args:
        geometry: the N rows.
        query_size: K; all N rows come back, in some order, where K >= N.
        generator: source of every draw.
        first: the first row is the one of largest norm (BADGE's authors), drawn uniformly (k-means++), or drawn in
            proportion to its squared norm.
        labeled: rows that count as chosen before the first, which then is drawn like all others.
        work: gets what was done (see `Bounds`).
    Returns min(K, N) distinct rows, in the order of choice. Where only rows of distance zero remain, the rest is uniform.
    Raises ValueError for a first of another name.

    >>> d2_sampling(Points(torch.tensor([[0.0], [0.0], [8.0]])), 2, torch.Generator().manual_seed(0))
    tensor([2, 1])
    """
    if first not in get_args(First):
        raise ValueError(f"first={first!r} must be one of {', '.join(get_args(First))}.")
    labeled = labeled if labeled is not None and len(labeled) else None
    return _sample(Bounds(geometry, min(query_size, len(geometry)), labeled, work), generator, first)


def _sample(bounds: Bounds, generator: torch.Generator, first: First) -> Tensor:
    """Draw rows until there is room for no more."""
    if not bounds.size:
        return bounds.chosen
    with full_precision():
        if bounds.labeled is None:
            bounds.add(_first(bounds.geometry, generator, first))
            bounds.renew()
        else:
            for centers in bounds.labeled.blocks():
                bounds.lower_all(centers[1])
        renewed, wasted = len(bounds), 0.0
        while bounds.room:
            if len(bounds) > renewed and wasted > len(bounds.upper) * (len(bounds) - renewed + _PASS):
                bounds.renew(_MASS)
                renewed, wasted = len(bounds), 0.0
            before = bounds.room
            if not _draw(bounds, generator):
                _fill(bounds, generator)
                break
            wasted += (_DRAWS * len(bounds) + _OVERHEAD) * (1 - (before - bounds.room) / _DRAWS)
    return bounds.chosen


_DRAWS = 64  # at a time
_MASS = 0.95  # of the sum of all bounds is that of those that are renewed
_PASS, _OVERHEAD = 30, 200_000  # what a row that is renewed, and a batch of draws, cost besides products, in products


def _draw(bounds: Bounds, generator: torch.Generator) -> bool:
    """Draw some rows by their bounds, and accept those that pass. Returns False where all bounds are zero."""
    cumulative = bounds.upper.clamp_min(0).cumsum(0)
    total = cumulative[-1]
    if total <= 0:
        return False
    coins = torch.rand(_DRAWS, 2, generator=generator, dtype=torch.float64).to(total.device)
    drawn = torch.searchsorted(cumulative, coins[:, 0] * total, right=True)
    drawn = drawn.where(drawn < len(cumulative), torch.searchsorted(cumulative, total))  # a product rounded up to the sum
    bars = coins[:, 1] * bounds.upper[drawn]
    rows, places = drawn.unique(return_inverse=True)
    bounds.work["draws"] += _DRAWS
    bounds.add(rows[_accepted(bounds, rows, places, bars)])
    return True


def _accepted(bounds: Bounds, rows: Tensor, places: Tensor, bars: Tensor) -> list[int]:
    """Which rows become centers, by place, one after another: of those that were drawn (n,) those whose squared distances
    to all centers before are above their bars (n,)."""
    least, most = bounds.between(rows)
    may = places[bars < most[places]].unique()
    apart = zip(*(each.tolist() for each in bounds.apart(rows[may], rows)), strict=True)
    apart_of = dict(zip(may.tolist(), apart, strict=True))
    low, high, accepted = least.tolist(), most.tolist(), list[int]()
    for place, bar in zip(places.tolist(), bars.tolist(), strict=True):
        if low[place] <= bar < high[place]:  # too near for single precision to tell
            low[place] = high[place] = bounds.distance(rows[place], rows[accepted])
        if bar >= high[place]:
            continue
        accepted.append(place)
        low, high = ([*map(min, each, other)] for each, other in zip((low, high), apart_of[place], strict=True))
        low[place] = high[place] = 0.0
        if len(accepted) == bounds.room:
            break
    return accepted


def _fill(bounds: Bounds, generator: torch.Generator) -> None:
    """Choose the rest uniformly: all rows are copies of centers."""
    left = (bounds.upper >= 0).nonzero().squeeze(1)
    coins = torch.rand(bounds.room, generator=generator, dtype=torch.float64)
    for turn, coin in enumerate(coins.tolist()):
        place = turn + int(coin * (len(left) - turn))
        left[[turn, place]] = left[[place, turn]]
    bounds.add(left[: len(coins)])


def _first(geometry: Geometry, generator: torch.Generator, first: First) -> Tensor:
    """The first row, (1,)."""
    if first == "max_norm":
        return geometry.longest()
    if first == "uniform":
        return torch.randint(len(geometry), (1,), generator=generator).to(geometry.device)
    cumulative = geometry.norm2().cumsum(0)
    point = torch.rand((), generator=generator, dtype=torch.float64).to(geometry.device) * cumulative[-1]
    return torch.searchsorted(cumulative, point, right=True).clamp_max(len(geometry) - 1).unsqueeze(0)
