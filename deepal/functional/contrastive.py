"""Losses that compare two views of the same images with views of others."""

import torch
from torch import Tensor
from torch.nn import functional


def nt_xent(one: Tensor, two: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding the other view of an image among all other views, by cosines over a temperature  (Chen et
    al., 2020). Each of the 2 B views is asked once, and is not compared with itself.

    Args: one, two: (B, D), row i of both is of one image; temperature: above 0.
    Returns a scalar, in nats.

    >>> same = torch.eye(2)
    >>> round(float(nt_xent(same, same, 1.0)), 4)  # log(e + 1 + 1) - 1
    0.5514
    """
    with torch.autocast(one.device.type, enabled=False):  # which would take the products in half precision again
        views = functional.normalize(torch.cat([one, two]).float(), dim=1)
        cosines = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
        other = torch.arange(len(views), device=views.device).roll(len(one))
        return functional.cross_entropy(cosines, other)
