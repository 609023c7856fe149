"""Ensembles: stacked or looped they train alike, and what they predict is the average of probabilities."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adafactor, Adam, AdamW
from torch.optim.lr_scheduler import StepLR
from torchmetrics.classification import MulticlassCohenKappa

from deepal import load_model
from deepal.callbacks import BestWeights, StopAtTrainingAccuracy
from deepal.data import Digits
from deepal.data.loading import Shuffled
from deepal.functional import gradients, uncertainty
from deepal.modules import Classifier, Committee, Ensemble, SharedBackbone, Snapshot, SplitHead
from deepal.modules.ensemble import Voting
from deepal.nn import MLP, GalCNN, ResNet18
from deepal.nn.together import Side, Stack
from deepal.probes import MCDropout
from deepal.strategies import BADGE, BALD, CoreSet, Margin, VariationRatio
from deepal.task import Task
from tests.runs import Outcome, digits

TASK = Task((1, 8, 8), tuple("abc"), (0.0,), (1.0,))
IMAGES = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def plain(shape, classes):
    return MLP(shape, classes, hidden=(16, 12), dropout=0)


def small(shape, classes):
    return MLP(shape, classes, hidden=(5,), dropout=0)


def drawn(module, seed=0):
    torch.manual_seed(seed)
    module.configure_network(TASK)
    return module


MODULES = {
    "ensemble": lambda: Ensemble(Classifier(plain), 3),
    "of convolutions": lambda: Ensemble(Classifier(GalCNN), 2),
    "committee": lambda: Committee([plain, small], Classifier()),
    "shared backbone": lambda: SharedBackbone(Classifier(plain), 3),
    "snapshot": lambda: Snapshot(Classifier(plain), 3),
    "split head": lambda: SplitHead(Classifier(plain), 3),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_it_predicts_the_average_of_its_members_probabilities(make):
    module = drawn(make()).eval()
    with torch.no_grad():
        said = module.say(IMAGES, ("mc_probs", "probs", "logits", "embedding", "logit_gradient"))
    assert torch.allclose(said["probs"], said["mc_probs"].mean(1), atol=1e-6)
    assert torch.allclose(torch.softmax(said["logits"], -1), said["probs"], atol=1e-6)
    assert torch.allclose(said["logit_gradient"], gradients.logit_gradient(said["probs"].log()), atol=1e-5)
    assert said["embedding"].shape[0] == 7
    assert torch.equal(module.predictor()(IMAGES), module.probs(IMAGES))
    assert torch.allclose(module(IMAGES), said["logits"])


def steps(module, count=6, size=5):
    """Train on random batches, each member on its own."""
    optimizer, generator = module.configure_optimizers(), torch.Generator().manual_seed(1)
    rows = size * getattr(module, "orders", 1)
    for _ in range(count):
        batch = {
            "input": torch.randn(rows, 1, 8, 8, generator=generator),
            "target": torch.randint(3, (rows,), generator=generator),
        }
        optimizer.zero_grad()
        module.loss(batch, 50)[0].backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("optimizer", [Adam, partial(SGD, lr=0.05, momentum=0.9, weight_decay=0.01)], ids=["adam", "sgd"])
@pytest.mark.parametrize("penalty", [0.0, 2.5])
def test_a_stack_trains_as_its_parts_do_one_after_another(penalty, optimizer):
    recipe = Classifier(plain, optimizer, weight_penalty=penalty)
    stacked, looped = drawn(Ensemble(recipe, 3)), drawn(Ensemble(recipe, 3))
    looped.networks = Side(looped._networks(TASK))
    torch.manual_seed(0)
    stacked.networks = Stack([stacked._draw(TASK) for _ in range(3)])
    torch.manual_seed(0)
    looped.networks = Side([looped._draw(TASK) for _ in range(3)])
    alone = []
    torch.manual_seed(0)
    for member in range(3):  # and as three classifiers that know nothing of each other
        single = Classifier(plain, optimizer, weight_penalty=penalty)
        single.configure_network(TASK)
        trained_by, generator = single.configure_optimizers(), torch.Generator().manual_seed(1)
        for _ in range(6):
            images, targets = torch.randn(15, 1, 8, 8, generator=generator), torch.randint(3, (15,), generator=generator)
            own = slice(5 * member, 5 * member + 5)
            trained_by.zero_grad()
            single.loss({"input": images[own], "target": targets[own]}, 50)[0].backward()
            trained_by.step()
        alone.append(single)
    for each in (stacked, looped):
        steps(each).eval()
        with torch.no_grad():
            expected = torch.stack([single.probs(IMAGES) for single in alone], 1)
            assert torch.allclose(each.mc_probs(IMAGES), expected, atol=1e-5)
            assert torch.allclose(each.embedding(IMAGES), torch.cat([s.embedding(IMAGES) for s in alone], 1), atol=1e-4)


def test_what_is_stacked():
    assert isinstance(drawn(Ensemble(Classifier(plain), 2)).networks, Stack)
    for recipe in (Classifier(GalCNN), Classifier(ResNet18), Classifier(plain, frozen=True)):
        assert isinstance(drawn(Ensemble(recipe, 2)).networks, Side)


def test_a_committee_is_of_all_its_kinds():
    module = drawn(Committee([plain, small, GalCNN], Classifier())).eval()
    assert [network.head.in_features for network in module.networks] == [12, 5, 128]
    by_hand = torch.stack([torch.softmax(network(IMAGES), -1) for network in module.networks], 1)
    assert torch.allclose(module.mc_probs(IMAGES), by_hand, atol=1e-6)


def test_members_start_apart_and_equal_members_do_not_disagree():
    module = drawn(Ensemble(Classifier(GalCNN), 2)).eval()
    assert uncertainty.mutual_information(module.mc_probs(IMAGES)).max() > 1e-4
    module.networks[1].load_state_dict(module.networks[0].state_dict())
    assert uncertainty.mutual_information(module.mc_probs(IMAGES)).max() < 1e-6
    assert not uncertainty.mutual_information(drawn(Ensemble(Classifier(plain), 1)).eval().mc_probs(IMAGES)).any()


def test_dropout_of_a_stack_tosses_coins_for_each_member_and_only_while_training():
    module = drawn(Ensemble(Classifier(MLP), 2))
    weights = module._modules["networks"].weights
    with torch.no_grad():
        for weight in weights.values():
            weight.copy_(weight[:1].expand_as(weight))
        logits = module.train().networks.logits(IMAGES.expand(2, *IMAGES.shape))
        assert not torch.allclose(logits[0], logits[1])
        module.eval()
        assert torch.equal(module.probs(IMAGES), module.probs(IMAGES))


def stop_at(monkeypatch, turn):
    """Interrupt the training step of this number, and no other."""
    step, count = Voting.training_step, 0

    def deadly(self, batch, batch_idx):
        nonlocal count
        count += 1
        if count == turn:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Voting, "training_step", deadly)


def modes_of_dropout(seen, make):
    class Recorded(type(make())):
        def loss(self, batch, images):
            network = self.networks._shape[0] if isinstance(self.networks, Stack) else self.networks[0]
            seen.append([each.training for each in network.modules() if isinstance(each, nn.Dropout | nn.BatchNorm2d)])
            return super().loss(batch, images)

    return Recorded


@pytest.mark.parametrize("backbone", [MLP, GalCNN], ids=["stack", "side by side"])
def test_dropout_stays_on_in_a_fit_after_each_validation_and_a_killed_fit_goes_on(tmp_path, backbone, monkeypatch):
    seen = []
    recorded = modes_of_dropout(seen, lambda: Ensemble(Classifier(backbone), 2))
    made = {"module": lambda: recorded(Classifier(backbone), 2), "budget": 20, "data": Digits(epoch_steps=4, validation=10)}
    whole = digits(tmp_path / "whole", trainer={"max_steps": 16}, **made)
    whole.run()
    assert all(all(modes) for modes in seen)
    stop_at(monkeypatch, 10)
    killed = digits(tmp_path / "killed", trainer={"max_steps": 16}, **made)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    killed.run()
    assert Outcome.of(killed) == Outcome.of(whole)


def test_frozen_batch_norm_stays_as_it_is_in_a_run(tmp_path):
    from safetensors.torch import load_file

    for make in (lambda: Classifier(ResNet18, frozen=True), lambda: Ensemble(Classifier(ResNet18, frozen=True), 2)):
        run = digits(tmp_path, module=make, budget=20, data=Digits(epoch_steps=2, batch_size=4), trainer={"max_steps": 4})
        run.run()
        weights = load_file(run.folder / "model.safetensors")
        assert all(not each.any() for name, each in weights.items() if name.endswith("running_mean"))


def test_clipping_by_one_norm_is_refused(tmp_path):
    run = digits(tmp_path, module=Ensemble(Classifier(plain), 2), trainer={"max_steps": 4, "gradient_clip_val": 0.1})
    with pytest.raises(ValueError, match="gradient_clip_algorithm=value"):
        run.run()


def test_snapshots_count_steps_and_not_batches(tmp_path):
    run = digits(tmp_path, module=MODULES["snapshot"], budget=20, trainer={"max_steps": 12, "accumulate_grad_batches": 2})
    run.run()
    model = load_model_of(run, MODULES["snapshot"]())
    assert torch.equal(model.snapshots[-1].head.weight, model.network.head.weight)


def test_each_member_has_an_order_of_its_own():
    batches = list(Shuffled(10, 4, seed=3, orders=2))
    assert [len(each) for each in batches] == [8, 8, 4]
    orders = [torch.cat([batch.chunk(2)[i] for batch in batches]) for i in range(2)]
    assert all(sorted(each.tolist()) == list(range(10)) for each in orders)
    assert not torch.equal(*orders)
    assert torch.equal(orders[0], torch.cat(list(Shuffled(10, 4, seed=3))))  # the first is that of one network


def test_one_trunk_has_several_heads_whose_losses_are_averaged():
    module = drawn(SplitHead(Classifier(plain), 4))
    assert len([name for name, _ in module.named_parameters() if name.startswith("network.")]) == 4
    assert len(module.last) == 4
    batch = {"input": IMAGES, "target": torch.tensor([0, 1, 2, 0, 1, 2, 0])}
    assert all(not torch.equal(a.weight, b.weight) for a, b in pairwise(module.last))
    embedding = module.network(IMAGES)
    expected = torch.stack([functional.cross_entropy(head(embedding), batch["target"]) for head in module.last]).mean()
    assert torch.allclose(module.loss(batch, 50)[0], expected)
    assert module.embedding(IMAGES).shape == (7, 12)


@pytest.mark.parametrize("steps_", [60, 100, 9, 4])
def test_snapshots_are_taken_where_the_learning_rate_has_fallen(tmp_path, steps_):
    rates, kept = [], []

    class Recorded(Snapshot):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            rates.append(self.optimizers().param_groups[0]["lr"])
            kept.append(int(self.kept))
            return loss

    run = digits(tmp_path, strategy=VariationRatio(), module=lambda: Recorded(Classifier(plain), 4), budget=30,
                 trainer={"max_steps": steps_})  # fmt: skip
    run.run()
    rates, kept = rates[:steps_], kept[:steps_]
    starts = [round(number * steps_ / 4) for number in range(5)]
    for number, (start, end) in enumerate(pairwise(starts)):
        assert rates[start] == pytest.approx(1e-3)
        assert rates[start:end] == sorted(rates[start:end], reverse=True)
        assert set(kept[start:end]) == {number}
    assert min(rates) < 2e-5 or steps_ < 60


def test_snapshots_are_different_networks_and_a_fit_that_ends_early_is_refused(tmp_path):
    run = digits(tmp_path, strategy=BALD(), module=lambda: Snapshot(Classifier(plain), 4), budget=20)
    run.run()
    model = load_model_of(run, Snapshot(Classifier(plain), 4))
    assert model.mc_probs(torch.rand(5, 1, 8, 8)).std(1).max() > 1e-4
    assert torch.equal(model.snapshots[3].head.weight, model.network.head.weight)
    images = torch.rand(5, 1, 8, 8)
    by_hand = torch.stack([torch.softmax(each(images), -1) for each in model.snapshots], 1)
    assert torch.allclose(model.mc_probs(images), by_hand, atol=1e-6)
    for make in (MODULES["snapshot"], MODULES["shared backbone"]):
        for callback in (StopAtTrainingAccuracy(0.5), BestWeights()):
            early = digits(tmp_path / "early", module=make, trainer={"max_steps": 60, "callbacks": [callback]})
            with pytest.raises(ValueError, match=f"divides a fit into parts, of which {type(callback).__name__}"):
                early.run()
    short = digits(tmp_path / "short", module=MODULES["snapshot"], trainer={"max_steps": 2})
    with pytest.raises(ValueError, match="needs a fit of 3 steps at least, and this has 2"):
        short.run()


def test_a_snapshot_keeps_the_statistics_of_its_batch_norm(tmp_path):
    class Normed(MLP):
        def __init__(self, shape, classes):
            super().__init__(shape, classes, hidden=(6,), dropout=0)
            self.norm = nn.BatchNorm1d(6)

        def forward_features(self, images):
            return self.norm(super().forward_features(images))

        def chain(self):
            return None

    run = digits(tmp_path, module=lambda: Snapshot(Classifier(Normed), 3), budget=20)
    run.run()
    model = load_model_of(run, Snapshot(Classifier(Normed), 3))
    means = [each.norm.running_mean for each in model.snapshots]
    assert all(not torch.equal(one, other) for one, other in pairwise(means))
    assert torch.equal(means[-1], model.network.norm.running_mean)


def load_model_of(run, module):
    return load_model(run.folder, module_with_task(module, run))


def module_with_task(module, run):
    module.configure_network(run.data.task)
    return module


def test_members_that_share_the_beginning_are_one_network_until_they_part(tmp_path):
    apart = []

    class Recorded(SharedBackbone):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            first, second = (torch.cat([each.flatten() for each in network.parameters()]) for network in self.networks[:2])
            apart.append(float((first - second).detach().abs().max()))
            if self.trainer.global_step == 30:  # and the optimizer goes on from the same place, too
                (optimizer,) = self.trainer.optimizers
                states = [[optimizer.state[each] for each in network.parameters()] for network in self.networks]
                assert all(state["step"] == 30 for of_network in states for state in of_network)
                for of_first, own in zip(states[0], states[2], strict=True):
                    assert torch.equal(of_first["exp_avg"], own["exp_avg"])
                    assert of_first["exp_avg"] is not own["exp_avg"]
            return loss

    digits(tmp_path, module=lambda: Recorded(Classifier(MLP), 3, shared=0.5), budget=20).run()
    assert apart[30] == 0  # half of 60 steps: from here on they go on from the same place
    assert apart[0] > 0
    assert 0 < apart[31] < apart[59]


@pytest.mark.parametrize("make", [MODULES["snapshot"], MODULES["shared backbone"]], ids=["snapshot", "shared backbone"])
def test_a_warm_start_begins_its_phases_anew(tmp_path, make):
    made = {"strategy": VariationRatio(), "module": make, "warm_start": True, "budget": 40, "trainer": {"max_steps": 20}}
    run = digits(tmp_path, **made)
    run.run()
    model = load_model_of(run, make())
    if hasattr(model, "snapshots"):
        assert torch.equal(model.snapshots[-1].head.weight, model.network.head.weight)
        assert int(model.kept) == 3
    else:
        assert bool(model.parted)
    assert len({tuple(result.metrics.items()) for result in run.run()}) == 3


@pytest.mark.parametrize("make", [MODULES["snapshot"], MODULES["shared backbone"]], ids=["snapshot", "shared backbone"])
def test_a_fit_that_is_killed_goes_on_in_its_phase(tmp_path, make, monkeypatch):
    made = {"strategy": BALD(), "module": make, "budget": 30}
    whole, killed = digits(tmp_path / "whole", **made), digits(tmp_path / "killed", **made)
    whole.run()
    stop_at(monkeypatch, 47)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    killed.run()
    assert Outcome.of(killed) == Outcome.of(whole)


@pytest.mark.parametrize("strategy", [Margin(), CoreSet(), BADGE()], ids=repr)
@pytest.mark.parametrize("make", [MODULES[name] for name in MODULES if name != "of convolutions"])
def test_every_strategy_can_be_compared_with_the_same_predictor(tmp_path, make, strategy):
    run = digits(tmp_path, strategy=strategy, module=make, budget=30, trainer={"max_steps": 20})
    results = run.run()
    assert [each.labels for each in results] == [20, 30]


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_runs_repeat_and_their_models_are_read_back(tmp_path, make):
    runs = [
        digits(tmp_path / str(turn), strategy=BALD(), module=make, budget=30, trainer={"max_steps": 20}) for turn in (0, 1)
    ]
    for run in runs:
        run.run()
    assert Outcome.of(runs[0]) == Outcome.of(runs[1])


@pytest.mark.parametrize("make", [MODULES["snapshot"], MODULES["shared backbone"]], ids=["snapshot", "shared backbone"])
def test_a_fit_that_anything_stops_early_is_refused(tmp_path, make):
    class Stops(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 7

    run = digits(tmp_path, module=make, trainer={"max_steps": 60, "callbacks": [Stops()]})
    with pytest.raises(ValueError, match=r"stopped after \d+ of 60 steps"):
        run.run()


def test_only_what_treats_each_number_by_itself_trains_a_stack():
    assert isinstance(drawn(Ensemble(Classifier(plain, optimizer=partial(AdamW, lr=0.1)), 2)).networks, Stack)
    assert isinstance(drawn(Ensemble(Classifier(plain, optimizer=Adafactor), 2)).networks, Side)


def test_the_trunk_of_split_heads_learns_from_all_of_them():
    module = drawn(SplitHead(Classifier(plain), 3))
    batch = {"input": IMAGES, "target": torch.tensor([0, 1, 2, 0, 1, 2, 0])}
    trunk = list(module.network.parameters())
    found = torch.autograd.grad(module.loss(batch, 50)[0], trunk)
    losses = [functional.cross_entropy(head(module.network(IMAGES)), batch["target"]) for head in module.last]
    each = [torch.autograd.grad(loss, trunk, retain_graph=True) for loss in losses]
    for gradient, *of_heads in zip(found, *each, strict=True):
        assert gradient.abs().max() > 0
        assert torch.allclose(gradient, torch.stack(of_heads).mean(0), atol=1e-6)


def test_a_model_that_was_measured_by_more_is_read_back(tmp_path):
    more = {"kappa": MulticlassCohenKappa(10)}
    run = digits(tmp_path, strategy=BALD(), module=Ensemble(Classifier(MLP, metrics=more), 2), budget=20)
    run.run()
    assert load_model(run.folder).mc_probs(torch.rand(3, 1, 8, 8)).shape == (3, 2, 10)


def test_a_model_of_named_parts_is_read_back_by_its_file_alone(tmp_path):
    run = digits(tmp_path, strategy=BALD(), module=Ensemble(Classifier(MLP), 2), budget=20)
    run.run()
    model = load_model(run.folder)
    assert model.mc_probs(torch.rand(3, 1, 8, 8)).shape == (3, 2, 10)


def test_frozen_features_stay_as_they_are():
    module = drawn(Ensemble(Classifier(ResNet18, frozen=True), 2)).train()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    steps(module, count=1)
    changed = {name for name, each in module.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {f"networks.{i}.head.{part}" for i in (0, 1) for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ensemble(Classifier(posterior=MCDropout())), "leave the posterior out"),
        (lambda: Ensemble(members=0), r"Ensemble\(members=0\)"),
        (lambda: Committee([]), r"Committee\(backbones=\[\]\)"),
        (lambda: Committee(["nope"]), r"Committee\(backbones=\[...\]\) takes what makes networks.* given 'nope'"),
        (lambda: Committee([plain((1, 8, 8), 10)]), r"takes what makes networks"),
        (lambda: Classifier(posterior=MCDropout), r"Classifier\(posterior=<class .*\) must be a posterior"),
        (lambda: Classifier(posterior="MCDropout"), r"Classifier\(posterior='MCDropout'\) must be a posterior"),
        (lambda: SharedBackbone(shared=1.0), r"SharedBackbone\(shared=1.0\)"),
        (lambda: Snapshot(cycles=0), r"Snapshot\(cycles=0\)"),
        (lambda: Snapshot(Classifier(scheduler=lambda each: StepLR(each, 1))), "leave the scheduler out"),
        (lambda: SplitHead(heads=0), r"SplitHead\(heads=0\)"),
        (lambda: Ensemble(Ensemble), r"Ensemble\(of=Ensemble\) trains networks as a Classifier"),
        (lambda: Snapshot(type("Mine", (Classifier,), {})()), r"Snapshot\(of=Mine\)"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_any_optimizer_and_schedule_of_the_classifier_is_used():
    recipe = Classifier(plain, optimizer=lambda each: SGD(each, 0.1), scheduler=lambda each: StepLR(each, 2))
    for module in (Ensemble(recipe, 2), SplitHead(recipe, 2), SharedBackbone(recipe, 2)):
        made = drawn(module).configure_optimizers()
        assert isinstance(made["optimizer"], SGD)
        assert isinstance(made["lr_scheduler"]["scheduler"], StepLR)
