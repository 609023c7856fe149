"""Strategies that share a query among others, or among parts of the pool."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal import testing
from deepal.functional import herding, ranking
from deepal.functional.geometry import directions
from deepal.signals import NonFiniteError, Signals
from deepal.strategies import (
    BADGE,
    BALD,
    CAL,
    EGL,
    Acquisition,
    Balanced,
    CoreSet,
    Entropy,
    KMeans,
    LeastConfidence,
    Margin,
    Mixture,
    Partition,
    Prefilter,
    Random,
    Schedule,
    Split,
    Stochastic,
    Typicality,
    View,
)
from deepal.strategies.base import choose

seeds = st.integers(0, 2**31)


def view(pool=40, labeled=6, seed=0):
    return View(*(Signals.of(testing.made_up_signals(size, seed + i)) for i, size in enumerate((pool, labeled))))


def rows(strategy, of, query_size, seed=0):
    return choose(strategy, of, query_size, torch.Generator().manual_seed(seed)).rows.tolist()


@dataclass(frozen=True)
class Transformed(Acquisition):
    """Margin, by another scale in the same order."""

    needs = {"pool": ("probs",)}

    def score(self, signals):
        return (3 * Margin().score(signals)).exp() ** 3 - 1e3


# Mixture


@given(seeds)
def test_a_mixture_is_blind_to_the_scale_of_scores(seed):
    of = view(seed=seed)
    plain = Mixture([Margin(), Typicality(5)], [2.0, 1.0])
    assert rows(plain, of, 9) == rows(Mixture([Transformed(), Typicality(5)], [2.0, 1.0]), of, 9)


@given(seeds)
def test_a_mixture_averages_places(seed):
    of = view(seed=seed)
    parts, weights = [Entropy(), Typicality(5), CAL()], [1.0, 2.0, 0.5]
    scores = [part.scores(of, torch.Generator()) for part in parts]
    found = Mixture(parts, weights).scores(of, torch.Generator())
    behind = [(each.unsqueeze(1) > each).double().sum(1) / 39 for each in scores]
    assert torch.allclose(found, sum(weight * each for weight, each in zip(weights, behind, strict=True)), atol=1e-9)
    assert rows(Mixture(parts, [0.0, 1.0, 0.0]), of, 40) == rows(Typicality(5), of, 40)


def test_a_mixture_of_acquisitions_reads_the_pool_once():
    signals = testing.made_up_signals(60, 0)
    source = testing.StrictSource(signals, {"probs", "mc_probs"}, 1000)
    of = View(Signals(torch.arange(60), source), Signals.of({}))
    rows(Mixture([Margin(), Entropy()]), of, 5)
    assert source.passes == 1


def test_a_mixture_can_be_drawn_from_and_names_what_gives_no_number():
    of = view()
    assert len(set(rows(Stochastic(Mixture([Margin(), Typicality()]), kind="softmax"), of, 7))) == 7

    @dataclass(frozen=True)
    class Broken(Acquisition):
        """Gives NaN."""

        needs = {"pool": ("probs",)}

        def score(self, signals):
            return signals["probs"][:, 0] * torch.nan

    with pytest.raises(NonFiniteError, match=r"Broken\(.*\) gave 40 of 40 rows"):
        rows(Mixture([Margin(), Broken()]), of, 5)


# Split


@given(seeds, st.integers(0, 40), st.lists(st.floats(0.1, 5), min_size=2, max_size=2))
def test_a_split_spends_the_whole_query_and_each_strategy_its_share(seed, query_size, shares):
    of = view(seed=seed)
    chosen = rows(Split([Margin(), CoreSet()], shares), of, query_size)
    assert len(set(chosen)) == len(chosen) == query_size
    first = round(query_size * shares[0] / sum(shares) + 1e-9)
    by_margin = set(rows(Margin(), of, min(first + 1, 40)))
    assert len(by_margin & set(chosen)) >= first - 1


def test_what_a_split_asks_takes_turns():
    of = view()
    chosen = rows(Split([Margin(), Random()], [2, 1]), of, 9)
    by_margin = rows(Margin(), of, 6)
    assert [row in by_margin for row in chosen] == [True, False, True] * 3
    assert [row for row in chosen if row in by_margin] == by_margin


def test_the_notes_of_each_part_are_kept_apart():
    @dataclass(frozen=True)
    class Noting(Random):
        """Says something."""

        def select(self, view, query_size, generator):
            choice = super().select(view, query_size, generator)
            return type(choice)(choice.rows, notes={"heard": 1.0})

    choice = choose(Split([Margin(), Noting()]), view(), 4, torch.Generator())
    assert choice.notes == {"Noting heard": 1.0}


# Schedule


@pytest.mark.parametrize(("labeled", "stage"), [(0, 0), (19, 0), (20, 1), (49, 1), (50, 2), (80, 2)])
def test_a_schedule_turns_to_the_next_strategy_with_so_many_labels(labeled, stage):
    of, parts = view(labeled=labeled), [Random(), Margin(), CoreSet()]
    choice = choose(Schedule(parts, [20, 50]), of, 5, torch.Generator().manual_seed(0))
    assert choice.rows.tolist() == rows(parts[stage], of, 5)
    assert choice.notes == {"stage": float(stage), "reached": float(labeled)}


@given(seeds, st.integers(0, 12))
def test_a_schedule_turns_where_the_pool_is_covered_so_well(seed, labeled):
    of = view(labeled=labeled, seed=seed)
    points, known = (each.double() for each in directions(of.pool["embedding"], of.labeled["embedding"]))
    nearest = torch.cdist(points, known).amin(1) if labeled else torch.full((40,), torch.inf)
    covered = float((-(nearest**2)).exp().mean())
    choice = choose(Schedule([Random(), Margin()], [0.6]), of, 5, torch.Generator())
    assert choice.notes["reached"] == pytest.approx(covered, abs=1e-5)
    assert choice.notes["stage"] == (choice.notes["reached"] >= 0.6)


# Partition


@given(seeds, st.integers(1, 7), st.integers(1, 9))
def test_of_rows_that_score_by_themselves_a_partition_chooses_the_same(seed, into, query_size):
    of = view(seed=seed)
    assert rows(Partition(Margin(), into), of, query_size) == rows(Margin(), of, query_size)


def radius(points, centers):
    return float(torch.cdist(points, points[centers]).amin(1).max())


@given(seeds, st.integers(2, 4), st.integers(1, 3))
def test_k_center_of_parts_is_within_four_times_the_optimum(seed, into, query_size):
    """Malkomes et al., 2015, with nothing labeled."""
    pool = testing.made_up_signals(11, seed)
    points = pool["embedding"].double()
    best = min(radius(points, list(some)) for some in itertools.combinations(range(11), query_size))
    chosen = rows(
        Partition(CoreSet(), into), View(Signals.of(pool), Signals.of({"embedding": points[:0].float()})), query_size
    )
    assert radius(points, chosen) <= 4 * best + 1e-4


def test_a_partition_reads_a_part_at_a_time():
    signals, sizes = testing.made_up_signals(60, 0), []

    class Counting(testing.StrictSource):
        def read(self, positions, names):
            sizes.append(len(positions))
            return super().read(positions, names)

    source = Counting(signals, {"embedding"}, 1000)
    known = Signals.of({"embedding": torch.zeros(0, 5)})
    rows(Partition(KMeans(), 4), View(Signals(torch.arange(60), source), known), 3)
    assert sizes == [15, 15, 15, 15, 12]


# Balanced


def skewed(seed=0, size=200):
    """A pool that is predicted to hold much of one class, and labels that do."""
    pool, labeled = testing.made_up_signals(size, seed), testing.made_up_signals(30, seed + 1)
    pool["probs"] = torch.softmax(pool["logits"] + torch.tensor([3.0, 0, 0, 0]), 1)
    labeled["target"] = torch.tensor([0] * 20 + [1] * 8 + [2] * 2)
    return View(Signals.of(pool), Signals.of(labeled))


@pytest.mark.parametrize("strategy", [Margin(), BADGE(), CoreSet()])
def test_classes_with_few_labels_are_asked_for_first(strategy):
    of = skewed()
    predicted = of.pool["probs"].argmax(1)
    there = torch.bincount(predicted, minlength=4)
    chosen = torch.tensor(rows(Balanced(strategy), of, 12))
    asked = torch.bincount(predicted[chosen], minlength=4)
    after = torch.tensor([20, 8, 2, 0]) + asked
    assert asked[0] == 0
    for number in range(1, 4):  # none is behind another that has got one, but for want of more
        assert asked[number] == there[number] or all(after[number] >= after[asked > 0] - 1)


def test_within_a_class_it_is_what_the_strategy_asks_there():
    of = skewed()
    predicted = of.pool["probs"].argmax(1)
    chosen = torch.tensor(rows(Balanced(Margin()), of, 9))
    for number in predicted[chosen].unique().tolist():
        own = chosen[predicted[chosen] == number].tolist()
        there = (predicted == number).nonzero().flatten()
        assert own == there[rows(Margin(), of.take(there), len(own))].tolist()
    classes = len(predicted[chosen].unique())
    assert len(predicted[chosen][:classes].unique()) == classes > 1, "they take turns"


# What cannot work


def test_what_cannot_work_is_refused():
    for made, says in (
        (lambda: Mixture([Margin()]), "takes a list of two strategies or more"),
        (lambda: Mixture(Margin()), "takes a list of two strategies or more"),
        (lambda: Mixture([Margin(), CoreSet()]), r"CoreSet\(\), ...\]\) averages the places of single samples"),
        (lambda: Mixture([Margin, Entropy]), r"Margin is a class: Margin\(\)"),
        (lambda: Mixture([Margin(), Entropy()], [1.0]), r"Mixture\(weights=\[1.0\]\) needs one for each of its 2"),
        (lambda: Split([Margin(), Entropy()], [0, 0]), r"Split\(shares=\[0, 0\]\) needs one for each"),
        (lambda: Schedule([Margin(), Entropy()], []), r"Schedule\(until=\[\]\) must say of each of its 2"),
        (lambda: Schedule([Margin(), Entropy(), Random()], [50, 20]), "must ascend"),
        (lambda: Schedule([Margin(), Entropy(), Random()], [0.5, 20]), "must ascend, and be all of labels or all of"),
        (lambda: Partition(Margin(), 0), r"Partition\(into=0\)"),
    ):
        with pytest.raises(ValueError, match=says):
            made()


def test_coverage_is_that_of_max_herding():
    points = torch.randn(30, 4)
    kernel = herding.Gaussian(points)
    assert float(kernel.cover(points[:0]).mean()) == 0
    assert float(kernel.cover(points).mean()) == pytest.approx(1, abs=1e-5)


@given(seeds)
def test_places_are_what_counting_finds(seed):
    scores = torch.randint(6, (15,), generator=torch.Generator().manual_seed(seed)).float()
    ahead = (scores.unsqueeze(1) > scores).double().sum(1)
    level = (scores.unsqueeze(1) == scores).double().sum(1) - 1
    assert torch.allclose(ranking.places(scores), (ahead + level / 2) / 14)


@given(seeds, st.integers(1, 12), st.sampled_from([None, 12, 40, 60]))
def test_a_short_list_by_a_strategy_that_the_same_one_chooses_from_is_that_strategy(seed, query_size, keep):
    """Where its choice of few is the beginning of its choice of many, and no coins decide."""
    of = view(pool=60, seed=seed)
    for strategy in (Margin(), Entropy(), LeastConfidence(), BALD(), EGL(), CoreSet()):
        assert rows(Prefilter(by=strategy, then=strategy, keep=keep), of, query_size) == rows(strategy, of, query_size)
