"""Pseudo-labels: what the model is sure of trains the next one, as if somebody had said it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

import torch
from torch import Tensor

from deepal.functional import turns, uncertainty
from deepal.numeric import is_count
from deepal.strategies.base import (
    Acquisition,
    Choice,
    Composed,
    Needs,
    QueryStrategy,
    View,
    choose,
    predicted,
    together,
    top_k,
)

_UNCERTAIN = {"entropy": uncertainty.entropy, "confidence": uncertainty.least_confidence}


@dataclass(frozen=True)
class PseudoLabels(Composed):
    """What another strategy asks; beside it the model labels, for nothing, what it is sure of. The next model trains on
    these pseudo-labels too; then they are given up, and their images may be asked for like any others. They are no part of
    the budget, and no answers. With `LeastConfidence`, `Margin` or `Entropy` it is CEAL (Wang et al., 2017).

    As the model comes to be sure of more, `threshold` falls by `decay * t` after query t, to 0 at last, which takes
    nothing: the run is then that of the other strategy. Queries are counted by the last one that has brought labels.

    Args:
        of: the other strategy.
        threshold: an image is sure whose uncertainty is below it: the entropy in nats, or by confidence what the largest
            probability lacks of 1, 0.5 at most.
        decay: how fast the threshold falls.
        by: which of the two.
        max_per_class: of each predicted class at most so many, the surest. None: all.
    """

    of: QueryStrategy
    threshold: float = 0.005
    decay: float = 0.0033
    by: Literal["entropy", "confidence"] = "entropy"
    max_per_class: int | None = None
    trains_next = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in _UNCERTAIN:
            raise ValueError(f"PseudoLabels(by={self.by!r}) must be one of {', '.join(_UNCERTAIN)}.")
        if not (0 <= self.threshold < inf and 0 <= self.decay < inf):
            raise ValueError(
                f"PseudoLabels(threshold={self.threshold}, decay={self.decay}) must be numbers that are not negative."
            )
        if self.by == "confidence" and self.threshold > 0.5:
            raise ValueError(
                f"PseudoLabels(threshold={self.threshold}, by='confidence') is what the largest probability may lack of 1, "
                f"and above 0.5 another class may be as likely as the predicted one; for images with a probability of 0.95 "
                f"or more it is 0.05."
            )
        if self.max_per_class is not None and not is_count(self.max_per_class):
            raise ValueError(
                f"PseudoLabels(max_per_class={self.max_per_class}) must be a whole number, 1 at least, or None for all."
            )

    @property
    def parts(self) -> Sequence[QueryStrategy]:
        return (self.of,)

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return together(self.of.needs, {"pool": ("probs",), "labeled": ("cycle",)})

    @property
    def keeps_prefix(self) -> bool:  # type: ignore[override]
        return self.of.keeps_prefix

    def threshold_after(self, queries: int) -> float:
        """The threshold when so many queries have been answered.

        >>> from deepal.strategies import Entropy
        >>> [round(PseudoLabels(Entropy(), 0.05, 0.01).threshold_after(queries), 3) for queries in range(4)]
        [0.05, 0.04, 0.02, 0.0]
        """
        return max(0.0, self.threshold - self.decay * queries * (queries + 1) / 2)

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        threshold = self.threshold_after(int(view.labeled["cycle"].max()) + 1 if len(view.labeled) else 0)
        if not threshold:
            return self._noted(choose(self.of, view, query_size, generator), threshold)
        if isinstance(self.of, Acquisition):
            choice, sureness = self._in_one_pass(self.of, view, query_size, generator)
        else:
            choice, sureness = choose(self.of, view, query_size, generator), view.pool.map(self._sureness, ("probs",))
        uncertain, classes = sureness[:, 0].index_fill(0, choice.rows, torch.inf), sureness[:, 1].long()
        rows = (uncertain < threshold).nonzero().squeeze(1)
        if self.max_per_class is not None:
            surest = rows[uncertain[rows].sort(stable=True).indices]
            rows = surest[turns.occurrence(classes[surest]) < self.max_per_class].sort().values
        return self._noted(replace(choice, pseudo_labels=(rows, classes[rows])), threshold)

    def _in_one_pass(
        self, of: Acquisition, view: View, query_size: int, generator: torch.Generator
    ) -> tuple[Choice, Tensor]:
        """The query of an acquisition, and how sure each row is, from one pass over the pool."""
        said = view.pool.map(
            lambda signals: torch.cat([of.score_rows(signals).unsqueeze(1), self._sureness(signals)], 1),
            together(of.needs, {"pool": ("probs",)})["pool"],
        )
        rows = top_k(said[:, 0], query_size, generator, by=repr(of))
        return Choice(rows, said[rows, 0]), said[:, 1:]

    def _sureness(self, signals: Mapping[str, Tensor]) -> Tensor:
        """Uncertainty and predicted class, (B, 2)."""
        classes = predicted(self, signals["probs"])
        return torch.stack([_UNCERTAIN[self.by](signals["probs"]), classes], 1)

    def _noted(self, choice: Choice, threshold: float) -> Choice:
        count = 0 if choice.pseudo_labels is None else len(choice.pseudo_labels[0])
        return replace(choice, notes={**choice.notes, "pseudo-labels": float(count), "threshold": threshold})
