"""What all our modules measure, and how: on validation images while they train, on test images when they have."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import Parameter, functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from deepal.nn import Frozen
from deepal.task import Task


class Measured(LightningModule):
    """A classifier that is trained by one loss, and measured by the class probabilities that it predicts.

    Args: metrics: of torchmetrics, by name, called with (probs (B, C), target (B,)); measured beside accuracy, macro F1,
        negative log-likelihood, calibration error and Brier score.
    """

    def __init__(self, metrics: dict[str, Metric] | None = None) -> None:
        super().__init__()
        for name in set(metrics or ()) & set(_metrics(2)):
            raise ValueError(f"metrics={{'{name}': ...}} is measured already; give yours another name.")
        self.metrics = dict(metrics.items()) if metrics else None  # of these, copies are used

    def configure_network(self, task: Task) -> None:
        """Be ready to be trained for this task."""
        self.task = task
        self.validation_metrics, self.test_metrics = (
            MetricCollection(
                {**_metrics(len(task.classes)), **deepcopy(self.metrics or {})}, prefix=prefix, compute_groups=False
            )
            for prefix in ("val/", "test/")
        )

    @abstractmethod
    def probs(self, images: Tensor) -> Tensor:
        """Class probabilities (B, C), in fp32."""

    @abstractmethod
    def loss(self, batch: dict[str, Tensor], images: int) -> tuple[Tensor, Tensor]:
        """The loss of a training batch, and which of its predictions are right, (B,), or (..., B) of several networks.

        Args: images: how many there are to train on, in all.
        """

    @property
    def frozen_network(self) -> Frozen | None:
        """A network by whose features alone it reads images, where these stay as they are: rows of features may then take
        the place of images. None elsewhere, and for classes that are not ours, which may do anything with an image."""
        found = [each for each in self.modules() if isinstance(each, Frozen)]
        if not type(self).__module__.startswith("deepal.") or len({id(each.trunk) for each in found}) != 1:
            return None
        return found[0]

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """A function from images to class probabilities (B, C), as they are predicted in a test."""
        return self.probs

    def optimized_by(
        self,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None,
        parameters: Iterable[Parameter] | None = None,
    ) -> Any:
        """What `configure_optimizers` returns, of these two: a schedule steps with each training step.

        Args: parameters: to train, of those that are not frozen; None: all.
        Raises ValueError for a schedule that waits for a metric.
        """
        made = optimizer([each for each in parameters or self.parameters() if each.requires_grad])
        if scheduler is None:
            return made
        schedule = scheduler(made)
        if isinstance(schedule, ReduceLROnPlateau):
            raise ValueError(
                "scheduler=ReduceLROnPlateau waits for a metric, and a schedule steps with each training step."
            )
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        loss, correct = self.loss(batch, self._images)
        self._taken.append((loss.detach(), correct.sum(), correct.numel()))
        return {"loss": loss, "correct": correct, "position": batch.get("labeled", batch).get("position")}

    def on_train_epoch_start(self) -> None:
        served = self.trainer.train_dataloader
        self._images = len((served["labeled"] if isinstance(served, dict) else served).dataset)
        self._taken: list[tuple[Tensor, Tensor, int]] = []  # of each step: logging one costs as much as the step itself

    def on_train_epoch_end(self) -> None:
        losses, hits, predictions = zip(*self._taken, strict=True)
        sizes = torch.tensor(predictions, device=self.device)
        loss, accuracy = (torch.stack(losses) * sizes).sum(), torch.stack(hits).sum()
        self.log_dict({"train/loss": loss / sizes.sum(), "train/accuracy": accuracy / sizes.sum()})

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validation_metrics.update(self.probs(batch["input"]), batch["target"])

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.validation_metrics.compute(), batch_size=1)
        self.validation_metrics.reset()

    def on_test_epoch_start(self) -> None:
        self._predict = self.predictor()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.test_metrics.update(self._predict(batch["input"]), batch["target"])

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_metrics.compute(), batch_size=1)
        self.test_metrics.reset()
        del self._predict


def refuse_plain_ddp(module: LightningModule, what_it_does: str) -> None:
    """Raises ValueError where weights that take no part in a step would be taken for a mistake by processes that train
    together."""
    distributed = getattr(module.trainer.strategy, "_ddp_kwargs", {"find_unused_parameters": True})
    if not distributed.get("find_unused_parameters"):
        raise ValueError(
            f"{type(module).__name__} {what_it_does}, which the ddp strategy takes for a mistake; give "
            f"trainer.strategy=ddp_find_unused_parameters_true."
        )


def _metrics(classes: int) -> dict[str, Metric]:
    """What is always measured on validation and test images, from class probabilities."""
    return {
        "accuracy": MulticlassAccuracy(classes, average="micro"),
        "macro_f1": MulticlassF1Score(classes, average="macro"),
        "nll": _MeanOver(_nll),
        "ece": MulticlassCalibrationError(classes),
        "brier": _MeanOver(_brier),
    }


class _MeanOver(Metric):
    """The mean of a score of each row, of (probs (B, C), target (B,)). A NaN is not left out of it."""

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._score = score
        for name in ("total", "rows"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probs: Tensor, target: Tensor) -> None:
        self.total += self._score(probs, target).double().sum()
        self.rows += len(target)

    def compute(self) -> Tensor:
        return (self.total / self.rows).float()


def _nll(probs: Tensor, target: Tensor) -> Tensor:
    """-log p_target, the probability held above the smallest normal number."""
    return -probs.gather(1, target.unsqueeze(1)).squeeze(1).clamp_min(torch.finfo(probs.dtype).tiny).log()


def _brier(probs: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the probabilities to the one-hot target  (Brier, 1950), within [0, 2]."""
    return (probs - functional.one_hot(target, probs.shape[1])).square().sum(1)
