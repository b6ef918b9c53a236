"""Squared error of denoised images."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.models.denoisers import Denoised
from csrun.training.methods.base import with_noise
from csrun.training.methods.denoising import Denoising

PATCH: Final = 64
"""Side of the patches that larger images are denoised in."""


class DenoiseMSE(Denoising):
    """``|D(x + d) - x|^2``, the mean over pixels; of images above 64 pixels a side, at a random patch of each."""

    @classmethod
    def fits(cls, target: str) -> bool:
        """Test for a denoiser, in front of whatever model."""
        return target in ("denoising", "image denoising")

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        assert isinstance(model, Denoised)
        clean = patches(x, PATCH, draws)
        return mse_loss(model.denoiser(with_noise(clean, noise, draws)), clean)


def patches(x: Tensor, side: int, draws: Draws) -> Tensor:
    """A random patch of each image, at most ``side`` pixels a side: ``(b, C, H, W) -> (b, C, h, w)``."""
    count, _, height, width = x.shape
    if max(height, width) <= side:
        return x
    rows, columns = (
        draws.integers((count, 1), max(length - side, 0) + 1) + torch.arange(min(length, side), device=x.device)
        for length in (height, width)
    )
    image = torch.arange(count, device=x.device)[:, None, None]
    return x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
