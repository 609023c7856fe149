"""`VAAL`: a classifier, and beside it two networks that learn what labeled images look like, and what others do."""

import logging
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from deepal.functional import variational
from deepal.modules.accompanied import Accompanied
from deepal.modules.classifier import Classifier
from deepal.modules.measured import refuse_plain_ddp
from deepal.modules.recipe import Recipe
from deepal.nn.adversarial import Discriminator, miscalled
from deepal.nn.vae import VAE
from deepal.task import Task

log = logging.getLogger(__name__)

_COLLAPSED = 0.01  # nats a latent number, below which it says next to nothing of an image


class VAAL(Accompanied):
    """Variational adversarial active learning (Sinha et al., 2019): a variational autoencoder learns all images, labeled
    and unlabeled, and a discriminator learns to tell by its latent means which are labeled, while the autoencoder learns
    to make them alike. What is told apart all the same is unlike what is labeled: `unlabeledness`, the logit of being
    unlabeled, which knows nothing of any label. The classifier learns from labeled images alone.

    It says all that its classifier says, and `unlabeledness` (B,), `latent` (B, Z), the latent means, and `reconstruction`
    (B, channels, height, width). All is read in eval mode.

    Published code trains the classifier in eval mode; sums the divergence over images and latent numbers beside an error
    that is averaged over pixels, under which the latent says nothing of an image; and ranks probabilities, which saturate.
    Here the parts of the loss weigh as in the paper's equations, where each is of an image, so that `beta` and
    `adversary_weight` mean the same for images of any size, and logits are ranked.

    Args:
        of: the classifier.
        latent_dim: Z.
        width: channels of the autoencoder's first convolution.
        beta: weight of the divergence from the prior, beside half the squared error of an image.
        adversary_weight: of making labeled and unlabeled images alike, beside these two.
        vae_steps, adversary_steps: of each for a step of the classifier, each with images of its own.
        vae_rate, adversary_rate: learning rates, of Adam.
    """

    reads_unlabeled = True
    own = ("latent", "unlabeledness", "reconstruction")

    def __init__(
        self,
        of: Recipe = Classifier,
        latent_dim: int = 32,
        width: int = 128,
        beta: float = 1.0,
        adversary_weight: float = 1.0,
        vae_steps: int = 2,
        adversary_steps: int = 1,
        vae_rate: float = 5e-4,
        adversary_rate: float = 5e-4,
    ) -> None:
        super().__init__(of)
        if min(latent_dim, width, vae_steps, adversary_steps) < 1 or min(beta, adversary_weight) < 0:
            raise ValueError(
                f"VAAL(latent_dim={latent_dim}, width={width}, beta={beta}, adversary_weight={adversary_weight}, "
                f"vae_steps={vae_steps}, adversary_steps={adversary_steps}) needs sizes and steps of at least 1, and "
                f"weights that are not negative."
            )
        self.automatic_optimization = False
        self.latent_dim, self.width = latent_dim, width
        self.beta, self.adversary_weight = beta, adversary_weight
        self.vae_steps, self.adversary_steps, self.orders = vae_steps, adversary_steps, max(vae_steps, adversary_steps)
        self.vae_rate, self.adversary_rate = vae_rate, adversary_rate

    def configure_network(self, task: Task) -> None:
        """Draw the three networks, from the global generator, the classifier's first."""
        super().configure_network(task)
        self.vae = VAE(task.input_shape, self.latent_dim, self.width)
        self.adversary = Discriminator(self.latent_dim)

    # What it says of normalised images (B, channels, height, width)

    def latent(self, images: Tensor) -> Tensor:
        """Means of the latent, (B, Z)."""
        return self.vae.encode(images)[0]

    def unlabeledness(self, images: Tensor) -> Tensor:
        """The discriminator's logit of being unlabeled, (B,)."""
        return -self.adversary(self.latent(images)).float()

    def reconstruction(self, images: Tensor) -> Tensor:
        """Images again, from the means of their latent."""
        return self.vae.decode(self.latent(images))

    # Training

    def configure_optimizers(self) -> Any:
        task = self.of.optimized_by(self.of.optimizer, self.of.scheduler)
        optimizer, schedules = (task["optimizer"], [task["lr_scheduler"]]) if isinstance(task, dict) else (task, [])
        others = [
            Adam(self.vae.parameters(), lr=self.vae_rate), Adam(self.adversary.parameters(), lr=self.adversary_rate)
        ]  # fmt: skip
        return [optimizer, *others], schedules

    def on_fit_start(self) -> None:
        refuse_plain_ddp(self, "trains one of its networks at a time")

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, dict[str, Tensor]], batch_idx: int) -> dict[str, Tensor]:
        labeled, unlabeled = ({name: each.chunk(self.orders) for name, each in batch[of].items()} for of in _SIDES)
        task, vae, adversary = self.optimizers()
        for other in (vae, adversary):  # a step of the fit is one of the classifier
            other._on_before_step = other._on_after_step = do_nothing_closure
        own = {name: parts[0] for name, parts in labeled.items()}
        loss, correct = self.of.loss(own, self._images)
        self._step(task, loss)
        if schedule := self.lr_schedulers():
            schedule.step()
        for turn in range(self.vae_steps):
            self._step(vae, self.vae_loss(labeled["input"][turn], unlabeled["input"][turn]))
        for turn in range(self.adversary_steps):
            self._step(adversary, self.adversary_loss(labeled["input"][turn], unlabeled["input"][turn]))
        self._taken.append((loss.detach(), correct.sum(), correct.numel()))
        return {"loss": loss.detach(), "correct": correct, "position": own.get("position")}

    def _step(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def vae_loss(self, labeled: Tensor, unlabeled: Tensor) -> Tensor:
        """The evidence bound of an image, by errors of variance 1, with the divergence from the prior weighed by `beta`,
        and how well the discriminator sees by the latent means that images are not labeled; all for a pixel, and twice, so
        that the first part is the mean squared error."""
        images = torch.cat([labeled, unlabeled])
        again, mean, log_variance = (each.float() for each in self.vae(images))
        error = functional.mse_loss(again, images)
        divergence = variational.divergence(mean, log_variance)
        self._seen.append((error.detach(), divergence.mean().detach(), mean.detach()))
        told = self.adversary(mean)
        fooled = sum(miscalled(each, True) for each in (told[: len(labeled)], told[len(labeled) :]))
        beside = self.beta * divergence.sum(1).mean() + self.adversary_weight * fooled
        return error + 2 / images[0].numel() * beside

    def adversary_loss(self, labeled: Tensor, unlabeled: Tensor) -> Tensor:
        """How badly the discriminator tells labeled images from others."""
        with torch.no_grad():
            latent = self.latent(torch.cat([labeled, unlabeled]))
        told = self.adversary(latent)
        return miscalled(told[: len(labeled)], True) + miscalled(told[len(labeled) :], False)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        errors, divergences, means = zip(*self._seen, strict=True)
        divergence = torch.stack(divergences).mean()
        living = variational.alive(means[-1]).float().mean()
        self.log_dict(
            {"train/reconstruction": torch.stack(errors).mean(), "train/divergence": divergence, "train/alive": living}
        )
        if divergence < _COLLAPSED:
            log.warning(
                "VAAL's latent says next to nothing of images: its divergence from the prior is %.2g nats a number; lower "
                "beta=%g.", divergence, self.beta,
            )  # fmt: skip


_SIDES = ("labeled", "unlabeled")
