"""Training of a denoiser in front of a fixed model (Salman et al. 2020), and of a diffusion model (Ho et al. 2020)."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from centersmooth import GaussianNoise, Noise
from centersmooth.draws import Draws
from csrun.errors import RunError
from csrun.models.base import BaseModel
from csrun.models.denoisers import Denoised
from csrun.models.diffusion import OneStepDiffusion, linear_schedule, step_of
from csrun.training.methods.base import BACKWARD, FORWARD, Method, Target, with_noise

PATCH: Final = 64
"""Side of the patches that larger images are denoised in."""


class _Denoising(Method):
    """A method that trains the denoiser of a `Denoised` model, under noise that leaves images in their shape."""

    target: ClassVar[Target | None] = "denoising"

    def require_suited(self, noise: Noise, example: Tensor) -> None:
        if not (noise.coordinatewise and noise.clean(example).shape == example.shape):
            raise RunError(f"a denoiser needs noise that is added to each pixel by itself, and the noise is {noise}")


class DenoiseMSE(_Denoising):
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


class DenoiseStability(_Denoising):
    """``CE(f(D(x + d)), argmax f(x))``: the fixed classifier's own classes, for which no labels are needed."""

    @property
    def passes(self) -> int:
        return 2 * FORWARD + BACKWARD

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        assert isinstance(model, Denoised)
        with torch.no_grad():
            classes = model.model(x).argmax(dim=1)
        return cross_entropy(model(with_noise(x, noise, draws)), classes)


class DenoiseBoth(DenoiseStability):
    """Training for stability that starts from the denoiser of `DenoiseMSE`."""

    after: ClassVar[str] = "denoise_mse"


class Diffusion(Method):
    """``|e - network(x_t, t)|^2`` at a random step ``t`` of each image: one model for all scales of the noise."""

    target: ClassVar[Target | None] = "diffusion"
    noisy: ClassVar[bool] = False

    def require_suited(self, noise: Noise, example: Tensor) -> None:
        if not isinstance(noise, GaussianNoise):
            raise RunError(f"a diffusion model denoises Gaussian noise, and the noise is {noise}")
        step_of(noise.sigma, linear_schedule())

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert isinstance(model, Denoised)
        assert isinstance(model.denoiser, OneStepDiffusion)
        step = draws.integers((len(x),), len(model.denoiser.schedule))
        kept = model.denoiser.schedule[step].view(-1, 1, 1, 1)
        error = draws.normal(tuple(x.shape))
        noisy = kept.sqrt() * (2 * x - 1) + (1 - kept).sqrt() * error
        return mse_loss(model.denoiser.network(noisy, step), error)


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
