"""Layers of networks that are trained against each other."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear, normalize


class Discriminator(nn.Sequential):
    """Tells which vectors (..., D) are of labeled images, by a logit (...): three layers, as in VAAL (Sinha et al., 2019).
    Its logits are ranked, and half precision has few of them, so it computes in single precision whatever is around.

    Args: features: D; hidden: units of the layers between.
    """

    def __init__(self, features: int, hidden: int = 512) -> None:
        super().__init__(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, vectors: Tensor) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            return super().forward(vectors.float()).squeeze(-1)


def miscalled(logits: Tensor, labeled: bool) -> Tensor:
    """How badly a discriminator's logits (...) call images labeled, or not: the mean cross-entropy."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, labeled))


class CosineHead(nn.Linear):
    """A last layer that sees directions alone: logits (..., C) of features (..., D), W f / |f| / temperature, without a
    bias (Chen et al., 2019). A class has a weight for its prototype.

    Args: features: D; classes: C; temperature: above 0.
    """

    def __init__(self, features: int, classes: int, temperature: float) -> None:
        super().__init__(features, classes, bias=False)
        self.temperature = temperature

    def forward(self, input: Tensor) -> Tensor:
        return linear(normalize(input, dim=-1), self.weight) / self.temperature


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def reverse_gradient(values: Tensor) -> Tensor:
    """The same values, whose gradient is turned round: what comes before is trained against what comes after
    (Ganin & Lempitsky, 2015)."""
    return _Reversal.apply(values)
