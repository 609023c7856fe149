"""The images that each strategy asks for first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepal.report import figures
from deepal.report.figures import GRAY
from sections.base import RESULTS, measured, paragraph

_SIDE = 28  # pixels of an image


@dataclass(frozen=True)
class Asked:
    """Of the studies on two pools, the first images of two queries of each strategy.

    Args: reading: what is to be seen there.
    """

    reading: str
    name: str = "asked"
    claims: Sequence[object] = ()
    is_made = True

    def lines(self) -> Iterator[str]:
        few, many = self._measured["labels"]
        yield "## MNIST: what each asks for first"
        yield paragraph(f"""
            The first {self._measured["shown"]} images of the query with {few} labels (left) and of that with {many}
            (right), in the order asked, of the studies above, classes alike, seed {self._measured["seed"]}.
        """)
        yield "    python benchmarks/asked.py --root DATA --out results/asked"
        yield f"![The first images of two queries](reproduction/{self.name}.png)"
        yield paragraph(self.reading)

    def draw(self, folder: Path) -> None:
        names, shown = self._measured["strategies"], self._measured["shown"]
        images = np.asarray(Image.open(RESULTS / self.name / "images.png"))
        figure = figures.new_figure(11, 0.6 + 0.27 * len(names))
        halves = np.split(255 - images, len(self._measured["labels"]), 1)
        for axes, labels, half in zip(figure.subplots(1, len(halves)), self._measured["labels"], halves, strict=True):
            axes.imshow(half, cmap="gray", vmin=0, vmax=255, aspect="equal", interpolation="lanczos")
            axes.set_yticks(_SIDE * (np.arange(len(names)) + 0.5), names if half is halves[0] else [""] * len(names))
            axes.set_xticks([])
            axes.set_title(f"{shown} of the query with {labels} labels", loc="left", fontsize=10)
            axes.tick_params(length=0, colors=GRAY, labelsize=8)
            for side in axes.spines.values():
                side.set_visible(False)
        figures.save(figure, folder / f"{self.name}.png")

    @cached_property
    def _measured(self) -> dict[str, Any]:
        return measured(self.name)


ASKED = Asked(
    reading="""
        Where a score hangs on one thing, what it puts first is alike: CAL begins with eighteen twos, of which the network
        says something else than of the labeled images near them, and its curve suffers; EGL begins with bold digits, whose
        embeddings are long; PredictedLoss with noughts and sixes, Unlabeledness with wide digits, whatever is labeled.
        ALFAMix, which clusters its candidates, and Margin ask for all digits from the start.
    """
)
