"""Strategies over gradients of the last layer, in factored form (`functional.gradients`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from deepal.functional import coverage, fisher, gradients
from deepal.functional.geometry import FactoredGradients
from deepal.strategies.base import Acquisition, Choice, Needs, QueryStrategy, Sizes, View, one_a_sample


@dataclass(frozen=True)
class EGL(Acquisition):
    """Where a label would change the model most: the length of the gradient, on average over the labels that the model
    expects (Settles & Craven, 2008).

    Args:
        whole_network: read the gradient of all weights, by `probes=[GradientLength()]`, which takes a backward pass for
            each sample and label; else of the last layer, in closed form.
        bias: whether the last layer has one. It matters where embeddings are short: of lengths above 2 hardly.
    """

    whole_network: bool = False
    bias: bool = True

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return {"pool": ("gradient_length",) if self.whole_network else ("probs", "embedding")}

    @property
    def of_last_layer(self) -> bool:  # type: ignore[override]
        return not self.whole_network

    def score(self, signals: Mapping[str, Tensor]) -> Tensor:
        if self.whole_network:
            return signals["gradient_length"]
        probs, embedding = one_a_sample(self, signals["probs"], signals["embedding"])
        return gradients.expected_gradient_length(probs, embedding, self.bias)


@dataclass(frozen=True)
class BADGE(QueryStrategy):
    """k-means++ over the gradients that the predicted labels would give: uncertain rows are long, similar rows are close
    (Ash et al., 2020).

    Args:
        first: how the first row is found: of largest gradient (the authors' code), uniformly, or by its squared norm.
        include_labeled: whether labeled rows count as chosen already (in the paper a query knows nothing of them).
        sketch: project the gradient by the logits on so many random directions, for thousands of classes; squared
            distances are then right on average (Johnson & Lindenstrauss, 1984).
    """

    first: coverage.First = "max_norm"
    include_labeled: bool = False
    sketch: int | None = None
    of_last_layer = True

    def __post_init__(self) -> None:
        if self.sketch is not None and self.sketch < 1:
            raise ValueError(f"BADGE(sketch={self.sketch}) must be at least 1.")
        if self.first not in get_args(coverage.First):
            raise ValueError(f"BADGE(first={self.first!r}) must be one of {', '.join(get_args(coverage.First))}.")

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        names = ("logit_gradient", "embedding")
        return {"pool": names, "labeled": names} if self.include_labeled else {"pool": names}

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        sets = [view.pool, view.labeled] if self.include_labeled else [view.pool]
        factors = [one_a_sample(self, *each["logit_gradient", "embedding"]) for each in sets]
        if self.sketch is not None:
            directions = gradients.random_directions(factors[0][0].shape[1], self.sketch, generator)
            factors = [(error @ directions, embedding) for error, embedding in factors]
        geometry = FactoredGradients(*factors[0])
        labeled = geometry.beside(*factors[1]) if self.include_labeled else None
        return Choice(coverage.d2_sampling(geometry, query_size, generator, self.first, labeled=labeled))

    def workspace(self, sizes: Sizes) -> int:
        known = sizes.labeled if self.include_labeled else 0
        classes = sizes.widths.get("logit_gradient", 0)
        sketched = 0 if self.sketch is None else 4 * self.sketch * (sizes.pool + known)
        return sketched + coverage.workspace(
            sizes.pool, known + sizes.query_size, sizes.embedding + (self.sketch or classes)
        )


@dataclass(frozen=True)
class BAIT(QueryStrategy):
    """The rows whose Fisher information, of the last layer, leaves least uncertain of the whole pool: more than are wanted
    are chosen, and then those are left out that are missed least (Ash et al., 2021).

    It holds matrices of the square of classes times features: for more than some hundred features give a `width`. A choice
    takes N (D C^2 + C^3) operations, so for hundreds of classes put a `Prefilter` before it.

    Args:
        width: project features on so many of their principal directions.
        regularization: of what is known, times the identity.
        oversample: so many times the query size are chosen at first.
    """

    width: int | None = None
    regularization: float = 1.0
    oversample: int = 2
    of_last_layer = True
    needs = {"pool": ("probs", "embedding"), "labeled": ("probs", "embedding")}
    keeps_prefix = False

    def __post_init__(self) -> None:
        if not self.regularization > 0 or self.oversample < 1 or (self.width is not None and self.width < 1):
            raise ValueError(f"{self!r} needs a regularization above 0, and an oversample and a width of at least 1.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        probs, embedding = one_a_sample(self, *view.pool["probs", "embedding"])
        labeled_probs, labeled = one_a_sample(self, *view.labeled["probs", "embedding"])
        if self.width is not None and self.width < embedding.shape[1]:
            directions = fisher.principal_directions(embedding, self.width)
            embedding, labeled = (fisher.projected(each, directions) for each in (embedding, labeled))
        classes, width = probs.shape[1], embedding.shape[1]
        if classes * width > _WIDEST:
            raise ValueError(
                f"{self!r} would hold matrices of {classes * width:,} x {classes * width:,}, of {classes} classes times "
                f"{width} features; give it width={_WIDEST // classes} or less."
            )
        rows, objectives = fisher.bait(
            embedding, probs, labeled, labeled_probs, query_size, self.regularization, self.oversample
        )
        return Choice(rows, notes={"objective": objectives[-1]})

    def workspace(self, sizes: Sizes) -> int:
        width = min(self.width or sizes.embedding, sizes.embedding)
        directions = fisher.workspace_of_directions(sizes.embedding) if width < sizes.embedding else 0
        return directions + fisher.workspace(sizes.pool + sizes.labeled, sizes.widths.get("probs", 0), width)


_WIDEST = 10_240  # 840 MB for each of four matrices
