"""What is written down while a module trains, because only training knows it: callbacks of a Trainer, whose records are
signals of the images like those that a module says."""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from deepal.functional import dynamics


@dataclass(frozen=True)
class Surroundings:
    """What a recorder may know of a fit.

    Args:
        images: how many training images there are, whether they are labeled, in the pool or neither.
        pool: (n,) positions of those that can be asked for.
        seed: of the recorder's coins.
        read: the score (n,) of what the module says by these names of images at these positions, under the test transform,
            by all processes together and without a trace.
        each: what every process has, in the order of their ranks.
    """

    images: int
    pool: Tensor
    seed: int
    read: Callable[[LightningModule, Tensor, tuple[str, ...], Callable[[Mapping[str, Tensor]], Tensor]], Tensor]
    each: Callable[[Any], list[Any]]


class Recorder(Callback):
    """Records signals of images during a fit. It is given to the Trainer, `callbacks=[PredictionHistory()]`, and copied for
    each fit; what it keeps is in its `state_dict`, so that a killed fit goes on with it."""

    says: Sequence[str] = ()
    """The names of the signals."""
    seconds: float = 0.0
    """What it took beside training, on the wall."""

    asks: Sequence[str] = ()
    """Methods of the module that it calls: a module without them is refused before the first epoch."""

    def refuse_too_little(self, epochs: int, query_size: int) -> None:
        """Raises ValueError where a fit of so many epochs would not tell of so many images what is worth a look."""

    def begin(self, around: Surroundings) -> None:
        """A fit is about to begin, or to go on."""
        self.around = around

    @abstractmethod
    def recorded(self) -> dict[str, Tensor]:
        """The signals, a row for each training image."""


def recorders_of(trainer: Trainer) -> list[Recorder]:
    """The recorders among the callbacks of a Trainer."""
    return [each for each in trainer.callbacks if isinstance(each, Recorder)]  # type: ignore[attr-defined]


class PredictionHistory(Recorder):
    """Records what the model predicts of the pool after epochs of its training, in eval mode and under the test transform:
    the signal `history` (B, T), -1 for images that it does not follow. Each time takes a pass over the images that it
    follows; the seconds of all of them are in the results as `record`. What an epoch is says `data.epoch_steps`.

    Args:
        every: so many epochs.
        burn_in: epochs at the beginning that are left out, in which everything changes.
        follow: so many images of the pool, drawn anew in each cycle; only these can then be told apart. None: all.
    """

    says = ("history",)
    asks = ("probs",)

    def __init__(self, every: int = 1, burn_in: int = 0, follow: int | None = None) -> None:
        if every < 1 or burn_in < 0 or (follow is not None and follow < 1):
            raise ValueError(
                f"PredictionHistory(every={every}, burn_in={burn_in}, follow={follow}) needs every and follow of at least "
                f"1, and a burn_in of at least 0."
            )
        self.every, self.burn_in, self.follow = every, burn_in, follow
        self._times: list[Tensor] = []

    def refuse_too_little(self, epochs: int, query_size: int) -> None:
        if self.follow is not None and self.follow < query_size:
            raise ValueError(
                f"PredictionHistory(follow={self.follow}) leaves a part of query_size={query_size} to chance; follow as "
                f"many images at least, and better many times more."
            )
        if epochs < self.burn_in + 3 * self.every:
            raise ValueError(
                f"PredictionHistory(every={self.every}, burn_in={self.burn_in}) has to record three times at least, and a "
                f"fit with all of the budget is {epochs} epochs; lower these, lower data.epoch_steps, or train longer."
            )

    def begin(self, around: Surroundings) -> None:
        super().begin(around)
        coins = torch.Generator().manual_seed(around.seed)
        order = torch.randperm(len(around.pool), generator=coins) if self.follow else torch.arange(len(around.pool))
        self._followed = around.pool[order[: self.follow].sort().values]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.current_epoch + 1 - self.burn_in
        if epochs > 0 and not epochs % self.every:
            started = time.perf_counter()
            predicted = self.around.read(pl_module, self._followed, ("probs",), _predicted)
            self._times.append(predicted.to(torch.int16 if predicted.max() <= _SHORT else torch.int32))
            self.seconds += time.perf_counter() - started

    def recorded(self) -> dict[str, Tensor]:
        if not self._times:
            return {"history": torch.full((self.around.images, 1), dynamics.UNSEEN, dtype=torch.int16)}
        times = torch.stack(self._times, 1)
        history = times.new_full((self.around.images, times.shape[1]), dynamics.UNSEEN)
        history[self._followed] = times
        return {"history": history}

    def state_dict(self) -> dict[str, Any]:
        return {"times": self._times}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._times = [each.cpu() for each in state_dict["times"]]


_SHORT = torch.iinfo(torch.int16).max  # of class numbers


def _predicted(said: Mapping[str, Tensor]) -> Tensor:
    """Raises ValueError where there are several predictions a sample."""
    probs = said["probs"]
    if probs.ndim != 2:
        raise ValueError(
            f"PredictionHistory follows one prediction a sample, and this module says probs of shape "
            f"(samples, {', '.join(map(str, probs.shape[1:]))})."
        )
    return probs.argmax(1).float()


class ForgettingEvents(Recorder):
    """Records how often the model was wrong of a labeled image that it had right when it was shown the time before
    (Toneva et al., 2019): by the predictions that training makes of each batch, augmented and before the step, which costs
    nothing more. The signals `forgetting` (B,), events of images that were learned, or as many as it was shown of an image
    that never was; `shown` (B,); and `learned` (B,).

    Events of each cycle are written to the ledger and to `forgetting.csv`, and drawn, with the images that are forgotten
    most: labels that are wrong are among them. The module has to say what it has right: `training_step` returns
    `{"loss": loss, "correct": right}`, right (B,) as `batch["position"]`, or as a `"position"` beside it, which ours do
    that train one network.
    """

    says = ("forgetting", "shown", "learned")

    def __init__(self) -> None:
        self._taken: list[tuple[Tensor, Tensor]] = []

    def begin(self, around: Surroundings) -> None:
        super().begin(around)
        self._seen = dynamics.Presentations(around.images)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        correct, position = (outputs.get(name) if isinstance(outputs, dict) else None for name in ("correct", "position"))
        if position is None and isinstance(batch, dict):
            position = batch.get("position")
        if position is None or correct is None or correct.shape != position.shape:
            raise ValueError(
                f"ForgettingEvents follows what one network has right, image by image, and {type(pl_module).__name__} does "
                f'not say it: return {{"loss": loss, "correct": right}} from training_step, right (B,) as '
                f'batch["position"], or as a "position" beside it.'
            )
        self._taken.append((position, correct))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own = [(position.cpu(), correct.cpu()) for position, correct in self._taken]
        self._taken = []
        for step in zip(*self.around.each(own), strict=True):  # of all processes, whose images differ
            for position, correct in step:
                self._seen.show(position, correct)

    def recorded(self) -> dict[str, Tensor]:
        return {
            "forgetting": self._seen.forgetting_events(),
            "shown": self._seen.shown.long(),
            "learned": self._seen.learned,
        }

    def state_dict(self) -> dict[str, Any]:
        return self._seen.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seen.restore({name: each.cpu() for name, each in state_dict.items()})
