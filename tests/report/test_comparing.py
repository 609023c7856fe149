"""Tables and figures of a comparison: the same bytes for the same input, and what they say."""

import csv
import xml.etree.ElementTree as xml
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from deepal import records
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
    assert [each.name for each in written[0]] == ["curves.png", "curves.svg", "penalty.svg", "study.csv", "study.json"]
    for one, other in zip(*written, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    shown = Image.open(written[0][0])
    assert shown.width > 800
    assert len(shown.convert("RGB").getcolors(2**20)) > 50
    for each in written[0][1:3]:
        assert xml.parse(each).getroot().tag.endswith("svg")


def test_a_study_that_was_written_can_be_compared_again(tmp_path):
    comparing.write(whole(), tmp_path / "one")
    again = Comparison(records.read(tmp_path / "one"), How(targets=(0.65, 0.9)))
    comparing.write(again, tmp_path / "other")
    for name in ("curves.png", "penalty.svg", "study.csv", "study.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_every_point_is_in_the_table(tmp_path):
    comparing.write(whole(), tmp_path)
    with (tmp_path / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 5 * 3
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
    assert margin[1:4] == ["30", "never (0 of 5)", margin[3]]
    assert comparing.costs(setting)[1][1:] == ["6.00", "3.00", "1.50", "9.00", "1024"]
    assert comparing.markdown(comparing.costs(setting)).splitlines()[1].startswith("| --- | ---: |")


def test_the_control_and_chance_are_said():
    said = comparing.notes(whole())
    assert "The A/A control on Digits: Random once more differs from itself by" in said
    assert "are to be expected where no strategy differs" in said


def test_all_of_it_is_printed():
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    comparing.show(whole(), console)
    text = console.export_text()
    for word in ("Digits", "Margin", "Random(replica=1)", "(all 1200 labels)", "memory [MiB]", "after Holm"):
        assert word in text


def test_no_interval_is_drawn_below_three_seeds(tmp_path):
    few = Comparison([each for each in pairs() if each.seed < 2])
    assert "±" not in comparing.markdown(comparing.areas(few.settings[0]))
    middle, low, high = figures._band(few.settings[0].curves["Margin"], "mean")
    assert np.isfinite(middle).all()
    assert np.isnan([*low, *high]).all()
    comparing.write(few, tmp_path)


def test_runs_without_a_baseline_are_drawn_without_penalties(tmp_path):
    alone = Comparison([each for each in pairs() if each.title["strategy"] == "Margin"])
    assert "penalty.svg" not in [each.name for each in comparing.write(alone, tmp_path)]
    assert comparing.areas(alone.settings[0])[0] == ["strategy", "seeds", "AULC [20, 40]"]


def test_several_settings_and_many_strategies_are_drawn(tmp_path):
    many = [
        replace(each, title={**each.title, "strategy": f"A strategy of a very long name, number {i}"},
                config={**each.config, "strategy": {"class": f"s{i}"}})
        for i in range(9) for each in pairs() if each.title["strategy"] == "Margin"
    ]  # fmt: skip
    other = pairs(data={"class": "data.Digits", "imbalance": 5})
    comparing.write(Comparison([*pairs(), *many, *other]), tmp_path)


def test_settings_of_other_metrics_of_time():
    priced = Comparison(pairs(), How(price=2.0))
    assert (
        figures.axis_title(priced.settings[0]) == "cost of labels at 2 each (initial ones included, 3 more for validation)"
    )
    people = Comparison(pairs(), How(axis="people"))
    assert figures.axis_title(people.settings[0]) == "seconds that people took to answer"
