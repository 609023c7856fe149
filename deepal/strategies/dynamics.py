"""Acquisitions that ask what the model could not make up its mind about while it was trained (`functional.dynamics`)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from deepal.functional import dynamics
from deepal.strategies.base import Acquisition


@dataclass(frozen=True)
class LabelDispersion(Acquisition):
    """Where the class that was predicted most often, epoch by epoch, was predicted least often (Bengar et al., 2021). Rows
    that the record does not follow are asked last."""

    needs = {"pool": ("history",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return dynamics.label_dispersion(signals["history"])


@dataclass(frozen=True)
class PredictionFlips(Acquisition):
    """Where the prediction changed most often from one epoch to the next. Rows that the record does not follow are asked
    last."""

    needs = {"pool": ("history",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return dynamics.prediction_flips(signals["history"])
