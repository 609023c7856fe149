"""Augmentation of whole batches on the device, while training only. Each image of a batch draws for itself."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


class Augmentation(ABC):
    """A random change of images (B, channels, height, width), raw values in and out."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class RandomFlip(Augmentation):
    """Mirrors an image left to right. Args: p: how probable that is."""

    p: float = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        flipped = torch.rand(len(images), device=images.device) < self.p
        return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)


@dataclass(frozen=True)
class RandomCrop(Augmentation):
    """Shifts an image by up to `padding` pixels each way, zeros moving in."""

    padding: int = 4

    def __call__(self, images: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        padded = functional.pad(images, (self.padding,) * 4)
        top, left = torch.randint(2 * self.padding + 1, (2, batch), device=images.device)
        rows = top.view(-1, 1, 1, 1) + torch.arange(height, device=images.device).view(1, 1, -1, 1)
        columns = left.view(-1, 1, 1, 1) + torch.arange(width, device=images.device).view(1, 1, 1, -1)
        images_of = torch.arange(batch, device=images.device).view(-1, 1, 1, 1)
        channels_of = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
        return padded[images_of, channels_of, rows, columns]
