"""The paper's image models: an autoencoder, and a reconstructor from random linear measurements.

Layers as in the experiments of the paper (section 5.3); ``width`` scales the channels, 32 in the paper. Outputs lie
in [0, 1] (sigmoid). ``inputs(images)`` maps clean images to the space the noise and the perturbation live in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from csrun.models.base import BaseModel


class Autoencoder(BaseModel):
    """Dimensionality reduction through ``latents`` numbers; the noise lives on the image.

    Parameters
    ----------
    channels, side : int
        Images are ``(channels, side, side)``; ``side`` divisible by 4.
    width : int
        Channels of the first convolution.
    latents : int
        Size of the bottleneck.
    inputs : int, optional
        Channels of noisy images, where the noise adds some; by default those of the images.
    """

    output_range = (0.0, 1.0)

    def __init__(
        self, channels: int, side: int, *, width: int = 32, latents: int = 256, inputs: int | None = None
    ) -> None:
        super().__init__()
        flat = 4 * width * (side // 4) ** 2
        self.encoder = _encoder(channels if inputs is None else inputs, width)
        self.bottleneck = nn.Sequential(
            nn.Flatten(),
            nn.Linear(flat, latents),
            nn.ReLU(),
            nn.Linear(latents, flat),
            nn.ReLU(),
            nn.Unflatten(1, (4 * width, side // 4, side // 4)),
        )
        self.decoder = _decoder(channels, width)

    def forward(self, images: Tensor) -> Tensor:
        """``(b, inputs, H, W) -> (b, C, H, W)``."""
        decoded: Tensor = self.decoder(self.bottleneck(self.encoder(images)))
        return decoded


class Reconstructor(BaseModel):
    """Reconstruction from ``y = A x``, ``A`` Gaussian with variance ``1/measurements``; the noise lives on ``y``.

    The model starts with the pseudo-inverse of ``A`` (not its transpose). Both are buffers: drawn once, saved with
    the weights.
    """

    output_range = (0.0, 1.0)
    matrix: Tensor
    inverse: Tensor

    def __init__(self, channels: int, side: int, *, width: int = 32, measurements: int = 256) -> None:
        super().__init__()
        self.image_shape = (channels, side, side)
        pixels = channels * side * side
        matrix = torch.randn(measurements, pixels, dtype=torch.float64) / measurements**0.5
        self.register_buffer("matrix", matrix.float())
        self.register_buffer("inverse", torch.linalg.pinv(matrix).float())
        self.network = nn.Sequential(_encoder(channels, width), _decoder(channels, width))

    def inputs(self, images: Tensor) -> Tensor:
        """The measurements, ``(b, C, H, W) -> (b, measurements)``."""
        return images.flatten(1) @ self.matrix.T

    def forward(self, measurements: Tensor) -> Tensor:
        """``(b, measurements) -> (b, C, H, W)``."""
        images: Tensor = self.network((measurements @ self.inverse.T).unflatten(1, self.image_shape))
        return images


def _encoder(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1),
        nn.ReLU(),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, 2 * width, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
        nn.ReLU(),
        nn.BatchNorm2d(4 * width),
    )


def _decoder(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(4 * width),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
        nn.ReLU(),
        nn.BatchNorm2d(width),
        nn.ConvTranspose2d(width, channels, 3, 1, 1),
        nn.Sigmoid(),
    )
