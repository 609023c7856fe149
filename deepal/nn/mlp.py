"""A multilayer perceptron over pixels."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from deepal.nn.network import Network


class MLP(Network):
    """Fully connected layers with ReLU and dropout over flattened images.

    Args:
        input_shape: (channels, height, width).
        classes: how many.
        hidden: units of each hidden layer; the last is the width of the embedding.
        dropout: probability of a hidden unit to be dropped while training.
        head_bias: whether the last layer has a bias.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        hidden: Sequence[int] = (128, 128),
        dropout: float = 0.5,
        head_bias: bool = True,
    ) -> None:
        super().__init__()
        widths = [prod(input_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes, bias=head_bias)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features(images)

    def chain(self) -> Sequence[nn.Module]:
        return [*self.features, self.head]
