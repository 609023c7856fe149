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

from deepal.functional.geometry import ROWS, working


def flip_distance(logits: Tensor, logit_gradient: Tensor, weight: Tensor) -> Tensor:
    """How far an embedding has to move along the gradient of its loss until a linear head predicts another class.

    It comes there wherever the gradient is not zero, because g . (w_c - w_predicted), averaged over the other classes by
    their probabilities, is |g|^2. Where there is none, it is the largest number there is.

    Args: logits (N, C), logit_gradient (N, C), of the loss of the predicted class; weight (C, D) of the head.
    Returns (N,), not negative.

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> flip_distance(logits, torch.tensor([[-0.1, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    tensor([2.])
    """
    logits, error, weight = (each.to(working(each)) for each in (logits, logit_gradient, weight))
    error = error / error.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(error.dtype).tiny)  # its direction counts
    gradient = error @ weight
    along = torch.nn.functional.normalize(gradient, dim=-1) @ weight.T
    predicted = logits.argmax(-1, keepdim=True)
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
    return torch.cat([torch.cdist(some, others).amax(1) for some in points.split(ROWS)] or [points.new_zeros(0)])
