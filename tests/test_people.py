"""A labeling project from end to end: images in files, people who answer in files, files that break."""

import csv
import shutil
from dataclasses import dataclass, replace

import pytest

from deepal import Learner
from deepal.data import AtRandom, Given, ImageFolder, Manifest
from deepal.data.files import RowsChangedError
from deepal.entries import INITIAL
from deepal.ledger import Ledger
from deepal.modules import Classifier
from deepal.oracles import Answer, DatasetOracle, FileOracle
from deepal.strategies import BADGE, Margin, Random
from tests import own
from tests.runs import Outcome

COUNT, TESTED, KNOWN = 2000, 300, 200
SETTINGS = {
    "strategy": BADGE(), "query_size": 10, "budget": KNOWN + 29, "trainer": {"max_steps": 40}, "name": "run",
}  # fmt: skip
DATA = {"image_size": 28, "channels": 1, "validation": 0, "epoch_steps": 20}
BROKEN = {own.truncate: 1900, own.no_image: 1700, own.bomb: 1500}
BREAKING_LATER = {own.replace: 1300, "unlink": 1100}


def break_later(root, paths):
    (root / paths[BREAKING_LATER["unlink"]]).unlink()
    own.replace(root / paths[BREAKING_LATER[own.replace]])


@dataclass(frozen=True)
class SameAnswers(DatasetOracle):
    """Answers as the scripted person does; with the first query the files break that break later."""

    root: str = ""
    abstains: frozenset = frozenset()
    paths: tuple = ()

    def answer(self, questions, data, folder, seed):
        if questions[-1].cycle == 0 and (self.root / self.paths[BREAKING_LATER["unlink"]]).exists():
            break_later(self.root, self.paths)
        answers = super().answer(questions, data, folder, seed)
        none = {data.position(item) for item in self.abstains}
        return [Answer(each.position, None, "abstained") if each.position in none else each for each in answers]


def rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def answer(folder, labels):
    own.write_manifest(folder / "answers.csv", [{"id": item, "label": label} for item, label in labels.items()])


def open_items(folder):
    return [row["id"] for row in rows(folder / "query.csv")]


def test_a_scripted_person_ends_where_the_data_set_would(tmp_path, caplog):
    images, labels = own.scans(COUNT + TESTED)
    paths = own.png_folder(tmp_path / "people", images[:COUNT], labels[:COUNT])
    tested = own.png_folder(tmp_path / "tested", images[COUNT:], labels[COUNT:])
    for breaks, at in BROKEN.items():
        breaks(tmp_path / "people" / paths[at])
    shutil.copytree(tmp_path / "people", tmp_path / "folder")

    order = sorted(range(COUNT), key=lambda at: paths[at])
    truth = {paths[at]: labels[at] for at in order}
    known = set(paths[:KNOWN])
    table = [{"path": path, "label": truth[path] if path in known else "", "split": "train"} for path in truth]
    table += [{"path": f"../tested/{path}", "label": path[0], "split": "test"} for path in sorted(tested)]
    manifest = own.write_manifest(tmp_path / "manifest.csv", table)

    def people():
        data = Manifest(manifest=str(manifest), root=str(tmp_path / "people"), **DATA)
        return Learner(
            module=Classifier(),
            data=data,
            oracle=FileOracle(),
            initial=AtRandom(0),
            root=tmp_path / "of people",
            **SETTINGS,
        )

    learner, folder = people(), tmp_path / "of people" / "run"
    assert len(learner.run()) == 1  # the labels that exist train the first model, whose query waits
    break_later(tmp_path / "people", paths)
    first = open_items(folder)
    assert len(first) == 10
    assert set(rows(folder / "query.csv")[0]) == {"id", "path", "rank", "score", "label"}
    assert (folder / "query.png").read_bytes()[:4] == b"\x89PNG"

    # a wrong class, an image that is not there, one never asked, one twice, the others later
    abstained, slip = first[3], first[0]
    wrong = "8" if truth[slip] != "8" else "9"
    given = {item: truth[item] for item in first[1:5]} | {slip: wrong, abstained: ""}
    never = next(path for path in truth if path not in known and path not in first)
    with (folder / "answers.csv").open("w") as file:
        file.write("\ufeffid;label\r\n" + "".join(f"{item};{label}\r\n" for item, label in given.items()))
        file.write(f"{first[5]};cat\r\nnowhere.png;3\r\n{never};3\r\n{first[6]};1\r\n{first[6]};2\r\n")
    assert len(people().run()) == 1
    refused = {row["id"]: row["reason"] for row in rows(folder / "refused.csv")}
    assert set(refused) == {first[5], "nowhere.png", never, first[6]}
    assert "no class" in refused[first[5]]
    assert "no image" in refused["nowhere.png"]
    assert "never asked" in refused[never]
    assert "2 times" in refused[first[6]]
    assert open_items(folder) == first[5:]
    assert "rows of answers.csv were refused" in caplog.text

    asked = set(first)
    given = {item: truth[item] for item in first if item != abstained} | {abstained: ""}  # the slip is mended
    answer(folder, given)
    while len(people().run()) < 4 or (folder / "query.csv").exists():
        given |= {item: truth[item] for item in open_items(folder)}
        asked |= set(given)
        answer(folder, given)
    assert not (folder / "refused.csv").exists()

    reference = Learner(
        module=Classifier(),
        data=ImageFolder(root=str(tmp_path / "folder"), test_root=str(tmp_path / "tested"), **DATA),
        oracle=SameAnswers(root=tmp_path / "folder", abstains=frozenset({abstained}), paths=tuple(paths)),
        initial=Given(tuple(order.index(at) for at in sorted(range(KNOWN), key=lambda at: paths[at]))),
        root=tmp_path / "of data",
        **SETTINGS,
    )
    reference.run()
    ours, theirs = Outcome.of(people()), Outcome.of(reference)
    assert ours == theirs
    books = [Ledger(each / "run" / "ledger.sqlite") for each in (tmp_path / "of people", tmp_path / "of data")]
    assert books[0].fits() == books[1].fits() == [(0, 0), (1, 0), (2, 0), (3, 0)]

    # what broke is listed with its reason, and was neither asked nor trained on
    for where in (folder, tmp_path / "of data" / "run"):
        reasons = {row["id"]: row["reason"] for row in rows(where / "quarantine.csv")}
        broken = [paths[at] for at in (*BROKEN.values(), *BREAKING_LATER.values())]
        assert set(reasons) == set(broken)
        assert not set(reasons) & {row["id"] for row in rows(where / "labels.csv")}
        for path, word in zip(broken, ("truncated", "no image", "bomb", "replaced", "deleted"), strict=True):
            assert word in reasons[path]

    # everything that was said is kept, with who said it
    taken = rows(folder / "labels.csv")
    assert [row["label"] for row in taken if row["id"] == slip] == [wrong, truth[slip]]
    assert {row["annotator"] for row in taken} == {"manifest", "people"}
    assert [row["status"] for row in taken if row["id"] == abstained] == ["abstained"]
    assert {row["id"] for row in taken if row["annotator"] == "manifest"} == known


def small(tmp_path, count=60, **changes):
    images, labels = own.scans(count)
    known = {path: path[0] for path in own.png_folder(tmp_path / "images", images, labels)}
    if not isinstance(changes.get("oracle"), DatasetOracle):  # nothing is known: no folders
        for path in known:
            (tmp_path / "images" / path).rename(tmp_path / "images" / path[2:])
        known = {path[2:]: label for path, label in known.items()}
    made = {
        "module": Classifier(), "strategy": Margin(), "initial": AtRandom(10), "oracle": FileOracle(), "query_size": 5,
        "budget": 30, "trainer": {"max_steps": 5}, "root": tmp_path / "runs", "name": "run",
        "data": ImageFolder(root=str(tmp_path / "images"), test_share=0, class_names=list("0123456789"), **DATA),
    }  # fmt: skip
    return Learner(**{**made, **changes}), known, tmp_path / "runs" / "run"


def test_partial_answers_wait_or_train_and_late_ones_count(tmp_path):
    for policy, cycles in (("wait", 0), ("train", 1)):
        learner, truth, folder = small(tmp_path / policy, oracle=FileOracle(partial=policy))
        assert learner.run() == []
        items = open_items(folder)
        answer(folder, {item: truth[item] for item in items[:4]})
        assert [each.labels for each in learner.run()] == [4] * cycles
    later = [item for item in open_items(folder) if item not in items]
    assert len(later) == 5
    assert set(items[4:]) < set(open_items(folder))  # still open, beside the new query
    answer(folder, {item: truth[item] for item in (*items, later[0])})
    assert [each.labels for each in learner.run()] == [4, 11]  # six late answers to the first query, one to the second
    book = Ledger(folder / "ledger.sqlite")
    assert [cycle for cycle, _ in book.answers(before=5)] == [INITIAL] * 10 + [0]


def test_open_questions_are_counted_as_labels_to_come(tmp_path):
    learner, truth, folder = small(tmp_path, oracle=FileOracle(partial="train"), budget=12)
    learner.run()
    answer(folder, {item: truth[item] for item in open_items(folder)[:4]})
    learner.run()
    assert len(Ledger(folder / "ledger.sqlite").questions()) == 12


def test_no_class_is_an_answer_where_the_class_list_has_it(tmp_path):
    names = [*"0123456789", "no class"]
    learner, truth, folder = small(
        tmp_path, data=ImageFolder(root=str(tmp_path / "images"), test_share=0, class_names=names, **DATA)
    )
    learner.run()
    items = open_items(folder)
    answer(folder, {items[0]: "no class"} | {item: truth[item] for item in items[1:]})
    assert len(learner.run()) == 1
    assert rows(folder / "labels.csv")[0]["label"] == "no class"


def test_what_was_filled_in_in_place_is_kept(tmp_path, caplog):
    learner, truth, folder = small(tmp_path)
    learner.run()
    table = [{**row, "label": truth[row["id"]]} for row in rows(folder / "query.csv")]
    own.write_manifest(folder / "query.csv", table)
    learner.run()
    assert "query-filled-in-1.csv" in caplog.text
    (folder / "query-filled-in-1.csv").rename(folder / "answers.csv")
    assert len(learner.run()) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name,class\na,b\n", "needs id and label"),
        (b"", "needs id and label"),
        ("id,label\nä,é\n".encode("latin-1"), "UTF-8"),
    ],
)
def test_a_table_of_answers_that_is_none_is_refused_in_a_sentence(tmp_path, content, says):
    learner, _, folder = small(tmp_path)
    learner.run()
    (folder / "answers.csv").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        learner.run()
    assert len(open_items(folder)) == 10


def test_people_cannot_be_asked_for_a_balanced_start_nor_data_for_what_it_does_not_know(tmp_path):
    from deepal.data import Balanced

    with pytest.raises(ValueError, match=r"Balanced.*nobody knows.*AtRandom"):
        small(tmp_path / "a", initial=Balanced())[0].run()
    flat = tmp_path / "flat"
    own.png_folder(flat / "x", *own.scans(20))
    for file in (flat / "x").rglob("*.png"):
        file.rename(flat / file.name)
    shutil.rmtree(flat / "x")
    data = ImageFolder(root=str(flat), class_names=["a", "b"], test_share=0, **DATA)
    with pytest.raises(ValueError, match=r"20 of its 20 images have no label.*FileOracle"):
        small(tmp_path / "b", data=data, oracle=DatasetOracle())[0].run()


# Growth


def test_a_manifest_grows_and_the_queries_stay(tmp_path):
    images, labels = own.scans(1500)
    paths = own.png_folder(tmp_path / "images", images, labels)
    table = [{"path": path, "label": label} for path, label in zip(paths, labels, strict=True)]
    manifest = tmp_path / "images" / "manifest.csv"

    def learner(**changes):
        data = Manifest(manifest=str(manifest), **{**DATA, "validation": 10})
        made = {**SETTINGS, "strategy": Margin(), "budget": 40, **changes}
        return Learner(module=Classifier(), data=data, initial=AtRandom(20), root=tmp_path / "runs", **made)

    own.write_manifest(manifest, table[:1000])
    first = learner()
    before = first.run()
    book = Ledger(first.folder / "ledger.sqlite")
    asked = [book.asked(cycle) for cycle in (INITIAL, 0, 1)]
    sides = set(first.data.validation_positions), first.data.test_positions, set(first.data.candidates)

    own.write_manifest(manifest, table[1200:] + table[:1000][::-1] + table[1000:1200])  # in any order
    second = learner(budget=60)
    after = second.run()
    assert after[:3] == before
    assert [each.labels for each in after] == [20, 30, 40, 50, 60]
    assert [book.asked(cycle) for cycle in (INITIAL, 0, 1)] == asked
    assert set(second.data.validation_positions) == sides[0]
    assert second.data.test_positions == sides[1]
    assert set(second.data.candidates) - sides[2] == set(range(1000, 1500))
    names = [second.data.name(position) for position in range(1500)]
    assert names == paths[:1000] + paths[1200:] + paths[1000:1200]
    for cycle in range(4):
        for position in book.asked(cycle):
            assert second.data.true_label(position) == dict(zip(paths, labels, strict=True))[names[position]]

    table[7]["label"] = "9" if table[7]["label"] != "9" else "8"
    own.write_manifest(manifest, table)
    with pytest.raises(RowsChangedError, match=paths[7]):
        learner(budget=70).run()
    table[7]["label"] = paths[7][0]
    own.write_manifest(manifest, [row for row in table if row is not table[7]])
    with pytest.raises(RowsChangedError, match="1 images that the run was begun with are gone"):
        learner(budget=70).run()
    own.write_manifest(manifest, table)
    assert learner(budget=70).run()[-1].labels == 70


def test_a_manifest_grows_between_cycles(tmp_path):
    images, labels = own.scans(120)
    paths = own.png_folder(tmp_path / "images", images, labels)
    table = [{"path": path, "label": label} for path, label in zip(paths, labels, strict=True)]
    manifest = own.write_manifest(tmp_path / "images" / "manifest.csv", table[:60])
    pools = []

    class Growing(DatasetOracle):
        def answer(self, questions, data, folder, seed):
            pools.append(len(data.candidates))
            if len(pools) == 2:
                own.write_manifest(manifest, table)
            return super().answer(questions, data, folder, seed)

    data = Manifest(manifest=str(manifest), test_share=0, **DATA)
    learner = small(tmp_path, data=data, oracle=Growing(), strategy=Random(), budget=25)[0]
    learner.run()
    assert pools == [60, 60, 120, 120, 120]


def test_labels_that_come_later_are_taken_in_with_who_gave_them(tmp_path):
    images, labels = own.scans(80)
    paths = own.png_folder(tmp_path / "own", images, labels)
    table = [{"path": path, "label": "", "annotator": ""} for path in paths]
    for row, label in zip(table[:12], labels, strict=False):
        row |= {"label": label, "annotator": "Ada"}
    manifest = own.write_manifest(tmp_path / "own" / "manifest.csv", table[:60])

    def learner():
        data = Manifest(manifest=str(manifest), test_share=0, class_names=list("0123456789"), **DATA)
        return small(tmp_path, data=data, initial=AtRandom(3), budget=60)[0]

    learner().run()
    folder = tmp_path / "runs" / "run"
    assert len(open_items(folder)) == 3
    assert not set(open_items(folder)) & set(paths[:12])
    table += [{"path": paths[at] + "x", "label": labels[at], "annotator": "Grace"} for at in range(5)]
    for at in range(5):
        shutil.copy(tmp_path / "own" / paths[at], tmp_path / "own" / f"{paths[at]}x")
    own.write_manifest(manifest, table)
    learner().run()
    by = [row["annotator"] for row in rows(folder / "labels.csv")]
    assert (by.count("Ada"), by.count("Grace")) == (12, 5)


def test_too_many_broken_files_stop_the_run(tmp_path):
    learner, paths, _ = small(tmp_path, oracle=DatasetOracle())
    for path in list(paths)[::4]:
        own.truncate(tmp_path / "images" / path)
    with pytest.raises(ValueError, match=r"more than data.max_bad_fraction=0.05.*quarantine.csv"):
        learner.run()


def test_a_labeled_file_that_breaks_is_trained_on_no_more(tmp_path):
    learner, _, folder = small(tmp_path, oracle=DatasetOracle(), budget=15)
    learner.run()
    asked = Ledger(folder / "ledger.sqlite").asked(INITIAL)
    learner.data.path(asked[2]).unlink()
    again = replace(learner, budget=20, data=replace(learner.data))
    assert [each.labels for each in again.run()] == [10, 15, 14, 19, 20]  # measured anew without it
    assert rows(folder / "quarantine.csv")[0]["reason"].startswith("deleted")


# What a reviewer found


def test_a_file_of_answers_does_not_undo_what_was_told_later(tmp_path):
    learner, truth, folder = small(tmp_path)
    learner.run()
    items = open_items(folder)
    answer(folder, {item: truth[item] for item in items})
    learner.run()
    other = "8" if truth[items[0]] != "8" else "9"
    position = learner.data.position(items[0])
    learner.tell([position], [other], annotator="boss")
    learner.run()
    assert [row["label"] for row in rows(folder / "labels.csv") if row["id"] == items[0]] == [truth[items[0]], other]


def test_the_last_model_learns_from_every_late_answer(tmp_path):
    learner, truth, folder = small(tmp_path, oracle=FileOracle(partial="train"), budget=12)
    learner.run()
    items = open_items(folder)
    answer(folder, {item: truth[item] for item in items[:4]})
    learner.run()
    more = [item for item in open_items(folder) if item not in items]
    answer(folder, {item: truth[item] for item in (*items[:4], more[0])})
    assert [each.labels for each in learner.run()] == [4]  # nothing is left to ask: it waits for the open ones
    answer(folder, {item: truth[item] for item in (*items, *more)})
    assert [each.labels for each in learner.run()] == [4, 12]
    changed = {item: truth[item] for item in (*items, *more)} | {items[0]: "8" if truth[items[0]] != "8" else "9"}
    answer(folder, changed)
    results = learner.run()
    assert [each.labels for each in results] == [4, 12, 12]  # a correction after the end is measured too
    assert results[1].answers != results[2].answers
    assert learner.run() == results


def test_an_answer_to_an_image_that_broke_meanwhile_is_kept(tmp_path):
    learner, truth, folder = small(tmp_path)
    learner.run()
    items = open_items(folder)
    (tmp_path / "images" / items[2]).unlink()
    answer(folder, {item: truth[item] for item in items})
    assert [each.labels for each in learner.run()] == [9]
    assert not (folder / "refused.csv").exists()
    assert items[2] in {row["id"] for row in rows(folder / "labels.csv")}


ODD = [" lead.png", "a,b.png", 'q"uote.png', "semi;colon.png", "new\nline.png", "\u2028sep.png", "=cmd.png", "ü ß.png"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_can_be_asked_and_answered(tmp_path, name):
    learner, truth, folder = small(tmp_path, initial=AtRandom(55), budget=60)
    first = next(iter(truth))
    (tmp_path / "images" / first).rename(tmp_path / "images" / name)
    truth[name] = truth.pop(first)
    for _ in range(2):
        learner.run()
        answer(folder, truth)  # some of them were never asked: refused, and the others are taken
    assert learner.run()[-1].labels == 60
    assert name in {row["id"] for row in rows(folder / "labels.csv")}
    assert not (folder / "refused.csv").exists()


def test_odd_columns_lose_no_label(tmp_path):
    learner, truth, folder = small(tmp_path)
    learner.run()
    items, odd = open_items(folder), ["3,5", "abc", "inf", "-1", "", "2.5", " 7 ", "1e3", "nan", "0"]
    table = [{"id": item, "label": f" {truth[item]} ", "seconds": time} for item, time in zip(items, odd, strict=True)]
    own.write_manifest(folder / "answers.csv", table)
    learner.run()
    taken = {row["id"]: row["seconds"] for row in rows(folder / "labels.csv")}
    assert [taken[item] for item in items] == ["3.5", "", "", "", "", "2.5", "7.0", "1000.0", "", "0.0"]


@pytest.mark.parametrize("content", [b"sep=,\nid,label\n", "id,label\nä,b\n".encode("latin-1"), b""])
def test_a_query_that_a_spreadsheet_spoiled_stops_no_answers(tmp_path, content):
    learner, truth, folder = small(tmp_path)
    learner.run()
    items = open_items(folder)
    (folder / "query.csv").write_bytes(content)
    answer(folder, {item: truth[item] for item in items})
    assert len(learner.run()) == 1
    assert (folder / "query-filled-in-1.csv").read_bytes() == content


def test_what_is_unreadable_before_a_run_begins_is_known_by_name_not_by_place(tmp_path):
    learner, truth, _ = small(tmp_path, count=100, oracle=DatasetOracle(), initial=AtRandom(50), budget=60)
    bad = list(truth)[::4]
    for path in bad:
        own.truncate(tmp_path / "images" / path)
    with pytest.raises(ValueError, match=r"max_bad_fraction"):
        learner.run()
    for path in bad:
        (tmp_path / "images" / path).unlink()
    again = replace(learner, data=replace(learner.data))
    assert [each.labels for each in again.run()] == [50, 55, 60]


def test_too_many_stop_every_start(tmp_path):
    learner, truth, folder = small(tmp_path, oracle=DatasetOracle(), budget=15)
    learner.run()
    for path in list(truth)[::4]:
        own.truncate(tmp_path / "images" / path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"max_bad_fraction=0\.05"):
            replace(learner, budget=30, data=replace(learner.data)).run()
    assert len(rows(folder / "quarantine.csv")) > 3
    more = replace(learner.data, max_bad_fraction=1.0)
    assert replace(learner, budget=30, data=more).run()[-1].labels <= 30


def test_a_lost_test_image_moves_nothing(tmp_path):
    images, labels = own.scans(160)
    own.png_folder(tmp_path / "images", images[:100], labels[:100])
    tested = own.png_folder(tmp_path / "tested", images[100:], labels[100:])
    made = {"root": str(tmp_path / "images"), "test_root": str(tmp_path / "tested"), **DATA, "validation": 10}

    def learner(budget):
        return small(tmp_path / "x", data=ImageFolder(**made), oracle=DatasetOracle(), budget=budget)[0]

    first = learner(15)
    first.run()
    (tmp_path / "tested" / tested[5]).unlink()
    second = learner(20)
    second.run()
    assert second.data.validation_positions == first.data.validation_positions
    assert set(second.data.candidates) == set(first.data.candidates)
    assert len(second.data.test_positions) == len(first.data.test_positions) - 1
    (lost,) = rows(first.folder / "quarantine.csv")
    assert (lost["part"], lost["id"].rpartition("/")[2]) == ("test", tested[5].rpartition("/")[2])


def test_unlabeled_rows_that_come_later_are_refused_where_nobody_can_answer_and_can_be_taken_back(tmp_path):
    images, labels = own.scans(90)
    paths = own.png_folder(tmp_path / "own", images, labels)
    table = [{"path": path, "label": path[0]} for path in paths]
    manifest = own.write_manifest(tmp_path / "own" / "manifest.csv", table[:60])

    def learner(budget):
        data = Manifest(manifest=str(manifest), test_share=0, **DATA)
        return small(tmp_path, data=data, oracle=DatasetOracle(), budget=budget)[0]

    learner(15).run()
    own.write_manifest(manifest, table[:60] + [{**row, "label": ""} for row in table[60:]])
    with pytest.raises(ValueError, match=r"30 of its 90 images have no label"):
        learner(20).run()
    own.write_manifest(manifest, table)
    assert learner(20).run()[-1].labels == 20


def test_half_a_row_is_no_row_yet(tmp_path):
    images, labels = own.scans(90)
    paths = own.png_folder(tmp_path / "own", images, labels)
    whole = own.write_manifest(tmp_path / "own" / "manifest.csv", [{"path": each, "label": each[0]} for each in paths])
    text = whole.read_bytes()
    lines = text.splitlines(keepends=True)

    def learner(budget):
        data = Manifest(manifest=str(whole), test_share=0, **DATA)
        return small(tmp_path, data=data, oracle=DatasetOracle(), budget=budget)[0]

    whole.write_bytes(b"".join(lines[:61]))
    learner(15).run()
    for half in (lines[61][:-6], lines[61][:-4]):
        whole.write_bytes(b"".join(lines[:61]) + half)
        with pytest.raises(ValueError, match="fields"):  # nothing is recorded
            learner(15).run()
    whole.write_bytes(b"".join(lines[:61]) + lines[61][:-2])  # whole, perhaps: without an end it is not known
    run = learner(15)
    run.run()
    assert len(run.data.candidates) == 60
    whole.write_bytes(text)
    run = learner(20)
    run.run()
    assert len(run.data.candidates) == 90


def test_one_image_under_two_spellings_is_refused_and_nothing_goes_round_in_circles(tmp_path):
    learner, truth, folder = small(tmp_path, budget=10)
    learner.run()
    given = {item: truth[item] for item in open_items(folder)}
    answer(folder, given)
    before = learner.run()
    first = next(iter(given))
    answer(folder, given | {first + " ": "8" if truth[first] != "8" else "9"})
    assert learner.run() == before
    assert len(rows(folder / "refused.csv")) == 2


class Undecided(DatasetOracle):
    """Says another class each time."""

    def answer(self, questions, data, folder, seed):
        first = questions[0]
        label = "9" if first.answer and first.answer.label == "8" else "8"
        return [*super().answer(questions[1:], data, folder, seed), Answer(first.position, label)]


def test_an_oracle_that_cannot_make_up_its_mind_ends(tmp_path):
    learner = small(tmp_path, oracle=Undecided(), budget=10)[0]
    assert 1 <= len(learner.run()) <= 3


def test_every_change_of_a_row_counts_whoever_made_it(tmp_path):
    learner, truth, folder = small(tmp_path)
    learner.run()
    items = open_items(folder)
    for label, annotator in (("9", ""), ("8", "Ada"), ("9", ""), ("8", "Bob")):
        given = [
            {"id": item, "label": label if item == items[0] else truth[item], "annotator": annotator} for item in items
        ]
        own.write_manifest(folder / "answers.csv", given)
        learner.run()
        taken = [row for row in rows(folder / "labels.csv") if row["id"] == items[0]]
        assert (taken[-1]["label"], taken[-1]["annotator"]) == (label, annotator or "people")
    assert [row["label"] for row in taken] == ["9", "8", "9", "8"]


@pytest.mark.parametrize("late", [{"split": "test", "group": "g3"}, {"split": "val", "group": ""}])
def test_rows_of_a_split_that_come_later_move_nothing(tmp_path, late, caplog):
    images, labels = own.scans(102)
    paths = own.png_folder(tmp_path / "own", images, labels)
    table = [{"path": each, "label": each[0], "split": "", "group": f"g{i // 2}"} for i, each in enumerate(paths)]
    manifest = own.write_manifest(tmp_path / "own" / "manifest.csv", table[:100])

    def learner(budget):
        data = Manifest(manifest=str(manifest), **{**DATA, "validation": 10})
        return small(tmp_path, data=data, oracle=DatasetOracle(), budget=budget)[0]

    first = learner(15)
    first.run()
    own.write_manifest(manifest, [*table[:100], {**table[100], **late}])
    second = learner(20)
    assert [each.labels for each in second.run()] == [10, 15, 20]
    assert second.data.validation_positions == first.data.validation_positions
    assert second.data.test_positions == first.data.test_positions
    assert second.data.candidates == first.data.candidates
    assert "came later" in caplog.text
