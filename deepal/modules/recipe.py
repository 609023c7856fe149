"""A classifier as a part of another module: how its network looks, and how it is trained."""

from collections.abc import Callable
from copy import deepcopy

from torch import nn

from deepal.modules.classifier import Classifier

Recipe = Classifier | Callable[[], Classifier]
"""A classifier, or a function that makes one."""


def classifier_of(of: Recipe, by: str) -> Classifier:
    """The classifier of a recipe, anew. Raises ValueError, naming the module that it is for, where it is of another class,
    of which nothing more would be used."""
    made = deepcopy(of)
    recipe = made if isinstance(made, nn.Module) or not callable(made) else made()
    if type(recipe) is not Classifier:
        given = getattr(of, "__name__", type(recipe).__name__)
        raise ValueError(
            f"{by}(of={given}) trains networks as a Classifier does, and nothing that another class says or does would be "
            f"used; give a Classifier, with a backbone, an optimizer and a scheduler of yours."
        )
    return recipe
