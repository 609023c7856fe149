"""The last layer's Laplace approximation against the Hessian that autograd finds, and Kronecker products by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from deepal import load_model
from deepal.modules import Classifier
from deepal.nn import MLP
from deepal.probes import Laplace
from deepal.probes.laplace import Curvature, _evident
from deepal.strategies import BALD
from deepal.task import Task
from tests.runs import Outcome, digits


def head_and_inputs(images=1, inputs=3, classes=4, bias=True):
    torch.manual_seed(0)
    return nn.Linear(inputs, classes, bias=bias).double(), torch.randn(images, inputs, dtype=torch.float64)


def learned(posterior, head, inputs):
    memory = posterior.memory(head)
    posterior.learn(memory, head, inputs.split(2))
    return memory


@pytest.mark.parametrize("bias", [True, False])
def test_of_one_image_the_curvature_is_the_hessian_of_the_loss(bias):
    head, inputs = head_and_inputs(bias=bias)
    memory = learned(Laplace(), head, inputs)
    ones = torch.cat([inputs, inputs.new_ones(1, 1)], 1) if bias else inputs
    weights = torch.cat([head.weight, head.bias.unsqueeze(1)], 1) if bias else head.weight

    def loss(flat):
        return functional.cross_entropy(ones @ flat.view_as(weights).T, torch.tensor([1]))

    hessian = torch.autograd.functional.hessian(loss, weights.detach().flatten())
    assert torch.allclose(torch.kron(memory.of_classes, memory.of_inputs), hessian, atol=1e-9)


def test_deviations_have_the_inverse_of_the_precision_as_covariance():
    head, inputs = head_and_inputs(images=7)
    memory = learned(Laplace(), head, inputs)
    assert int(memory.images) == 7
    precision = torch.kron(memory.of_classes / 7, memory.of_inputs) + 0.5 * torch.eye(16, dtype=torch.float64)
    each = torch.eye(16, dtype=torch.float64).view(16, 4, 4)  # of unit tosses: the columns of a root of the covariance
    root = memory.spread(each, torch.ones(4, 4), 0.5).flatten(1)
    assert torch.allclose(root.T @ root, precision.inverse(), atol=1e-9)


def test_the_prior_makes_what_was_seen_most_likely():
    """Against a search over the evidence, log det and all."""
    head, inputs = head_and_inputs(images=40)
    memory = learned(Laplace(), head.requires_grad_(False), 3 * inputs)
    weights = torch.cat([head.weight, head.bias.unsqueeze(1)], 1).detach()
    curvature = torch.outer(
        torch.linalg.eigvalsh(memory.of_classes / 40).clamp_min(0), torch.linalg.eigvalsh(memory.of_inputs).clamp_min(0)
    )

    def evidence(precision):
        return -precision * weights.square().sum() / 2 + (precision.log() - (curvature + precision).log()).sum() / 2

    grid = torch.logspace(-4, 4, 4001, dtype=torch.float64)
    best = grid[torch.stack([evidence(each) for each in grid]).argmax()]
    assert _evident(curvature, weights) == pytest.approx(float(best), rel=0.01)
    for scale in (1e-3, 1e-6):  # where little was seen, it is still the root
        found = _evident(scale * curvature, weights)
        assert found == pytest.approx(
            float((scale * curvature / (scale * curvature + found)).sum() / weights.square().sum())
        )


def test_before_anything_was_seen_it_is_the_prior():
    spread = Curvature(3, 2).spread(torch.ones(1, 2, 3).double(), torch.ones(2, 3), None)
    assert spread.square().sum().item() == pytest.approx(6 / 9)  # each deviation that of a layer's initial weights


def classifier(**options):
    torch.manual_seed(0)
    made = Classifier(lambda shape, classes: MLP(shape, classes, dropout=0), posterior=Laplace(draws=30), **options)
    made.configure_network(Task((1, 4, 4), tuple("abc"), (0.0,), (1.0,)))
    return made.eval()


def test_draws_are_the_same_for_all_images_and_narrow_with_what_was_seen():
    module, images = classifier(), torch.rand(9, 1, 4, 4)
    wide = module.mc_probs(images)
    assert wide.shape == (9, 30, 3)
    assert torch.allclose(torch.cat([module.mc_probs(some) for some in images.split(2)]), wide, atol=1e-6)
    module.posterior.learn(module.learned, module.network.head, [module.embedding(torch.rand(500, 1, 4, 4))])
    assert module.mc_probs(images).std(1).mean() < wide.std(1).mean()
    narrow = Laplace(draws=30, prior_precision=1e9).start(module, torch.Generator().manual_seed(0))(images)
    assert torch.allclose(narrow.mean(1), module.probs(images), atol=1e-3)


def test_what_was_learned_of_a_fit_before_is_forgotten():
    head, embeddings = nn.Linear(5, 3), torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    posterior = Laplace()
    once, twice = posterior.memory(head), posterior.memory(head)
    posterior.learn(once, head, [embeddings[:9]])
    posterior.learn(twice, head, [embeddings])
    posterior.learn(twice, head, [embeddings[:9]])
    assert all(torch.equal(one, other) for one, other in zip(once.buffers(), twice.buffers(), strict=True))


def test_a_run_learns_it_after_each_fit_and_keeps_it_with_the_weights(tmp_path):
    made = {"strategy": BALD(), "module": lambda: Classifier(posterior=Laplace(draws=20))}
    runs = [digits(tmp_path / str(turn), **made) for turn in range(2)]
    for run in runs:
        run.run()
    assert Outcome.of(runs[0]) == Outcome.of(runs[1])
    model = load_model(runs[0].folder)
    assert int(model.learned.images) == 50
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(model.mc_probs(images), load_model(runs[1].folder).mc_probs(images))


def test_after_a_fit_that_has_diverged_nothing_is_a_number():
    head = nn.Linear(5, 3)
    posterior = Laplace(draws=4)
    memory = posterior.memory(head)
    posterior.learn(memory, head, [torch.full((2, 5), torch.nan)])
    weights = torch.zeros(3, 6, dtype=torch.float64)
    assert memory.spread(torch.randn(4, 3, 6, dtype=torch.float64), weights, None).isnan().all()


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"prior_precision": 0.0}, {"prior_precision": float("nan")}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="Laplace"):
        Laplace(**wrong)


def test_a_module_that_shows_it_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Linear does not let it; take Classifier\(posterior=Laplace\(\)\)"):
        Laplace().start(nn.Linear(3, 3), torch.Generator())
