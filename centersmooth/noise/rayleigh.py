"""Rayleigh noise against gamma correction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import gammainc, gammaincc, gammainccinv, gammaincinv
from torch import Tensor

from centersmooth.checks import a_number
from centersmooth.draws import Draws
from centersmooth.noise.balls import L2Ball
from centersmooth.noise.base import ROUND_UP, Noise
from centersmooth.noise.threat import Threat
from centersmooth.noise.transformed import Moves, transformed
from centersmooth.noise.transforms import Gamma

MEAN_ONE = math.sqrt(2 / math.pi)
"""The scale at which the mean exponent is 1."""


@dataclass(frozen=True)
class RayleighNoise(Noise):
    """``x^beta`` with a Rayleigh exponent, against ``x^gamma`` with ``|log gamma| <= eps``.

    Its bound does not depend on the scale, which decides only how far noisy images are from ``x`` (Muravev and
    Petiushko 2021). At an equal spread of its logarithm a log-normal exponent, ``Transformed(Gamma(),
    GaussianNoise(...))``, needs less mass for every ``gamma`` above 1, and for ``gamma`` below 1 unless it is small.

    Parameters
    ----------
    size : float
        The scale of the exponent; by default its mean is 1.

    Examples
    --------
    >>> round(RayleighNoise().required_mass(0.55, eps=math.log(1.2)), 6)
    0.683316
    """

    size: float = MEAN_ONE

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", a_number("size", self.size, 0.0, math.inf, "a positive number"))

    @property
    def threat(self) -> Threat:
        """Gamma correction."""
        return Moves(Gamma(), L2Ball())

    @property
    def scale(self) -> float:
        """``size``."""
        return self.size

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``x^(size sqrt(2 E))``, ``E`` exponential.

        Raises
        ------
        RequestError
            ``x`` has values outside [0, 1].
        """

        def log_exponents(origin: Tensor) -> Tensor:
            standard = -torch.log1p(-draws.uniform((count, 1)))
            return math.log(self.size) + (2 * standard).log() / 2

        return transformed(Gamma(), x, log_exponents, draws)

    def required_mass(self, mass: float, eps: float) -> float:
        """The larger of those of `mass_against` at both ends of the interval: which it is depends on the mass."""
        return self.required_mass_of_draws(mass, eps, 1)

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """The larger of those of `mass_against` for several draws at both ends of the interval."""
        self.threat.require(eps)
        return max(mass_against(sign * eps, mass, draws) for sign in (1, -1))


def mass_against(log_gamma: float, mass: float, draws: int = 1) -> float:
    """The mass a set needs under the noise at ``x`` to keep ``mass`` at ``x^gamma``, rounded up.

    ``beta^2 / (2 size^2)`` is exponential, and at ``x^gamma`` so is it, ``gamma^2`` times as large. The likelihood
    ratio of two exponential laws is monotone, and that of several draws in their sum, a gamma variable: the worst sets
    are half-lines, of small values for a ``gamma`` above 1, of large ones below. For one draw this is ``1 - (1 -
    mass)^(gamma^2)`` and ``mass^(gamma^2)``.

    Examples
    --------
    >>> round(mass_against(math.log(1.2), 0.9), 6), round(mass_against(math.log(0.8), 0.9), 6)
    (0.963692, 0.934792)
    """
    factor = math.exp(2 * log_gamma)
    if log_gamma > 0:
        needed = gammainc(draws, factor * gammaincinv(draws, mass))
    else:
        needed = gammaincc(draws, factor * gammainccinv(draws, mass))
    return min(1.0, float(needed) * ROUND_UP)
