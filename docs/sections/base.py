"""What a section of the page is: a study, and what it was made to show."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deepal import records
from deepal.comparison import Comparison, How, Row, Setting
from deepal.report import comparing, figures

RESULTS = Path(__file__).parent.parent.parent / "results"
Found = tuple[str, bool]
"""What something came to, and whether that is enough."""


class Section(Protocol):
    """A part of the page. Args: name: of its folder in `results/`; claims: what has to be shown there; is_made: whether
    there is anything in it."""

    @property
    def name(self) -> str: ...

    @property
    def claims(self) -> Sequence[object]: ...

    @property
    def is_made(self) -> bool: ...

    def lines(self) -> Iterator[str]:
        """The text, paragraph by paragraph."""
        ...

    def draw(self, folder: Path) -> None:
        """Draw the figures that the text shows."""
        ...


@dataclass(frozen=True)
class Claim:
    """Something that a study has to show.

    Args: says: what; found: what it came to, and whether that is enough.
    """

    says: str
    found: Callable[[Setting], Found]


@dataclass(frozen=True)
class Study:
    """A study with what it was made to show. Args: name: of its folder; commands: that made it; reading: what is said of
    it in the end; the others speak for themselves."""

    name: str
    title: str
    protocol: str
    commands: Sequence[str]
    how: How
    claims: Sequence[Claim]
    reading: Callable[[Setting], str]

    def lines(self) -> Iterator[str]:
        yield f"## {self.title}"
        yield paragraph(self.protocol)
        yield "\n".join(f"    {each}" for each in self.commands)
        if not self.is_made:
            yield "**Open**: it has not been run to its end yet."
            return
        comparison = self._comparison()
        (setting,) = comparison.settings
        runs = comparison.records
        yield made_with([run.seed for run in runs], [each for run in runs for each in run.environments])
        yield f"![Learning curves](reproduction/{self.name}.svg)"
        yield from (comparing.markdown(each(setting)) for each in (comparing.areas, comparing.labels, comparing.costs))
        yield comparing.notes(comparison).replace("\n", "\n\n")
        if figures.penalties(comparison):
            yield f"![Penalties and win rates](reproduction/{self.name}-penalty.svg)"
        yield answers([(claim.says, *claim.found(setting)) for claim in self.claims])
        yield paragraph(self.reading(setting))

    @property
    def is_made(self) -> bool:
        return (RESULTS / self.name / "study.json").exists()

    def draw(self, folder: Path) -> None:
        if not self.is_made:
            return
        comparison = self._comparison()
        figures.save(figures.curves(comparison), folder / f"{self.name}.svg")
        if penalties := figures.penalties(comparison):
            figures.save(penalties, folder / f"{self.name}-penalty.svg")

    def _comparison(self) -> Comparison:
        return Comparison(records.read(RESULTS / self.name / "study.json"), self.how)


def measured(name: str) -> Any:
    """What was measured for a section that is no study."""
    return json.loads((RESULTS / name / "measured.json").read_text(encoding="utf-8"))


def answers(found: Sequence[tuple[str, str, bool]]) -> str:
    """The table of what was to be shown."""
    rows = [[says, what, "yes" if holds else "**no**"] for says, what, holds in found]
    return comparing.markdown([["to be shown", "found", ""], *rows])


def paragraph(text: str) -> str:
    """As one line."""
    return " ".join(text.split())


def row(setting: Setting, name: str) -> Row:
    """Of this strategy."""
    return next(each for each in setting.rows if each.curves.name == name)


def made_with(seeds: Sequence[int], environments: Iterable[dict[str, Any]]) -> str:
    """Seeds, device, threads and versions of all runs."""
    places = {
        f"{each['device']}, {each['threads']} thread{'s' * (each['threads'] > 1)}, Python {each['python']}, torch "
        f"{each['torch']}, Lightning {each['lightning']}, deepal {each['deepal']}"
        for each in environments
    }
    return f"Made with seeds {min(seeds)} to {max(seeds)} on {'; '.join(sorted(places))}."
