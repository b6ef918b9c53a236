"""Training on clean inputs."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import mse_loss

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.base import Method


class Plain(Method):
    """Mean squared error between the output for a clean input and the clean example."""

    noisy: ClassVar[bool] = False

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        return mse_loss(model(x), y)
