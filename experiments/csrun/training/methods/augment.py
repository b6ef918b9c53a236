"""Noise-augmented training of reconstructions, as in section 5 of the paper."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.base import Method, with_noise


class Augment(Method):
    """Mean squared error between the output for a noisy input and the clean example."""

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        return mse_loss(model(with_noise(x, noise, draws)), y)
