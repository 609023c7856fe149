"""What a model could not hold on to while it was trained, as pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepal import contact_sheet
from deepal.contact_sheet import Tile
from deepal.entries import Result
from deepal.report import figures
from deepal.report.figures import COLORS, GRAY
from deepal.task import Catalog
from deepal.watching import Watcher

_SHOWN = 24  # images


class ForgettingPictures(Watcher):
    """Draws `forgetting/000.png` into the run folder for each cycle in which `ForgettingEvents` were recorded: how many
    labeled images were forgotten how often, and those that were forgotten most. Labels that are wrong are often among them,
    and stand out where a simulation knows."""

    def begin(self, folder: Path, budget: int, results: Sequence[Result]) -> None:
        self.folder = folder

    def forgot(self, cycle: int, forgetting: Sequence[Mapping[str, Any]], data: Catalog) -> None:
        file = self.folder / "forgetting" / f"{cycle:03d}.png"
        file.parent.mkdir(exist_ok=True)
        draw(forgetting, data, f"cycle {cycle}: what was right, and wrong the next time", file)


def draw(forgetting: Sequence[Mapping[str, Any]], data: Catalog, title: str, path: Path) -> None:
    """Draw a histogram of events, and the images with most of them. Args: forgetting: as of `Ledger.forgetting`."""
    learned = Counter(each["events"] for each in forgetting if each["learned"])
    never = sum(not each["learned"] for each in forgetting)
    most = forgetting[:_SHOWN]
    pictures = data.pictures([each["position"] for each in most])
    figure = figures.new_figure(11 if pictures is not None else 5.4, 4.6)
    axes, *beside = figure.subplots(1, 1 if pictures is None else 2, squeeze=False).flat
    last = max(learned, default=0)
    axes.bar(list(learned), list(learned.values()), color=COLORS[0])
    if never:
        axes.bar([last + 2], [never], color=COLORS[1])
        axes.annotate(
            "never\nlearned", (last + 2, never), ha="center", va="bottom", color=COLORS[1], fontsize=9,
            xytext=(0, 2), textcoords="offset points",
        )  # fmt: skip
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("forgetting events of a labeled image", color=GRAY)
    axes.set_ylabel("images", color=GRAY)
    axes.set_title(f"{title}\nnever forgotten: {learned[0]:,} of {len(forgetting):,}", loc="left", fontsize=11)
    axes.margins(y=0.15)
    figures.plain(axes)
    for sheet in beside:
        assert pictures is not None
        tiles = [_tile(picture, each) for picture, each in zip(pictures, most, strict=True)]
        sheet.imshow(np.asarray(contact_sheet.draw(tiles)))
        sheet.set_axis_off()
        sheet.set_title("the most forgotten, with their labels", loc="left", fontsize=11)
    figures.save(figure, path)


def _tile(picture: contact_sheet.Tensor, image: Mapping[str, Any]) -> Tile:
    times = f"{image['events']} times" if image["learned"] else f"never in {image['shown']}"
    wrong = ", which is wrong" if image["wrong"] else ""
    return Tile(picture, f"{times}\n{image['label']}{wrong}", alarming=bool(image["wrong"]))
