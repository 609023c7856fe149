"""Several networks, read and trained together: one after another, or as one stack."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepal.nn.network import Network


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
