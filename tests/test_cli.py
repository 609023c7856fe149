"""The command line, and every file in `configs/` through it, on tiny files in the same format as the real ones."""

import hashlib
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from scipy.io import savemat

from deepal import cli
from deepal.data import EMNIST
from deepal.ledger import Ledger
from deepal.nn import Network
from deepal.oracles import NoisyOracle
from deepal.strategies import Margin, Prefilter
from deepal.task import Task
from tests import own
from tests.runs import digits

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    file for folder in ("data", "method", "stop", "pretext") for file in (ROOT / "configs" / folder).glob("*.yaml")
)
TINY = ["--trainer.max_steps", "2", "--query_size", "5", "--initial.per_class", "1", "--data.validation", "3"]
SIZE = 300


def idx(path, array):
    """The format of MNIST: a magic number, the shape, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = b"".join(length.to_bytes(4, "big") for length in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes())


def gray(root, prefix, classes, stems=("train", "t10k")):
    coin = np.random.default_rng(0)
    for stem in stems:
        idx(root / f"{prefix}{stem}-images-idx3-ubyte", coin.integers(0, 255, (SIZE, 28, 28)))
        idx(root / f"{prefix}{stem}-labels-idx1-ubyte", np.arange(SIZE) % classes)


def emnist(root, *_):
    gray(root / "EMNIST" / "raw", "emnist-balanced-", 47, ("train", "test"))


def cifar(root, monkeypatch, dataset, folder, key, classes, names):
    coin, size = np.random.default_rng(0), 2 * max(classes, 30)
    (root / folder).mkdir()

    def write(name, content):
        (root / folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((root / folder / name).read_bytes()).hexdigest()

    def batch(name):
        return write(
            name, {"data": coin.integers(0, 255, (size, 3072), dtype=np.uint8), key: [i % classes for i in range(size)]}
        )

    monkeypatch.setattr(dataset, "train_list", [batch(name) for name, _ in dataset.train_list])
    monkeypatch.setattr(dataset, "test_list", [batch(name) for name, _ in dataset.test_list])
    meta, meta_sum = write(dataset.meta["filename"], {names: [f"class {i}" for i in range(classes)]})
    monkeypatch.setattr(dataset, "meta", {"filename": meta, "key": names, "md5": meta_sum})


def svhn(root, monkeypatch):
    coin, files = np.random.default_rng(0), {}
    for split in ("train", "test"):
        name = f"{split}_32x32.mat"
        labels = (np.arange(100) % 10 + 1).reshape(-1, 1)
        savemat(root / name, {"X": coin.integers(0, 255, (32, 32, 3, 100), dtype=np.uint8), "y": labels})
        files[split] = ["", name, hashlib.md5((root / name).read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)


def own_images(root):
    """Twenty images a class, and a manifest of them with groups of three."""
    coin = np.random.default_rng(0)
    images = coin.integers(0, 255, (SIZE, 8, 8), dtype=np.uint8)
    paths = own.png_folder(root, images, [str(i % 10) for i in range(SIZE)])
    rows = [{"path": path, "label": path[0], "group": f"video {i // 3}"} for i, path in enumerate(paths)]
    own.write_manifest(root / "manifest.csv", rows)


FILES = {
    "mnist": lambda root, _: gray(root / "MNIST" / "raw", "", 10),
    "fashion_mnist": lambda root, _: gray(root / "FashionMNIST" / "raw", "", 10),
    "kmnist": lambda root, _: gray(root / "KMNIST" / "raw", "", 10),
    "emnist": emnist,
    "cifar10": lambda root, patch: cifar(
        root, patch, torchvision.datasets.CIFAR10, "cifar-10-batches-py", "labels", 10, "label_names"
    ),
    "cifar100": lambda root, patch: cifar(
        root, patch, torchvision.datasets.CIFAR100, "cifar-100-python", "fine_labels", 100, "fine_label_names"
    ),
    "svhn": svhn,
    "image_folder": lambda root, _: own_images(root),
    "manifest": lambda root, _: own_images(root),
    "per_group": lambda root, _: own_images(root),
    "repeated_mnist": lambda root, monkeypatch: FILES["mnist"](root, monkeypatch),
}
MORE = {
    "image_folder": ["--data.image_size", "8"],
    "manifest": ["--data.image_size", "8", "--data.manifest"],
    "per_group": ["--data", "Manifest", "--data.image_size", "8", "--data.manifest"],
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_configuration_runs_a_cycle(path, tmp_path, monkeypatch, capsys):
    classes = {"emnist": 47, "cifar100": 100}.get(path.stem, 10)
    arguments = ["--config", str(path), *TINY, "--budget", str(classes + 5), "--root", str(tmp_path / "runs")]
    if path.stem in FILES:
        (tmp_path / "data").mkdir()
        FILES[path.stem](tmp_path / "data", monkeypatch)
        more = MORE.get(path.stem, [])
        arguments += [*more, str(tmp_path / "data" / "manifest.csv")] if "--data.manifest" in more else more
        arguments += ["--data.base.root" if "repeated" in path.stem else "--data.root", str(tmp_path / "data")]
    if path.stem == "snapshot":
        arguments += ["--trainer.max_steps", "5"]  # a step for each of its networks
    if "PredictionHistory" in path.read_text():
        arguments += ["--trainer.max_steps", "4", "--data.epoch_steps", "1"]  # three times after one that is left out
    if path.parent.name == "pretext":
        arguments += ["--pretext.steps", "2"]
    cli.run(arguments)
    (folder,) = (each.parent for each in (tmp_path / "runs").glob("*/ledger.sqlite"))
    assert [result.labels for result in Ledger(folder / "ledger.sqlite").results()] == [classes, classes + 5]
    assert (folder / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert str(folder) in capsys.readouterr().out.replace("\n", "")


def test_people_are_asked_and_told_what_to_do(tmp_path, capsys):
    own_images(tmp_path / "data")
    for file in (tmp_path / "data").rglob("*.png"):
        file.rename(tmp_path / "data" / file.name)
    arguments = [
        *("--config", str(ROOT / "configs/data/image_folder.yaml"), "--config", str(ROOT / "configs/oracle/people.yaml")),
        *("--data.root", str(tmp_path / "data"), "--data.class_names", "[cat,dog]", "--data.image_size", "8"),
        *("--data.num_workers", "0", "--trainer.max_steps", "2", "--root", str(tmp_path / "runs"), "--name", "labeling"),
    ]
    cli.run(arguments)
    folder = tmp_path / "runs" / "labeling"
    told = " ".join(capsys.readouterr().out.split())
    assert "20 images wait for people: look at query.png, fill in the column label of query.csv" in told
    text = (folder / "query.csv").read_text().splitlines()
    (folder / "answers.csv").write_text("\n".join([text[0], *(f"{row}cat" for row in text[1:])]))
    cli.run(arguments)
    assert "accuracy - with 20 labels" in " ".join(capsys.readouterr().out.split())  # nothing to test on, and a next query
    assert len((folder / "query.csv").read_text().splitlines()) == 51
    assert (folder / "queries" / "first.png").exists()


def test_the_letters_of_emnist_are_twenty_six(tmp_path):
    """torchvision numbers them from 1, after a class that has no images."""
    coin = np.random.default_rng(0)
    for stem in ("train", "test"):
        idx(tmp_path / f"EMNIST/raw/emnist-letters-{stem}-images-idx3-ubyte", coin.integers(0, 255, (SIZE, 28, 28)))
        idx(tmp_path / f"EMNIST/raw/emnist-letters-{stem}-labels-idx1-ubyte", np.arange(SIZE) % 26 + 1)
    data = EMNIST(root=str(tmp_path), split="letters")
    data.begin(0, 0)
    assert data.classes == tuple("abcdefghijklmnopqrstuvwxyz")
    assert {data.true_label(position) for position in range(26)} == set(data.classes)


def test_every_named_data_set_and_strategy_has_its_configuration():
    from deepal import data, strategies

    text = "\n".join(path.read_text() for path in CONFIGS)
    for room in (data, strategies):
        for name in room.__all__:
            each = getattr(room, name)
            named = isinstance(each, type) and hasattr(each, "load" if room is data else "select")
            if named and not getattr(each, "__abstractmethods__", None) and name != "FromDatasets":
                assert re.search(rf"\b{name}[}},\n]", text), f"{name} has no configuration"


def parsed(*arguments):
    made = cli.parser(arguments)
    return cli._learner(made, made.parse_args(list(arguments)))


def test_later_files_and_options_win(tmp_path):
    learner = parsed(
        "--config", str(ROOT / "configs/data/mnist.yaml"), "--config", str(ROOT / "configs/method/margin.yaml"),
        "--seed", "3", "--data.root", "elsewhere", "--trainer.max_steps", "7",
    )  # fmt: skip
    assert learner.strategy == Margin()
    assert (learner.seed, learner.data.root, learner.query_size, learner.trainer["max_steps"]) == (3, "elsewhere", 40, 7)


@pytest.mark.parametrize(
    "method", ["ensemble", "snapshot", "split_head", "shared_backbone", "consensus_kl", "vote_entropy", "committee"]
)
def test_several_networks_are_of_the_kind_that_the_data_asks_for(method, capsys):
    """Else comparing methods on one data set would compare networks."""
    layers = [str(ROOT / "configs" / file) for file in ("data/cifar10.yaml", f"method/{method}.yaml")]
    with pytest.raises(SystemExit):
        cli.run([f"--config={layers[0]}", "--config", layers[1], "--module.of.frozen", "true", "--print_config"])
    module, alone = yaml.safe_load(capsys.readouterr().out)["module"], yaml.safe_load(Path(layers[0]).read_text())["module"]
    of = module["init_args"]["of"]["init_args"]
    assert module["class_path"] == yaml.safe_load(Path(layers[1]).read_text())["module"]["class_path"]
    assert of["backbone"]["class_path"].endswith("MLP" if method == "committee" else "ResNet18")  # which it does not use
    assert (of["scheduler"] is None) == (method == "snapshot")  # which has one of its own
    assert of["optimizer"]["init_args"]["lr"] == alone["init_args"]["optimizer"]["init_args"]["lr"]
    assert of["frozen"] is True
    assert of["posterior"] is None
    arguments = cli._with_networks_kept([f"--config={layers[0]}", "--config", layers[1]])
    made = parsed(*arguments).module()
    made.configure_network(Task((3, 32, 32), tuple("abc"), (0.0,), (1.0,)))
    named = {type(each).__name__ for each in made.modules() if isinstance(each, Network)}
    assert named == {"MLP" if method == "committee" else "ResNet18"}


def test_a_network_of_the_data_has_dropout_where_it_is_given():
    layers = [f"--config={ROOT / 'configs' / file}" for file in ("data/cifar10.yaml", "method/bald.yaml")]
    module = parsed(*layers, "--module.backbone.dropout", "0.5").module()
    module.configure_network(Task((3, 8, 8), tuple("abc"), (0.0,), (1.0,)))
    assert module.eval().mc_probs(torch.rand(2, 3, 8, 8)).std(1).max() > 1e-3


def test_strategies_nest_by_short_names():
    words = (
        "--strategy Prefilter --strategy.by Margin --strategy.then BADGE --strategy.then.first uniform --strategy.keep 50"
    )
    learner = parsed(*words.split(), "--oracle", "NoisyOracle", "--oracle.rate", "0.1")
    assert repr(learner.strategy) == (
        "Prefilter(by=Margin(), then=BADGE(first='uniform', include_labeled=False, sketch=None), keep=50, factor=None)"
    )
    assert isinstance(learner.strategy, Prefilter)
    assert learner.oracle == NoisyOracle(0.1)


def test_the_command_line_and_python_make_the_same_run(tmp_path):
    words = "--strategy BADGE --data.epoch_steps 10 --trainer.max_steps 60 --query_size 10 --budget 50"
    learner = parsed(*words.split(), "--root", str(tmp_path))
    assert learner.folder == digits(tmp_path).folder
    assert parsed(*words.split(), "--trainer.devices", "1").folder.name == learner.folder.name


def test_what_changes_no_result_changes_no_folder():
    same = [
        ["--root", "elsewhere"], ["--budget", "300"], ["--logger", "tensorboard"], ["--data.num_workers", "1"],
    ]  # fmt: skip
    for words in same:
        assert parsed(*words).folder.name == parsed().folder.name
    for words in (
        ["--seed", "1"],
        ["--threads", "2"],
        ["--module.backbone", "GalCNN"],
        ["--trainer.precision", "bf16-mixed"],
    ):
        assert parsed(*words).folder.name.rpartition("-")[2] != parsed().folder.name.rpartition("-")[2]


REFUSED = [
    ("--strategy Margn", "there is no 'Margn' for --strategy; the nearest is 'Margin'"),
    ("--module.backbone GalCN", "the nearest is 'GalCNN'"),
    ("--data MNISTT", "the nearest is 'MNIST'"),
    ("--strategy.frist uniform", "there is no option 'frist' for --strategy; the nearest is 'first'"),
    ("--module.frozn true", "there is no option 'frozn' for --module; the nearest is 'frozen'"),
    ("--module.posterior MCDropout --module.posterior.draws ten", "--module.posterior.draws takes int, and was given ten"),
    ("--module.posterior CoreSet", "--module.posterior does not take 'CoreSet'; it takes MCDropout, Laplace"),
    ("--strategy Stochastic --strategy.of CoreSet", "--strategy.of does not take 'CoreSet'; it takes BALD"),
    (
        "--strategy Prefilter --strategy.by Margin --strategy.by.redce max",
        "'redce' for --strategy.by; the nearest is 'reduce'",
    ),
    ("--embedding_from FeatureFile", "--embedding_from.path is missing; give it a value. All options: deepal run --help."),
    ("--embedding_from f.npy", "does not take a file, 'f.npy', but a class; it takes FeatureFile, Backbone"),
    ("--querry_size 3", "there is no option 'querry_size'; the nearest is 'query_size'"),
    ("--trainer.max_epoch 3", "the nearest is 'trainer.max_epochs'"),
    ("--query_size ten", "query_size"),
    ("--trainer.max_steps many", "trainer.max_steps"),
    ("--strategy os.system", "'os.system' is not allowed for --strategy: --allow-import os"),
    ("--module subprocess.Popen", "'subprocess.Popen' is not allowed"),
    ("--query_size 0", "query_size=0 must be at least 1"),
    ("--budget 3", "budget=3 is below the 20 initial labels"),
    ("--query_size 5000 --budget 9000", "query_size=5000 is larger than the pool"),
    ("--data.imbalance 0.5", "data.imbalance=0.5"),
    ("--strategy Prefilter --strategy.by Margin --strategy.then CoreSet --strategy.keep 9 --strategy.factor 2", "not both"),
    ("--config nowhere.yaml", "nowhere.yaml"),
    ("--root /dev/null", "/dev/null"),
    ("--name ../elsewhere", "one folder"),
    ("--trainer.accelerator abacus", "lightning.Trainer refuses"),
    ("--module.backbone BatchBALDCNN", "cannot be made for these images"),
    ("--initial.per_class -1", "per_class=-1"),
    ("--data.num_workers -1", "data.num_workers=-1"),
    ("--module.posterior MCDropout --module.posterior.draws 0", "deepal: MCDropout(draws=0) must be a whole number"),
    ("--module.posterior MLP", "--module.posterior does not take 'MLP'; it takes MCDropout, Laplace"),
    (
        "--module.posterior.draws 3",
        "--module.posterior.draws is an option of a class, and none was named before it by --module.posterior; it",
    ),
    ("--module Ensemble --module.of MLP", "--module.of does not take 'MLP'; it takes Classifier"),
    ("--strategy Stochastic --strategy.of BatchBALD", "--strategy.of does not take 'BatchBALD'"),
    ("--strategy deepal.strategies.BALLD", "there is no 'BALLD' for --strategy; the nearest is 'BALD'"),
    ("--module deepal.modules.Classifer", "there is no 'Classifer' for --module; the nearest is 'Classifier'"),
    (
        "--strategy PowerBALD",
        "there is no 'PowerBALD' for --strategy; here that is Stochastic, with BALD for its option",
    ),
    ("--module.backbone deepal.nn.BALD", "--module.backbone does not take 'BALD'"),
    ("--stop+=Nonsense", "there is no 'Nonsense' for --stop; it takes TargetMetric"),
    ("--stop+=Margin", "--stop does not take 'Margin'; it takes TargetMetric"),
    ("--module.optimizer Addam", "there is no 'Addam' for --module.optimizer; the nearest is 'Adam'"),
    ("--module.optimizer Nothing", "SGD, SparseAdam. All options"),
    ("--module.backbone Nothing", "there is no 'Nothing' for --module.backbone; it takes BatchBALDCNN, GalCNN"),
    (
        "--strategy Prefilter --strategy.of Margin",
        "there is no option 'of' for --strategy; Prefilter takes by, then, keep, factor",
    ),
    ("--module FixMatch --module.backbone MLP", "it is an option of 'of': --module.of.backbone"),
    ("--module FixMatch --module.frozen true", "it is an option of 'of': --module.of.frozen"),
    ("--strategy MaxEntropy", "here that is PredictiveEntropy"),
    ("--probes MCDropout", "--probes takes a list, and was given MCDropout; --probes+=MCDropout adds one"),
    ("--allow-import mine,other", "--allow-import takes the name of one package, and was given mine,other"),
]


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_a_wrong_command_is_refused_in_a_sentence(words, says, tmp_path):
    with pytest.raises(SystemExit) as stop:
        cli.run(["--root", str(tmp_path), *words.split()])
    assert says in str(stop.value)
    assert str(stop.value).startswith("deepal: ")
    assert "usage" not in str(stop.value)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_wrong_key_in_a_file_is_refused(tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.dump({"data": {"class_path": "deepal.data.Digits", "init_args": {"batchsize": 3}}}))
    with pytest.raises(SystemExit, match="batch_size"):
        cli.run(["--config", str(file)])


def test_a_missing_folder_names_the_option(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", no_network)
    (tmp_path / "empty").mkdir()
    for folder in ("missing", "empty"):
        with pytest.raises(SystemExit, match=f"data.root='.*{folder}'.*no network"):
            cli.run(["--data", "MNIST", "--data.root", str(tmp_path / folder), "--root", str(tmp_path / "runs")])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--data ImageFolder", "--data.root is missing"),
        ("--strategy PerGroup", "--strategy.of is missing"),
        ("--query_size five", "--query_size takes int, and was given five"),
        ("--module VAAL --module.width two", "--module.width takes int, and was given two"),
        (
            "--trainer.callbacks PredictionHistory --trainer.callbacks.follow x",
            "follow takes int, and was given x",
        ),
        ("--logger foo", "--logger takes 'tensorboard', 'wandb', and was given foo"),
        ("--data ImageFolder --data.root x --data.channels 2", "channels takes 1, 3, and was given 2"),
    ],
)
def test_what_is_missing_or_of_another_type_is_said_by_name(words, says):
    with pytest.raises(SystemExit, match=says):
        cli.run(words.split())


def test_a_package_of_theirs_is_allowed_when_they_say_so(tmp_path):
    with pytest.raises(SystemExit, match="--allow-import tests"):
        cli.run(["--module", "tests.test_learner.Foreign"])
    learner = parsed("--allow-import", "tests", "--module", "tests.test_learner.Foreign")
    assert type(learner.module()).__name__ == "Foreign"


def test_the_configuration_in_the_folder_runs_it_again(tmp_path):
    cli.run(["--budget=30", "--query_size=10", "--trainer.max_steps=5", f"--root={tmp_path}"])
    (folder,) = tmp_path.iterdir()
    saved = parsed("--config", str(folder / "config.yaml"))
    assert saved.folder == folder


def test_help_answers_at_once_and_without_torch():
    code = "import sys; from deepal import cli; cli.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "deepal run" in done.stdout
    assert subprocess.run([sys.executable, "-m", "deepal", "--version"], capture_output=True, text=True).stdout.startswith(
        "deepal 0"
    )


def test_an_unknown_command_is_refused():
    with pytest.raises(SystemExit, match="no command 'rnu'"):
        cli.main(["rnu"])


def test_print_config_can_be_run(capsys):
    with pytest.raises(SystemExit):
        cli.run(["--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["strategy"]["class_path"].endswith("BADGE")
    assert {"query_size", "budget", "seed", "root", "trainer", "data", "module", "oracle", "initial"} <= set(printed)


def test_packages_of_the_folder_that_one_is_in_may_be_named(tmp_path, monkeypatch):
    (tmp_path / "of_a_user.py").write_text(
        "from deepal.strategies import Random\n\n\nclass Mine(Random):\n    'At random, too.'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    assert type(parsed("--allow-import", "of_a_user", "--strategy", "of_a_user.Mine").strategy).__name__ == "Mine"


def test_train_py_is_deepal_run():
    assert re.search(r"from deepal.cli import run\b", (ROOT / "train.py").read_text())


# Studies and comparisons


SMALL = [
    *("--trainer.max_steps", "2", "--query_size", "5", "--budget", "25", "--seeds", "2"),
    *("--initial", "AtRandom", "--initial.size", "20"),
]


STUDIES = [each for room in ("study", "reproduce") for each in sorted((ROOT / "configs" / room).glob("*.yaml"))]
SMALL_STUDIES = [each for each in STUDIES if "cifar" not in each.stem]  # those are for a GPU, and read by test_protocols


@pytest.mark.parametrize("path", SMALL_STUDIES, ids=lambda path: path.stem)
def test_every_study_runs(path, tmp_path, monkeypatch, capsys):
    more = []
    if "mnist" in path.stem:
        (tmp_path / "data").mkdir()
        FILES["mnist"](tmp_path / "data", monkeypatch)
        more = ["--data.base.root" if "repeated" in path.stem else "--data.root", str(tmp_path / "data")]
    if "pool_size: 10000" in path.read_text():  # on two data sets
        text = (
            path.read_text()
            .replace("root: data", f"root: {tmp_path / 'data'}")
            .replace("pool_size: 10000", "pool_size: 40")
            .replace("epoch_steps: 20", "epoch_steps: 1")
        )
        path, more = tmp_path / path.name, ["--trainer.max_steps", "4"]
        path.write_text(text)
    if path.stem.startswith("batchbald"):  # which stops early by 1,024 validation images
        more += ["--data.validation", "20", "--data.epoch_steps", "1"]
    cli.main(["study", str(path), *SMALL, *more, "--root", str(tmp_path / "runs")])
    (folder,) = (tmp_path / "runs").iterdir()
    said = capsys.readouterr().out
    assert "AULC" in said
    several = len(yaml.safe_load(path.read_text())["strategies"]) > 1
    for name in ("study.yaml", "curves.png", "curves.svg", "study.csv", "study.json", *(["penalty.svg"] * several)):
        assert (folder / name).exists()
    written = (folder / "study.json").read_bytes()
    targets = yaml.safe_load((folder / "study.yaml").read_text())["compare"]["targets"]
    cli.main(["compare", str(folder), "--targets", str(targets), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "study.json").read_bytes() == written
    assert (tmp_path / "again" / "curves.png").read_bytes() == (folder / "curves.png").read_bytes()
    capsys.readouterr()
    cli.main(["study", "--config", str(folder / "study.yaml")])  # the saved file does it again, and nothing is left to do
    assert "runs done, 0 at work, 0 s so far" in capsys.readouterr().out
    assert (folder / "study.json").read_bytes() == written


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare"], "name what to compare"),
        (["compare", "nowhere"], "nowhere is not there"),
        (["compare", "nowhere", "--metrik", "x"], "there is no option 'metrik'"),
        (["compare", "nowhere", "--center", "mode"], "--center takes 'mean', 'median'"),
        (["study"], "--strategies is missing"),
        (["study", "--strategies", "[Randm]"], "there is no 'Randm' for --strategies; the nearest is 'Random'"),
        (["studdy"], "it has: run, study, compare"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_in_a_sentence(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert says in str(stopped.value)
    assert not list(tmp_path.iterdir())


def test_help_names_the_commands_without_importing_torch():
    code = "import sys; from deepal.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {command} " in done.stdout for command in ("run", "study", "compare"))
