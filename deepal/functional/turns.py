"""Turns: rows of groups, taken so that each group has its turn before one has a second."""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import torch
from torch import Tensor


def occurrence(groups: Tensor) -> Tensor:
    """(n,), how often the group of each row has come before. Args: groups: (n,) integers.

    >>> occurrence(torch.tensor([7, 3, 7, 7]))
    tensor([0, 0, 1, 2])
    """
    order = groups.sort(stable=True).indices
    of_sorted = groups[order]
    starts = torch.cat([torch.ones(1, dtype=torch.bool), of_sorted[1:] != of_sorted[:-1]])[: len(groups)]
    row = torch.arange(len(groups))
    first = torch.where(starts, row, 0).cummax(0).values if len(groups) else row
    return torch.empty_like(row).index_copy_(0, order, row - first)


def smallest_first(groups: Tensor, scores: Tensor, generator: torch.Generator) -> Tensor:
    """All rows, in rounds that take one row of each group, drawn at random, from the smallest group to the largest; of
    groups of one size that first whose best row scores highest  (Citovsky et al., 2021).

    Args: groups: (n,) integers; scores: (n,). Returns (n,) rows.

    >>> smallest_first(torch.tensor([0, 0, 1, 2]), torch.tensor([9.0, 9.0, 1.0, 5.0]), torch.Generator())[:2]
    tensor([3, 2])
    """
    _, group = groups.unique(return_inverse=True)
    size = torch.bincount(group)
    best = torch.full((len(size),), -torch.inf, dtype=scores.dtype).scatter_reduce_(0, group, scores, "amax")
    order = best.sort(descending=True, stable=True).indices
    order = order[size[order].sort(stable=True).indices]
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
    shuffled = torch.randperm(len(groups), generator=generator)
    shuffled = shuffled[place[group[shuffled]].sort(stable=True).indices]
    return shuffled[occurrence(group[shuffled]).sort(stable=True).indices]


def shared(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `shares` that sum to `total`: rounded down, and one more for those that lose most by
    that  (Hamilton's method).

    >>> shared(10, [1.0, 1.0, 1.0])
    [4, 3, 3]
    """
    exact = [total * each / sum(shares) for each in shares]
    whole = [int(each) for each in exact]
    by_loss = sorted(range(len(shares)), key=lambda i: whole[i] - exact[i])
    for i in by_loss[: total - sum(whole)]:
        whole[i] += 1
    return whole


def evened_out(known: Tensor, there: Tensor, total: int, generator: torch.Generator) -> Tensor:
    """How many to add to each group, so that all become as even as they can: one at a time to the smallest that has any
    left; which comes first of equal ones is drawn.

    Args: known: (G,), members so far; there: (G,), members that can be added, `total` in all at least. Returns (G,).

    >>> evened_out(torch.tensor([5, 1, 0]), torch.tensor([9, 9, 1]), 4, torch.Generator())
    tensor([0, 3, 1])
    """
    drawn = torch.randperm(len(known), generator=generator)
    sizes = [(int(known[group]), place, group) for place, group in enumerate(drawn.tolist()) if there[group]]
    heapify(sizes)
    added = torch.zeros_like(known)
    for _ in range(total):
        size, place, group = heappop(sizes)
        added[group] += 1
        if added[group] < there[group]:
            heappush(sizes, (size + 1, place, group))
    return added
