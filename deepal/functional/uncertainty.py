"""Scores of predictive uncertainty. N samples, K posterior draws, C classes; higher is more informative.

`probs` holds class probabilities: (N, C), or (N, ..., C) with sites between (labels, pixels); `mc_probs` holds those of
each draw: (N, K, C), or (N, K, ..., C). Functions reduce the last axis, and the draws where there are any. Probabilities
are read in fp32 at least, so half precision changes no rank beyond its own rounding.

What a posterior says of a sample falls into two parts  (Depeweg et al., 2018):

    predictive entropy  =  expected entropy  +  mutual information
    H[E_w p(y|x,w)]        E_w H[p(y|x,w)]      I[y; w | x]
    of everything          of the data           of the model
                           (aleatoric)           (epistemic: what labels can take away)
"""

import torch
from torch import Tensor


def entropy(probs: Tensor) -> Tensor:
    """Shannon entropy of the predictive distribution: H[y|x] = - sum_c p_c log p_c  (Shannon, 1948).

    The term of the largest class is (1 - d) log1p(-d), with d the sum of the others: where p_max is near 1, fp32 has no
    digits left for its logarithm.

    Args: probs (..., C), rows sum to 1. Returns (...), in nats, within [0, log C]; 0 log 0 counts as 0.

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    others = _without_the_largest(probs)
    rest = others.sum(-1).clamp_max(1)  # which rows that were rounded to half precision may exceed
    return torch.special.entr(others).sum(-1) + torch.special.xlog1py(rest - 1, -rest)


def entropy_of_logits(logits: Tensor) -> Tensor:
    """Shannon entropy of softmax(z), for losses: its gradient is finite where a probability comes to nothing, as that of
    `entropy` is not.

    Args: logits (..., C). Returns (...), in nats, within [0, log C].
    """
    logs = torch.log_softmax(logits, -1)
    return -(logs.exp() * logs).sum(-1)


def least_confidence(probs: Tensor) -> Tensor:
    """One minus the probability of the predicted class: 1 - max_c p_c  (Lewis & Gale, 1994).

    Summed from the *other* classes: on a confident row the subtraction 1 - p_max would lose every digit, and with them
    the order of the row among its like.

    Args: probs (..., C), rows sum to 1. Returns (...), within [0, 1 - 1/C].

    >>> least_confidence(torch.tensor([[0.75, 0.25], [1.0, 1e-9]]))
    tensor([2.5000e-01, 1.0000e-09])
    """
    return _without_the_largest(probs).sum(-1)


def margin(probs: Tensor) -> Tensor:
    """One minus the lead of the first class over the second: 1 - (p_(1) - p_(2))  (Scheffer et al., 2001).

    Where the first has more than half, it is computed as (1 - p_(1)) + p_(2), both without cancellation. With two classes
    it ranks as `entropy` and `least_confidence` do.

    Args: probs (..., C), C >= 2, rows sum to 1. Returns (...), within [0, 1]; exactly 1 on a tie of the first two.

    >>> margin(torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0]]))
    tensor([1.0000, 0.5000])
    """
    others = _without_the_largest(probs)
    first, second = _full_precision(probs).amax(-1), others.amax(-1)
    return torch.where(first > 0.5, others.sum(-1) + second, 1 - (first - second))


def predictive_entropy(mc_probs: Tensor) -> Tensor:
    """Entropy of the averaged prediction: H[E_w p(y|x,w)], "max entropy"  (Gal et al., 2017).

    Args: mc_probs (N, K, ..., C). Returns (N, ...), in nats, within [0, log C].

    >>> predictive_entropy(torch.eye(2).expand(1, 2, 2))   # two sure draws that disagree
    tensor([0.6931])
    """
    return entropy(_full_precision(mc_probs).mean(1))


def expected_entropy(mc_probs: Tensor) -> Tensor:
    """Aleatoric uncertainty: E_w H[p(y|x,w)], the part of the predictive entropy that stays however many labels there are
    (Depeweg et al., 2018).

    Args: mc_probs (N, K, ..., C). Returns (N, ...), in nats, within [0, log C].

    >>> expected_entropy(torch.eye(2).expand(1, 2, 2))
    tensor([0.])
    """
    return entropy(mc_probs).mean(1)


def mutual_information(mc_probs: Tensor) -> Tensor:
    """BALD, epistemic uncertainty: I[y; w] = H[E_w p(y|w)] - E_w H[p(y|w)]  (Houlsby et al., 2011).

    It is the mean divergence of the draws from their mean, E_w KL(p_w || p) with p = E_w p_w, and is summed from terms
    none of which is negative: p ((1 + d) log(1 + d) - d), with d = p_w / p - 1, which has mean zero. The difference of
    two entropies would lose a small value among sure draws, and come out below zero.

    Args: mc_probs (N, K, ..., C), rows sum to 1. Returns (N, ...), in nats, within [0, log min(K, C)].

    >>> mutual_information(torch.eye(2).expand(1, 2, 2))   # two sure draws that disagree
    tensor([0.6931])
    """
    draws = _full_precision(mc_probs)
    mean = draws.mean(1, keepdim=True)
    away = ((draws - mean) / mean.clamp_min(torch.finfo(mean.dtype).tiny)).clamp_min(-1)
    terms = torch.special.xlog1py(1 + away, away).sub_(away)
    return terms.mul_(mean).clamp_min_(0).sum(-1).mean(1)


def variation_ratio(mc_probs: Tensor, votes: bool = True) -> Tensor:
    """The share of draws that do not vote for the most voted class  (Freeman, 1965; Gal et al., 2017).

    Two things go by this name. By votes it is 1 - max_c v_c, a multiple of 1/K, so there are ties; by the mean it is
    1 - max_c p_c of the averaged prediction.

    Args: mc_probs (N, K, ..., C); votes: which of the two. Returns (N, ...), within [0, 1 - 1/C].

    >>> draws = torch.tensor([[[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]])
    >>> variation_ratio(draws), variation_ratio(draws, votes=False)
    (tensor([0.3333]), tensor([0.3000]))
    """
    if not votes:
        return least_confidence(_full_precision(mc_probs).mean(1))
    return (mc_probs.shape[1] - _votes(mc_probs).amax(-1)) / mc_probs.shape[1]


def mean_std(mc_probs: Tensor) -> Tensor:
    """Standard deviation over the draws, averaged over the classes  (Kampffmeyer et al., 2016; Gal et al., 2017).

    Args: mc_probs (N, K, ..., C). Returns (N, ...), within [0, 1/2].

    >>> mean_std(torch.eye(2).expand(1, 2, 2))
    tensor([0.5000])
    """
    return _full_precision(mc_probs).std(1, correction=0).mean(-1)


def vote_entropy(mc_probs: Tensor) -> Tensor:
    """Entropy of the votes of a committee: H[v], v_c the share of draws that predict c  (Dagan & Engelson, 1995).

    Args: mc_probs (N, K, ..., C). Returns (N, ...), in nats, within [0, log min(K, C)].

    >>> vote_entropy(torch.tensor([[[0.9, 0.1], [0.4, 0.6]]]))
    tensor([0.6931])
    """
    return entropy(_votes(mc_probs) / mc_probs.shape[1])


def consensus_kl(mc_probs: Tensor) -> Tensor:
    """Mean divergence of a committee's members from their consensus: (1/K) sum_k KL(p_k || p)  (McCallum & Nigam, 1998).

    It is the mutual information, found a dozen years earlier for committees.

    Args: mc_probs (N, K, ..., C). Returns (N, ...), in nats, within [0, log min(K, C)].
    """
    return mutual_information(mc_probs)


def _votes(mc_probs: Tensor) -> Tensor:
    """How many draws predict each class, (N, ..., C)."""
    voted = mc_probs.argmax(-1, keepdim=True)
    return torch.zeros_like(_full_precision(mc_probs)).scatter_(-1, voted, 1.0).sum(1)


def _without_the_largest(probs: Tensor) -> Tensor:
    """`probs` with the predicted class set to zero."""
    probs = _full_precision(probs)
    return probs.scatter(-1, probs.argmax(-1, keepdim=True), 0.0)


def _full_precision(probs: Tensor) -> Tensor:
    return probs.float() if probs.dtype in (torch.float16, torch.bfloat16) else probs


def calibration_error(probs: Tensor, target: Tensor, bins: int = 15) -> float:
    """How far confidence is from accuracy: the mean of |accuracy - confidence| over bins of equal width, weighed by how
    many rows they hold  (the expected calibration error; Naeini et al., 2015; Guo et al., 2017).

    Args: probs (N, C), N > 0; target (N,). Returns a number in [0, 1].

    >>> calibration_error(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 1]))
    0.25
    """
    confidence, predicted = probs.max(1)
    gap = (predicted == target).double() - confidence.double()
    of = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    return float(torch.zeros(bins, dtype=torch.float64).index_add_(0, of, gap).abs().sum() / len(gap))


def calibrating_temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature, of 1.0, 1.1, ... 20.0, by which logits have to be divided for the smallest calibration error, the
    lowest on a tie  (as UHerding has it; Bae et al., 2025).

    Args: logits (N, C), N > 0; target (N,).
    """
    temperatures = [1 + step / 10 for step in range(191)]
    return min(temperatures, key=lambda each: calibration_error(torch.softmax(logits.double() / each, -1), target))
