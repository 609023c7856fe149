"""`Repeated`: a data set that says everything several times."""

from dataclasses import dataclass

import torch

from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import Images, ImageSet, TensorImages
from deepal.data.measuring import measured_task


@dataclass(kw_only=True, eq=False)
class Repeated(ActiveDataModule):
    """The training images of another data set several times over, each time with other noise: a pool with redundancy, as
    in RepeatedMNIST (Kirsch et al., 2019). Of n images, the copies of one are at its position p, at p + n, p + 2n, ...
    Test images get no noise.

    Pixels are normalised by the mean and deviation of the images before noise is added.

    Args:
        base: the data set; its images are in memory.
        times: how often each image is there.
        noise: standard deviation of what is added to each pixel of each copy.
        sources: a part of the images, drawn once and for all, that is repeated. None: all.
    """

    base: ActiveDataModule
    times: int = 3
    noise: float = 0.1
    sources: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times < 1 or self.noise < 0:
            raise ValueError(f"data.times={self.times} must be at least 1, and data.noise={self.noise} not be negative.")
        for name in ("pool_size", "imbalance", "augmentation"):
            if getattr(self.base, name):
                raise ValueError(f"data.base.{name} would be without effect; give data.{name}.")

    @property
    def title(self) -> str:
        return f"Repeated{self.base.title}"

    def load(self) -> ImageSet:
        """Raises ValueError for images that are not in memory, and for more sources than there are."""
        loaded = self.base.load()
        train, test = _in_memory(loaded.train), _in_memory(loaded.test)
        size = len(train) if self.sources is None else self.sources
        if not 0 < size <= len(train):
            raise ValueError(
                f"data.sources={size} must be from 1 to {len(train)}, the training images of {self.base.title}."
            )
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(train), generator=generator)[:size] if size < len(train) else torch.arange(size)
        task = measured_task(train, range(len(train)), loaded.classes)
        copies = task.normalize(train.data[order]).repeat(self.times, 1, 1, 1)
        for copy in copies.split(10_000):
            copy += self.noise * torch.randn(copy.shape, generator=generator)
        return ImageSet(
            TensorImages(copies, train.classes[order].repeat(self.times)),
            TensorImages(task.normalize(test.data), test.classes),
            loaded.classes,
        )


def _in_memory(images: Images) -> TensorImages:
    if not isinstance(images, TensorImages):
        raise ValueError("data.base has to be a data set whose images are in memory, to be repeated with noise.")
    return images
