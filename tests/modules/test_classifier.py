from functools import partial

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

from deepal.modules import Classifier
from deepal.nn import MLP, BatchBALDCNN, GalCNN, ResNet18
from deepal.task import Task
from deepal.weights import load_model
from tests.runs import digits

TASK = Task((1, 16, 16), ("a", "b", "c"), (0.5,), (0.25,))


def classifier(backbone=MLP, **options):
    torch.manual_seed(0)
    module = Classifier(backbone, **options)
    module.configure_network(TASK)
    return module.eval()


IMAGES = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", [MLP, GalCNN, BatchBALDCNN, ResNet18])
def test_what_it_says_fits_together(backbone):
    module = classifier(backbone)
    logits, embedding = module.logits(IMAGES), module.embedding(IMAGES)
    assert torch.allclose(logits, module.network.head(embedding))
    assert torch.allclose(module.probs(IMAGES), torch.softmax(logits, -1))
    assert torch.allclose(module(IMAGES), logits)
    names = ("probs", "embedding", "logits", "logit_gradient", "gradient_embedding", "flip_distance")
    said = module.say(IMAGES, names)
    assert list(said) == list(names)
    for name, value in said.items():
        assert torch.allclose(value, getattr(module, name)(IMAGES), atol=1e-6)


def test_one_forward_pass_says_all():
    module, passes = classifier(), []
    module.network.features.register_forward_hook(lambda *_: passes.append(1))
    module.say(IMAGES, ("probs", "embedding", "logits", "logit_gradient", "flip_distance"))
    assert passes == [1]


def test_the_gradient_embedding_is_the_gradient_of_the_head():
    module = classifier()
    found = module.gradient_embedding(IMAGES)
    for image, row in zip(IMAGES, found, strict=True):
        logits = module(image.unsqueeze(0))
        loss = nn.functional.cross_entropy(logits, logits.argmax(1))
        expected = torch.autograd.grad(loss, module.network.head.weight)[0]
        assert torch.allclose(row, expected.flatten(), atol=1e-6)


def test_a_sketch_of_the_gradient_embedding_is_as_wide_as_asked_and_the_same_for_all_images():
    module = classifier(gradient_sketch=7)
    found = module.gradient_embedding(IMAGES)
    assert found.shape == (6, 7)
    assert torch.allclose(module.gradient_embedding(IMAGES[2:4]), found[2:4], atol=1e-6)
    assert not torch.allclose(found[0], found[1])
    with pytest.raises(ValueError, match="gradient_sketch=0"):
        Classifier(gradient_sketch=0)


def test_an_embedding_that_moves_by_its_flip_distance_is_of_another_class():
    """The head's own bias counts, and the gradient is autograd's."""
    module = classifier()
    hidden = module.embedding(IMAGES).detach().requires_grad_()
    logits = module.network.head(hidden)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum"), hidden)
    along, distance = nn.functional.normalize(gradient, dim=1), module.flip_distance(IMAGES).unsqueeze(1)
    for part, moved in ((0.999, False), (1.001, True)):
        flipped = module.network.head(hidden + part * distance * along).argmax(1) != logits.argmax(1)
        assert (flipped == moved).all()


def test_frozen_features_keep_weights_and_statistics():
    module = classifier(ResNet18, frozen=True)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    module.train()
    optimizer = module.configure_optimizers()
    batch = {"input": IMAGES, "target": torch.tensor([0, 1, 2, 0, 1, 2])}
    module.loss(batch, 6)[0].backward()
    optimizer.step()
    changed = {name for name, each in module.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {"network.head.weight", "network.head.bias"}


def test_metrics_equal_their_definitions():
    module = classifier()
    module.on_test_epoch_start()
    target = torch.tensor([0, 1, 2, 0, 1, 1])
    probs = module.probs(IMAGES)
    for some in (slice(0, 4), slice(4, 6)):
        module.test_step({"input": IMAGES[some], "target": target[some]}, 0)
    found = {name: value.item() for name, value in module.test_metrics.compute().items()}
    one_hot = nn.functional.one_hot(target, 3)
    hits = probs.argmax(1) == target
    f1 = []
    for c in range(3):
        true, said = target == c, probs.argmax(1) == c
        f1.append(2 * (true & said).sum() / ((true.sum() + said.sum()).clamp_min(1)))
    confidence, ece = probs.amax(1), 0.0
    for low in torch.linspace(0, 1, 16)[:-1]:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            ece += inside.float().mean() * (hits[inside].float().mean() - confidence[inside].mean()).abs()
    expected = {
        "test/accuracy": hits.float().mean(),
        "test/nll": -probs[torch.arange(6), target].log().mean(),
        "test/brier": (probs - one_hot).square().sum(1).mean(),
        "test/macro_f1": torch.stack(f1).mean(),
        "test/ece": ece,
    }
    assert found == pytest.approx(
        {name: float(torch.as_tensor(value).detach()) for name, value in expected.items()}, abs=1e-6
    )


def test_drawn_anew_from_the_seed():
    module = Classifier(partial(MLP, hidden=(8,)))
    weights = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        module.configure_network(TASK)
        weights.append(module.network.head.weight.detach().clone())
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_a_row_that_diverged_is_not_left_out_of_the_mean():
    module = classifier()
    module.test_metrics["nll"].update(torch.tensor([[0.5, 0.5, 0.0], [torch.nan] * 3]), torch.tensor([0, 1]))
    assert module.test_metrics["nll"].compute().isnan()


def test_a_certain_and_wrong_prediction_has_a_finite_nll():
    module = classifier()
    module.test_metrics.update(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([1]))
    assert torch.isfinite(module.test_metrics.compute()["test/nll"])


def test_metrics_of_the_configuration_are_measured_beside_ours(tmp_path):
    metrics = {"top2": MulticlassAccuracy(10, top_k=2), "auroc": MulticlassAUROC(10)}
    run = digits(tmp_path, module=Classifier(metrics=metrics), trainer={"max_steps": 20}, budget=30)
    last = run.run()[-1].metrics
    assert last["test/accuracy"] < last["test/top2"] <= 1
    assert 0.5 < last["test/auroc"] <= 1
    assert load_model(run.folder).probs(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert metrics["top2"]._update_count == 0  # copies are used
    with pytest.raises(ValueError, match="'nll'"):
        Classifier(metrics={"nll": MulticlassAUROC(10)})


def test_metrics_come_from_a_file_too(tmp_path):
    from deepal import cli

    text = """
module:
  class_path: deepal.modules.Classifier
  init_args:
    metrics:
      auroc: {class_path: torchmetrics.classification.MulticlassAUROC, init_args: {num_classes: 10}}
budget: 40
"""
    (tmp_path / "config.yaml").write_text(text)
    cli.run(["--config", str(tmp_path / "config.yaml"), "--trainer.max_steps", "3", "--root", str(tmp_path / "runs")])
    (folder,) = (tmp_path / "runs").iterdir()
    assert "test/auroc" in (folder / "results.csv").read_text()
