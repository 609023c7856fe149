import math
from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import noise

seeds = st.integers(0, 2**62)


@given(seeds)
def test_noise_is_a_function_of_seed_and_counters_however_it_is_cut_up(seed):
    rows, columns = torch.arange(40).unsqueeze(1), torch.arange(30)
    whole = noise.uniform(seed, rows, columns)
    assert torch.equal(whole[7:9], noise.uniform(seed, rows[7:9], columns))
    assert torch.equal(whole[:, 5], noise.uniform(seed, rows.squeeze(1), torch.tensor(5)))
    assert not torch.equal(whole, noise.uniform(seed + 1, rows, columns))
    assert not torch.equal(whole, noise.uniform(seed, columns, rows))  # which counter is which tells
    assert whole.dtype == torch.float64  # in single precision one in 2^25 would be 1
    assert whole.min() > 0
    assert whole.max() < 1


def test_noise_is_uniform_and_neighbors_are_independent():
    values = noise.uniform(3, torch.arange(400).unsqueeze(1), torch.arange(500))
    counts = torch.histc(values.float(), 50, 0, 1)
    expected = values.numel() / 50
    assert ((counts - expected).square() / expected).sum() < 86  # chi-square, 49 degrees, p = .001
    for one, other in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1])):
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert correlation.abs() < 4 / math.sqrt(one.numel())


def test_the_largest_sums_of_log_weight_and_gumbel_noise_are_a_draw_by_weight():
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    first = Counter(int((weights.log() + noise.gumbel(seed, torch.arange(4))).argmax()) for seed in range(4000))
    expected = 4000 * weights / weights.sum()
    chi2 = sum((first[i] - float(e)) ** 2 / float(e) for i, e in enumerate(expected))
    assert chi2 < 16.3  # 3 degrees, p = .001
