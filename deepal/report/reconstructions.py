"""What an autoencoder makes of images, as pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from deepal import contact_sheet
from deepal.contact_sheet import Tile
from deepal.ledger import Result
from deepal.task import Catalog
from deepal.watching import Watcher


class Reconstructions(Watcher):
    """Draws `reconstructions/000.png` into the run folder for each cycle whose module says `reconstruction` (`VAAL`): some
    images of the pool, each with what the latent knows of it. Where all look alike, the latent has collapsed."""

    def begin(self, folder: Path, budget: int, results: Sequence[Result]) -> None:
        self.folder = folder

    def reconstructed(self, cycle: int, positions: Sequence[int], again: Tensor, data: Catalog) -> None:
        pictures = data.pictures(positions)
        if pictures is None:
            return
        file = self.folder / "reconstructions" / f"{cycle:03d}.png"
        file.parent.mkdir(exist_ok=True)
        pairs = zip(positions, pictures, again, strict=True)
        tiles = [Tile(torch.cat(_alike(each, made), 2), data.name(at)) for at, each, made in pairs]
        title = f"cycle {cycle}: images, and what the autoencoder makes of them"
        contact_sheet.draw_pages(tiles, list, file, title)


def _alike(picture: Tensor, made: Tensor) -> list[Tensor]:
    """Both in bytes, on the scale of the picture: what is paler than it, or of another color, is drawn so."""
    if picture.dtype == torch.uint8:
        low, high = 0.0, 1.0
        picture = picture / 255
    else:
        low, high = float(picture.min()), float(picture.max())
    return [((each - low) / max(high - low, 1e-12)).clamp(0, 1).mul(255).round().byte() for each in (picture, made)]
