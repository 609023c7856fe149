"""Any image model of timm as a `Network` (the extra `timm`)."""

import difflib
from collections.abc import Sequence

from torch import Tensor, nn

from deepal.nn.network import Network, width_of


class Timm(Network):
    """An image model of timm by its name, without its classifier, and a linear layer for our classes on its features.

    Args:
        input_shape: (channels, height, width); timm fits the first layer to any number of channels.
        classes: how many.
        name: as in `timm.list_models()`, "resnet18" say.
        pretrained: with the weights that timm has for this name (downloaded when absent).
    Raises ValueError for a name that timm does not have, and where timm is not installed.
    """

    def __init__(self, input_shape: Sequence[int], classes: int, name: str = "resnet18", pretrained: bool = False) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ValueError(f"Timm(name='{name}') needs timm: pip install 'deepal[timm]'.") from error
        if not timm.is_model(name.partition(".")[0]):
            close = difflib.get_close_matches(name, timm.list_models(), 1)
            raise ValueError(f"timm has no model '{name}'{f'; the nearest is {close[0]}' if close else ''}.")
        self.trunk = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=input_shape[0])
        self.head = nn.Linear(width_of(self.trunk, input_shape), classes)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.trunk(images)

    def stages(self) -> list[str]:
        return [f"trunk.{each['module']}" for each in getattr(self.trunk, "feature_info", ()) if each.get("module")]
