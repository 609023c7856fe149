"""The command line: `deepal run`, also `train.py`, `deepal study`, `deepal compare` and `deepal select`. jsonargparse
reads their options off the signatures of what they build."""

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepal.explaining import ExplainingParser

HELP = """usage: deepal COMMAND [options]

Deep active learning on PyTorch Lightning: decides which images deserve a label.

commands:
  run     train, choose, label, and again, to the budget; the same command goes on with a run that was stopped
  study   strategies x seeds x data sets x modules, each a run, carried out by any number of workers, and compared
  compare tables and figures of runs and studies, with intervals and tests over seeds
  select  choose from files of features and probabilities, without a model and without a run
          (deepal run --help: all options; deepal run --print_config: a configuration to start from)

options:
  -h, --help     show this and exit
  --version      show the version and exit

A first run, on digits that ship with scikit-learn:   deepal run
Layered configurations:   deepal run --config configs/data/mnist.yaml --config configs/method/badge.yaml --seed 3
A comparison:   deepal study configs/study/digits.yaml --workers 2
A query of features:   deepal select --signals embedding='shards/*.npy' --ids ids.csv --strategy TypiClust --query_size 100
"""

DEFAULTS = {
    "strategy": {"class_path": "deepal.strategies.BADGE"},
    "module": {"class_path": "deepal.modules.Classifier"},
    "data": {"class_path": "deepal.data.Digits", "init_args": {"epoch_steps": 100}},
    "query_size": 20,
    "budget": 200,
}
"""`deepal run` alone: BADGE with a small network on scikit-learn's digits."""

_ALLOWED = ("deepal", "torch.optim", "torch.nn", "torchmetrics", "lightning.pytorch")


def main(arguments: Sequence[str] | None = None) -> None:
    """The `deepal` command."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
    elif arguments[0] == "--version":
        from deepal import __version__

        sys.stdout.write(f"deepal {__version__}\n")
    elif arguments[0] in COMMANDS:
        _explained(COMMANDS[arguments[0]], arguments[1:])
    else:
        sys.exit(f"deepal has no command '{arguments[0]}'; it has: {', '.join(COMMANDS)}. See deepal --help.")


def run(arguments: Sequence[str] | None = None) -> None:
    """`deepal run` and `train.py`: build a learner from the command line, and run it to its budget."""
    _explained(_run, list(sys.argv[1:] if arguments is None else arguments))


def _explained(command: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Do a command. What is for people to read ends it as a sentence, without a traceback."""
    try:
        command(arguments)
    except (ValueError, MemoryError, RuntimeError) as error:
        ours: BaseException | None = error
        while ours and not _is_a_sentence(ours):  # the parser wraps what a class says of its options in words of its own
            ours = ours.__cause__
        if not ours:
            raise
        sys.exit(f"deepal: {ours}")
    except OSError as error:
        sys.exit(f"deepal: {error}")
    except KeyboardInterrupt:
        sys.exit("deepal: stopped; the same command goes on from here.")


def _run(arguments: list[str]) -> None:
    from deepal.report import (
        Curve,
        Display,
        ForgettingPictures,
        QueryPictures,
        Reconstructions,
        SavedConfig,
        TensorBoard,
        UncertaintyMap,
        WeightsAndBiases,
    )

    arguments = _with_networks_kept(arguments)
    made = parser(arguments)
    config = made.parse_args(arguments)
    learner = _learner(made, config)
    pictures = [QueryPictures(), ForgettingPictures(), Reconstructions(), UncertaintyMap(), Curve(_title(learner))]
    watchers: list[Any] = [SavedConfig(made.dump(config)), *pictures, Display()]
    trackers = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
    asked = config.logger if isinstance(config.logger, list) else [config.logger]
    learner.run([*watchers, *(trackers[name]() for name in asked if name)])


def _with_networks_kept(arguments: Sequence[str]) -> list[str]:
    """The same, where a configuration of data says which network is trained, and how, and a later one of a method makes
    several of it: these are then of that network, and not of the default one, as when the module was replaced; but for
    what the method says itself (the learning rates of snapshots, the kinds of network of a committee)."""
    import yaml

    from deepal import modules

    kept: list[str] = []
    network: dict[str, Any] = {}
    for before, argument in pairwise(["", *arguments]):
        kept.append(argument)
        if before != "--config" and not argument.startswith("--config="):
            continue
        try:
            said = yaml.safe_load(Path(argument.removeprefix("--config=")).read_text(encoding="utf-8"))["module"]
            name, options = str(said["class_path"]), said.get("init_args") or {}
        except (yaml.YAMLError, KeyError, TypeError, OSError):
            continue  # no file, nothing of a module, or what the parser has a word for
        made = getattr(modules, name.removeprefix("deepal.modules."), None)
        if made is modules.Classifier:
            network = {"class_path": name, "init_args": {**options, "posterior": None}}
        elif network and "of" not in options and made and "of" in inspect.signature(made).parameters:
            taken = {each: value for each, value in network["init_args"].items() if each not in made.of_its_own}
            said = {"class_path": name, "init_args": {**options, "of": {**network, "init_args": taken}}}
            kept += ["--config", json.dumps({"module": said})]
    return kept


def _study(arguments: list[str]) -> None:
    from deepal import folder
    from deepal.comparison import Comparison, How
    from deepal.report import Board, comparing
    from deepal.study import StudyError

    files = list(takewhile(lambda each: not each.startswith("-"), arguments))
    arguments = [*(each for file in files for each in ("--config", file)), *arguments[len(files) :]]
    made = study_parser(arguments)
    config = made.parse_args(arguments)
    built = made.instantiate(config).as_dict()
    how, center = How(**built["compare"]), built["center"]
    study = _study_of(built)
    study.folder.mkdir(parents=True, exist_ok=True)
    (study.folder / "study.yaml").write_text(made.dump(config))
    failed: list[StudyError] = []
    with Board(study, how.metric):
        try:
            study.run(config.workers)
        except StudyError as error:  # said after what the others have come to
            failed.append(error)
    with folder.held(study.folder, patience=60):  # another machine may have come to the end at the same time
        found = study.records()
        if found:
            comparison = Comparison(found, how)
            comparing.write(comparison, study.folder, center)
            comparing.show(comparison)
            sys.stdout.write(f"curves, penalties, study.csv and study.json: {study.folder}\n")
    if failed:
        raise failed[0]


def _compare(arguments: list[str]) -> None:
    from deepal import records
    from deepal.comparison import Comparison, How
    from deepal.report import comparing

    if not arguments:
        sys.exit(
            "deepal: name what to compare: folders of runs or of studies, or files study.json. See deepal compare --help."
        )
    made = compare_parser()
    built = made.instantiate(made.parse_args(arguments)).as_dict()
    paths, out, center = (built.pop(name) for name in ("paths", "out", "center"))
    comparison = Comparison([record for path in paths for record in records.read(path)], How(**built))
    out = out or (paths[0] if len(paths) == 1 and paths[0].is_dir() else Path("comparison"))
    written = comparing.write(comparison, out, center)
    comparing.show(comparison)
    sys.stdout.write(f"{', '.join(each.name for each in written)}: {out}\n")


def _select(arguments: list[str]) -> None:
    from deepal import tables
    from deepal.selection import COLUMNS, Selection

    arguments = list(_by_name("--signals", arguments))
    made = select_parser(arguments)
    built = made.instantiate(made.parse_args(arguments)).as_dict()
    out = built.pop("out")
    if out.exists():
        raise ValueError(f"{out} is there already, and may be a query that somebody answers; name another file by --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    chosen = Selection(**{name: built[name] for name in Selection.__dataclass_fields__}).chosen()
    sys.stdout.writelines(f"{row['id']}\n" for row in chosen)
    tables.write(out, COLUMNS, chosen)


def _by_name(option: str, arguments: Sequence[str]) -> Iterator[str]:
    """The same, with `--option a=x b=y` as `--option.a=x --option.b=y`. Raises ValueError where one is named twice."""
    inside, named = False, set[str]()
    for argument in arguments:
        if argument == option or argument.startswith("-"):
            inside = argument == option
        if inside and argument != option and "=" in argument:
            name = argument.partition("=")[0]
            if name in named:
                raise ValueError(f"{option} names {name} twice; files of one array are a pattern: {name}='shards/*.npy'.")
            named.add(name)
            yield f"{option}.{argument}"
        elif not (inside and argument == option):
            yield argument


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": _run,
    "study": _study,
    "compare": _compare,
    "select": _select,
}


def parser(arguments: Sequence[str] = ()) -> "ExplainingParser":
    """The parser of `deepal run`. Args: arguments: looked through for `--allow-import`, which changes what is allowed."""
    from typing import Literal

    from deepal.learner import Learner

    made = _parser("run", "Train, choose, label, and again, to the budget.", arguments)
    made.add_class_arguments(Learner, None, skip={"trainer"})
    tracker = Literal["tensorboard", "wandb"]
    made.add_argument("--logger", type=tracker | list[tracker] | None, help="A dashboard besides the CSV files.")
    made.set_defaults(DEFAULTS)
    return made


def study_parser(arguments: Sequence[str] = ()) -> "ExplainingParser":
    """The parser of `deepal study`. Args: arguments: as above."""
    from deepal.comparison import How
    from deepal.report.figures import Center
    from deepal.study import Study

    made = _parser("study", "Strategies x seeds x data sets x modules: run, and compare.", arguments)
    made.add_class_arguments(Study, None, skip={"trainer"})
    made.add_class_arguments(How, "compare", instantiate=False)
    made.add_argument("--workers", type=int, default=1, help="Processes on this machine; runs are the same for any number.")
    made.add_argument("--center", type=Center, default="mean", help="What the curves show over seeds.")
    return made


def compare_parser() -> "ExplainingParser":
    """The parser of `deepal compare`."""
    from deepal.comparison import How
    from deepal.explaining import ExplainingParser
    from deepal.report.figures import Center

    made = ExplainingParser(
        prog="deepal compare", description="Tables and figures of runs, over seeds.", allow_abbrev=False
    )
    made.add_argument("paths", type=Path, nargs="+", help="Folders of runs or of studies, or files study.json.")
    made.add_class_arguments(How, None)
    made.add_argument("--center", type=Center, default="mean", help="What the curves show over seeds.")
    made.add_argument("--out", type=Path | None, default=None, help="The folder to write into; the study's by default.")
    return made


def select_parser(arguments: Sequence[str] = ()) -> "ExplainingParser":
    """The parser of `deepal select`. Args: arguments: as above."""
    from deepal.selection import Selection

    made = _typed_parser("select", "Choose from files of signals: prints ids, in the order to ask.", arguments)
    made.add_class_arguments(Selection, None)
    made.add_argument("--out", type=Path, default=Path("query.csv"), help="The table to write: id, position, rank, score.")
    return made


def _parser(command: str, description: str, arguments: Sequence[str]) -> "ExplainingParser":
    """A parser with what commands that train have in common."""
    from lightning.pytorch import Trainer

    from deepal.trainer_options import OURS

    made = _typed_parser(command, description, arguments)
    made.add_class_arguments(Trainer, "trainer", skip=set(OURS), instantiate=False)
    return made


def _typed_parser(command: str, description: str, arguments: Sequence[str]) -> "ExplainingParser":
    """A parser that builds what configurations name, of packages that are allowed."""
    from jsonargparse import set_parsing_settings

    from deepal.data import ActiveDataModule
    from deepal.explaining import ExplainingParser

    extra = [value for key, value in pairwise(arguments) if key == "--allow-import" and not value.startswith("-")]
    for name in extra:
        if not all(word.isidentifier() for word in name.split(".")):
            sys.exit(f"deepal: --allow-import takes the name of one package, and was given {name}; give it once for each.")
    if extra and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where packages of one's own lie
    set_parsing_settings(
        subclasses_enabled=[ActiveDataModule],
        import_path_denylist=["*"],
        import_path_allowlist=[*_ALLOWED, *extra],
    )
    made = ExplainingParser(prog=f"deepal {command}", description=description, allow_abbrev=False)
    made.add_argument("--config", action="config", help="A configuration file; several are layered, later ones win.")
    made.add_argument(
        "--allow-import",
        type=str | None,
        default=None,
        help="A package of yours, of this folder or installed, whose classes the configuration may name; once for each.",
    )
    return made


def _learner(made: "ExplainingParser", config: Any) -> Any:
    from deepal.learner import Learner

    built = made.instantiate(config).as_dict()
    for ours in ("config", "logger", "allow_import"):
        built.pop(ours, None)
    return Learner(**{**built, "trainer": built.get("trainer") or {}})


def _study_of(built: dict[str, Any]) -> Any:
    from deepal.study import Study

    options = {name: built[name] for name in built if name in Study.__dataclass_fields__}
    return Study(**{**options, "trainer": built.get("trainer") or {}})


def _title(learner: Any) -> str:
    return f"{type(learner.strategy).__name__} on {learner.data.title}, seed {learner.seed}"


def _is_a_sentence(error: BaseException) -> bool:
    """Whether an error is one of ours, made for people, and not a defect whose traceback somebody has to see."""
    origin = error.__traceback__
    while origin is not None and origin.tb_next is not None:
        origin = origin.tb_next
    return origin is not None and str(origin.tb_frame.f_globals.get("__name__", "")).startswith("deepal")
