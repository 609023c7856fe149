"""The command line: `deepal run`, which is also `train.py`. jsonargparse reads it off the learner's own signature."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepal.explaining import ExplainingParser

HELP = """usage: deepal COMMAND [options]

Deep active learning on PyTorch Lightning: decides which images deserve a label.

commands:
  run     train, choose, label, and again, to the budget; the same command goes on with a run that was stopped
          (deepal run --help: all options; deepal run --print_config: a configuration to start from)

options:
  -h, --help     show this and exit
  --version      show the version and exit

A first run, on digits that ship with scikit-learn:   deepal run
Layered configurations:   deepal run --config configs/data/mnist.yaml --config configs/method/badge.yaml --seed 3
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
    elif arguments[0] == "run":
        run(arguments[1:])
    else:
        sys.exit(f"deepal has no command '{arguments[0]}'; it has: run. See deepal --help.")


def run(arguments: Sequence[str] | None = None) -> None:
    """`deepal run` and `train.py`: build a learner from the command line, and run it to its budget."""
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, MemoryError, RuntimeError) as error:
        if not _is_a_sentence(error):
            raise
        sys.exit(f"deepal: {error}")
    except OSError as error:
        sys.exit(f"deepal: {error}")
    except KeyboardInterrupt:
        sys.exit("deepal: stopped; the same command goes on from here.")


def _run(arguments: list[str]) -> None:
    from deepal.report import Curve, Display, QueryPictures, SavedConfig, TensorBoard, WeightsAndBiases

    made = parser(arguments)
    config = made.parse_args(arguments)
    learner = _learner(made, config)
    watchers: list[Any] = [SavedConfig(made.dump(config)), QueryPictures(), Curve(_title(learner)), Display()]
    trackers = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
    asked = config.logger if isinstance(config.logger, list) else [config.logger]
    learner.run([*watchers, *(trackers[name]() for name in asked if name)])


def parser(arguments: Sequence[str] = ()) -> "ExplainingParser":
    """The parser of `deepal run`. Args: arguments: looked through for `--allow-import`, which changes what is allowed."""
    from typing import Literal

    from jsonargparse import set_parsing_settings
    from lightning.pytorch import Trainer

    from deepal.data import ActiveDataModule
    from deepal.explaining import ExplainingParser
    from deepal.learner import Learner
    from deepal.preflight import OURS

    extra = [value for key, value in pairwise(arguments) if key == "--allow-import" and not value.startswith("-")]
    set_parsing_settings(
        subclasses_enabled=[ActiveDataModule],
        import_path_denylist=["*"],
        import_path_allowlist=[*_ALLOWED, *extra],
    )
    made = ExplainingParser(
        prog="deepal run", description="Train, choose, label, and again, to the budget.", allow_abbrev=False
    )
    made.add_argument("--config", action="config", help="A configuration file; several are layered, later ones win.")
    made.add_class_arguments(Learner, None, skip={"trainer"})
    made.add_class_arguments(Trainer, "trainer", skip=set(OURS), instantiate=False)
    tracker = Literal["tensorboard", "wandb"]
    made.add_argument("--logger", type=tracker | list[tracker] | None, help="A dashboard besides the CSV files.")
    made.add_argument(
        "--allow-import",
        type=str | None,
        default=None,
        help="A package of yours whose classes the configuration may name.",
    )
    made.set_defaults(DEFAULTS)
    return made


def _learner(made: "ExplainingParser", config: Any) -> Any:
    from deepal.learner import Learner

    built = made.instantiate(config).as_dict()
    for ours in ("config", "logger", "allow_import"):
        built.pop(ours, None)
    return Learner(**{**built, "trainer": built.get("trainer") or {}})


def _title(learner: Any) -> str:
    return f"{type(learner.strategy).__name__} on {learner.data.title}, seed {learner.seed}"


def _is_a_sentence(error: BaseException) -> bool:
    """Whether an error is one of ours, made for people, and not a defect whose traceback somebody has to see."""
    origin = error.__traceback__
    while origin is not None and origin.tb_next is not None:
        origin = origin.tb_next
    return origin is not None and str(origin.tb_frame.f_globals.get("__name__", "")).startswith("deepal")
