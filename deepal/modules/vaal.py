"""`VAAL`: a classifier, and beside it two networks that learn what labeled images look like, and what others do."""

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from deepal.functional import variational
from deepal.modules.accompanied import Accompanied
from deepal.modules.beside import optimized_beside, optimizers_of, step
from deepal.modules.classifier import Classifier
from deepal.modules.measured import refuse_plain_ddp
from deepal.modules.recipe import Recipe
from deepal.nn.adversarial import Discriminator, miscalled
from deepal.nn.vae import VAE
from deepal.task import Task

log = logging.getLogger(__name__)

_COLLAPSED = 0.01  # nats a latent number, below which it says next to nothing of an image
_OF_AN_ERROR = 2 * 32 / 28**2  # what a latent number weighs beside a pixel: twice, as half the squared error is the bound's


class VAAL(Accompanied):
    """Variational adversarial active learning (Sinha et al., 2019): a variational autoencoder learns all images, labeled
    and unlabeled, and a discriminator learns to tell by its latent means which are labeled, while the autoencoder learns
    to make them alike. What is told apart all the same is unlike what is labeled: `unlabeledness`, the logit of being
    unlabeled, which knows nothing of any label. The classifier learns from labeled images alone.

    It says all that its classifier says, and `unlabeledness` (B,), `latent` (B, Z), the latent means, and `reconstruction`
    (B, channels, height, width). All is read in eval mode.

    Published code trains the classifier in eval mode; sums the divergence over images and latent numbers beside an error
    that is averaged over pixels, under which the latent says nothing of an image; and ranks probabilities, which saturate.
    Here logits are ranked, and the error is of a pixel, the divergence of a latent number, and both weigh as in the paper's
    equations for a grey image of 28 x 28 pixels and 32 latent numbers: `beta` and `adversary_weight` mean the same for
    images and latents of any size (Higgins et al., 2017, normalise likewise).

    Validation measures the classifier alone: `BestWeights` leaves the other two networks as the fit ends with them, so that
    what is asked hangs on no label (but through `EarlyStopping`, which ends the fit of all three).

    Args:
        of: the classifier.
        latent_dim: Z.
        width: channels of the autoencoder's first convolution.
        beta: weight of the divergence from the prior, beside the squared error.
        adversary_weight: of making labeled and unlabeled images alike, beside these two.
        vae_steps, adversary_steps: of each for a step of the classifier, each with images of its own.
        vae_rate, adversary_rate: learning rates, of Adam.
    """

    reads_unlabeled = True
    unmeasured = ("vae", "adversary")
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
        weights = (beta, adversary_weight, vae_rate, adversary_rate)
        if min(latent_dim, width, vae_steps, adversary_steps) < 1 or not all(each >= 0 for each in weights):
            raise ValueError(
                f"VAAL(latent_dim={latent_dim}, width={width}, beta={beta}, adversary_weight={adversary_weight}, "
                f"vae_steps={vae_steps}, adversary_steps={adversary_steps}, vae_rate={vae_rate}, "
                f"adversary_rate={adversary_rate}) needs sizes and steps of at least 1, and weights and rates that are not "
                f"negative."
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
        return -self.adversary(self.latent(images))

    def reconstruction(self, images: Tensor) -> Tensor:
        """Images again, from the means of their latent."""
        return self.vae.decode(self.latent(images))

    # Training

    def configure_optimizers(self) -> Any:
        return optimized_beside(
            self.of.optimized_by(self.of.optimizer, self.of.scheduler),
            Adam(self.vae.parameters(), lr=self.vae_rate),
            Adam(self.adversary.parameters(), lr=self.adversary_rate),
        )

    def on_fit_start(self) -> None:
        refuse_plain_ddp(self, "trains one of its networks at a time")
        self._has_warned = False

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, dict[str, Tensor]], batch_idx: int) -> dict[str, Tensor]:
        labeled, unlabeled = ({name: each.chunk(self.orders) for name, each in batch[of].items()} for of in _SIDES)
        task, vae, adversary = optimizers_of(self)
        own = {name: parts[0] for name, parts in labeled.items()}
        loss, correct = self.of.loss(own, self._images)
        step(self, loss, task)
        if schedule := self.lr_schedulers():
            schedule.step()
        for turn in range(self.vae_steps):
            step(self, self.vae_loss(labeled["input"][turn], unlabeled["input"][turn]), vae)
        for turn in range(self.adversary_steps):
            step(self, self.adversary_loss(labeled["input"][turn], unlabeled["input"][turn]), adversary)
        self._taken.append((loss.detach(), correct.sum(), correct.numel()))
        return {"loss": loss.detach(), "correct": correct, "position": own.get("position")}

    def vae_loss(self, labeled: Tensor, unlabeled: Tensor) -> Tensor:
        """The mean squared error of a pixel; the divergence from the prior of a latent number, weighed by `beta`; and how
        well the discriminator sees by the latent means that images are not labeled."""
        images = torch.cat([labeled, unlabeled])
        again, mean, log_variance = (each.float() for each in self.vae(images))
        error = functional.mse_loss(again, images)
        divergence = variational.divergence(mean, log_variance)
        self._seen.append((error.detach(), divergence.mean().detach()))
        self._latest = mean.detach()
        told = self.adversary(mean)
        fooled = sum(miscalled(each, True) for each in (told[: len(labeled)], told[len(labeled) :]))
        beside = self.beta * divergence.mean() + self.adversary_weight * fooled / self.latent_dim
        return error + _OF_AN_ERROR * beside

    def adversary_loss(self, labeled: Tensor, unlabeled: Tensor) -> Tensor:
        """How badly the discriminator tells labeled images from others."""
        with torch.no_grad():
            latent = self.latent(torch.cat([labeled, unlabeled]))
        told = self.adversary(latent)
        return miscalled(told[: len(labeled)], True) + miscalled(told[len(labeled) :], False)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        errors, divergences = zip(*self._seen, strict=True)
        divergence = torch.stack(divergences).mean()
        living = variational.alive(self._latest).float().mean()
        self.log_dict(
            {"train/reconstruction": torch.stack(errors).mean(), "train/divergence": divergence, "train/alive": living}
        )
        if divergence < _COLLAPSED and not self._has_warned:
            self._has_warned = True
            log.warning(
                "VAAL's latent says next to nothing of images: its divergence from the prior is %.2g nats a number; lower "
                "beta=%g.", divergence, self.beta,
            )  # fmt: skip


_SIDES = ("labeled", "unlabeled")
