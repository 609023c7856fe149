"""Images of any mode and size, and what is no image."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from deepal.data.datamodule import ActiveDataModule
from deepal.data.files import FileImages, decode
from deepal.data.foreign import OverDataModule
from deepal.data.images import UnreadableError
from deepal.data.loading import Damaged
from deepal.data.table import Table
from tests import own


def content(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_gray_and_color_come_out_as_they_are():
    assert torch.equal(decode(content(Image.fromarray(RAMP)), 16, 1)[0], torch.from_numpy(RAMP))
    color = np.stack([RAMP, RAMP.T, 255 - RAMP], -1)
    assert torch.equal(decode(content(Image.fromarray(color)), 16, 3).permute(1, 2, 0), torch.from_numpy(color))
    assert torch.equal(decode(content(Image.fromarray(RAMP)), 16, 3), torch.from_numpy(RAMP).expand(3, -1, -1))


def test_sixteen_bits_are_brought_to_eight_not_cut_off():
    deep = (RAMP.astype(np.uint16) * 257).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        assert torch.equal(decode(content(Image.fromarray(deep), kind), 16, 1)[0], torch.from_numpy(RAMP))
    wide = Image.fromarray(deep.astype(np.int32))
    assert torch.equal(decode(content(wide, "TIFF"), 16, 1)[0], torch.from_numpy(RAMP))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_is_read(mode):
    image = Image.fromarray(np.stack([RAMP] * 3, -1)).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    assert decode(content(image, kind), 16, 3).shape == (3, 16, 16)
    if mode not in ("1", "P"):
        assert (decode(content(image, kind), 16, 1)[0].int() - torch.from_numpy(RAMP).int()).abs().max() <= 2


def test_a_palette_with_transparency_is_read_without_a_warning(recwarn):
    image = Image.fromarray(RAMP).convert("P")
    assert decode(content(image, transparency=bytes(range(256))), 16, 3).shape == (3, 16, 16)
    assert not recwarn.list


def test_an_image_that_a_camera_turned_is_turned_back():
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned to the right
    turned = Image.fromarray(np.rot90(upright).copy())
    read = decode(content(turned, "TIFF", exif=exif), 8, 3)
    assert torch.equal(read.permute(1, 2, 0), torch.from_numpy(upright))


@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (100, 100), (3, 3), (1, 1)])
def test_any_size_is_brought_to_one(shape):
    image = Image.fromarray(np.full((*shape, 3), 90, np.uint8))
    assert torch.equal(decode(content(image), 16, 3), torch.full((3, 16, 16), 90, dtype=torch.uint8))


def test_of_several_frames_the_first_is_taken():
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    read = decode(content(frames[0], "GIF", save_all=True, append_images=frames[1:]), 4, 1)
    assert (read == 10).all()


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        decode(content(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), 16, 1)


@pytest.fixture
def images(tmp_path):
    coin = np.random.default_rng(0)
    paths = [f"{i}.png" for i in range(6)]
    for path in paths:
        Image.fromarray(coin.integers(0, 255, (28, 28), np.uint8)).save(tmp_path / path)
    return FileImages(Table.of(tmp_path, [{"path": paths, "label": list("ababab")}]), ("a", "b"), 28, 1)


def test_what_breaks_is_told_with_its_reason_and_the_others_are_read(images):
    own.truncate(images.path(0))
    own.no_image(images.path(1))
    own.bomb(images.path(2))
    images.path(3).unlink()
    images.images([4])
    own.replace(images.path(4))
    with pytest.raises(UnreadableError) as error:
        images.images(range(6))
    reasons = error.value.reasons
    assert sorted(reasons) == [0, 1, 2, 3, 4]
    for position, word in enumerate(("truncated", "no image", "bomb", "deleted", "replaced")):
        assert word in reasons[position]
    assert images.images([5]).shape == (1, 1, 28, 28)


def test_an_empty_file_and_a_folder_are_no_images(images):
    images.path(0).write_bytes(b"")
    images.path(1).unlink()
    images.path(1).mkdir()
    with pytest.raises(UnreadableError) as error:
        images.images([0, 1])
    assert sorted(error.value.reasons) == [0, 1]


def test_a_file_that_was_only_touched_is_the_same(images):
    before = images.images([0])
    images.path(0).write_bytes(images.path(0).read_bytes())
    assert torch.equal(images.images([0]), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_batch_carries_the_rest_through_workers(images, workers):
    from deepal.data.loading import InOrder, Scanned, loader

    images.path(2).unlink()
    batch, rest = loader(Scanned(images, torch.tensor([5, 2, 1, 0])), InOrder(4, 3), workers)
    assert isinstance(batch, Damaged)
    assert batch.batch["position"].tolist() == [5, 1]
    assert list(batch.reasons) == [2]
    assert rest["position"].tolist() == [0]
    assert (images.seen != 0).tolist() == [True, True, False, False, False, True]  # what workers read is known here


@pytest.mark.parametrize("kind", [ActiveDataModule, OverDataModule])
def test_what_reads_a_damaged_batch_whole_says_which_image_it_is(kind):
    damaged = Damaged(None, {2: "cut off"}, "train")
    with pytest.raises(UnreadableError) as error:
        kind.scanned(None, damaged, torch.device("cpu"))
    assert error.value.reasons == {2: "cut off"}


def test_names_lead_to_positions_and_back(images):
    assert [images.position(images.name(position)) for position in range(6)] == list(range(6))
    assert images.position("nowhere.png") is None
    assert images.targets([0, 1, 5]).tolist() == [0, 1, 1]
