"""`GradientLength`: how much all of a network would change, were a sample labeled as it expects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from deepal.functional import gradients
from deepal.functional.geometry import working
from deepal.nn.network import in_eval
from deepal.probes.base import Probe


@dataclass(frozen=True)
class GradientLength(Probe):
    """Says `gradient_length` (B,): how long the gradient by all weights that are trained is, on average over the labels
    that the model expects, sum_y p_y |g_y| (Settles & Craven, 2008). A sample takes a backward pass for each label.

    Args: labels: so many of the most probable are counted, by their probabilities as they are, which is less than the whole
        sum. None: all.
    """

    labels: int | None = None
    says = "gradient_length"
    asks = ("logits",)

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels < 1:
            raise ValueError(f"GradientLength(labels={self.labels}) must be at least 1, or None for all.")

    def start(self, module: nn.Module, generator: torch.Generator) -> Callable[[Any], Tensor]:
        """A function from images (B, ...) to (B,). Raises ValueError where no weight is trained."""
        if getattr(getattr(module, "adapter", None), "activation", "softmax") != "softmax":
            raise ValueError(
                f"{self!r} reads one class an image, and this Adapter says labels, of which several may be right."
            )
        speaking = _Logits(module)
        weights = {name: each.detach() for name, each in speaking.named_parameters() if each.requires_grad}
        if not weights:
            raise ValueError(f"{self!r} measures gradients of what is trained, and {type(module).__name__} trains nothing.")
        together = max(1, _NUMBERS // sum(each.numel() for each in weights.values()))

        def length(image: Tensor) -> Tensor:
            logits, pulled_back = vjp(lambda weights: functional_call(speaking, weights, image[None])[0], weights)
            likely = torch.softmax(logits.to(working(logits)), -1).topk(min(self.labels or len(logits), len(logits)))
            errors = gradients.class_gradients(logits, likely.indices).to(logits.dtype)
            lengths = [torch.stack([part.norm() for part in pulled_back(error)[0].values()]).norm() for error in errors]
            return likely.values @ torch.stack(lengths)

        def read(images: Tensor) -> Tensor:
            # inference mode keeps nothing of what a gradient takes, and tensors that were made in it never do; in half
            # precision the errors of sure rows vanish
            with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False), in_eval(module):
                found = vmap(length, chunk_size=together)(images.clone())
            if len(found) and not found.any():
                raise ValueError(
                    f"{self!r} finds no gradient in any image: what {type(module).__name__} says does not hang on its "
                    f"weights that are trained, as where it keeps copies of them (Snapshot)."
                )
            return found

        return read


_NUMBERS = 2**26  # of gradients that are held at a time


class _Logits(nn.Module):
    """A module whose forward pass says another's logits."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return self.module.logits(images)
