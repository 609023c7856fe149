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
        tiles = [Tile(torch.cat([_plain(each), _plain(made)], 2), data.name(at)) for at, each, made in pairs]
        title = f"cycle {cycle}: images, and what the autoencoder makes of them"
        contact_sheet.draw_pages(tiles, list, file, title)


def _plain(picture: Tensor) -> Tensor:
    """Values from 0 to 1."""
    values = picture.float() - picture.min()
    return values / values.max().clamp_min(1e-12)
