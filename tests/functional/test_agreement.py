"""Cohen's kappa, against torchmetrics."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_cohen_kappa

from deepal.functional.agreement import cohen_kappa

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(ROWS)
def test_it_is_that_of_torchmetrics(rows):
    one, two = torch.tensor(rows).T
    found = cohen_kappa(one, two)
    if len({*one.tolist(), *two.tolist()}) > 1:
        assert found == pytest.approx(float(multiclass_cohen_kappa(one, two, 5)), abs=1e-5)
    else:
        assert found == 1.0
    assert found == pytest.approx(cohen_kappa(two, one))


def test_chance_is_nothing():
    coins = torch.Generator().manual_seed(0)
    one, two = torch.randint(3, (2, 20_000), generator=coins)
    assert abs(cohen_kappa(one, two)) < 0.02
    assert cohen_kappa(one, one) == 1.0
