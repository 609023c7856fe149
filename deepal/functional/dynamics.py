"""What training does to predictions, epoch by epoch. N samples, T times.

A label is not needed to see that the model could not make up its mind (`label_dispersion`, `prediction_flips`); with one it
is seen what was learned and lost again (`forgetting_events`).
"""

import torch
from torch import Tensor

UNSEEN = -1
"""A prediction that was not recorded."""


def label_dispersion(history: Tensor) -> Tensor:
    """The share of times at which something else was predicted than what was predicted most often,

        1 - 1/T max_c |{t : y_t = c}|    (Bengar et al., 2021).

    Args: history (N, T), class numbers, T > 0. Returns (N,), from 0 to 1 - 1 / classes; just below 0 for rows with `UNSEEN`
        times. The order of times does not matter.

    >>> label_dispersion(torch.tensor([[3, 3, 3, 3], [1, 0, 1, 2]]))
    tensor([0.0000, 0.5000])
    """
    most_often = history.mode(dim=1).values.unsqueeze(1)
    return _where_seen(history, (history != most_often).float().mean(1))


def prediction_flips(history: Tensor) -> Tensor:
    """The share of times at which something else was predicted than the time before.

    Args: history (N, T), class numbers, T > 0. Returns (N,), within [0, 1]; just below 0 for rows with `UNSEEN` times.

    >>> prediction_flips(torch.tensor([[0, 0, 1, 1, 1], [0, 1, 0, 1, 0]]))
    tensor([0.2500, 1.0000])
    """
    flips = (history[:, 1:] != history[:, :-1]).float().sum(1)
    return _where_seen(history, flips / max(1, history.shape[1] - 1))


def _where_seen(history: Tensor, scores: Tensor) -> Tensor:
    return torch.where((history == UNSEEN).any(1), -1e-7, scores)  # and no less, where scores are weights of a draw


def forgetting_events(correct: Tensor) -> Tensor:
    """How often a sample that the model had right was wrong the next time  (Toneva et al., 2019). One that it never had
    right counts as often as it was shown, which is more than any other can.

    Args: correct (N, T), whether it was right each time that it was shown. Returns (N,), integers.

    >>> forgetting_events(torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]]).bool())
    tensor([2, 5, 0])
    """
    seen = Presentations(len(correct), correct.device)
    seen.show(torch.arange(len(correct), device=correct.device).repeat(correct.shape[1]), correct.T.reshape(-1))
    return seen.forgetting_events()


class Presentations:
    """What is known of samples that are shown again and again, as they are shown.

    Args: samples: N; device: where it is kept.
    """

    def __init__(self, samples: int, device: torch.device | None = None) -> None:
        self.shown, self.forgotten = (torch.zeros(samples, dtype=torch.int32, device=device) for _ in range(2))
        self.learned, self._right = (torch.zeros(samples, dtype=torch.bool, device=device) for _ in range(2))

    def show(self, samples: Tensor, correct: Tensor) -> None:
        """Some were shown, one after another, and the model had them right or not.

        Args: samples (n,), their numbers, one as often as it was shown; correct (n,).
        """
        order = samples.sort(stable=True).indices
        samples, correct = samples[order], correct[order].bool()
        first = torch.ones_like(correct)
        first[1:] = samples[1:] != samples[:-1]
        before = torch.where(first, self._right[samples], correct.roll(1))
        self.shown.index_add_(0, samples, torch.ones_like(samples, dtype=torch.int32))
        self.forgotten.index_add_(0, samples, (before & ~correct).int())
        self.learned[samples[correct]] = True
        last = first.roll(-1)
        self._right[samples[last]] = correct[last]

    def forgetting_events(self) -> Tensor:
        """As the function of that name, (N,)."""
        return torch.where(self.learned, self.forgotten, self.shown).long()

    def state(self) -> dict[str, Tensor]:
        """All that is known."""
        return {"shown": self.shown, "forgotten": self.forgotten, "learned": self.learned, "right": self._right}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Know this instead."""
        self.shown, self.forgotten, self.learned, self._right = (
            state[name] for name in ("shown", "forgotten", "learned", "right")
        )
