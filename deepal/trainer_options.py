"""Options of a Lightning Trainer: which a run takes, and what is said of others before anything trains."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, StochasticWeightAveraging

OURS = (
    "logger", "default_root_dir", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
    "num_sanity_val_steps", "fast_dev_run", "barebones", "overfit_batches", "use_distributed_sampler",
    "enable_autolog_hparams", "model_registry", "reload_dataloaders_every_n_epochs",
)  # fmt: skip
"""Options of a Trainer that the learner sets itself, or that would take a run apart."""

_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a Trainer as given: those left at their default dropped, numbers as numbers, a length where none is.

    Raises ValueError for an option that a Trainer does not have, one that is ours, and processes that are spawned.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"trainer={options!r} must be options of lightning.Trainer by name.")
    known = inspect.signature(Trainer).parameters
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f"trainer.{name} is no option of lightning.Trainer{f'; did you mean trainer.{close[0]}?' if close else '.'}"
            )
        if name in OURS:
            raise ValueError(f"trainer.{name} is not for a run to choose; leave it out.")
    plain = {name: _number(value) for name, value in options.items()}
    given = {name: value for name, value in plain.items() if value is not None and value != known[name].default}
    strategy = str(given.get("strategy", "auto"))
    if strategy not in _STRATEGIES:
        raise ValueError(
            f"trainer.strategy={strategy} is none that a run can go on with: its processes have to be started from outside "
            f"or as copies of the command, with whole weights in each; take one of {', '.join(_STRATEGIES)}."
        )
    for name in ("max_steps", "max_epochs", "limit_train_batches", "limit_test_batches"):
        if given.get(name) == 0:
            raise ValueError(f"trainer.{name}=0 would train or test nothing; give it a length, or leave it out.")
    if str(given.get("precision", 32)).removesuffix("-true") in ("64", "bf16", "16"):
        raise ValueError(
            f"trainer.precision={given['precision']} would change the weights themselves, and images stay in fp32; take "
            f"bf16-mixed or 16-mixed."
        )
    if not any(name in given for name in ("max_steps", "max_epochs", "max_time")):
        given["max_steps"] = 300
    given["devices"] = given.get("devices", 1)
    return given


def _number(value: Any) -> Any:
    """`"2"` as 2: options that may be a word or a number arrive from a command line as words."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                pass
    return value


def refuse_broken(make: Callable[[], Trainer]) -> Trainer:
    """The Trainer that `make` makes. Raises ValueError where Lightning refuses the options."""
    try:
        return make()
    except Exception as error:  # of any kind: Lightning and its parts refuse in many ways
        raise ValueError(f"trainer: lightning.Trainer refuses these options: {error}") from error


def refuse_callbacks(trainer: Trainer, validation: int, epoch_steps: int | None) -> None:
    """Raises ValueError for a callback that waits for a validation that never comes, and for one that a killed fit could
    not take up exactly.

    Args: validation: how many validation images there are; epoch_steps: steps an epoch, where that is known.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name, monitor = type(callback).__name__, str(getattr(callback, "monitor", ""))
        if monitor.startswith("val") and not validation:
            raise ValueError(
                f"{name} monitors {monitor}, and there are no validation images; set data.validation to how many labels "
                f"they may cost."
            )
        if monitor and epoch_steps and 0 < trainer.max_steps < epoch_steps:
            raise ValueError(
                f"{name} monitors {monitor} once an epoch, and trainer.max_steps={trainer.max_steps} ends before the first "
                f"of data.epoch_steps={epoch_steps}; lower data.epoch_steps."
            )
        if type(callback).on_save_checkpoint is not Callback.on_save_checkpoint or isinstance(
            callback, StochasticWeightAveraging | Checkpoint
        ):
            raise ValueError(
                f"trainer.callbacks={name} keeps state in Lightning's checkpoints, which a run does not use: a killed fit "
                f"could not be taken up exactly; leave it out."
            )


def refuse_automatic(trainer: Trainer, module: LightningModule) -> None:
    """Raises ValueError for what a Trainer does around automatic steps alone, and a module that takes its own steps."""
    asked = {
        "gradient_clip_val": trainer.gradient_clip_val not in (None, 0),
        "accumulate_grad_batches": trainer.accumulate_grad_batches != 1,
    }
    for name in [name for name, given in asked.items() if given and not module.automatic_optimization]:
        raise ValueError(
            f"trainer.{name} is for modules that leave their steps to the Trainer, and {type(module).__name__} takes its "
            f"own, of several optimizers; leave it out."
        )
