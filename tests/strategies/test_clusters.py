"""Strategies that take turns between clusters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import linkage
from deepal.signals import Signals
from deepal.strategies import ClusterMargin, Entropy, Margin, PerGroup, Prefilter, View
from deepal.strategies.base import choose
from deepal.testing import made_up_signals

seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def view(seed, size=60, **known):
    signals = made_up_signals(size, seed)
    return View(Signals.of({**signals, **known}), Signals.of({}))


def doubtful(seed, count):
    return set(choose(Margin(), view(seed), count, generator(0)).rows.tolist())


@given(seeds)
def test_of_clusters_of_one_row_it_asks_what_margin_asks(seed):
    assert choose(ClusterMargin(clusters=60), view(seed), 7, generator(seed)).rows.tolist() == (
        choose(Margin(), view(seed), 7, generator(seed)).rows.tolist()
    )


@given(seeds)
def test_with_a_short_list_as_long_as_the_query_it_asks_what_margin_asks(seed):
    assert set(choose(ClusterMargin(factor=1), view(seed), 7, generator(seed)).rows.tolist()) == doubtful(seed, 7)


@given(seeds, st.integers(1, 12))
def test_clusters_take_turns_on_the_short_list_and_the_smallest_are_first(seed, clusters):
    cluster = torch.randint(clusters, (60,), generator=generator(seed))
    rows = choose(ClusterMargin(factor=4), view(seed, cluster=cluster), 7, generator(seed)).rows
    short = torch.tensor(sorted(doubtful(seed, 28)))
    assert set(rows.tolist()) <= set(short.tolist())
    sizes = torch.bincount(cluster[short], minlength=clusters)
    of = cluster[rows].tolist()
    turn = [of[:i].count(each) for i, each in enumerate(of)]
    assert turn == sorted(turn)
    for each in range(max(turn) + 1):
        in_turn = [int(sizes[c]) for c, t in zip(of, turn, strict=True) if t == each]
        assert in_turn == sorted(in_turn)
        assert each == max(turn) or len(in_turn) == int((sizes > each).sum())


def test_rows_that_came_later_are_clusters_of_their_own():
    cluster = torch.zeros(60, dtype=torch.long)
    cluster[-30:] = -1
    of = cluster[choose(ClusterMargin(factor=8.5), view(0, cluster=cluster), 7, generator(0)).rows].tolist()
    assert of == [-1] * 7


def test_a_sample_is_clustered_where_the_pool_is_larger():
    centers = 10 * torch.eye(5)
    points = centers.repeat_interleave(40, 0) + 0.1 * torch.randn(200, 5, generator=generator(0))
    pool = {"embedding": points, "probs": torch.full((200, 2), 0.5)}
    found = ClusterMargin(sample=50).once(View(Signals.of(pool), Signals.of({})), 5, generator(0))["cluster"]
    assert len(found.unique()) == 5
    assert all(len(each.unique()) == 1 for each in found.split(40))


def test_rows_of_the_sample_stay_in_their_clusters():
    points = torch.randn(200, 3, generator=generator(0))
    pool = {"embedding": points, "probs": torch.full((200, 2), 0.5)}
    found = ClusterMargin(sample=150).once(View(Signals.of(pool), Signals.of({})), 9, generator(0))["cluster"]
    some = torch.randperm(200, generator=generator(0))[:150].sort().values
    assert torch.equal(found[some], linkage.average_linkage(points[some], 9))


def test_two_that_compute_signals_of_one_name_are_refused():
    twice = Prefilter(by=ClusterMargin(clusters=50), then=ClusterMargin(clusters=5))
    with pytest.raises(ValueError, match="made of two strategies that compute cluster; have one of them"):
        choose(twice, view(0), 5, generator(0))


def test_what_is_made_of_it_computes_clusters_of_the_whole_pool_once():
    for strategy in (Prefilter(by=Entropy(), then=ClusterMargin()), PerGroup(of=ClusterMargin())):
        assert strategy.artifacts == ("cluster",)
        found = strategy.once(view(3), 7, generator(1))
        assert torch.equal(found["cluster"], ClusterMargin().once(view(3), 7, generator(1))["cluster"])
        assert len(found["cluster"]) == 60
