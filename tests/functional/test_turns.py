import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import turns

groups = st.lists(st.integers(0, 5), min_size=1, max_size=40)


@given(groups)
def test_occurrence_counts_what_came_before(group):
    assert turns.occurrence(torch.tensor(group)).tolist() == [group[:i].count(each) for i, each in enumerate(group)]


@given(groups, st.integers(0, 1000))
def test_smallest_groups_have_the_first_turns_and_each_has_one_a_round(group, seed):
    scores = torch.rand(len(group), generator=torch.Generator().manual_seed(seed))
    order = turns.smallest_first(torch.tensor(group), scores, torch.Generator().manual_seed(seed)).tolist()
    assert sorted(order) == list(range(len(group)))
    best = {each: max(float(scores[i]) for i, of in enumerate(group) if of == each) for each in set(group)}
    rank = sorted(set(group), key=lambda each: (group.count(each), -best[each]))
    expected = [each for turn in range(len(group)) for each in rank if group.count(each) > turn]
    assert [group[row] for row in order] == expected


def test_rows_of_a_group_come_in_any_order():
    first = {
        int(turns.smallest_first(torch.zeros(3, dtype=torch.long), torch.rand(3), torch.Generator().manual_seed(seed))[0])
        for seed in range(30)
    }
    assert first == {0, 1, 2}


@given(st.integers(0, 50), st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_shares_sum_to_the_whole_and_are_within_one_of_what_is_due(total, shares):
    found = turns.shared(total, shares)
    assert sum(found) == total
    assert all(abs(one - total * share / sum(shares)) < 1 for one, share in zip(found, shares, strict=True))


@given(st.integers(0, 2**31), st.integers(0, 12))
def test_groups_are_evened_out_as_far_as_there_are_members(seed, total):
    coins = torch.Generator().manual_seed(seed)
    known, there = (torch.randint(6, (5,), generator=coins) for _ in range(2))
    total = min(total, int(there.sum()))
    added = turns.evened_out(known, there, total, coins)
    assert int(added.sum()) == total
    assert ((added >= 0) & (added <= there)).all()
    possible = itertools.product(*(range(n + 1) for n in there.tolist()))
    sizes = [known + torch.tensor(some) for some in possible if sum(some) == total]
    assert int((known + added).square().sum()) == min(int(each.square().sum()) for each in sizes)
