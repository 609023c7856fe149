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
