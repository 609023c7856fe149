"""Choosing rows by the Fisher information of the last layer: BAIT  (Ash et al., 2021). N rows, C classes, D features.

For a linear head the information in a row with probabilities p and features h is  P (x) h h^T,  P = diag(p) - p p^T,  a
matrix of CD x CD of rank C - 1. Rows are chosen so that  tr(M^-1 F)  is small, with M what is known (a prior, the labeled
rows and those chosen) and F the mean over all rows: it bounds the error that is left.

What one row would change is a matter of two matrices of C x C a row, G = (I (x) h)^T M^-1 (I (x) h)  and, with F between
two inverses, H: to add or remove a row changes these for all others by products with C^2 columns, so that nothing of
CD x CD is multiplied with every row for every choice.
"""

from math import isfinite

import torch
from torch import Tensor

from deepal.functional.geometry import ROWS, full_precision


class Information:
    """What is known of a linear head, and what each row would add.

    Args:
        embedding: (N, D), fp64, rows that can be added.
        probs: (N, C), fp64, of these.
        inverse: M^-1 at first, (CD, CD), fp64, symmetric, positive definite; it is kept, and changed.
        wanted: F, (CD, CD), fp64.
        weight: how much of its information a row adds.
    """

    def __init__(self, embedding: Tensor, probs: Tensor, inverse: Tensor, wanted: Tensor, weight: float) -> None:
        self.embedding, self.probs, self.weight = embedding, probs, weight
        self.objective = float(torch.linalg.vecdot(inverse, wanted).sum())
        self._inverse, self._between = inverse, inverse @ wanted @ inverse
        self._g, self._h = (self._within(each) for each in (self._inverse, self._between))

    def changes(self, rows: Tensor, sign: int = 1) -> Tensor:
        """By how much the objective changes where a row is added (sign 1, not positive) or removed (-1), (n,)."""
        return torch.cat([(self._core(some, sign) * self._h[some]).sum((1, 2)) for some in rows.split(ROWS)])

    def add(self, row: Tensor, sign: int = 1) -> None:
        """Add a row (1,), or with sign -1 remove one that was added."""
        core, inner = self._core(row, sign)[0], self._h[row[0]]
        self.objective += float((core * inner).sum())
        columns = torch.kron(torch.eye(self.probs.shape[1], dtype=torch.float64), self.embedding[row].reshape(-1, 1))
        inverse, between = self._inverse @ columns, self._between @ columns  # (CD, C)
        middle = core @ inner @ core
        self._inverse.addmm_(inverse @ core, inverse.T)
        self._between.addmm_(inverse @ core, between.T).addmm_(between @ core.T, inverse.T)
        self._between.addmm_(inverse @ middle, inverse.T)
        for start in range(0, len(self.embedding), ROWS):
            some = slice(start, start + ROWS)
            one, other = (self._against(some, each) for each in (inverse, between))  # (n, C, C)
            change = one @ core @ other.mT
            self._h[some] += change + change.mT + one @ middle @ one.mT
            self._g[some] += one @ core @ one.mT

    def _core(self, rows: Tensor, sign: int) -> Tensor:
        """- (I + w P G)^-1 w P  for each row, (n, C, C): the matrix in the middle of Woodbury's identity."""
        probs = self.probs[rows]
        own = sign * self.weight * (torch.diag_embed(probs) - probs.unsqueeze(2) * probs.unsqueeze(1))
        return -torch.linalg.solve(torch.eye(probs.shape[1], dtype=torch.float64) + own @ self._g[rows], own)

    def _within(self, matrix: Tensor) -> Tensor:
        """(I (x) h)^T A (I (x) h) for each row, (N, C, C)."""
        classes, width = self.probs.shape[1], self.embedding.shape[1]
        parts = matrix.reshape(classes, width, classes, width)
        found = self.embedding.new_empty(len(self.embedding), classes, classes)
        for some, place in zip(self.embedding.split(ROWS), found.split(ROWS), strict=True):
            for one in range(classes):
                for other in range(one, classes):
                    place[:, one, other] = ((some @ parts[one, :, other]) * some).sum(1)
                    place[:, other, one] = place[:, one, other]
        return found

    def _against(self, rows: slice, columns: Tensor) -> Tensor:
        """(I (x) h)^T U for each row, with U of shape (CD, C): (n, C, C)."""
        classes, width = self.probs.shape[1], self.embedding.shape[1]
        by_class = columns.reshape(classes, width, -1).transpose(0, 1).reshape(width, -1)
        return (self.embedding[rows] @ by_class).reshape(-1, classes, columns.shape[1])


@full_precision()
def information(embedding: Tensor, probs: Tensor) -> Tensor:
    """The Fisher information of all rows together, (CD, CD), fp64: the sum of (diag p - p p^T) (x) h h^T.

    >>> information(torch.tensor([[2.0]]), torch.tensor([[0.5, 0.5]]))
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    classes, width = probs.shape[1], embedding.shape[1]
    total = torch.zeros(classes, width, classes, width, dtype=torch.float64, device=embedding.device)
    for some, of in zip(embedding.split(ROWS), probs.to(embedding.dtype).split(ROWS), strict=True):
        for one in range(classes):
            for other in range(one, classes):
                weight = of[:, one] * (float(one == other) - of[:, other])
                part = ((some * weight.unsqueeze(1)).T @ some).double()
                total[one, :, other] += part
                if one != other:
                    total[other, :, one] += part
    return total.reshape(classes * width, classes * width)


def principal_directions(embedding: Tensor, width: int, mean: Tensor | None = None) -> Tensor:
    """The directions in which features have the largest second moments, (D, width), orthonormal, each with its largest
    entry positive; fp64.

    Args: embedding (N, D); width: at most D; mean: (D,), from which they are taken; None: from zero.
    """
    origin = embedding.new_zeros(embedding.shape[1], dtype=torch.float64) if mean is None else mean.double()
    moments = sum((from_it := some.double() - origin).T @ from_it for some in embedding.split(ROWS))
    directions = torch.linalg.eigh(moments).eigenvectors[:, -width:].flip(1)
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return directions * signs


def workspace_of_directions(width: int) -> int:
    """Bytes that principal directions hold at most. Args: width: D."""
    return 24 * width * width + 16 * ROWS * width


def mean(points: Tensor) -> Tensor:
    """The mean of rows (N, D), N > 0, in single precision, summed in double: (D,)."""
    total = sum(some.sum(0, dtype=torch.float64) for some in points.split(ROWS))
    return (torch.as_tensor(total) / len(points)).float()


@full_precision()
def projected(embedding: Tensor, directions: Tensor, mean: Tensor | None = None) -> Tensor:
    """Embeddings (N, D) along directions (D, W), from a mean (D,) or from zero: (N, W), as precise as the directions."""
    found = directions.new_empty(len(embedding), directions.shape[1])
    for some, row in zip(embedding.split(ROWS), found.split(ROWS), strict=True) if len(embedding) else ():
        some = some.to(directions.dtype)
        torch.mm(some if mean is None else some - mean, directions, out=row)
    return found


def workspace(rows: int, classes: int, width: int) -> int:
    """Bytes that `bait` holds at most. Args: rows: N; classes: C; width: D."""
    return 8 * rows * (2 * classes * classes + 2 * classes + width) + 32 * (classes * width) ** 2


@full_precision()
def bait(
    embedding: Tensor,
    probs: Tensor,
    labeled_embedding: Tensor,
    labeled_probs: Tensor,
    query_size: int,
    regularization: float = 1.0,
    oversample: int = 2,
) -> tuple[Tensor, list[float]]:
    """Greedily the rows after which tr(M^-1 F) is smallest: more than are wanted, one after another, and then without those
    that are missed least  (Ash et al., 2021, whose code weighs labeled rows by 1 / (L + K) each, and rows to add by
    K / (L + K)).

    What is known is taken apart again while rows leave, by differences that single precision does not hold: all of it is
    computed in double precision.

    Args:
        embedding: (N, D); probs: (N, C).
        labeled_embedding: (L, D); labeled_probs: (L, C), as the model predicts them.
        query_size: K.
        regularization: times the identity, of M. At least a millionth of the longest row's squared length is taken: beside
            rows that are longer double precision cannot tell what is left when one is taken out.
        oversample: so many times K rows are chosen at first.
    Returns min(K, N) rows, in the order of choice, and the objective at first and after each step. Raises ValueError where
    features or probabilities are not finite.
    """
    embedding, labeled_embedding, probs = embedding.double(), labeled_embedding.double(), probs.double()
    count, labels = min(query_size, len(embedding)), len(labeled_embedding)
    share = query_size / max(1, labels + query_size)
    longest = max((float(each.square().sum(1).max()) for each in (embedding, labeled_embedding) if len(each)), default=0.0)
    wanted, known = information(embedding, probs), information(labeled_embedding, labeled_probs.double())
    wanted.add_(known).div_(max(1, len(embedding) + labels))
    known.div_(max(1, labels + query_size)).diagonal().add_(max(regularization, _LEAST * longest))
    inverse = torch.linalg.inv(known)
    del known  # they are large
    state = Information(embedding, probs, inverse, wanted, share)
    del inverse, wanted
    if not isfinite(state.objective):
        raise ValueError("Fisher information needs finite features and probabilities, and some are NaN or infinite.")
    chosen, objectives = list[Tensor](), [state.objective]
    left = torch.ones(len(embedding), dtype=torch.bool)
    for _ in range(min(oversample * count, len(embedding))):
        rows = left.nonzero().squeeze(1)
        chosen.append(rows[state.changes(rows).argmin()].unsqueeze(0))
        left[chosen[-1]] = False
        state.add(chosen[-1])
        objectives.append(state.objective)
    while len(chosen) > count:
        least = int(state.changes(torch.cat(chosen), sign=-1).argmin())
        state.add(chosen.pop(least), sign=-1)
        objectives.append(state.objective)
    return torch.cat(chosen) if chosen else torch.empty(0, dtype=torch.long), objectives


_LEAST = 1e-6  # of the longest row's squared length
