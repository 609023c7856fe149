"""How a prediction differs from what is predicted nearby. N rows, k neighbors, C classes."""

import torch
from torch import Tensor

from deepal.functional.geometry import working


def mean_divergence(probs: Tensor, references: Tensor, neighbors: Tensor) -> Tensor:
    """Kullback-Leibler divergence from what is predicted of a row's neighbors to what is predicted of it, on average over
    them: 1/k sum_l KL(p_l || p)  (Margatina et al., 2021).

    The direction is the paper's: it is large where neighbors are sure of a class that the row all but excludes. What is
    predicted with less than the smallest normal number counts as that.

    Args: probs (N, C); references (M, C); neighbors (N, k), rows of `references`, in any order.
    Returns (N,), in nats, not negative.

    >>> mean_divergence(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0, 1]]))
    tensor([0.3466])
    """
    found = []
    together = max(1, _NUMBERS // (neighbors.shape[1] * probs.shape[1]))
    for rows in torch.arange(len(probs), device=probs.device).split(together):
        near = references[neighbors[rows]]
        apart = _log(near) - _log(probs[rows]).unsqueeze(1)  # exactly zero where both are the same
        found.append(apart.mul_(near).sum(-1).mean(-1))
    return torch.cat(found or [_log(probs[:, 0])]).clamp_min(0)


def workspace(width: int) -> int:
    """Bytes that it takes to compare 8,192 rows with their neighbors, which are found by their directions."""
    return 8 * 8192 * width + 12 * _NUMBERS


_NUMBERS = 2**22  # that are compared at a time


def _log(probs: Tensor) -> Tensor:
    dtype = working(probs)
    return probs.to(dtype).clamp_min(torch.finfo(dtype).tiny).log_()
