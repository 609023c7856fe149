import pytest
import torch

from deepal import testing
from deepal.functional import fisher, gradients
from deepal.signals import Signals
from deepal.strategies import BADGE, BAIT, EGL, View


def view(signals, labeled):
    return View(Signals.of(signals), Signals.of(labeled))


def select(strategy, signals, labeled, query_size=10, seed=0):
    return strategy.select(view(signals, labeled), query_size, torch.Generator().manual_seed(seed)).rows.tolist()


def test_the_longest_gradients_are_asked_for_of_a_last_layer_with_its_bias():
    signals = testing.made_up_signals(60, 0)
    signals["embedding"] *= torch.linspace(0.01, 1, 60).unsqueeze(1)  # the shorter, the more a bias matters
    queries = []
    for bias in (True, False):
        expected = gradients.expected_gradient_length(signals["probs"], signals["embedding"], bias)
        queries.append(expected.sort(descending=True).indices[:10].tolist())
        assert select(EGL(bias=bias), signals, signals) == queries[-1]
    assert queries[0] != queries[1]
    assert select(EGL(), signals, signals) == queries[0]
    whole = {"gradient_length": torch.arange(60.0)}
    assert select(EGL(whole_network=True), whole, whole, 3) == [59, 58, 57]


def test_labeled_rows_count_as_chosen_where_that_is_asked():
    """Copies of what is labeled are at distance 0, and are left to the last."""
    signals = testing.made_up_signals(40, 0)
    labeled = {name: array[:20] for name, array in signals.items()}
    for seed in range(5):
        assert set(select(BADGE(include_labeled=True), signals, labeled, 20, seed)) == set(range(20, 40))
        assert set(select(BADGE(), signals, labeled, 20, seed)) != set(range(20, 40))


def test_a_sketch_keeps_distances_on_average():
    signals = testing.made_up_signals(30, 0, classes=50)
    error = signals["logit_gradient"]
    exact = torch.cdist(error, error).square()
    sketches = []
    for seed in range(200):
        moved = error @ gradients.random_directions(50, 16, torch.Generator().manual_seed(seed))
        sketches.append(torch.cdist(moved, moved).square())
    assert torch.allclose(torch.stack(sketches).mean(0), exact, rtol=0.15, atol=1e-6)
    assert len(set(select(BADGE(sketch=8), signals, signals))) == 10
    with pytest.raises(ValueError, match="sketch=0"):
        BADGE(sketch=0)


def test_all_principal_directions_lose_nothing_and_few_keep_the_largest():
    points = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 4, 3, 0.1, 0.1, 0.1])
    points = points.double()
    whole = fisher.principal_directions(points, 6)
    assert torch.allclose(torch.cdist(points @ whole, points @ whole), torch.cdist(points, points), atol=1e-2)
    assert fisher.principal_directions(points, 3).abs().argmax(0).tolist() == [0, 1, 2]


def test_information_of_many_classes_is_refused_with_its_cure():
    signals = {name: testing.made_up_signals(20, 0, classes=30, width=400)[name] for name in ("probs", "embedding")}
    with pytest.raises(ValueError, match="width=341 or less"):
        select(BAIT(), signals, signals)
    assert len(set(select(BAIT(width=4), signals, signals, 3))) == 3


def test_without_a_projection_it_is_the_function():
    signals, labeled = testing.made_up_signals(40, 0), testing.made_up_signals(5, 1)
    known = (labeled["embedding"], labeled["probs"])
    expected, _ = fisher.bait(signals["embedding"], signals["probs"], *known, 6)
    assert select(BAIT(), signals, labeled, 6) == expected.tolist()
    for wrong in ({"width": 0}, {"regularization": 0}, {"oversample": 0}):
        with pytest.raises(ValueError, match="BAIT"):
            BAIT(**wrong)
