"""`LossPrediction`: a classifier, and beside it a head that learns how large its loss is on an image."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from deepal.functional.ranking import ranking_loss
from deepal.modules.accompanied import Accompanied
from deepal.modules.classifier import Classifier
from deepal.modules.recipe import Recipe
from deepal.nn.loss_head import LossHead, outputs_of, widths_of
from deepal.task import Task


class LossPrediction(Accompanied):
    """Learning loss (Yoo & Kweon, 2019): from features of several levels a small head learns, by pairs of images, on which
    the classifier's loss is larger. It says all that its classifier says, and `predicted_loss` (B,), whose order alone
    means something.

    The head's loss trains the features too until `detach_epoch`, as in the paper: the classifier is another one than
    without it, so a comparison of strategies takes all of them on this module.

    Args:
        of: the classifier.
        stages: names of the parts of its network that the head reads, as `network.named_modules()` has them. None: what
            the network calls its stages, of a residual network the four, of layers in a row the nonlinear ones. They
            put out (B, D), (B, tokens, D), or (B, D, height, width), channels first.
        hidden: units of the head for each of these.
        weight: of the head's loss beside the classifier's.
        margin: between the predictions of a pair.
        detach_epoch: from this epoch on (the first is 0) the head's loss trains the head alone.
    """

    own = ("predicted_loss",)

    def __init__(
        self,
        of: Recipe = Classifier,
        stages: Sequence[str] | None = None,
        hidden: int = 128,
        weight: float = 1.0,
        margin: float = 1.0,
        detach_epoch: int = 120,
    ) -> None:
        super().__init__(of)
        if hidden < 1 or not weight >= 0 or not margin > 0 or detach_epoch < 0:
            raise ValueError(
                f"LossPrediction(hidden={hidden}, weight={weight}, margin={margin}, detach_epoch={detach_epoch}) needs at "
                f"least one unit, a margin above 0, and a weight and an epoch that are not negative."
            )
        self.stages, self.hidden, self.weight, self.margin = stages, hidden, weight, margin
        self.detach_epoch = detach_epoch
        self._attached = True

    def configure_network(self, task: Task) -> None:
        """Draw the network and the head, from the global generator. Raises ValueError where the network has no such stage,
        or does not say which are its stages."""
        super().configure_network(task)
        network = self.of.network
        self.read = list(network.stages() if self.stages is None else self.stages)
        if not self.read:
            raise ValueError(
                f"LossPrediction needs to know which parts of {type(network).__name__} to read; name some of its "
                f"named_modules() in stages=[...]."
            )
        parts = [name for name, _ in network.named_modules() if name]
        for name in sorted(set(self.read) - set(parts)):
            raise ValueError(
                f"LossPrediction(stages=['{name}', ...]) is no part of {type(network).__name__}; its parts are "
                f"{', '.join(parts)}."
            )
        self.head = LossHead(widths_of(network, self.read, task.input_shape), self.hidden)

    def predicted_loss(self, images: Tensor) -> Tensor:
        """How large the classifier's loss is, (B,), in no unit: beside that of other images."""
        return self.say(images, self.own)["predicted_loss"]

    def say(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Several signals by name, from one forward pass."""
        others = [name for name in names if name not in self.own]
        with outputs_of(self.of.network, self.read) as features:
            said = self.of.say(images, others or ["logits"])
            predicted = self.head([features[name] for name in self.read])
        return {name: predicted.float() if name in self.own else said[name] for name in names}

    # Training

    def configure_optimizers(self) -> object:
        return self.optimized_by(self.of.optimizer, self.of.scheduler)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._attached = self.current_epoch < self.detach_epoch

    def loss(self, batch: dict[str, Tensor], images: int) -> tuple[Tensor, Tensor]:
        """The classifier's loss and how badly the head orders images by it; what the classifier has right."""
        with outputs_of(self.of.network, self.read) as outputs:
            logits = self.logits(batch["input"])
        features = [outputs[name] if self._attached else outputs[name].detach() for name in self.read]
        losses = functional.cross_entropy(logits, batch["target"], reduction="none")
        loss = losses.mean() + self.of.penalty(self.of.network.hidden_weights(), images)
        loss = loss + self.weight * ranking_loss(self.head(features), losses, self.margin)
        return loss, logits.argmax(1) == batch["target"]
