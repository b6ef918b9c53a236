"""The fixed classifier's own classes of denoised images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.models.denoisers import Denoised
from csrun.training.methods.base import BACKWARD, FORWARD, with_noise
from csrun.training.methods.denoising import Denoising


class DenoiseStability(Denoising):
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
