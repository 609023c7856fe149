"""Pretext tasks: trained once, before the first label, for all cycles and all runs that would train the same."""

import signal
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from deepal import pretraining
from deepal.augmentation import ColorJitter, RandomResizedCrop
from deepal.data import AtRandom, Balanced, Digits, FromDatasets, ImageFolder
from deepal.ledger import Ledger
from deepal.modules import Adapter, Classifier, Ensemble, FixMatch, Rotation, SimCLR
from deepal.modules.self_supervised import Pretrained
from deepal.nn import MLP, GalCNN, Torchvision
from deepal.strategies import BADGE, Margin, Random
from deepal.study import Study
from deepal.task import Task
from tests import own, runs
from tests.modules.pools import Pictures
from tests.runs import Outcome, digits, in_process

SHORT = SimCLR(steps=20, batch_size=32)


def kept(learner):
    return load_file(learner.folder / "pretrained.safetensors")


@pytest.fixture
def trained(monkeypatch):
    """Where each pretraining kept its weights."""
    trained, train = [], pretraining.Pretraining._train

    def watched(self, pretext, network, shared):
        trained.append(shared)
        train(self, pretext, network, shared)

    monkeypatch.setattr(pretraining.Pretraining, "_train", watched)
    return trained


def test_each_image_is_turned_to_all_four_sides():
    task, seen = Task((1, 8, 8), ("a", "b"), (0.5,), (0.25,)), []

    class Watched(MLP):
        def forward_features(self, images):
            seen.append(images)
            return super().forward_features(images)

    network, images = Watched((1, 8, 8), 2), torch.rand(3, 1, 8, 8)
    head = Rotation().head(128)
    loss = Rotation().loss(network.eval(), head, images, task)
    expected = torch.stack([torch.rot90(image, times, (-2, -1)) for times in range(4) for image in images])
    assert torch.allclose(seen[0], task.normalize(expected))
    with torch.no_grad():
        logs = torch.log_softmax(head(network.forward_features(seen[0])), 1)
    assert float(loss.detach()) == pytest.approx(-sum(float(logs[row, row // 3]) for row in range(12)) / 12, rel=1e-5)


@pytest.mark.parametrize("change", [RandomResizedCrop(), ColorJitter()])
def test_views_stay_within_the_scale_and_differ(change):
    torch.manual_seed(0)
    images = torch.rand(1, 3, 16, 16).expand(64, -1, -1, -1)
    views = change(images)
    assert views.shape == images.shape
    assert 0 <= views.min() <= views.max() <= 1
    assert len(views.flatten(1).unique(dim=0)) > 50


def test_a_crop_shows_a_part_of_the_image_alone():
    """Every place of a ramp comes from within it, and the widths are what they are to be."""
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(2000, 1, 64, 64)
    views = RandomResizedCrop(0.25, 1.0)(ramp)[:, 0]
    widths = (views[:, :, -2] - views[:, :, 1]).mean(1) * 63 / 61
    assert 0.49 < widths.min() < 0.53
    assert 0.97 < widths.max() <= 1.01
    assert RandomResizedCrop()(torch.ones(500, 1, 28, 28)).min() > 0.999, "nothing moves in from outside"
    assert float(widths.square().mean()) == pytest.approx((0.25 + 1) / 2, abs=0.02), "areas are evenly drawn"


def test_every_cycle_begins_with_what_was_learned_before_the_first_label(tmp_path, monkeypatch):
    begun, fit = [], Classifier.on_train_epoch_start

    def watched(self):
        if self.trainer.current_epoch == 0:
            begun.append({name: each.clone() for name, each in self.network.state_dict().items()})
        return fit(self)

    monkeypatch.setattr(Classifier, "on_train_epoch_start", watched)
    learner = digits(tmp_path, strategy=BADGE(), pretext=SHORT, budget=40)
    learner.run()
    weights = kept(learner)
    assert {name for name in begun[0] if "head" not in name} == set(weights)
    for each in begun:
        assert all(torch.equal(each[name], weight) for name, weight in weights.items())
    assert not torch.equal(begun[0]["head.weight"], begun[1]["head.weight"]), "the last layer is drawn anew"
    plain = digits(tmp_path / "plain", strategy=BADGE(), budget=40)
    plain.run()
    assert Outcome.of(plain).weights != Outcome.of(learner).weights


def test_images_come_without_labels_and_all_of_them(tmp_path, monkeypatch):
    seen, step = [], Pretrained.training_step

    def watched(self, batch, batch_idx):
        seen.append(batch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Pretrained, "training_step", watched)
    learner = digits(tmp_path, pretext=SimCLR(steps=60, batch_size=64), budget=20)
    learner.run()
    assert all(set(each) == {"input", "position"} for each in seen)
    positions = {*torch.cat([each["position"] for each in seen]).tolist()}
    assert positions == {*learner.data.candidates, *learner.data.validation_positions}
    assert len(seen) == 60


def test_it_is_trained_once_for_all_runs_that_would_train_the_same(tmp_path, trained):
    study = Study(
        strategies=[Random(), Margin()], modules=[Classifier], data=[Digits(epoch_steps=10)], seeds=2, pretext=SHORT,
        trainer=runs.STEPS, budget=30, query_size=10, root=tmp_path,
    )  # fmt: skip
    study.run()
    assert len(trained) == 1
    every = [kept(each) for each in study.runs.values()]
    assert all(torch.equal(each[name], weight) for each in every for name, weight in every[0].items())
    for changes in (
        {"pretext": SimCLR(steps=21, batch_size=32)}, {"pretext": SimCLR(steps=20, batch_size=32, seed=1)},
        {"module": partial(Classifier, partial(MLP, hidden=[32]))}, {"data": Digits(epoch_steps=10, pool_size=500)},
        {"trainer": {"max_steps": 5, "precision": "bf16-mixed"}},
    ):  # fmt: skip
        digits(tmp_path / "study", **{"pretext": SHORT, "budget": 20, **changes}).run()
    assert len(set(trained)) == len(trained) == 6, "another task, seed, network, pool or precision is another one"
    for options in ({"max_steps": 5}, {"max_steps": 5, "accumulate_grad_batches": 3, "gradient_clip_val": 1.0}):
        digits(tmp_path / "study", pretext=SHORT, budget=20, trainer=options).run()
    assert len(trained) == 6, "how the cycles train is not"


@pytest.mark.parametrize("turns", [(75, 130), (130, 40)])
def test_a_killed_pretraining_goes_on_to_the_same_weights(tmp_path, turns):
    """It is taken up at its hundredth step, or begun anew before."""
    pretext = SimCLR(steps=150, batch_size=16)
    changes = {"strategy": Margin(), "pretext": pretext, "budget": 30}
    whole = digits(tmp_path / "whole", **changes)
    whole.run()
    for turn in turns:
        process = in_process(run_and_die, tmp_path / "killed", turn, changes)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    again = digits(tmp_path / "killed", **changes)
    again.run()
    assert Outcome.of(again) == Outcome.of(whole)
    assert all(torch.equal(kept(again)[name], each) for name, each in kept(whole).items())


def run_and_die(root, turn, changes):
    runs.kill_at(Pretrained, "training_step", turn)
    digits(root, **changes).run()


def test_files_that_are_cut_off_are_made_again(tmp_path):
    def made(root, budget):
        return digits(root, strategy=Margin(), pretext=SHORT, budget=budget, data=Digits(epoch_steps=10, validation=0))

    whole, begun, again = made(tmp_path / "whole", 30), made(tmp_path / "cut", 20), made(tmp_path / "cut", 30)
    whole.run()
    begun.run()
    for file in (tmp_path / "cut").rglob("pretrained.safetensors"):
        file.write_bytes(file.read_bytes()[:-100])
    again.run()
    assert Outcome.of(again) == Outcome.of(whole)
    assert all(torch.equal(kept(again)[name], each) for name, each in kept(whole).items())


def test_a_pretext_that_diverges_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"pretext=SimCLR\(.*rate=1e\+30.* weights that are not finite; give it a smaller"):
        digits(tmp_path, pretext=SimCLR(steps=5, rate=1e30), budget=20).run()
    assert not list(tmp_path.rglob("pretrained.safetensors"))
    with pytest.raises(ValueError, match="views would be the same image"):
        SimCLR(views=[])
    with pytest.raises(ValueError, match="needs at least one step"):
        SimCLR(steps=2.5)


def test_a_run_keeps_its_own_copy(tmp_path):
    """It goes on from that, whatever becomes of the shared one."""

    def made(root, budget):
        return digits(root, strategy=Margin(), pretext=SHORT, budget=budget, data=Digits(epoch_steps=10, validation=0))

    made(tmp_path, 30).run()
    for file in (tmp_path / ".pretrained").rglob("*.safetensors"):
        file.unlink()
    grown, whole = made(tmp_path, 50), made(tmp_path / "whole", 50)
    for learner in (grown, whole):
        learner.run()
    assert not list((tmp_path / ".pretrained").rglob("*.safetensors"))
    assert Outcome.of(grown) == Outcome.of(whole)


@pytest.mark.parametrize(
    "module", [partial(Classifier, frozen=True), FixMatch, partial(Ensemble, partial(Classifier, GalCNN), 2)]
)
def test_other_modules_begin_with_it_too(tmp_path, module):
    learner = digits(tmp_path, strategy=Margin(), module=module, pretext=SHORT, budget=30, trainer={"max_steps": 5})
    assert [each.labels for each in learner.run()] == [20, 30]


@pytest.mark.parametrize("module", [Classifier, partial(Classifier, frozen=True)], ids=["network", "features"])
def test_what_is_learned_depends_on_no_run(tmp_path, module):
    """Whichever of the runs that share it comes first."""
    of_seeds = [digits(tmp_path / f"{seed}", module=module, pretext=SHORT, budget=20, seed=seed) for seed in range(2)]
    for learner in of_seeds:
        learner.run()
    first, second = map(kept, of_seeds)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_runs_of_one_module_keep_features_of_their_own(tmp_path):
    """One instance makes the modules of runs with other pools, or without a pretext: each is what it is by itself."""
    shared = Classifier(frozen=True)
    changes = [
        {"pretext": SHORT, "data": Digits(epoch_steps=10, pool_size=500)},
        {"pretext": SHORT, "data": Digits(epoch_steps=10, pool_size=400)},
        {"pretext": None},
    ]
    for number, change in enumerate(changes):
        together = digits(tmp_path / "together" / str(number), module=shared, budget=30, **change)
        alone = digits(tmp_path / "alone" / str(number), module=Classifier(frozen=True), budget=30, **change)
        for learner in (together, alone):
            learner.run()
        assert Outcome.of(together) == Outcome.of(alone)


def test_stacked_runs_rest_on_the_features_that_each_has_learned(tmp_path):
    study = Study(
        strategies=[Random()], modules=[Classifier(frozen=True)], seeds=2, pretext=SHORT, stacked=True,
        data=[Digits(epoch_steps=10, pool_size=500)], trainer=runs.STEPS, budget=20, query_size=10, root=tmp_path,
    )  # fmt: skip
    study.run()
    rests_on = []
    for each in study.runs.values():
        model = load_file(each.folder / "model.safetensors")
        trunk = {name: weight for name, weight in kept(each).items() if not name.startswith("head")}
        found = {name: model[f"network.trunk.{name}"] for name in trunk}
        assert all(torch.equal(found[name], weight) for name, weight in trunk.items())
        rests_on.append(found)
    assert any(not torch.equal(rests_on[0][name], rests_on[1][name]) for name in rests_on[0]), "of pools of their own"


def test_frozen_features_that_were_learned_are_better_than_drawn_ones(tmp_path):
    """On real scans: forty labels, a linear layer."""
    accuracy = {}
    for name, pretext in {
        "drawn": None, "SimCLR": SimCLR((RandomResizedCrop(0.6), ColorJitter()), steps=300, batch_size=128),
    }.items():  # fmt: skip
        learner = digits(
            tmp_path / name, module=partial(Classifier, partial(GalCNN), frozen=True), pretext=pretext,
            initial=Balanced(4), budget=40, trainer={"max_steps": 300},
        )  # fmt: skip
        accuracy[name] = learner.run()[0].metrics["test/accuracy"]
    assert accuracy["SimCLR"] > accuracy["drawn"] + 0.03, accuracy


def test_images_that_cannot_be_read_are_left_out(tmp_path):
    scans, names = own.scans(120)
    files = own.png_folder(tmp_path / "images", scans, names)
    for file in files[::20]:
        own.truncate(tmp_path / "images" / file)
    data = ImageFolder(root=tmp_path / "images", image_size=28, validation=0, epoch_steps=5, max_bad_fraction=0.2)
    learner = digits(
        tmp_path, strategy=Margin(), data=data, pretext=SimCLR(steps=8, batch_size=16), budget=30, trainer={"max_steps": 5}
    )
    assert [each.labels for each in learner.run()] == [20, 30]


def test_images_of_another_size_are_others_and_seeds_share(tmp_path, trained):
    scans, names = own.scans(120)
    own.png_folder(tmp_path / "images", scans, names)
    for size, seed in ((28, 0), (28, 1), (32, 0)):
        data = ImageFolder(root=tmp_path / "images", image_size=size, validation=10, epoch_steps=2)
        module = partial(Classifier, partial(Torchvision, name="mobilenet_v3_small"))
        digits(
            tmp_path / "runs", module=module, data=data, pretext=SimCLR(steps=2, batch_size=8), budget=20, seed=seed,
            trainer={"max_steps": 2}, initial=AtRandom(20),
        ).run()  # fmt: skip
    assert len(trained) == 2


def test_a_batch_most_of_which_cannot_be_read_does_not_hold_it_up(tmp_path):
    scans, names = own.scans(120)
    files = own.png_folder(tmp_path / "images", scans, names)
    for file in files[::20]:
        own.truncate(tmp_path / "images" / file)
    data = ImageFolder(root=tmp_path / "images", image_size=28, validation=0, epoch_steps=5, max_bad_fraction=0.2)
    pretext = SimCLR(steps=60, batch_size=2)
    learner = digits(tmp_path, data=data, pretext=pretext, budget=20, initial=AtRandom(20), trainer={"max_steps": 2})
    assert len(learner.run()) == 1


def test_what_cannot_be_pretrained_is_refused_before_anything_is_asked(tmp_path):
    for module in (Ensemble, lambda: Adapter(torch.nn.Linear, head="weight")):
        learner = digits(tmp_path, strategy=Random(), module=module, pretext=SHORT)
        with pytest.raises(ValueError, match=r"pretext|module"):
            learner.run()
        assert not Ledger(learner.folder / "ledger.sqlite").asked(-1)
    wide = Pictures(torch.rand(40, 1, 8, 6), torch.arange(40) % 4)
    data = FromDatasets(train=wide, test=wide, classes=tuple("abcd"), validation=0)
    with pytest.raises(ValueError, match="turns square images"):
        digits(tmp_path, module=Classifier, data=data, pretext=Rotation(steps=2), budget=20).run()
    with pytest.raises(ValueError, match=r"SimCLR\(views=RandomResizedCrop"):
        SimCLR(RandomResizedCrop())
    with pytest.raises(ValueError, match="pretext=SimCLR is a class"):
        digits(tmp_path, pretext=SimCLR)
    with pytest.raises(ValueError, match="at least one step"):
        SimCLR(steps=0)
