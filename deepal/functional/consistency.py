"""Losses on images that nobody has labeled: by what a network is sure of, and what should not change with how they look."""

from math import exp

from torch import Tensor
from torch.nn import functional


def sure(probs: Tensor, threshold: float | Tensor) -> tuple[Tensor, Tensor]:
    """The predicted class of each row, (B,), and whether its probability reaches the threshold, (B,)  (Sohn et al., 2020).

    Args: probs: (B, C); threshold: one for all rows, or one a class, (C,).

    >>> import torch
    >>> sure(torch.tensor([[0.97, 0.03], [0.2, 0.8]]), 0.95)
    (tensor([0, 1]), tensor([ True, False]))
    """
    certainty, classes = probs.max(-1)
    return classes, certainty >= (threshold[classes] if isinstance(threshold, Tensor) else threshold)


def pseudo_label_loss(logits: Tensor, classes: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy to these classes over the rows that count, divided by *all* rows: what is unsure counts as nothing, and
    does not make the others weigh more  (Sohn et al., 2020).

    Args: logits: (B, C); classes: (B,); counts: (B,), which rows do.
    Returns a scalar, in nats.
    """
    return (functional.cross_entropy(logits.float(), classes, reduction="none") * counts).mean()


def curriculum(counts: Tensor, unused: int, threshold: float) -> Tensor:
    """A threshold for each class, lower for those of which little has been learned  (Zhang et al., 2021):

        threshold * M(b_c),  b_c = n_c / max(max_k n_k, unused),  M(b) = b / (2 - b)

    so that as long as most images have not been learned, all are low.

    Args:
        counts: (C,), how many images are taken for each class with certainty.
        unused: how many for none.
        threshold: of the class of which most is learned.

    >>> import torch
    >>> curriculum(torch.tensor([10, 5]), 0, 0.9)
    tensor([0.9000, 0.3000])
    """
    learned = counts / counts.max().clamp_min(max(unused, 1))
    return threshold * learned / (2 - learned)


def decay_of_average(updates: int, decay: float) -> float:
    """What an average of weights keeps of itself in the update after so many: min(n / (n + 10), decay), nothing at first.

    It reaches over the last tenth of all steps until it is an exponential one: weights of the beginning do not weigh
    on a short fit, as they do in the plain average that mean teacher begins with, n / (n + 1).

    >>> [decay_of_average(updates, 0.9) for updates in (0, 10, 1000)]
    [0.0, 0.5, 0.9]
    """
    return min(updates / (updates + 10), decay)


def rampup(step: int, steps: int) -> float:
    """The share of a weight that counts after so many steps, from exp(-5) to 1: exp(-5 (1 - t)^2)  (Laine & Aila, 2017).

    >>> [round(rampup(step, 100), 3) for step in (0, 50, 100, 200)]
    [0.007, 0.287, 1.0, 1.0]
    """
    left = 1 - min(step, steps) / steps if steps else 0.0
    return exp(-5 * left * left)
