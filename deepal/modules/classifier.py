"""`Classifier`: the supervised image classifier that the other modules vary."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from deepal.functional import gradients, mixing
from deepal.modules.measured import Measured
from deepal.nn import MLP, Frozen, Network, Trunk
from deepal.probes import Posterior
from deepal.task import Task


class Classifier(Measured):
    """A backbone trained with cross-entropy, that says `logits`, `probs`, `embedding`, `logit_gradient`, `flip_distance`
    and `gradient_embedding` of images.

    It is a recipe until the data is known: the network is drawn by `configure_network`, anew in each cycle.

    Args:
        backbone: a network of `deepal.nn`, called with (input shape, number of classes).
        optimizer: called with the parameters to train.
        scheduler: called with the optimizer; it steps once a training step. None: a constant learning rate.
        posterior: a distribution over networks around the one that is trained; with one, it says `mc_probs` too, and is
            tested by the average of what its draws predict.
        weight_penalty: of the squared weights of linear layers but the last, over the number of training images, added to
            the loss: the prior of a Bayesian network, which counts for less the more labels there are (Gal et al.: 2.5).
        frozen: train the last layer alone (and hidden ones that `Headed` puts before it); the features below keep their
            weights and their batch norm statistics, the same in each cycle. A run reads each image once, unless there is
            augmentation, and trains on rows of features.
        gradient_sketch: `gradient_embedding` says so many random projections of the gradient in place of classes times
            features, for many of them.
        metrics: of torchmetrics, by name, called with (probs (B, C), target (B,)); measured beside the others.
    """

    in_blocks = True
    """Many training steps may be one to Lightning: a step logs nothing, and asks nothing of the Trainer."""

    def __init__(
        self,
        backbone: Callable[[Sequence[int], int], Network] = MLP,
        optimizer: Callable[[Iterable], Optimizer] = Adam,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        posterior: Posterior | None = None,
        weight_penalty: float = 0.0,
        frozen: bool = False,
        gradient_sketch: int | None = None,
        metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__(metrics)
        if posterior is not None and not isinstance(posterior, Posterior):
            raise ValueError(f"Classifier(posterior={posterior!r}) must be a posterior: MCDropout(draws=20), say.")
        self.backbone, self.optimizer, self.scheduler = backbone, optimizer, scheduler
        if gradient_sketch is not None and gradient_sketch < 1:
            raise ValueError(f"Classifier(gradient_sketch={gradient_sketch}) must be at least 1, or None for none.")
        self.posterior, self.weight_penalty, self.frozen = posterior, weight_penalty, frozen
        self.gradient_sketch = gradient_sketch
        self.trunk = Trunk()

    def configure_network(self, task: Task) -> None:
        """Draw the network for this task, from the global generator, and be ready to be measured."""
        super().configure_network(task)
        self.draw_network(task)

    def draw_network(self, task: Task) -> None:
        """Draw the network for this task, from the global generator."""
        shape, classes = task.input_shape, len(task.classes)
        if self.frozen:
            self.network: Network = Frozen(self.trunk.drawn(self.backbone, shape, classes))
        else:
            self.network = self.backbone(shape, classes)
        self.learned = self.posterior.memory(self.network.head) if self.posterior else None
        if self.gradient_sketch is not None:  # the same directions for all images
            coins, widths = torch.Generator().manual_seed(0), (classes, self.network.head.in_features)
            self._directions = [gradients.random_directions(width, self.gradient_sketch, coins) for width in widths]

    # What it says of normalised images (B, channels, height, width)

    def embedding(self, images: Tensor) -> Tensor:
        """The input of the last linear layer, (B, D)."""
        return self.network.forward_features(images)

    def logits(self, images: Tensor) -> Tensor:
        """(B, C)."""
        return self.network.forward_head(self.embedding(images))

    def logits_of(self, embedding: Tensor) -> Tensor:
        """Of embeddings (B, D), (B, C)."""
        return self.network.forward_head(embedding)

    def probs(self, images: Tensor) -> Tensor:
        """Class probabilities (B, C), in fp32."""
        return torch.softmax(self.logits(images).float(), -1)

    def logit_gradient(self, images: Tensor) -> Tensor:
        """Gradient of the cross-entropy to the predicted class by the logits, (B, C)."""
        return gradients.logit_gradient(self.logits(images))

    def gradient_embedding(self, images: Tensor) -> Tensor:
        """The gradient by the last layer's weights, (B, C * D), which is for small things; or a sketch of it."""
        error, embedding = self.say(images, ("logit_gradient", "embedding")).values()
        if self.gradient_sketch is None:
            return gradients.gradient_embedding(error, embedding)
        return gradients.sketched_gradient(error, embedding, self._directions)

    def flip_distance(self, images: Tensor) -> Tensor:
        """How far the embedding moves along the gradient of its loss until another class is predicted, (B,)."""
        return self.say(images, ("flip_distance",))["flip_distance"]

    @property
    def mc_probs(self) -> Callable[[Tensor], Tensor]:
        """A function from images to the class probabilities of each draw of the posterior, (B, K, C), the same draws each
        time (a scan has draws of its own). There is none where there is no posterior."""
        if self.posterior is None:
            raise AttributeError("a Classifier without a posterior has no draws")
        return lambda images: self._draws()(images)

    def _draws(self) -> Callable[[Tensor], Tensor]:
        assert self.posterior
        return self.posterior.start(self, torch.Generator().manual_seed(0))

    def chain(self) -> Sequence[nn.Module] | None:
        """The layers from images to logits, where they run one after another and that is all; else None."""
        ours = all(getattr(type(self), name) is getattr(Classifier, name) for name in ("embedding", "logits", "probs"))
        return self.network.chain() if ours else None

    def say(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Several signals by name, from one forward pass where they share it."""
        embedding = self.embedding(images)
        logits = self.network.forward_head(embedding)
        shared = {
            "embedding": lambda: embedding,
            "logits": lambda: logits,
            "probs": lambda: torch.softmax(logits.float(), -1),
            "logit_gradient": lambda: gradients.logit_gradient(logits),
            "flip_distance": lambda: mixing.flip_distance(logits, self.network.head.weight),
        }
        return {name: shared[name]() if name in shared else getattr(self, name)(images) for name in names}

    # Training

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)

    def configure_optimizers(self) -> Any:
        return self.optimized_by(self.optimizer, self.scheduler)

    def loss(self, batch: dict[str, Tensor], images: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and what weights cost; what it has right. Args: images: how many there are to train on."""
        logits = self(batch["input"])
        loss = functional.cross_entropy(logits, batch["target"]) + self.penalty(self.network.hidden_weights(), images)
        return loss, logits.argmax(1) == batch["target"]

    def penalty(self, weights: Iterable[Tensor], images: int) -> Tensor | float:
        """What these weights cost. Args: images: how many there are to train on."""
        return self.weight_penalty / images * sum(each.square().sum() for each in weights) if self.weight_penalty else 0.0

    def on_train_end(self) -> None:
        """Let the posterior see what the network was trained on."""
        if self.learned is None:
            return
        assert self.posterior
        data = self.trainer.datamodule
        if not hasattr(data, "scan_dataloader"):
            raise ValueError(f"{self.posterior!r} reads the training images once more; train with a data module of deepal.")
        batches = data.scan_dataloader(torch.tensor(data.pool.trained[0]))
        self.eval()
        with torch.no_grad():
            embeddings = (self.embedding(data.scanned(batch, self.device)["input"]) for batch in batches)
            self.posterior.learn(self.learned, self.network.head, embeddings)

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """A function from images to class probabilities (B, C), as they are predicted in a test: the average of what the
        draws of the posterior predict, where there is one (and it is not kept from tests by `at_test=False`)."""
        if self.posterior is None or not self.posterior.at_test:
            return self.probs
        draws = self._draws()
        return lambda images: draws(images).mean(1)
