"""Semi-supervised modules: their losses against loops, the average against its definition, runs of them that are killed."""

import math
import signal
from functools import partial

import pytest
import torch
from torch import nn

from deepal.augmentation import Augmentation, RandAugment, RandomCrop
from deepal.data import AtRandom, Balanced, Digits, FromDatasets
from deepal.ledger import Ledger
from deepal.modules import Classifier, FixMatch, FlexMatch, MeanTeacher, PseudoLabel
from deepal.nn import MLP, Network
from deepal.probes import FeatureDropout, GradientLength, MCDropout
from deepal.strategies import BADGE, BALD, EGL, DropQuery, Margin, PseudoLabels, TypiClust
from deepal.task import Task
from deepal.weights import load_model
from tests import runs
from tests.modules.pools import Pictures
from tests.runs import Outcome, digits, in_process

PLAIN = partial(Classifier, backbone=partial(MLP, hidden=[16], dropout=0.0))
TASK = Task((1, 8, 8), ("a", "b", "c"), (0.3,), (0.5,))
EVERY = [PseudoLabel, MeanTeacher, FixMatch, FlexMatch]


class Darker(Augmentation):
    """A strong augmentation without coins."""

    def __call__(self, images):
        assert images.min() >= 0
        assert images.max() <= 1
        return images / 2


def made(module, **options):
    torch.manual_seed(0)
    built = module(**{"of": PLAIN, **options})
    built.configure_network(TASK)
    with torch.no_grad():
        built.of.network.head.weight *= 20  # it is sure of some
    built.average.update_parameters(built.of)
    return built


def batches(size=9):
    coins = torch.Generator().manual_seed(1)
    raw = torch.rand(4, size, 1, 8, 8, generator=coins)
    images = (raw - 0.3) / 0.5
    labeled = {"input": images[0][:5], "target": torch.arange(5) % 3, "position": torch.arange(5)}
    return labeled, {"input": images[1:3], "position": torch.arange(size)}


def cross_entropy(logits, number):
    logits = logits.detach()
    return math.log(sum(math.exp(float(each)) for each in logits)) - float(logits[number])


def test_the_loss_of_fixmatch_is_that_of_a_loop():
    module = made(FixMatch, threshold=0.8, strong=[Darker()], unlabeled_weight=0.7)
    module._seen = []
    labeled, unlabeled = batches()
    loss, correct = module.loss({"labeled": labeled, "unlabeled": unlabeled}, images=5)
    supervised = sum(
        cross_entropy(module.of.logits(image[None])[0], int(target))
        for image, target in zip(labeled["input"], labeled["target"], strict=True)
    )
    total, used = 0.0, 0
    for weak, other in zip(*unlabeled["input"], strict=True):
        probs = module.of.probs(weak[None])[0].detach()
        if float(probs.max()) >= 0.8:
            used += 1
            strong = ((other * 0.5 + 0.3) / 2 - 0.3) / 0.5
            total += cross_entropy(module.of.logits(strong[None])[0], int(probs.argmax()))
    assert 0 < used < 9
    assert float(loss) == pytest.approx(supervised / 5 + 0.7 * total / 9, rel=1e-5)
    assert correct.tolist() == (module.of.logits(labeled["input"]).argmax(1) == labeled["target"]).tolist()
    assert float(module._seen[0][1]) == pytest.approx(used / 9)


def test_the_loss_of_pseudo_labels_is_that_of_a_loop():
    module = made(PseudoLabel, threshold=0.8, rampup_steps=0)
    _, unlabeled = batches()
    images = unlabeled["input"][0]
    loss, counts = module.unlabeled_loss({**unlabeled, "input": images})
    total = 0.0
    for image, counted in zip(images, counts, strict=True):
        probs = module.of.probs(image[None])[0]
        assert bool(counted) == bool(probs.max() >= 0.8)
        total -= math.log(float(probs.max())) * bool(counted)
    assert 0 < counts.sum() < 9
    assert float(loss) == pytest.approx(total / 9, rel=1e-4)


def test_the_loss_of_mean_teacher_is_that_of_a_loop():
    module = made(MeanTeacher)
    with torch.no_grad():
        for each in module.average.parameters():
            each.mul_(0.5)
    _, unlabeled = batches()
    loss, _ = module.unlabeled_loss(unlabeled)
    total = 0.0
    for own, teachers in zip(*unlabeled["input"], strict=True):
        said, target = module.of.probs(own[None])[0], module.average.module.probs(teachers[None])[0]
        total += sum((float(a) - float(b)) ** 2 for a, b in zip(said, target, strict=True))
    assert float(loss) == pytest.approx(total / 9 / 3, rel=1e-5)
    loss.backward()
    assert all(each.grad is None for each in module.average.parameters())


class _Stream:
    """The unlabeled images that a fit serves."""

    def __init__(self, positions):
        self.dataset = self
        self.positions = positions

    def __len__(self):
        return len(self.positions)


class _Trainer:
    def __init__(self, positions, processes=1):
        self.train_dataloader, self.world_size = {"unlabeled": _Stream(positions)}, processes


def test_flexmatch_lowers_the_thresholds_of_what_has_been_learned_little(monkeypatch):
    monkeypatch.setattr(FlexMatch, "trainer", property(lambda self: self._fit))
    module = made(FlexMatch, threshold=0.9, strong=[])
    positions = torch.tensor([40, 3, 17, 25, 8, 99, 60, 5, 71, 12])
    module.__dict__["_fit"] = _Trainer(positions)
    module.on_train_start()
    coins = torch.Generator().manual_seed(0)
    remembered = dict.fromkeys(positions.tolist())
    lowered = 0
    for _ in range(30):
        some = positions[torch.randperm(10, generator=coins)[:6]]
        probs = torch.softmax(4 * torch.randn(6, 3, generator=coins) + torch.tensor([3.0, 0, -1]), -1)
        found = module.thresholds({"position": some}, probs)
        counts = [sum(each == number for each in remembered.values()) for number in range(3)]
        unused = sum(each is None for each in remembered.values())
        shares = [count / max(*counts, unused) for count in counts]
        assert found.tolist() == pytest.approx([0.9 * share / (2 - share) for share in shares])
        lowered += found.min() < found.max()
        for position, row in zip(some.tolist(), probs, strict=True):
            if row.max() >= 0.9:
                remembered[position] = int(row.argmax())
    assert lowered > 20


def test_flexmatch_remembers_by_image_whatever_becomes_of_the_pool(monkeypatch):
    monkeypatch.setattr(FlexMatch, "trainer", property(lambda self: self._fit))
    module, saved = made(FlexMatch, threshold=0.9, strong=[]), {}
    module.__dict__["_fit"] = _Trainer(torch.tensor([40, 3, 17, 25]))
    module.on_train_start()
    module.thresholds({"position": torch.tensor([17, 40, 3])}, torch.eye(3)[[2, 1, 0]])
    module.on_save_checkpoint(saved)
    again = made(FlexMatch, threshold=0.9, strong=[])
    again.__dict__["_fit"] = _Trainer(torch.tensor([3, 50, 40, 60, 25]))
    again.on_load_checkpoint(saved)
    again.on_train_start()
    positions, taken_for = again._memory
    assert dict(zip(positions.tolist(), taken_for.tolist(), strict=True)) == {3: 0, 25: -1, 40: 1, 50: -1, 60: -1}


def test_flexmatch_learns_of_all_processes_which_may_have_batches_of_other_sizes(monkeypatch):
    """As when an image of one of them cannot be read."""
    module = made(FlexMatch, threshold=0.9, strong=[])
    monkeypatch.setattr(FlexMatch, "trainer", property(lambda self: self._fit))
    module.__dict__["_fit"] = _Trainer(torch.arange(9), processes=2)
    other = torch.tensor([[7, 4, 8], [2, 1, 0]])

    def gathered(self, values):
        if values.ndim == 0:
            return torch.stack([values, torch.tensor(3)])
        return torch.stack([values, torch.nn.functional.pad(other, (0, values.shape[1] - 3), value=-1)])

    monkeypatch.setattr(FlexMatch, "all_gather", gathered)
    module.on_train_start()
    module.thresholds({"position": torch.tensor([5, 0])}, torch.tensor([[0.05, 0.95, 0.0], [0.4, 0.3, 0.3]]))
    assert module._memory[1].tolist() == [-1, -1, -1, -1, 1, 1, -1, 2, 0]


# The average

STEPS = {"max_steps": 40}


class Normed(Network):
    """A network with batch norm."""

    def __init__(self, input_shape, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.head = nn.Linear(12, classes)

    def forward_features(self, images):
        return self.features(images)


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_the_average_is_exact(tmp_path, monkeypatch, decay):
    """In double precision, from the weights after each step; statistics of batch norm are those of the network."""
    seen, step = [], FixMatch.optimizer_step

    def watched(self, *arguments, **keywords):
        step(self, *arguments, **keywords)
        seen.append([{name: each.clone() for name, each in of.state_dict().items()} for of in (self.of, self.reader)])

    monkeypatch.setattr(FixMatch, "optimizer_step", watched)
    module = partial(FixMatch, partial(Classifier, backbone=Normed), unlabeled_ratio=2, ema_decay=decay)
    digits(tmp_path, strategy=Margin(), module=module, budget=20, trainer=STEPS).run()
    assert len(seen) == 40
    expected = {}
    for number, (now, average) in enumerate(seen):
        keep = min(number / (number + 10), decay)
        for name, value in now.items():
            if "running" in name or "batches" in name:
                expected[name] = value.double()
            else:
                expected[name] = keep * expected.get(name, 0) + (1 - keep) * value.double()
            assert torch.allclose(average[name].double(), expected[name], atol=1e-6), (number, name)


def test_what_is_tested_and_read_is_the_average(tmp_path):
    learner = digits(tmp_path, strategy=Margin(), module=partial(FixMatch, ema_decay=0.95), budget=20, trainer=STEPS)
    (result,) = learner.run()
    module, data = load_model(learner.folder), learner.data
    images = module.task.normalize(torch.stack([data._set.test.data[at] for at in data.test_positions]))
    targets = torch.tensor([int(data._set.test.classes[at]) for at in data.test_positions])
    with torch.no_grad():
        accuracies = [float((of.probs(images).argmax(1) == targets).float().mean()) for of in (module, module.of)]
        assert torch.equal(module.embedding(images), module.average.module.embedding(images))
    assert result.metrics["test/accuracy"] == pytest.approx(accuracies[0])
    assert accuracies[0] != accuracies[1]


@pytest.mark.parametrize("module", EVERY)
def test_without_unlabeled_images_it_is_the_classifier_bit_for_bit(tmp_path, module):
    for number, each in enumerate((Classifier, partial(module, unlabeled_weight=0.0))):
        digits(tmp_path / str(number), strategy=Margin(), module=each, budget=20, name="run").run()
    alone, averaged = (load_model(tmp_path / str(number) / "run") for number in (0, 1))
    for name, each in alone.network.state_dict().items():
        assert torch.equal(each, averaged.of.network.state_dict()[name])


# In a run


@pytest.mark.parametrize("module", EVERY)
def test_every_strategy_runs_on_top_and_the_model_is_loaded_again(tmp_path, module):
    data = {"data": Digits(epoch_steps=10, augmentation=[RandomCrop(1)])}
    strategies = [
        (BADGE(), []), (BALD(), [MCDropout(5)]), (DropQuery(), [FeatureDropout()]), (TypiClust(), []),
        (PseudoLabels(Margin(), 1.0), []),
    ]  # fmt: skip
    for number, (strategy, probes) in enumerate(strategies):
        learner = digits(
            tmp_path / str(number),
            strategy=strategy,
            probes=probes,
            module=partial(module, unlabeled_ratio=1),
            budget=30,
            trainer={"max_steps": 15},
            **data,
        )
        assert [each.labels for each in learner.run()] == [20, 30]
    loaded = load_model(learner.folder)
    assert loaded.probs(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    names = ("probs", "logits", "embedding", "logit_gradient", "flip_distance")
    images = torch.randn(4, 1, 8, 8)
    for name, value in loaded.say(images, names).items():
        assert torch.allclose(value, getattr(loaded, name)(images), atol=1e-6)


@pytest.mark.parametrize(
    ("module", "where", "turns"),
    [
        (FixMatch, "mid-fit", (35, 71)),
        (partial(FlexMatch, threshold=0.3), "mid-fit", (25, 30)),
        (MeanTeacher, "mid-checkpoint", (3, 5)),
    ],
)
def test_a_run_killed_in_a_fit_goes_on_to_the_same_queries(tmp_path, module, where, turns):
    def changes():
        data = Digits(epoch_steps=10, augmentation=[RandomCrop(1)])
        return {"strategy": Margin(), "module": partial(module, unlabeled_ratio=2), "budget": 30, "data": data}

    whole = digits(tmp_path / "whole", **changes())
    whole.run()
    for turn in turns:
        process = in_process(runs.run_and_die, tmp_path / "killed", where, turn, changes())
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, "it died where it should"
    runs.run(tmp_path / "killed", changes())
    assert Outcome.of(digits(tmp_path / "killed", **changes())) == Outcome.of(whole)


def test_a_batch_has_two_views_of_as_many_unlabeled_images_as_were_asked_for(tmp_path, monkeypatch):
    seen, loss = [], FixMatch.loss

    def watched(self, batch, images):
        seen.append(batch)
        return loss(self, batch, images)

    monkeypatch.setattr(FixMatch, "loss", watched)
    data = Digits(epoch_steps=10, batch_size=8, augmentation=[RandomCrop(1)])
    module = partial(FixMatch, unlabeled_ratio=3)
    learner = digits(tmp_path, strategy=Margin(), module=module, data=data, budget=20, trainer={"max_steps": 10})
    learner.run()
    labeled = set(learner.data.pool.labeled)
    for batch in seen:
        assert set(batch["unlabeled"]) == {"input", "position"}, "no labels"
        assert batch["unlabeled"]["input"].shape == (2, 24, 1, 8, 8)
        first, second = batch["unlabeled"]["input"]
        assert not torch.equal(first, second)
        assert not set(batch["unlabeled"]["position"].tolist()) & labeled
        assert batch["labeled"]["input"].shape[1:] == (1, 8, 8)
    assert len({*torch.cat([each["unlabeled"]["position"] for each in seen]).tolist()}) == 240


def test_without_augmentation_both_views_are_the_image(tmp_path, monkeypatch):
    seen, loss = [], FixMatch.unlabeled_loss
    monkeypatch.setattr(FixMatch, "unlabeled_loss", lambda self, batch: (seen.append(batch["input"]), loss(self, batch))[1])
    digits(tmp_path, strategy=Margin(), module=FixMatch, budget=20, trainer={"max_steps": 3}).run()
    assert all(torch.equal(first, second) for first, second in seen)


def test_weights_of_unlabeled_images_grow_with_the_steps(tmp_path, monkeypatch):
    seen, rampup = [], MeanTeacher.rampup
    monkeypatch.setattr(MeanTeacher, "rampup", lambda self: seen.append(rampup(self)) or seen[-1])
    digits(tmp_path, strategy=Margin(), module=partial(MeanTeacher, rampup_steps=20), budget=20, trainer=STEPS).run()
    assert seen == pytest.approx([math.exp(-5 * (1 - min(step, 20) / 20) ** 2) for step in range(40)])


def test_it_trains_in_mixed_precision_and_with_clipped_gradients(tmp_path):
    trainer = {"max_steps": 20, "precision": "bf16-mixed", "gradient_clip_val": 1.0, "accumulate_grad_batches": 2}
    for module in EVERY:
        learner = digits(tmp_path / module.__name__, strategy=Margin(), module=module, budget=30, trainer=trainer)
        assert [each.labels for each in learner.run()] == [20, 30]


def test_the_average_takes_part_in_steps_of_the_optimizer_alone(tmp_path):
    trainer = {"max_steps": 10, "accumulate_grad_batches": 4}
    learner = digits(tmp_path, strategy=Margin(), module=FixMatch, budget=20, trainer=trainer)
    learner.run()
    assert int(load_model(learner.folder).average.n_averaged) == 10


def test_a_few_labels_go_further(tmp_path):
    """On real scans: twenty labels, two of each digit."""
    accuracy = {}
    data = Digits(epoch_steps=50, batch_size=32, augmentation=[RandomCrop(1)])
    of = partial(Classifier, backbone=partial(MLP, dropout=0.0))
    for name, module in {
        "supervised": partial(FixMatch, of, unlabeled_weight=0.0),
        "FixMatch": partial(FixMatch, of, threshold=0.9, strong=[RandAugment(1)]),
    }.items():
        learner = digits(
            tmp_path / name, strategy=Margin(), module=module, data=data, budget=20, initial=Balanced(2), seed=1,
            trainer={"max_steps": 400},
        )  # fmt: skip
        accuracy[name] = learner.run()[0].metrics["test/accuracy"]
    assert accuracy["FixMatch"] > accuracy["supervised"] + 0.03, accuracy


def test_images_that_cannot_be_augmented_are_refused_before_anything_is_asked(tmp_path):
    for size, said in (((8, 8), "are from -"), ((8, 6), None)):
        pictures = Pictures(torch.rand(40, 4, *size) - (0.5 if said else 0.0), torch.arange(40) % 4)
        data = FromDatasets(train=pictures, test=pictures, classes=tuple("abcd"), validation=0, epoch_steps=5)
        learner = digits(tmp_path / str(said), module=FixMatch, data=data, budget=20, initial=AtRandom(20), trainer=STEPS)
        if said is None:
            learner.run()  # four channels, and not square
            continue
        with pytest.raises(ValueError, match=f"FixMatch changes brightness .* {said}"):
            learner.run()
        assert not Ledger(learner.folder / "ledger.sqlite").asked(-1)
    for strong, said in ((RandAugment(), r"write strong=\[RandAugment"), ([RandAugment], r"RandAugment\(\)")):
        with pytest.raises(ValueError, match=said):
            FixMatch(strong=strong)


def test_a_pool_of_one_image_is_trained_on_too(tmp_path):
    module = partial(FixMatch, partial(Classifier, backbone=Normed))
    data = Digits(epoch_steps=5, pool_size=31, validation=0)
    learner = digits(
        tmp_path, strategy=Margin(), module=module, data=data, budget=31, initial=AtRandom(20), trainer={"max_steps": 5}
    )
    assert [each.labels for each in learner.run()] == [20, 30, 31]


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"FixMatch\(threshold=1.5\)"):
        FixMatch(threshold=1.5)
    with pytest.raises(ValueError, match=r"MeanTeacher\(rampup_steps=-1\)"):
        MeanTeacher(rampup_steps=-1)
    with pytest.raises(ValueError, match="ema_decay=1"):
        PseudoLabel(ema_decay=1)
    with pytest.raises(ValueError, match="leave frozen and posterior out"):
        FixMatch(Classifier(posterior=MCDropout()))
    with pytest.raises(ValueError, match=r"finds no gradient"):
        digits(tmp_path, strategy=EGL(whole_network=True), module=FixMatch, probes=[GradientLength()]).run()
