"""Acquisitions that ask where one prediction is least certain (`functional.uncertainty`)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from deepal.functional import uncertainty
from deepal.strategies.base import Acquisition


@dataclass(frozen=True)
class LeastConfidence(Acquisition):
    """Where the predicted class is least probable (Lewis & Gale, 1994)."""

    needs = {"pool": ("probs",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return uncertainty.least_confidence(signals["probs"])


@dataclass(frozen=True)
class Margin(Acquisition):
    """Where the two most probable classes are closest (Scheffer et al., 2001)."""

    needs = {"pool": ("probs",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return uncertainty.margin(signals["probs"])


@dataclass(frozen=True)
class Entropy(Acquisition):
    """Where the predictive entropy is largest (Shannon, 1948; Settles, 2009)."""

    needs = {"pool": ("probs",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return uncertainty.entropy(signals["probs"])
