"""Adversarial training of smoothed classifiers (Salman et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import nll_loss

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.adversaries import Adversarial, SameDraws, ascend, fixed_layers, warm_up, within
from csrun.training.methods.base import BACKWARD, FORWARD, TO_INPUT, Target
from csrun.training.methods.classes import log_mean_probabilities, mean_cross_entropy


@dataclass(frozen=True)
class SmoothAdv(Adversarial):
    """``mean_i CE(f(x_adv + d_i), y)``, ``x_adv`` by projected gradient steps on ``-log F_avg(x')_y``.

    The same draws serve attack and loss. A step of length ``2 eps/steps`` is followed by clamping to [0, 1], which
    images are in, and projection onto the ball of ``eps``, which grows over the first epochs.
    """

    eps: float
    steps: int
    draws: int
    target: ClassVar[Target | None] = "labels"

    @property
    def passes(self) -> int:
        return self.draws * (self.steps * (FORWARD + TO_INPUT) + FORWARD + BACKWARD)

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        scores, eps = SameDraws(model, noise, draws, self.draws), self.eps * warm_up(epoch)
        adversary = x
        with fixed_layers(model):
            for _ in range(self.steps):
                adversary = ascend(
                    adversary,
                    lambda inputs: nll_loss(log_mean_probabilities(scores(inputs)), y, reduction="sum"),
                    2 * eps / self.steps,
                    lambda inputs: x + within(inputs.clamp(0, 1) - x, eps),
                )
        return mean_cross_entropy(scores(adversary), y)
