"""A comparison as people read it: tables, in a terminal and in Markdown, and files that all of it can be computed from."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deepal import records, tables
from deepal.comparison import Comparison, How, Row, Setting
from deepal.records import Record
from deepal.report import figures
from deepal.report.figures import Center
from deepal.statistics import Difference, Estimate, Reached


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print the tables of all settings."""
    console = console or Console()
    if not console.is_terminal:  # a file, or a pipe: lines as long as they are
        console.width = max(console.width, 200)
    for setting in comparison.settings:
        console.print(f"\n{setting.title}: {setting.how.metric}", style="bold", highlight=False, markup=False)
        for header, *rows in (areas(setting), labels(setting), costs(setting)):
            table = Table(*map(escape, header), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            table.columns[0].overflow = "fold"
            for column in table.columns[1:]:
                column.justify = "right"
            for row in rows:
                table.add_row(*map(escape, row))
            console.print(table)
    console.print(notes(comparison), highlight=False, markup=False)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table, its first line the header, in Markdown."""
    header, *rows = lines
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def areas(setting: Setting) -> list[list[str]]:
    """The table of areas under the curves, held against the baseline: a header, and a row each, the baseline last."""
    header = [setting.how.among, "seeds", f"AULC [{setting.grid[0]:.10g}, {setting.grid[-1]:.10g}]"]
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
    """The table of what it takes to come to a target, and of what is reached in the end: the ceiling first, the baseline
    last."""
    how, most = setting.how, setting.grid[-1]
    efficiency = [f"to {how.baseline}'s end"] if setting.baseline else []
    header = [how.among, *(f"to {target:g}" for target in how.targets), *efficiency, f"{how.metric} at {most:.10g}"]
    rows = [
        [
            row.curves.name,
            *(_reached(each, row.curves.reach) for each in row.targets),
            *([_reached(row.efficiency, row.curves.reach)] if setting.baseline else []),
            _mean(row.final),
        ]
        for row in setting.rows
    ]
    if setting.ceiling is not None:
        name = f"(all {setting.ceiling_labels} labels)"
        rows.insert(0, [name, *["-"] * (len(header) - 2), _mean(setting.ceiling)])
    return [header, *rows]


def costs(setting: Setting) -> list[list[str]]:
    """The table of what a run takes: seconds, the median over seeds, and memory at most."""
    curves = setting.curves.values()
    devices = any(each.memory("device") for each in curves)
    header = [
        setting.how.among,
        "fit [s]",
        "test [s]",
        "scan [s]",
        "select [s]",
        "CPU [s]",
        "memory [MiB]",
        *(["GPU [MiB]"] if devices else []),
    ]
    rows = [
        [
            each.name,
            *(_seconds(each.seconds(phase)) for phase in ("fit", "test", "scan", "select", "cpu")),
            *(_mebibytes(each.memory(where)) for where in ("process", *(["device"] if devices else []))),
        ]
        for each in curves
    ]
    return [header, *rows]


def notes(comparison: Comparison) -> str:
    """How the tables are to be read, what was left out, and what a comparison would say of strategies that are the same."""
    return "\n".join([_how_to_read(comparison.how), *_left_out(comparison), *_by_chance(comparison)])


def _how_to_read(how: How) -> str:
    return (
        f"AULC: area under {how.metric} over the range of the curve; {'less' if how.sign < 0 else 'more'} is better, and a "
        f"gain is positive where a {how.among} is better. ± and [ ]: 95 % intervals of the mean, by Student's t, from 3 "
        f"seeds on. p: paired tests against the baseline, after Holm, from 4 seeds on. What it takes to come to a value: "
        f"the median over all seeds; (k of n) where some never come there. Seconds: medians over seeds."
    )


def _left_out(comparison: Comparison) -> Iterator[str]:
    if comparison.unfinished:
        yield f"{comparison.unfinished} runs are not finished, and are left out."
    for setting in comparison.settings:
        if setting.is_cut:
            yield (
                f"On {setting.title} some runs have more {comparison.how.axis} than others: compared is what all of them "
                f"have, up to {setting.grid[-1]:.10g}."
            )
    if penalties := comparison.penalties():
        absent = {name for setting in comparison.settings for name in setting.curves} - set(penalties.strategies)
        if absent:
            yield f"Not in the penalty matrix, because not in all settings: {', '.join(sorted(absent))}."


def _by_chance(comparison: Comparison) -> Iterator[str]:
    penalties = comparison.penalties()
    if penalties and penalties.chance:
        yield (
            f"The penalty matrix counts {penalties.matrix.sum():.1f} wins; {penalties.chance:.1f} are to be expected where "
            f"no {comparison.how.among} differs from another."
        )
    for setting in comparison.settings:
        for row in setting.rows:
            if row.curves.name == comparison.control and row.gain:
                yield (
                    f"The A/A control on {setting.title}: {comparison.how.baseline}, drawn once more, gains "
                    f"{_gain(row.gain)} on itself; so much is noise."
                )


def write(comparison: Comparison, folder: Path, center: Center = "mean") -> list[Path]:
    """Write `study.csv`, `study.json`, `curves.png`, `curves.svg` and `penalty.svg` into a folder; returns them.

    What was drawn there before and is not drawn now is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(_points(comparison))
    tables.write(folder / "study.csv", list(dict.fromkeys(column for row in rows for column in row)), rows)
    records.write(folder / "study.json", comparison.records)
    figures.save(figures.curves(comparison, center), folder / "curves.png", folder / "curves.svg")
    penalties = figures.penalties(comparison)
    if penalties is None:
        (folder / "penalty.svg").unlink(missing_ok=True)
    else:
        figures.save(penalties, folder / "penalty.svg")
    names = ("study.csv", "study.json", "curves.png", "curves.svg", *(["penalty.svg"] if penalties else []))
    return [folder / name for name in names]


def _points(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A row for each cycle of each run."""
    for setting in comparison.settings:
        for curves in setting.curves.values():
            for run in curves.records:
                yield from _cycles({"setting": setting.title, comparison.how.among: curves.name}, run)
        for run in setting.ceilings.values():
            yield from _cycles({"setting": setting.title, comparison.how.among: "(everything)"}, run)


def _cycles(of: Mapping[str, str], run: Record) -> Iterator[dict[str, Any]]:
    times = run.times
    for cycle, each, people in zip(run.cycles, times["cycles"], times["people"], strict=True):
        yield {
            **of, "seed": run.seed,
            **{name: cycle[name] for name in ("cycle", "labels", "asked", "validation")},
            **dict(sorted(cycle["metrics"].items())),
            **{f"seconds/{phase}": seconds for phase, seconds in sorted(each["seconds"].items())},
            "seconds/people": people,
            **{f"bytes/{where}": held for where, held in sorted(each["memory"].items())},
        }  # fmt: skip


def _mean(value: Estimate) -> str:
    return f"{value.mean:.4f}" + ("" if isnan(value.low) else f" ± {value.high - value.mean:.4f}")


def _gain(value: Difference) -> str:
    gain = value.gain
    return f"{gain.mean:+.4f}" + ("" if isnan(gain.low) else f" [{gain.low:+.4f}, {gain.high:+.4f}]")


def _reached(value: Reached | None, most: float) -> str:
    """Args: most: labels that all runs go to."""
    if value is None:
        return "-"
    median = f"{value.median:.10g}" if isfinite(value.median) else f"> {most:.10g}"
    return median if value.seeds == value.of else f"{median} ({value.seeds} of {value.of})"


def _p(value: float) -> str:
    return "-" if isnan(value) else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _seconds(value: float) -> str:
    return "-" if isnan(value) else f"{value:.2f}"


def _mebibytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:.0f}"
