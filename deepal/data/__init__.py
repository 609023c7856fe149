"""Data: which images are labeled, and how they are served."""

from deepal.augmentation import (
    Augmentation,
    ColorJitter,
    Cutout,
    RandAugment,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
)
from deepal.data.datamodule import ActiveDataModule
from deepal.data.datasets import (
    CIFAR10,
    CIFAR100,
    EMNIST,
    KMNIST,
    MNIST,
    SVHN,
    Digits,
    FashionMNIST,
    FromDatasets,
)
from deepal.data.file_sets import ImageFolder, Manifest
from deepal.data.images import DatasetImages, Images, ImageSet, TensorImages
from deepal.data.initial import AtRandom, Balanced, Everything, Given, Initial
from deepal.data.pool import Pool
from deepal.data.repeated import Repeated

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "EMNIST",
    "KMNIST",
    "MNIST",
    "SVHN",
    "ActiveDataModule",
    "AtRandom",
    "Augmentation",
    "Balanced",
    "ColorJitter",
    "Cutout",
    "DatasetImages",
    "Digits",
    "Everything",
    "FashionMNIST",
    "FromDatasets",
    "Given",
    "ImageFolder",
    "ImageSet",
    "Images",
    "Initial",
    "Manifest",
    "Pool",
    "RandAugment",
    "RandomCrop",
    "RandomFlip",
    "RandomResizedCrop",
    "Repeated",
    "TensorImages",
]
