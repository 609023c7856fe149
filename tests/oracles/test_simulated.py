from pathlib import Path

import pytest

from deepal.oracles import DatasetOracle, NoisyOracle, Oracle, Question


def asked(positions):
    return [Question(position, str(position), cycle=0, rank=rank) for rank, position in enumerate(positions)]


class Names:
    classes = ("a", "b", "c", "d")

    def true_label(self, position):
        return self.classes[position % 4]


def test_the_data_set_answers_the_truth():
    answers = DatasetOracle().answer(asked([5, 2]), Names(), Path(), seed=0)
    assert [(each.position, each.label, each.status) for each in answers] == [(5, "b", "labeled"), (2, "c", "labeled")]


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_noise_has_its_rate_and_never_says_the_truth_by_accident(rate):
    answers = NoisyOracle(rate).answer(asked(range(4000)), Names(), Path(), seed=0)
    wrong = [each for each in answers if each.label != Names().true_label(each.position)]
    assert len(wrong) / 4000 == pytest.approx(rate, abs=0.03)
    if rate:
        flips = [(Names.classes.index(each.label) - each.position) % 4 for each in wrong]
        assert all(flips.count(step) / len(flips) == pytest.approx(1 / 3, abs=0.05) for step in (1, 2, 3))


def test_a_position_gets_the_same_answer_in_any_order():
    forward = NoisyOracle(0.5).answer(asked(range(100)), Names(), Path(), seed=1)
    backward = NoisyOracle(0.5).answer(asked(range(99, -1, -1)), Names(), Path(), seed=1)
    assert forward == backward[::-1]
    assert forward != NoisyOracle(0.5).answer(asked(range(100)), Names(), Path(), seed=2)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_that_cannot_be(rate):
    with pytest.raises(ValueError, match="rate"):
        NoisyOracle(rate)


def test_an_oracle_is_abstract():
    with pytest.raises(TypeError):
        Oracle()
