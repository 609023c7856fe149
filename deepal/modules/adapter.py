"""`Adapter`: somebody else's LightningModule, made to say what strategies ask. Its training is left alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from deepal.functional import gradients, mixing

Activation = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Adapter:
    """Makes a LightningModule say `logits`, `probs`, `embedding`, `logit_gradient` and, with a softmax, `flip_distance`,
    read off its last linear layer while its own `forward` runs. The module that comes of it *is* theirs: its steps, losses,
    optimizers, hooks and weights.

    A linear layer over vectors says one embedding (B, D) and one row of logits (B, C) a sample; one over tokens, and a
    1 x 1 convolution, say them for each site, channels last: logits (B, H, W, C). With a sigmoid each of L logits is a
    label of its own: probs (B, L, 2), the second being that the label is there.

    Args:
        module: a function that makes theirs, its class for one, called in each cycle; or an instance, copied in each cycle.
        head: the name of the last linear layer, "net.fc" say. None: the last one that runs.
        inputs: where the images are in their batch: an index, or a key. None: the batch is the images.
        activation: of the logits: one class of many, or any number of labels.

    >>> class Theirs(LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(4, 3)
    ...     def forward(self, images):
    ...         return self.fc(images.flatten(1))
    >>> module = Adapter(Theirs, head="fc")()
    >>> isinstance(module, Theirs), module.deepal_voice.probs(torch.zeros(2, 1, 2, 2)).shape
    (True, torch.Size([2, 3]))
    """

    module: Callable[[], LightningModule]
    head: str | None = None
    inputs: str | int | None = None
    activation: Activation = "softmax"

    def __post_init__(self) -> None:
        if self.activation not in _PROBS:
            raise ValueError(f"Adapter(activation={self.activation!r}) must be one of {', '.join(_PROBS)}.")

    def __call__(self) -> LightningModule:
        """A fresh module of theirs that says signals. Raises ValueError where it has no such head."""
        made = deepcopy(self.module)
        module = made if isinstance(made, LightningModule) else made()
        linear = [name for name, layer in module.named_modules() if _is_linear(layer)]
        if self.head is not None and self.head not in linear:
            raise ValueError(
                f"Adapter(head={self.head!r}) is no linear layer of {type(module).__name__}; those are "
                f"{', '.join(linear) or 'none'}."
            )
        if not linear:
            raise ValueError(f"{type(module).__name__} has no linear layer to read; give it methods for what it can say.")
        theirs = type(module)
        named = {name: getattr(theirs, name) for name in ("__doc__", "__module__", "__qualname__")}
        voice = property(lambda adapted: Voice(adapted, self))
        module.__class__ = type(theirs.__name__, (theirs,), {**named, "deepal_voice": voice})
        return module


class Voice(nn.Module):
    """What an adapted module says of a batch. It calls the module, and is no part of it: none of their names is covered."""

    def __init__(self, module: LightningModule, adapter: Adapter) -> None:
        super().__init__()
        self.module, self.adapter = module, adapter

    def forward(self, images: Any) -> Tensor:
        return self.logits(images)

    def logits(self, images: Any) -> Tensor:
        """(B, C), or (B, ..., C) with sites."""
        return self.say(images, ("logits",))["logits"]

    def probs(self, images: Any) -> Tensor:
        """(B, C), (B, L, 2) for labels, or (B, ..., C) with sites, in fp32."""
        return self.say(images, ("probs",))["probs"]

    def embedding(self, images: Any) -> Tensor:
        """The input of the last linear layer, (B, D), or (B, ..., D) with sites."""
        return self.say(images, ("embedding",))["embedding"]

    def logit_gradient(self, images: Any) -> Tensor:
        """The gradient of the loss to what is predicted by the logits, in the shape of the logits."""
        return self.say(images, ("logit_gradient",))["logit_gradient"]

    @property
    def flip_distance(self) -> Callable[[Any], Tensor]:
        """A function from images to how far the embedding moves along the gradient of its loss until another class is
        predicted, (B,). There is none for labels, of which several may be right."""
        if self.adapter.activation != "softmax":
            raise AttributeError("many labels do not flip together")
        return lambda images: self.say(images, ("flip_distance",))["flip_distance"]

    def say(self, images: Any, names: Sequence[str]) -> dict[str, Tensor]:
        """Several signals by name, from one forward pass: these five, and what the module has methods for."""
        adapter = self.adapter
        with (
            _read_off(self.module, adapter.head) as seen,
            torch.compiler.set_stance("force_eager"),
        ):  # hooks are not compiled
            self.module(images if adapter.inputs is None else _part(images, adapter.inputs))
        embedding, logits = seen.embedding, seen.logits
        say = {
            "embedding": lambda: embedding,
            "logits": lambda: logits,
            "probs": lambda: _PROBS[adapter.activation](logits.float()),
            "logit_gradient": lambda: _GRADIENTS[adapter.activation](logits),
            "flip_distance": lambda: mixing.flip_distance(logits, seen.weight),
        }
        return {name: say[name]() if name in say else getattr(self.module, name)(images) for name in names}

    def __getattr__(self, name: str) -> Any:
        """What the module says by itself."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def _part(batch: Any, inputs: str | int) -> Any:
    """Raises ValueError where a batch has no such part."""
    try:
        return batch[inputs]
    except (KeyError, IndexError, TypeError) as error:
        there = f"the keys {', '.join(map(repr, batch))}" if isinstance(batch, dict) else f"the type {type(batch).__name__}"
        raise ValueError(f"Adapter(inputs={inputs!r}) is no part of a batch, which has {there}.") from error


class _Seen:
    """The input, the output and the weights (C, D) of a linear layer, channels last."""

    def __init__(self) -> None:
        self.calls: dict[nn.Module, int] = {}

    def __call__(self, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.calls[layer] = self.calls.get(layer, 0) + 1
        self.embedding, self.logits = _channels_last(layer, inputs[0]), _channels_last(layer, output)
        self.weight = layer.weight.flatten(1)


@contextmanager
def _read_off(module: nn.Module, head: str | None) -> Iterator[_Seen]:
    """Watches the head, or every linear layer, of which the last to run counts.

    Raises ValueError where the head does not run, or runs more than once: then it is not known which of its outputs counts.
    """
    seen = _Seen()
    layers = [layer for name, layer in module.named_modules() if name == head or (head is None and _is_linear(layer))]
    hooks = [layer.register_forward_hook(seen) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
    if not seen.calls or (head is not None and seen.calls[layers[0]] > 1):
        times = seen.calls.get(layers[0], 0) if head is not None else 0
        raise ValueError(
            f"{f'the head {head}' if head else 'a linear layer'} of {type(module).__name__} ran {times} times in forward, "
            f"and must run once; name another with Adapter(head=...)."
        )


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))


def _channels_last(layer: nn.Module, signal: Tensor) -> Tensor:
    return signal.movedim(1, -1) if isinstance(layer, nn.Conv2d) else signal


def _label_probs(logits: Tensor) -> Tensor:
    """(..., L) to (..., L, 2): that a label is not there, and that it is; each by a sigmoid, without cancellation."""
    return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1)


_PROBS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: torch.softmax(logits, -1),
    "sigmoid": _label_probs,
}
_GRADIENTS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "softmax": gradients.logit_gradient,
    "sigmoid": gradients.label_gradient,
}
