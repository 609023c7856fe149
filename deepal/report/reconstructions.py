"""What an autoencoder makes of images, as pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from deepal import contact_sheet
from deepal.contact_sheet import Tile
from deepal.entries import Result
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
    """Both in bytes, on the scale of the picture: what is paler than it, or of another color, is drawn so. Both as large as
    the picture, which may be larger than what the module reads, and in as many channels as either."""
    low, high = float(picture.min()), float(picture.max())
    if picture.dtype == torch.uint8:
        low, high, picture = 0.0, 1.0, picture / 255
    made = interpolate(made[None], picture.shape[1:], mode="nearest-exact")[0]
    channels = max(len(picture), len(made))
    both = [((each - low) / max(high - low, 1e-12)).clamp(0, 1).mul(255).round().byte() for each in (picture, made)]
    return [each.expand(channels, -1, -1) for each in both]
