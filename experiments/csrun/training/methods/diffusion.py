"""A diffusion model (Ho et al. 2020), of which one step denoises."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import mse_loss

from centersmooth import GaussianNoise, Noise
from centersmooth.draws import Draws
from csrun.errors import RunError
from csrun.models.base import BaseModel
from csrun.models.denoisers import Denoised
from csrun.models.diffusion import OneStepDiffusion, linear_schedule, step_of
from csrun.training.methods.base import Method, Target


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
