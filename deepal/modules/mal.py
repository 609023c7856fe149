"""`MAL`: features and last layer play against each other over what unlabeled images are."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from deepal.functional import gradients, uncertainty
from deepal.modules.beside import optimized_beside, optimizers_of, step
from deepal.modules.measured import Measured
from deepal.nn import MLP, Network
from deepal.nn.adversarial import CosineHead, Discriminator, miscalled, reverse_gradient
from deepal.task import Task


class MAL(Measured):
    """Minimax active learning (Ebrahimi et al., 2020): of unlabeled images the last layer, of one prototype a class, raises
    the entropy, and the features below lower it, so that unlabeled images gather around prototypes that lie between them
    and the labeled ones (Saito et al., 2019). Beside them a discriminator learns which features are of labeled images.

    It says `probs`, `logits`, `embedding` (directions of features), `logit_gradient`, and `unlabeledness` (B,), the logit
    of being unlabeled. A backbone whose features are of sites, (B, ..., D), makes all of these of sites. There is no
    published code; what the paper leaves open (temperature, weight) is taken from Saito et al.

    Args:
        backbone: a network of `deepal.nn`, called with (input shape, number of classes); its last layer is replaced.
        optimizer: called with the parameters to train, but for the discriminator's.
        scheduler: called with the optimizer; it steps once a training step. None: a constant learning rate.
        temperature: of the cosines.
        entropy_weight: of the entropy of unlabeled images beside the cross-entropy of labeled ones.
        adversary_rate: learning rate of the discriminator, of Adam.
        metrics: of torchmetrics, by name, called with (probs (B, C), target (B,)); measured beside the others.
    """

    reads_unlabeled = True

    def __init__(
        self,
        backbone: Callable[[Sequence[int], int], Network] = MLP,
        optimizer: Callable[[Iterable], Optimizer] = Adam,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        temperature: float = 0.05,
        entropy_weight: float = 0.1,
        adversary_rate: float = 5e-4,
        metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__(metrics)
        if not (temperature > 0 and entropy_weight >= 0 and adversary_rate >= 0):
            raise ValueError(
                f"MAL(temperature={temperature}, entropy_weight={entropy_weight}, adversary_rate={adversary_rate}) needs a "
                f"temperature above 0, and a weight and a rate that are not negative."
            )
        self.automatic_optimization = False
        self.backbone, self.optimizer, self.scheduler = backbone, optimizer, scheduler
        self.temperature, self.entropy_weight, self.adversary_rate = temperature, entropy_weight, adversary_rate

    def configure_network(self, task: Task) -> None:
        """Draw the networks, from the global generator."""
        super().configure_network(task)
        self.network = self.backbone(task.input_shape, len(task.classes))
        width = self.network.head.in_features
        self.network.head = CosineHead(width, len(task.classes), self.temperature)
        self.adversary = Discriminator(width)

    # What it says of normalised images (B, channels, height, width)

    def embedding(self, images: Tensor) -> Tensor:
        """Directions of features, (B, D): of length one."""
        return normalize(self.network.forward_features(images), dim=-1)

    def logits(self, images: Tensor) -> Tensor:
        """(B, C), within the length of a prototype over the temperature."""
        return self.network.forward_head(self.embedding(images))

    def logits_of(self, embedding: Tensor) -> Tensor:
        """Of embeddings (B, D), whatever their length, (B, C)."""
        return self.network.forward_head(embedding)

    def probs(self, images: Tensor) -> Tensor:
        return torch.softmax(self.logits(images).float(), -1)

    def logit_gradient(self, images: Tensor) -> Tensor:
        """Gradient of the cross-entropy to the predicted class by the logits, (B, C)."""
        return gradients.logit_gradient(self.logits(images))

    def unlabeledness(self, images: Tensor) -> Tensor:
        """The discriminator's logit of being unlabeled, (B,)."""
        return -self.adversary(self.embedding(images))

    def say(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Several signals by name, from one forward pass."""
        embedding = self.embedding(images)
        logits = self.network.forward_head(embedding)
        said = {
            "embedding": lambda: embedding,
            "logits": lambda: logits,
            "probs": lambda: torch.softmax(logits.float(), -1),
            "logit_gradient": lambda: gradients.logit_gradient(logits),
            "unlabeledness": lambda: -self.adversary(embedding),
        }
        return {name: said[name]() for name in names}

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)

    # Training

    def configure_optimizers(self) -> Any:
        own = self.optimized_by(self.optimizer, self.scheduler, self.network.parameters())
        return optimized_beside(own, Adam(self.adversary.parameters(), lr=self.adversary_rate))

    def training_step(self, batch: dict[str, dict[str, Tensor]], batch_idx: int) -> dict[str, Tensor]:
        said = super().training_step(batch, batch_idx)
        step(self, said["loss"], *optimizers_of(self))
        if schedule := self.lr_schedulers():
            schedule.step()
        return {**said, "loss": said["loss"].detach()}

    def loss(self, batch: dict[str, dict[str, Tensor]], images: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy of labeled images, the entropy of unlabeled ones, which features lower and prototypes raise, and
        what the discriminator gets wrong; which labels are predicted. Args: images: how many are labeled."""
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        count = len(labeled["input"])
        features = self.network.forward_features(torch.cat([labeled["input"], unlabeled["input"]]))
        logits = self.network.forward_head(features[:count])
        doubt = uncertainty.entropy_of_logits(self.network.forward_head(reverse_gradient(features[count:])))
        told = self.adversary(normalize(features.detach(), dim=-1))
        loss = functional.cross_entropy(logits.flatten(0, -2), labeled["target"].flatten())
        loss = loss - self.entropy_weight * doubt.mean() + miscalled(told[:count], True) + miscalled(told[count:], False)
        return loss, logits.argmax(-1) == labeled["target"]
