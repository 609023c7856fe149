"""Augmentation of whole batches: each image for itself, and each operation as torchvision has it for one image."""

import math

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as peer

from deepal import augmentation
from deepal.augmentation import ColorJitter, Cutout, RandAugment, RandomCrop, RandomFlip, RandomResizedCrop


def pictures(count=6, channels=3, height=16, width=16):
    coins = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, height // 4, width // 4, generator=coins)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


@pytest.mark.parametrize(
    "made",
    [
        lambda: RandomFlip(3), lambda: RandomCrop(-1), lambda: RandomCrop(1.5), lambda: Cutout(-0.1),
        lambda: Cutout(math.nan), lambda: RandAugment(-2), lambda: RandomResizedCrop(4),
        lambda: RandomResizedCrop(stretch=-1), lambda: ColorJitter(9),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_before_a_fit(made):
    with pytest.raises(ValueError, match=r"^\w+\(.*\) is out of range; help\("):
        made()


STRENGTHS = torch.tensor([0.0, 0.2, 0.35, 0.5, 0.8, 0.99]).view(-1, 1, 1, 1)


def factor(strength):
    return 0.1 + 1.8 * strength


def degrees(strength):
    return math.degrees(math.atan(0.6 * strength - 0.3))


def moved(image, **by):
    given = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **by}
    return peer.affine(image, **given, interpolation=InterpolationMode.BILINEAR)


@pytest.mark.parametrize(("channels", "width"), [(1, 16), (3, 16), (1, 28), (3, 8)])
@pytest.mark.parametrize(
    ("operation", "one"),
    [
        (augmentation._left_alone, lambda image, strength: image),
        (augmentation._stretched, lambda image, strength: peer.autocontrast(image)),
        (augmentation._brighter, lambda image, strength: peer.adjust_brightness(image, factor(strength))),
        (augmentation._more_contrasted, lambda image, strength: peer.adjust_contrast(image, factor(strength))),
        (
            augmentation._more_colourful,
            lambda image, strength: peer.adjust_saturation(image, factor(strength)) if len(image) == 3 else image,
        ),
        (augmentation._solarized, lambda image, strength: peer.solarize(image, strength)),
        (augmentation._turned, lambda image, strength: moved(image, angle=-(2 * strength - 1) * 30)),
        (augmentation._sheared_along, lambda image, strength: moved(image, shear=[degrees(strength), 0.0])),
        (augmentation._sheared_down, lambda image, strength: moved(image.mT, shear=[degrees(strength), 0.0]).mT),
    ],
)
def test_an_operation_on_a_batch_is_that_of_torchvision_on_each_image(operation, one, channels, width):
    images = pictures(channels=channels, width=width)
    expected = torch.stack([one(image, float(strength)) for image, strength in zip(images, STRENGTHS, strict=True)])
    assert torch.allclose(operation(images, STRENGTHS), expected, atol=2e-3)  # of weights of gray, and places


def test_operations_on_bytes_are_those_of_torchvision():
    images = (pictures() * 255).round() / 255
    as_bytes = (images * 255).round().byte()
    fewer = augmentation._of_fewer_bits(images, STRENGTHS)
    for image, of_bytes, strength in zip(fewer, as_bytes, STRENGTHS, strict=True):
        assert torch.equal((image * 255).round().byte(), peer.posterize(of_bytes, 8 - int(5 * strength)))
    equal = augmentation._equalized(images, STRENGTHS)
    assert torch.equal((equal * 255).round().byte(), torch.stack([peer.equalize(each) for each in as_bytes]))


def test_sharpness_is_that_of_torchvision_but_for_the_rim():
    found = augmentation._sharper(pictures(), STRENGTHS)[..., 1:-1, 1:-1]
    pairs = zip(pictures(), STRENGTHS, strict=True)
    expected = torch.stack([peer.adjust_sharpness(image, factor(float(strength))) for image, strength in pairs])
    assert torch.allclose(found, expected[..., 1:-1, 1:-1], atol=1e-5)


def test_an_image_is_moved_by_up_to_three_tenths():
    images = pictures(2)
    quarter = torch.full((2, 1, 1, 1), 0.5 + 0.25 / 0.6)
    along = augmentation._moved_along(images, quarter)
    assert torch.allclose(along[..., :12], images[..., 4:], atol=1e-5)
    assert not along[..., 12:].any()
    assert torch.allclose(augmentation._moved_down(images.mT, quarter).mT, along, atol=1e-5)
    furthest = augmentation._moved_along(torch.ones(2, 1, 20, 20), torch.tensor([0.0, 1.0]).view(-1, 1, 1, 1))
    assert furthest.sum((1, 2, 3)).tolist() == pytest.approx([280, 280])


@pytest.mark.parametrize("change", [RandAugment(), RandAugment(3), Cutout(), RandomCrop(2), RandomFlip()])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_each_image_draws_for_itself_and_stays_within_the_scale(change, channels):
    torch.manual_seed(0)
    images = pictures(1, channels).expand(64, -1, -1, -1).contiguous()
    before = images.clone()
    changed = change(images)
    assert torch.equal(images, before)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    different = len(changed.flatten(1).unique(dim=0))
    assert different == 2 if isinstance(change, RandomFlip) else different > 15
    of_nothing = change(images[:0])
    assert of_nothing.shape == (0, channels, 16, 16)


def test_bytes_come_out_on_the_scale_that_networks_take():
    images = (pictures() * 255).round().byte()
    for change in (RandAugment(), Cutout()):
        torch.manual_seed(0)
        of_bytes = change(images)
        torch.manual_seed(0)
        assert torch.equal(of_bytes, change(images.float() / 255))


def test_images_come_back_in_their_order():
    """They are sorted by what happens to them, and sorted back."""
    torch.manual_seed(0)
    images = torch.zeros(50, 1, 8, 8) + torch.arange(50).view(-1, 1, 1, 1) / 50
    kept = [(RandAugment(1)(images)[row] - images[row]).abs().max() < 0.02 for row in range(50)]
    assert sum(kept) > 10


def test_a_square_is_cut_out_whose_middle_is_anywhere():
    torch.manual_seed(0)
    changed = Cutout(0.5)(torch.zeros(4000, 1, 20, 20))
    gray = (changed == 0.5).squeeze(1)
    assert set(changed.unique().tolist()) == {0.0, 0.5}
    rows, columns = gray.any(2).sum(1), gray.any(1).sum(1)
    assert torch.equal(gray.sum((1, 2)), rows * columns), "a rectangle"
    assert rows.max() == columns.max() == 10
    assert 4 < rows.min() <= 6, "half of it, where its middle is on the rim"
    often = gray.float().mean(0)
    assert often[10, 10] == pytest.approx(0.25, abs=0.03)
    assert often[0, 0] == pytest.approx(0.0625 + 0.01, abs=0.02)
