"""The loss at an adversary that moves the smoothed output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.adversaries import SameDraws, other_draws
from csrun.training.methods.outputs import AgainstMovement, fit


@dataclass(frozen=True)
class OutputAdversary(AgainstMovement):
    """The loss of noisy inputs, and ``weight`` times the same loss at the adversary."""

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        outputs = SameDraws(model, noise, draws, self.draws)
        adversary = self.adversary(outputs, x, y, other_draws(draws))
        return fit(outputs(x), y) + self.weight * fit(outputs(adversary), y)
