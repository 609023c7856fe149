"""Small runs on real digits, in processes that can be killed: started from one that has imported everything once."""

import functools
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from deepal import Learner, callbacks, ledger
from deepal.data import Digits
from deepal.entries import INITIAL
from deepal.ledger import Ledger
from deepal.modules import Classifier
from deepal.oracles import DatasetOracle
from deepal.strategies import BADGE

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.runs"])

callbacks.SECONDS_APART = 0  # a state every epoch: these runs are short
STEPS = {"max_steps": 60}


def digits(root: Path, **changes: Any) -> Learner:
    """A run of four cycles on digits, a second long: dropout, validation, BADGE, six epochs a fit."""
    made = {
        "strategy": BADGE(),
        "module": Classifier(),
        "data": Digits(epoch_steps=10),
        "query_size": 10,
        "budget": 50,
        "trainer": STEPS,
        "root": root,
    }
    return Learner(**{**made, **changes})


@dataclass(frozen=True)
class LoggingOracle(DatasetOracle):
    """Writes down which positions it was asked, beside the run."""

    log: str = ""

    def answer(self, questions, data, folder, seed):
        answers = super().answer(questions, data, folder, seed)
        with Path(self.log).open("a") as file:
            file.writelines(f"{each.position}\n" for each in answers)
        return answers


@dataclass(frozen=True)
class Outcome:
    """All that two runs must have in common to be the same run."""

    queries: list
    labels: list
    results: list
    weights: str

    @classmethod
    def of(cls, learner: Learner) -> "Outcome":
        book = Ledger(learner.folder / "ledger.sqlite")
        results = book.results()
        tensors = load_file(learner.folder / "model.safetensors")
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        outcome = cls(
            queries=[(book.asked(cycle), book.scores(cycle)) for cycle in range(INITIAL, len(results))],
            labels=[(cycle, answer.position, answer.label) for cycle, answer in book.answers(before=10**6)],
            results=[(each.cycle, each.labels, each.asked, dict(each.metrics)) for each in results],
            weights=digest.hexdigest(),
        )
        book.close()
        return outcome


def in_process(work: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    """Start a process that does this work."""
    process = processes.Process(target=work, args=arguments)
    process.start()
    return process


def run(root: Path, changes: dict[str, Any] | None = None) -> None:
    digits(root, **(changes or {})).run()


def run_and_die(root: Path, where: str, turn: int, changes: dict[str, Any] | None = None) -> None:
    """Run, and be killed at the `turn`-th time that the run comes by this place."""
    owner, name, moment = PLACES[where]
    kill_at(owner, name, turn, moment)
    run(root, changes)


def kill_at(owner: Any, name: str, turn: int, moment: str = "before") -> None:
    """Have this process killed before or after the `turn`-th call of a function."""
    original = getattr(owner, name)
    count = 0

    @functools.wraps(original)  # a training step keeps what is said of it
    def deadly(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if count == turn and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **keywords)
        if count == turn and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def _places() -> dict[str, tuple[Any, str, str]]:
    import torch

    from deepal import artifacts, choosing, folder, scan, weights
    from deepal.modules.measured import Measured

    return {
        "before the intent": (ledger.Ledger, "ask", "before"),
        "mid-declaration": (ledger.Ledger, "_write_query", "before"),
        "after the intent": (ledger.Ledger, "ask", "after"),
        "between answer and next fit": (ledger.Ledger, "answer", "after"),
        "mid-fit": (Measured, "training_step", "before"),
        "mid-checkpoint": (folder, "_sync", "before"),  # written, not yet moved to its place
        "after a checkpoint": (torch, "save", "after"),
        "mid-scan": (scan, "_say", "before"),
        "between fit and its weights": (weights, "save", "before"),
        "after the artifacts": (artifacts, "save", "after"),
        "between weights and test": (weights, "save", "after"),
        "between test and scan": (choosing.Choosing, "query", "before"),
    }


PLACES = _places()
