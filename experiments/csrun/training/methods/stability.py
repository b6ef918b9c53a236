"""Stability training (Li, Chen, Wang and Carin 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.base import BACKWARD, FORWARD, Method, Target, with_noise, without_noise


@dataclass(frozen=True)
class Stability(Method):
    """``CE(f(x), y) + weight * CE(f(x + d), F(x))``, with ``F`` the class probabilities."""

    weight: float
    target: ClassVar[Target | None] = "labels"

    @property
    def passes(self) -> int:
        return 2 * (FORWARD + BACKWARD)

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        clean, noisy = model(without_noise(x, noise)), model(with_noise(x, noise, draws))
        return cross_entropy(clean, y) + self.weight * cross_entropy(noisy, clean.softmax(dim=1))
