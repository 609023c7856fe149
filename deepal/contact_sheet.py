"""Contact sheets: many images on one page, each with a line of text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, sqrt
from pathlib import Path
from typing import TypeVar

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from deepal.folder import write_atomically

Question = TypeVar("Question")

TILE, LINE, GAP = 128, 16, 10
"""Pixels: an image's longer side, a line of text, and between."""

FONT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")  # Pillow's own knows few letters

PAGE = 100
"""Images a page."""

INK, ALARM = (40, 40, 40), (213, 94, 0)  # vermillion, which color-blind people tell from black (Okabe & Ito, 2008)


@dataclass(frozen=True)
class Tile:
    """One image of a sheet.

    Args:
        picture: (channels, height, width), uint8 or float of any range.
        text: lines below it.
        alarming: whether the text is to stand out.
    """

    picture: Tensor
    text: str
    alarming: bool = False


def draw(tiles: Sequence[Tile], title: str = "") -> Image.Image:
    """All tiles on one page, left to right and down."""
    columns = max(1, ceil(sqrt(len(tiles) * 1.4)))
    lines = max((tile.text.count("\n") + 1 for tile in tiles), default=1)
    width, height = TILE + GAP, TILE + LINE * lines + GAP
    top = LINE + GAP if title else 0
    page = Image.new("RGB", (columns * width + GAP, ceil(len(tiles) / columns) * height + GAP + top), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.truetype(FONT, 11)
    pen.text((GAP, GAP), title, INK, ImageFont.truetype(FONT, 13))
    for i, tile in enumerate(tiles):
        left, upper = GAP + i % columns * width, GAP + top + i // columns * height
        page.paste(_as_image(tile.picture), (left, upper))
        for number, line in enumerate(tile.text.split("\n")):
            at = (left, upper + TILE + 1 + number * LINE)
            pen.text(at, _fitting(line, pen, font), ALARM if tile.alarming else INK, font)
    return page


def draw_pages(
    questions: Sequence[Question], tiles: Callable[[Sequence[Question]], Sequence[Tile]], path: Path, title: str = ""
) -> None:
    """Write `path`, and further pages beside it as `stem-2.png`, `stem-3.png`, where there are more than fit one.

    Args: questions: what is shown; tiles: how some of them look, asked page by page.
    """
    for page, first in enumerate(range(0, len(questions), PAGE), 1):
        sheet = draw(tiles(questions[first : first + PAGE]), title)
        file = path if page == 1 else path.with_name(f"{path.stem}-{page}{path.suffix}")
        write_atomically(file, partial(_save, sheet))


def _save(sheet: Image.Image, file: Path) -> None:
    sheet.save(file, "PNG")


def _as_image(picture: Tensor) -> Image.Image:
    """Scaled to a tile, small ones with hard edges; floats from their least to their largest value."""
    if picture.dtype != torch.uint8:
        low, high = picture.min(), picture.max()
        picture = ((picture - low) / (high - low).clamp_min(1e-12) * 255).to(torch.uint8)
    picture = picture[:3] if len(picture) >= 3 else picture[:1].expand(3, -1, -1)
    scale = TILE / max(picture.shape[1:])
    size = [max(1, round(side * scale)) for side in picture.shape[1:]]
    mode = "nearest-exact" if scale > 1 else "area"
    return Image.fromarray(
        functional.interpolate(picture[None].float(), size, mode=mode)[0].round().byte().permute(1, 2, 0).numpy()
    )


def _fitting(line: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """A line no wider than a tile: what comes before two blanks, and of the rest the end, where names differ."""
    if pen.textlength(line, font) <= TILE:
        return line
    head, blanks, name = line.rpartition("  ")
    while name and pen.textlength(f"{head}{blanks}…{name}", font) > TILE:
        name = name[1:]
    return f"{head}{blanks}…{name}"
