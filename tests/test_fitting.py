"""Many steps in one of Lightning's: the weights, the curves and the counts of the ordinary path, bit for bit."""

import csv
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from deepal import Learner, fitting
from deepal.callbacks import StopAtTrainingAccuracy
from deepal.data import Digits, RandomCrop, RandomFlip
from deepal.data.loading import Block, InBlocks, Shuffled
from deepal.modules import Classifier
from deepal.nn import Network
from deepal.strategies import Random
from tests.runs import Outcome


class Looks(Callback):
    """Looks at each batch: then Lightning takes every step."""

    def on_train_batch_end(self, *_):
        pass


class Normed(Network):
    """Batch norm and dropout: all the state that steps leave behind."""

    def __init__(self, input_shape, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(32, classes)

    def forward_features(self, images):
        return self.features(images)


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
COSINE = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=80)
AUGMENTATION = [RandomCrop(), RandomFlip()]
KINDS = {
    "full batches": ({}, {"batch_size": 256, "epoch_steps": 30}, {"max_steps": 80}),
    "small batches": ({}, {"batch_size": 7, "epoch_steps": 30}, {"max_steps": 80}),
    "blocks that end within an epoch": ({}, {"batch_size": 7, "epoch_steps": 150}, {"max_steps": 260}),
    "one pass an epoch": ({}, {"batch_size": 3}, {"max_epochs": 4}),
    "augmentation": ({}, {"batch_size": 16, "epoch_steps": 30, "augmentation": AUGMENTATION}, {"max_steps": 80}),
    "batch norm, momentum, a schedule": (
        {"backbone": Normed, "optimizer": SGD, "scheduler": COSINE}, {"batch_size": 6, "epoch_steps": 30}, {"max_steps": 80}
    ),
    "frozen features": ({"frozen": True}, {"epoch_steps": 30}, {"max_steps": 80}),
    "stopping early": ({}, {"epoch_steps": 10}, {"max_epochs": 50, "callbacks": [StopAtTrainingAccuracy(0.95)]}),
    "Adam with a closure of its own": ({"optimizer": torch.optim.LBFGS}, {"epoch_steps": 5}, {"max_steps": 10}),
}  # fmt: skip


def run(root, module, data, trainer, looks):
    callbacks = [*trainer.get("callbacks", []), *([Looks()] if looks else [])]
    learner = Learner(
        strategy=Random(), module=partial(Classifier, **module), data=Digits(validation=0.1, **data),
        trainer={**trainer, "callbacks": callbacks}, query_size=10, budget=30, root=root,
    )  # fmt: skip
    learner.run()
    with (learner.folder / "curves" / "001" / "metrics.csv").open() as file:
        return Outcome.of(learner), list(csv.DictReader(file))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_end_with_the_same_weights_and_curves(tmp_path, kind, monkeypatch):
    blocks = []
    step_through = fitting._step_through
    monkeypatch.setattr(fitting, "_step_through", lambda *given: blocks.append(given) or step_through(*given))
    in_blocks = run(tmp_path / "blocks", *KINDS[kind], looks=False)
    assert blocks
    blocks.clear()
    step_by_step = run(tmp_path / "steps", *KINDS[kind], looks=True)
    assert not blocks
    (outcome, curves), (expected, expected_curves) = in_blocks, step_by_step
    assert outcome == expected
    assert [{key: row.get(key) for key in expected_curves[0]} for row in curves] == expected_curves


class Own(Classifier):
    """Somebody's own: it may do anything in a step, such as asking the Trainer for its number."""

    def forward(self, images):
        return super().forward(images) * (1 + self.global_step % 2)


class Noisy(Digits):
    """Somebody's own data, which tosses coins where nobody expects it."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        return {**batch, "input": batch["input"] + torch.randn_like(batch["input"])}


@pytest.mark.parametrize(
    ("module", "data", "trainer"),
    [
        (Own, {}, {}),
        (Classifier, {"kind": Noisy}, {}),
        (Classifier, {"num_workers": 1}, {}),
        (Classifier, {}, {"gradient_clip_val": 1.0}),
        (Classifier, {}, {"accumulate_grad_batches": 2}),
        (Classifier, {}, {"precision": "bf16-mixed"}),
        (Classifier, {}, {"limit_train_batches": 2}),
        (Classifier, {}, {"callbacks": [Looks()]}),
    ],
)
def test_whoever_looks_at_single_steps_gets_them(tmp_path, module, data, trainer, monkeypatch):
    monkeypatch.setattr(fitting, "_step_through", None)
    options = {"max_steps": 4, **trainer}
    Learner(
        strategy=Random(), module=module, data=data.pop("kind", Digits)(epoch_steps=4, **data), trainer=options, budget=20,
        root=tmp_path,
    ).run()  # fmt: skip


def test_schedules_that_do_not_step_with_the_optimizer_are_left_to_lightning():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    step = {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": "step"}
    plateau = {**step, "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)}
    assert fitting._steps_plainly(optimizer)
    assert fitting._steps_plainly({"optimizer": optimizer, "lr_scheduler": step})
    for schedule in (plateau, {**step, "interval": "epoch"}, {**step, "frequency": 2}, step["scheduler"], None):
        assert not fitting._steps_plainly({"optimizer": optimizer, "lr_scheduler": schedule})
    assert not fitting._steps_plainly([optimizer, optimizer])


def test_a_module_is_left_as_it_was(tmp_path):
    learner = Learner(
        strategy=Random(), module=Classifier, data=Digits(), trainer={"max_steps": 4}, budget=20, root=tmp_path
    )
    learner.run()
    assert learner.data.block is None


def test_a_block_is_prepared_once_only_where_that_changes_nothing():
    class Counted:
        positions = torch.arange(4)

        def __getitem__(self, rows):
            return {"input": rows.float(), "position": rows}

    calls = []

    def prepare(batch):
        calls.append(len(batch["position"]))
        return {**batch, "input": 2 * batch["input"]}

    rows = [torch.tensor([2, 0]), torch.tensor([3, 1])]
    for tosses_coins, some, expected in ((False, rows, [4]), (True, rows, [2, 2]), (False, rows[:1], [2])):
        calls.clear()
        batches = list(Block(Counted(), some, 0).prepared(prepare, tosses_coins))
        assert calls == expected
        assert [each["input"].tolist() for each in batches] == [(2.0 * each).tolist() for each in some]


def test_blocks_hold_the_batches_of_an_epoch_in_order():
    sampler = Shuffled(10, 3, seed=0, steps=11)
    for cut, starts in ((0, [0, 4, 8]), (4, [0, 4, 8]), (5, [0, 4, 5, 8])):
        sampled = InBlocks(sampler, 4, cut)
        assert [first for first, _ in sampled] == starts
        assert len(sampled) == len(starts)
        assert [rows.tolist() for _, block in sampled for rows in block] == [rows.tolist() for rows in sampler]
