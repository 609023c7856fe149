import pytest
import torch

from deepal import testing
from deepal.functional import mixing, neighbors
from deepal.signals import Signals
from deepal.strategies import ALFAMix, DropQuery, View


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


def drop_query(flips, query_size, factor=2.0, labeled=3, seed=0):
    pool, known = testing.made_up_signals(len(flips), 0), testing.made_up_signals(labeled, 1)
    pool["dropout_flips"] = torch.tensor(flips)
    return DropQuery(factor).select(
        View(Signals.of(pool), Signals.of(known)), query_size, torch.Generator().manual_seed(seed)
    )


def test_rows_that_most_draws_flip_are_asked_for():
    flips = [1.0, 2 / 3, 2 / 3, 1.0, 2 / 3, 1.0] + [1 / 3] * 10 + [0.0] * 20
    choice = drop_query(flips, 3)
    assert set(choice.rows.tolist()) <= set(range(6))
    assert choice.notes["candidates"] == 6


def test_where_they_are_few_rows_count_that_fewer_draws_flip():
    flips = [1.0, 2 / 3] + [1 / 3] * 10 + [0.0] * 20
    choice = drop_query(flips, 3)
    assert choice.notes["candidates"] == 12
    assert set(choice.rows.tolist()) <= set(range(12))


def test_where_too_few_flip_at_all_chance_fills_up():
    flips = [1.0, 1 / 3] + [0.0] * 30
    queries = [drop_query(flips, 8, seed=seed).rows.tolist() for seed in range(2)]
    for rows in queries:
        assert rows[:2] == [0, 1]
        assert len(set(rows)) == 8
    assert queries[0] != queries[1]


def test_while_nothing_is_labeled_all_rows_are_clustered():
    assert drop_query([0.0] * 20, 4, labeled=0).notes["candidates"] == 20
    with pytest.raises(ValueError, match="DropQuery"):
        DropQuery(0.5)


def test_each_that_is_asked_is_nearest_to_its_centroid():
    choice = drop_query([1.0] * 30, 4, factor=1)
    points = torch.nn.functional.normalize(testing.made_up_signals(30, 0)["embedding"], dim=1)
    centroids, of = neighbors.k_means(points, 4, torch.Generator().manual_seed(0))
    for row in choice.rows.tolist():
        members = (of == of[row]).nonzero().flatten()
        assert row == int(members[torch.cdist(points[members], centroids[of[row]].unsqueeze(0)).argmin()])
