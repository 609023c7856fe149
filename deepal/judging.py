"""What rules for stopping know of the model of a cycle, beside what its test has measured."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from deepal import preflight, seeds
from deepal.bookkeeping import Turn
from deepal.data.datamodule import ActiveDataModule
from deepal.entries import COMPARED, OF_VALIDATION, Predictions
from deepal.ranks import Ranks
from deepal.scan import Scan
from deepal.signals import NonFiniteError
from deepal.stopping import Around, StoppingRule
from deepal.watching import interruptible


class Settings(Protocol):
    """What is read of a learner."""

    data: ActiveDataModule
    stop: list[StoppingRule]
    seed: int


class Judging:
    """Lets the rules of a run look at its models.

    Args: settings: of the learner; ranks: the processes that work together.
    """

    def __init__(self, settings: Settings, ranks: Ranks) -> None:
        self.settings, self.data, self.ranks = settings, settings.data, ranks

    def measure(
        self, turn: Turn, trainer: Trainer, module: LightningModule, scan: Scan
    ) -> tuple[Mapping[str, float], Mapping[str, Predictions]]:
        """Metrics that the rules read, and what they want to see again in the next cycle."""
        metrics, kept = self._validated(trainer, module), {}
        first = [position for position in self.data.candidates if position < self.data.begun_with]
        around = self._around(turn.pool.index, first, scan, turn.compared)
        for rule in self.settings.stop:
            measured = rule.measure(around)
            metrics |= measured.metrics
            if measured.predictions:
                kept[COMPARED] = measured.predictions
        return metrics, kept

    def rehearse(self, some: Sequence[int], scan: Scan) -> None:
        """Let the rules look at some images with an untrained module: what they cannot read of it is refused here."""
        try:
            for rule in self.settings.stop:
                rule.measure(self._around(some, some, scan, Predictions()))
        except NonFiniteError:
            return  # it is not trained yet

    def _validated(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """The metrics of the validation set, where a rule reads one."""
        wanted = {rule.validated for rule in self.settings.stop if rule.validated}
        if not wanted or not self.data.validation_positions:
            return {}
        with self.ranks.on_its_own(), interruptible():
            found = dict(trainer.validate(module, datamodule=self.data, verbose=False)[0])
        preflight.refuse_unsynced(self.ranks.each(found))
        found = {OF_VALIDATION + name.removeprefix(OF_VALIDATION): value for name, value in found.items()}
        preflight.refuse_unmeasured(wanted, found)
        return found

    def _around(self, pool: Sequence[int], first: Sequence[int], scan: Scan, before: Predictions) -> Around:
        def probs(positions: Tensor) -> Tensor:
            return scan.read(positions, ("probs",))["probs"]

        seed = seeds.derive(self.settings.seed, "stop")
        return Around(torch.tensor(pool, dtype=torch.long), torch.tensor(first, dtype=torch.long), seed, probs, before)
