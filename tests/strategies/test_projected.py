"""Comparing embeddings by their principal components, and saying where that is needed."""

import logging
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

import deepal
from deepal.signals import Signals
from deepal.strategies import BADGE, BAIT, CoreSet, Margin, MaxHerding, PerGroup, Prefilter, Projected, QueryStrategy, View
from deepal.strategies.base import choose, warn_of_distances


def generator(seed):
    return torch.Generator().manual_seed(seed)


def stretched(seed, size=80, width=6):
    return torch.randn(size, width, generator=generator(seed)) * torch.tensor([9.0, 5, 3, 1, 0.3, 0.1])[:width] + 7


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_it_asks_what_the_strategy_asks_of_principal_components(seed, width):
    points, seen = stretched(seed), []

    @dataclass(frozen=True)
    class Seeing(QueryStrategy):
        """Asks what CoreSet asks."""

        needs = CoreSet.needs

        def select(self, view, query_size, generator):
            seen.append((view.pool["embedding"], view.labeled["embedding"]))
            return CoreSet().select(view, query_size, generator)

    chosen = deepal.select(Projected(Seeing(), width), {"embedding": points}, [0, 1, 2, 3, 4], query_size=6)
    pool, labeled = seen[0]
    components = torch.from_numpy(PCA(width).fit(points[5:].double()).transform(points.double()))
    both = torch.cat([labeled, pool]).double()
    assert torch.allclose(torch.cdist(both, both), torch.cdist(components, components), atol=1e-3)
    assert chosen == deepal.select(CoreSet(), {"embedding": both.float()}, [0, 1, 2, 3, 4], query_size=6)


def test_of_whole_numbers_it_asks_what_it_asks_of_the_same_as_floats():
    pixels = (20 * stretched(0)).round().clamp(0, 255)
    expected = deepal.select(Projected(CoreSet(), 3), {"embedding": pixels}, query_size=9)
    assert deepal.select(Projected(CoreSet(), 3), {"embedding": pixels.to(torch.uint8)}, query_size=9) == expected


def test_where_there_are_no_more_features_it_is_the_strategy_itself():
    points = {"embedding": stretched(0)}
    assert deepal.select(Projected(MaxHerding(), 6), points, query_size=9) == (
        deepal.select(MaxHerding(), points, query_size=9)
    )


@pytest.mark.parametrize("of", [BADGE(), BAIT(), Margin(), Prefilter(by=Margin(), then=BADGE())])
def test_what_does_not_compare_embeddings_is_refused(of):
    with pytest.raises(ValueError, match=r"takes a strategy that compares embeddings, such as CoreSet\(\)"):
        Projected(of)
    with pytest.raises(ValueError, match=r"width=0\) must be a whole number, 1 at least"):
        Projected(CoreSet(), 0)


def test_it_is_said_where_distances_hardly_differ_and_what_helps(caplog):
    few = torch.randn(400, 4, generator=generator(0))
    many = torch.cat([10 * few, torch.randn(400, 900, generator=generator(1))], 1)
    with caplog.at_level(logging.WARNING):
        warn_of_distances(CoreSet(), _chosen(CoreSet(), few))
        for strategy in (BADGE(), Projected(CoreSet(), 4), PerGroup(of=Projected(CoreSet(), 4))):
            warn_of_distances(strategy, _chosen(strategy, many))
        assert not caplog.records
        noise = torch.randn(400, 900, generator=generator(1))
        warn_of_distances(CoreSet(), _chosen(CoreSet(), noise))
    assert "CoreSet() compares embeddings of 900 features" in caplog.text
    assert "Projected(of=CoreSet(), width=32)" in caplog.text


def test_nothing_is_read_to_say_it(caplog):
    noise = torch.randn(400, 900, generator=generator(1))
    probs = torch.softmax(torch.randn(400, 3, generator=generator(2)), 1)

    class Source:
        read_rows = 0

        def read(self, positions, names):
            self.read_rows += len(positions)
            return {name: {"embedding": noise, "probs": probs}[name][positions] for name in names}

        def map(self, positions, names, score):
            return score({name: {"embedding": noise, "probs": probs}[name][positions] for name in names})

    source, strategy = Source(), Prefilter(by=Margin(), then=CoreSet(), keep=60)
    view = View(Signals(torch.arange(400), source), Signals(torch.arange(0), source))
    choose(strategy, view, 5, generator(0))
    warn_of_distances(strategy, view)
    assert source.read_rows == 60
    assert not caplog.records


def _chosen(strategy, points):
    """A view of which a strategy has read what it reads."""
    signals = {
        "embedding": points,
        "group": torch.arange(len(points)),
        "logit_gradient": torch.randn(len(points), 3, generator=generator(5)),
    }
    view = View(Signals.of(signals), Signals.of({name: each[:0] for name, each in signals.items()}))
    choose(strategy, view, 5, generator(0))
    return view
