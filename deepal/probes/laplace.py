"""`Laplace`: around the last layer as it was trained, the posterior is nearly normal (MacKay, 1992)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepal.nn.network import in_eval
from deepal.probes.posterior import Posterior


@dataclass(frozen=True)
class Laplace(Posterior):
    """Draws of the last layer from a normal distribution around its weights, in closed form: nothing is trained, and the
    features below are computed once for all draws.

    Its precision is the curvature of the loss, of which the part of the features and the part of the classes are averaged
    apart (Kronecker factors: Ritter et al., 2018), so that it takes D^2 + C^2 numbers, and that of the prior. For modules
    of ours, because it has to see what they were trained on.

    Args:
        draws: K, how many.
        prior_precision: of each weight. None: that under which the labels are most likely (MacKay, 1992), and no less than
            that of a layer's initial weights: a network that knows its images by heart says that any weights will do.
        at_test: as for every posterior.
    """

    draws: int = 100
    prior_precision: float | None = None
    asks = ("embedding",)

    def __post_init__(self) -> None:
        if self.draws < 1 or self.draws % 1:
            raise ValueError(f"Laplace(draws={self.draws}) must be a whole number, 1 at least.")
        if self.prior_precision is not None and not 0 < self.prior_precision < math.inf:
            raise ValueError(f"Laplace(prior_precision={self.prior_precision}) must be a number above 0.")

    def memory(self, head: nn.Linear) -> nn.Module:
        return Curvature(_with_ones(head, head.weight.new_empty(0, head.in_features)).shape[1], head.out_features)

    def learn(self, memory: nn.Module, head: nn.Linear, embeddings: Iterable[Tensor]) -> None:
        assert isinstance(memory, Curvature)
        memory.forget()
        for embedding in embeddings:
            memory.add(_with_ones(head, embedding), torch.softmax(head(embedding), 1))

    def start(self, module: nn.Module, generator: torch.Generator) -> Callable[[Any], Tensor]:
        """A function from images to (B, K, C). Raises ValueError for a module that has learned nothing for it."""
        learned, network = getattr(module, "learned", None), getattr(module, "network", None)
        if not isinstance(learned, Curvature) or network is None:
            raise ValueError(
                f"Laplace() has to see what a module was trained on, and {type(module).__name__} does not let it; take "
                f"Classifier(posterior=Laplace()), or MCDropout() as a probe."
            )
        head = network.head
        weights = _weights(head)
        toss = torch.randn(self.draws, *weights.shape, generator=generator, dtype=torch.float64).to(weights.device)
        drawn = (weights + learned.spread(toss, weights, self.prior_precision)).to(head.weight.dtype)

        def read(images: Any) -> Tensor:
            with in_eval(module):
                inputs = _with_ones(head, module.embedding(images))
            return torch.softmax(torch.einsum("bd,kcd->bkc", inputs, drawn).float(), -1)

        return read


class Curvature(nn.Module):
    """Of the cross-entropy of a last layer by its weights: sum_n (diag p_n - p_n p_n^T) (x) h_n h_n^T, by the mean of the
    first factor and the sum of the second.

    Args: inputs: D, with the bias; classes: C.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("of_inputs", torch.zeros(inputs, inputs, dtype=torch.float64))
        self.register_buffer("of_classes", torch.zeros(classes, classes, dtype=torch.float64))
        self.register_buffer("images", torch.tensor(0))

    def forget(self) -> None:
        for each in self.buffers():
            each.zero_()

    def add(self, inputs: Tensor, probs: Tensor) -> None:
        """Args: inputs (B, D); probs (B, C)."""
        inputs, probs = inputs.double(), probs.double()
        self.of_inputs += inputs.T @ inputs
        self.of_classes += probs.sum(0).diag() - probs.T @ probs
        self.images += len(inputs)

    def spread(self, toss: Tensor, weights: Tensor, prior_precision: float | None) -> Tensor:
        """Standard normal numbers (K, C, D) as deviations from the weights (C, D); not a number where what was seen is
        none, after a fit that has diverged."""
        if not all(each.isfinite().all() for each in (self.of_inputs, self.of_classes, weights)):
            return torch.full_like(toss, torch.nan)
        a, features = torch.linalg.eigh(self.of_inputs)
        g, classes = torch.linalg.eigh(self.of_classes / self.images.clamp_min(1))
        curvature = g.clamp_min(0).unsqueeze(1) * a.clamp_min(0)
        precision = curvature + (prior_precision or max(3 * weights.shape[1], _evident(curvature, weights)))
        return classes @ (toss / precision.sqrt()) @ features.T


def _evident(curvature: Tensor, weights: Tensor) -> float:
    """The precision of the prior under which what was seen is most likely: as many weights as are well determined, over
    the sum of their squares. The first falls with it, so it is found by halving."""
    low, high, size = -20.0, 20.0, weights.square().sum()  # logarithms
    for _ in range(60):
        middle = (low + high) / 2
        determined = (curvature / (curvature + math.exp(middle))).sum() / size
        low, high = (middle, high) if determined > math.exp(middle) else (low, middle)
    return math.exp(low)


def _weights(head: nn.Linear) -> Tensor:
    """Weights and bias of a layer, (C, D) or (C, D + 1), fp64."""
    parts = [head.weight] if head.bias is None else [head.weight, head.bias.unsqueeze(1)]
    return torch.cat(parts, 1).double()


def _with_ones(head: nn.Linear, embedding: Tensor) -> Tensor:
    """Inputs of that, (B, D) or (B, D + 1)."""
    return embedding if head.bias is None else torch.cat([embedding, embedding.new_ones(len(embedding), 1)], 1)
