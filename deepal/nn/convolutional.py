"""The small convolutional networks of the Bayesian active learning papers."""

from collections.abc import Sequence

from torch import Tensor, nn

from deepal.nn.network import Network, width_of


class GalCNN(Network):
    """The network of deep Bayesian active learning on MNIST (Gal, Islam & Ghahramani, 2017): two 4x4 convolutions of 32
    channels, pooling, dropout 0.25, 128 units, dropout 0.5.

    Args: input_shape: (channels, height, width), at least 8 x 8; classes: how many.
    """

    def __init__(self, input_shape: Sequence[int], classes: int) -> None:
        super().__init__()
        trunk = nn.Sequential(
            nn.Conv2d(input_shape[0], 32, 4), nn.ReLU(), nn.Conv2d(32, 32, 4), nn.ReLU(),
            nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),
        )  # fmt: skip
        self.features = nn.Sequential(*trunk, nn.Linear(width_of(trunk, input_shape), 128), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(128, classes)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features(images)

    def chain(self) -> Sequence[nn.Module]:
        return [*self.features, self.head]


class BatchBALDCNN(Network):
    """The network of BatchBALD on MNIST (Kirsch, van Amersfoort & Gal, 2019): two 5x5 convolutions of 32 and 64 channels,
    each with channel dropout 0.5 and pooling, 128 units, dropout 0.5.

    Args: input_shape: (channels, height, width), at least 16 x 16; classes: how many.
    """

    def __init__(self, input_shape: Sequence[int], classes: int) -> None:
        super().__init__()
        trunk = nn.Sequential(
            nn.Conv2d(input_shape[0], 32, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(32, 64, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.features = nn.Sequential(*trunk, nn.Linear(width_of(trunk, input_shape), 128), nn.Dropout(0.5), nn.ReLU())
        self.head = nn.Linear(128, classes)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features(images)

    def chain(self) -> Sequence[nn.Module]:
        return [*self.features, self.head]
