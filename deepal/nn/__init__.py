"""Networks without training. Each is drawn from (input_shape, classes, its own options)."""

from deepal.nn.convolutional import BatchBALDCNN, GalCNN
from deepal.nn.frozen import Frozen, Headed, Trunk
from deepal.nn.mlp import MLP
from deepal.nn.network import Network
from deepal.nn.timm_network import Timm
from deepal.nn.torchvision_network import ResNet18, ResNet34, ResNet50, Torchvision

__all__ = [
    "MLP",
    "BatchBALDCNN",
    "Frozen",
    "GalCNN",
    "Headed",
    "Network",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "Timm",
    "Torchvision",
    "Trunk",
]
