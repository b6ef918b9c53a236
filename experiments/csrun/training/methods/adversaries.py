"""Adversaries of training: inputs that move what a smoothed model answers, found by gradients.

The noise of a step is drawn anew for each input, with the same random numbers: the attack sees the draws that the loss
is taken on, and any law that passes gradients serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.errors import RunError
from csrun.models.base import BaseModel
from csrun.training.methods.base import SeveralDraws, noisy_copies, outputs_of

WARM_UP = 10
"""Epochs in which an adversary grows to its full size."""

_TINY = 1e-12


@dataclass(frozen=True)
class SameDraws:
    """Outputs at any inputs under ``count`` draws of the noise, whose random numbers are the same at each call."""

    model: BaseModel
    noise: Noise
    draws: Draws
    count: int

    def __call__(self, x: Tensor) -> Tensor:
        """``(b, *in) -> (count, b, *out)``."""
        return outputs_of(self.model, noisy_copies(x, self.noise, self.draws.ahead(0), self.count))


def other_draws(draws: Draws) -> Draws:
    """Random numbers of a step beside those of its noise, which `SameDraws` takes again and again."""
    return draws.ahead(1)


class Adversarial(SeveralDraws):
    """A method that trains on adversaries, for laws that pass gradients on to their input."""

    def require_suited(self, noise: Noise, example: Tensor) -> None:
        noisy = noise.sample(example.clone().requires_grad_(), 1, Draws(0, example))
        if not noisy.requires_grad:
            raise RunError(f"an adversary needs gradients, and {noise} passes none on to its input")


def warm_up(epoch: int) -> float:
    """Share of its full size that an adversary has in an epoch, counted from 0."""
    return min(1.0, (epoch + 1) / WARM_UP)


def ascend(x: Tensor, objective: Callable[[Tensor], Tensor], length: float, keep: Callable[[Tensor], Tensor]) -> Tensor:
    """One step of this length up the gradient of each input, ``(b, *in) -> (b, *in)``.

    Parameters
    ----------
    objective : callable
        Of a batch, a sum over its inputs.
    keep : callable
        What restricts the inputs after the step.
    """
    start = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(objective(start), start)
    return keep(start.detach() + length * gradient / norms(gradient).clamp(min=_TINY))


def within(shift: Tensor, radius: float) -> Tensor:
    """Shifts no longer than a radius in l2, longer ones scaled down to it."""
    return shift * (radius / norms(shift).clamp(min=_TINY)).clamp(max=1.0)


def norms(shift: Tensor) -> Tensor:
    """The l2 norm of each, of a shape to divide by: ``(b, *in) -> (b, 1, ...)``."""
    lengths: Tensor = torch.linalg.vector_norm(shift.flatten(1), dim=1)
    return lengths.view(-1, *[1] * (shift.ndim - 1))


@contextmanager
def fixed_layers(model: BaseModel) -> Iterator[None]:
    """Layers in eval mode within the block, so that an attack leaves the statistics of batches alone.

    The model itself stays in train mode, in which some answer with the scores that they are trained by.
    """
    layers = [layer for layer in model.modules() if layer is not model and layer.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True
