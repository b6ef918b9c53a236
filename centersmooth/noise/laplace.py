"""Laplace noise against l1 perturbations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import bdtr
from torch import Tensor

from centersmooth.checks import a_number
from centersmooth.draws import Draws
from centersmooth.noise.balls import L1Ball
from centersmooth.noise.base import ROUND_UP, Noise, require_visible
from centersmooth.noise.threat import Threat


@dataclass(frozen=True)
class LaplaceNoise(Noise):
    """Independent Laplace noise of density ``exp(-|z|/scale) / (2 scale)`` against l1 perturbations.

    Parameters
    ----------
    scale : float
        Mean absolute value of the noise of every input coordinate, in the unit of the input; positive. The standard
        deviation is ``sqrt(2) * scale``.

    Examples
    --------
    >>> noise = LaplaceNoise(scale=0.5)
    >>> round(noise.required_mass(0.55, eps=0.25), 4), round(noise.required_mass(0.55, eps=0.5), 4)
    (0.7271, 0.8345)
    """

    scale: float

    coordinatewise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expected = "a positive number, in the unit of the model's input"
        object.__setattr__(self, "scale", a_number("scale", self.scale, 0.0, math.inf, expected))

    @property
    def threat(self) -> Threat:
        """The l1 ball."""
        return L1Ball()

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``x`` plus the difference of two exponential variables of mean ``scale``; the sum is rounded once.

        Raises
        ------
        RequestError
            ``scale`` is so small that noise of this type would be 0.
        """
        require_visible("scale", self.scale, draws)
        shape = (count, *x.shape)
        return draws.exponential(shape).sub_(draws.exponential(shape)).mul_(self.scale).add_(x).to(x.dtype)

    def required_mass(self, mass: float, eps: float) -> float:
        """``F(F^-1(mass) + eps/scale)``, ``F`` the distribution function of a Laplace variable; rounded up.

        In one dimension the likelihood ratio of ``x'`` to ``x`` is monotone, so that half-lines are the worst sets
        (Neyman and Pearson): they keep ``k(p) = F(F^-1(p) - a)`` at a shift of ``a``. In more dimensions a shift of one
        coordinate keeps ``k``, given the others, and ``k`` is convex, so Jensen's inequality keeps it on average.
        Shifts of several coordinates, by ``a`` and ``b``, are made one after the other: ``F(F^-1(p) - b - a)``.
        Attained where one coordinate shifts (Teng et al. 2020; Yang et al. 2020).
        """
        self.threat.require(eps)
        return _required(mass, eps / self.scale)

    def kept_mean(self, mean: float, eps: float) -> float:
        """`kept_mass`, which is convex: the ``k`` of `required_mass`."""
        return self.kept_mass(mean, eps)

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """The smaller of two bounds, rounded up; within a hundredth of the least one at small masses.

        Draws together are one around ``(x, ..., x)``, which moves by ``draws * eps`` in l1. And the likelihood ratio of
        one is within ``exp(+-eps/scale)``, so that ``draws`` of them are no worse than as many of randomized response,
        whose number of 1s is binomial (Kairouz, Oh and Viswanath 2015).
        """
        self.threat.require(eps)
        return min(_required(mass, draws * eps / self.scale), _required_of_responses(mass, eps / self.scale, draws))


def _required(mass: float, shift: float) -> float:
    """``F(F^-1(mass) + shift)`` without cancellation: three branches, as each point is below or above the median.

    >>> [round(_required(mass, 0.5), 6) for mass in (0.0, 0.1, 0.55, 0.9, 1.0)]
    [0.0, 0.164872, 0.727061, 0.939347, 1.0]
    """
    if mass >= 0.5:
        required = mass - math.expm1(-shift) * (1 - mass)
    elif mass * 2 <= math.exp(-shift):
        required = mass * math.exp(shift) if mass > 0 else 0.0
    else:
        required = 1 - math.exp(-shift) / (4 * mass)
    return min(1.0, required * ROUND_UP)


def _required_of_responses(mass: float, shift: float, draws: int) -> float:
    """Largest mass at ``x`` of sets with ``mass`` at ``x'`` of ``draws`` randomized responses of log ratio ``shift``.

    The number of 1s is ``Bin(draws, 1 - r)`` at ``x`` and ``Bin(draws, r)`` at ``x'``, ``r = 1 / (1 + exp(-shift))``,
    and the ratio of ``x'`` to ``x`` increases with it. So the set takes small numbers first.

    >>> [round(_required_of_responses(mass, 0.25, 4), 5) for mass in (0.1, 0.58, 0.9)]
    [0.20417, 0.76557, 0.96318]
    """
    if mass <= 0:
        return 0.0
    count = np.arange(draws + 1)
    r = 1 / (1 + math.exp(-shift))
    at_x_prime, at_x = bdtr(count, draws, r), bdtr(count, draws, math.exp(-shift) * r)
    last = min(int(np.searchsorted(at_x_prime, mass)), draws)
    before, before_at_x = (at_x_prime[last - 1], at_x[last - 1]) if last else (0.0, 0.0)
    part = (mass - before) / (at_x_prime[last] - before)
    return min(1.0, float(before_at_x + part * (at_x[last] - before_at_x)) * ROUND_UP)
