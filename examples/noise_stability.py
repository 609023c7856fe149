"""Noise stability (Li et al., 2024): `Learner(strategy=NoiseStability(), probes=[WeightNoise()], ...)`."""

from dataclasses import dataclass

import torch

from deepal.functional import coverage
from deepal.probes import Probe
from deepal.strategies import Choice, QueryStrategy


@dataclass(frozen=True)
class WeightNoise(Probe):
    """How `draws` noises, `scale` times as long as the weights, move the logits of an image: (B, draws * C)."""

    draws: int = 10
    scale: float = 0.1
    says, asks = "noise_moves", ("logits",)

    def start(self, module, generator):
        noises = [
            {name: self._noisy(each, generator) for name, each in module.named_parameters()} for _ in range(self.draws)
        ]
        return lambda images: torch.cat(
            [torch.func.functional_call(module, each, images) - module.logits(images) for each in noises], 1
        )

    def _noisy(self, weight, generator):
        noise = torch.nn.functional.normalize(torch.randn(weight.numel(), generator=generator), dim=0).view_as(weight)
        return weight + self.scale * weight.norm() * noise.to(weight)


@dataclass(frozen=True)
class NoiseStability(QueryStrategy):
    """Greedy k-center over the moves, from the origin, where what is stable lies."""

    needs = {"pool": ("noise_moves",)}

    def select(self, view, query_size, generator):
        return Choice(coverage.k_center(view.pool["noise_moves"], 0 * view.pool["noise_moves"][:1], query_size))
