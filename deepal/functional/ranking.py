"""Orders: learned, and what is left of scores when only their order counts. B images, N rows."""

import torch
from torch import Tensor


def ranking_loss(predicted: Tensor, losses: Tensor, margin: float = 1.0) -> Tensor:
    """How badly predicted losses are in the order of the true ones: the mean over pairs of what is missing to a distance
    of `margin` in the right direction  (Yoo & Kweon, 2019).

    An image is paired with one, the first with the last, the second with the last but one; in the middle of an odd number
    one is left out. A pair of equal losses has no order, and costs nothing (published code pulls the first below the last).
    The losses are given: no gradient passes by them.

    Args: predicted (B,); losses (B,); margin: above 0. Returns a number; 0 where there is no pair.

    >>> ranking_loss(torch.tensor([3.0, 0.0, 0.5, 1.0]), torch.tensor([0.9, 0.1, 0.2, 0.3]))
    tensor(0.2500)
    """
    pairs = len(predicted) // 2
    ahead = predicted[:pairs] - predicted.flip(0)[:pairs]
    order = (losses.detach()[:pairs] - losses.detach().flip(0)[:pairs]).sign()
    missing = torch.relu(margin - order * ahead) * order.abs()
    return missing.sum() / max(pairs, 1)


def places(scores: Tensor) -> Tensor:
    """The share of the others that each row is ahead of, half of those included that it is level with, (N,), from 0 to 1:
    what is left of scores when only their order counts  (Borda, 1781).

    Args: scores (N,). Returns fp64.

    >>> places(torch.tensor([0.1, 9.0, 0.1]))
    tensor([0.2500, 1.0000, 0.2500], dtype=torch.float64)
    """
    _, level, count = scores.unique(return_inverse=True, return_counts=True)
    behind = count.cumsum(0) - count
    return (behind + (count - 1) / 2).double()[level] / max(len(scores) - 1, 1)
