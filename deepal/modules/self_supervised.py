"""What a network can learn of images that nobody has labeled before the first label: pretext tasks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from deepal.augmentation import (
    Augmentation,
    ColorJitter,
    RandomResizedCrop,
    augmented,
    on_one,
    refuse_images,
    refuse_others,
)
from deepal.functional.contrastive import nt_xent
from deepal.nn import Network
from deepal.task import Task


@dataclass(frozen=True)
class Pretext(ABC):
    """A task that needs no labels, on which a network is trained once in a run, all but its last layer. A subclass is a
    frozen dataclass.

    Args: steps: how long; batch_size: images a step of each process, two at least; rate: of Adam, which falls to nothing
        along a cosine; seed: of the pretraining, the same for all runs, so that those of a study share one.
    Raises ValueError for numbers by which nothing would be learned.
    """

    steps: int = field(default=2000, kw_only=True)
    batch_size: int = field(default=256, kw_only=True)
    rate: float = field(default=1e-3, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        counts = all(isinstance(each, int) for each in (self.steps, self.batch_size))
        if not (counts and self.steps >= 1 and self.batch_size >= 2 and 0 < self.rate < inf):
            raise ValueError(f"{self!r} needs at least one step, of two images, and a rate above 0.")

    @abstractmethod
    def head(self, width: int) -> nn.Module:
        """What is put on features (B, width) for the task."""

    @abstractmethod
    def refuse(self, images: Tensor) -> None:
        """Raises ValueError for raw images (B, channels, height, width) that it cannot be asked of."""

    @abstractmethod
    def loss(self, network: Network, head: nn.Module, images: Tensor, task: Task) -> Tensor:
        """A scalar, of images (B, channels, height, width) within 0 and 1; what a network reads is `task.normalize` of
        such."""


@dataclass(frozen=True)
class SimCLR(Pretext):
    """Two random views of an image are to be alike, and unlike those of other images (Chen et al., 2020).

    Args:
        views: augmentations by which views are made. None: a part of the image in its whole size, and color.
        temperature: of the cosines, above 0.
        width: of the space in which they are compared, 1 at least.
    """

    views: Sequence[Augmentation] | None = None
    temperature: float = 0.5
    width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_others("SimCLR", "views", self.how)
        if not self.how:
            raise ValueError(f"{self!r} needs one augmentation at least: views would be the same image.")
        if not 0 < self.temperature < inf or self.width < 1:
            raise ValueError(f"{self!r} needs a temperature above 0, and a width of at least 1.")

    @property
    def how(self) -> Sequence[Augmentation]:
        """By which views are made."""
        return (RandomResizedCrop(), ColorJitter()) if self.views is None else self.views

    def refuse(self, images: Tensor) -> None:
        refuse_images("SimCLR", images)
        augmented(images, self.how)

    def head(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.width))

    def loss(self, network: Network, head: nn.Module, images: Tensor, task: Task) -> Tensor:
        both = torch.cat([task.normalize(augmented(images, self.how)) for _ in range(2)])
        one, two = head(network.forward_features(both)).chunk(2)
        return nt_xent(one, two, self.temperature)


@dataclass(frozen=True)
class Rotation(Pretext):
    """By how many right angles an image was turned, of the four there are (Gidaris et al., 2018). Each image is seen in all
    of them."""

    def head(self, width: int) -> nn.Module:
        return nn.Linear(width, 4)

    def refuse(self, images: Tensor) -> None:
        if images.shape[-1] != images.shape[-2]:
            raise ValueError(f"Rotation() turns square images, and these are {images.shape[-2]} x {images.shape[-1]}.")

    def loss(self, network: Network, head: nn.Module, images: Tensor, task: Task) -> Tensor:
        turned = torch.cat([images.rot90(times, (-2, -1)) for times in range(4)])
        times = torch.arange(4, device=images.device).repeat_interleave(len(images))
        return functional.cross_entropy(head(network.forward_features(task.normalize(turned))).float(), times)


class Pretrained(LightningModule):
    """A network on a pretext task.

    Args: network: to train; pretext: the task; task: says what images are.
    """

    def __init__(self, network: Network, pretext: Pretext, task: Task) -> None:
        super().__init__()
        self.network, self.pretext, self.task = network, pretext, task
        self.pretext_head = pretext.head(network.head.in_features)
        network.head.requires_grad_(False)  # it takes no part

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.pretext.loss(self.network, self.pretext_head, on_one(batch["input"]), self.task)
        self._taken.append(loss.detach())
        return loss

    def on_train_epoch_start(self) -> None:
        self._taken: list[Tensor] = []

    def on_train_epoch_end(self) -> None:
        self.log("pretext/loss", torch.stack(self._taken).mean())

    def configure_optimizers(self) -> Any:
        optimizer = Adam([each for each in self.parameters() if each.requires_grad], lr=self.pretext.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.pretext.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
