"""Scores of predictive uncertainty. N samples, C classes; higher is more informative.

`probs` holds class probabilities: (N, C), or (N, ..., C) with sites between (labels, pixels). Functions reduce the
last axis only. Probabilities are read in fp32 at least, so half precision changes no rank beyond its own rounding.
"""

import torch
from torch import Tensor


def entropy(probs: Tensor) -> Tensor:
    """Shannon entropy of the predictive distribution: H[y|x] = - sum_c p_c log p_c  (Shannon, 1948).

    The term of the largest class is (1 - d) log1p(-d), with d the sum of the others: where p_max is near 1, fp32 has no
    digits left for its logarithm.

    Args: probs (..., C), rows sum to 1. Returns (...), in nats, within [0, log C]; 0 log 0 counts as 0.

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    others = _without_the_largest(probs)
    rest = others.sum(-1)
    return torch.special.entr(others).sum(-1) + torch.special.xlog1py(rest - 1, -rest)


def least_confidence(probs: Tensor) -> Tensor:
    """One minus the probability of the predicted class: 1 - max_c p_c  (Lewis & Gale, 1994).

    Summed from the *other* classes: on a confident row the subtraction 1 - p_max would lose every digit, and with them
    the order of the row among its like.

    Args: probs (..., C), rows sum to 1. Returns (...), within [0, 1 - 1/C].

    >>> least_confidence(torch.tensor([[0.75, 0.25], [1.0, 1e-9]]))
    tensor([2.5000e-01, 1.0000e-09])
    """
    return _without_the_largest(probs).sum(-1)


def margin(probs: Tensor) -> Tensor:
    """One minus the lead of the first class over the second: 1 - (p_(1) - p_(2))  (Scheffer et al., 2001).

    Where the first has more than half, it is computed as (1 - p_(1)) + p_(2), both without cancellation. With two classes
    it ranks as `entropy` and `least_confidence` do.

    Args: probs (..., C), C >= 2, rows sum to 1. Returns (...), within [0, 1]; exactly 1 on a tie of the first two.

    >>> margin(torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0]]))
    tensor([1.0000, 0.5000])
    """
    others = _without_the_largest(probs)
    first, second = _full_precision(probs).amax(-1), others.amax(-1)
    return torch.where(first > 0.5, others.sum(-1) + second, 1 - (first - second))


def _without_the_largest(probs: Tensor) -> Tensor:
    """`probs` with the predicted class set to zero."""
    probs = _full_precision(probs)
    return probs.scatter(-1, probs.argmax(-1, keepdim=True), 0.0)


def _full_precision(probs: Tensor) -> Tensor:
    return probs.float() if probs.dtype in (torch.float16, torch.bfloat16) else probs
