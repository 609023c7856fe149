"""`MCDropout`: networks of a posterior are what dropout leaves of one (Gal & Ghahramani, 2016)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from deepal.functional import noise
from deepal.nn import Network
from deepal.nn.network import in_eval
from deepal.probes.posterior import Posterior
from deepal.probes.thinned import Thinned

_ROWS, _PIXELS = 2048, 2**23  # of draws times images that are computed together, where networks are not thinned


@dataclass(frozen=True)
class MCDropout(Posterior):
    """Draws by dropout, switched on for reading: the dropout layers alone, and functional dropout, of whatever kind; batch
    norm and all else are read in eval mode. (The dropout inside of attention and of recurrent layers stays off.)

    What comes before the first dropout layer is computed once for all draws. A chain of layers is then thinned: each draw
    is a smaller network, without what is dropped (`Thinned`). Elsewhere all draws are computed together, and where a
    network cannot do that (one that adds what was dropped to what was not, say), one after another and wholly; the masks
    are the same, and so is what comes out.

    Args:
        draws: K, how many.
        consistent: a draw drops the same units for all samples: it *is* a network, as joint predictions need it (BatchBALD,
            EPIG). Else each sample has masks of its own, which belong to its content.
        at_test: as for every posterior.
    """

    draws: int = 100
    consistent: bool = True
    asks = ("probs",)

    def __post_init__(self) -> None:
        if self.draws < 1 or self.draws % 1:
            raise ValueError(f"MCDropout(draws={self.draws}) must be a whole number, 1 at least.")

    def start(self, module: nn.Module, generator: torch.Generator) -> Callable[[Any], Tensor]:
        """A function from images to (B, K, C), or (B, K, ..., C) with sites. It raises ValueError where the module has no
        dropout layer that drops anything, and where per-sample masks are wanted of what is no tensor of images."""
        masks = Masks(noise.seed_of(generator), self.draws)
        is_ours = isinstance(getattr(module, "network", None), Network) and hasattr(module, "chain")
        chain = module.chain() if is_ours and self.consistent else None
        return _Draws(module, masks, self.consistent, Thinned.of(chain, masks.of) if chain else None)


class Masks:
    """Which units of a layer stay in which draw: a function of seed, layer, draw and unit, whatever is asked first.

    Args: seed: of all masks; draws: K.
    """

    def __init__(self, seed: int, draws: int) -> None:
        self.seed, self.draws = seed, draws
        self._known: dict[Any, Tensor] = {}

    def of(self, layer: int, p: float, units: torch.Size, device: torch.device) -> Tensor:
        """(K, *units), true where a unit stays, which each does with probability 1 - p.

        Args: layer: the number of the dropout layer, in the order in which they run.
        """
        key = (layer, p, units, device)
        if key not in self._known:
            self._known[key] = self.of_each(layer, p, units, torch.zeros(1, dtype=torch.long, device=device)).squeeze(1)
        return self._known[key]

    def of_each(self, layer: int, p: float, units: torch.Size, samples: Tensor) -> Tensor:
        """(K, B, *units), masks of each sample's own. Args: samples: (B,) their numbers."""
        number = torch.tensor(layer, device=samples.device)
        unit = torch.arange(units.numel(), device=samples.device)
        stays = [
            noise.uniform(self.seed, number, torch.tensor(draw, device=samples.device), samples.unsqueeze(1), unit) >= p
            for draw in range(self.draws)
        ]
        return torch.stack(stays).unflatten(2, units or (1,))


class _Kind(NamedTuple):
    by_channel: bool
    alpha: bool


_KINDS: Mapping[Callable, _Kind] = {
    functional.dropout: _Kind(False, False), torch.dropout: _Kind(False, False),
    functional.dropout1d: _Kind(True, False), functional.dropout2d: _Kind(True, False),
    functional.dropout3d: _Kind(True, False), torch.feature_dropout: _Kind(True, False),
    functional.alpha_dropout: _Kind(False, True), torch.alpha_dropout: _Kind(False, True),
    functional.feature_alpha_dropout: _Kind(True, True), torch.feature_alpha_dropout: _Kind(True, True),
}  # fmt: skip
_SATURATED = -1.7580993408473766  # what alpha dropout sets units to: where SELU ends (Klambauer et al., 2017)


class _Dropping(TorchFunctionMode):
    """While active, calls of dropout use these masks, in eval mode too.

    Args:
        masks: of all layers.
        rows: B, where it is known.
        samples: (B,) their numbers, for masks of their own; None for masks that they share.
        only: a draw, to compute it alone. None: all of them, in K * B rows from the first call on, draw after draw.
    """

    def __init__(self, masks: Masks, rows: int | None, samples: Tensor | None, only: int | None = None) -> None:
        super().__init__()
        self.masks, self.rows, self.samples, self.only = masks, rows, samples, only
        self.layers = 0
        self.dropped = False  # by some layer: from there on rows are those of all draws, or of the only one

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _KINDS:
            return self._dropped(_KINDS[func], *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropped(self, kind: _Kind, input: Tensor, p: float = 0.5, *how: Any, **named: Any) -> Tensor:
        layer, self.layers = self.layers, self.layers + 1
        if p == 0:
            return input
        if self.rows and input.shape[0] % self.rows:
            raise NotByRowsError(
                f"MCDropout gives all images the same masks, and a dropout layer here sees {self.rows} images as an array "
                f"of shape {[*input.shape]}, whose first axis is not theirs; let images come first (batch_first=True)."
            )
        units = torch.Size([*input.shape[1:2], *(1 for _ in input.shape[2:])]) if kind.by_channel else input.shape[1:]
        if self.samples is None:
            stays = self.masks.of(layer, p, units, input.device).unsqueeze(1)
        else:
            stays = self.masks.of_each(layer, p, units, self.samples)
        if self.only is not None:
            self.dropped = True
            return _drop(input, stays[self.only], p, kind.alpha)
        apart = input.unflatten(0, (self.masks.draws, -1)) if self.dropped else input.unsqueeze(0)
        self.dropped = True
        return _drop(apart, stays, p, kind.alpha).flatten(0, 1)


def _drop(input: Tensor, stays: Tensor, p: float, alpha: bool) -> Tensor:
    if not alpha:
        return input * (stays * (1 / (1 - p) if p < 1 else 0.0)).to(input.dtype)
    scale = ((1 - p) * (1 + p * _SATURATED**2)) ** -0.5 if p < 1 else 0.0
    return torch.where(stays, input, _SATURATED) * scale - scale * p * _SATURATED


class NotByRowsError(ValueError):
    """The images of a batch do not lie along the first axis."""


class _Draws:
    """Reads the draws of a module: in the quickest of three ways that gives what one draw by itself gives, which is tried
    on the first batch.

    Args: module: says `probs`; masks: of all draws; consistent: whether samples share them; thinned: the network, where it
        is a chain.
    """

    def __init__(self, module: nn.Module, masks: Masks, consistent: bool, thinned: Thinned | None = None) -> None:
        self.module, self.masks, self.consistent, self.thinned = module, masks, consistent, thinned
        self._read: Callable[[Any], Tensor] | None = None  # not known before it was tried

    def __call__(self, images: Any) -> Tensor:
        if not isinstance(images, Tensor) and not self.consistent:
            raise ValueError(
                "MCDropout(consistent=False) gives each image masks of its own, and this module reads batches that are no "
                "tensor of images; take consistent=True."
            )
        with in_eval(self.module):
            if self._read is None:
                if isinstance(images, Tensor) and len(images) < 2:
                    return self.one_by_one(images)  # of one image much is right that is wrong of two
                self._read = self._quickest(images)
            return self._read(images)

    def _quickest(self, images: Any) -> Callable[[Any], Tensor]:
        some = images[:8] if isinstance(images, Tensor) else images
        last = self._pass(some, self.masks.draws - 1)
        if self.consistent:
            self._refuse_other_orders(some, last)
        exact = last.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        for read in (self.thin, self.together) if self.thinned else (self.together,):
            try:
                found = read(some)
            except NotByRowsError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError):
                continue
            if found[:, -1].shape == last.shape and torch.allclose(found[:, -1], last, atol=1e-5 if exact else 1e-2):
                return read
        return self.one_by_one

    def _refuse_other_orders(self, images: Any, last: Tensor) -> None:
        """Raises NotByRowsError where a draw says something else of images in another order: its masks belong to places."""

        def turned(each: Any) -> Any:
            return each.flip(0) if isinstance(each, Tensor) and each.ndim and len(each) == len(last) else each

        other = self._pass(tree_map(turned, images), self.masks.draws - 1)
        if not torch.allclose(turned(other), last, atol=1e-2, equal_nan=True):
            raise NotByRowsError(
                f"MCDropout gives all images the same masks, and those of a dropout layer of {type(self.module).__name__} "
                f"depend on where in a batch an image lies; let images come first (batch_first=True)."
            )

    def thin(self, images: Tensor) -> Tensor:
        """Each draw by a smaller network."""
        assert self.thinned
        return torch.softmax(self.thinned(images, self.masks.draws).float(), -1)

    def together(self, images: Any) -> Tensor:
        """All draws in K * B rows, as many images at a time as fit."""
        if not isinstance(images, Tensor):
            return self._apart(self._pass(images))
        rows = min(_ROWS, _PIXELS // max(images[0].numel(), 1)) if len(images) else _ROWS
        return torch.cat([self._apart(self._pass(some)) for some in images.split(max(1, rows // self.masks.draws))])

    def one_by_one(self, images: Any) -> Tensor:
        """A pass for each draw."""
        return torch.stack([self._pass(images, draw) for draw in range(self.masks.draws)], 1)

    def _apart(self, probs: Tensor) -> Tensor:
        return probs.unflatten(0, (self.masks.draws, -1)).transpose(0, 1)

    def _pass(self, images: Any, only: int | None = None) -> Tensor:
        rows = len(images) if isinstance(images, Tensor) else None
        dropping = _Dropping(self.masks, rows, None if self.consistent else _numbers(images), only)
        with dropping, torch.compiler.set_stance("force_eager"):
            probs = self.module.probs(images)
        if not dropping.dropped:
            has = "drops nothing (p=0)" if dropping.layers else "has none"
            raise ValueError(
                f"MCDropout(draws={self.masks.draws}) needs a network with dropout, and that of "
                f"{type(self.module).__name__} {has}: all draws would be equal; take one that has it (MLP and the ResNets "
                f"have an option for it: --module.backbone.dropout 0.5), or an ensemble."
            )
        return probs


def _numbers(images: Tensor) -> Tensor:
    """A number of each image, made of its content, (B,)."""
    pixels = images.float().flatten(1).view(torch.int32).long()
    weights = noise.uniform(0, torch.arange(pixels.shape[1], device=images.device)).view(torch.int64) | 1
    return (pixels * weights).sum(1)
