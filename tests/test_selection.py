"""Choosing from files is choosing from arrays."""

import inspect

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deepal
from deepal import cli, strategies
from deepal.room import Room
from deepal.selection import Selection, _Files
from deepal.strategies import BADGE, BALD, CoreSet, DCoM, Margin, PerGroup, Random, TypiClust
from deepal.testing import made_up_signals

SIZE = 90
SIGNALS = made_up_signals(SIZE, 0)


@pytest.fixture
def files(tmp_path):
    for name in SIGNALS.keys() - {"target", "cycle", "group"}:
        for number, some in enumerate(SIGNALS[name].split(40)):
            np.save(tmp_path / f"{name}-{number}.npy", some.numpy())
    (tmp_path / "ids.csv").write_text("path;id\n" + "".join(f"x;image-{row}\n" for row in range(SIZE)))
    (tmp_path / "labeled.csv").write_text("id,label\nimage-4,1\nimage-9,0\nimage-2,3\n")
    (tmp_path / "skip.txt").write_text("image-80\n\nimage-81\n")
    return tmp_path


def selection(files, strategy, *names, **more):
    signals = {name: f"{files}/{name}-*.npy" for name in names}
    return Selection(strategy=strategy, signals=signals, cache=files / "cache", **more)


def positions(chosen):
    return [row["position"] for row in chosen]


EVERY = [
    strategy
    for name in strategies.__all__
    if isinstance(strategy := getattr(strategies, name), type)
    and issubclass(strategy, strategies.QueryStrategy)
    and not strategy.__abstractmethods__
    and name not in ("EPIG", "Random")
    and all(each.default is not each.empty for each in inspect.signature(strategy).parameters.values())
]


@pytest.mark.parametrize("strategy", EVERY, ids=lambda each: each.__name__)
def test_every_strategy_chooses_from_files_what_it_chooses_from_arrays(files, strategy):
    names = [name for name in strategy().needs["pool"] if name != "group"]
    asked = {"ids": files / "ids.csv", "query_size": 5, "seed": 3}
    assert positions(selection(files, strategy(), *names, **asked).chosen()) == (
        deepal.select(strategy(), {name: SIGNALS[name] for name in names}, query_size=5, seed=3)
    )


def test_neither_what_is_labeled_nor_what_is_excluded_is_chosen(files):
    asked = {"ids": files / "ids.csv", "labeled": files / "labeled.csv", "exclude": files / "skip.txt"}
    chosen = selection(files, CoreSet(), "embedding", **asked, query_size=SIZE - 5).chosen()
    assert set(positions(chosen)) == set(range(SIZE)) - {4, 9, 2, 80, 81}
    assert [row["rank"] for row in chosen] == list(range(SIZE - 5))
    assert all(row["id"] == f"image-{row['position']}" for row in chosen)
    without = selection(files, CoreSet(), "embedding", **{**asked, "exclude": None}, query_size=9).chosen()
    assert positions(without) == deepal.select(CoreSet(), SIGNALS, labeled=[4, 9, 2], query_size=9)


def test_logits_imply_what_follows_from_them(files):
    for strategy, names in ((Margin(), ("logits",)), (BADGE(), ("logits", "embedding"))):
        chosen = selection(files, strategy, *names, query_size=6).chosen()
        assert positions(chosen) == deepal.select(strategy, SIGNALS, query_size=6)
        assert [row["id"] for row in chosen] == [str(row["position"]) for row in chosen]


def test_classes_of_what_is_labeled_are_read_where_they_are_needed(files):
    asked = {"ids": files / "ids.csv", "query_size": 4}
    chosen = selection(files, DCoM(radius=0.5), "embedding", "probs", labeled=files / "labeled.csv", **asked).chosen()
    assert len(chosen) == 4
    (files / "bare.csv").write_text("id\nimage-4\n")
    with pytest.raises(ValueError, match="image-4 has 'none'; give the table of"):
        selection(files, DCoM(radius=0.5), "embedding", "probs", labeled=files / "bare.csv", **asked).chosen()


def test_all_of_a_file_is_never_copied_and_a_part_of_it_in_room_that_there_is(files, tmp_path):
    half = SIGNALS["embedding"].half()
    source = _Files({"embedding": half}, Room(tmp_path, 0))
    assert source.read(torch.arange(SIZE), ("embedding",))["embedding"] is half
    order = torch.arange(SIZE).flip(0)
    assert torch.equal(source.read(order, ("embedding",))["embedding"], half.flip(0).float())
    assert torch.equal(source.read(torch.tensor([7, 3]), ("embedding",))["embedding"], half[[7, 3]].float())


def test_a_pool_without_signals_is_its_ids(files):
    chosen = selection(files, Random(), ids=files / "ids.csv", query_size=SIZE).chosen()
    assert sorted(positions(chosen)) == list(range(SIZE))
    with pytest.raises(ValueError, match=r"nothing says how large the pool is; give ids=FILE"):
        selection(files, Random()).chosen()


def test_what_does_not_fit_together_is_refused_by_name(files):
    ids = files / "ids.csv"
    with pytest.raises(ValueError, match=r"BALD\(\) needs mc_probs; give signals mc_probs=FILE"):
        selection(files, BALD(), "embedding").chosen()
    with pytest.raises(ValueError, match=r"give signals probs=FILE, a row a sample, or logits=FILE, which imply it"):
        selection(files, Margin(), "embedding").chosen()
    (files / "few.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"few.txt names 2 samples, and the signals have 90 rows"):
        selection(files, Margin(), "probs", ids=files / "few.txt").chosen()
    (files / "unknown.txt").write_text("a\nimage-3\n")
    with pytest.raises(ValueError, match=r"1 ids are not in the pool: 'a'\."):
        selection(files, Margin(), "probs", ids=ids, labeled=files / "unknown.txt").chosen()
    (files / "twice.txt").write_text("image-3\nimage-3\n")
    with pytest.raises(ValueError, match=r"exclude=.*twice.txt names 'image-3' 2 times"):
        selection(files, Margin(), "probs", ids=ids, exclude=files / "twice.txt").chosen()
    (files / "same.txt").write_text("a\n" * SIZE)
    with pytest.raises(ValueError, match="names 'a' more than once"):
        selection(files, Margin(), "probs", ids=files / "same.txt").chosen()
    with pytest.raises(ValueError, match="query_size=91 must be from 1 to 90"):
        selection(files, Margin(), "probs", query_size=91).chosen()
    np.save(files / "target-0.npy", np.arange(SIZE))
    with pytest.raises(ValueError, match=r"holds torch.int64, and signals are floats"):
        Selection(strategy=TypiClust(), signals={"embedding": f"{files}/target-0.npy"}).chosen()
    np.save(files / "short-0.npy", np.ones((5, 2), np.float32))
    with pytest.raises(ValueError, match=r"have as many rows each, and these have"):
        Selection(
            strategy=DCoM(), signals={"embedding": f"{files}/short-0.npy", "probs": f"{files}/probs-*.npy"}, cache=files
        ).chosen()


@pytest.mark.parametrize("said", ["4", "-1", "cat", "3.0"])
def test_a_class_that_probs_have_no_column_for_is_refused(files, said):
    (files / "wrong.csv").write_text(f"id,label\nimage-1,0\nimage-4,{said}\n")
    asked = {"ids": files / "ids.csv", "query_size": 4, "labeled": files / "wrong.csv"}
    with pytest.raises(ValueError, match=f"image-4 has '{said}'; .* a number from 0 to 3"):
        selection(files, DCoM(radius=0.5), "embedding", "probs", **asked).chosen()


def test_a_table_whose_ids_are_not_named_is_refused(files):
    (files / "named.csv").write_text("path,label\nimage-1,0\n")
    with pytest.raises(ValueError, match=r"named.csv has the columns path, label and no column id"):
        selection(files, Margin(), "probs", ids=files / "named.csv").chosen()


def test_groups_are_numbers_and_a_table_has_its_ids(files):
    for number, some in enumerate((torch.arange(SIZE) // 3).split(40)):
        np.save(files / f"group-{number}.npy", some.numpy())
    chosen = positions(selection(files, PerGroup(of=Margin()), "probs", "group", query_size=20).chosen())
    assert len({position // 3 for position in chosen}) == 20
    (files / "short.csv").write_text("path;id\nx;image-1\nx\n")
    with pytest.raises(ValueError, match=r"short.csv, line 3, has no id"):
        selection(files, Margin(), "probs", labeled=files / "short.csv").chosen()
    np.save(files / "flat-0.npy", np.full(SIZE, 0.5, np.float32))
    with pytest.raises(ValueError, match="the signal probs must have a row a sample"):
        Selection(strategy=Margin(), signals={"probs": f"{files}/flat-0.npy"}).chosen()


def test_signals_that_are_not_needed_say_how_large_the_pool_is_and_are_not_read(files):
    assert len(selection(files, Random(), "embedding", query_size=SIZE).chosen()) == SIZE
    (files / "few.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"few.txt names 2 samples, and the signals have 90 rows"):
        selection(files, Random(), "embedding", ids=files / "few.txt").chosen()
    with pytest.raises(FileNotFoundError, match="mc_probs-none"):
        Selection(strategy=Random(), signals={"mc_probs": f"{files}/mc_probs-none.npy"}).chosen()


def test_a_signal_that_there_is_not_is_refused_with_the_nearest(files):
    with pytest.raises(ValueError, match="there is no signal 'embeding'; the nearest is embedding"):
        Selection(strategy=CoreSet(), signals={"embeding": f"{files}/embedding-*.npy"}).chosen()


def test_a_row_that_is_no_number_is_named_and_may_be_excluded(files):
    wrong = SIGNALS["embedding"].clone()
    wrong[5, 1] = torch.nan
    np.save(files / "wrong.npy", wrong.numpy())
    asked = {"strategy": CoreSet(), "signals": {"embedding": f"{files}/wrong.npy"}, "query_size": 4}
    with pytest.raises(ValueError, match="embedding is NaN or infinite in 1 of 90 rows, the first at position 5"):
        Selection(**asked).chosen()
    (files / "five.txt").write_text(" 5 \n")
    others = {"embedding": SIGNALS["embedding"][torch.arange(SIZE) != 5]}
    chosen = [row + (row >= 5) for row in deepal.select(CoreSet(), others, query_size=4)]
    assert positions(Selection(**asked, exclude=files / "five.txt").chosen()) == chosen


def test_ids_are_read_as_spreadsheets_leave_them(files):
    (files / "spaces.csv").write_text("id,path\n" + "".join(f" image-{row} ,x\n" for row in range(SIZE)))
    asked = {"ids": files / "spaces.csv", "labeled": files / "labeled.csv", "query_size": 3}
    assert selection(files, CoreSet(), "embedding", **asked).chosen() == (
        selection(files, CoreSet(), "embedding", **{**asked, "ids": files / "ids.csv"}).chosen()
    )
    (files / "blank.csv").write_text("id,path\n" + "".join(f"{'' if row == 7 else row},x\n" for row in range(SIZE)))
    with pytest.raises(ValueError, match=r"blank.csv, line 9, has no id"):
        selection(files, CoreSet(), "embedding", ids=files / "blank.csv").chosen()
    (files / "named.csv").write_text("file\n" + "".join(f"{row}\n" for row in range(SIZE)))
    with pytest.raises(
        ValueError, match=r"names 91 samples, and the signals have 90 rows; if 'file' is a column, call it id"
    ):
        selection(files, CoreSet(), "embedding", ids=files / "named.csv").chosen()


def test_numbers_that_cannot_be_computed_with_and_nothing_to_choose_are_sentences(files):
    np.save(files / "thin-0.npy", np.ones((SIZE, 0), np.float32))
    with pytest.raises(ValueError, match=r"the signal embedding must have a row a sample .* \[90, 0\]"):
        Selection(strategy=CoreSet(), signals={"embedding": f"{files}/thin-0.npy"}).chosen()
    save_file({"a": torch.ones(SIZE, 3).to(torch.float8_e4m3fn)}, files / "eight.safetensors")
    with pytest.raises(ValueError, match=r"holds torch.float8_e4m3fn, and signals are floats of 16, 32 or 64 bits"):
        Selection(strategy=CoreSet(), signals={"embedding": f"{files}/eight.safetensors"}).chosen()
    with pytest.raises(ValueError, match=r"threads=-2 must be from 1"):
        selection(files, CoreSet(), "embedding", threads=-2).chosen()
    with pytest.raises(ValueError, match=r"strategy=<class .*CoreSet'> must be a strategy, as CoreSet\(\) is"):
        selection(files, CoreSet, "embedding").chosen()
    with pytest.raises(ValueError, match="all samples are labeled already, or excluded"):
        selection(files, CoreSet(), "embedding", ids=files / "ids.csv", exclude=files / "ids.csv").chosen()
    for labeled in ([1.5, 2.0], [True, False]):
        with pytest.raises(ValueError, match="labeled must hold positions, which are whole numbers"):
            deepal.select(CoreSet(), SIGNALS, labeled=labeled, query_size=2)
    with pytest.raises(ValueError, match="strategy='CoreSet' must be a strategy"):
        deepal.select("CoreSet", SIGNALS, query_size=2)


def test_what_does_not_fit_into_memory_goes_to_a_cache_that_is_made(files, monkeypatch):
    monkeypatch.setattr("deepal.room.free_memory", lambda: 0)
    asked = {"labeled": files / "skip.txt", "ids": files / "ids.csv", "query_size": 4}
    few = Selection(strategy=CoreSet(), signals={"embedding": f"{files}/one.npy"}, cache=files / "new" / "cache", **asked)
    np.save(files / "one.npy", SIGNALS["embedding"].numpy())
    assert positions(few.chosen()) == deepal.select(CoreSet(), SIGNALS, labeled=[80, 81], query_size=4)


def test_a_selection_that_takes_more_memory_than_there_is_is_refused(files, monkeypatch):
    monkeypatch.setattr("deepal.selection.free_memory", lambda: 100)
    with pytest.raises(MemoryError, match=r"CoreSet\(\) takes .* to choose 10 of 90 images .*Prefilter\(by=Margin\(\)"):
        selection(files, CoreSet(), "embedding").chosen()


def test_the_command_prints_ids_and_writes_them_and_overwrites_nothing(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    command = ["select", "--signals", "embedding=embedding-*.npy", "probs=probs-*.npy", "--ids", "ids.csv", "--labeled"]
    command += ["labeled.csv", "--strategy", "DCoM", "--strategy.radius", "0.5", "--query_size", "3", "--cache", "c"]
    cli.main([*command, "--out", "made/for/it.csv"])
    assert capsys.readouterr().out.split() == [line.split(",")[0] for line in (files / "made/for/it.csv").open()][1:]
    cli.main(command)
    printed = capsys.readouterr().out.split()
    lines = (files / "query.csv").read_text().splitlines()
    assert lines[0] == "id,position,rank,score"
    assert [line.split(",")[0] for line in lines[1:]] == printed
    assert len(printed) == 3
    with monkeypatch.context() as full:
        full.setattr("deepal.tables.write", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(SystemExit, match="no space left"):
            cli.main([*command, "--out", "full.csv"])
    assert capsys.readouterr().out.split() == printed  # what was chosen is not lost
    with pytest.raises(SystemExit, match=r"--signals names embedding twice; files of one array are a pattern"):
        cli.main(["select", "--signals", "embedding=embedding-0.npy", "embedding=embedding-1.npy", "--strategy", "CoreSet"])
    with pytest.raises(SystemExit, match=r"query.csv is there already"):
        cli.main(command)
    with pytest.raises(SystemExit, match=r"there is no 'TipiClust' for --strategy; the nearest is 'TypiClust'"):
        cli.main(["select", "--strategy", "TipiClust", "--out", "other.csv"])
