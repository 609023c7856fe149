import pytest
import torch

from deepal import testing
from deepal.functional import mixing
from deepal.signals import Signals
from deepal.strategies import ALFAMix, View


def choose(pool, labeled, query_size, step=0.03125, seed=0):
    view = View(Signals.of(pool), Signals.of(labeled))
    return ALFAMix(step).select(view, query_size, torch.Generator().manual_seed(seed))


def changing(pool, labeled, mixed):
    """Rows that change their prediction when so much is mixed in."""
    reach = mixing.farthest(pool["embedding"], mixing.class_means(labeled["embedding"], labeled["target"]))
    return (pool["flip_distance"] < mixed / pool["embedding"].shape[1] ** 0.5 * reach).nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_it_asks_for_rows_that_change_with_the_least_that_is_mixed_in(seed):
    pool, labeled = testing.made_up_signals(300, seed), testing.made_up_signals(20, seed + 1)
    choice = choose(pool, labeled, 6)
    mixed = choice.notes["mixed"]
    candidates = changing(pool, labeled, mixed)
    assert set(choice.rows.tolist()) <= set(candidates)
    assert len(candidates) == choice.notes["candidates"] > 6
    assert len(changing(pool, labeled, mixed - 0.03125)) <= 6


def test_where_too_few_change_chance_fills_up_without_a_row_twice():
    pool, labeled = testing.made_up_signals(60, 0), testing.made_up_signals(20, 1)
    pool["flip_distance"][5:] = 1e9
    candidates = changing(pool, labeled, 1.0)
    assert 0 < len(candidates) <= 5
    queries = [choose(pool, labeled, 40, seed=seed).rows.tolist() for seed in range(3)]
    for rows in queries:
        assert rows[: len(candidates)] == candidates
        assert len(set(rows)) == 40
    assert set(queries[0]) != set(queries[1])


def test_candidates_are_chosen_in_different_directions():
    """Three bundles of rows that all change: one of each is asked for."""
    coins = torch.Generator().manual_seed(0)
    bundles = torch.eye(3).repeat_interleave(20, 0) * 5 + 0.01 * torch.randn(60, 3, generator=coins)
    pool = {"embedding": bundles, "flip_distance": torch.zeros(60)}
    labeled = {"embedding": torch.zeros(2, 3), "target": torch.tensor([0, 1])}
    rows = choose(pool, labeled, 3).rows
    assert sorted((rows // 20).tolist()) == [0, 1, 2]
    longer = {**pool, "embedding": bundles * torch.linspace(1, 30, 60)[torch.randperm(60, generator=coins)].unsqueeze(1)}
    assert sorted((choose(longer, labeled, 3).rows // 20).tolist()) == [0, 1, 2], "of directions, and not of lengths"


@pytest.mark.parametrize("step", [0.4, 0.6, 1.0])
def test_all_is_mixed_in_before_chance_fills_up(step):
    pool, labeled = testing.made_up_signals(60, 0), testing.made_up_signals(20, 1)
    pool["flip_distance"][:] = 1e9
    assert choose(pool, labeled, 40, step).notes["mixed"] == 1.0


def test_a_step_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"ALFAMix\(step=0\) must be above 0"):
        ALFAMix(step=0)
