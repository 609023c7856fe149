"""Interpolation between embeddings, and what it does to predictions. N rows, D features, C classes.

ALFA-Mix (Parvaneh et al., 2022) mixes the embedding h of a row with the mean m of each class of labeled rows, feature by
feature: h + a (m - h), with the a of length eps (at most) that raises the loss of the predicted class most, to first order:
a = eps |m - h| / |g| * g / (m - h), where g is the gradient of that loss by h. A row whose prediction changes is a
candidate. But a (m - h) = eps |m - h| g / |g|: every row moves along its own gradient, and the class mean says only how
far. With a linear head logits are linear along it, so what happens at any class mean is decided at the farthest one, and
by two numbers a row: how far the row has to move, `flip_distance`, and how far it may, eps times `farthest`.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from deepal.functional.geometry import ROWS, working


def flip_distance(logits: Tensor, weight: Tensor) -> Tensor:
    """How far an embedding has to move along the gradient of the loss of its predicted class until a linear head predicts
    another.

    It comes there wherever the gradient is not zero, because g . (w_c - w_predicted), summed over the other classes by
    their probabilities, is |g|^2. Where there is none, it is the largest number there is. Only the direction of g counts,
    and how sure the prediction is has no part in that: sum_c q_c (w_c - w_predicted), with q the probabilities of the other
    classes among themselves.

    Args: logits (N, C); weight (C, D) of the head. Returns (N,), not negative.

    >>> flip_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    tensor([2.])
    """
    logits, weight = (each.to(working(each)) for each in (logits, weight))
    predicted = logits.argmax(-1, keepdim=True)
    error = torch.softmax(logits.scatter(-1, predicted, -torch.inf), -1).scatter(-1, predicted, -1.0)
    with torch.autocast(logits.device.type, enabled=False):
        along = normalize(error @ weight, dim=-1) @ weight.T
    gain = along - along.gather(-1, predicted)
    lead = logits.gather(-1, predicted) - logits
    most = torch.finfo(lead.dtype).max
    return torch.where(gain > 0, lead / gain, most).clamp_max(most).amin(-1)


def class_means(embedding: Tensor, target: Tensor) -> Tensor:
    """The mean embedding of each class that there is, by class number, (classes, D).

    Args: embedding (L, D); target (L,), class numbers.
    """
    present, number = target.unique(return_inverse=True)
    sums = torch.zeros(len(present), embedding.shape[1], dtype=torch.float64, device=embedding.device)
    sums.index_add_(0, number, embedding.double())
    return (sums / torch.bincount(number).unsqueeze(1)).to(embedding.dtype)


def farthest(points: Tensor, others: Tensor) -> Tensor:
    """The distance of each of `points` (N, D) to the farthest of `others` (M, D), M > 0. Returns (N,)."""
    middle = others.mean(0)  # from which distances by products keep their digits
    around = others - middle
    return torch.cat([torch.cdist(some - middle, around).amax(1) for some in points.split(ROWS)] or [points.new_zeros(0)])
