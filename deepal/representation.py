"""Where the embeddings come from that strategies compare, if not from the module that is trained."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from deepal.data import arrays
from deepal.nn import Network

_BLOCK = 8192  # rows at a time


class Representation(ABC):
    """Embeddings of all training images, the same in each cycle: `FeatureFile` or `Backbone`."""

    @abstractmethod
    def digest(self, begun_with: int, images: int) -> str | None:
        """A hash of what is not said by the configuration: a run goes on with the same only. None: it says all.

        Args: begun_with: training images that the run has begun with, of which it is; images: how many there are now.
        """


@dataclass(frozen=True)
class FeatureFile(Representation):
    """A row for each training image, in their order.

    Args: path: a file, or a pattern of shards, at any address (`deepal.data.arrays.read`).
    """

    path: str

    def rows(self, images: int) -> Tensor:
        """The rows, mapped. Raises ValueError where there is not one for each of so many images."""
        rows = arrays.read(str(self.path))
        if len(rows) != images or rows.ndim != 2 or rows.dtype not in arrays.FLOATS:
            raise ValueError(
                f"embedding_from={self!r} holds {list(rows.shape)} numbers of {rows.dtype}, and there are {images} "
                f"training images; it must hold floats, a row for each in their order."
            )
        return rows

    def digest(self, begun_with: int, images: int) -> str:
        rows = self.rows(images)
        for first, some in zip(range(0, images, _BLOCK), rows.split(_BLOCK), strict=True) if images else ():
            if wrong := (~some.isfinite().all(1)).nonzero().flatten().tolist():
                raise ValueError(f"embedding_from={self!r}: row {first + wrong[0]} is NaN or infinite.")
        return arrays.digest(rows[:begun_with])


@dataclass(frozen=True)
class Backbone(Representation):
    """The features of a network that is not trained. Each image is read once.

    Args: network: of `deepal.nn`, called with (input shape, number of classes): `partial(Timm, name=..., pretrained=True)`.
    """

    network: Callable[[Sequence[int], int], Network]

    def __post_init__(self) -> None:
        if not callable(self.network) or isinstance(self.network, nn.Module):
            raise ValueError(
                f"Backbone(network={self.network!r}) takes what makes a network: partial(Timm, name=...), say."
            )

    def digest(self, begun_with: int, images: int) -> None:
        """None: its features are kept by the hash of its weights."""
