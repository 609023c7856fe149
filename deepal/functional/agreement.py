"""How far two predictors agree, beyond what chance would have them."""

import torch
from torch import Tensor


def cohen_kappa(one: Tensor, two: Tensor) -> float:
    """(A - E) / (1 - E): A is the share of rows of one prediction, E what that would be if the predictions were independent
    and each as frequent as it is  (Cohen, 1960). 1 where both say one and the same class throughout.

    Args: one, two: (n,) predicted classes, n >= 1. Returns a number from -1 to 1.

    >>> cohen_kappa(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    0.5
    """
    classes = int(torch.maximum(one.max(), two.max())) + 1
    shares = [torch.bincount(each, minlength=classes).double() / len(each) for each in (one, two)]
    agreed, expected = float((one == two).double().mean()), float(shares[0] @ shares[1])
    return 1.0 if expected == 1 else (agreed - expected) / (1 - expected)
