"""MAL: features and prototypes play against each other over unlabeled images; a discriminator looks on."""

import signal
from functools import partial

import pytest
import torch
from torch import nn
from torchmetrics.functional import auroc

from deepal.functional import uncertainty
from deepal.modules import MAL
from deepal.nn import MLP, Network
from deepal.strategies import BADGE, CoreSet, UnlabeledEntropy, Unlabeledness
from deepal.task import Task
from deepal.weights import load_model
from tests import runs
from tests.modules.pools import asked_first, clusters, low_digits
from tests.runs import Outcome, digits, in_process


def made(module=MAL):
    torch.manual_seed(0)
    built = module()
    built.configure_network(Task((1, 8, 8), ("a", "b", "c"), (0.0,), (1.0,)))
    return built


def batch(labeled=5, unlabeled=7):
    coins = torch.Generator().manual_seed(0)
    images = torch.randn(labeled + unlabeled, 1, 8, 8, generator=coins)
    return {
        "labeled": {"input": images[:labeled], "target": torch.arange(labeled) % 3},
        "unlabeled": {"input": images[labeled:]},
    }


def gradients_of(module, loss):
    module.zero_grad()
    loss.backward()
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def test_what_it_says_fits_together():
    module, images = made().eval(), torch.randn(6, 1, 8, 8)
    names = ("probs", "logits", "embedding", "logit_gradient", "unlabeledness")
    said = module.say(images, names)
    for name, value in said.items():
        assert torch.allclose(value, getattr(module, name)(images), atol=1e-6)
    assert torch.allclose(said["embedding"].norm(dim=1), torch.ones(6))
    assert torch.allclose(said["logits"], said["embedding"] @ module.network.head.weight.T / 0.05, atol=1e-4)


def test_features_lower_the_entropy_of_unlabeled_images_and_prototypes_raise_it():
    module, data = made(partial(MAL, partial(MLP, dropout=0))), batch()
    both = gradients_of(module, module.loss(data, 5)[0])
    without = made(partial(MAL, partial(MLP, dropout=0), entropy_weight=0.0))
    labeled_only = gradients_of(without, without.loss(data, 5)[0])
    entropy = uncertainty.entropy_of_logits(module.logits(data["unlabeled"]["input"])).mean()
    of_entropy = gradients_of(module, entropy)
    for name, gradient in of_entropy.items():
        towards = -1 if name == "network.head.weight" else 1  # a step goes against the gradient
        found = both[name] - labeled_only[name]
        assert torch.allclose(found, towards * 0.1 * gradient, atol=1e-5), name
    assert of_entropy["network.head.weight"].abs().max() > 0


def test_the_discriminator_moves_no_feature():
    module, data = made(partial(MAL, partial(MLP, dropout=0))), batch()
    before = gradients_of(module, module.loss(data, 5)[0])
    with torch.no_grad():
        for each in module.adversary.parameters():
            each.mul_(3)
    after = gradients_of(module, module.loss(data, 5)[0])
    changed = {name for name in before if not torch.allclose(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("adversary")}


def test_without_entropy_it_is_a_classifier_and_a_discriminator_by_itself():
    module, data = made(partial(MAL, partial(MLP, dropout=0), entropy_weight=0.0)), batch()
    logits = module.logits(data["labeled"]["input"])
    told = [module.adversary(module.embedding(data[of]["input"])) for of in ("labeled", "unlabeled")]
    expected = torch.nn.functional.cross_entropy(logits, data["labeled"]["target"])
    expected = expected - torch.sigmoid(told[0]).log().mean() - torch.sigmoid(-told[1]).log().mean()
    assert torch.allclose(module.loss(data, 5)[0], expected)


def test_the_discriminator_has_an_optimizer_of_its_own_and_a_step_of_the_fit_is_one_of_both(tmp_path, monkeypatch):
    module = made(partial(MAL, optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=1.0), adversary_rate=0.3))
    (own, beside), _ = module.configure_optimizers()
    assert (type(own), type(beside)) == (torch.optim.SGD, torch.optim.Adam)
    assert (own.param_groups[0]["lr"], beside.param_groups[0]["lr"]) == (0.1, 0.3)
    assert beside.param_groups[0]["weight_decay"] == 0
    for optimizer, part in ((own, module.network), (beside, module.adversary)):
        assert {id(each) for each in optimizer.param_groups[0]["params"]} == {id(each) for each in part.parameters()}
    rates, step = [], MAL.training_step

    def watched(self, batch, batch_idx):
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(MAL, "training_step", watched)
    scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=20, gamma=0.1)
    digits(tmp_path, strategy=UnlabeledEntropy(), module=partial(MAL, scheduler=scheduler), budget=20).run()
    assert len(rates) == 60
    assert [rates[i] for i in (0, 19, 20, 40)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])


def test_of_two_clusters_one_of_which_is_labeled_the_other_is_asked_for(tmp_path):
    images, cluster, labeled = clusters()
    asked, _ = asked_first(tmp_path, UnlabeledEntropy(), MAL, labeled, images, cluster, 200)
    assert cluster[asked].float().mean() >= 0.95


def test_with_labels_of_some_digits_alone_it_asks_for_the_others(tmp_path):
    images, targets, labeled = low_digits()
    asked, module = asked_first(tmp_path, UnlabeledEntropy(), MAL, labeled, images, targets, 300)
    assert (targets[asked] >= 5).float().mean() >= 0.8
    free = torch.ones(len(images), dtype=torch.bool).index_fill_(0, torch.tensor(labeled), False)
    with torch.no_grad():
        told = module.unlabeledness(module.task.normalize(images))
    area = auroc(told, free.long(), task="binary")
    assert area > 0.65, f"the discriminator has learned: {area:.3f}"


def test_entropy_counts_among_what_is_taken_for_unlabeled_and_the_rest_comes_after():
    probs = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.5, 0.5], [1.0, 0.0]])
    scores = UnlabeledEntropy().score({"probs": probs, "unlabeledness": torch.tensor([-2.0, 3.0, 0.1, -0.5])})
    assert scores.sort(descending=True).indices.tolist() == [2, 1, 3, 0]


def test_of_sites_the_discriminator_is_asked_for_the_image_and_not_for_each():
    """One site that looks labeled does not make up for the others."""
    told, probs = torch.full((2, 64), 3.0), torch.full((2, 64, 3), 1 / 3)
    told[0, 0] = -80.0
    told[1, :40] = -9.0
    scores = UnlabeledEntropy().score_rows({"probs": probs, "unlabeledness": told})
    assert torch.allclose(scores, torch.tensor([3.0]).log().repeat(2).where(torch.tensor([True, False]), told.mean(1)))


def test_a_killed_run_goes_on_to_the_same_queries(tmp_path):
    changes = {"strategy": UnlabeledEntropy(), "module": MAL, "budget": 30}
    whole = digits(tmp_path / "whole", **changes)
    whole.run()
    for where, turn in (("after a checkpoint", 3), ("mid-scan", 3)):
        process = in_process(runs.run_and_die, tmp_path / "killed", where, turn, changes)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, "it died where it should"
    runs.run(tmp_path / "killed", changes)
    assert Outcome.of(digits(tmp_path / "killed", **changes)) == Outcome.of(whole)


def test_other_strategies_read_it_and_it_is_loaded_again(tmp_path):
    for number, strategy in enumerate((BADGE(), CoreSet(), Unlabeledness())):
        learner = digits(tmp_path / str(number), strategy=strategy, module=MAL, budget=30)
        assert [each.labels for each in learner.run()] == [20, 30]
    assert load_model(learner.folder).probs(torch.rand(3, 1, 8, 8)).shape == (3, 10)


class Pixels(Network):
    """Features of each pixel, channels last."""

    def __init__(self, input_shape, classes):
        super().__init__()
        self.body, self.head = nn.Conv2d(input_shape[0], 6, 3, padding=1), nn.Linear(6, classes)

    def forward_features(self, images):
        return self.body(images).movedim(1, -1)


def test_it_is_ready_for_sites():
    module, data = made(partial(MAL, Pixels)), batch()
    data["labeled"]["target"] = torch.arange(5 * 64).view(5, 8, 8) % 3
    loss, correct = module.loss(data, 5)
    assert loss.isfinite()
    assert correct.shape == (5, 8, 8)
    said = module.say(data["unlabeled"]["input"], ("probs", "unlabeledness"))
    assert UnlabeledEntropy().score_rows(said).shape == (7,)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"MAL\(temperature=0"):
        MAL(temperature=0)
