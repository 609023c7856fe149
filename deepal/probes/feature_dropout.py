"""`FeatureDropout`: whether a prediction holds where features are missing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepal.probes.base import Probe


@dataclass(frozen=True)
class FeatureDropout(Probe):
    """Says `dropout_flips` (B,): the share of draws in which another class is predicted where features, the inputs of the
    last layer, are dropped (Gupte et al., 2024). The network need not have any dropout, and runs once: each draw takes the
    last layer alone. Features that a draw drops are the same for all images.

    Args: rate: the share of features that are dropped; draws: how many.
    """

    rate: float = 0.75
    draws: int = 3
    says = "dropout_flips"
    asks = ("embedding", "logits_of")

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1 or self.draws < 1:
            raise ValueError(f"{self!r} needs a rate from 0 to below 1, and at least one draw.")

    def start(self, module: nn.Module, generator: torch.Generator) -> Callable[[Any], Tensor]:
        """A function from images (B, ...) to (B,)."""
        seed = int(torch.randint(2**62, (), generator=generator))

        def read(images: Any) -> Tensor:
            embedding = module.embedding(images)
            coins = torch.Generator().manual_seed(seed)  # the same for each batch
            kept = (torch.rand(self.draws, embedding.shape[-1], generator=coins) >= self.rate).to(embedding)
            predicted = module.logits_of(embedding).argmax(-1)
            flips = [module.logits_of(embedding * each / (1 - self.rate)).argmax(-1) != predicted for each in kept]
            return torch.stack(flips).float().mean(0)

        return read
