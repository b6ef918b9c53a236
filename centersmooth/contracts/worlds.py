"""Models of which the answer under noise is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import ndtr
from torch import Tensor


@dataclass(frozen=True)
class TwoOutputs:
    """A model of one number, ``(b, 1) -> (b, *out)``: one output below a threshold, another above it.

    As a step it is the worst case of many certificates: whole probability moves from one output to the other.

    Parameters
    ----------
    below, above : Tensor, shape ``(*out)``
    threshold : float
        Where ``above`` begins.
    width : float
        0 for a step. Above 0 the output goes from ``below`` to ``above`` in a straight line of this width, which ends
        at the threshold; for outputs of a floating-point type.
    """

    below: Tensor
    above: Tensor
    threshold: float
    width: float = 0.0

    def __call__(self, inputs: Tensor) -> Tensor:
        x = inputs.reshape(-1, *[1] * self.below.ndim)
        if not self.width:
            return torch.where(x > self.threshold, self.above, self.below)
        return torch.lerp(self.below, self.above, (1 + (x - self.threshold) / self.width).clamp(0, 1).to(self.below))


class LinearModel:
    """``f(x) = x @ weight``, one number an input: under Gaussian noise everything is known in closed form.

    Parameters
    ----------
    weight : Tensor, shape ``(d,)``
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight[:, None]

    def movement(self, eps: float) -> float:
        """Movement of the exact smoothed output within ``eps``: ``eps * |weight|``."""
        return eps * float(self.weight.norm())

    def mass(self, center: float, radius: float, x: Tensor, sigma: float) -> float:
        """Mass of ``[center - radius, center + radius]`` under ``f(x + N(0, sigma^2 I))``."""
        scale = sigma * float(self.weight.norm())
        mean = float(x @ self.weight)
        return float(ndtr((center + radius - mean) / scale) - ndtr((center - radius - mean) / scale))

    def radius(self, center: float, mass: float, x: Tensor, sigma: float) -> float:
        """The radius at which the ball around ``center`` has ``mass``, by bisection to the last digit."""
        low, high = 0.0, abs(center - float(x @ self.weight)) + 40 * sigma * float(self.weight.norm())
        while low < (middle := (low + high) / 2) < high:
            low, high = (low, middle) if self.mass(center, middle, x, sigma) >= mass else (middle, high)
        return high if math.isfinite(high) else math.inf
