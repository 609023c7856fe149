"""A classifier that another part of the same module looks at."""

from collections.abc import Sequence

from torch import Tensor

from deepal.modules.classifier import Classifier
from deepal.modules.measured import Measured
from deepal.modules.recipe import Recipe, classifier_of
from deepal.task import Task


class Accompanied(Measured):
    """A classifier, and beside it something of the module's own: it says all that its classifier says, and `own`.

    Args: of: the classifier.
    Raises ValueError for a classifier that is more than its network: of frozen features, or with a posterior.
    """

    of_its_own: tuple[str, ...] = ()
    """Options of its classifier that it does not take from there."""

    own: tuple[str, ...]
    """Signals that the classifier does not say."""

    def __init__(self, of: Recipe) -> None:
        by = type(self).__name__
        recipe = classifier_of(of, by)
        if recipe.posterior is not None or recipe.frozen:
            raise ValueError(
                f"{by}(of=...) takes a Classifier that learns from images and has no posterior of its own; leave frozen "
                f"and posterior out, and give probes=[MCDropout()] for draws."
            )
        super().__init__(recipe.metrics)
        self.of = recipe

    def configure_network(self, task: Task) -> None:
        """Draw the networks, from the global generator, the classifier's first."""
        super().configure_network(task)
        self.of.draw_network(task)

    @property
    def reader(self) -> Classifier:
        """What says the classifier's signals."""
        return self.of

    # What it says of normalised images (B, channels, height, width)

    def logits(self, images: Tensor) -> Tensor:
        """(B, C)."""
        return self.reader.logits(images)

    def logits_of(self, embedding: Tensor) -> Tensor:
        """Of embeddings (B, D), (B, C)."""
        return self.reader.logits_of(embedding)

    def probs(self, images: Tensor) -> Tensor:
        """The classifier's class probabilities (B, C), in fp32."""
        return self.reader.probs(images)

    def embedding(self, images: Tensor) -> Tensor:
        """The input of the classifier's last layer, (B, D)."""
        return self.reader.embedding(images)

    def logit_gradient(self, images: Tensor) -> Tensor:
        """Gradient of the cross-entropy to the predicted class by the logits, (B, C)."""
        return self.reader.logit_gradient(images)

    def gradient_embedding(self, images: Tensor) -> Tensor:
        """As of `Classifier`, (B, C * D), or as wide as its sketch."""
        return self.reader.gradient_embedding(images)

    def flip_distance(self, images: Tensor) -> Tensor:
        """As of `Classifier`, (B,)."""
        return self.reader.flip_distance(images)

    def say(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Several signals by name, the classifier's from one forward pass."""
        said = {name: getattr(self, name)(images) for name in names if name in self.own}
        others = [name for name in names if name not in self.own]
        return {**said, **(self.reader.say(images, others) if others else {})}

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)
