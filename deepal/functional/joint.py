"""What samples say together. N samples, K posterior draws, C classes; draws are consistent: draw k of one sample and draw k
of another come from the same weights. Where they do not, nothing here means anything.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deepal.functional import uncertainty

_SAMPLES, _COLUMNS = 1024, 256  # of a tile, which stays in cache
_NOISE = 5e-3  # nats, of a sampled gain: a choice within it is as good as any

_ROUNDING = 1e-6  # nats
_SPECK = 1e-15
"""A probability that makes no difference in single precision. Products of smaller ones are soon below the normal numbers,
with which processors compute many times more slowly."""


class Batch(NamedTuple):
    """A batch as it was chosen.

    Args:
        rows: (query_size,) in the order of choice.
        gains: (query_size,) nats that each adds to the mutual information of the batch with the weights.
        evaluated: gains that were computed, after the first choice: some to the end, and of others so much of one as was
            needed to see that it is too small.
    """

    rows: Tensor
    gains: Tensor
    evaluated: float

    @property
    def information(self) -> float:
        """Of the whole batch, I[y_1, ..., y_b; w], in nats: at most log K, which is all that K draws can tell apart."""
        return float(self.gains.sum())


def batch_bald(
    mc_probs: Tensor, query_size: int, num_samples: int, generator: torch.Generator, *, tolerance: float = _NOISE
) -> Batch:
    """BatchBALD: greedily the batch whose labels together say most of the weights, I[y_1, ..., y_b; w]  (Kirsch et al.,
    2019).

    The joint distribution is enumerated while it has at most `num_samples` outcomes, and then sampled: M outcomes of the
    rows chosen so far, each with its posterior over the K draws (a row of W, M x K). Given an outcome, a candidate's
    prediction is a mixture of its draws, so what it adds is the mean of H[W @ P] - W @ H[P], and a further row extends each
    outcome by a label of its own: the same outcomes for all candidates, and for later choices.

    What a candidate adds only falls when others join (submodularity), so its gain of some choices ago bounds it from
    above; candidates are looked at from the largest bound down, for as long as a bound is above the best gain.

    Args:
        mc_probs: (N, K, C), consistent draws.
        query_size: rows to choose; all where there are no more.
        num_samples: outcomes of the joint distribution: at most while they are enumerated, at least when they are sampled.
        generator: of the sampled outcomes.
        tolerance: nats by which a bound may be above the best gain and not be looked at, once outcomes are sampled; -inf
            looks at all.
    Returns the rows, and what each added. The first is the row of largest BALD score; of those that are looked at, on a tie
    the lowest row wins.
    Raises ValueError for draws of sites, for fewer than one sample, and for what is no probability.
    """
    if mc_probs.ndim != 3 or num_samples < 1:
        raise ValueError(
            f"BatchBALD chooses from draws (N, K, C) by num_samples=1 or more, not from shape {[*mc_probs.shape]} by "
            f"{num_samples}."
        )
    draws = mc_probs.float()
    outcomes = _Outcomes(draws, num_samples)
    entropies, bounds = (
        torch.cat([score(some) for some in draws.split(_BLOCK)])
        for score in (uncertainty.entropy, uncertainty.mutual_information)
    )
    bounds = bounds.double()
    if not bounds.isfinite().all():
        raise ValueError("BatchBALD chooses by probabilities, and these have no entropy; take the softmax of logits.")
    chosen, gains = [], []
    for turn in range(min(query_size, len(draws))):
        if turn:
            known = _bring_up_to_date(bounds, draws, entropies, outcomes, tolerance if outcomes.sampled else -_ROUNDING)
        else:
            known = torch.arange(len(draws))
        row = int(known[bounds[known] == bounds[known].max()].min())
        chosen.append(row)
        gains.append(float(bounds[row]))
        bounds[row] = -torch.inf
        if turn + 1 < query_size:
            outcomes.extend(row, generator)
    return Batch(
        torch.tensor(chosen, dtype=torch.long), torch.tensor(gains, dtype=torch.float64).clamp_min(0), outcomes.evaluated
    )


def _bring_up_to_date(bounds: Tensor, draws: Tensor, entropies: Tensor, outcomes: "_Outcomes", tolerance: float) -> Tensor:
    """Replace the largest bounds by gains, until no other bound is above the best gain by more than the tolerance. Returns
    the rows that were looked at, of which one is to be chosen: the bounds of the others are what they were."""
    order = bounds.sort(descending=True, stable=True)
    block, done, best = max(1, _COLUMNS // draws.shape[2]), 0, -torch.inf
    for rows, stale in zip(order.indices.split(block), order.values.split(block), strict=True):
        if stale[0] == -torch.inf or stale[0] < best + tolerance:
            break
        rows = rows[stale > -torch.inf]
        bounds[rows] = outcomes.gains(draws[rows], entropies[rows], best if tolerance > -torch.inf else -torch.inf)
        best = max(best, float(bounds[rows].max()))
        done += len(rows)
    return order.indices[:done]


class _Outcomes:
    """Outcomes of the labels of the rows chosen so far, with the posterior over the draws that each leaves.

    Args: draws: (N, K, C); size: outcomes, at most while they are enumerated, at least when they are sampled.
    """

    def __init__(self, draws: Tensor, size: int) -> None:
        self.draws, self.size = draws, size
        self.rows: list[int] = []
        self.sampled = False
        self.likelihood = draws.new_ones(1, draws.shape[1])  # of each outcome by each draw, up to a factor
        self.weight = draws.new_ones(1)  # of each outcome; they sum to 1
        self.evaluated = 0.0  # gains

    def extend(self, row: int, generator: torch.Generator) -> None:
        """Let the outcomes say a label of this row too."""
        if not self.sampled and len(self.likelihood) * self.draws.shape[2] <= self.size:
            joint = self.likelihood.unsqueeze(1) * _without_specks(self.draws[row]).T  # (outcomes, C, K)
            joint = self.weight.view(-1, 1, 1) * joint / self.likelihood.sum(1).view(-1, 1, 1)
            self.likelihood = joint.flatten(0, 1)
            self.weight = self.likelihood.sum(1)
            kept = _likely(self.weight)
            self.likelihood, self.weight = self.likelihood[kept], self.weight[kept] / self.weight[kept].sum()
        else:
            if not self.sampled:
                self._begin_sampling(generator)
            self.likelihood = self.likelihood * self._label(row, generator)
        most = self.likelihood.amax(1, keepdim=True).clamp_min(torch.finfo().tiny)
        self.likelihood = _without_specks(self.likelihood / most)
        self.rows.append(row)

    def gains(self, candidates: Tensor, entropies: Tensor, least: float = -torch.inf) -> Tensor:
        """I[y_x; w | labels of the rows], (n,), fp64, of candidates (n, K, C) whose draws have these entropies (n, K).

        The mean over outcomes of H[W @ P] - W @ H[P]: what an outcome leaves to learn is never negative, and nothing where
        its posterior is sure of a draw, so that few outcomes tell small gains apart.

        Args: least: what a gain has to come to, to matter. A candidate that is seen to stay below it, by four standard
            errors, after a part of the sampled outcomes is left at that: what is returned for it is that upper bound.
        """
        posterior = self.likelihood / self.likelihood.sum(1, keepdim=True).clamp_min(torch.finfo().tiny)
        left = torch.arange(len(candidates), device=candidates.device)
        mean = candidates.new_zeros(len(candidates), dtype=torch.float64)
        square, seen, columns = torch.zeros_like(mean), 0, _columns(candidates)
        for some, weight in zip(posterior.split(_SAMPLES), self.weight.split(_SAMPLES), strict=True):
            mixture = some @ columns
            to_learn = mixture.clamp_min(torch.finfo().tiny).log_().mul_(mixture).unflatten(1, (len(left), -1)).sum(2)
            to_learn = to_learn.add_(some @ entropies[left].T).neg_().clamp_min_(0)
            mean[left] += (weight @ to_learn).double()
            square[left] += (weight @ to_learn.square()).double()
            seen += len(some)
            self.evaluated += len(left) * len(some) / len(posterior)
            if least == -torch.inf or not self.sampled or seen == len(posterior):
                continue
            share = seen / len(posterior)
            so_far = mean[left] / share
            deviation = (square[left] / share - so_far.square()).clamp_min(0).sqrt()
            upper = so_far + 4 * deviation * math.sqrt((1 - share) / seen)
            mean[left[upper < least]] = upper[upper < least]
            if (stays := upper >= least).all():
                continue
            left = left[stays]
            if not len(left):
                break
            columns = _columns(candidates[left])
        return mean

    def _begin_sampling(self, generator: torch.Generator) -> None:
        """Outcomes of the rows so far, as many from each draw."""
        members = self.draws.shape[1]
        each = math.ceil(self.size / members)
        self.origin = torch.arange(members, device=self.draws.device).repeat(each)  # the draw that an outcome comes from
        self.likelihood = self.draws.new_ones(len(self.origin), members)
        self.weight = self.draws.new_full((len(self.origin),), 1 / len(self.origin))
        self.sampled = True
        for row in self.rows:
            self.likelihood = self.likelihood * self._label(row, generator)

    def _label(self, row: int, generator: torch.Generator) -> Tensor:
        """A label of this row for each outcome: its probability by each draw, (outcomes, K)."""
        levels = self.draws[row].cumsum(1)[self.origin]  # (outcomes, C)
        point = torch.rand(len(levels), 1, generator=generator).to(levels) * levels[:, -1:]
        label = torch.searchsorted(levels, point, right=True).squeeze(1).clamp_max(levels.shape[1] - 1)
        return _without_specks(self.draws[row])[:, label].T


def _likely(weight: Tensor) -> Tensor:
    """The outcomes that are all but a millionth of the probability, the likeliest first."""
    order = weight.sort(descending=True, stable=True)
    return order.indices[order.values.cumsum(0) - order.values < (1 - 1e-6) * weight.sum()]


def _columns(candidates: Tensor) -> Tensor:
    """(n, K, C) as a matrix (K, n * C)."""
    return _without_specks(candidates).transpose(0, 1).reshape(candidates.shape[1], -1)


def _without_specks(probs: Tensor) -> Tensor:
    return probs.masked_fill(probs < _SPECK, 0)


def epig(pool: Tensor, target: Tensor) -> Tensor:
    """Expected predictive information gain: E_x* I[y; y* | x, x*], what the label of a sample says of the predictions for
    others  (Bickford Smith et al., 2023).

    The joint prediction differs from the product of both by the covariance of the draws, so the mutual information is
    summed from terms that are not negative, as in `uncertainty.mutual_information`; one matrix product for all targets.

    Args: pool (N, K, C), target (T, K, C): consistent draws, of the samples to score and of those to predict. Returns
        (N,), in nats, within [0, BALD]. Raises ValueError where there is nothing to predict.

    >>> sure = torch.eye(2).expand(1, 2, 2)                # two sure draws that disagree: one label tells them apart
    >>> epig(sure, sure)
    tensor([0.6931])
    """
    if not len(target):
        raise ValueError("EPIG is what a label says of others, and target has none; give it samples to predict.")
    pool, target = _without_specks(pool.float()), _without_specks(target.float())
    scores = pool.new_zeros(len(pool))
    classes = pool.shape[2]
    others = max(1, _ELEMENTS // (classes * classes))  # targets, and then samples, at a time
    for targets in target.split(others):
        size = max(1, _ELEMENTS // (classes * classes * len(targets)))
        parts = [_information_between(some, targets) for some in pool.split(size)]
        scores += torch.cat(parts) if parts else scores
    return scores / len(target)


def _information_between(pool: Tensor, target: Tensor) -> Tensor:
    """I[y; y*] summed over the targets, (n,)."""
    means = pool.mean(1), target.mean(1)
    away = (target - means[1].unsqueeze(1)).transpose(0, 1).flatten(1)  # (K, T * C)
    away = (pool - means[0].unsqueeze(1)).transpose(1, 2) @ away / pool.shape[1]  # the covariance, (n, C, T * C)
    product = means[0].unsqueeze(2) * means[1].flatten()
    away = (away / product.clamp_min(torch.finfo().tiny)).clamp_min(-1)
    return torch.special.xlog1py(1 + away, away).sub_(away).mul_(product).clamp_min_(0).sum((1, 2))


_BLOCK, _ELEMENTS = 256, 2**24  # samples, and numbers of a joint prediction, at a time
