"""What a backbone is: features, then one linear layer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Network(nn.Module, ABC):
    """An image classifier split where active learning reads it: `embedding` is the input of the last linear layer.

    A network is drawn from (input_shape, classes, options of its own): input_shape is (channels, height, width). The
    split carries timm's names, so `forward` is `forward_head(forward_features(x))`.
    """

    head: nn.Linear

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, channels, height, width) to embeddings (B, D)."""

    def trunk_features(self, images: Tensor) -> Tensor:
        """What stays as it is where features are frozen, (B, F); `forward_features` is `above()` of it."""
        return self.forward_features(images)

    def above(self) -> nn.Module:
        """The layers between `trunk_features` and the last one, which are trained where features are frozen."""
        return nn.Identity()

    def forward_head(self, embedding: Tensor) -> Tensor:
        """Embeddings (B, D) to logits (B, C)."""
        return self.head(embedding)

    def hidden(self) -> list[str]:
        """Names of the linear layers but the last."""
        return [name for name, each in self.named_modules() if isinstance(each, nn.Linear) and each is not self.head]

    def hidden_weights(self) -> list[Tensor]:
        """Of the linear layers but the last."""
        return [self.get_parameter(f"{name}.weight") for name in self.hidden()]

    def chain(self) -> Sequence[nn.Module] | None:
        """The layers from images to logits, where they run one after another and that is all; else None."""
        return None

    def stages(self) -> list[str]:
        """Names of the parts whose outputs are features of ever higher level; none where a network does not say. Where
        layers run one after another, those are the nonlinear ones."""
        nonlinear = [each for each in self.chain() or () if isinstance(each, nn.ReLU)]
        return [name for name, each in self.named_modules() if any(each is one for one in nonlinear)]

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def width_of(features: nn.Module, input_shape: Sequence[int]) -> int:
    """How many features come out for one image of this shape, found by passing one through in eval mode."""
    with in_eval(features), torch.no_grad():
        return features(torch.zeros(1, *input_shape)).shape[1]


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """A module in eval mode, and afterwards each part of it in the mode that it was in."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, training in modes.items():
            each.training = training
