"""Folders and manifests."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as made_up

from deepal.data import ImageFolder, Manifest
from deepal.data.datamodule import Remembered
from deepal.data.files import FileImages, RowsChangedError
from deepal.data.table import Table, Texts, Words
from tests import own

DATA = {"image_size": 28, "channels": 1, "validation": 0}


def folder(root, count=40):
    return own.png_folder(root, *own.scans(count))


def begun(data, validation=0, seed=0):
    data.begin(seed, validation)
    return data


def table(tmp_path, rows, name="manifest.csv", **options):
    return begun(Manifest(manifest=str(own.write_manifest(tmp_path / name, rows)), **{**DATA, **options}))


def test_a_folder_a_class(tmp_path):
    paths = folder(tmp_path)
    data = begun(ImageFolder(root=str(tmp_path), **DATA))
    assert data.classes == tuple(sorted({path[0] for path in paths}))
    sides = [data.candidates, data.test_positions]
    assert sorted(sides[0] + sides[1]) == list(range(40))
    assert 1 <= len(sides[1]) <= 16
    assert all(data.true_label(position) == data.name(position)[0] for position in range(40))
    assert data.pictures([0]).shape == (1, 3, 128, 128)  # to look at: larger than what the model reads


def test_images_in_no_folder_or_in_another_have_no_label(tmp_path):
    paths = folder(tmp_path)
    (tmp_path / paths[0]).rename(tmp_path / "loose.png")
    (tmp_path / "unsorted").mkdir()
    (tmp_path / paths[1]).rename(tmp_path / "unsorted" / "one.png")
    data = begun(ImageFolder(root=str(tmp_path), class_names=list("0123456789"), test_share=0, **DATA))
    nameless = {data.name(position) for position in data.candidates} - {data.name(position) for position in data.existing()}
    assert nameless == {"loose.png", "unsorted/one.png"}
    with pytest.raises(ValueError, match=r"loose.png is not in the data"):
        data.true_label(data.position("loose.png"))


def test_other_files_are_left_out_and_said(tmp_path, caplog):
    folder(tmp_path)
    (tmp_path / "0" / "notes.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.png").write_text("")
    assert len(begun(ImageFolder(root=str(tmp_path), **DATA)).candidates) <= 40
    assert "1 .txt" in caplog.text


def test_what_is_no_folder_no_file_or_has_no_classes_is_refused_with_the_cure(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data.root='.*nowhere' is no folder"):
        begun(ImageFolder(root=str(tmp_path / "nowhere"), **DATA))
    with pytest.raises(FileNotFoundError, match="holds no images"):
        begun(ImageFolder(root=str(tmp_path), **DATA))
    with pytest.raises(FileNotFoundError, match=r"data.manifest='.*' is no file"):
        begun(Manifest(manifest=str(tmp_path / "nowhere.csv"), **DATA))
    with pytest.raises(ValueError, match=r"data\.class_names"):
        table(tmp_path, [{"path": "a.png", "label": ""}, {"path": "b.png", "label": ""}])


@pytest.mark.parametrize(("text", "says"), [
    ("name,label\na.png,0\n", "neither a column path nor a column id"),
    ("path,label\na.png,0\n,1\n", "no path in row 2"),
    ("path,label\na.png,0\nb.png,1,2\n", "line 3 has 3 fields"),
    ("path,label\na.png,0\na.png,1\n", "'a.png' are listed more than once"),
    ("path,label,split\na.png,0,\nb.png,1,dev\n", "split 'dev' is none of"),
    ("path,label,split\na.png,0,\nb.png,1,\nc.png,,test\n", "c.png is in the split test and has no label"),
])  # fmt: skip
def test_a_wrong_manifest_is_refused_by_row(tmp_path, text, says):
    (tmp_path / "wrong.csv").write_text(text)
    with pytest.raises(ValueError, match=says):
        begun(Manifest(manifest=str(tmp_path / "wrong.csv"), **DATA))


def test_a_manifest_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "wrong.csv").write_bytes("path,label\né.png,0\n".encode("latin-1"))
    with pytest.raises(ValueError, match="no table in UTF-8"):
        begun(Manifest(manifest=str(tmp_path / "wrong.csv"), **DATA))


def rows_of(paths):
    return [{"path": path, "label": path[0]} for path in paths]


def test_tables_as_spreadsheets_save_them_are_one_table(tmp_path):
    paths = folder(tmp_path)
    plain = table(tmp_path, rows_of(paths)).keys()
    lines = [f"{path};{path[0]};" for path in paths]
    (tmp_path / "excel.csv").write_bytes(("\ufeffpath;label;comment\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode())
    assert np.array_equal(begun(Manifest(manifest=str(tmp_path / "excel.csv"), **DATA)).keys(), plain)
    named = [{"file": path, "diagnosis": path[0]} for path in paths]
    columns = {"path": "file", "label": "diagnosis"}
    assert np.array_equal(table(tmp_path, named, "named.csv", columns=columns).keys(), plain)
    from pyarrow import csv as arrow
    from pyarrow import parquet

    parquet.write_table(arrow.read_csv(tmp_path / "manifest.csv"), tmp_path / "manifest.parquet")
    assert np.array_equal(begun(Manifest(manifest=str(tmp_path / "manifest.parquet"), **DATA)).keys(), plain)


def test_columns_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no column 'diagnosis'"):
        table(tmp_path, rows_of(folder(tmp_path)), columns={"label": "diagnosis"})
    with pytest.raises(ValueError, match="'lable', which is no column"):
        Manifest(manifest="x.csv", columns={"lable": "x"})


def test_splits_are_kept_and_shares_drawn_by_name(tmp_path):
    paths = folder(tmp_path, 120)
    splits = ["test", "val", "train", ""] * 30
    rows = [{**row, "split": split} for row, split in zip(rows_of(paths), splits, strict=True)]
    data = table(tmp_path, rows)
    at = {split: [i for i, each in enumerate(splits) if each == split] for split in ("test", "val", "train", "")}
    assert data.test_positions == at["test"]
    assert data.validation_positions == at["val"]
    assert sorted(data.candidates) == sorted(at["train"] + at[""])
    drawn = table(tmp_path, rows_of(paths), "one.csv"), table(tmp_path, rows_of(paths)[::-1], "two.csv")
    names = [{data.name(position) for position in data.test_positions} for data in drawn]
    assert names[0] == names[1]
    assert 12 <= len(names[0]) <= 36


def test_a_group_stays_on_one_side(tmp_path):
    paths = folder(tmp_path, 200)
    rows = [{**row, "group": f"patient {i // 5}"} for i, row in enumerate(rows_of(paths))]
    data = table(tmp_path, rows)
    data.begin(0, 12)
    sides = [data.candidates, data.validation_positions, data.test_positions]
    groups = [{position // 5 for position in side} for side in sides]
    assert all(groups)
    assert sum(map(len, sides)) == 200
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert len(data.validation_positions) >= 12
    assert len(data.groups(torch.arange(200)).unique()) == 40


def test_validation_is_drawn_where_labels_are_and_refused_where_there_are_too_few(tmp_path):
    paths = folder(tmp_path, 60)
    rows = [{"path": path, "label": path[0] if i < 20 else ""} for i, path in enumerate(paths)]
    data = table(tmp_path, rows, test_share=0, class_names=list("0123456789"))
    data.begin(0, 8)
    assert len(data.validation_positions) == 8
    assert max(data.validation_positions) < 20
    with pytest.raises(ValueError, match=r"data.validation asks for 30 images whose class is known.*20"):
        data.begin(0, 30)


def test_labels_that_are_no_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match="label images and are no classes"):
        table(tmp_path, rows_of(folder(tmp_path)), class_names=["0", "1"])


def remembered(data):
    return Remembered(len(data.keys()), len(data.validation_positions), data.keys(), data.task, {}, [])


@settings(max_examples=20, deadline=None)
@given(made_up.randoms(use_true_random=False), made_up.integers(1, 30), made_up.integers(0, 20))
def test_growth_moves_nothing(coin, begun_with, more):
    """Rows added anywhere, in any order: known images keep their positions and their sides, new ones come after them."""
    names = [f"{i}.png" for i in range(begun_with + more)]

    def table_of(rows):
        return Table.of(own.Path("nowhere"), [{"path": rows, "label": [str(int(row[:-4]) % 3) for row in rows]}])

    first = FileImages(table_of(names[:begun_with]), ("0", "1", "2"), 4, 1)
    shuffled = list(names)
    coin.shuffle(shuffled)
    grown = FileImages(table_of(shuffled), ("0", "1", "2"), 4, 1, first.keys())
    assert [grown.name(position) for position in range(begun_with)] == names[:begun_with]
    assert sorted(grown.name(position) for position in range(len(names))) == sorted(names)
    assert [grown.position(name) for name in names[:begun_with]] == list(range(begun_with))
    assert grown.targets(range(begun_with)).tolist() == [i % 3 for i in range(begun_with)]
    again = FileImages(table_of(names), ("0", "1", "2"), 4, 1, grown.keys())
    assert np.array_equal(again.keys(), grown.keys())


def test_grown_images_are_in_the_pool_and_sides_stay(tmp_path):
    paths = folder(tmp_path, 100)
    before = table(tmp_path, rows_of(paths[:60]))
    before.begin(0, 5)
    after = Manifest(manifest=str(own.write_manifest(tmp_path / "more.csv", rows_of(paths[::-1]))), **DATA)
    after.begin(0, 99, remembered(before))
    assert after.validation_positions == before.validation_positions
    assert after.test_positions == before.test_positions
    assert set(after.candidates) == set(before.candidates) | set(range(60, 100))
    assert after.task == before.task
    few = Manifest(manifest=str(own.write_manifest(tmp_path / "few.csv", rows_of(paths[:50]))), **DATA)
    with pytest.raises(RowsChangedError, match="10 images"):
        few.begin(0, 0, remembered(before))


def test_a_file_deleted_from_a_folder_keeps_its_place(tmp_path):
    paths = folder(tmp_path, 30)
    before = begun(ImageFolder(root=str(tmp_path), test_share=0, **DATA))
    names = [before.name(position) for position in range(30)]
    (tmp_path / paths[3]).unlink()
    after = ImageFolder(root=str(tmp_path), test_share=0, **DATA)
    known = remembered(before)
    after.begin(0, 0, Remembered(**{**vars(known), "names": lambda: names}))
    assert [after.name(position) for position in range(30)] == names
    assert "deleted" in after.unreadable(list(range(30)))[names.index(paths[3])]


def test_a_small_part_of_a_large_manifest_touches_no_other_image(tmp_path, monkeypatch):
    paths = folder(tmp_path, 30)
    rows = [{"id": f"{i:06d}", "path": paths[i % 30], "label": paths[i % 30][0]} for i in range(30_000)]
    read = set()
    original = FileImages._read
    monkeypatch.setattr(FileImages, "_read", lambda self, position: read.add(position) or original(self, position))
    data = table(tmp_path, rows, pool_size=50, test_share=0.001)
    data.begin(0, 5)
    used = {*data.candidates, *data.validation_positions, *data.test_positions}
    for loader in (data.val_dataloader(), data.test_dataloader(), data.scan_dataloader(torch.tensor(data.candidates))):
        list(loader)
    assert read == used
    assert len(data.candidates) == 50


@given(made_up.lists(made_up.text(max_size=5)))
def test_texts_and_words_are_lists_of_strings(texts):
    for kind in (Texts, Words):
        column = kind(texts[:2])
        column.extend(texts[2:])
        assert list(column) == texts


def test_with_a_test_image_its_whole_group_stays_out_of_the_pool_labeled_or_not_now_and_later(tmp_path):
    paths = folder(tmp_path, 300)
    rows = [{"path": path, "label": path[0] if i % 2 else "", "group": f"video {i % 30}"} for i, path in enumerate(paths)]
    before = table(tmp_path, rows[:200], test_share=0.3, class_names=list("0123456789"))
    before.begin(0, 10)
    after = Manifest(manifest=str(own.write_manifest(tmp_path / "more.csv", rows)), **{**DATA, "test_share": 0.3},
                     class_names=list("0123456789"))  # fmt: skip
    after.begin(0, 0, remembered(before))
    for data in (before, after):
        sides = [data.candidates, data.validation_positions, data.test_positions]
        pool, validation, test = ({position % 30 for position in side} for side in sides)
        assert all((pool, validation, test))
        assert not pool & validation
        assert not pool & test
        assert not validation & test
    assert len(after.candidates) > len(before.candidates)


def test_links_in_a_circle_and_runs_in_the_folder_are_no_images_of_it(tmp_path, caplog):
    paths = folder(tmp_path)
    (tmp_path / "0" / "loop").symlink_to(tmp_path)
    (tmp_path / "runs" / "one" / "queries").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "ledger.sqlite").write_text("")
    (tmp_path / paths[0]).with_name("x.png").write_bytes(b"")
    own.Image.new("L", (4, 4)).save(tmp_path / "runs" / "one" / "queries" / "000.png")
    data = begun(ImageFolder(root=str(tmp_path), test_share=0, **DATA))
    assert len(data.candidates) == 41


def test_folders_that_are_no_class_are_said(tmp_path, caplog):
    folder(tmp_path)
    begun(ImageFolder(root=str(tmp_path), test_share=0, class_names=["0", "1", "cats"], **DATA))
    assert "folders that are no class have no label: " in caplog.text
    assert "no image is labeled cats" in caplog.text
