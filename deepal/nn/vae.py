"""A network that looks at images without labels."""

from collections.abc import Sequence
from math import log2

import torch
from torch import Tensor, nn


class VAE(nn.Module):
    """A variational autoencoder of images (Kingma & Welling, 2014), of convolutions that halve height and width until three
    or two pixels are left, each with twice as many channels, up to eight times as many, and their mirror.

    Args:
        input_shape: (channels, height, width), at least 4 x 4.
        latent_dim: Z.
        width: channels after the first convolution.
    """

    def __init__(self, input_shape: Sequence[int], latent_dim: int = 32, width: int = 128) -> None:
        super().__init__()
        channels, height, breadth = input_shape
        if min(height, breadth) < 4:
            raise ValueError(f"a VAE halves images, and those of {height} x {breadth} pixels are too small for that.")
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        before = channels
        for stage in range(max(1, int(log2(min(height, breadth))) - 1)):
            after, last = width * 2 ** min(stage, 3), stage == 0
            odd = (height % 2, breadth % 2)
            down += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            mirror = nn.ConvTranspose2d(after, before, 4, 2, 1, odd, bias=last)
            up = [mirror, *([] if last else [nn.BatchNorm2d(before), nn.ReLU()]), *up]
            before, height, breadth = after, height // 2, breadth // 2
        numbers = before * height * breadth
        self.down = nn.Sequential(*down, nn.Flatten())
        self.mean, self.log_variance = nn.Linear(numbers, latent_dim), nn.Linear(numbers, latent_dim)
        self.up = nn.Sequential(nn.Linear(latent_dim, numbers), nn.Unflatten(1, (before, height, breadth)), *up)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent of images (B, channels, height, width), (B, Z) each."""
        features = self.down(images)
        return self.mean(features), self.log_variance(features)

    def decode(self, latent: Tensor) -> Tensor:
        """Images (B, channels, height, width) of a latent (B, Z)."""
        return self.up(latent)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images again, from a latent that is drawn; its mean and log variance."""
        mean, log_variance = self.encode(images)
        drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decode(drawn), mean, log_variance
