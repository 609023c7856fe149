import torch

from deepal.functional import dynamics
from deepal.signals import Signals
from deepal.strategies import LabelDispersion, PredictionFlips, View


def test_each_asks_for_what_its_function_puts_first():
    """A row that changed once and for all is dispersed and does not flip; one that goes to and fro does both."""
    coins = torch.Generator().manual_seed(0)
    history = torch.randint(3, (40, 8), generator=coins)
    history[0] = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    history[1] = dynamics.UNSEEN
    view = View(Signals.of({"history": history}), Signals.of({}))
    for strategy, function in (
        (LabelDispersion(), dynamics.label_dispersion),
        (PredictionFlips(), dynamics.prediction_flips),
    ):
        choice = strategy.select(view, 40, torch.Generator().manual_seed(0))
        assert torch.equal(choice.scores, function(history)[choice.rows])
        assert choice.scores.diff().le(0).all()
        assert choice.rows[-1] == 1, "what is not followed comes last"
    assert dynamics.label_dispersion(history)[0] == 0.5
    assert dynamics.prediction_flips(history)[0] < 0.2
