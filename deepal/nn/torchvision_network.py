"""Any classifier of torchvision as a `Network`, and the residual networks with the stem for small images."""

from collections.abc import Sequence

import torchvision
from torch import Tensor, nn

from deepal.nn.network import Network


class Torchvision(Network):
    """A classifier of torchvision by its name, its last linear layer drawn anew for our classes.

    Gray images are repeated over the three channels that these networks expect.

    Args:
        input_shape: (channels, height, width), 1 or 3 channels.
        classes: how many.
        name: as in `torchvision.models.list_models()`, "resnet18" say.
        weights: pretrained weights by their torchvision name ("DEFAULT", "IMAGENET1K_V1"; downloaded when absent), or
            None to draw all weights.
    Raises ValueError for a name that torchvision does not have, and for a network that does not end in a linear layer.
    """

    def __init__(
        self, input_shape: Sequence[int], classes: int, name: str = "resnet18", weights: str | None = None
    ) -> None:
        super().__init__()
        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(
                f"torchvision has no classifier named '{name}'; torchvision.models.list_models() names them all."
            )
        _refuse_channels(input_shape[0], f"Torchvision(name='{name}')")
        self.trunk = torchvision.models.get_model(name, weights=weights)
        for auxiliary in {"aux1", "aux2", "AuxLogits"} & set(dict(self.trunk.named_children())):
            setattr(self.trunk, auxiliary, None)  # GoogLeNet and Inception would answer a tuple while training
            self.trunk.aux_logits = False
        self.head = _cut_last_linear(self.trunk, classes, name)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.trunk(images.expand(-1, 3, -1, -1))

    def stages(self) -> list[str]:
        return _residual_stages(self.trunk)


class _SmallImageResNet(Network):
    """A residual network for images of 28 to 64 pixels (He et al., 2016): a 3x3 stem of stride 1 and no pooling, so that
    the first residual stage still sees the whole resolution."""

    def __init__(self, input_shape: Sequence[int], classes: int, name: str, dropout: float) -> None:
        super().__init__()
        self.trunk = torchvision.models.get_model(name)
        self.trunk.conv1 = nn.Conv2d(input_shape[0], 64, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.trunk.maxpool = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = _cut_last_linear(self.trunk, classes, name)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.trunk(images)

    def stages(self) -> list[str]:
        return _residual_stages(self.trunk)

    def forward_head(self, embedding: Tensor) -> Tensor:
        return self.head(self.dropout(embedding))


class ResNet18(_SmallImageResNet):
    """ResNet-18 with the stem for small images. Args: input_shape: (channels, height, width); classes: how many; dropout:
    before the last layer."""

    def __init__(self, input_shape: Sequence[int], classes: int, dropout: float = 0.0) -> None:
        super().__init__(input_shape, classes, "resnet18", dropout)


class ResNet34(_SmallImageResNet):
    """ResNet-34 with the stem for small images. Args: input_shape: (channels, height, width); classes: how many; dropout:
    before the last layer."""

    def __init__(self, input_shape: Sequence[int], classes: int, dropout: float = 0.0) -> None:
        super().__init__(input_shape, classes, "resnet34", dropout)


class ResNet50(_SmallImageResNet):
    """ResNet-50 with the stem for small images. Args: input_shape: (channels, height, width); classes: how many; dropout:
    before the last layer."""

    def __init__(self, input_shape: Sequence[int], classes: int, dropout: float = 0.0) -> None:
        super().__init__(input_shape, classes, "resnet50", dropout)


def _residual_stages(trunk: nn.Module) -> list[str]:
    """Names of the four stages of a residual network; none of another one."""
    return [f"trunk.{name}" for name, _ in trunk.named_children() if name in ("layer1", "layer2", "layer3", "layer4")]


def _cut_last_linear(trunk: nn.Module, classes: int, name: str) -> nn.Linear:
    """Take the last linear layer off `trunk`, which then ends in its input, and return one of its width for our classes."""
    layers = [(path, layer) for path, layer in trunk.named_modules() if isinstance(layer, nn.Linear)]
    path, last = layers[-1] if layers else ("", None)
    if last is None or last.out_features != 1000:
        raise ValueError(f"the network '{name}' does not end in a linear layer, so it has no embedding; take another.")
    owner = trunk.get_submodule(path.rpartition(".")[0])
    setattr(owner, path.rpartition(".")[2], nn.Identity())
    return nn.Linear(last.in_features, classes)


def _refuse_channels(channels: int, by: str) -> None:
    if channels not in (1, 3):
        raise ValueError(f"{by} reads images of 1 or 3 channels, and these have {channels}.")
