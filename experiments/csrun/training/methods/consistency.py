"""Consistency regularisation (Jeong and Shin 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.base import SeveralDraws, Target, noisy_copies, outputs_of
from csrun.training.methods.classes import divergence, log_mean_probabilities, mean_cross_entropy


@dataclass(frozen=True)
class Consistency(SeveralDraws):
    """``mean_i CE(f(x + d_i), y) + weight * mean_i KL(F_avg, F(x + d_i)) + entropy * H(F_avg)``.

    ``F`` are class probabilities, ``F_avg`` their mean over the draws; the gradient goes through both.
    """

    weight: float
    entropy: float
    draws: int
    target: ClassVar[Target | None] = "labels"

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        scores = outputs_of(model, noisy_copies(x, noise, draws, self.draws))
        log_mean = log_mean_probabilities(scores)
        mean = log_mean.exp()
        spread = divergence(mean, log_mean, scores.log_softmax(dim=2)).mean()
        entropy = -(mean * log_mean).sum(dim=1).mean()
        return mean_cross_entropy(scores, y) + self.weight * spread + self.entropy * entropy
