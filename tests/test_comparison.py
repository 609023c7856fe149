"""Records of runs, grouped and compared: what belongs together, what is paired, which way is better."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from deepal import records, statistics
from deepal.comparison import Comparison, ComparisonError, How
from deepal.records import Record, RecordError

RANDOM = {"class": "deepal.strategies.passive.Random", "replica": 0}
MARGIN = {"class": "deepal.strategies.uncertainty.Margin", "reduce": "mean"}
LABELS = (20, 30, 40)


def record(strategy="Random", seed=0, accuracy=(0.5, 0.6, 0.7), labels=LABELS, **changes):
    config = {
        "class": "deepal.learner.Learner", "strategy": {"class": f"strategies.{strategy}"}, "seed": seed,
        "data": {"class": "data.Digits", "imbalance": None}, "module": {"class": "Classifier"},
        "initial": {"class": "deepal.data.initial.Balanced", "per_class": 2}, "query_size": 10,
    }  # fmt: skip
    cycles = [
        {
            "cycle": i, "labels": at, "asked": at, "validation": 3, "positions": [i], "scores": None,
            "metrics": {"test/accuracy": value, "test/nll": 1 - value},
        }
        for i, (at, value) in enumerate(zip(labels, accuracy, strict=True))
    ]  # fmt: skip
    times = [
        {"seconds": {"fit": 2.0, "scan": 1.0, "select": 0.5, "cpu": 3.0}, "memory": {"process": 2**30}} for _ in labels
    ]
    made = Record(
        config={**config, **{key: value for key, value in changes.items() if key in config}},
        title={"strategy": strategy, "module": changes.get("title", "Classifier"), "data": "Digits"},
        budget=40, finished=True, first=[1, 2], cycles=cycles, environments=[{"torch": "2"}],
        times={"cycles": times, "people": [10.0 * at for at in labels]},
    )  # fmt: skip
    return made


def pairs(seeds=5, **changes):
    coin = np.random.default_rng(0)
    noise = coin.normal(0, 0.01, (seeds, 2, 3))
    rising = np.array([0.5, 0.6, 0.7])
    return [
        made
        for seed in range(seeds)
        for made in (
            record("Random", seed, (rising + noise[seed, 0]).tolist(), **changes),
            record("Margin", seed, (rising + noise[seed, 1] + [0, 0.1, 0.1]).tolist(), **changes),
        )
    ]


def test_strategies_of_one_setting_are_held_against_the_baseline():
    (setting,) = Comparison(pairs()).settings
    margin, random = setting.rows
    assert (margin.curves.name, random.curves.name) == ("Margin", "Random")  # the best first, the baseline last
    areas = {row.curves.name: statistics.aulc(LABELS, row.curves.values) for row in setting.rows}
    assert margin.gain.gain.mean == pytest.approx((areas["Margin"] - areas["Random"]).mean())
    assert margin.gain.wins == 5
    assert random.gain is None
    assert margin.t_test == margin.gain.t_test  # one comparison: nothing to correct
    assert (setting.labels, setting.validation) == (40, 3)
    assert setting.curves["Margin"].seconds("fit") == 6.0
    assert setting.curves["Margin"].memory() == 2**30


def test_p_values_are_corrected_for_all_comparisons():
    more = [
        replace(each, title={**each.title, "strategy": "Again"}) for each in pairs() if each.title["strategy"] == "Margin"
    ]
    for each in more:
        each.config["strategy"] = {"class": "strategies.Again"}
    (setting,) = Comparison([*pairs(), *more]).settings
    rows = {row.curves.name: row for row in setting.rows}
    assert rows["Again"].t_test == pytest.approx(2 * rows["Again"].gain.t_test)


def test_where_less_is_better_less_wins():
    (setting,) = Comparison(pairs(), How("test/nll", targets=(0.25,))).settings
    margin, random = setting.rows
    assert margin.curves.name == "Margin"
    assert margin.gain.gain.mean > 0
    assert margin.gain.wins == 5
    assert margin.targets[0].seeds == 5
    assert random.targets[0].seeds < 5
    assert setting.win_rates()[1][0].tolist() == [0.5, 1.0]


def test_seeds_that_one_of_them_lacks_are_not_compared():
    kept = [each for each in pairs() if not (each.title["strategy"] == "Margin" and each.seed == 2)]
    (setting,) = Comparison(kept).settings
    margin, random = setting.rows
    assert len(margin.curves.seeds) == margin.gain.gain.seeds == 4
    assert len(random.curves.seeds) == 5


def test_what_differs_beside_strategy_and_seed_is_another_setting():
    other = pairs(data={"class": "data.Digits", "imbalance": 5})
    found = Comparison([*pairs(), *other])
    assert [each.title for each in found.settings] == ["Digits, data.imbalance=5", "Digits, data.imbalance=None"]
    assert found.penalties().settings == 2
    modules = Comparison([*pairs(), *pairs(module={"class": "Wide"}, title="Wide")])
    assert [each.title for each in modules.settings] == ["Digits, Classifier", "Digits, Wide"]


def test_a_ceiling_belongs_to_the_setting_that_it_equals():
    everything = {"class": "deepal.data.initial.Everything"}
    ceilings = [record("Random", seed, [0.95], [1200], initial=everything) for seed in range(5)]
    other = record("Random", 0, [0.1], [1200], initial=everything, query_size=7)
    (setting,) = Comparison([*pairs(), *ceilings, other]).settings
    assert (setting.ceiling.mean, setting.ceiling.seeds, setting.ceiling_labels) == (pytest.approx(0.95), 5, 1200)
    assert set(setting.curves) == {"Random", "Margin"}
    with pytest.raises(ComparisonError, match="no run to compare"):
        Comparison(ceilings)


def test_of_one_configuration_the_record_with_the_most_labels_counts():
    shorter = record("Random", 0, (0.1, 0.1), (20, 30))
    (setting,) = Comparison([shorter, record(), shorter, record("Margin")]).settings
    assert setting.curves["Random"].values.tolist() == [[0.5, 0.6, 0.7]]


def test_the_order_of_the_records_makes_no_difference():
    one, other = Comparison(pairs()), Comparison(pairs()[::-1])
    assert one.records == other.records
    assert list(one.settings[0].curves) == list(other.settings[0].curves)


def test_curves_at_other_labels_are_compared_over_what_they_share():
    (setting,) = Comparison([record(), record("Margin", labels=(20, 35, 50), accuracy=(0.5, 0.8, 0.9))]).settings
    assert setting.grid.tolist() == [20, 30, 35, 40]
    assert setting.curves["Random"].values[0].tolist() == pytest.approx([0.5, 0.6, 0.65, 0.7])
    with pytest.raises(ComparisonError, match="no two numbers of labels in common"):
        Comparison([record(), record("Margin", labels=(50, 60, 70))])


def test_costs_are_another_axis():
    assert Comparison(pairs(), How(price=0.5)).settings[0].grid.tolist() == [10, 15, 20]
    assert Comparison(pairs(), How(axis="people")).settings[0].grid.tolist() == [200, 300, 400]
    nobody = [replace(each, times={**each.times, "people": [0.0] * 3}) for each in pairs()]
    with pytest.raises(RecordError, match="nobody measured how long answering took"):
        Comparison(nobody, How(axis="people"))
    for price, axis in ((0, "labels"), (1, "people")):
        with pytest.raises(ComparisonError, match="must be above 0"):
            How(price=price, axis=axis)


def test_what_is_not_there_is_refused_by_name():
    with pytest.raises(ComparisonError, match="baseline=Entropy is not among the strategies: Margin, Random"):
        Comparison(pairs(), How(baseline="Entropy"))
    with pytest.raises(RecordError, match="has not measured val/accuracy in 3 cycles; there are test/accuracy, test/nll"):
        Comparison(pairs(), How("val/accuracy"))


def test_without_a_baseline_there_are_areas_and_no_gains():
    found = Comparison([each for each in pairs() if each.title["strategy"] == "Margin"])
    (row,) = found.settings[0].rows
    assert row.gain is None
    assert row.efficiency is None
    assert found.penalties() is None


def test_the_control_is_the_baseline_once_more():
    again = [record("Random(replica=1)", seed) for seed in range(5)]
    for each in again:
        each.config["strategy"] = {**RANDOM, "replica": 1}
    assert Comparison([*pairs(), *again]).control == "Random(replica=1)"
    assert Comparison(pairs()).control is None


# Files


def test_records_come_back_from_a_file(tmp_path):
    records.write(tmp_path / "study.json", pairs())
    found = records.read(tmp_path / "study.json")
    assert found == [Record(**json.loads(json.dumps(asdict(each)))) for each in pairs()]
    assert records.read(tmp_path) == found  # a folder of results


def test_the_runs_in_a_folder(tmp_path):
    for i, each in enumerate(pairs(1)):
        (tmp_path / str(i)).mkdir()
        records.write(tmp_path / str(i) / records.FILE, [each])
    assert len(records.read(tmp_path)) == 2
    assert len(records.read(tmp_path / "0")) == 1


def test_what_is_no_record_is_refused_by_its_name(tmp_path):
    with pytest.raises(RecordError, match="holds no run that has come to its end"):
        records.read(tmp_path)
    with pytest.raises(RecordError, match=r"missing\.json is not there"):
        records.read(tmp_path / "missing.json")
    for content in ("", "{}", '{"runs": [{"seed": 1}]}', '["runs"]', "\xff"):
        (tmp_path / "bad.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(RecordError, match="is no file of runs that deepal has written"):
            records.read(tmp_path / "bad.json")


def test_a_run_is_finished_with_its_budget_or_a_larger_one(tmp_path):
    assert records.finished(tmp_path, 40) is None
    records.write(tmp_path / records.FILE, [record()])
    assert records.finished(tmp_path, 40) == record()
    assert records.finished(tmp_path, 50) is None
    records.write(tmp_path / records.FILE, [replace(record(), finished=False)])
    assert records.finished(tmp_path, 40) is None
