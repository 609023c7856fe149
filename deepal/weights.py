"""Trained weights in files: safetensors, which hold numbers and never code, with what is needed to use them."""

import importlib
import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from deepal import fingerprint, folder
from deepal.augmentation import Augmentation
from deepal.nn import Frozen
from deepal.probes import Probe
from deepal.task import Task

log = logging.getLogger(__name__)

_BUILDABLE = ("deepal.augmentation.", "deepal.modules.", "deepal.nn.", "deepal.probes.", "torch.optim.")
_KINDS = (nn.Module, Optimizer, LRScheduler, Probe, Augmentation)
"""What a file of weights may name, and where: a file cannot make us import or call anything else."""


def save(module: nn.Module, path: Path, notes: Mapping[str, Any], whole: bool = True) -> None:
    """Write the weights of `module` atomically, with how to build it again and `notes` (plain values).

    Args: whole: with the networks that frozen features come from, which are no part of what is trained.
    """
    metadata = {
        "module": _as_made(fingerprint.describe(module)),
        "task": fingerprint.describe(getattr(module, "task", None)),
    }
    state = {**module.state_dict(), **(_of_trunks(module) if whole else {})}
    tensors = {name: each.detach().cpu().contiguous().clone() for name, each in state.items()}
    text = {"deepal": json.dumps({**metadata, **notes})}
    folder.write_atomically(path, lambda partial_file: save_file(tensors, partial_file, metadata=text))


def _as_made(described: Any) -> Any:
    """A description without what says which weights there are, in the module and in those that it is made of."""
    if isinstance(described, list):
        return [_as_made(each) for each in described]
    if not isinstance(described, dict):
        return described
    return {key: _as_made(value) for key, value in described.items() if key not in ("weights", "layers")}


def load_into(module: nn.Module, path: Path) -> None:
    """Read the weights of a file into `module`."""
    state = load_file(path)
    for name, there in _of_trunks(module).items():
        if name in state:
            there.copy_(state.pop(name))
    module.load_state_dict(state)


def complete(module: nn.Module, path: Path) -> None:
    """Write a file of weights again with the networks that frozen features come from, where it is without."""
    if not _has_trunks(module, path):
        known = notes(path)
        save(module, path, {name: known[name] for name in known if name not in ("module", "task")})


def _has_trunks(module: nn.Module, path: Path) -> bool:
    with safe_open(path, framework="pt") as file:
        return _of_trunks(module).keys() <= set(file.keys())


def _of_trunks(module: nn.Module) -> dict[str, Tensor]:
    """The weights of the networks that frozen features come from, each once."""
    trunks = {
        id(each.trunk): (f"{name}.trunk", each.trunk) for name, each in module.named_modules() if isinstance(each, Frozen)
    }
    return {f"{name}.{key}": each for name, trunk in trunks.values() for key, each in trunk.state_dict().items()}


def notes(path: Path) -> dict[str, Any]:
    """The notes of a file, empty where it is missing, or was cut off and has to be made again."""
    return {} if read(path) is None else _metadata(path)


def read(path: Path) -> dict[str, Tensor] | None:
    """The weights in a file, by name; None where it is missing, or was cut off (by a full disk, say) and has to be made
    again."""
    try:
        return load_file(path)  # reads the whole file, and refuses a part of one
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        log.warning("%s cannot be read (%s) and is made again.", path, error)
        return None


def load_model(path: str | Path, module: LightningModule | None = None) -> LightningModule:
    """A trained model for inference, in eval mode; `model.task.normalize(images)` is what it reads.

    Args:
        path: a run folder, or a file of weights in one.
        module: to load into, for modules that deepal did not make; its network has the shapes of the file's.
    Raises FileNotFoundError where there is no model yet, and ValueError where the file names a module that only its
    maker can build.
    """
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there; a run writes it when it ends, so run it to its budget first.")
    described = notes(file)
    if not described:
        raise ValueError(f"{file} is not a whole file of weights; run its run again, which writes it anew.")
    if module is None:
        made: Any = _build(described["module"])()
        made.configure_network(Task.from_json(described["task"]))
        module = made
    if not _has_trunks(module, file):
        raise ValueError(
            f"{file} holds what was trained, and not the network that gives the features, which the last model alone has; "
            f"run its run to its end."
        )
    load_into(module, file)
    return module.eval()


def _metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["deepal"])


def _build(described: Any) -> Any:
    """What `fingerprint.describe` described: a partial of each class that it names; what is a value (a probe, an
    augmentation), itself."""
    if isinstance(described, list):
        return [_build(each) for each in described]
    if not isinstance(described, dict):
        return described
    name = described.get("class", "")
    made: Any = None
    if name.startswith(_BUILDABLE):
        made = getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2], None)
    if not (isinstance(made, type) and issubclass(made, _KINDS)):
        raise ValueError(
            f"the file was written by {name or 'a module'}, which is not deepal's; build it, and give it as module=."
        )
    # metrics are not for inference
    options = {key: _build(value) for key, value in described.items() if key not in ("class", "metrics")}
    return made(**options) if issubclass(made, Probe | Augmentation) else partial(made, **options)
