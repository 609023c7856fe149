import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import skew
from sklearn.neighbors import NearestNeighbors

from deepal.functional.dimension import spread


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(size, width, seed=1):
    return torch.randn(size, width, generator=generator(seed))


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_few_dimensions_are_counted(width):
    assert spread(torch.rand(2000, width, generator=generator()), generator()).dimension == pytest.approx(width, rel=0.1)


def test_a_plane_in_many_features_has_two_dimensions():
    plane = torch.rand(2000, 2, generator=generator()) @ torch.linalg.qr(gaussian(200, 2)).Q.T
    assert spread(plane + 100, generator()).dimension == pytest.approx(2, rel=0.1)


def test_the_more_dimensions_the_less_do_distances_differ_and_the_more_are_there_hubs():
    found = [spread(gaussian(2000, width), generator()) for width in (3, 10, 30, 100, 300)]
    assert [each.contrast for each in found] == sorted((each.contrast for each in found), reverse=True)
    assert found[0].hubness < 1 < found[2].hubness < found[3].hubness
    assert found[-1].contrast < 1.2
    assert found[-1].hubness > 3


@given(st.integers(0, 10_000), st.integers(60, 200), st.integers(2, 8))
def test_it_is_what_the_definitions_say(seed, size, width):
    points = gaussian(size, width, seed)
    found = spread(points, generator(seed))
    distance, near = NearestNeighbors(n_neighbors=11, algorithm="brute").fit(points.double()).kneighbors()
    counts = torch.bincount(torch.from_numpy(near[:, :10]).flatten(), minlength=size)
    assert found.hubness == pytest.approx(float(skew(counts.numpy())), abs=1e-6)
    mean = torch.pdist(points.double()).mean()
    assert found.contrast == pytest.approx(float(mean / distance[:, 0].mean()), rel=1e-4)
    ratios = torch.from_numpy(distance[:, 1] / distance[:, 0]).log()
    assert found.dimension == pytest.approx(float((size - 1) / ratios.sum()), rel=1e-3)


@given(st.integers(0, 10_000))
def test_neither_scale_nor_place_nor_copies_change_it(seed):
    points = gaussian(100, 4, seed)
    expected = spread(points, generator())
    for other in (points * 1024, points + 8, points.repeat(3, 1), points.double()):
        assert spread(other, generator()) == pytest.approx(expected, rel=0.02, abs=0.02)


def test_of_few_rows_and_of_equal_rows_nothing_is_said():
    assert spread(gaussian(49, 3), generator()) is None
    assert spread(torch.ones(5000, 3), generator()) is None
    assert spread(torch.empty(0, 3), generator()) is None
