"""Dashboards: what each cycle measured, against the number of labels, through Lightning's loggers.

The ledger is the truth, and a dashboard a view of it: when a run is taken up again, the view is shown everything from the
start, and what it knew already stays as it was.
"""

import shutil
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from deepal.entries import Result
from deepal.oracles import Question
from deepal.report import queries
from deepal.task import Catalog
from deepal.watching import Watcher


class Tracker(Watcher):
    """Shows each result to a logger."""

    @abstractmethod
    def logger(self, folder: Path) -> Logger:
        """The logger of a run."""

    def begin(self, folder: Path, budget: int, results: Sequence[Result]) -> None:
        self.folder, self._logger = folder, self.logger(folder)
        for each in results:
            self.measured(each, results)

    def measured(self, result: Result, results: Sequence[Result]) -> None:
        seconds = {f"seconds/{phase}": value for phase, value in result.seconds.items()}
        self._logger.log_metrics({**result.metrics, **seconds, "n_labels": result.labels}, step=self.step(result))
        self._logger.save()

    def answered(self, cycle: int, questions: Sequence[Question], data: Catalog) -> None:
        if picture := queries.draw(self.folder, cycle, questions, data):
            self.show(picture, cycle)

    @abstractmethod
    def show(self, picture: Path, cycle: int) -> None:
        """Show a picture of what a cycle asked."""

    def step(self, result: Result) -> int:
        """Where on the horizontal axis a result belongs."""
        return result.labels

    def end(self, folder: Path, results: Sequence[Result]) -> None:
        self._logger.finalize("success")


class TensorBoard(Tracker):
    """TensorBoard files in the run folder, written anew when the run is taken up again."""

    def logger(self, folder: Path) -> Logger:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        return TensorBoardLogger(folder, name=None, version="tensorboard")

    def begin(self, folder: Path, budget: int, results: Sequence[Result]) -> None:
        super().begin(folder, budget, results)
        for cycle in range(-1, len(results)):
            if (picture := queries.file_of(folder, cycle)).exists():
                self.show(picture, cycle)

    def show(self, picture: Path, cycle: int) -> None:
        board: Any = self._logger.experiment  # type: ignore[attr-defined]
        board.add_image("queries", np.asarray(Image.open(picture)), max(cycle, 0), dataformats="HWC")


class WeightsAndBiases(Tracker):
    """A Weights & Biases run named as the run folder (offline with WANDB_MODE=offline).

    Args: project: where the run is shown.
    """

    def __init__(self, project: str = "deepal") -> None:
        self.project = project

    def logger(self, folder: Path) -> Logger:
        logger = WandbLogger(project=self.project, name=folder.name, id=folder.name, save_dir=folder, resume="allow")
        run: Any = logger.experiment
        run.define_metric("*", step_metric="n_labels")
        return logger

    def show(self, picture: Path, cycle: int) -> None:
        logger: Any = self._logger
        logger.log_image("queries", [str(picture)], step=max(cycle, 0))

    def step(self, result: Result) -> int:
        return result.cycle  # its own axis is `n_labels`; steps that it has seen already are ignored there
