import pytest
import torch

from deepal.data import Digits, ImageFolder, Repeated


def test_copies_lie_an_images_count_apart_and_differ_by_noise():
    source, made = Digits().load(), Repeated(base=Digits(), times=3, noise=0.1).load()
    assert len(made.train) == 3600
    first, second, third = made.train.data.chunk(3)
    assert torch.equal(made.train.classes, source.train.classes.repeat(3))
    plain = Repeated(base=Digits(), times=1, noise=0).load()
    assert plain.train.data.mean().abs() < 1e-4
    assert plain.train.data.std() == pytest.approx(1, abs=1e-3)
    for copy in (first, second, third):
        away = copy - plain.train.data
        assert away.std() == pytest.approx(0.1, rel=0.02)
        assert away.mean().abs() < 1e-3
    assert not torch.equal(first, second)
    assert torch.equal(made.test.data, plain.test.data)
    assert torch.equal(Repeated(base=Digits()).load().train.data, made.train.data)  # the same every time


def test_a_part_of_the_sources_and_what_cannot_be():
    made = Repeated(base=Digits(), times=2, sources=100).load()
    assert len(made.train) == 200
    assert Repeated(base=Digits()).title == "RepeatedDigits"
    with pytest.raises(ValueError, match=r"data.sources=5000 must be from 1 to 1200"):
        Repeated(base=Digits(), sources=5000).load()
    with pytest.raises(ValueError, match=r"data.base.pool_size would be without effect; give data.pool_size"):
        Repeated(base=Digits(pool_size=100))
    with pytest.raises(ValueError, match=r"data.times=0"):
        Repeated(base=Digits(), times=0)


def test_images_in_files_are_refused(tmp_path):
    from tests import own

    images, labels = own.scans(6)
    own.png_folder(tmp_path, images, labels)
    with pytest.raises(ValueError, match="in memory"):
        Repeated(base=ImageFolder(root=str(tmp_path))).load()
