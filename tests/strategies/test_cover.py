"""Strategies that cover, on clusters where everybody can see what is right, and on real digits."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import deepal
from deepal import testing
from deepal.functional import geometry, neighbors, uncertainty
from deepal.signals import Signals
from deepal.strategies import (
    BADGE,
    DCoM,
    FacilityLocation,
    KMeans,
    Margin,
    MaxHerding,
    Prefilter,
    ProbCover,
    Random,
    RobustCoreSet,
    TypiClust,
    UHerding,
    View,
    WeightedKMeans,
)

seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def clusters(count=6, size=40, seed=0):
    """Clusters far from each other, in all directions."""
    centers = 10 * torch.eye(count)
    return centers.repeat_interleave(size, 0) + 0.3 * torch.randn(count * size, count, generator=generator(seed))


def select(strategy, pool, labeled=None, query_size=6, seed=0, **more):
    labeled = {name: array[:0] for name, array in pool.items()} if labeled is None else labeled
    view = View(Signals.of(pool), Signals.of(labeled), **more)
    return strategy.select(view, query_size, generator(seed))


@pytest.mark.parametrize(
    "strategy", [TypiClust(), MaxHerding(), FacilityLocation(), ProbCover(radius=0.5), KMeans()], ids=repr
)
def test_every_cluster_is_asked_for_once(strategy):
    for seed in range(5):
        rows = select(strategy, {"embedding": clusters(seed=seed)}, seed=seed).rows
        assert sorted((rows // 40).tolist()) == list(range(6))


@pytest.mark.parametrize("strategy", [TypiClust(), MaxHerding(), FacilityLocation(), ProbCover(radius=0.5)], ids=repr)
def test_clusters_with_a_label_are_left_to_others(strategy):
    points = clusters()
    rows = select(strategy, {"embedding": points}, {"embedding": clusters(seed=1)[[0, 40]]}, query_size=4).rows
    assert sorted((rows // 40).tolist()) == [2, 3, 4, 5]


@pytest.mark.parametrize("strategy", [ProbCover(), DCoM()], ids=repr)
def test_of_one_image_asked_the_rule_makes_two_clusters(strategy):
    """Of one cluster every ball is pure, and each would hold all the others."""
    pool = {"embedding": clusters(), "probs": torch.full((240, 2), 0.5)}
    assert select(strategy, pool, query_size=1).notes["radius"] < 2
    same = {"embedding": torch.ones(40, 3), "probs": torch.full((40, 2), 0.5)}
    assert len(select(strategy, same, query_size=1).rows) == 1


def test_a_radius_of_next_to_nothing_is_random():
    """Where images of one class lie side by side, as in folders, the first rows would be of one class."""
    points, asked = torch.randn(60, 4, generator=generator(0)), torch.zeros(60)
    for seed in range(400):
        rows = select(ProbCover(radius=1e-9), {"embedding": points}, seed=seed, query_size=6).rows
        asked[rows] += 1
    assert ((asked - 40).square() / (40 * 0.9)).sum() < 98.3  # chi-square, 59 degrees, p = .001


@given(seeds)
def test_the_scale_of_features_changes_nothing(seed):
    points = torch.randn(80, 4, generator=generator(seed))
    for strategy in (TypiClust(), MaxHerding(), FacilityLocation(), ProbCover(radius=0.7)):
        chosen = [select(strategy, {"embedding": scale * points}, seed=seed).rows.tolist() for scale in (1, 2**10)]
        assert chosen[0] == chosen[1]


def test_with_nothing_labeled_uncertain_herding_is_herding():
    signals = testing.made_up_signals(100, 0)
    pool = {name: signals[name] for name in ("embedding", "logits")}
    assert select(UHerding(), pool).rows.tolist() == select(MaxHerding(), pool).rows.tolist()


def test_uncertain_herding_where_all_is_as_uncertain_is_herding_of_that_width():
    signals = testing.made_up_signals(100, 0)
    pool = {"embedding": signals["embedding"], "logits": torch.zeros(100, 3)}
    labeled = {"embedding": signals["embedding"][:5]}
    choice = select(UHerding(), pool, labeled)
    assert choice.rows.tolist() == select(MaxHerding(choice.notes["width"]), pool, labeled).rows.tolist()


def test_the_kernel_of_uncertain_herding_is_as_wide_as_labels_are_apart():
    pool = {name: testing.made_up_signals(50, 0)[name] for name in ("embedding", "logits")}
    points = testing.made_up_signals(8, 1)["embedding"]
    labeled = {"embedding": torch.cat([points, points[:2]])}  # copies are not apart
    choice = select(UHerding(), pool, labeled)
    _, moved = geometry.directions(pool["embedding"], labeled["embedding"])
    apart = torch.cdist(moved.double(), moved.double())
    assert choice.notes["width"] == pytest.approx(float(apart[apart > 1e-6].min()), rel=1e-4)


def test_uncertain_herding_asks_what_is_uncertain_where_labels_are_dense():
    """With a kernel that is narrow beside the distances of the pool, nothing represents anything else."""
    signals = testing.made_up_signals(100, 0)
    pool = {"embedding": signals["embedding"], "logits": signals["logits"]}
    close = signals["embedding"][:1].expand(2, -1) + torch.tensor([[0.0] * 5, [1e-4] * 5])
    rows = select(UHerding(temperature=1.0), pool, {"embedding": close}).rows
    margins = uncertainty.margin(signals["probs"])
    margins[0] = 0  # it is labeled, nearly
    assert rows.tolist() == margins.sort(descending=True).indices[:6].tolist()


def test_the_temperature_is_what_calibrates_the_validation_set():
    generator_ = generator(0)
    logits = 3 * torch.randn(4000, 5, generator=generator_)
    target = torch.multinomial(torch.softmax(logits / 2.5, -1), 1, generator=generator_).squeeze(1)
    assert uncertainty.calibrating_temperature(logits, target) == pytest.approx(2.5, abs=0.4)
    signals = testing.made_up_signals(100, 0)
    pool = {"embedding": signals["embedding"], "logits": 5 * signals["logits"]}
    labeled, held_out = {"embedding": signals["embedding"][:5]}, Signals.of({"logits": logits, "target": target})
    calibrated = select(UHerding(), pool, labeled, holdout=held_out).rows.tolist()
    assert calibrated == select(UHerding(uncertainty.calibrating_temperature(logits, target)), pool, labeled).rows.tolist()
    assert calibrated != select(UHerding(temperature=1.0), pool, labeled).rows.tolist()


@given(seeds, st.integers(1, 4), st.sampled_from([0.5, 0.9, 1.0]))
def test_the_rule_for_a_radius_leaves_as_many_balls_pure_as_it_says(seed, classes, purity):
    points = torch.randn(60, 3, generator=generator(seed))
    radius = neighbors.pure_radius(points, classes, purity, generator(0))
    _, cluster = neighbors.k_means(points, classes, generator(0))
    apart = torch.cdist(points.double(), points.double())
    differ = cluster.unsqueeze(0) != cluster.unsqueeze(1)

    def share(radius):
        return float((~((apart < radius) & differ).any(1)).double().mean())

    assert share(radius * (1 - 1e-4)) >= purity - 1e-9
    if radius < float("inf"):
        assert share(radius * (1 + 1e-4)) < purity or purity < 1


def test_a_radius_that_covers_little_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        select(ProbCover(radius=1e-3), {"embedding": clusters()}, query_size=2)
    assert "give a larger radius" in caplog.text


def test_competent_coverage_turns_to_doubt_as_labels_cover_the_pool():
    """Labels in all clusters, predicted rightly: what is left is the least certain; labels in none: coverage."""
    points = clusters()
    logits = 8 * torch.nn.functional.one_hot(torch.arange(240) // 40, 6).float()
    logits[7], logits[90] = 0.1 * logits[7], 0.2 * logits[90]
    pool = {"embedding": points, "probs": torch.softmax(logits, -1)}
    labeled = {"embedding": clusters(seed=1)[::40], "target": torch.arange(6)}
    choice = select(DCoM(radius=0.5), pool, labeled, query_size=2)
    assert choice.rows.tolist() == [7, 90]
    assert choice.notes["competence"] > 0.99
    assert sorted((select(DCoM(radius=0.5), pool).rows // 40).tolist()) == list(range(6))


def test_weighted_clusters_lie_where_uncertainty_is():
    points = torch.linspace(0, 1, 101).unsqueeze(1)
    doubt = (points[:, 0] / 2).clamp(0.001, 0.499)
    pool = {"embedding": points, "probs": torch.stack([1 - doubt, doubt], 1)}
    rows = select(WeightedKMeans(factor=200), pool, query_size=1).rows
    weights = uncertainty.margin(pool["probs"]).double()
    assert abs(int(rows[0]) / 100 - float((points[:, 0] * weights).sum() / weights.sum())) < 0.006
    kept = select(WeightedKMeans(factor=1), pool, query_size=5).rows
    assert set(kept.tolist()) == set(range(96, 101))


def test_what_cannot_be_is_refused():
    for wrong in (
        lambda: MaxHerding(width=0),
        lambda: MaxHerding(width=1e-200),
        lambda: FacilityLocation(anchors=0),
        lambda: ProbCover(classes=-1),
        lambda: TypiClust(neighbors=0),
        lambda: TypiClust(max_clusters=0),
        lambda: RobustCoreSet(exact_up_to=-1),
        lambda: BADGE(first="maxnorm"),
        lambda: UHerding(temperature=-1),
        lambda: ProbCover(radius=-0.5),
        lambda: ProbCover(purity=0),
        lambda: DCoM(radius=0),
        lambda: WeightedKMeans(factor=0.5),
    ):
        with pytest.raises(ValueError, match=r"at least|above 0|needs anchors|one of max_norm"):
            wrong()


def test_the_smallest_temperature_there_is_leaves_no_doubt_but_numbers():
    signals = {
        "embedding": clusters(),
        "logits": torch.randn(len(clusters()), 3, generator=torch.Generator().manual_seed(0)),
    }
    for temperature in (1e-40, 1e-320):
        rows = deepal.select(UHerding(temperature=temperature), signals, labeled=[0, 1], query_size=3)
        assert len(set(rows)) == 3


def test_of_a_large_pool_some_rows_stand_for_all():
    points = clusters(size=400)
    rows = select(MaxHerding(anchors=300), {"embedding": points}).rows
    assert sorted((rows // 400).tolist()) == list(range(6))


def test_suggestive_annotation_is_a_sentence():
    signals = testing.made_up_signals(100, 0)
    pool = {name: signals[name] for name in ("embedding", "probs")}
    strategy = Prefilter(Margin(), FacilityLocation(), factor=4)
    kept = set(deepal.select(Margin(), pool, query_size=24))
    assert set(select(strategy, pool, query_size=6).rows.tolist()) <= kept


def one_nearest_neighbor(points, target, rows):
    """Accuracy, on all others, of the class of the nearest of these rows."""
    return float((target[rows[neighbors.nearest(points, points[rows])[1].squeeze(1)]] == target).double().mean())


def test_few_labels_of_real_digits_go_further_when_they_cover():
    """No training: one nearest neighbor on pixels. Ten seeds; REPRODUCTION's whole table is in docs/reproduction.md."""
    digits = load_digits()
    points, target = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
    (points,) = geometry.directions(points)
    found = {}
    for strategy in (Random(), TypiClust(), MaxHerding(), KMeans()):
        runs = [select(strategy, {"embedding": points}, query_size=20, seed=seed).rows for seed in range(10)]
        found[type(strategy).__name__] = sum(one_nearest_neighbor(points, target, rows) for rows in runs) / len(runs)
    assert found["TypiClust"] > found["Random"] + 0.1
    assert found["MaxHerding"] > found["Random"] + 0.1
    assert found["KMeans"] > found["Random"] + 0.1
