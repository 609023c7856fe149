"""`Classifier`: the supervised image classifier that the other modules vary."""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from deepal.functional import gradients
from deepal.nn import MLP, Network
from deepal.probes import Posterior
from deepal.task import Task


class Classifier(LightningModule):
    """A backbone trained with cross-entropy, that says `logits`, `probs`, `embedding`, `logit_gradient` and
    `gradient_embedding` of images.

    It is a recipe until the data is known: the network is drawn by `configure_network`, anew in each cycle.

    Args:
        backbone: a network of `deepal.nn`, called with (input shape, number of classes).
        optimizer: called with the parameters to train.
        scheduler: called with the optimizer; it steps once a training step. None: a constant learning rate.
        posterior: a distribution over networks around the one that is trained; with one, it says `mc_probs` too, and is
            tested by the average of what its draws predict.
        weight_penalty: of the squared weights of linear layers but the last, over the number of training images, added to
            the loss: the prior of a Bayesian network, which counts for less the more labels there are (Gal et al.: 2.5).
        frozen: train the last layer alone; the features below it keep their weights and their batch norm statistics.
        metrics: of torchmetrics, by name, called with (probs (B, C), target (B,)); measured beside accuracy, macro F1,
            negative log-likelihood, calibration error and Brier score.
    """

    in_blocks = True
    """Many training steps may be one to Lightning: a step logs nothing, and asks nothing of the Trainer."""

    def __init__(
        self,
        backbone: Callable[[Sequence[int], int], Network] = MLP,
        optimizer: Callable[[Iterable], Optimizer] = Adam,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        posterior: Posterior | None = None,
        weight_penalty: float = 0.0,
        frozen: bool = False,
        metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        for name in set(metrics or ()) & set(_metrics(2)):
            raise ValueError(f"metrics={{'{name}': ...}} is measured already; give yours another name.")
        self.metrics = dict(metrics.items()) if metrics else None  # of these, copies are used
        self.backbone, self.optimizer, self.scheduler = backbone, optimizer, scheduler
        self.posterior, self.weight_penalty, self.frozen = posterior, weight_penalty, frozen

    def configure_network(self, task: Task) -> None:
        """Draw the network for this task, from the global generator."""
        self.task = task
        self.network = self.backbone(task.input_shape, len(task.classes))
        if self.frozen:
            self.network.requires_grad_(False)
            self.network.head.requires_grad_(True)
        self.validation_metrics, self.test_metrics = (
            MetricCollection(
                {**_metrics(len(task.classes)), **deepcopy(self.metrics or {})}, prefix=prefix, compute_groups=False
            )
            for prefix in ("val/", "test/")
        )

    # What it says of normalised images (B, channels, height, width)

    def embedding(self, images: Tensor) -> Tensor:
        """The input of the last linear layer, (B, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.network.forward_features(images)

    def logits(self, images: Tensor) -> Tensor:
        """(B, C)."""
        return self.network.forward_head(self.embedding(images))

    def probs(self, images: Tensor) -> Tensor:
        """Class probabilities (B, C), in fp32."""
        return torch.softmax(self.logits(images).float(), -1)

    def logit_gradient(self, images: Tensor) -> Tensor:
        """Gradient of the cross-entropy to the predicted class by the logits, (B, C)."""
        return gradients.logit_gradient(self.logits(images))

    def gradient_embedding(self, images: Tensor) -> Tensor:
        """The dense gradient by the last layer's weights, (B, C * D): for small things."""
        said = self.say(images, ("logit_gradient", "embedding"))
        return gradients.gradient_embedding(said["logit_gradient"], said["embedding"])

    @property
    def mc_probs(self) -> Callable[[Tensor], Tensor]:
        """A function from images to the class probabilities of each draw of the posterior, (B, K, C), the same draws each
        time (a scan has draws of its own). There is none where there is no posterior."""
        if self.posterior is None:
            raise AttributeError("a Classifier without a posterior has no draws")
        return self.posterior.start(self, torch.Generator().manual_seed(0))

    def chain(self) -> Sequence[nn.Module] | None:
        """The layers from images to logits, where they run one after another and that is all; else None."""
        return self.network.chain()

    def say(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Several signals by name, from one forward pass where they share it."""
        embedding = self.embedding(images)
        logits = self.network.forward_head(embedding)
        shared = {
            "embedding": lambda: embedding,
            "logits": lambda: logits,
            "probs": lambda: torch.softmax(logits.float(), -1),
            "logit_gradient": lambda: gradients.logit_gradient(logits),
        }
        return {name: shared[name]() if name in shared else getattr(self, name)(images) for name in names}

    # Training

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([each for each in self.parameters() if each.requires_grad])
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def train(self, mode: bool = True) -> "Classifier":
        """Training mode, but for features that are frozen."""
        super().train(mode)
        if mode and self.frozen and hasattr(self, "network"):
            self.network.eval()
        return self

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["input"])
        loss = functional.cross_entropy(logits, batch["target"])
        if self.weight_penalty:
            hidden = [
                each for each in self.network.modules() if isinstance(each, nn.Linear) and each is not self.network.head
            ]
            penalty = sum(each.weight.square().sum() for each in hidden)
            loss = loss + self.weight_penalty / len(self.trainer.train_dataloader.dataset) * penalty
        hits = (logits.argmax(1) == batch["target"]).sum()
        self._taken.append((loss.detach(), hits, len(logits)))
        return loss

    def on_train_epoch_start(self) -> None:
        self._taken: list[tuple[Tensor, Tensor, int]] = []  # of each step: logging one costs as much as the step itself

    def on_train_epoch_end(self) -> None:
        losses, hits, images = zip(*self._taken, strict=True)
        sizes = torch.tensor(images, device=self.device)
        loss, accuracy = (torch.stack(losses) * sizes).sum(), torch.stack(hits).sum()
        self.log_dict({"train/loss": loss / sizes.sum(), "train/accuracy": accuracy / sizes.sum()})

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validation_metrics.update(self.probs(batch["input"]), batch["target"])

    def on_test_epoch_start(self) -> None:
        self._predict = self.predictor()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.test_metrics.update(self._predict(batch["input"]), batch["target"])

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """A function from images to class probabilities (B, C), as they are predicted in a test: the average of what the
        draws of the posterior predict, where there is one (and it is not kept from tests by `at_test=False`)."""
        if self.posterior is None or not self.posterior.at_test:
            return self.probs
        draws = self.mc_probs
        return lambda images: draws(images).mean(1)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.validation_metrics.compute(), batch_size=1)
        self.validation_metrics.reset()

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_metrics.compute(), batch_size=1)
        self.test_metrics.reset()


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
