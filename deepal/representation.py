"""Where the embeddings come from that strategies compare, if not from the module that is trained."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepal.data import arrays
from deepal.nn import Network


class Representation(ABC):
    """Embeddings of all training images, the same in each cycle: `FeatureFile` or `Backbone`."""

    @abstractmethod
    def digest(self) -> str | None:
        """A hash of what is not said by the configuration: a run goes on with the same only. None: it says all."""


@dataclass(frozen=True)
class FeatureFile(Representation):
    """A row for each training image, in their order.

    Args: path: a file, or a pattern of shards, at any address (`deepal.data.arrays.read`).
    """

    path: str

    def digest(self) -> str:
        return arrays.digest(arrays.read(self.path))


@dataclass(frozen=True)
class Backbone(Representation):
    """The features of a network that is not trained. Each image is read once.

    Args: network: of `deepal.nn`, called with (input shape, number of classes): `partial(Timm, name=..., pretrained=True)`.
    """

    network: Callable[[Sequence[int], int], Network]

    def digest(self) -> None:
        """None: its features are kept by the hash of its weights."""
