"""What a posterior is: a distribution over networks, read by draws from it."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deepal.probes.base import Probe


@dataclass(frozen=True)
class Posterior(Probe):
    """Says `mc_probs` (B, K, C), the class probabilities of K draws of a network. An argument of our modules
    (`Classifier(posterior=MCDropout())`), and a probe for all others (`probes=[MCDropout()]`).

    Args: at_test: whether a module of ours is tested by the average of the draws; else by one pass of the network as it
        was trained. Validation while it trains is always by the one pass.
    """

    at_test: bool = field(default=True, kw_only=True)
    says = "mc_probs"

    def memory(self, head: nn.Linear) -> nn.Module | None:
        """Buffers for what it has to know of the training images when a network has been trained; None where that is
        nothing. Args: head: the last layer."""
        return None

    def learn(self, memory: nn.Module, head: nn.Linear, embeddings: Iterable[Tensor]) -> None:
        """Fill the memory. Args: embeddings: (B, D) of the training images, batch by batch."""

    @abstractmethod
    def start(self, module: nn.Module, generator: torch.Generator) -> Callable[[Any], Tensor]:
        """A function from images to (B, K, C), of the same K draws for all images, unless it is `MCDropout` that is told
        otherwise."""
