"""LossPrediction: a head over several levels of a network learns the order of its losses."""

import signal
from functools import partial

import pytest
import torch
from torch.nn import functional

from deepal.modules import Classifier, LossPrediction
from deepal.nn import MLP, BatchBALDCNN, GalCNN, Network, ResNet18, Torchvision
from deepal.nn.loss_head import outputs_of, widths_of
from deepal.probes import MCDropout
from deepal.strategies import BADGE, PredictedLoss
from deepal.task import Task
from deepal.weights import load_model
from tests import runs
from tests.modules.pools import low_digits
from tests.runs import Outcome, digits, in_process

STILL = partial(Classifier, partial(MLP, dropout=0.0))


BESIDE = partial(LossPrediction, STILL)


def made(module=BESIDE, shape=(1, 8, 8)):
    torch.manual_seed(0)
    built = module()
    built.configure_network(Task(shape, ("a", "b", "c"), (0.0,) * shape[0], (1.0,) * shape[0]))
    return built


def batch(rows=7):
    images = torch.randn(rows, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return {"input": images, "target": torch.arange(rows) % 3}


def gradients_of(module, loss):
    module.zero_grad()
    loss.backward()
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def test_what_it_says_fits_together():
    module, images = made().eval(), torch.randn(6, 1, 8, 8)
    names = ("predicted_loss", "probs", "logits", "embedding", "logit_gradient", "flip_distance")
    said = module.say(images, names)
    assert tuple(said) == names
    for name, value in said.items():
        assert torch.allclose(value, getattr(module, name)(images), atol=1e-6), name
    hidden = module.of.network.features
    levels = [functional.relu(hidden[1](images.flatten(1)))]
    levels.append(functional.relu(hidden[4](levels[0])))
    by_hand = torch.cat([functional.relu(at[0](of)) for at, of in zip(module.head.levels, levels, strict=True)], 1)
    assert torch.allclose(said["predicted_loss"], (by_hand @ module.head.head.weight.T + module.head.head.bias)[:, 0])


@pytest.mark.parametrize(
    ("network", "shape", "widths"),
    [
        (MLP, (1, 8, 8), [128, 128]),
        (GalCNN, (1, 16, 16), [32, 32, 128]),
        (BatchBALDCNN, (1, 16, 16), [32, 64, 128]),
        (ResNet18, (3, 16, 16), [64, 128, 256, 512]),
        (partial(Torchvision, name="resnet18"), (1, 64, 64), [64, 128, 256, 512]),
    ],
)
def test_the_stages_of_a_network_are_read(network, shape, widths):
    drawn = network(shape, 3)
    drawn.train()
    assert widths_of(drawn, drawn.stages(), shape) == widths
    assert all(each.training for each in drawn.modules())
    assert not any(each._forward_hooks for each in drawn.modules())


def test_positions_and_tokens_are_averaged_over():
    images = torch.randn(2, 1, 16, 16)
    network = GalCNN((1, 16, 16), 3).eval()
    with outputs_of(network, ["features.1"]) as outputs:
        network(images)
    assert torch.allclose(outputs["features.1"], network.features[:2](images).mean((2, 3)), atol=1e-6)

    class Tokens(Network):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.nn.Linear(16, 5), torch.nn.Linear(5, 3)

        def forward_features(self, images):
            return self.body(images.squeeze(1))[:, 0]

    network = Tokens()
    with outputs_of(network, ["body"]) as outputs:
        network(images)
    assert torch.allclose(outputs["body"], network.body(images.squeeze(1)).mean(1))


def test_without_weight_it_is_the_classifier_it_stands_beside():
    module, data = made(partial(LossPrediction, partial(STILL, weight_penalty=2.5), weight=0.0)), batch()
    alone = made(partial(STILL, weight_penalty=2.5))
    assert torch.equal(module.loss(data, 7)[0], alone.loss(data, 7)[0])
    assert torch.equal(module.loss(data, 7)[1], alone.loss(data, 7)[1])


def test_the_head_s_loss_is_weighed():
    data = batch()
    none, once, thrice = (made(partial(BESIDE, weight=weight)).loss(data, 7)[0] for weight in (0.0, 1.0, 3.0))
    assert torch.allclose(thrice - none, 3 * (once - none))
    assert once > none


def test_detached_the_head_alone_learns_from_its_loss():
    data, alone = batch(), made(STILL)
    own = gradients_of(alone, alone.loss(data, 7)[0])
    module = made()
    attached = gradients_of(module, module.loss(data, 7)[0])
    module._attached = False
    detached = gradients_of(module, module.loss(data, 7)[0])
    for name, gradient in own.items():
        assert torch.allclose(detached[f"of.{name}"], gradient, atol=1e-7)
    assert not torch.allclose(attached["of.network.features.1.weight"], detached["of.network.features.1.weight"])
    heads = [name for name in detached if name.startswith("head")]
    assert all(torch.equal(attached[name], detached[name]) for name in heads)
    assert heads


def test_it_detaches_at_its_epoch(tmp_path, monkeypatch):
    seen = []
    started = LossPrediction.on_train_epoch_start
    monkeypatch.setattr(
        LossPrediction,
        "on_train_epoch_start",
        lambda self: (started(self), seen.append((self.current_epoch, self._attached))),
    )
    learner = digits(tmp_path, strategy=PredictedLoss(), module=partial(LossPrediction, detach_epoch=2), budget=30)
    learner.run()
    assert {epoch for epoch, _ in seen} >= {0, 1, 2, 3}
    assert all(attached == (epoch < 2) for epoch, attached in seen)


def test_on_real_images_it_predicts_the_order_of_losses(tmp_path):
    images, targets, _ = low_digits()
    images = images / 255
    torch.manual_seed(0)
    module = LossPrediction()
    module.configure_network(Task((1, 28, 28), tuple("0123456789"), (0.0,), (1.0,)))
    optimizer = module.configure_optimizers()
    for _step in range(400):
        some = torch.randperm(1000)[:100]
        loss, _ = module.loss({"input": images[some], "target": targets[some]}, 1000)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        said = module.eval().say(images[1000:], ("predicted_loss", "logits"))
    wrong = said["logits"].argmax(1) != targets[1000:]
    predicted = said["predicted_loss"]
    above = (predicted[wrong].unsqueeze(1) > predicted[~wrong]).double().mean()
    assert above > 0.7, f"AUROC of what is wrong: {above:.3f}"


def test_a_killed_run_goes_on_to_the_same_queries(tmp_path):
    changes = {"strategy": PredictedLoss(), "module": LossPrediction, "budget": 30}
    whole = digits(tmp_path / "whole", **changes)
    whole.run()
    for where, turn in (("after a checkpoint", 3), ("mid-scan", 3)):
        process = in_process(runs.run_and_die, tmp_path / "killed", where, turn, changes)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, "it died where it should"
    runs.run(tmp_path / "killed", changes)
    assert Outcome.of(digits(tmp_path / "killed", **changes)) == Outcome.of(whole)


def test_other_strategies_read_it_and_it_is_loaded_again(tmp_path):
    learner = digits(tmp_path, strategy=BADGE(), module=LossPrediction, budget=30)
    assert [each.labels for each in learner.run()] == [20, 30]
    assert load_model(learner.folder).predicted_loss(torch.rand(3, 1, 8, 8)).shape == (3,)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"LossPrediction\(hidden=128, weight=-1"):
        LossPrediction(weight=-1)
    with pytest.raises(ValueError, match=r"LossPrediction\(of=...\) takes a Classifier that learns from images"):
        LossPrediction(partial(Classifier, posterior=MCDropout()))
    with pytest.raises(ValueError, match=r"LossPrediction\(stages=\['features.99'.*its parts are features, features.0"):
        made(partial(LossPrediction, stages=["features.99"]))
    with pytest.raises(ValueError, match=r"which parts of Torchvision to read"):
        made(partial(LossPrediction, partial(Classifier, partial(Torchvision, name="mobilenet_v2"))), (3, 64, 64))
