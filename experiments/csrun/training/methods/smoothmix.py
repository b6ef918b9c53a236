"""SmoothMix: images mixed with their adversaries, and predictions with the uniform one (Jeong et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import nll_loss

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.adversaries import (
    Adversarial,
    SameDraws,
    ascend,
    fixed_layers,
    other_draws,
    warm_up,
    within,
)
from csrun.training.methods.base import BACKWARD, FORWARD, TO_INPUT, Target
from csrun.training.methods.classes import divergence, log_mean_probabilities, mean_cross_entropy


@dataclass(frozen=True)
class SmoothMix(Adversarial):
    """``mean_i CE(f(x0 + d_i), y) + weight * w * mean_i [correct * KL(t, F(x_mix + d_i))]``.

    ``x_T`` is ``steps`` gradient steps of length ``size`` on ``-log F_avg(x)_y`` away from ``x``, clamped to [0, 1],
    in no ball. With ``lam`` uniform in [0, 1/2) for each image, ``x_mix = (1 - lam) x0 + lam x_T`` and
    ``t = (1 - lam) F_avg(x0) + lam/K``; the gradient goes through ``t`` as well. ``correct`` where ``F_avg(x0)`` is
    largest at ``y``. ``w`` grows to 1 over the first epochs. ``x0`` is ``x``; with ``one_step`` the first step of the
    attack, limited to length ``w * size``. All draws of the noise are the same ones.
    """

    weight: float
    size: float
    steps: int
    draws: int
    one_step: int
    target: ClassVar[Target | None] = "labels"

    @property
    def passes(self) -> int:
        return self.draws * (self.steps * (FORWARD + TO_INPUT) + 2 * (FORWARD + BACKWARD))

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        scores, ramp = SameDraws(model, noise, draws, self.draws), warm_up(epoch)
        path = self._attack(scores, model, x, y)
        start = x + within(path[0] - x, ramp * self.size) if self.one_step else x
        share = (other_draws(draws).uniform((len(x),)).to(x.dtype) / 2).view(-1, *[1] * (x.ndim - 1))
        at_start, at_mix = scores(start), scores((1 - share) * start + share * path[-1])

        log_mean = log_mean_probabilities(at_start)
        share = share.view(-1, *[1] * (log_mean.ndim - 1))
        target = (1 - share) * log_mean.exp() + share / log_mean.shape[1]
        correct = log_mean.argmax(dim=1) == y
        apart = divergence(target, target.clamp(min=1e-20).log(), at_mix.log_softmax(dim=2))
        return mean_cross_entropy(at_start, y) + self.weight * ramp * (correct * apart).mean()

    def _attack(self, scores: SameDraws, model: BaseModel, x: Tensor, y: Tensor) -> list[Tensor]:
        """The inputs after each step."""
        path = [x]
        with fixed_layers(model):
            for _ in range(self.steps):
                path.append(
                    ascend(
                        path[-1],
                        lambda inputs: nll_loss(log_mean_probabilities(scores(inputs)), y, reduction="sum"),
                        self.size,
                        lambda inputs: inputs.clamp(0, 1),
                    )
                )
        return path[1:]
