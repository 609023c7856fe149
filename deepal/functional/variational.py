"""What a variational autoencoder finds. B images, Z latent numbers."""

import torch
from torch import Tensor


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) of each latent number, in nats: (mean^2 + variance - 1 - log variance) / 2.

    Args: mean, log_variance (B, Z). Returns (B, Z), not negative.

    >>> divergence(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
    tensor([[0., 2.]])
    """
    return (mean.square() + torch.expm1(log_variance) - log_variance) / 2


def alive(mean: Tensor, least: float = 0.01) -> Tensor:
    """Which latent numbers tell images apart: whose mean varies over images by more than `least`.

    Args: mean (B, Z). Returns (Z,), booleans.
    """
    return mean.var(0, correction=0) > least
