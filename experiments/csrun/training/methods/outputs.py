"""The bases of methods that have the movement of a smoothed, structured output as part of the loss.

Each loss is that of the noisy inputs (mean squared error against examples, cross entropy against labels) plus a weight
times a regulariser. Distances are in l2: between outputs, or between the class probabilities where labels are learned;
squared, and the mean over the numbers of an output, as the mean squared error is.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.adversaries import Adversarial, SameDraws, ascend, fixed_layers, norms, within
from csrun.training.methods.base import (
    BACKWARD,
    FORWARD,
    TO_INPUT,
    SeveralDraws,
    Target,
    noisy_copies,
    outputs_of,
    repeated,
)
from csrun.training.methods.classes import mean_cross_entropy


def fit(outputs: Tensor, y: Tensor) -> Tensor:
    """The loss of noisy inputs: ``(m, b, *out)`` against the targets of each image."""
    if y.is_floating_point():
        return mse_loss(outputs.flatten(0, 1), repeated(y, len(outputs)))
    return mean_cross_entropy(outputs, y)


def values(outputs: Tensor, y: Tensor) -> Tensor:
    """The values that distances are taken between: outputs, or class probabilities where labels are learned."""
    return outputs if y.is_floating_point() else outputs.softmax(dim=2)


@dataclass(frozen=True)
class Regularised(SeveralDraws):
    """A method that adds ``weight`` times a function of the ``draws`` outputs of each input to their loss."""

    weight: float
    draws: int
    target: ClassVar[Target | None] = None

    @abstractmethod
    def regulariser(self, samples: Tensor, draws: Draws) -> Tensor:
        """A scalar of the values of outputs, ``(m, b, *out)``."""

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        outputs = outputs_of(model, noisy_copies(x, noise, draws, self.draws))
        return fit(outputs, y) + self.weight * self.regulariser(values(outputs, y), draws)


@dataclass(frozen=True)
class AgainstMovement(Adversarial):
    """A method with an adversary that moves the smoothed output, the mean over the draws, within ``h`` scales in l2.

    It starts in a random direction, as the gradient is 0 where nothing has moved, at ``radius/steps``, and goes on in
    steps of length ``2 radius/steps``.
    """

    weight: float
    h: float
    steps: int
    draws: int
    target: ClassVar[Target | None] = None

    @property
    def passes(self) -> int:
        attack = FORWARD + self.steps * (FORWARD + TO_INPUT)
        return self.draws * (attack + 2 * (FORWARD + BACKWARD))

    def adversary(self, outputs: SameDraws, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        """The adversary of each input, ``(b, *in) -> (b, *in)``; ``draws`` are others than those of the noise."""
        radius = self.h * outputs.noise.scale
        direction = draws.normal(tuple(x.shape)).to(x.dtype)
        with fixed_layers(outputs.model):
            with torch.no_grad():
                before = values(outputs(x), y).mean(dim=0)
            found = x + radius / self.steps * direction / norms(direction)
            for _ in range(self.steps):
                found = ascend(
                    found,
                    lambda inputs: (values(outputs(inputs), y).mean(dim=0) - before).square().sum(),
                    2 * radius / self.steps,
                    lambda inputs: x + within(inputs - x, radius),
                )
        return found
