"""Networks whose features stay as they are, and what is trained on these."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from deepal.nn.network import Network


class Headed(Network):
    """Another network's features, and hidden layers between them and the last layer: what is trained where features are
    frozen (`Classifier(backbone=partial(Headed, of=...), frozen=True)`).

    Args:
        input_shape: (channels, height, width).
        classes: how many.
        of: makes the other network.
        hidden: units of each hidden layer; the last is the width of the embedding.
        dropout: probability of a hidden unit to be dropped while training.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        of: Callable[[Sequence[int], int], Network],
        hidden: Sequence[int] = (256,),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.of = of(input_shape, classes)
        widths = [self.of.head.in_features, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def trunk_features(self, images: Tensor) -> Tensor:
        return self.of.forward_features(images)

    def above(self) -> nn.Module:
        return self.layers

    def forward_features(self, images: Tensor) -> Tensor:
        return self.layers(self.trunk_features(images))


class Trunk:
    """A network that is drawn once, with coins of its own, for everything that was copied from what holds this, and is
    never trained: it is one object, however often it is copied."""

    def __init__(self) -> None:
        self._network: Network | None = None
        self._drawn_for: Any = None

    def drawn(self, draw: Callable[[Sequence[int], int], Network], input_shape: Sequence[int], classes: int) -> Network:
        """The network, in eval mode."""
        if self._network is None or self._drawn_for != (tuple(input_shape), classes):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = draw(input_shape, classes)
            self._network, self._drawn_for = network.requires_grad_(False).eval(), (tuple(input_shape), classes)
        return self._network

    def __deepcopy__(self, memo: dict) -> "Trunk":
        return self


class Frozen(Network):
    """What is trained on a network's features, drawn anew. It reads images, or rows of features (B, F) that were read of
    them before.

    The network itself is no part of it: it is not trained, moved, copied or saved with it.

    Args: network: gives the features, in eval mode.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = _Kept(network)
        self.layers = deepcopy(network.above()).cpu().requires_grad_(True).train()  # where the head is drawn too
        for each in self.layers.modules():
            if hasattr(each, "reset_parameters"):
                each.reset_parameters()
        self.head = nn.Linear(network.head.in_features, network.head.out_features, network.head.bias is not None)

    @property
    def trunk(self) -> Network:
        """The network that gives the features."""
        return self._network.network

    def rest_on(self, network: Network) -> None:
        """Take another network's features from here on, of the same width. What was copied from this keeps its own."""
        self._network = _Kept(network)

    @torch.no_grad()
    def trunk_features(self, images: Tensor) -> Tensor:
        """Of images, (B, F); rows of features are what they are."""
        if images.ndim == 2:
            return images
        if next(self.trunk.parameters()).device != images.device:
            self.trunk.to(images.device)
        with torch._C.DisableTorchFunction():  # a posterior, which is one of what is trained, drops nothing in here
            return self.trunk.trunk_features(images)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.layers(self.trunk_features(images))

    def digest(self) -> str:
        """A hash of the weights that the features come from."""
        trained = {id(each) for each in (*self.trunk.head.parameters(), *self.trunk.above().parameters())}
        hashed = blake2b(repr(self.trunk).encode(), digest_size=16)
        for name, each in self.trunk.state_dict(keep_vars=True).items():
            if id(each) not in trained:
                hashed.update(f"{name} {tuple(each.shape)} {each.dtype}".encode())
                hashed.update(each.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return hashed.hexdigest()


class _Kept:
    """A network beside another one, which shares it with its copies."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def __deepcopy__(self, memo: dict) -> "_Kept":
        return self
