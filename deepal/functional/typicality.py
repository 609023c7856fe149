"""Which rows are typical: those in the midst of many like them. N rows, D features."""

import torch
from torch import Tensor

from deepal.functional import neighbors


def most_typical(points: Tensor, k: int = 20) -> int:
    """The row nearest to its k nearest others on average, that is of largest typicality 1 / mean distance, the lowest on a
    tie; of fewer rows than 2k, to half of them  (Hacohen et al., 2022).

    Args: points (N, D), N > 0. Returns a row.

    >>> most_typical(torch.tensor([[0.0], [1.0], [2.0], [9.0]]))
    1
    """
    k = min(k, len(points) // 2)
    if not k:
        return 0
    return int(neighbors.k_nearest(points, k)[0].sqrt().mean(1).argmin())


def typicality(points: Tensor, k: int = 20) -> Tensor:
    """1 / mean distance to the k nearest others, of every row; to all others while there are no more  (Hacohen et al.,
    2022). Copies, which are at no distance, are as typical as can be.

    Args: points (N, D). Returns (N,), from 0 to the largest number there is; 0 for a row by itself.

    >>> typicality(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), k=2)
    tensor([0.6667, 1.0000, 0.6667, 0.1333])
    """
    k = min(k, len(points) - 1)
    if k < 1:
        return points.new_zeros(len(points))
    mean = neighbors.k_nearest(points, k)[0].sqrt().mean(1)
    return (1 / mean).clamp_max(torch.finfo(mean.dtype).max)


def in_turn(points: Tensor, cluster: Tensor, known: Tensor, query_size: int, min_size: int = 5, k: int = 20) -> Tensor:
    """The most typical row of one cluster after another: of those with the fewest labels first, and of these the largest;
    and again from the first, until there are enough.

    Args:
        points: (N, D).
        cluster: (N,), the cluster of each row.
        known: (L,), the clusters of labeled rows, which are not among them.
        query_size: K.
        min_size: clusters of so many rows or fewer, labeled ones included, wait until all others are used up.
        k: neighbors that make a row typical.
    Returns min(K, N) distinct rows, in the order of choice.
    """
    count = int(torch.cat([cluster, known]).max()) + 1 if len(cluster) else 0
    labels = torch.bincount(known, minlength=count)
    sizes = torch.bincount(cluster, minlength=count) + labels
    by_size = sizes.sort(descending=True, stable=True).indices
    order = by_size[labels[by_size].sort(stable=True).indices]
    large = sizes[order] > min_size
    members = {each: (cluster == each).nonzero().squeeze(1) for each in order.tolist()}
    chosen: list[int] = []
    for turns in (order[large].tolist(), order[~large].tolist()):
        while turns and len(chosen) < query_size:
            turns = [each for each in turns if len(members[each])]
            for each in turns[: query_size - len(chosen)]:
                place = most_typical(points[members[each]], k)
                chosen.append(int(members[each][place]))
                members[each] = torch.cat([members[each][:place], members[each][place + 1 :]])
    return torch.tensor(chosen, dtype=torch.long)
