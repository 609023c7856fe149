"""Acquisitions that ask where the draws of a posterior disagree, or are unsure (`functional.uncertainty`, `.joint`).

Whatever says `mc_probs` will do: dropout, an ensemble, a committee, a Laplace approximation.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deepal.functional import joint, uncertainty
from deepal.strategies.base import Acquisition, Choice, QueryStrategy, Scoring, View, top_k

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BALD(Acquisition):
    """Where a label would say most of the weights: mutual information (Houlsby et al., 2011; Gal et al., 2017)."""

    needs = {"pool": ("mc_probs",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return uncertainty.mutual_information(signals["mc_probs"])


@dataclass(frozen=True)
class PredictiveEntropy(Acquisition):
    """Where the averaged prediction has the largest entropy, "MaxEntropy" (Gal et al., 2017)."""

    needs = {"pool": ("mc_probs",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return uncertainty.predictive_entropy(signals["mc_probs"])


@dataclass(frozen=True)
class VariationRatio(Acquisition):
    """Where most draws vote against the majority (Freeman, 1965; Gal et al., 2017).

    Args: votes: by votes, as Gal et al. have it; else by the averaged prediction, as Kirsch et al. (2019) have it.
    """

    votes: bool = True
    needs = {"pool": ("mc_probs",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return uncertainty.variation_ratio(signals["mc_probs"], self.votes)


@dataclass(frozen=True)
class MeanSTD(Acquisition):
    """Where class probabilities deviate most between draws (Kampffmeyer et al., 2016; Gal et al., 2017)."""

    needs = {"pool": ("mc_probs",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return uncertainty.mean_std(signals["mc_probs"])


@dataclass(frozen=True)
class VoteEntropy(Acquisition):
    """Query by committee: where the votes are most evenly spread (Seung et al., 1992; Dagan & Engelson, 1995)."""

    needs = {"pool": ("mc_probs",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return uncertainty.vote_entropy(signals["mc_probs"])


@dataclass(frozen=True)
class ConsensusKL(Acquisition):
    """Query by committee: where members diverge most from their consensus (McCallum & Nigam, 1998); BALD by another name,
    and by the same number."""

    needs = {"pool": ("mc_probs",)}

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        return uncertainty.consensus_kl(signals["mc_probs"])


SATURATED = 0.9
"""The part of what the draws can tell apart from which on a batch is full: what is added to it is chosen by noise."""


@dataclass(frozen=True)
class BatchBALD(QueryStrategy):
    """The batch whose labels together say most of the weights, chosen greedily (Kirsch et al., 2019).

    No row adds more than its own BALD score. So where the least gain of the batch is above the score of every row that was
    left out, the batch is the one that all rows it was given would have made (up to the noise of the gains, once outcomes
    are sampled): that is the note `certified`.

    Args:
        num_samples: outcomes of the joint distribution, once they are too many to enumerate.
        keep: how many rows of largest BALD score are looked at together (at least those of a query); they are read in a
            second scan.
    """

    num_samples: int = 10_000
    keep: int = 10_000
    needs = {"pool": ("mc_probs",)}
    joint = True

    def __post_init__(self) -> None:
        for name in ("num_samples", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"BatchBALD({name}={getattr(self, name)}) must be at least 1.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        if not len(view.pool) or not query_size:
            return Choice(torch.empty(0, dtype=torch.long))
        keep = max(self.keep, query_size)
        if len(view.pool) <= keep:
            one_a_draw(self, view.pool["mc_probs"])  # one scan will do
        bald = view.pool.map(lambda signals: _information(self, signals), self.needs["pool"])
        ranked = top_k(bald, keep + 1, generator, by=repr(self))
        kept, left_out = ranked[:keep], bald[ranked[keep:]]
        draws = view.pool.take(kept)["mc_probs"]
        batch = joint.batch_bald(draws, query_size, self.num_samples, generator)
        most = math.log(draws.shape[1])
        if batch.information >= SATURATED * most:
            log.warning(
                "%r: %d labels say %.2f nats of the weights, and %d draws cannot tell more than %.2f apart, so the last of "
                "them are chosen by noise; take more draws, or a smaller query_size.",
                self, len(batch.rows), batch.information, draws.shape[1], most,
            )  # fmt: skip
        notes = {
            "information": batch.information,
            "certified": bool((batch.gains.min() >= left_out).all()),
            "evaluated": batch.evaluated,
        }
        return Choice(kept[batch.rows], batch.gains.float(), notes)


@dataclass(frozen=True)
class EPIG(Scoring):
    """Where a label would say most of the predictions for others, drawn from the pool: weights that no prediction depends
    on are not asked about (Bickford Smith et al., 2023). Its samples are scored one by one, and several that score high may
    say the same: for a query of more than one there is `Stochastic(of=EPIG())`.

    Args: num_targets: how many others, drawn anew in each query.
    """

    num_targets: int = 100
    needs = {"pool": ("mc_probs",)}
    joint = True

    def __post_init__(self) -> None:
        if self.num_targets < 1:
            raise ValueError(f"EPIG(num_targets={self.num_targets}) must be at least 1.")

    def scores(self, view: View, generator: torch.Generator) -> Tensor:
        if not len(view.pool):
            return torch.empty(0)
        others = torch.randperm(len(view.pool), generator=generator)[: self.num_targets]
        target = one_a_draw(self, view.pool.take(others)["mc_probs"])

        def epig(signals: Mapping[str, Tensor]) -> Tensor:
            pool = signals["mc_probs"]
            return joint.epig(pool, target.to(pool.device))  # a scan scores on its device, and keeps signals on the CPU

        return view.pool.map(epig, self.needs["pool"])


def one_a_draw(strategy: QueryStrategy, mc_probs: Tensor) -> Tensor:
    """The draws, for strategies of joint predictions. Raises ValueError, naming the strategy, where they have sites."""
    if mc_probs.ndim != 3:
        raise ValueError(
            f"{strategy!r} looks at the joint predictions of samples, and this module predicts several sites a sample, of "
            f"shape (samples, {', '.join(map(str, mc_probs.shape[1:]))}); BALD() scores them one by one."
        )
    return mc_probs


def _information(strategy: QueryStrategy, signals: Mapping[str, Tensor]) -> Tensor:
    return uncertainty.mutual_information(one_a_draw(strategy, signals["mc_probs"]))
