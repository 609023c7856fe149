"""Acquisitions by what a part of the model has learned to tell of images: `VAAL`'s discriminator."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from deepal.strategies.base import Acquisition


@dataclass(frozen=True)
class Unlabeledness(Acquisition):
    """What is least like the labeled images, by the logit of a discriminator (Sinha et al., 2019)."""

    needs = {"pool": ("unlabeledness",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return signals["unlabeledness"]
