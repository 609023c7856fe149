"""What a network computes on its way, and a head that tells from it how large the loss will be."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from deepal.nn.network import Network, in_eval


@contextmanager
def outputs_of(network: Network, parts: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While this is entered, what parts of a network, by name, put out: of each its latest output. Positions, or tokens,
    are averaged over: (B, D) of (B, D, height, width), channels first, and of (B, tokens, D)."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, part: nn.Module, inputs: object, output: Tensor) -> None:
        if output.ndim == 3:
            output = output.mean(1)
        outputs[name] = output.flatten(2).mean(2) if output.ndim > 3 else output

    with ExitStack() as hooks:
        for name in parts:
            hook = network.get_submodule(name).register_forward_hook(partial(keep, name))
            hooks.callback(hook.remove)
        yield outputs


class LossHead(nn.Module):
    """A number for each image, from features of several levels: of each a hidden layer, and one layer over all of them
    (Yoo & Kweon, 2019).

    Args: widths: features of each level; hidden: units for each level.
    """

    def __init__(self, widths: Sequence[int], hidden: int = 128) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Sequential(nn.Linear(width, hidden), nn.ReLU()) for width in widths)
        self.head = nn.Linear(hidden * len(widths), 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of each level (B, D_i) to (B,)."""
        told = [level(each) for level, each in zip(self.levels, features, strict=True)]
        return self.head(torch.cat(told, 1)).squeeze(1)


def widths_of(network: Network, parts: Sequence[str], input_shape: Sequence[int]) -> list[int]:
    """How many features these parts put out for one image of this shape, found by passing one through in eval mode."""
    with in_eval(network), torch.no_grad(), outputs_of(network, parts) as outputs:
        network(torch.zeros(1, *input_shape))
    return [outputs[name].shape[1] for name in parts]
