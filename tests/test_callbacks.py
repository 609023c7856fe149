import copy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepal.callbacks import BestWeights, ResumableFit, StepProgress, StopAtTrainingAccuracy

X = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Net(LightningModule):
    """Batch norm, dropout, momentum, and a schedule that steps each epoch: all the state there is."""

    def __init__(self, schedule="epoch", manual=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
        self.schedule, self.automatic_optimization = schedule, not manual

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        if self.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}
        if self.schedule == "step":
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=60)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)}

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))


class Die(Callback):
    """Stops a fit in the middle of an epoch, as a kill would."""

    def __init__(self, epoch, batch):
        self.at = (epoch, batch)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            raise RuntimeError("killed")


class Reads(Callback):
    def __init__(self):
        self.steps, self.rates = [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.steps.append(trainer.global_step)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class EpochOrder(torch.utils.data.Sampler):
    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(torch.randperm(96, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    def __len__(self):
        return 96


def fit(path, net, started, extra=(), **options):
    net = copy.deepcopy(net)
    reads = Reads()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **options,
        callbacks=[ResumableFit(path, 3, "these labels", started.append), reads, *copy.deepcopy(list(extra))],
    )  # fmt: skip
    train = DataLoader(TensorDataset(X, Y), batch_size=16, sampler=EpochOrder())
    try:
        trainer.fit(net, train, DataLoader(TensorDataset(X[:32], Y[:32]), batch_size=32))
    except RuntimeError as error:
        assert str(error) == "killed"  # noqa: PT017
    return net.state_dict(), reads


STOPPING = [EarlyStopping("val/loss", patience=2, min_delta=0.02), BestWeights("val/loss", mode="min")]


@pytest.mark.parametrize(
    ("net", "extra", "options"),
    [
        (Net("epoch"), [], {"max_epochs": 7}),
        (Net("step"), [], {"max_steps": 40}),
        (Net("step"), [], {"max_epochs": 7, "max_steps": 38}),
        (Net("plateau"), [], {"max_epochs": 8}),
        (Net("epoch"), STOPPING, {"max_epochs": 30}),
        (Net("epoch"), [BestWeights("val/loss", mode="min")], {"max_epochs": 7, "check_val_every_n_epoch": 2}),
        (Net("epoch", manual=True), [], {"max_epochs": 6}),
        (Net("epoch"), [], {"max_epochs": 6, "accumulate_grad_batches": 2}),
    ],
    ids=["epochs", "steps", "both", "plateau", "early stopping", "every other epoch", "manual", "accumulated"],
)
@pytest.mark.parametrize("deaths", [[(2, 3)], [(0, 1), (1, 5), (4, 0)]])
def test_a_fit_that_is_killed_ends_as_the_one_that_was_not(tmp_path, net, extra, options, deaths):
    expected, whole = fit(tmp_path / "whole", net, [], extra, **options)
    started = []
    for death in deaths:
        fit(tmp_path / "killed", net, started, [*extra, Die(*death)], **options)
    found, last = fit(tmp_path / "killed", net, started, extra, **options)
    assert started == [0, *(epoch for epoch, _ in deaths)]
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert last.steps == whole.steps[-len(last.steps) :]
    assert last.rates == whole.rates[-len(last.rates) :]


def test_the_state_file_holds_numbers_and_never_code(tmp_path):
    fit(tmp_path / "state", Net("step"), [], STOPPING, max_epochs=3)
    assert torch.load(tmp_path / "state", weights_only=True)["epoch"] == 2


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    class Remember(Callback):
        seen = []

        def on_validation_end(self, trainer, module):
            weights = {name: each.clone() for name, each in module.state_dict().items()}
            self.seen.append((float(trainer.callback_metrics["val/loss"]), weights))

    Remember.seen.clear()
    found, _ = fit(tmp_path / "s", Net(), [], [Remember(), BestWeights("val/loss", mode="min")], max_epochs=9)
    best = min(Remember.seen, key=lambda each: each[0])[1]
    assert all(torch.equal(best[name], found[name]) for name in best)


def test_training_accuracy_ends_a_fit(tmp_path):
    from tests.runs import digits

    learner = digits(tmp_path, trainer={"max_epochs": 80, "callbacks": [StopAtTrainingAccuracy(0.9)]}, budget=20)
    learner.run()
    curve = (learner.folder / "curves" / "000" / "metrics.csv").read_text().splitlines()
    column = curve[0].split(",").index("train/accuracy")
    reached = [float(line.split(",")[column]) for line in curve[1:] if line.split(",")[column]]
    assert reached[-1] >= 0.9 > max(reached[:-1])
    assert len(reached) < 80


@pytest.mark.parametrize("accuracy", [0, 1.5])
def test_a_training_accuracy_that_cannot_be(accuracy):
    with pytest.raises(ValueError, match="accuracy"):
        StopAtTrainingAccuracy(accuracy)


def test_step_progress_tells_at_most_ten_times_a_second(tmp_path):
    told = []
    fit(tmp_path / "s", Net(), [], [StepProgress(told.append)], max_epochs=20)
    assert told[0] == 1
    assert len(told) < 120
