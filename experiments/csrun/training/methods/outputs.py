"""Training for small certificates of structured outputs: what the smoothed output moves by, as part of the loss.

Each loss is that of the noisy inputs (mean squared error against examples, cross entropy against labels) plus a weight
times a regulariser. Distances are in l2: between outputs, or between the class probabilities where labels are learned;
squared, and the mean over the numbers of an output, as the mean squared error is.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.adversaries import (
    Adversarial,
    SameDraws,
    ascend,
    fixed_layers,
    norms,
    other_draws,
    within,
)
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
from csrun.training.methods.classes import divergence, mean_cross_entropy

_POWER_STEPS: Final = 10


def fit(outputs: Tensor, y: Tensor) -> Tensor:
    """The loss of noisy inputs: ``(m, b, *out)`` against the targets of each image."""
    if y.is_floating_point():
        return mse_loss(outputs.flatten(0, 1), repeated(y, len(outputs)))
    return mean_cross_entropy(outputs, y)


def values(outputs: Tensor, y: Tensor) -> Tensor:
    """The values that distances are taken between: outputs, or class probabilities where labels are learned."""
    return outputs if y.is_floating_point() else outputs.softmax(dim=2)


@dataclass(frozen=True)
class _Regularised(SeveralDraws):
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


class OutputConsistency(_Regularised):
    """The loss of noisy inputs, and ``weight`` times the variance of the output under the noise, from ``draws``."""

    def regulariser(self, samples: Tensor, draws: Draws) -> Tensor:
        return samples.var(dim=0).mean()


class Spectral(_Regularised):
    """The loss of noisy inputs, and ``weight`` times the top eigenvalue of the output's covariance under the noise.

    That is the variance in the direction in which the output varies most, which bounds how far a Gaussian shift moves
    its mean; the covariance is that of ``draws`` outputs of one input.
    """

    def regulariser(self, samples: Tensor, draws: Draws) -> Tensor:
        rows = samples.transpose(0, 1).flatten(2)
        return (top_eigenvalue(rows, draws) / rows.shape[2]).mean()


def top_eigenvalue(samples: Tensor, draws: Draws) -> Tensor:
    """The top eigenvalue of the covariance of each input's samples: ``(b, m, D) -> (b,)``.

    By power iteration on the ``m x m`` matrix of inner products, which has the same one. The gradient is that of the
    quadratic form at the vector found, which is the eigenvalue's own at an eigenvector.
    """
    centred = samples - samples.mean(dim=1, keepdim=True)
    products = centred @ centred.transpose(1, 2) / (samples.shape[1] - 1)
    with torch.no_grad():
        vector = draws.normal((*products.shape[:2], 1)).to(products.dtype)
        for _ in range(_POWER_STEPS):
            vector = torch.nn.functional.normalize(products @ vector, dim=1)
    return (vector.transpose(1, 2) @ products @ vector).flatten()


@dataclass(frozen=True)
class _AgainstMovement(Adversarial):
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


@dataclass(frozen=True)
class OutputAdversary(_AgainstMovement):
    """The loss of noisy inputs, and ``weight`` times the same loss at the adversary."""

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        outputs = SameDraws(model, noise, draws, self.draws)
        adversary = self.adversary(outputs, x, y, other_draws(draws))
        return fit(outputs(x), y) + self.weight * fit(outputs(adversary), y)


@dataclass(frozen=True)
class OutputMix(_AgainstMovement):
    """The loss of noisy inputs, and ``weight`` times that of mixes of inputs with their adversaries.

    As in SmoothMix, with ``lam`` uniform in [0, 1/2) for each image: the mix ``(1 - lam) x + lam x_adv`` is to have the
    output ``(1 - lam) g(x) + lam u``. ``g`` is the smoothed output, through which the gradient goes as well, and ``u``
    an output that knows nothing: the mean of the batch's targets, or equal probabilities of all classes.
    """

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        outputs = SameDraws(model, noise, draws, self.draws)
        others = other_draws(draws)
        adversary = self.adversary(outputs, x, y, others)
        share = others.uniform((len(x),)).to(x.dtype) / 2
        of_input = share.view(-1, *[1] * (x.ndim - 1))
        at_x, at_mix = outputs(x), outputs((1 - of_input) * x + of_input * adversary)
        smoothed = values(at_x, y).mean(dim=0)
        of_output = share.view(-1, *[1] * (smoothed.ndim - 1))
        uninformed = y.mean(dim=0) if y.is_floating_point() else 1 / smoothed.shape[1]
        target = (1 - of_output) * smoothed + of_output * uninformed
        if y.is_floating_point():
            apart = (at_mix - target).square().mean()
        else:
            apart = divergence(target, target.clamp(min=1e-20).log(), at_mix.log_softmax(dim=2)).mean()
        return fit(at_x, y) + self.weight * apart
