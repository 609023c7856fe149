"""A comparison as people read it: tables, in a terminal and in Markdown, and files that all of it can be computed from."""

from collections.abc import Iterator, Sequence
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from deepal import records, tables
from deepal.comparison import Comparison, Row, Setting
from deepal.report import figures
from deepal.report.figures import Center
from deepal.statistics import Difference, Estimate, Reached


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print the tables of all settings."""
    console = console or Console()
    for setting in comparison.settings:
        console.print(f"\n{setting.title}", style="bold", highlight=False)
        for header, *rows in (areas(setting), labels(setting), costs(setting)):
            table = Table(*header, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            table.columns[0].overflow = "fold"
            for column in table.columns[1:]:
                column.justify = "right"
            for row in rows:
                table.add_row(*row)
            console.print(table)
    console.print(notes(comparison), highlight=False)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table, its first line the header, in Markdown."""
    header, *rows = lines
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def areas(setting: Setting) -> list[list[str]]:
    """The table of areas under the curves, held against the baseline: a header, and a row each, the baseline last."""
    header = ["strategy", "seeds", f"AULC [{setting.grid[0]:g}, {setting.grid[-1]:g}]"]
    if setting.baseline is None:
        return [header, *([row.curves.name, str(len(row.curves.seeds)), _mean(row.area)] for row in setting.rows)]
    header += [f"gain on {setting.how.baseline} [95 %]", "wins", "p (t)", "p (Wilcoxon)"]
    return [header, *(list(_held_against_the_baseline(row)) for row in setting.rows)]


def _held_against_the_baseline(row: Row) -> Iterator[str]:
    yield from (row.curves.name, str(len(row.curves.seeds)), _mean(row.area))
    if row.gain is None:
        yield from ("-",) * 4
        return
    yield _gain(row.gain)
    yield f"{row.gain.wins} of {row.gain.gain.seeds}" + (f", {row.gain.ties} equal" if row.gain.ties else "")
    yield from (_p(row.t_test), _p(row.wilcoxon))


def labels(setting: Setting) -> list[list[str]]:
    """The table of labels to a target, and of what all of them reach: the ceiling first, the baseline last."""
    how = setting.how
    efficiency = [f"to {how.baseline}'s end"] if setting.baseline else []
    header = [
        "strategy",
        *(f"to {target:g}" for target in how.targets),
        *efficiency,
        f"{how.metric} at {setting.grid[-1]:g}",
    ]
    rows = [
        [row.curves.name, *map(_labels, [*row.targets, *([row.efficiency] if row.efficiency else [])]), _mean(row.final)]
        for row in setting.rows
    ]
    if setting.ceiling is not None:
        name = f"(all {setting.ceiling_labels} labels)"
        rows.insert(0, [name, *["-"] * (len(header) - 2), _mean(setting.ceiling)])
    return [header, *rows]


def costs(setting: Setting) -> list[list[str]]:
    """The table of seconds and memory: of a run, on average."""
    header = ["strategy", "fit [s]", "scan [s]", "select [s]", "CPU [s]", "memory [MiB]"]
    rows = [
        [
            each.name,
            *(f"{each.seconds(phase):.2f}" for phase in ("fit", "scan", "select", "cpu")),
            f"{each.memory() / 2**20:.0f}",
        ]
        for each in setting.curves.values()
    ]  # fmt: skip
    return [header, *rows]


def notes(comparison: Comparison) -> str:
    """How the tables are to be read, and what a comparison of strategies that do not differ would say."""
    lines = [
        "AULC: area under the curve over its range. ± and [ ]: 95 % intervals of the mean, by Student's t, from 3 seeds "
        "on. p: paired tests against the baseline, after Holm, from 4 seeds on. Labels to a value: the median over all "
        "seeds; (k of n) where some never come there."
    ]
    penalties = comparison.penalties()
    if penalties and penalties.false_wins:
        names = len(penalties.strategies)
        lines.append(
            f"The penalty matrix counts {penalties.matrix.sum():.1f} wins; "
            f"{penalties.false_wins * names * (names - 1):.1f} are to be expected where no strategy differs from another."
        )
    if comparison.control:
        for setting in comparison.settings:
            for row in setting.rows:
                if row.curves.name == comparison.control and row.gain:
                    lines.append(
                        f"The A/A control on {setting.title}: {comparison.how.baseline} once more differs from itself by "
                        f"{_gain(row.gain)}: gains within that say nothing."
                    )
    return "\n".join(lines)


def write(comparison: Comparison, folder: Path, center: Center = "mean") -> list[Path]:
    """Write `curves.png`, `curves.svg`, `penalty.svg`, `study.csv` and `study.json` into a folder; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "curves.png", folder / "curves.svg"]
    figures.draw_curves(comparison, center, *written)
    if figures.draw_penalties(comparison, folder / "penalty.svg"):
        written.append(folder / "penalty.svg")
    rows = list(_points(comparison))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    tables.write(folder / "study.csv", columns, rows)
    records.write(folder / "study.json", comparison.records)
    return [*written, folder / "study.csv", folder / "study.json"]


def _points(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A row for each cycle of each run."""
    for setting in comparison.settings:
        for curves in setting.curves.values():
            for run in curves.records:
                for cycle, times in zip(run.cycles, run.times["cycles"], strict=True):
                    yield {
                        "setting": setting.title, "strategy": curves.name, "seed": run.seed,
                        **{name: cycle[name] for name in ("cycle", "labels", "asked", "validation")},
                        **dict(sorted(cycle["metrics"].items())),
                        **{f"seconds/{phase}": seconds for phase, seconds in sorted(times["seconds"].items())},
                    }  # fmt: skip


def _mean(value: Estimate) -> str:
    return f"{value.mean:.4f}" + ("" if isnan(value.low) else f" ± {value.high - value.mean:.4f}")


def _gain(value: Difference) -> str:
    gain = value.gain
    return f"{gain.mean:+.4f}" + ("" if isnan(gain.low) else f" [{gain.low:+.4f}, {gain.high:+.4f}]")


def _labels(value: Reached) -> str:
    if value.seeds == value.of:
        return f"{value.median:g}"
    return f"{f'{value.median:g}' if isfinite(value.median) else 'never'} ({value.seeds} of {value.of})"


def _p(value: float) -> str:
    return "-" if isnan(value) else "<0.0001" if value < 0.0001 else f"{value:.4f}"
