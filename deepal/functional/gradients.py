"""Gradients of the last linear layer, in factored form. N samples, C classes, D features.

For a linear head, z = W h + b, and the cross-entropy to label y, the gradient by W is the outer product
(p - onehot(y)) h^T: a (C, D) matrix of rank one. Its two factors say all of it:

    <g_i, g_j> = (e_i . e_j) (h_i . h_j),    |g_i|^2 = |e_i|^2 |h_i|^2,    e = p - onehot(y).

So nothing here holds N x C x D, except `gradient_embedding`, which is for small things and for tests.
"""

import torch
from torch import Tensor


def logit_gradient(logits: Tensor) -> Tensor:
    """Gradient of the cross-entropy to the *predicted* class by the logits: softmax(z) - onehot(argmax z).

    The entry of the predicted class, p_max - 1, is summed from the other classes: the subtraction would lose up to half
    of it in fp32 on confident rows.

    Args: logits (..., C). Returns (..., C); rows sum to 0. Source: the hallucinated gradient of BADGE (Ash et al., 2020).

    >>> logit_gradient(torch.tensor([[0.0, 0.0]]))
    tensor([[-0.5000,  0.5000]])
    """
    probs = torch.softmax(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, -1)
    predicted = logits.argmax(-1, keepdim=True)
    others = probs.scatter(-1, predicted, 0.0)
    return others.scatter(-1, predicted, -others.sum(-1, keepdim=True))


def label_gradient(logits: Tensor) -> Tensor:
    """Gradient of the binary cross-entropy to the *predicted* labels by the logits: sigmoid(z) - [z > 0], for each label.

    It is -sign(z) sigmoid(-|z|), which keeps every digit on confident labels. With a linear head the gradient by its
    weights factors as for classes, so BADGE's distances hold for many labels as they are.

    Args: logits (..., L). Returns (..., L), within [-1/2, 1/2].

    >>> label_gradient(torch.tensor([0.0, 10.0]))
    tensor([ 5.0000e-01, -4.5398e-05])
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return torch.where(logits > 0, -1, 1) * torch.sigmoid(-logits.abs())


def gradient_embedding(logit_gradient: Tensor, embedding: Tensor) -> Tensor:
    """The dense last-layer gradient: the outer product of both factors, flattened class by class (Ash et al., 2020).

    Args: logit_gradient (N, C), embedding (N, D). Returns (N, C * D): memory grows with C times D.

    >>> gradient_embedding(torch.tensor([[-0.5, 0.5]]), torch.tensor([[1.0, 2.0]]))
    tensor([[-0.5000, -1.0000,  0.5000,  1.0000]])
    """
    return (logit_gradient.unsqueeze(-1) * embedding.unsqueeze(-2)).flatten(1)


def random_directions(width: int, count: int, generator: torch.Generator) -> Tensor:
    """Random signs over the root of how many there are, (width, count): a projection on these keeps squared distances on
    average  (Johnson & Lindenstrauss, 1984; Achlioptas, 2003)."""
    signs = torch.randint(2, (width, count), generator=generator) * 2 - 1
    return signs.float() / count**0.5
