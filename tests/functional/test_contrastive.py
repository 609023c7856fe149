"""The loss of SimCLR, against a loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional.contrastive import nt_xent


@given(st.integers(2, 6), st.floats(0.1, 2))
def test_it_is_the_definition(size, temperature):
    one, two = torch.randn(2, size, 3, generator=torch.Generator().manual_seed(size))
    views = [*one.tolist(), *two.tolist()]

    def similarity(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return math.exp(dot / math.hypot(*a) / math.hypot(*b) / temperature)

    total = 0.0
    for i, view in enumerate(views):
        others = sum(similarity(view, each) for k, each in enumerate(views) if k != i)
        total -= math.log(similarity(view, views[(i + size) % (2 * size)]) / others)
    assert float(nt_xent(one, two, temperature)) == pytest.approx(total / 2 / size, rel=1e-4)
    assert float(nt_xent(two, one, temperature)) == pytest.approx(total / 2 / size, rel=1e-4)


def test_it_is_small_where_views_of_an_image_are_alike_and_of_others_not():
    apart = torch.eye(8)
    assert nt_xent(apart, apart, 0.1) < 0.01
    assert nt_xent(apart, apart.roll(1, 0), 0.1) > 5
