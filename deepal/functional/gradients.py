"""Gradients of the last linear layer, in factored form. N samples, C classes, D features.

For a linear head, z = W h + b, and the cross-entropy to label y, the gradient by W is the outer product
(p - onehot(y)) h^T: a (C, D) matrix of rank one. Its two factors say all of it:

    <g_i, g_j> = (e_i . e_j) (h_i . h_j),    |g_i|^2 = |e_i|^2 |h_i|^2,    e = p - onehot(y).

So nothing here holds N x C x D, except `gradient_embedding`, which is for small things and for tests.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from deepal.functional.geometry import working


def logit_gradient(logits: Tensor) -> Tensor:
    """Gradient of the cross-entropy to the *predicted* class by the logits: softmax(z) - onehot(argmax z).

    The entry of the predicted class, p_max - 1, is summed from the other classes: the subtraction would lose up to half
    of it in fp32 on confident rows.

    Args: logits (..., C). Returns (..., C); rows sum to 0. Source: the hallucinated gradient of BADGE (Ash et al., 2020).

    >>> logit_gradient(torch.tensor([[0.0, 0.0]]))
    tensor([[-0.5000,  0.5000]])
    """
    return class_gradients(logits, logits.argmax(-1, keepdim=True)).squeeze(-2)


def label_gradient(logits: Tensor) -> Tensor:
    """Gradient of the binary cross-entropy to the *predicted* labels by the logits: sigmoid(z) - [z > 0], for each label.

    It is -sign(z) sigmoid(-|z|), which keeps every digit on confident labels. With a linear head the gradient by its
    weights factors as for classes, so BADGE's distances hold for many labels as they are.

    Args: logits (..., L). Returns (..., L), within [-1/2, 1/2].

    >>> label_gradient(torch.tensor([0.0, 10.0]))
    tensor([ 5.0000e-01, -4.5398e-05])
    """
    logits = logits.to(working(logits))
    return torch.where(logits > 0, -1, 1) * torch.sigmoid(-logits.abs())


def class_gradients(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradients of the cross-entropy to each of some labels by the logits: softmax(z) - onehot(y).

    The entry of the label itself is summed from the others, as in `logit_gradient`.

    Args: logits (..., C), labels (..., K). Returns (..., K, C); rows sum to 0.
    """
    probs = torch.softmax(logits.to(working(logits)), -1).unsqueeze(-2)
    own = labels.unsqueeze(-1)
    others = probs.expand(*labels.shape, -1).scatter(-1, own, 0.0)
    return others.scatter(-1, own, -others.sum(-1, keepdim=True))


def gradient_embedding(logit_gradient: Tensor, embedding: Tensor) -> Tensor:
    """The dense last-layer gradient: the outer product of both factors, flattened class by class (Ash et al., 2020).

    Args: logit_gradient (N, C), embedding (N, D). Returns (N, C * D): memory grows with C times D.

    >>> gradient_embedding(torch.tensor([[-0.5, 0.5]]), torch.tensor([[1.0, 2.0]]))
    tensor([[-0.5000, -1.0000,  0.5000,  1.0000]])
    """
    return (logit_gradient.unsqueeze(-1) * embedding.unsqueeze(-2)).flatten(1)


def sketched_gradient(logit_gradient: Tensor, embedding: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """The dense gradient projected on random directions, each of them an outer product of signs, so that it is never
    built: inner products are those of the dense gradients on average  (Kar & Karnick, 2012).

    Args: logit_gradient (N, C), embedding (N, D); directions: `random_directions` for each, (C, width) and (D, width).
    Returns (N, width).
    """
    by_class, by_feature = directions
    width = by_class.shape[1]
    return (logit_gradient @ by_class.to(logit_gradient)) * (embedding @ by_feature.to(embedding)) * sqrt(width)


def expected_error_length(probs: Tensor) -> Tensor:
    """How long the gradient by the logits is on average over the labels that the model expects: sum_y p_y |p - onehot(y)|.

    With q = sum p^2 the length is sqrt(q + 1 - 2 p_y), but where p_y is near 1 all digits of that cancel: there it is taken
    from the other classes, as in `logit_gradient`, and their probabilities are not squared before they have been scaled.

    Args: probs (..., C). Returns (...), within [0, 1]; 0 where the model is sure.

    >>> expected_error_length(torch.tensor([0.5, 0.5]))
    tensor(0.7071)
    """
    others = probs.masked_fill(probs > _SURE, 0.0)
    sure = (probs - others).sum(-1, keepdim=True)  # the probability above that, if there is one
    rest = others.sum(-1, keepdim=True)
    shares = (others / rest.clamp_min(torch.finfo(probs.dtype).tiny)).square_().sum(-1, keepdim=True)
    squares = sure.square() + rest.square() * shares
    of_others = others.mul(-2).add_(squares + 1).sqrt_().mul_(others).sum(-1)
    return of_others + (sure * rest * (shares + 1).sqrt()).squeeze(-1)


_SURE = 0.75  # more than a half, which rounding might give to two classes, and less than what cancels


def expected_gradient_length(probs: Tensor, embedding: Tensor, bias: bool = False) -> Tensor:
    """How long the gradient of the last layer is on average over the labels that the model expects:

        sum_y p_y |g_y| = |h| sum_y p_y |p - onehot(y)|    (Settles & Craven, 2008).

    The gradient's expectation is zero; it is the length that is averaged, and it is the Euclidean one.

    Args:
        probs (N, C), embedding (N, D).
        bias: whether the layer has one: h is then (h, 1).
    Returns (N,), within [0, |h|]; 0 where the model is sure.

    >>> expected_gradient_length(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]]))
    tensor([3.5355, 0.0000])
    """
    probs, embedding = (each.to(working(each)) for each in (probs, embedding))
    length = torch.linalg.vector_norm(embedding, dim=-1)
    if bias:
        length = torch.hypot(length, torch.ones_like(length))
    return length * expected_error_length(probs)


def random_directions(width: int, count: int, generator: torch.Generator) -> Tensor:
    """Random signs over the root of how many there are, (width, count): a projection on these keeps squared distances on
    average  (Johnson & Lindenstrauss, 1984; Achlioptas, 2003)."""
    signs = torch.randint(2, (width, count), generator=generator) * 2 - 1
    return signs.float() / count**0.5
