"""`Signals`: what a model says of a set of samples, where modules, strategies and the scan meet.

A signal is a named tensor with one row a sample. The names and shapes in use (B rows, C classes, D features):

    logits (B, C)      probs (B, C)                 embedding (B, D)      logit_gradient (B, C)
    target (B,)        gradient_embedding (B, C*D)  cycle (B,)            group (B,)
    dropout_flips (B,), the share of draws of dropout on features in which another class is predicted
    flip_distance (B,), how far an embedding moves along the gradient of its loss until another class is predicted
    gradient_length (B,), of the whole network, on average over the labels that the model expects
    history (B, T), classes that were predicted while the model was trained, -1 where that was not recorded
    predicted_loss (B,), of the classifier, in no unit
    unlabeledness (B,), a discriminator's logit of being unlabeled      latent (B, Z)      reconstruction, of the image
    mc_probs (B, K, C), of K draws from a posterior, the same draws for all rows where a strategy reads rows together

Where a sample has sites (labels, pixels), they are axes before the last: probs (B, L, 2), mc_probs (B, K, H, W, C).

A module and a strategy may share a signal of any other name, with a row a sample.

Sets are lazy: a signal is read when it is first asked for, those asked for together in one pass, and kept.
"""

from collections.abc import Callable, Mapping, Set
from typing import Any, Protocol, overload

import torch
from torch import Tensor

NAMES = (
    "logits", "probs", "embedding", "logit_gradient", "gradient_embedding", "mc_probs", "group", "flip_distance",
    "dropout_flips", "gradient_length", "history", "unlabeledness", "latent", "predicted_loss",
)  # fmt: skip
"""Of the signals in use that a pool may have."""


def said_by_data(of: str) -> set[str]:
    """Names of the signals of a set (`pool`, `labeled`, `holdout`) that no model has to say: groups, and of what is labeled
    the classes and the cycles that asked for them."""
    return {"group", "target", "cycle"} if of == "labeled" else {"group"}


Score = Callable[[Mapping[str, Tensor]], Tensor]
"""A row-wise function: the signals of some rows to one number each, (B,), or several, (B, k)."""


def voice_of(module: Any) -> Any:
    """What says a module's signals, by methods of their names: the module itself, or what an `Adapter` lets speak."""
    return getattr(module, "deepal_voice", module)


class NonFiniteError(ValueError):
    """A signal or a score is NaN or infinite: nothing is chosen from it."""


class Source(Protocol):
    """Where signals come from: a scan of a module over a data set, or arrays in memory."""

    def read(self, positions: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """The signals `names` of `positions` (n,), one row each, in that order."""
        ...

    def map(self, positions: Tensor, names: tuple[str, ...], score: Score) -> Tensor:
        """`score` of the signals `names` of each position, (n,) or several a row (n, k), without keeping the signals."""
        ...


class Signals:
    """The signals of a set of samples, in the order of `positions`.

    Args:
        positions: (n,) positions in the source, one a row.
        source: what reads them.
        known: signals at hand already, n rows each.

    >>> pool = Signals.of({"probs": torch.tensor([[0.9, 0.1], [0.5, 0.5]])})
    >>> pool.take(torch.tensor([1]))["probs"]
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, positions: Tensor, source: Source, known: Mapping[str, Tensor] | None = None) -> None:
        self.positions = positions
        self._source = source
        self._known = dict(known or {})

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> "Signals":
        """Signals from tensors in memory. Raises ValueError where lengths or shapes are wrong, where a value is not finite,
        and where probabilities are none."""
        for name, array in arrays.items():
            refuse_shape(name, array)
            _refuse_wrong(name, array, torch.arange(len(array)))
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"signals of one set must have as many rows each, and these have {lengths}.")
        positions = torch.arange(next(iter(lengths.values()), 0))
        return cls(positions, _Arrays(arrays), arrays)

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, names: str) -> Tensor: ...
    @overload
    def __getitem__(self, names: tuple[str, ...]) -> tuple[Tensor, ...]: ...
    def __getitem__(self, names: str | tuple[str, ...]) -> Tensor | tuple[Tensor, ...]:
        """One signal, or several read in one pass: `error, features = pool["logit_gradient", "embedding"]`.

        Raises NonFiniteError, naming the signal, where a row of it is NaN or infinite, and ValueError where probabilities
        are none.
        """
        wanted = (names,) if isinstance(names, str) else names
        missing = tuple(name for name in wanted if name not in self._known)
        if missing:
            read = self._source.read(self.positions, missing)
            for name, signal in read.items():
                _refuse_wrong(name, signal, self.positions)
            self._known |= read
        return self._known[names] if isinstance(names, str) else tuple(self._known[name] for name in names)

    @property
    def at_hand(self) -> Set[str]:
        """Names of signals that need not be read any more."""
        return self._known.keys()

    def joined(self, more: Mapping[str, Tensor]) -> "Signals":
        """The same set with more signals at hand, n rows each."""
        return Signals(self.positions, self._source, {**self._known, **more})

    def take(self, rows: Tensor) -> "Signals":
        """The set of these rows alone; what is not known of them yet is read for them alone."""
        return Signals(self.positions[rows], self._source, {name: array[rows] for name, array in self._known.items()})

    def map(self, score: Score, names: tuple[str, ...]) -> Tensor:
        """A row-wise score of the signals `names`, (n,) or (n, k), computed batch by batch where they are read.

        Raises NonFiniteError, naming the signal, where a row of it is NaN or infinite, and ValueError where probabilities
        are none, or the score has not a row a row.
        """

        def checked(signals: Mapping[str, Tensor]) -> Tensor:
            for name, signal in signals.items():
                _refuse_wrong(name, signal)
            scores = score(signals)
            rows = len(next(iter(signals.values())))
            if scores.ndim not in (1, 2) or len(scores) != rows:
                raise ValueError(f"a score is one number a row, ({rows},), and this one has shape {tuple(scores.shape)}.")
            return scores

        if any(name in self._known for name in names):  # also where the source would say another of that name
            self[names]
            blocks = zip(*(self._known[name].split(_BLOCK) for name in names), strict=True)
            return torch.cat([checked(dict(zip(names, block, strict=True))) for block in blocks])
        return self._source.map(self.positions, names, checked)


_BLOCK = 8192  # rows at a time
_PROBABILITIES, _ROUNDING = {"probs", "mc_probs"}, 0.02
_CLASSES = {"logits", "probs", "logit_gradient", "mc_probs"}
_RANKS = {**dict.fromkeys((*_CLASSES, "embedding"), 2), "mc_probs": 3}


def refuse_shape(name: str, signal: Tensor) -> None:
    """Raises ValueError, naming it, for a signal that has not a row a sample, or nothing in a row."""
    if signal.ndim < _RANKS.get(name, 1) or 0 in signal.shape[1:] or (name in _CLASSES and signal.shape[-1] < 2):
        raise ValueError(
            f"the signal {name} must have a row a sample (see deepal.signals), and has shape {[*signal.shape]}."
        )


def _refuse_wrong(name: str, signal: Tensor, positions: Tensor | None = None) -> None:
    """Raises NonFiniteError for a signal that is NaN or infinite somewhere, ValueError for probabilities that are none.
    Args: positions: (n,) of the rows, where they are known."""
    wrong = [] if _is_finite(signal) else _rows(signal, lambda values: ~values.isfinite())
    if wrong:
        raise NonFiniteError(f"{name} is NaN or infinite in {_said(wrong, signal, positions)}; nothing was chosen.")
    wrong = _rows(signal, _is_no_distribution) if name in _PROBABILITIES else []
    if wrong:
        raise ValueError(
            f"{name} holds no probabilities in {_said(wrong, signal, positions)}: over the classes, its last axis, they "
            f"are not negative and sum to 1; if these are logits, take their softmax. Nothing was chosen."
        )


def _is_finite(signal: Tensor) -> bool:
    """By the ends of some rows at a time, which are NaN where any is: in an eighth of the time of looking at each."""
    return all(bool(torch.stack(some.aminmax()).isfinite().all()) for some in signal.split(_BLOCK) if some.numel())


def _rows(signal: Tensor, is_wrong: Callable[[Tensor], Tensor]) -> list[int]:
    """Which rows have something wrong."""
    blocks = [is_wrong(some).reshape(len(some), -1).any(1) for some in signal.split(_BLOCK) if some.numel()]
    return torch.cat(blocks).nonzero().flatten().tolist() if blocks else []


def _said(wrong: list[int], signal: Tensor, positions: Tensor | None) -> str:
    """So many rows, and the first of them."""
    first = "" if positions is None else f", the first at position {int(positions[wrong[0]])}"
    return f"{len(wrong)} of {len(signal)} rows{first}"


def _is_no_distribution(probs: Tensor) -> Tensor:
    """(B, ...) of probabilities (B, ..., C), as half precision leaves them."""
    return (probs.amin(-1) < -_ROUNDING) | ((probs.sum(-1, dtype=torch.float32) - 1).abs() > _ROUNDING)


class _Arrays:
    """A source whose signals are all at hand: asked for another, it says which it has."""

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        self.arrays = arrays

    def read(self, positions: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        for name in names:
            if name not in self.arrays:
                raise ValueError(
                    f"the signal '{name}' is needed, and only {', '.join(self.arrays) or 'none'} was given; "
                    f"give it as an array with one row a sample."
                )
        return {name: self.arrays[name][positions] for name in names}

    def map(self, positions: Tensor, names: tuple[str, ...], score: Score) -> Tensor:
        return score(self.read(positions, names))
