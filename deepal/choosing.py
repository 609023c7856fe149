"""The query of a cycle: what the strategy may see, what it chooses of that, and what is said of what it chose."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from deepal import artifacts, preflight, seeds
from deepal.bookkeeping import Turn
from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import UnreadableError
from deepal.entries import PSEUDO_LABELS, Predictions, Query
from deepal.meter import Meter
from deepal.ranks import Ranks
from deepal.room import free_memory
from deepal.run import Files
from deepal.scan import Scan
from deepal.signals import NonFiniteError, Signals, voice_of
from deepal.strategies.base import Choice, QueryStrategy, Sizes, View, choose, warn_of_distances
from deepal.watching import Watchers, quiet


class Settings(Protocol):
    """What is read of a learner."""

    strategy: QueryStrategy
    data: ActiveDataModule
    query_size: int
    budget: int
    pool_subset: int | None
    seed: int


class Choosing:
    """Lets the strategy of a run choose.

    Args: settings: of the learner; files: of the run; ranks: the processes that work together; watchers: are told how it
        goes.
    """

    def __init__(self, settings: Settings, files: Files, ranks: Ranks, watchers: Watchers) -> None:
        self.settings, self.data, self.files, self.ranks, self.watchers = settings, settings.data, files, ranks, watchers

    def query(self, turn: Turn, module: LightningModule, scan: Scan, is_fitted: bool, meter: Meter) -> Query:
        """The query of a cycle. Args: module: that the scan reads; is_fitted: whether anybody has trained it."""
        rows, generator = self.seen(turn)
        self.watchers.tell("phase", turn.cycle, "scan", len(rows))
        with meter.phase("select"):
            try:
                view, made = self._with_artifacts(turn, self._view(torch.tensor(turn.pool.index), scan))
                if len(rows) < len(view.pool):
                    view = view.take(rows)
                choice = choose(self.settings.strategy, view, turn.query_size, generator)
                if turn.cycle == 0:
                    warn_of_distances(self.settings.strategy, view)
            except NonFiniteError as error:
                raise NonFiniteError(f"cycle {turn.cycle}: {error} The ledger is whole.") from error
            chosen = view.pool.take(choice.rows)
            predicted = self._predicted(chosen, module if is_fitted else None)
            parts = scan.parts(chosen.positions) if is_fitted else None
            if is_fitted and callable(getattr(voice_of(module), "reconstruction", None)):
                evenly = torch.linspace(0, len(view.pool) - 1, min(_PICTURED, len(view.pool))).long()
                some = view.pool.positions[evenly]
                again = scan.read(some, ("reconstruction",))["reconstruction"]
                again = self.data.task.restore(again) if self.data.task else again
                self.watchers.tell("reconstructed", turn.cycle, some.tolist(), again, self.data)
        meter.seconds["scan"] = scan.seconds  # which strategies ask for while they select
        meter.seconds["select"] -= scan.seconds
        scores = None if choice.scores is None else tuple(choice.scores.tolist())
        if scan.uncertainty:
            self.watchers.tell("uncertain", turn.cycle, scan.uncertainty, chosen.positions)
        return Query(
            tuple(chosen.positions.tolist()),
            scores=scores,
            predicted=predicted,
            aleatoric=tuple(parts.aleatoric.tolist()) if parts else None,
            epistemic=tuple(parts.epistemic.tolist()) if parts else None,
            notes=choice.notes,
            artifacts=made,
            predictions=_pseudo_labels(view, choice),
        )

    def seen(self, turn: Turn) -> tuple[Tensor, torch.Generator]:
        """Rows of the pool that the strategy may see, and the coins that it tosses then."""
        coins = torch.Generator().manual_seed(seeds.derive(self.settings.seed, "select", turn.cycle))
        rows = torch.arange(len(turn.pool))
        if self.settings.pool_subset is not None:
            rows = torch.randperm(len(rows), generator=coins)[: self.settings.pool_subset].sort().values
        return rows, coins

    def rehearse(self, some: Sequence[int], scan: Scan) -> None:
        """Choose one of some images: what a strategy cannot read of the module is refused here."""
        view = self._view(torch.tensor(some), scan)
        try:
            with quiet(logging.ERROR, "deepal.strategies"):  # which may warn of what an untrained module says
                choose(self.settings.strategy, view, 1, torch.Generator())
            view.pool[self.settings.strategy.needs.get("pool", ())]  # also what is read of a short list alone
        except NonFiniteError:
            return  # it is not trained yet
        pool = min(len(self.data.candidates), self.settings.pool_subset or len(self.data.candidates))
        sizes = replace(Sizes.of(view, self.settings.query_size), pool=pool, labeled=min(self.settings.budget, pool))
        preflight.refuse_too_large(self.settings.strategy, sizes, free_memory())

    def _with_artifacts(self, turn: Turn, view: View) -> tuple[View, str | None]:
        """A view of the whole pool with what the strategy has computed once, and the hash of that, where it was now."""
        strategy, positions = self.settings.strategy, view.pool.positions
        if not strategy.artifacts:
            return view, None
        if turn.artifacts:
            known = artifacts.load(self.files.artifacts, turn.artifacts, positions)
            return replace(view, pool=view.pool.joined(known)), None
        coins = torch.Generator().manual_seed(seeds.derive(self.settings.seed, "once"))
        found = strategy.once(view, turn.query_size, coins)
        made = self.ranks.decided(lambda: artifacts.save(self.files.artifacts, positions, found))
        return replace(view, pool=view.pool.joined(found)), made

    def _view(self, index: Tensor, scan: Scan) -> View:
        """What a strategy may look at. Args: index: positions of the pool that it may choose from."""
        pool = self.data.pool
        labeled = torch.tensor(pool.labeled, dtype=torch.long)
        known = {"target": torch.tensor(pool.labels), "cycle": torch.tensor(pool.cycles)}
        groups = {name: self.data.groups(positions) for name, positions in (("pool", index), ("labeled", labeled))}
        of_pool, of_labeled = ({} if each is None else {"group": each} for each in groups.values())
        held_out, target = self.data.holdout() if "holdout" in self.settings.strategy.needs else ([], torch.empty(0))
        return View(
            Signals(index, scan, of_pool),
            Signals(labeled, scan, known | of_labeled),
            Signals(torch.tensor(held_out, dtype=torch.long), scan, {"target": target}),
        )

    def _predicted(self, chosen: Signals, module: LightningModule | None) -> tuple[str | None, ...] | None:
        """What the model takes the chosen images for, where it can say. It has read each of them then, so that nobody is
        asked for an image that cannot be."""
        if module is None or not callable(getattr(voice_of(module), "probs", None)):
            reasons = self.ranks.together(self.data.unreadable(chosen.positions.tolist()))
            if reasons:
                raise UnreadableError(reasons)
            return None
        try:
            probs = chosen["probs"]
        except NonFiniteError:
            return None  # the strategy has not asked for them
        if probs.ndim > (2 if self.data.classes else 3):  # pixels: nothing that fits into a line
            return None
        return tuple(self.data.label(each) for each in probs.argmax(-1).tolist())


_PICTURED = 24  # images that a module reconstructs, to be looked at


def _pseudo_labels(view: View, choice: Choice) -> dict[str, Predictions]:
    """What the next model trains on besides labels, where the strategy says so."""
    if choice.pseudo_labels is None:
        return {}
    rows, classes = choice.pseudo_labels
    return {PSEUDO_LABELS: Predictions(tuple(view.pool.positions[rows].tolist()), tuple(classes.tolist()))}
