"""What a strategy computes once in a run is there for all of it, or the run does not go on."""

import dataclasses
import signal

import pytest
import torch

from deepal import artifacts
from deepal.artifacts import ArtifactsLostError
from deepal.strategies import Choice, ClusterMargin, QueryStrategy
from tests import runs
from tests.runs import Outcome, digits, in_process


@dataclasses.dataclass(frozen=True)
class Remembering(QueryStrategy):
    """Asks rows in an order that is drawn once."""

    needs = {"pool": ("embedding",)}
    artifacts = ("place",)

    def once(self, view, query_size, generator):
        return {"place": torch.randperm(len(view.pool), generator=generator)}

    def select(self, view, query_size, generator):
        return Choice(view.pool["place"].argsort()[:query_size])


def test_what_was_drawn_once_holds_in_all_cycles(tmp_path):
    learner = digits(tmp_path, strategy=Remembering())
    learner.run()
    whole = digits(tmp_path / "whole", strategy=Remembering(), query_size=30)
    whole.run()
    assert _asked(learner) == _asked(whole)
    subset = digits(tmp_path / "subset", strategy=Remembering(), pool_subset=100)
    subset.run()
    assert (subset.folder / "artifacts.safetensors").read_bytes() == (learner.folder / "artifacts.safetensors").read_bytes()


def test_positions_that_were_not_there_read_unknown(tmp_path):
    digest = artifacts.save(tmp_path / "a", torch.tensor([7, 3]), {"cluster": torch.tensor([70, 30])})
    found = artifacts.load(tmp_path / "a", digest, torch.tensor([3, 5, 7, 9]))
    assert found["cluster"].tolist() == [30, artifacts.UNKNOWN, 70, artifacts.UNKNOWN]


def test_a_run_of_cluster_margin_goes_on_as_if_it_had_not_been_left(tmp_path):
    for budget in (30, 40, 50):
        parts = digits(tmp_path / "parts", strategy=ClusterMargin(), budget=budget, name="one", data=_data())
        parts.run()
    once = digits(tmp_path / "once", strategy=ClusterMargin(), name="one", data=_data())
    once.run()
    assert Outcome.of(parts).queries == Outcome.of(once).queries


def test_a_run_killed_before_it_asked_computes_them_again(tmp_path):
    process = in_process(runs.run_and_die, tmp_path / "killed", "after the artifacts", 1, {"strategy": ClusterMargin()})
    process.join()
    assert process.exitcode == -signal.SIGKILL
    runs.run(tmp_path / "killed", {"strategy": ClusterMargin()})
    runs.run(tmp_path / "whole", {"strategy": ClusterMargin()})
    killed, whole = (digits(tmp_path / each, strategy=ClusterMargin()) for each in ("killed", "whole"))
    assert Outcome.of(killed) == Outcome.of(whole)


def _data():
    return runs.Digits(epoch_steps=10, validation=0)


def _asked(learner):
    return [position for positions, _ in Outcome.of(learner).queries[1:] for position in positions]


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(b"something else")])
def test_a_run_does_not_go_on_without_them(tmp_path, harm):
    digits(tmp_path, strategy=ClusterMargin(), budget=30, name="one").run()
    harm(tmp_path / "one" / "artifacts.safetensors")
    with pytest.raises(ArtifactsLostError, match=r"artifacts\.safetensors is missing or was changed"):
        digits(tmp_path, strategy=ClusterMargin(), budget=50, name="one").run()
