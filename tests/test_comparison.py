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
            "cycle": i, "labels": at, "asked": at, "validation": 3, "positions": [i], "scores": None, "notes": {},
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
    assert setting.validation == 3
    assert setting.curves["Margin"].seconds("fit") == 6.0
    assert np.isnan(setting.curves["Margin"].seconds("test"))
    assert setting.curves["Margin"].memory("process") == 2**30
    assert setting.curves["Margin"].memory("device") is None


def test_modules_are_held_against_one_of_them_by_the_same_strategies():
    supervised = pairs()
    better = [
        record(
            each.title["strategy"], each.seed, [value + 0.1 for value in each.metric("test/accuracy")],
            module={"class": "FixMatch"}, title="FixMatch",
        )
        for each in supervised
    ]  # fmt: skip
    ceiling = record(seed=0, initial={"class": "deepal.data.initial.Everything"})
    found = Comparison([*supervised, *better, ceiling], How(among="module", baseline="Classifier"))
    assert [each.title for each in found.settings] == ["Digits, Margin", "Digits, Random"]
    for setting in found.settings:
        fixmatch, classifier = setting.rows
        assert (fixmatch.curves.name, classifier.curves.name) == ("FixMatch", "Classifier")
        assert fixmatch.gain.gain.mean == pytest.approx(0.1)
        assert fixmatch.gain.wins == 5
        assert setting.ceiling is None
    with pytest.raises(ComparisonError, match=r"baseline=Random is not among the modules: .*FixMatch"):
        Comparison([*supervised, *better], How(among="module"))
    by_strategy = Comparison([*supervised, *better])
    assert [each.title for each in by_strategy.settings] == ["Digits, Classifier", "Digits, FixMatch"]


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
    with pytest.raises(ComparisonError, match="no finished run of a strategy"):
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
    with pytest.raises(ComparisonError, match="no range of labels in common"):
        Comparison([record(), record("Margin", labels=(50, 60, 70))])


def test_models_that_were_not_tested_have_no_point_and_the_marks_are_no_setting():
    rare = record("Margin", 0, (0.5, 0.1, 0.9))
    rare.cycles[1]["metrics"].clear()
    rare.config["test_every"] = 20
    (setting,) = Comparison([record("Random", 0), rare], How(targets=(0.85,))).settings
    (margin,) = [row for row in setting.rows if row.curves.name == "Margin"]
    assert margin.curves.axes[0].tolist() == [20, 40]
    assert margin.curves.values.tolist() == [[0.5, 0.7, 0.9]]  # between two tests, a line
    assert margin.targets[0].median == 40
    times = Comparison([record("Random", 0), rare], How(axis="people")).settings[0]
    assert times.curves["Margin"].axes[0].tolist() == [200.0, 400.0]


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
    with pytest.raises(
        RecordError, match=r"has measured no number as val/accuracy in 3 cycles, .* test/accuracy, test/nll"
    ):
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


def test_a_run_that_has_diverged_is_named():
    with pytest.raises(RecordError, match=r"Margin with seed 0 on Digits has measured no number .* the first of them 1"):
        Comparison([record(), record("Margin", accuracy=(0.5, float("nan"), 0.7))])


def test_two_strategies_of_one_title_are_two():
    other = [replace(each, config={**each.config, "strategy": {"class": "mine.Margin"}}) for each in pairs()[1::2]]
    (setting,) = Comparison([*pairs(), *other]).settings
    assert len(setting.curves) == 3
    assert {len(each.seeds) for each in setting.curves.values()} == {5}
    assert any("mine.Margin" in name for name in setting.curves)


def test_a_strategy_of_few_seeds_takes_nothing_from_the_others():
    before = Comparison(pairs())
    after = Comparison([*pairs(), record("Entropy", 0)])
    names = after.penalties().strategies
    i, j = names.index("Margin"), names.index("Random")
    assert after.penalties().matrix[i, j] == before.penalties().matrix[0, 1] == 1
    assert after.penalties().chance == pytest.approx(before.penalties().chance)  # nothing else could be tested
    assert after.settings[0].win_rates()[1][i, j] == before.settings[0].win_rates()[1][0, 1] == 1


def test_strategies_without_a_common_seed_are_not_compared():
    (setting,) = Comparison([record("Random", 0), record("Margin", 1)]).settings
    assert [row.gain for row in setting.rows] == [None, None]


def test_penalties_are_of_queries_whatever_the_axis():
    """After 1 and 2 queries, also where a run has a label less here and there, and where seconds are the axis."""
    later = [record(each.title["strategy"], each.seed, each.metric("test/accuracy"), (20, 29, 40)) for each in pairs()[:1]]
    for runs, how in ((pairs(), How(axis="people")), (pairs(), How(price=3.0)), ([*later, *pairs()[1:]], How())):
        found = Comparison(runs, how).settings[0].by_queries(["Random", "Margin"])
        assert found["Random"].shape == (5, 3)
        plain = Comparison(pairs()).settings[0].by_queries(["Random"])
        assert found["Random"][1:].tolist() == plain["Random"][1:].tolist()


def test_losses_are_held_against_each_other_the_right_way_round():
    accuracy, nll = (Comparison(pairs(), How(metric)).penalties() for metric in ("test/accuracy", "test/nll"))
    assert nll.strategies == accuracy.strategies
    assert nll.matrix.tolist() == accuracy.matrix.tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(("metric", "sign"), [
    ("test/accuracy", 1), ("test/nll", -1), ("test/error_rate", -1), ("test/loss_epoch", -1), ("test/ece_15", -1),
    ("rmse", -1), ("test/lossless", 1),
])  # fmt: skip
def test_which_way_is_better(metric, sign):
    assert How(metric).sign == sign
    assert How(metric, better="lower").sign == -1
    assert How(metric, better="higher").sign == 1


def test_runs_that_are_not_finished_or_longer_are_said():
    unfinished = replace(record("Margin", 5), finished=False)
    found = Comparison([*pairs(), unfinished, unfinished])
    assert found.unfinished == 1
    assert not found.settings[0].is_cut
    longer = Comparison([*pairs(), record("Margin", 5, (0.5, 0.6, 0.7, 0.8), (20, 30, 40, 50))])
    assert longer.settings[0].is_cut
    assert longer.settings[0].grid.tolist() == list(LABELS)


def test_labels_to_a_target_were_measured():
    """Whoever else is compared: between 20 and 100 labels nothing was measured here."""
    few = record("Margin", labels=(20, 100), accuracy=(0.5, 0.9))
    many = record("Random", labels=(20, 60, 100), accuracy=(0.5, 0.6, 0.7))
    (setting,) = Comparison([few, many], How(targets=(0.7,))).settings
    assert [row.targets[0].median for row in setting.rows] == [100, 100]


def test_efficiency_is_labels_to_what_the_baseline_comes_to():
    (setting,) = Comparison([record(), record("Margin", accuracy=(0.5, 0.7, 0.9))]).settings
    margin, random = setting.rows
    assert margin.efficiency == statistics.Reached(30, 1, 1)
    assert random.efficiency is None


def test_one_ceiling_a_seed_counts():
    everything = {"class": "deepal.data.initial.Everything"}
    ceilings = [record(name, 0, [0.95], [1200], initial=everything) for name in ("Random", "Margin", "BADGE")]
    assert Comparison([*pairs(), *ceilings]).settings[0].ceiling.seeds == 1


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
    for broken in ("", "{}", '{"runs": []}', '{"runs": [{}]}'):
        (tmp_path / records.FILE).write_text(broken)
        assert records.finished(tmp_path, 40) is None  # the ledger makes it again
    records.write(tmp_path / records.FILE, [record()])
    assert records.finished(tmp_path, 40) == Record(**json.loads(json.dumps(asdict(record()))))
    shorter = records.finished(tmp_path, 30)
    assert (shorter.budget, len(shorter.cycles), len(shorter.times["cycles"])) == (30, 2, 2)
    assert shorter.cycles[-1]["positions"] == []
    assert records.finished(tmp_path, 50) is None
    records.write(tmp_path / records.FILE, [replace(record(), finished=False)])
    assert records.finished(tmp_path, 40) is None
