"""Tables and figures of a comparison: the same bytes for the same input, and what they say."""

import csv
import xml.etree.ElementTree as xml
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from deepal import records, statistics
from deepal.comparison import Comparison, How
from deepal.report import comparing, figures
from tests.test_comparison import RANDOM, pairs, record


def whole():
    """Two strategies, a control and a ceiling, of five seeds."""
    coin = np.random.default_rng(1)
    again = [record("Random(replica=1)", i, (coin.normal([0.5, 0.6, 0.7], 0.01)).tolist()) for i in range(5)]
    for each in again:
        each.config["strategy"] = {**RANDOM, "replica": 1}
    everything = {"class": "deepal.data.initial.Everything"}
    ceilings = [record("Random", i, [0.95 + i / 100], [1200], initial=everything) for i in range(5)]
    return Comparison([*pairs(), *again, *ceilings], How(targets=(0.65, 0.9)))


@pytest.mark.parametrize("center", ["mean", "median"])
def test_the_same_input_gives_the_same_bytes(tmp_path, center):
    written = [comparing.write(whole(), tmp_path / name, center) for name in ("one", "other")]
    assert [each.name for each in written[0]] == ["study.csv", "study.json", "curves.png", "curves.svg", "penalty.svg"]
    for one, other in zip(*written, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    shown = Image.open(written[0][2])
    assert shown.width > 800
    assert len(shown.convert("RGB").getcolors(2**20)) > 50
    for each in written[0][3:]:
        assert xml.parse(each).getroot().tag.endswith("svg")


def test_a_study_that_was_written_can_be_compared_again(tmp_path):
    comparing.write(whole(), tmp_path / "one")
    again = Comparison(records.read(tmp_path / "one"), How(targets=(0.65, 0.9)))
    comparing.write(again, tmp_path / "other")
    for name in ("curves.png", "curves.svg", "penalty.svg", "study.csv", "study.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_every_point_is_in_the_table(tmp_path):
    comparing.write(whole(), tmp_path)
    with (tmp_path / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 5 * 3 + 5
    assert [row["test/accuracy"] for row in rows if row["strategy"] == "(everything)"][:2] == ["0.95", "0.96"]
    assert {row["bytes/process"] for row in rows} == {str(2**30)}
    margin = [row for row in rows if row["strategy"] == "Margin" and row["seed"] == "3"]
    assert [row["labels"] for row in margin] == ["20", "30", "40"]
    assert float(margin[2]["test/accuracy"]) == whole().settings[0].curves["Margin"].values[3, 2]


def test_what_the_tables_say():
    (setting,) = whole().settings
    header, margin, *_, random = comparing.areas(setting)
    assert header[:4] == ["strategy", "seeds", "AULC [20, 40]", "gain on Random [95 %]"]
    assert margin[0] == "Margin"
    assert margin[1] == "5"
    assert "[+0.0" in margin[3]
    assert margin[4] == "5 of 5"
    assert random == ["Random", "5", random[2], "-", "-", "-", "-"]
    header, ceiling, margin, *_ = comparing.labels(setting)
    assert header == ["strategy", "to 0.65", "to 0.9", "to Random's end", "test/accuracy at 40"]
    assert ceiling[0] == "(all 1200 labels)"
    assert ceiling[-1].startswith("0.9700 ± ")
    end = setting.curves["Random"].values[:, -1].mean()
    took = statistics.reached(statistics.labels_to((20, 30, 40), setting.curves["Margin"].values, end))
    assert margin[1:4] == ["30", "> 40 (0 of 5)", f"{took.median:g}"]
    assert comparing.costs(setting)[1][1:] == ["6.00", "-", "3.00", "1.50", "9.00", "1024"]
    assert comparing.markdown(comparing.costs(setting)).splitlines()[1].startswith("| --- | ---: |")


def test_the_control_and_chance_are_said():
    said = comparing.notes(whole())
    again = next(row for row in whole().settings[0].rows if row.curves.name == "Random(replica=1)")
    assert f"Random, drawn once more, gains {again.gain.gain.mean:+.4f} [" in said
    penalties = whole().penalties()
    assert f"counts {penalties.matrix.sum():.1f} wins; {0.05 * 3:.1f} are to be expected" in said  # three pairs


def test_all_of_it_is_printed():
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    comparing.show(whole(), console)
    text = console.export_text()
    assert "fit [s]" in text
    for word in ("Digits", "Margin", "Random(replica=1)", "(all 1200 labels)", "memory [MiB]", "after Holm"):
        assert word in text


def test_no_interval_is_drawn_below_three_seeds(tmp_path):
    few = Comparison([each for each in pairs() if each.seed < 2])
    assert "±" not in comparing.markdown(comparing.areas(few.settings[0]))
    middle, low, high = figures._band(few.settings[0].curves["Margin"], "mean")
    assert np.isfinite(middle).all()
    assert np.isnan([*low, *high]).all()
    assert figures.curves(few).axes[0].get_title(loc="left") == "Digits: mean of 2 seeds"


def test_runs_without_a_baseline_are_drawn_without_penalties(tmp_path):
    alone = Comparison([each for each in pairs() if each.title["strategy"] == "Margin"])
    comparing.write(whole(), tmp_path)
    assert "penalty.svg" not in [each.name for each in comparing.write(alone, tmp_path)]
    assert not (tmp_path / "penalty.svg").exists()
    assert comparing.areas(alone.settings[0])[0] == ["strategy", "seeds", "AULC [20, 40]"]


def test_several_settings_and_many_strategies_are_drawn(tmp_path):
    many = [
        replace(each, title={**each.title, "strategy": f"A strategy of a very long name, number {i}"},
                config={**each.config, "strategy": {"class": f"s{i}"}})
        for i in range(9) for each in pairs() if each.title["strategy"] == "Margin"
    ]  # fmt: skip
    other = pairs(data={"class": "data.Digits", "imbalance": 5})
    found = Comparison([*pairs(), *many, *other])
    comparing.write(found, tmp_path)
    second, first = figures.curves(found).axes
    assert len(named(second)) == 2
    heights = sorted(height for _, height in named(first))
    low, high = first.get_ylim()
    assert len(heights) == 11
    assert min(np.diff(heights)) > 0.04 * (high - low)  # all are legible
    assert "Not in the penalty matrix, because not in all settings: A strategy" in comparing.notes(found)


def test_settings_of_other_metrics_of_time():
    priced = Comparison(pairs(), How(price=2.0))
    assert (
        figures.axis_title(priced.settings[0]) == "cost of labels at 2 each (initial ones included, 3 more for validation)"
    )
    people = Comparison(pairs(), How(axis="people"))
    assert figures.axis_title(people.settings[0]) == "seconds that people took to answer"


def test_what_the_curves_show():
    """The mean and its interval, or the median and the middle half, and the ceiling, of what was measured."""
    (setting,) = whole().settings
    margin = setting.curves["Margin"].values
    half = stats.t.ppf(0.975, 4) * margin.std(0, ddof=1) / np.sqrt(5)
    quarters = np.quantile(margin, (0.25, 0.75), axis=0)
    for center, middle, band in (("mean", margin.mean(0), (margin.mean(0) - half, margin.mean(0) + half)),
                                 ("median", np.median(margin, 0), quarters)):  # fmt: skip
        (axes,) = figures.curves(whole(), center).axes
        assert axes.lines[0].get_ydata() == pytest.approx(middle)
        assert axes.lines[0].get_xdata().tolist() == [20, 30, 40]
        corners = axes.collections[0].get_paths()[0].vertices
        for at, low, high in zip((20, 30, 40), *band, strict=True):
            drawn = corners[corners[:, 0] == at][:, 1]
            assert (drawn.min(), drawn.max()) == pytest.approx((low, high))
        assert axes.lines[3].get_ydata() == [setting.ceiling.mean] * 2
        heights = dict(named(axes))
        assert {*heights} == {*setting.curves}
        pieces = {each.get_ydata()[0]: each for each in axes.lines[4:]}
        for line, name in zip(axes.lines, setting.curves, strict=False):
            piece = pieces[heights[name]]
            for of in ("get_color", "get_marker", "get_linestyle"):
                assert getattr(piece, of)() == getattr(line, of)()


def named(axes):
    """The names that stand beside the curves, and at what height."""
    beside = [each for each in axes.texts if each.get_transform() == axes.get_yaxis_transform()]
    return [(each.get_text(), each.get_position()[1]) for each in beside]


def test_what_the_matrices_show():
    penalties, (_, rates) = whole().penalties(), whole().settings[0].win_rates()
    first, second = figures.penalties(whole()).axes
    assert first.images[0].get_array().tolist() == [*penalties.matrix.tolist(), penalties.losses.tolist()]
    assert second.images[0].get_array()[:3].tolist() == rates.tolist()
    others = [[rates[i, j] for i in range(3) if i != j] for j in range(3)]
    assert second.images[0].get_array()[3].tolist() == pytest.approx(np.mean(others, 1).tolist())
    title = first.get_title(loc="left")
    assert "in so many of 1 setting (" in title
    assert "By chance alone: 0.025 an entry, 0.15 in all" in title
    i, j = (penalties.strategies.index(name) for name in ("Random", "Random(replica=1)"))
    assert f"against itself: {penalties.matrix[i, j]:.2g} and {penalties.matrix[j, i]:.2g}" in title


def test_memory_of_a_gpu_has_its_column():
    on_gpu = [replace(each, times={**each.times, "cycles": [
        {**cycle, "memory": {"process": 2**30, "device": 2**21}} for cycle in each.times["cycles"]
    ]}) for each in pairs()]  # fmt: skip
    header, row, _ = comparing.costs(Comparison(on_gpu).settings[0])
    assert (header[-1], row[-1]) == ("GPU [MiB]", "2")
