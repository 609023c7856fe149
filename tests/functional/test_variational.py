import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from deepal.functional import variational

seeds = st.integers(0, 2**31)


@given(seeds)
def test_the_divergence_is_that_of_the_distributions(seed):
    mean, log_variance = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(drawn, Normal(torch.zeros_like(mean), torch.ones_like(mean)))
    assert torch.allclose(variational.divergence(mean, log_variance), expected)
    assert (expected >= 0).all()


def test_the_divergence_of_the_prior_from_itself_is_nothing_and_that_of_another_what_draws_say():
    zero = torch.zeros(4, 3)
    assert variational.divergence(zero, zero).abs().max() == 0
    prior, other = Normal(0.0, 1.0), Normal(torch.tensor(1.5), torch.tensor(0.5))
    draws = other.expand([400_000]).sample()
    by_draws = (other.log_prob(draws) - prior.log_prob(draws)).mean()
    closed = variational.divergence(torch.tensor(1.5), torch.tensor(0.5).square().log())
    assert torch.allclose(by_draws, closed, atol=0.02)


def test_what_varies_over_images_is_alive():
    mean = torch.stack([torch.linspace(-1, 1, 50), torch.full((50,), 3.0), 0.05 * torch.linspace(-1, 1, 50)], 1)
    assert variational.alive(mean).tolist() == [True, False, False]
