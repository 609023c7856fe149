"""deepal: deep active learning on PyTorch Lightning, for vision. It decides which images deserve a label."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Learner", "load_model", "select"]

if TYPE_CHECKING:
    from deepal.learner import Learner
    from deepal.strategies.base import select
    from deepal.weights import load_model

_WHERE = {"Learner": "deepal.learner", "select": "deepal.strategies.base", "load_model": "deepal.weights"}


def __getattr__(name: str) -> Any:
    """Import torch and Lightning when something that needs them is first asked for, so that `deepal --help` does not."""
    if name not in _WHERE:
        raise AttributeError(f"module 'deepal' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
