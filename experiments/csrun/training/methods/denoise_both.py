"""The fixed classifier's own classes, after squared error."""

from __future__ import annotations

from typing import ClassVar

from csrun.training.methods.denoise_stability import DenoiseStability


class DenoiseBoth(DenoiseStability):
    """Training for stability that starts from the denoiser of `DenoiseMSE`."""

    after: ClassVar[str] = "denoise_mse"
