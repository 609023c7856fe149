"""Acquisitions by what a part of the model has learned to tell of images: the discriminators of `VAAL` and `MAL`, the head
of `LossPrediction`."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deepal.functional import uncertainty
from deepal.strategies.base import Acquisition


@dataclass(frozen=True)
class Unlabeledness(Acquisition):
    """What is least like the labeled images, by the logit of a discriminator (Sinha et al., 2019)."""

    needs = {"pool": ("unlabeledness",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return signals["unlabeledness"]


@dataclass(frozen=True)
class UnlabeledEntropy(Acquisition):
    """Of what a discriminator takes for unlabeled, that of largest predictive entropy; then of the rest what is least like
    the labeled images (Ebrahimi et al., 2020). Where there are sites, both are of the whole image."""

    needs = {"pool": ("probs", "unlabeledness")}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        doubt, unlabeled = self.reduced(uncertainty.entropy(signals["probs"])), self.reduced(signals["unlabeledness"])
        return torch.where(unlabeled > 0, doubt, unlabeled)


@dataclass(frozen=True)
class PredictedLoss(Acquisition):
    """Largest loss, as a head beside the classifier predicts it (Yoo & Kweon, 2019). The paper ranks 10,000 images of the
    pool, drawn at random."""

    needs = {"pool": ("predicted_loss",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return signals["predicted_loss"]
