"""Augmentation of whole batches on the device, while training only. Each image of a batch draws for itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, pi
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import equalize


class Augmentation(ABC):
    """A random change of images (B, channels, height, width), raw values in and out. Those here raise ValueError for
    numbers outside of what they say."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class RandomFlip(Augmentation):
    """Mirrors an image left to right. Args: p: how probable that is, within 0 and 1."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _refuse(self, 0 <= self.p <= 1)

    def __call__(self, images: Tensor) -> Tensor:
        flipped = torch.rand(len(images), device=images.device) < self.p
        return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)


@dataclass(frozen=True)
class RandomCrop(Augmentation):
    """Shifts an image by up to `padding` pixels each way, a whole number from 0 on, zeros moving in."""

    padding: int = 4

    def __post_init__(self) -> None:
        _refuse(self, isinstance(self.padding, int) and self.padding >= 0)

    def __call__(self, images: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        padded = functional.pad(images, (self.padding,) * 4)
        top, left = torch.randint(2 * self.padding + 1, (2, batch), device=images.device)
        rows = top.view(-1, 1, 1, 1) + torch.arange(height, device=images.device).view(1, 1, -1, 1)
        columns = left.view(-1, 1, 1, 1) + torch.arange(width, device=images.device).view(1, 1, 1, -1)
        images_of = torch.arange(batch, device=images.device).view(-1, 1, 1, 1)
        channels_of = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
        return padded[images_of, channels_of, rows, columns]


@dataclass(frozen=True)
class Cutout(Augmentation):
    """Covers a square of an image with gray, whose middle is anywhere in it (DeVries & Taylor, 2017).

    Args: size: of its side, as a share of the shorter side of the image, within 0 and 2, which covers all of it.
    """

    size: float = 0.5

    def __post_init__(self) -> None:
        _refuse(self, 0 <= self.size <= 2)

    def __call__(self, images: Tensor) -> Tensor:
        images = on_one(images)
        half = self.size * min(images.shape[-2:]) / 2
        inside = torch.ones((), dtype=torch.bool, device=images.device)
        for axis in (-2, -1):
            length = images.shape[axis]
            middle = length * torch.rand(len(images), 1, device=images.device)
            near = (torch.arange(length, device=images.device) + 0.5 - middle).abs() < half
            inside = inside & near.unsqueeze(-1 if axis == -2 else -2)
        return torch.where(inside.unsqueeze(1), 0.5, images)


@dataclass(frozen=True)
class RandAugment(Augmentation):
    """Several operations, one after another, each image its own of any strength (Cubuk et al., 2020), of the fourteen that
    FixMatch has (Sohn et al., 2020): none, contrast, brightness, colour, sharpness, stretched and equalized histograms,
    fewer bits, bright values inverted, and to be turned, sheared and moved. The first four are from a tenth of what they
    were to nearly twice (from .05 to .95 of it there). Floats are taken to be within 0 and 1.

    Args: operations: how many, a whole number from 0 on.
    """

    operations: int = 2

    def __post_init__(self) -> None:
        _refuse(self, isinstance(self.operations, int) and self.operations >= 0)

    def __call__(self, images: Tensor) -> Tensor:
        images = on_one(images)
        for _ in range(self.operations):
            kinds = torch.randint(len(_OPERATIONS), (len(images),), device=images.device)
            strengths = torch.rand(len(images), 1, 1, 1, device=images.device)
            order = kinds.argsort()
            counts = torch.bincount(kinds, minlength=len(_OPERATIONS)).tolist()
            parts = zip(_OPERATIONS, images[order].split(counts), strengths[order].split(counts), strict=True)
            changed = torch.cat([change(some, strength) for change, some, strength in parts])
            images = torch.empty_like(changed).index_copy_(0, order, changed)
        return images


@dataclass(frozen=True)
class RandomResizedCrop(Augmentation):
    """A part of an image in its whole size (Szegedy et al., 2015).

    Args:
        least: the share of the area that the smallest part has, above 0 and up to 1.
        stretch: the factor by which width over height changes at most, 1 or more.
    """

    least: float = 0.3
    stretch: float = 4 / 3

    def __post_init__(self) -> None:
        _refuse(self, 0 < self.least <= 1 and 1 <= self.stretch < inf)

    def __call__(self, images: Tensor) -> Tensor:
        images = on_one(images)
        area, ratio, *middles = torch.rand(4, len(images), device=images.device)
        side, ratio = (self.least + (1 - self.least) * area).sqrt(), self.stretch ** (2 * ratio - 1)
        along, down = ((side * each).clamp_max(1) for each in (ratio.sqrt(), 1 / ratio.sqrt()))
        shifts = ((2 * middle - 1) * (1 - size) for middle, size in zip(middles, (along, down), strict=True))
        zero = torch.zeros_like(side)
        return _moved(images, [[along, zero, next(shifts)], [zero, down, next(shifts)]], rim="border")


@dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Brightness, contrast and color, each more or less by up to `strength`, from 0 to 1."""

    strength: float = 0.4

    def __post_init__(self) -> None:
        _refuse(self, 0 <= self.strength <= 1)

    def __call__(self, images: Tensor) -> Tensor:
        images = on_one(images)
        factors = 1 + self.strength * (2 * torch.rand(3, len(images), 1, 1, 1, device=images.device) - 1)
        images = _blended(images, torch.zeros_like(images), factors[0])
        images = _blended(images, _gray(images).mean((-2, -1), keepdim=True), factors[1])
        return _blended(images, _gray(images), factors[2])


def _refuse(change: Augmentation, is_within: bool) -> None:
    if not is_within:
        name = type(change).__name__
        raise ValueError(f"{change!r} is out of range; help({name}) says from where to where its numbers go.")


def refuse_others(by: str, name: str, given: Any) -> None:
    """Raises ValueError for what is no list of augmentations. Args: by, name: whose option it is."""
    if isinstance(given, Augmentation) or not isinstance(given, Sequence):
        raise ValueError(f"{by}({name}={given!r}) must be a list of augmentations; write {name}=[{given!r}].")
    for each in given:
        if not isinstance(each, Augmentation):
            cure = f"give what it makes: {each.__name__}()" if isinstance(each, type) else "see deepal.augmentation"
            raise ValueError(f"{by}({name}=[...]) takes augmentations, and {each!r} is none; {cure}.")


def refuse_images(by: str, images: Tensor) -> None:
    """Raises ValueError for floats that are not within 0 and 1, which operations on brightness would make nothing of."""
    if images.dtype != torch.uint8 and (images.amin() < -_ROUNDING or images.amax() > 1 + _ROUNDING):
        raise ValueError(
            f"{by} changes brightness and contrast, for which images are bytes, or floats within 0 and 1; these are from "
            f"{float(images.amin()):.3g} to {float(images.amax()):.3g}. Give them as they are before they are normalised, "
            f"which is done after that."
        )


_ROUNDING = 1e-3


def augmented(images: Tensor, augmentations: Sequence[Augmentation]) -> Tensor:
    """Images after one augmentation upon the other."""
    for each in augmentations:
        images = each(images)
    return images


def on_one(images: Tensor) -> Tensor:
    """Images on the scale of 0 to 1: bytes as floats, floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


# Operations of images (n, channels, height, width) within 0 and 1, and strengths (n, 1, 1, 1) within 0 and 1


def _blended(images: Tensor, with_: Tensor, factor: Tensor) -> Tensor:
    return (with_ + factor * (images - with_)).clamp(0, 1)


def _more_or_less(strength: Tensor) -> Tensor:
    """From a tenth to nearly twice."""
    return 0.1 + 1.8 * strength


def _gray(images: Tensor) -> Tensor:
    weights = {3: [0.299, 0.587, 0.114]}.get(images.shape[1], [1 / images.shape[1]] * images.shape[1])
    return (images * images.new_tensor(weights).view(-1, 1, 1)).sum(1, keepdim=True)


def _left_alone(images: Tensor, strength: Tensor) -> Tensor:
    return images


def _stretched(images: Tensor, strength: Tensor) -> Tensor:
    """Each channel from 0 to 1, where it is not of one value."""
    low, high = (find(images, (-2, -1), keepdim=True) for find in (torch.amin, torch.amax))
    return torch.where(high > low, (images - low) / (high - low), images)


def _equalized(images: Tensor, strength: Tensor) -> Tensor:
    return equalize((images * 255).round().to(torch.uint8)).to(images.dtype) / 255


def _brighter(images: Tensor, strength: Tensor) -> Tensor:
    return _blended(images, torch.zeros_like(images), _more_or_less(strength))


def _more_colourful(images: Tensor, strength: Tensor) -> Tensor:
    return _blended(images, _gray(images), _more_or_less(strength))


def _more_contrasted(images: Tensor, strength: Tensor) -> Tensor:
    return _blended(images, _gray(images).mean((-2, -1), keepdim=True), _more_or_less(strength))


def _sharper(images: Tensor, strength: Tensor) -> Tensor:
    kernel = images.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    channels = images.shape[1]
    smooth = functional.conv2d(
        functional.pad(images, (1, 1, 1, 1), mode="replicate"), kernel.expand(channels, 1, 3, 3), groups=channels
    )
    return _blended(images, smooth, _more_or_less(strength))


def _of_fewer_bits(images: Tensor, strength: Tensor) -> Tensor:
    step = 2 ** (5 * strength).floor()  # of bytes: from eight bits to four
    return ((images * 255).round() / step).floor() * step / 255


def _solarized(images: Tensor, strength: Tensor) -> Tensor:
    return torch.where(images < strength, images, 1 - images)


def _turned(images: Tensor, strength: Tensor) -> Tensor:
    angle = (2 * strength.view(-1) - 1) * pi / 6
    return _moved(images, [[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])


def _sheared_along(images: Tensor, strength: Tensor) -> Tensor:
    return _moved(images, [[1.0, 0.6 * strength.view(-1) - 0.3, 0.0], [0.0, 1.0, 0.0]])


def _sheared_down(images: Tensor, strength: Tensor) -> Tensor:
    return _moved(images, [[1.0, 0.0, 0.0], [0.6 * strength.view(-1) - 0.3, 1.0, 0.0]])


def _moved_along(images: Tensor, strength: Tensor) -> Tensor:
    return _moved(images, [[1.0, 0.0, 1.2 * strength.view(-1) - 0.6], [0.0, 1.0, 0.0]])  # two is the whole width


def _moved_down(images: Tensor, strength: Tensor) -> Tensor:
    return _moved(images, [[1.0, 0.0, 0.0], [0.0, 1.0, 1.2 * strength.view(-1) - 0.6]])


def _moved(images: Tensor, matrix: Sequence[Sequence[Tensor | float]], rim: str = "zeros") -> Tensor:
    """By an affine map of places, in pixels but for shifts, which are in halves of a side.

    Args: matrix: of numbers of each image (n,), or of all; rim: what moves in, zeros, or the border again.
    """
    if not len(images):
        return images
    height, width = images.shape[-2:]
    numbers = [torch.as_tensor(each, device=images.device).expand(len(images)) for row in matrix for each in row]
    maps = torch.stack(numbers, 1).unflatten(1, (2, 3)).to(images.dtype)
    maps = maps * maps.new_tensor([[1, height / width, 1], [width / height, 1, 1]])  # a side is of length two there
    places = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, places, padding_mode=rim, align_corners=False)


_OPERATIONS: Sequence[Callable[[Tensor, Tensor], Tensor]] = (
    _left_alone, _stretched, _equalized, _brighter, _more_colourful, _more_contrasted, _sharper, _of_fewer_bits, _solarized,
    _turned, _sheared_along, _sheared_down, _moved_along, _moved_down,
)  # fmt: skip
