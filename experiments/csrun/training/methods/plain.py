"""Training on clean inputs."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.base import Method, Target


class Plain(Method):
    """The output for a clean input: mean squared error against the example, or cross entropy of its class."""

    target: ClassVar[Target | None] = None
    noisy: ClassVar[bool] = False

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        return (mse_loss if y.is_floating_point() else cross_entropy)(model(x), y)
