"""A small diffusion model (DDPM: Ho, Jain and Abbeel 2020), and denoising by one call of it (Carlini et al. 2022).

At step ``t`` of 0 to 999 the network gets ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e`` and predicts the standard
normal ``e``. Its images ``x_0`` are in [-1, 1], where the noise of pixels in [0, 1] is twice as large.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, silu

from centersmooth import GaussianNoise, Noise
from csrun.errors import RunError

_FREQUENCIES = 32
_GROUPS = 8


def linear_schedule(steps: int = 1000) -> NDArray[np.float64]:
    """``abar_t`` for ``t`` of 0 to ``steps - 1``, with variances from 1e-4 to 0.02, as in the paper: ``(steps,)``."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, steps), dtype=np.float64)


def step_of(sigma: float, schedule: NDArray[np.float64]) -> int:
    """The first step whose noise is at least that of pixels in [0, 1] with noise ``sigma``.

    That is the least ``t``, counted from 0 as in the code of Carlini et al., with ``sqrt((1 - abar_t)/abar_t) >= 2
    sigma``: the factor is that of images in [-1, 1].

    Raises
    ------
    RunError
        No step has as much noise.

    Examples
    --------
    >>> [step_of(sigma, linear_schedule()) for sigma in (0.25, 0.5)]
    [145, 259]
    """
    enough = np.sqrt((1 - schedule) / schedule) >= 2 * sigma
    if not enough.any():
        most = math.sqrt((1 - schedule[-1]) / schedule[-1]) / 2
        raise RunError(f"the scale {sigma:g} of the noise is above {most:.4g}, that of the last step of the diffusion")
    return int(enough.argmax())


class OneStepDiffusion(nn.Module):
    """A diffusion model as a denoiser of pixels in [0, 1]: one call of its network, at the step that fits the noise.

    Parameters
    ----------
    channels, width : int
        Channels of the images, and of the first level of the network.

    Attributes
    ----------
    step : int
        The step at which it denoises; the first until `at_noise` sets it.
    schedule : Tensor, shape ``(steps,)``
        ``abar_t`` of each step, for training.
    """

    schedule: Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("schedule", torch.tensor(linear_schedule(), dtype=torch.float32), persistent=False)
        self.step = 0
        self.network = NoiseUNet(channels, width)

    def at_noise(self, noise: Noise) -> None:
        """Denoise at the step that fits the noise from now on.

        Raises
        ------
        RunError
            The noise is not Gaussian, or larger than that of any step.
        """
        if not isinstance(noise, GaussianNoise):
            raise RunError(f"a diffusion model denoises Gaussian noise, and the noise is {noise}")
        self.step = step_of(noise.sigma, linear_schedule())

    def forward(self, images: Tensor) -> Tensor:
        """Noisy images to the images predicted, ``(b, C, H, W) -> (b, C, H, W)``, in [0, 1]."""
        kept = float(linear_schedule()[self.step])
        noisy = math.sqrt(kept) * (2 * images - 1)
        noise = self.network(noisy, torch.full((len(images),), self.step, device=images.device))
        predicted = (noisy - math.sqrt(1 - kept) * noise) / math.sqrt(kept)
        clipped: Tensor = predicted.clamp(-1, 1)
        return (clipped + 1) / 2


class NoiseUNet(nn.Module):
    """The noise in an image at a step of the diffusion: a U-Net of residual blocks that are told the step.

    Parameters
    ----------
    channels : int
        Channels of the images, whose sides are divisible by 4.
    width : int
        Channels of the first of three levels; divisible by 8.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        told = 4 * width
        self.step = nn.Sequential(nn.Linear(2 * _FREQUENCIES, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.top = _Block(width, width, told)
        self.middle = _Block(width, 2 * width, told)
        self.bottom = _Block(2 * width, 4 * width, told)
        self.up_to_middle = _Block(6 * width, 2 * width, told)
        self.up_to_top = _Block(3 * width, width, told)
        self.last = nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, noisy: Tensor, step: Tensor) -> Tensor:
        """``(b, C, H, W)`` and steps ``(b,)`` to standard normal noise, ``(b, C, H, W)``."""
        told = self.step(_waves(step))
        top = self.top(self.first(noisy), told)
        middle = self.middle(max_pool2d(top, 2), told)
        bottom = self.bottom(max_pool2d(middle, 2), told)
        middle = self.up_to_middle(torch.cat([interpolate(bottom, scale_factor=2), middle], dim=1), told)
        top = self.up_to_top(torch.cat([interpolate(middle, scale_factor=2), top], dim=1), told)
        noise: Tensor = self.last(top)
        return noise


class _Block(nn.Module):
    """Two convolutions beside a shortcut; the step is added between them."""

    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.norm, self.convolution = nn.GroupNorm(_GROUPS, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.step = nn.Linear(told, outputs)
        self.second = nn.Sequential(
            nn.GroupNorm(_GROUPS, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        inner = self.convolution(silu(self.norm(x))) + self.step(told)[:, :, None, None]
        outputs: Tensor = self.shortcut(x) + self.second(inner)
        return outputs


def _waves(step: Tensor) -> Tensor:
    """Steps as sines and cosines of falling frequency, as positions in a Transformer: ``(b,) -> (b, 64)``."""
    rates = torch.exp(-math.log(10_000) * torch.arange(_FREQUENCIES, device=step.device) / _FREQUENCIES)
    angles = step[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
