"""Strategies of a posterior: what they choose, how much they read, and noise around any acquisition."""

import logging
import math
from collections import Counter
from itertools import permutations

import pytest
import torch

from deepal.functional import joint, uncertainty
from deepal.signals import Signals
from deepal.strategies import (
    BALD,
    EPIG,
    BatchBALD,
    ConsensusKL,
    Entropy,
    Margin,
    MeanSTD,
    PredictiveEntropy,
    Prefilter,
    Stochastic,
    VariationRatio,
    VoteEntropy,
)  # fmt: skip
from deepal.strategies.base import View, choose, top_k
from deepal.testing import StrictSource, made_up_signals, select_from


def coins(seed=0):
    return torch.Generator().manual_seed(seed)


def of_draws(n, members=10, classes=4, seed=0, scale=2.0):
    mc_probs = torch.softmax(scale * torch.randn(n, members, classes, generator=coins(seed)), -1)
    return {"mc_probs": mc_probs, "probs": mc_probs.mean(1)}


class Counted(StrictSource):
    """Counts the rows that are kept of a signal, and those that pass by."""

    def __init__(self, signals, batch=16):
        super().__init__(signals, {"mc_probs"}, batch)
        self.kept, self.passed, self.positions = 0, 0, []

    def read(self, positions, names):
        self.kept += len(positions)
        self.positions += positions.tolist()
        return super().read(positions, names)

    def map(self, positions, names, score):
        self.passed += len(positions)
        return torch.cat([score(super(Counted, self).read(some, names)) for some in positions.split(self.batch)])


def chosen_and_read(strategy, signals, query_size):
    source = Counted(signals)
    view = View(Signals(torch.arange(len(signals["mc_probs"])), source), Signals.of({"target": torch.zeros(0)}))
    return choose(strategy, view, query_size, coins()), source


def test_row_wise_scores_pass_by_and_only_candidates_and_targets_are_kept():
    signals = of_draws(300)
    for strategy, kept in [(BALD(), 0), (VariationRatio(), 0), (BatchBALD(keep=40, num_samples=100), 40), (EPIG(25), 25)]:
        _, source = chosen_and_read(strategy, signals, 5)
        assert (source.kept, source.passed) == (kept, 300)


@pytest.mark.parametrize(("strategy", "score"), [
    (BALD(), uncertainty.mutual_information),
    (PredictiveEntropy(), uncertainty.predictive_entropy),
    (VariationRatio(), lambda draws: uncertainty.variation_ratio(draws, votes=True)),
    (VariationRatio(votes=False), lambda draws: uncertainty.variation_ratio(draws, votes=False)),
    (MeanSTD(), uncertainty.mean_std),
    (VoteEntropy(), uncertainty.vote_entropy),
    (ConsensusKL(), uncertainty.consensus_kl),
], ids=str.split("bald entropy votes mean deviation vote_entropy consensus"))  # fmt: skip
def test_each_asks_by_its_own_score(strategy, score):
    signals = of_draws(80)
    choice, scores = select_from(strategy, signals, 80), score(signals["mc_probs"])
    assert torch.allclose(choice.scores, scores[choice.rows], atol=1e-6)
    assert (choice.scores[1:] <= choice.scores[:-1]).all()


def test_batchbald_enumerates_what_ten_thousand_samples_can():
    signals = of_draws(12, members=8)
    choice = select_from(BatchBALD(), signals, 6)
    outcomes = signals["mc_probs"][choice.rows[0]].double()  # (K, C), and then C times as many for each row
    for row in choice.rows[1:]:
        outcomes = (outcomes.unsqueeze(2) * signals["mc_probs"][row].double().unsqueeze(1)).flatten(1)
    apart = torch.special.entr(signals["mc_probs"][choice.rows].double()).sum((0, 2)).mean()
    assert choice.notes["information"] == pytest.approx(float(uncertainty.entropy(outcomes.mean(0)) - apart), abs=1e-4)


def test_a_batch_of_one_is_what_bald_chooses_and_bald_is_what_a_committee_does():
    signals = of_draws(80)
    (best,) = select_from(BALD(), signals, 1).rows.tolist()
    assert select_from(BatchBALD(), signals, 1).rows.tolist() == [best]
    assert select_from(ConsensusKL(), signals, 9).rows.tolist() == select_from(BALD(), signals, 9).rows.tolist()


@pytest.mark.parametrize(("classes", "size", "outcomes"), [(4, 4, 5000), (10, 7, 2000)], ids=["enumerated", "sampled"])
def test_a_certified_short_list_gives_what_the_whole_pool_gives(classes, size, outcomes):
    certified = Counter()
    for seed in range(12):
        spread = 2 * torch.rand(120, 1, 1, generator=coins(seed)) ** 4  # a few rows say much, most say little
        mc_probs = torch.softmax(spread * torch.randn(120, 60, classes, generator=coins(seed)), -1)
        signals = {"mc_probs": mc_probs, "probs": mc_probs.mean(1)}
        for keep in (size + 2, 60):
            short = select_from(BatchBALD(keep=keep, num_samples=outcomes), signals, size)
            whole = select_from(BatchBALD(num_samples=outcomes), signals, size)
            assert whole.notes["certified"]
            certified[short.notes["certified"]] += 1
            if short.notes["certified"]:
                assert short.rows.tolist() == whole.rows.tolist()
    assert certified[True] and certified[False]  # noqa: PT018


def test_what_a_batch_is_worth_is_noted_and_more_than_the_draws_carry_is_warned_of(caplog):
    signals = of_draws(60, members=4, scale=4.0)
    with caplog.at_level(logging.WARNING, "deepal"):
        choice = select_from(BatchBALD(num_samples=500), signals, 6)
    assert choice.notes["information"] <= math.log(4) * 1.02
    assert "4 draws cannot tell more than 1.39 apart" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "deepal"):
        select_from(BatchBALD(num_samples=500), of_draws(60, members=200, scale=0.5), 2)
    assert not caplog.text
    passed_on = select_from(Prefilter(BALD(), BatchBALD(num_samples=500), keep=30), signals, 3)
    assert set(passed_on.notes) == {"information", "certified", "evaluated"}


def test_copies_of_one_image_are_asked_by_bald_and_not_together():
    """Redundancy in miniature: ten images, five copies each."""
    mc_probs = of_draws(10, members=60, seed=3, scale=1.5)["mc_probs"].repeat(5, 1, 1)
    signals = {"mc_probs": mc_probs, "probs": mc_probs.mean(1)}
    copies = {name: 5 - len({row % 10 for row in rows.tolist()}) for name, rows in (
        ("bald", select_from(BALD(), signals, 5).rows), ("batch", select_from(BatchBALD(), signals, 5).rows))}  # fmt: skip
    assert copies == {"bald": 4, "batch": 0}


def test_epig_draws_its_others_anew_in_each_query():
    signals, found = of_draws(50), []
    for seed in range(20):
        source = Counted(signals)
        view = View(Signals(torch.arange(50), source), Signals.of({"target": torch.zeros(0)}))
        choose(EPIG(5), view, 1, coins(seed))
        assert len(set(source.positions)) == 5
        found += source.positions
    assert len(set(found)) > 35


def test_epig_scores_against_others_drawn_from_the_pool():
    signals = of_draws(50)
    choice = select_from(EPIG(num_targets=50), signals, 50)
    scores = joint.epig(signals["mc_probs"], signals["mc_probs"])
    assert torch.allclose(choice.scores, scores[choice.rows], atol=1e-6)
    assert choice.rows.tolist() == scores.argsort(descending=True).tolist()


@pytest.mark.parametrize("kind", ["power", "softmax", "softrank"])
def test_a_stochastic_query_is_a_draw_without_replacement_by_weight(kind):
    """Plackett-Luce: the chance of an order is a product of shares of what is left."""
    probs = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.55, 0.45]])
    scores = uncertainty.margin(probs)
    weights = {"power": scores**2, "softmax": (2 * scores).exp(), "softrank": torch.arange(4, 0, -1) ** -2.0}[kind]
    strategy, times = Stochastic(Margin(), kind=kind, beta=2), 4000
    found = Counter(tuple(select_from(strategy, {"probs": probs}, 2, seed=seed).rows.tolist()) for seed in range(times))
    chi2 = 0.0
    for first, second in permutations(range(4), 2):
        chance = float(weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first]))
        chi2 += (found[first, second] - times * chance) ** 2 / (times * chance)
    assert chi2 < 31.3  # 11 degrees, p = .001


def test_a_row_of_no_score_has_no_weight_whatever_beta():
    probs = torch.tensor([[0.5, 0.5]] * 200 + [[0.9, 0.1]] * 3)  # of margin 1, and of .2

    class Least(Margin):
        def score(self, signals):
            return 1 - super().score(signals)

    for seed in range(20):
        rows = select_from(Stochastic(Least(), beta=0.05), {"probs": probs}, 5, seed=seed).rows.tolist()
        assert set(rows[:3]) == {200, 201, 202}
    beyond = {select_from(Stochastic(Least(), beta=0.05), {"probs": probs}, 4, seed=n).rows[3].item() for n in range(20)}
    assert len(beyond) > 10


def test_places_of_equal_scores_are_tossed_for():
    """Else all that score nothing would have the weight of the first of them."""
    votes = torch.zeros(2000, 10, 2)
    votes[..., 0] = 1
    votes[:20, :5] = torch.tensor([0.0, 1.0])
    signals = {"mc_probs": votes, "probs": votes.mean(1)}
    first = [
        select_from(Stochastic(VariationRatio(), "softrank"), signals, 1, seed=seed).rows.item() for seed in range(400)
    ]
    weights = 1 / torch.arange(1, 2001)
    assert sum(row < 20 for row in first) / 400 == pytest.approx(float(weights[:20].sum() / weights.sum()), abs=0.1)


def test_others_are_where_the_scan_scores():
    """A scan keeps signals on the CPU, and scores on its device."""
    draws = of_draws(60)["mc_probs"]

    class Pool:
        def __len__(self):
            return 60

        def take(self, rows):
            return {"mc_probs": draws[rows]}

        def map(self, score, names):
            return score({"mc_probs": draws.to("meta")})

    assert EPIG(9).scores(View(Pool(), Signals.of({})), coins()).device.type == "meta"


def test_epig_of_several_is_drawn_too():
    signals = of_draws(60)
    chosen = select_from(Stochastic(EPIG(num_targets=60)), signals, 8).rows
    assert len(chosen.unique()) == 8
    top = select_from(EPIG(num_targets=60), signals, 8).rows
    assert set(chosen.tolist()) != set(top.tolist())
    with pytest.raises(ValueError, match=r"Stochastic\(of=BatchBALD.*scores of single samples"):
        Stochastic(BatchBALD())


def test_of_nothing_nothing_is_chosen():
    signals = {"mc_probs": torch.zeros(0, 5, 3), "probs": torch.zeros(0, 3)}
    for strategy in (BALD(), BatchBALD(), EPIG(), Stochastic(EPIG())):
        assert not len(select_from(strategy, signals, 3).rows)


def test_between_uniform_and_the_largest():
    signals = made_up_signals(40, 0)
    top = select_from(Entropy(), signals, 5).rows.tolist()
    assert select_from(Stochastic(Entropy(), kind="softmax", beta=1e6), signals, 5).rows.tolist() == top
    counts = Counter()
    for seed in range(2000):
        counts.update(select_from(Stochastic(Entropy(), beta=0), signals, 4, seed=seed).rows.tolist())
    assert sum((counts[row] - 200) ** 2 / 200 for row in range(40)) < 72.1  # 39 degrees, p = .001


def test_noise_belongs_to_a_position_so_shards_choose_what_the_whole_chooses():
    signals = made_up_signals(60, 2)
    whole = Signals(torch.arange(60), StrictSource(signals, {"probs"}, 7))
    strategy, none = Stochastic(Entropy()), Signals.of({"target": torch.zeros(0)})
    expected = choose(strategy, View(whole, none), 6, coins(5)).rows
    found = []
    for shard in torch.arange(60).chunk(3):
        rows = choose(strategy, View(whole.take(shard), none), 6, coins(5)).rows
        found += shard[rows].tolist()
    assert set(expected.tolist()) <= set(found)


def test_scores_of_zero_come_last_and_negative_ones_are_refused():
    class Signed(Margin):
        def score(self, signals):
            return signals["probs"][:, 0] - 0.5

    probs = torch.tensor([[1.0, 0.0]] * 50 + [[0.6, 0.4]] * 3)
    for seed in range(20):
        rows = select_from(Stochastic(BALD()), {"mc_probs": torch.ones(9, 3, 2) / 2, "probs": probs[:9]}, 9, seed=seed).rows
        assert sorted(rows.tolist()) == list(range(9))  # all equal to zero: uniform, and finite
        assert {50, 51, 52} == set(select_from(Stochastic(Margin()), {"probs": probs}, 3, seed=seed).rows.tolist())
    with pytest.raises(ValueError, match="some are negative; take kind='softmax'"):
        select_from(Stochastic(Signed()), {"probs": probs.flip(1)}, 3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Stochastic(BALD), r"Stochastic is made of strategies, and BALD is a class: BALD\(\)"),
        (lambda: Stochastic(BALD(), kind="gibbs"), "power, softmax, softrank"),
        (lambda: Stochastic(BALD(), beta=-1), r"Stochastic\(beta=-1\)"),
        (lambda: BatchBALD(keep=0), r"BatchBALD\(keep=0\)"),
        (lambda: BatchBALD(num_samples=0), r"BatchBALD\(num_samples=0\)"),
        (lambda: EPIG(num_targets=0), r"EPIG\(num_targets=0\)"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_joint_predictions_of_sites_are_refused_by_name():
    sites = {"mc_probs": torch.rand(20, 5, 3, 2).softmax(-1), "probs": torch.rand(20, 2).softmax(-1)}
    for strategy in (BatchBALD(), BatchBALD(keep=5), EPIG()):
        with pytest.raises(ValueError, match=rf"{type(strategy).__name__}\(.*several sites a sample.*\(samples, 5, 3, 2\)"):
            select_from(strategy, sites, 3)


def test_one_draw_disagrees_with_nobody_and_that_is_said(caplog):
    alone, two = of_draws(30, members=1), of_draws(30, members=2)
    for strategy in (BALD(), VariationRatio(), MeanSTD(), VoteEntropy(), EPIG(), BatchBALD(keep=5)):
        caplog.clear()
        select_from(strategy, alone, 3)
        assert "gave all of 30 rows the same score, 0, so that coins decide" in caplog.text
    caplog.clear()
    select_from(BatchBALD(), alone, 3)
    assert "3 labels say 0.00 nats of the weights, and 1 draws cannot tell more than 0.00 apart" in caplog.text
    for strategy, signals in ((PredictiveEntropy(), alone), (BALD(), two), (BALD(), {"mc_probs": alone["mc_probs"][:3]})):
        caplog.clear()
        select_from(strategy, signals, 3)
        assert "coins decide" not in caplog.text


def test_ties_of_votes_go_by_the_generator():
    votes = of_draws(50, members=3)
    scores = uncertainty.variation_ratio(votes["mc_probs"])
    assert len(scores.unique()) <= 3
    picks = {tuple(top_k(scores, 4, coins(seed), "VariationRatio").tolist()) for seed in range(5)}
    assert len(picks) == 5
