"""What each cycle makes anew."""

import pytest
from lightning.pytorch import Trainer

from deepal import fresh


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 30}, 30),
        ({"max_epochs": 2}, 20),
        ({"max_steps": 30, "max_epochs": 2}, 20),
        ({"max_steps": 15, "max_epochs": 2}, 15),
        ({"max_epochs": -1}, None),
    ],
    ids=str,
)
def test_a_fit_is_as_long_as_the_shorter_of_its_two_lengths(options, steps, tmp_path):
    trainer = Trainer(**options, logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    assert fresh.steps_of(trainer, batches=10) == steps
