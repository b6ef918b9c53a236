"""The base of methods that train a denoiser in front of a fixed model (Salman et al. 2020)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from centersmooth import Noise
from csrun.errors import RunError
from csrun.training.methods.base import Method, Target


class Denoising(Method):
    """A method that trains the denoiser of a `Denoised` model, under noise that leaves images in their shape."""

    target: ClassVar[Target | None] = "denoising"

    def require_suited(self, noise: Noise, example: Tensor) -> None:
        if not (noise.coordinatewise and noise.clean(example).shape == example.shape):
            raise RunError(f"a denoiser needs noise that is added to each pixel by itself, and the noise is {noise}")
