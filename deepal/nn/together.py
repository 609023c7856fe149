"""Several networks, read and trained together: one after another, as one stack, or as heads on features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop, Rprop

from deepal.nn.frozen import Frozen
from deepal.nn.network import Network

BY_NUMBER = {SGD, Adam, AdamW, NAdam, RAdam, Adamax, RMSprop, Adagrad, Adadelta, ASGD, Rprop}
"""Optimizers that treat each number by itself, whatever tensor it lies in."""


class Side(nn.ModuleList):
    """Networks side by side, each computed by itself."""

    def logits(self, images: Tensor) -> Tensor:
        """(M, B, C) of images (M, B, ...), each network's own."""
        return torch.stack([network(own) for network, own in zip(self, images, strict=True)])

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, M, C) and embeddings side by side (B, D), of the same images for all."""
        embeddings = [network.forward_features(images) for network in self]
        logits = [network.forward_head(each) for network, each in zip(self, embeddings, strict=True)]
        return torch.stack(logits, 1), torch.cat(embeddings, 1)

    def hidden_weights(self) -> list[Tensor]:
        """Of linear layers but the last."""
        return [weight for network in self for weight in network.hidden_weights()]


class Stack(nn.Module):
    """Networks of one shape, computed together: each weight is one tensor (M, ...), so that a layer is one product."""

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        weights = [dict(network.named_parameters()) for network in networks]
        self.weights = nn.ParameterDict(
            {name.replace(".", "/"): torch.stack([each[name].detach() for each in weights]) for name in weights[0]}
        )
        self._shape = (networks[0],)  # not a part of this: its own weights are not used

    @staticmethod
    def holds(network: Network) -> bool:
        """Whether a stack of such networks is faster than its parts: of linear layers alone, because convolutions with
        weights of their own are not."""
        return network.chain() is not None and all(isinstance(each, _DENSE) for each in network.chain() or ())

    def logits(self, images: Tensor) -> Tensor:
        """(M, B, C) of images (M, B, ...), each network's own."""
        self._shape[0].train(self.training)
        return torch.vmap(self._logits, randomness="different")(self._named(), images)

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, M, C) and embeddings side by side (B, D), of the same images for all."""
        self._shape[0].train(self.training)
        read = torch.vmap(self._both, in_dims=(0, None), out_dims=1, randomness="different")
        logits, embeddings = read(self._named(), images)
        return logits, embeddings.flatten(1)

    def hidden_weights(self) -> list[Tensor]:
        """Of linear layers but the last."""
        named = self._named()
        return [named[f"{name}.weight"] for name in self._shape[0].hidden()]

    def _named(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): weight for name, weight in self.weights.items()}

    def _logits(self, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        return torch.func.functional_call(self._shape[0], weights, (images,))

    def _both(self, weights: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        named = {f"of.{name}": each for name, each in weights.items()}
        return torch.func.functional_call(_Both(self._shape[0]), named, (images,))


class _Both(nn.Module):
    """Logits and embedding of a network."""

    def __init__(self, of: Network) -> None:
        super().__init__()
        self.of = of

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.of.forward_features(images)
        return self.of.forward_head(embedding), embedding


_DENSE = (nn.Flatten, nn.Linear, nn.ReLU, nn.GELU, nn.Tanh, nn.Dropout, nn.Identity)


class Heads(nn.Module):
    """What is trained of networks whose features are frozen, each on rows of features of its own, as one stack: a layer is
    one product of weights and columns, which for few classes takes a third of the time of rows and weights.

    Args: networks: of one shape, for which `hold` is true.
    """

    def __init__(self, networks: Sequence[Frozen]) -> None:
        super().__init__()
        layers = zip(*(_layers(network) for network in networks), strict=True)
        self.layers = nn.ModuleList(_Linears(same) if isinstance(same[0], nn.Linear) else same[0] for same in layers)

    @staticmethod
    def hold(network: nn.Module) -> bool:
        """Whether such networks can be one stack: linear layers, and functions of single numbers without coins."""
        return isinstance(network, Frozen) and all(
            isinstance(each, _DENSE) and not getattr(each, "p", 0) for each in _layers(network)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(M, C, B) logits of features (M, B, F), each head's own."""
        columns = features.mT
        for layer in self.layers:
            columns = layer(columns)
        return columns

    def hidden_weights(self) -> list[Tensor]:
        """Of linear layers but the last."""
        return [each.weight for each in self.layers[:-1] if isinstance(each, _Linears)]

    @torch.no_grad()
    def hand_back(self, networks: Sequence[Frozen]) -> None:
        """Give networks the weights of their heads."""
        for number, network in enumerate(networks):
            for own, stacked in zip(_layers(network), self.layers, strict=True):
                for name, weight in own.named_parameters():
                    weight.copy_(getattr(stacked, name)[number])


class _Linears(nn.Module):
    """Linear layers of one shape, on columns."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([each.weight.detach() for each in layers]))
        biases = [each.bias.detach() for each in layers if each.bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)) if biases else None

    def forward(self, columns: Tensor) -> Tensor:
        """(M, out, B) of (M, in, B)."""
        if self.bias is None:
            return self.weight @ columns
        return torch.baddbmm(self.bias.unsqueeze(2), self.weight, columns)


def _layers(network: Frozen) -> list[nn.Module]:
    """The layers on its features, one after another."""
    above = network.layers
    return [*(above if isinstance(above, nn.Sequential) else [above]), network.head]
