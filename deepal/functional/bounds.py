"""Upper bounds of how far each row is from the nearest center, brought up to date for the rows that can still matter.

Centers only join, so distances to the nearest only fall: what was computed a while ago bounds what is true now. A greedy
method looks at the rows with the largest bounds, measures these, and leaves all others alone as long as what it has
measured is above their bounds.

Whatever touches all rows is here: the largest bounds, their sum, and passes over the rows.
"""

from collections import Counter
from math import inf

import torch
from torch import Tensor

from deepal.functional.geometry import ROWS, Block, Geometry, Wide

_CENTERS = 256  # at a time: rows whose bound has fallen low enough leave in between
_UNCLEAR = 10  # times what an approximate distance may be wrong by


class Bounds:
    """Squared distances of N rows to the nearest of some centers, as far as anyone has asked.

    Centers are numbered in the order in which they came, the labeled ones first.

    Args:
        geometry: the rows.
        size: how many rows will become centers.
        labeled: rows of another set that are centers from the beginning; not none of them.
        work: gets what is done: `products`, approximate distances; `exact`, distances in double precision; `passes` over
            all rows, and looks at rows one by one (`looks`); `draws`.

    Attributes:
        upper: (N,), fp64, above the squared distance or equal to it; -1 for rows that are centers.
    """

    def __init__(
        self, geometry: Geometry, size: int, labeled: Geometry | None = None, work: Counter[str] | None = None
    ) -> None:
        self.geometry, self.size, self.labeled = geometry, size, labeled
        self.upper = torch.full((len(geometry),), inf, dtype=torch.float64, device=geometry.device)
        self._seen = torch.zeros(len(geometry), dtype=torch.int32, device=geometry.device)  # so many centers
        self._near = torch.full_like(self._seen, -1)  # of those the nearest; -1 where several are about as near
        self._rows = torch.zeros(size, dtype=torch.long, device=geometry.device)
        self._count = 0
        self._centers = Block(
            tuple(torch.empty(size, each.shape[1], device=geometry.device) for each in geometry.factors),
            torch.empty(size, device=geometry.device),
            geometry.rounding,
        )
        self._look = 100 + 2**17 / geometry.width  # what it costs to look at a row by itself, in products
        self._renewed, self._spent = 0, 0.0
        self.work: Counter[str] = Counter() if work is None else work

    def __len__(self) -> int:
        """How many centers there are."""
        return self._labeled + self._count

    @property
    def room(self) -> int:
        """How many rows are still to become centers."""
        return self.size - self._count

    @property
    def chosen(self) -> Tensor:
        """Rows that became centers, in order."""
        return self._rows[: self._count]

    @property
    def _labeled(self) -> int:
        return 0 if self.labeled is None else len(self.labeled)

    def add(self, rows: Tensor) -> None:
        """Let rows become centers, in this order."""
        place, block = slice(self._count, self._count + len(rows)), self.geometry.block(rows)
        for own, new in zip((*self._centers.factors, self._centers.norm2), (*block.factors, block.norm2), strict=True):
            own[place] = new
        self._rows[place] = rows
        self._count += len(rows)
        self.upper[rows] = -1

    def largest(self, count: int, among: Tensor | None = None) -> tuple[Tensor, float, float]:
        """So many rows of largest bounds, of all or among some, ascending; the largest bound, and the largest of those that
        are left out, -1 where there are none."""
        upper = self.upper if among is None else self.upper[among]
        if count < len(upper):
            found = upper.topk(count + 1)
            rows, best, others = found.indices[:-1][found.values[:-1] >= 0], *found.values[[0, -1]].tolist()
        else:
            rows, best, others = (upper >= 0).nonzero().squeeze(1), float(upper.max()) if len(upper) else -1.0, -1.0
        rows = rows.sort().values
        return rows if among is None else among[rows], best, others

    def lower_all(self, centers: Block) -> None:
        """Let the bounds of all rows fall to where these centers put them, whatever else they have seen."""
        self.work["passes"] += 1
        for rows, block in self.geometry.blocks():
            self._lower(self._rows_of(rows), block, centers)

    def lower_by_cells(self, cells: int) -> None:
        """Let the bounds of all rows fall to where labeled rows of the same cell put them: some of these are pivots, and a
        row belongs to the cell of the pivot that is nearest to it."""
        assert self.labeled is not None
        pivots = self.labeled.block(slice(None, None, max(1, len(self.labeled) // cells)))
        cell_of_labeled = torch.cat([block.above(pivots).min(1).indices for _, block in self.labeled.blocks()])
        cell_of_row = torch.cat([self._lower(self._rows_of(rows), block, pivots) for rows, block in self.geometry.blocks()])
        (order, sizes), (of_labeled, counts) = (_grouped(each, len(pivots)) for each in (cell_of_row, cell_of_labeled))
        for rows, centers in zip(order.split(sizes), of_labeled.split(counts), strict=True):
            for some in rows.split(ROWS) if len(rows) and len(centers) else ():
                for few in centers.split(ROWS):
                    self._lower(some, self.geometry.block(some), self.labeled.block(few))

    @property
    def are_old(self) -> bool:
        """Whether to renew all bounds costs less than has been spent since then on rows one by one."""
        new = self._count - self._renewed
        return new > 0 and self._spent > len(self.upper) * (new + self._look / 32)

    def renew(self, mass: float = 1.0) -> None:
        """Lower bounds by the centers that have joined since: all, or the largest, which make up this part of the sum."""
        centers = self._centers.take(slice(self._renewed, self._count))
        self._renewed, self._spent = self._count, 0.0
        ordered = self.upper.clamp_min(0).sort(descending=True, stable=True) if mass < 1 else None
        count = len(self.upper) if ordered is None else _first_with(ordered.values, mass)
        if ordered is None or count > len(self.upper) / 2:  # all of them, in order, cost less than half of them at random
            self.lower_all(centers)
            return
        self.work["passes"] += 1
        for rows in ordered.indices[:count].sort().values.split(ROWS):
            self._lower(rows, self.geometry.block(rows), centers)

    def _rows_of(self, rows: slice) -> Tensor:
        return torch.arange(rows.start, rows.stop, device=self.upper.device)

    def _lower(self, rows: Tensor, block: Block, centers: Block) -> Tensor:
        """Returns which of these centers is nearest to each row, by number. What is so near that products cannot tell how
        near is brought up to date with all centers."""
        self.work["products"] += len(block) * len(centers)
        bound, nearest = block.above(centers).min(1)
        upper = torch.minimum(self.upper[rows], bound.double() * self.geometry.unit)
        self.upper[rows] = upper
        unclear = (bound <= _UNCLEAR * block.slack_within(bound)) & (upper > 0)
        if unclear.any():
            self.measure(self.update(rows[unclear]))
        return nearest

    def update(self, rows: Tensor, least: float = -inf) -> Tensor:
        """Compare rows (R,) with all centers that they have not seen. A row whose bound falls to `least` or below may be
        left at that; the others are returned, in order."""
        self._spent += self._look * len(rows)
        self.work["looks"] += len(rows)
        seen, order = self._seen[rows].sort(stable=True)  # so that those that lack the same centers are together
        rows = rows[order]
        upper, near, block, inside = self.upper[rows], self._near[rows], self.geometry.block(rows), torch.arange(len(rows))
        stays = inside = inside.to(rows.device)
        first = int(seen[0]) if len(rows) else len(self)
        while first < len(self) and len(stays):
            centers = self._some(first)
            first += len(centers)
            late = inside[: int((seen[inside] < first).sum())]
            if len(late):
                some = block.take(slice(len(late)))
                bound, nearest = self._nearest(some, centers, first - len(centers))
                self._spent += len(late) * len(centers) if first > self._labeled else 0
                upper[late], near[late] = self._joined(bound, nearest, upper[late], near[late], some)
                seen[late] = first
            stays = inside[upper[inside] > least]
            if len(stays) < len(inside) / 2:
                inside, block = stays, self.geometry.block(rows[stays])
        self.upper[rows], self._near[rows], self._seen[rows] = upper, near, seen
        return rows[stays].sort().values

    def measure(self, rows: Tensor) -> None:
        """Let the bounds of rows that are up to date be exact."""
        self.upper[rows], self._near[rows] = self._measured(rows)

    def _measured(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Exact squared distances of rows that are up to date to the nearest center, and its number."""
        dist2, near = self.upper[rows], self._near[rows]
        for some in (near >= 0).nonzero().squeeze(1).split(_PAIRS):
            dist2[some] = self.exact(rows[some], near[some].long())
        for some in (near < 0).nonzero().squeeze(1).split(_CENTERS):
            dist2[some], near[some] = self._compared(rows[some])
        return dist2, near

    def between(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the squared distances of rows are at least, and at most, compared with all centers."""
        self.update(rows)
        slack = self._slack(rows)
        unclear = self.upper[rows] <= slack
        self.measure(rows[unclear])
        return self.upper[rows] - slack.masked_fill_(unclear, 0), self.upper[rows]

    def note(self, rows: Tensor, upper: Tensor, near: Tensor) -> None:
        """What someone else has found: exact squared distances of rows to the nearest of all centers, and which that is,
        or -1."""
        self.upper[rows], self._near[rows], self._seen[rows] = upper, near, len(self)

    def nears(self, rows: Tensor) -> Tensor:
        """Which center is nearest to each row that has been brought up to date, -1 where it is not known."""
        return self._near[rows]

    def apart(self, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """What the squared distances between rows are at least, and at most, (n, m), fp64."""
        block, other, unit = self.geometry.block(rows), self.geometry.block(others), self.geometry.unit
        self.work["products"] += len(block) * len(other)
        above = block.above(other)
        slack = block.slack(other.norm2.unsqueeze(1)).T
        return (above - slack).double() * unit, above.double() * unit

    def distance(self, row: Tensor, others: Tensor) -> float:
        """The exact squared distance of a row that is up to date to the nearest center, or to one of some others."""
        row = row.unsqueeze(0)
        self.work["exact"] += len(others)
        dist2 = self.geometry.dist2(self.geometry.wide(others), self.geometry.wide(row))
        return min([float(self._measured(row)[0]), *dist2.tolist()])

    def _nearest(self, block: Block, centers: Block, first: int) -> tuple[Tensor, Tensor]:
        """How far rows are from the nearest of some centers at most, in the block's unit, and its number, or -1 where
        several are about as near."""
        self.work["products"] += len(block) * len(centers)
        above = block.above(centers)
        bound, nearest = above.min(1)
        alone = above.scatter_(1, nearest.unsqueeze(1), inf).amin(1) > bound + block.slack_within(bound)
        return bound, torch.where(alone, nearest.int() + first, -1)

    def _slack(self, rows: Tensor) -> Tensor:
        """By how much bounds of rows that are up to date may be too large."""
        unit = self.geometry.unit
        return self.geometry.block(rows).slack_within(self.upper[rows] / unit).double() * unit

    def _joined(self, bound: Tensor, nearest: Tensor, before: Tensor, was: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """Bounds by some centers and by others, with what is nearest, put together."""
        slack = block.slack_within(bound).double().mul_(self.geometry.unit)
        bound = bound.double().mul_(self.geometry.unit)
        near = torch.where(bound < before, nearest, was)
        unclear = ((bound - before).abs() <= slack) & (nearest != was)
        return torch.minimum(bound, before), near.masked_fill_(unclear, -1)

    def _compared(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Exact squared distances of rows to the nearest center, of which several come into question, and its number."""
        block, first = self.geometry.block(rows), 0
        bound, candidates = torch.full_like(block.norm2, inf), []
        while first < len(self):
            centers = self._some(first)
            self.work["products"] += len(block) * len(centers)
            above = block.above(centers)
            bound = torch.minimum(bound, above.amin(1))
            row, center = (above <= (bound + block.slack_within(bound)).unsqueeze(1)).nonzero().unbind(1)
            candidates.append((row, center + first, above[row, center]))
            first += len(centers)
        row, center, least = (torch.cat(each) for each in zip(*candidates, strict=True))
        near = least <= (bound + block.slack_within(bound))[row]
        row, center = row[near], center[near]
        pairs = zip(row.split(_PAIRS), center.split(_PAIRS), strict=True)
        dist2 = torch.cat([self.exact(rows[some], each) for some, each in pairs])
        found = torch.full((len(rows),), inf, dtype=torch.float64, device=rows.device)
        found.scatter_reduce_(0, row, dist2, "amin")
        nearest = (dist2 == found[row]).nonzero().squeeze(1)
        return found, torch.zeros_like(self._near[rows]).index_copy_(0, row[nearest], center[nearest].int())

    def exact(self, rows: Tensor, centers: Tensor) -> Tensor:
        """Squared distances of rows to as many centers, by their numbers, pair by pair, (n,), fp64."""
        self.work["exact"] += len(rows)
        return self.geometry.dist2(self.geometry.wide(rows), self._wide(centers))

    def _wide(self, centers: Tensor) -> Wide:
        """Centers by their numbers, in double precision."""
        if self.labeled is None:
            return self.geometry.wide(self._rows[centers])
        chosen = (centers >= self._labeled).unsqueeze(1)
        own = self.geometry.wide(self._rows[(centers - self._labeled).clamp_min(0)])
        known = self.labeled.wide(centers.clamp_max(self._labeled - 1))
        return tuple(torch.where(chosen, one, other) for one, other in zip(own, known, strict=True))

    def _some(self, first: int) -> Block:
        """Some centers, from this on."""
        if first < self._labeled:
            assert self.labeled is not None
            return self.labeled.block(slice(first, min(first + _CENTERS, self._labeled)))
        return self._centers.take(slice(first - self._labeled, min(first - self._labeled + _CENTERS, self._count)))


_PAIRS = 256  # exact distances at a time


def _first_with(values: Tensor, mass: float) -> int:
    """How many of the first values make up a part of the sum of all."""
    cumulative = values.cumsum(0)
    return int((cumulative < mass * cumulative[-1]).sum()) + 1


def _grouped(cell: Tensor, cells: int) -> tuple[Tensor, list[int]]:
    """Rows by cell, one after another, and how many each has."""
    return cell.sort(stable=True).indices, torch.bincount(cell, minlength=cells).tolist()
