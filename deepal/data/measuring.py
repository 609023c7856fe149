"""What networks are told of a data set: the shape of its images, and how their pixels are spread."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deepal.data.images import Images, TensorImages, UnreadableError
from deepal.task import Task


def measured_task(images: Images, positions: Sequence[int], classes: tuple[str, ...]) -> Task:
    """The task of classifying these images. Mean and deviation are those of all images where they are in memory, of 1,000
    of these positions, spread evenly, elsewhere; floats are taken as they are.

    Raises UnreadableError where no image can be read.
    """
    some = _some(images, positions)
    channels, height, width = some.shape[1:]
    mean, std = _mean_and_std(some) if some.dtype == torch.uint8 else ((0.0,) * channels, (1.0,) * channels)
    return Task((channels, height, width), classes, mean, std)


def _some(images: Images, positions: Sequence[int]) -> Tensor:
    """All images where they are in memory, else 1,000 of these spread evenly, those of them that can be read."""
    if isinstance(images, TensorImages):
        return images.data
    spread = torch.linspace(0, len(positions) - 1, min(1000, len(positions))).long().unique()
    chosen = torch.tensor(sorted(positions))[spread]
    try:
        return images.images(chosen)
    except UnreadableError as error:
        readable = [position for position in chosen.tolist() if position not in error.reasons]
        if not readable:
            raise
        return images.images(readable)


def _mean_and_std(data: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of uint8 images, on the scale of 0 to 1, from exact counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in data.unbind(1)]).double()
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ values
    std = (shares @ values.square() - mean.square()).clamp_min(0).sqrt().clamp_min(1e-6)
    return tuple(mean.tolist()), tuple(std.tolist())
