import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepal.data import Pool


@given(st.sets(st.integers(0, 1000), min_size=1), st.data())
def test_rows_and_positions_meet_in_the_index(candidates, data):
    pool = Pool(candidates)
    labeled = data.draw(st.lists(st.sampled_from(sorted(candidates)), unique=True))
    half = len(labeled) // 2
    pool.label(labeled[:half], [1] * half, cycle=0)
    pool.label(labeled[half:], [2] * (len(labeled) - half), cycle=1)
    assert pool.labeled == labeled
    assert pool.labels == [1] * half + [2] * (len(labeled) - half)
    assert pool.cycles == [0] * half + [1] * (len(labeled) - half)
    assert pool.index == sorted(candidates - set(labeled))
    assert len(pool) == len(pool.index)


@pytest.mark.parametrize(
    ("positions", "says"),
    [([5], "labeled or set aside already"), ([7], "set aside"), ([99], "not in the pool"), ([6, 6], "more than once")],
)
def test_what_cannot_be_labeled_is_refused_and_nothing_is_lost(positions, says):
    pool = Pool(range(10))
    pool.label([5], [0], cycle=0)
    pool.set_aside([7])
    before = (pool.index[:], pool.labeled[:], pool.labels[:])
    with pytest.raises(ValueError, match=says):
        pool.label([1, *positions], [0] * (1 + len(positions)), cycle=1)
    assert (pool.index, pool.labeled, pool.labels) == before


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="2 positions were answered with 1"):
        Pool(range(4)).label([0, 1], [3], cycle=0)


def test_a_subset_of_a_data_set_keeps_its_positions():
    """Ranks of a subset that are taken for positions of the whole label the wrong images."""
    pool = Pool([87, 88, 99, 18, 19])
    rows = [2, 4]
    assert [pool.index[row] for row in rows] == [87, 99]


def test_what_is_labeled_or_set_aside_is_not_pseudo_labeled():
    pool = Pool(range(6))
    pool.label([1], [7], cycle=0)
    pool.set_aside([4])
    before, index = pool.digest(), list(pool.index)
    pool.pseudo_label([0, 1, 4, 5], [3, 3, 3, 9])
    assert pool.trained == ([1, 0, 5], [7, 3, 9])
    assert (pool.labeled, pool.labels, pool.index) == ([1], [7], index)
    assert pool.digest() != before
