"""Before anything trains: what is refused, with a sentence that names what was typed and the cure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from deepal import stacked
from deepal.data.datamodule import ActiveDataModule
from deepal.data.initial import Balanced, Initial
from deepal.modules.self_supervised import Pretext
from deepal.oracles import Oracle
from deepal.probes import Probe
from deepal.recorders import Recorder
from deepal.representation import Representation
from deepal.signals import said_by_data, voice_of
from deepal.stopping import StoppingRule
from deepal.strategies.base import QueryStrategy, Sizes, refuse_hidden_parts

_READ_OFF = ("logits", "probs", "embedding", "logit_gradient", "flip_distance")


class Settings(Protocol):
    """What is checked of a learner."""

    strategy: QueryStrategy
    data: ActiveDataModule
    oracle: Oracle
    initial: Initial
    probes: list[Probe]
    stop: list[StoppingRule]
    pretext: Pretext | None
    embedding_from: Representation | None
    query_size: int
    budget: int
    pool_subset: int | None
    test_every: int | None
    threads: int
    name: str | None


def refuse_bad_settings(run: Settings, first: int = 0, pool: int | None = None) -> None:
    """Raises ValueError for a name, query size, budget, subset or number of threads that cannot work.

    Args: first: how many initial labels there are; pool: how many images can be labeled, where that is known.
    """
    if not isinstance(run.data, ActiveDataModule):
        raise ValueError(
            f"data={type(run.data).__name__} is none of deepal's; ActiveDataModule.over(...) takes any LightningDataModule."
        )
    _refuse_other_kinds(run)
    if run.name is not None:
        refuse_bad_name(run.name)
    if run.query_size < 1:
        raise ValueError(f"query_size={run.query_size} must be at least 1: it is how many labels a cycle asks for.")
    refuse_bad_threads(run.threads)
    if run.test_every is not None and run.test_every < 1:
        raise ValueError(f"test_every={run.test_every} must be at least 1: it is in how many labels the model is tested.")
    if run.pool_subset is not None and run.pool_subset < run.query_size:
        raise ValueError(f"pool_subset={run.pool_subset} must hold at least query_size={run.query_size} images.")
    if run.budget < max(first, 1):
        raise ValueError(
            f"budget={run.budget} is below the {first or 'first'} initial labels, which it includes; raise budget, or "
            f"lower initial."
        )
    if pool is not None and run.query_size > pool - first:
        raise ValueError(
            f"query_size={run.query_size} is larger than the pool, which holds {pool - first} images beside the {first} "
            f"initial labels; lower query_size."
        )


def refuse_bad_threads(threads: int) -> None:
    """Raises ValueError for a number of threads that there cannot be."""
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads={threads} must be from 1 to 1024.")


def _refuse_other_kinds(run: Settings) -> None:
    """Raises ValueError for parts that are classes, names, or of another kind."""
    for listed in ("probes", "stop"):
        given = getattr(run, listed)
        if not isinstance(given, list | tuple):
            raise ValueError(f"{listed}={given!r} must be a list; write {listed}=[{given!r}].")
    parts: list[tuple[str, Any, type]] = [
        ("strategy", run.strategy, QueryStrategy),
        ("oracle", run.oracle, Oracle),
        ("initial", run.initial, Initial),
    ]
    if run.embedding_from is not None:
        parts.append(("embedding_from", run.embedding_from, Representation))
    lists = (("probes", Probe), ("stop", StoppingRule))
    parts += [(name, each, kind) for name, kind in lists for each in getattr(run, name)]
    if run.pretext is not None:
        parts.append(("pretext", run.pretext, Pretext))
    for name, given, kind in parts:
        if isinstance(given, type):
            raise ValueError(f"{name}={given.__name__} is a class; give what it makes: {given.__name__}().")
        if not isinstance(given, kind):
            raise ValueError(f"{name}={given!r} must be of the kind {kind.__name__}.")
    refuse_hidden_parts(run.strategy)


def refuse_bad_name(name: str) -> None:
    """Raises ValueError for a name that is not one of a folder."""
    if name in ("", ".", "..") or len(Path(name).parts) != 1 or not name.isprintable():
        raise ValueError(f"name={name!r} must be the name of one folder in root.")


def refuse_one_class(data: ActiveDataModule) -> None:
    """Raises ValueError where there is nothing to tell apart."""
    if data.task and len(data.task.classes) < 2:
        raise ValueError(
            f"{data.title} has one class, {', '.join(data.task.classes)}, and there have to be two at least to tell apart; "
            f"name those too that have no label yet."
        )


def refuse_bad_needs(
    strategy: QueryStrategy,
    module: LightningModule,
    probes: Sequence[Probe] = (),
    recorders: Sequence[Recorder] = (),
    grouped: bool = False,
    embedded: bool = False,
) -> None:
    """Raises ValueError where the strategy reads a signal that nobody can say, and names what can.

    Args: probes: say what the module cannot; recorders: what only training knows; grouped: whether the data has groups;
        embedded: whether embeddings come from elsewhere.
    """
    if embedded and strategy.of_last_layer:
        raise ValueError(
            f"{strategy!r} reads the embedding as the input of the last layer, and embedding_from gives another one; leave "
            f"it out, or take a strategy that compares images by any representation, such as TypiClust() or CoreSet()."
        )
    asking: Sequence[Probe | Recorder] = (*probes, *recorders)
    for each in asking:
        missing = [name for name in each.asks if not callable(getattr(voice_of(module), name, None))]
        if missing:
            methods, name = ", ".join(missing), type(module).__name__
            who = repr(each) if isinstance(each, Probe) else type(each).__name__
            raise ValueError(
                f"{who} asks {methods} of {name}, which cannot say it; give it a method {methods}(images), or adapt it: "
                f"Adapter({name}, head=...)."
            )
    for probe in probes:
        if callable(getattr(voice_of(module), probe.says, None)):
            raise ValueError(
                f"{probe!r} says {probe.says}, and so does {type(module).__name__} by itself; leave one of them out."
            )
    for posterior in (getattr(module, "posterior", None), *probes):
        if strategy.joint and not getattr(posterior, "consistent", True):
            raise ValueError(
                f"{strategy!r} reads what samples say together, and {posterior!r} gives each sample draws of its own; take "
                f"consistent=True."
            )
    said = {probe.says for probe in probes} | ({"embedding"} if embedded else set())
    said |= {name for recorder in recorders for name in recorder.says}
    for of, names in strategy.needs.items():
        for name in names:
            if name == "group" and not grouped:
                raise ValueError(f"{strategy!r} needs groups, and the data has none; a manifest may have a column group.")
            if not (name in said | said_by_data(of) or callable(getattr(voice_of(module), name, None))):
                raise ValueError(f"{strategy!r} needs {name}, which {_who_says(name, type(module).__name__)}")


def _who_says(name: str, module: str) -> str:
    """Why a module does not say a signal, and who can, as the end of a sentence."""
    if name in _READ_OFF:
        return (
            f"{module} cannot say; Classifier can, and Adapter({module}, head=...) reads it off the last linear layer, or "
            f"give it a method {name}(images)."
        )
    if name == "mc_probs":
        return (
            f"{module} cannot say: it is one network; Classifier(posterior=MCDropout()) can, so can Ensemble, and so can "
            f"any module with dropout by probes=[MCDropout()]."
        )
    recorder = next((made.__name__ for made in _subclasses(Recorder) if name in made.says), None)
    if recorder:
        return f"only training knows; have it recorded: trainer.callbacks=[{recorder}()]."
    able = sorted({made.__name__ for made in _subclasses(LightningModule) if callable(getattr(made, name, None))})
    probe = next((made.__name__ for made in _subclasses(Probe) if getattr(made, "says", None) == name), None)
    return (
        f"{module} cannot say; {', '.join(able) + ' can' if able else f'give it a method {name}(images)'}, or "
        f"{f'have it read: probes=[{probe}()]' if probe else 'a probe'}."
    )


def refuse_simulation(oracle: Oracle, initial: Initial, data: ActiveDataModule) -> None:
    """Raises ValueError where true classes are wanted that nobody knows yet."""
    if oracle.asks_people:
        if isinstance(initial, Balanced):
            raise ValueError(
                f"initial={initial!r} reads the true classes, which nobody knows before people have said them; take "
                f"initial=AtRandom(size), with size=0 where the labels that exist already are enough."
            )
        return
    known, candidates = len(data.existing()), len(data.candidates)
    if data.has_unlabeled() and known < candidates:
        raise ValueError(
            f"oracle={oracle!r} answers from the data, and {candidates - known} of its {candidates} images have no label; "
            f"let people answer: oracle=FileOracle()."
        )


def refuse_too_large(strategy: QueryStrategy, sizes: Sizes, free: int) -> None:
    """Raises MemoryError where a selection of these sizes cannot have the memory that it takes. Args: free: bytes."""
    needed = strategy.workspace(sizes)
    if needed > free:
        raise MemoryError(
            f"{strategy!r} takes {needed / 2**30:.1f} GiB beside the signals to choose {sizes.query_size} of "
            f"{sizes.pool:,} images with {sizes.labeled:,} labeled, and {free / 2**30:.1f} GiB of memory are free; put a "
            f"cheaper strategy in front of it (Prefilter(by=Margin(), then=..., keep=10_000)), or let it see a part of the "
            f"pool (pool_subset=...)."
        )


def refuse_unstackable(module: LightningModule, options: Mapping[str, Any], data: ActiveDataModule, processes: int) -> None:
    """Raises ValueError where fits cannot be a stack. Args: options: of the Trainer; processes: that train together."""
    reason = stacked.why_not(module, options)
    if reason is None and not data.is_read_once:
        reason = "trains on rows of features, and with data.augmentation an image is another one each time; leave it out"
    if reason is None and processes > 1:
        reason = "is for one process"
    if reason is not None:
        raise ValueError(f"stacked=True {reason}.")


def refuse_blind_rules(rules: Sequence[StoppingRule], module: LightningModule, validation: int) -> None:
    """Raises ValueError for a rule for stopping that could never see what it reads. Args: validation: how many validation
    images there are."""
    for rule in rules:
        if rule.validated and not validation:
            raise ValueError(
                f"{rule!r} reads the validation set, and there is none; set data.validation to how many labels it may cost."
            )
        if rule.validated and not is_overridden("validation_step", module):
            raise ValueError(
                f"{rule!r} reads the validation set, and {type(module).__name__} has no validation_step; what that logs is "
                f"read, by names that begin with val/."
            )
        if rule.reads_pool and not callable(getattr(voice_of(module), "probs", None)):
            raise ValueError(
                f"{rule!r} reads probs, which {type(module).__name__} cannot say; give it a method probs(images)."
            )
        if rule.reads_pool and sum(type(each) is type(rule) for each in rules) > 1:
            raise ValueError(f"stop holds {type(rule).__name__} twice; have one of them.")


def refuse_unmeasured(wanted: Iterable[str], found: Iterable[str]) -> None:
    """Raises ValueError where rules for stopping read a metric that the validation set does not give. Args: found: what it
    gives."""
    for metric in sorted({*wanted} - {*found}):
        raise ValueError(
            f"a rule for stopping reads {metric}, which is not measured; measured are {', '.join(sorted(found))}. Give the "
            f"same command with one of these: nothing is lost."
        )


def refuse_too_few(data: ActiveDataModule, processes: int) -> None:
    """Raises ValueError where there is not an image to measure for each process."""
    for name, positions in (("test", data.test_positions), ("validation", data.validation_positions)):
        if 0 < len(positions) < processes:
            raise ValueError(
                f"{len(positions)} {name} images are too few for {processes} processes; have one each at least."
            )


def refuse_unsynced(metrics: Sequence[Mapping[str, float]]) -> None:
    """Raises ValueError where processes have measured different things. Args: metrics: of each process."""
    for name, value in metrics[0].items():
        others = [each.get(name) for each in metrics]
        if any(repr(other) != repr(value) for other in others):
            raise ValueError(
                f"{name} is {', '.join(map(str, others))} in {len(metrics)} processes, each of which measures its share; "
                f"log it with sync_dist=True, or as a metric of torchmetrics."
            )


def refuse_to_train_next(strategy: QueryStrategy) -> None:
    """Raises ValueError where a strategy wants the next model trained on something, and that is somebody else's."""
    if strategy.trains_next:
        raise ValueError(
            f"ask(module) chooses by a module of yours, and {strategy!r} has the next one trained on pseudo-labels, which "
            f"yours knows nothing of; take the strategy that is inside, or ask() without a module."
        )


def refuse_several_processes(method: str, processes: int) -> None:
    """Raises ValueError where a method that belongs to one process is called in several."""
    if processes > 1:
        raise ValueError(
            f"{method}() is for one process, and trainer asks for {processes}; use run(), or trainer.devices=1."
        )


def refuse_untrainable(module: LightningModule, tested: bool = True) -> None:
    """Raises ValueError where a module lacks a step that a cycle takes. Args: tested: whether there are test images."""
    steps = ("training_step", "configure_optimizers", *(["test_step"] if tested else []))
    missing = [name for name in steps if not is_overridden(name, module)]
    if missing:
        raise ValueError(
            f"{type(module).__name__} has no {' and no '.join(missing)}, which a cycle calls; add it (what test_step logs "
            f"as test/accuracy is shown), or train it yourself and use ask(module)."
        )


def refuse_short_records(recorders: Sequence[Recorder], steps: int | None, batches: int, query_size: int) -> None:
    """Raises ValueError for a recorder that would see too little of a fit. Args: steps: of the fit, where that is known;
    batches: an epoch."""
    if steps is None:
        return
    for each in recorders:
        each.refuse_too_little(-(-steps // batches), query_size)


def refuse_broken_module(make: Callable[[], LightningModule]) -> LightningModule:
    """The module that `make` makes, its optimizers made once where that can be done.

    Raises ValueError where the data's images or the options do not fit it.
    """
    try:
        module = make()
        if hasattr(module, "configure_network"):
            module.configure_optimizers()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"module: it cannot be made for these images with these options: {error}") from error
    return module


def _subclasses(of: Any) -> Iterator[Any]:
    for each in of.__subclasses__():
        yield each
        yield from _subclasses(each)
