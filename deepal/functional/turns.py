"""Turns: rows of groups, taken so that each group has its turn before one has a second."""

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
