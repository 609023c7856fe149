"""A run on digits in two processes, with batch norm: `python -m tests.two_ranks ROOT [RANK PLACE TURN]`, or
`python -m tests.two_ranks ROOT features`, or `recorders`, or `vaal`.

Each process writes down what it read and what it chose. Where a rank, a place and a turn are given, that process is killed
when it comes by the place for that time.
"""

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from deepal import Learner, callbacks, choosing, scan
from deepal.data import Digits
from deepal.modules import VAAL, Classifier, FlexMatch, SimCLR
from deepal.nn import MLP, Headed, Network
from deepal.probes import MCDropout
from deepal.recorders import ForgettingEvents, PredictionHistory
from deepal.representation import Backbone
from deepal.strategies import BADGE, BALD, CoreSet, LabelDispersion, Prefilter, Unlabeledness

STRATEGY = Prefilter(BALD(), BADGE(), keep=200)
callbacks.SECONDS_APART = 0  # a state every epoch: these runs are short


class Normed(Network):
    """A hidden layer with batch norm and dropout."""

    def __init__(self, input_shape, classes):
        super().__init__()
        width = input_shape[1] * input_shape[2]
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(64, classes)

    def forward_features(self, images):
        return self.features(images)


def made(root, processes=2):
    several = {"accelerator": "cpu", "devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    data = Digits(epoch_steps=10, eval_batch_size=100, batch_size=8, validation=0)  # which would align batch norm
    return Learner(
        strategy=STRATEGY, module=Classifier(backbone=Normed, posterior=MCDropout(8)), data=data, query_size=10, budget=40,
        trainer={"max_steps": 30, **several}, root=root, name="run",
    )  # fmt: skip


def of_features(root, processes=2):
    """The same of frozen features, and chosen by another network's."""
    learner = made(root, processes)
    return replace(
        learner, module=Classifier(partial(Headed, of=Normed, hidden=(16,)), frozen=True), strategy=CoreSet(),
        embedding_from=Backbone(Normed),
    )  # fmt: skip


class Turning(Classifier):
    """Predicts something else in every other step, whatever it learns."""

    def turned(self, said):
        return said.roll(self.trainer.global_step // 2 if self._trainer else 0, 1)

    def say(self, images, names):
        return {name: self.turned(each) if name == "probs" else each for name, each in super().say(images, names).items()}

    def loss(self, batch, images):
        logits = self.turned(self.logits(batch["input"]))
        return logits.mean(), logits.argmax(1) == batch["target"]


def of_recorders(root, processes=2):
    """Recorders, while the weights stay as they are, and processes see together what one sees in its batches."""
    learner = made(root, processes)
    unmoved = partial(torch.optim.SGD, lr=0.0)
    return replace(
        learner, module=partial(Turning, partial(MLP, dropout=0), optimizer=unmoved), strategy=LabelDispersion(), budget=30,
        data=Digits(epoch_steps=6, eval_batch_size=100, batch_size=16 // processes, validation=0),
        trainer={**learner.trainer, "callbacks": [PredictionHistory(), ForgettingEvents()]},
    )  # fmt: skip


def of_vaal(root, processes=2):
    """Three networks, of which one is trained at a time."""
    learner = made(root, processes)
    several = {**learner.trainer, "strategy": "ddp_find_unused_parameters_true", "max_steps": 20}
    return replace(learner, module=partial(VAAL, Classifier(Normed), width=4), strategy=Unlabeledness(), trainer=several)


def of_unlabeled(root, processes=2):
    """A backbone that is trained on a pretext task, then on unlabeled images too, of which the processes learn together."""
    learner = made(root, processes)
    module = partial(FlexMatch, partial(Classifier, Normed), threshold=0.3, unlabeled_ratio=2)
    return replace(learner, module=module, strategy=BADGE(), pretext=SimCLR(steps=6, batch_size=8))


MADE = {"features": of_features, "recorders": of_recorders, "vaal": of_vaal, "unlabeled": of_unlabeled}


def record(root, rank):
    """Write down which positions this process reads in which pass, and what is chosen there from which signals."""
    choose, batches = choosing.choose, scan.Scan._batches
    passes, chosen, weights = [], [], {}

    def recorded_choice(strategy, view, query_size, generator):
        state = generator.get_state()
        choice = choose(strategy, view, query_size, generator)
        if isinstance(strategy, Prefilter) and len(view.pool) > 100:
            pool = view.pool
            signals = {name: pool[name] for name in ("probs", "embedding", "mc_probs")}
            seen = {"cycle": torch.tensor(len(chosen)), "positions": pool.positions, "rows": choice.rows, "coins": state}
            chosen.append({**seen, **signals, **weights})
        torch.save({"passes": passes, "chosen": chosen}, root / f"rank{rank}.pt")
        return choice

    def recorded_batches(self, positions):
        wanted, loader = batches(self, positions)
        read = list(loader)
        weights.update({f"weights {name}": each.clone() for name, each in self.module.state_dict().items()})
        passes.append((positions, torch.cat([batch["position"] for batch in read]) if wanted else positions[:0]))
        return wanted, read

    choosing.choose, scan.Scan._batches = recorded_choice, recorded_batches


def kill_at(place, turn):
    owner, name = {"fit": (Classifier, "training_step"), "scan": (scan, "_say"), "test": (Classifier, "test_step")}[place]
    original, count = getattr(owner, name), 0

    def deadly(*arguments):
        nonlocal count
        count += 1
        if count == turn:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(owner, name, deadly)


if __name__ == "__main__":
    root, rank = Path(sys.argv[1]), int(os.environ.get("LOCAL_RANK", 0))
    root.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) < 4:
        record(root, rank)
    elif rank == int(sys.argv[2]):
        kill_at(sys.argv[3], int(sys.argv[4]))
    MADE.get(" ".join(sys.argv[2:]), made)(root).run()
