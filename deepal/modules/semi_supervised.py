"""Classifiers that learn from unlabeled images too, by what they are sure of and what should not change with how an image
looks: any backbone, and every strategy on top of them."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from deepal.augmentation import Augmentation, Cutout, RandAugment, augmented, refuse_images, refuse_others
from deepal.functional import consistency
from deepal.modules.accompanied import Accompanied
from deepal.modules.classifier import Classifier
from deepal.modules.recipe import Recipe
from deepal.task import Task


class SemiSupervised(Accompanied):
    """A classifier that is trained on labeled images and, by another loss, on unlabeled ones, and that is tested, and read
    by strategies, with an average of the weights that it has had. It says all that its classifier says.

    Unlabeled images are those that can be asked for (papers have the labeled ones among them). They are augmented as
    labeled ones are (`data.augmentation`: the weak augmentation), where two views of each are wanted twice.

    Args:
        of: the classifier.
        unlabeled_weight: of the loss of unlabeled images. 0: they are not read, and what is left is the same training with
            labels alone, to compare with.
        unlabeled_ratio: unlabeled images in a step, in multiples of `data.batch_size`.
        ema_decay: what the average keeps of itself in a step; at first it keeps less, whatever the fit's length
            (`functional.consistency`).

    Raises ValueError for numbers outside of what is said here.
    """

    own = ()

    def __init__(self, of: Recipe, unlabeled_weight: float, unlabeled_ratio: int, ema_decay: float) -> None:
        super().__init__(of)
        counts = isinstance(unlabeled_ratio, int) and unlabeled_ratio >= 1
        if not (0 <= unlabeled_weight < inf and counts and 0 <= ema_decay < 1):
            raise ValueError(
                f"{type(self).__name__}(unlabeled_weight={unlabeled_weight}, unlabeled_ratio={unlabeled_ratio}, "
                f"ema_decay={ema_decay}) needs a weight that is a number and not negative, a ratio that is a whole number, "
                f"1 at least, and a decay from 0 to below 1."
            )
        self.unlabeled_weight, self.unlabeled_ratio, self.ema_decay = unlabeled_weight, unlabeled_ratio, ema_decay

    def configure_network(self, task: Task) -> None:
        """Draw the network, from the global generator."""
        super().configure_network(task)
        self.average = AveragedModel(self.of, multi_avg_fn=partial(_take_in, decay=self.ema_decay)).requires_grad_(False)

    @property
    def reader(self) -> Classifier:
        """The classifier with averaged weights; batch norm has the statistics that it has now."""
        return self.average.module

    # Training

    views = 2
    """How many views of each unlabeled image there are in a batch."""
    rampup_steps = 0
    """How long the weight of unlabeled images grows."""

    @property
    def reads_unlabeled(self) -> bool:
        """Whether it is served unlabeled images."""
        return self.unlabeled_weight > 0

    def configure_optimizers(self) -> Any:
        return self.of.optimized_by(self.of.optimizer, self.of.scheduler)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._seen: list[tuple[Tensor, Tensor]] = []

    def loss(self, batch: dict[str, Any], images: int) -> tuple[Tensor, Tensor]:
        """The loss of labeled images, and that of unlabeled ones by its weight; what is right of the labels. Args: images:
        how many are labeled."""
        if not self.reads_unlabeled:
            return self.of.loss(batch, images)
        loss, correct = self.of.loss(batch["labeled"], images)
        unlabeled, used = self.unlabeled_loss(batch["unlabeled"])
        self._seen.append((unlabeled.detach(), used.float().mean()))
        return loss + self.unlabeled_weight * self.rampup() * unlabeled, correct

    @abstractmethod
    def unlabeled_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss of unlabeled images, and which of them count, (B,).

        Args: batch: `input` (B, channels, height, width), or views of it (views, B, ...), and `position` (B,).
        """

    def rampup(self) -> float:
        """The share of the weight that counts in this step."""
        return consistency.rampup(self.global_step, self.rampup_steps)

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        super().optimizer_step(*arguments, **keywords)
        self.average.update_parameters(self.of)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self._seen:
            losses, used = (torch.stack(each).mean() for each in zip(*self._seen, strict=True))
            self.log_dict({"train/unlabeled_loss": losses, "train/unlabeled_used": used})


class PseudoLabel(SemiSupervised):
    """Pseudo-labels (Lee, 2013): of unlabeled images too the class that is predicted is made more probable, as the fit goes
    on more so. Here only of those of which the network is sure, as later work has it (`threshold=0`: of all).

    Args:
        threshold: the probability of the predicted class from which on an image counts.
        rampup_steps: how long the weight of unlabeled images grows.

    The others are those of `deepal.modules.SemiSupervised`.
    """

    views = 1

    def __init__(
        self,
        of: Recipe = Classifier,
        threshold: float = 0.95,
        unlabeled_weight: float = 1.0,
        unlabeled_ratio: int = 1,
        rampup_steps: int = 1000,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(of, unlabeled_weight, unlabeled_ratio, ema_decay)
        _refuse(self, threshold, rampup_steps)
        self.threshold, self.rampup_steps = threshold, rampup_steps

    def unlabeled_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self.of.logits(batch["input"])
        classes, counts = consistency.sure(torch.softmax(logits.detach().float(), -1), self.threshold)
        return consistency.pseudo_label_loss(logits, classes, counts), counts


class MeanTeacher(SemiSupervised):
    """Mean teacher (Tarvainen & Valpola, 2017): the network learns to say of one view of an image what the average of its
    weights says of another, by the squared difference of probabilities. The average is read in eval mode.

    Args:
        unlabeled_weight: of the squared difference, the mean over classes.
        rampup_steps: how long that weight grows.

    The others are those of `deepal.modules.SemiSupervised`. Where there is neither augmentation nor dropout, both say the
    same.
    """

    def __init__(
        self,
        of: Recipe = Classifier,
        unlabeled_weight: float = 50.0,
        unlabeled_ratio: int = 1,
        rampup_steps: int = 1000,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(of, unlabeled_weight, unlabeled_ratio, ema_decay)
        _refuse(self, 0.0, rampup_steps)
        self.rampup_steps = rampup_steps

    def unlabeled_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        own, teachers = batch["input"]
        self.average.eval()
        with torch.no_grad():
            target = self.reader.probs(teachers)
        difference = (self.of.probs(own) - target).square().mean()
        return difference, torch.ones(len(own), device=own.device)


class FixMatch(SemiSupervised):
    """FixMatch (Sohn et al., 2020): where the network is sure of a weakly augmented image, it learns to say the same of a
    strongly augmented view of it.

    Args:
        threshold: the probability of the predicted class from which on an image counts.
        strong: the strong augmentation, after the weak one, on images within 0 and 1. None: `RandAugment` and `Cutout`.

    The others are those of `deepal.modules.SemiSupervised`.
    """

    def __init__(
        self,
        of: Recipe = Classifier,
        threshold: float = 0.95,
        strong: list[Augmentation] | None = None,
        unlabeled_weight: float = 1.0,
        unlabeled_ratio: int = 7,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(of, unlabeled_weight, unlabeled_ratio, ema_decay)
        _refuse(self, threshold)
        self.threshold = threshold
        self.strong: Sequence[Augmentation] = [RandAugment(), Cutout()] if strong is None else strong
        refuse_others(type(self).__name__, "strong", self.strong)

    def refuse(self, images: Tensor) -> None:
        """Raises ValueError for raw images that cannot be augmented so."""
        refuse_images(type(self).__name__, images)
        augmented(images, self.strong)

    def unlabeled_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        weak, other = batch["input"]
        with torch.no_grad():
            probs = self.of.probs(weak)
            strong = self.task.normalize(augmented(self.task.restore(other), self.strong))
        classes, counts = consistency.sure(probs, self.thresholds(batch, probs))
        return consistency.pseudo_label_loss(self.of.logits(strong), classes, counts), counts

    def thresholds(self, batch: dict[str, Tensor], probs: Tensor) -> float | Tensor:
        """One for all classes, or one each, (C,). Args: probs: (B, C), of weakly augmented images."""
        return self.threshold


class FlexMatch(FixMatch):
    """FlexMatch (Zhang et al., 2021): FixMatch, with a threshold for each class that is lower where less of it has been
    learned, by how many unlabeled images were last taken for it with certainty. Its options are those of `FixMatch`."""

    _memory: Any = None  # positions of the pool, ascending, and what each was last taken for; -1 for nothing yet
    _taken_up: Any = None

    def on_train_start(self) -> None:
        if not self.reads_unlabeled:
            return
        positions = self.trainer.train_dataloader["unlabeled"].dataset.positions.to(self.device).sort().values
        taken_for = torch.full_like(positions, -1)
        if self._taken_up is not None:  # with the fit; of the pool as it was then
            known, classes = (each.to(self.device) for each in self._taken_up)
            there = torch.searchsorted(known, positions).clamp_max(len(known) - 1)
            taken_for = torch.where(known[there] == positions, classes[there], taken_for)
        self._memory = positions, taken_for

    def thresholds(self, batch: dict[str, Tensor], probs: Tensor) -> Tensor:
        """By what was taken for which class in earlier steps."""
        positions, taken_for = self._memory
        learned = taken_for[taken_for >= 0]
        counts = torch.bincount(learned, minlength=probs.shape[-1])
        thresholds = consistency.curriculum(counts, len(taken_for) - len(learned), self.threshold)
        classes, certain = consistency.sure(probs, self.threshold)
        rows, classes = self._of_all(torch.searchsorted(positions, batch["position"])[certain], classes[certain])
        # of an image that is in a batch twice, the larger number: the same on all devices
        taken_for.scatter_reduce_(0, rows, classes, "amax", include_self=False)
        return thresholds

    def _of_all(self, rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Of all processes that train together, which need not have as many."""
        if self.trainer.world_size == 1:
            return rows, classes
        both = torch.stack([rows, classes])
        most = int(self.all_gather(torch.tensor(len(rows), device=rows.device)).max())
        padded = torch.cat([both, both.new_full((2, most - len(rows)), -1)], 1)
        every = self.all_gather(padded).transpose(0, 1).flatten(1)
        return tuple(every[:, every[0] >= 0])  # type: ignore[return-value]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.reads_unlabeled:
            checkpoint["memory"] = self._memory

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._taken_up = checkpoint.get("memory")

    def on_train_end(self) -> None:
        super().on_train_end()
        self._memory = self._taken_up = None


@torch.no_grad()
def _take_in(averaged: list[Tensor], now: list[Tensor], updates: Tensor, decay: float) -> None:
    """Have averages take in the weights that there are now."""
    torch._foreach_lerp_(averaged, now, 1 - consistency.decay_of_average(int(updates), decay))


def _refuse(module: SemiSupervised, threshold: float, rampup_steps: int = 0) -> None:
    """Raises ValueError for a threshold that is no probability, and a number of steps that is none."""
    if not 0 <= threshold <= 1 or rampup_steps < 0:
        said = f"threshold={threshold}" if not 0 <= threshold <= 1 else f"rampup_steps={rampup_steps}"
        raise ValueError(
            f"{type(module).__name__}({said}) needs a threshold within 0 and 1, and steps that are not negative."
        )
