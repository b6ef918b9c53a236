"""Gaussian noise against l2 perturbations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from centersmooth.checks import a_number
from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.base import Noise
from centersmooth.noise.threat import L2Ball, Threat


@dataclass(frozen=True)
class GaussianNoise(Noise):
    """Isotropic Gaussian noise ``N(0, sigma^2 I)`` against l2 perturbations.

    Parameters
    ----------
    sigma : float
        Standard deviation of every input coordinate, in the unit of the input; positive.

    Examples
    --------
    >>> noise = GaussianNoise(sigma=0.5)
    >>> round(noise.required_mass(0.55, eps=0.5), 4)
    0.8698
    >>> round(noise.kept_mass(0.8698, eps=0.5), 3), round(noise.reach(0.8698, kept=0.55), 3)
    (0.55, 0.5)
    """

    sigma: float

    coordinatewise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expected = "a positive number, in the unit of the model's input"
        object.__setattr__(self, "sigma", a_number("sigma", self.sigma, 0.0, math.inf, expected))

    @property
    def threat(self) -> Threat:
        """The l2 ball."""
        return L2Ball()

    @property
    def scale(self) -> float:
        """``sigma``."""
        return self.sigma

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``x + sigma * N(0, I)``, ``count`` times.

        The sum is taken in the type of the draws and rounded once: a function of ``x + noise``, as the shift bound
        asks for.

        Raises
        ------
        RequestError
            ``sigma`` is so small that noise of this type would be 0.
        """
        if self.sigma < torch.finfo(draws.dtype).tiny:
            raise RequestError(
                f"sigma is {self.sigma:g}, which {draws.dtype} cannot tell from 0: rescale the input, or use float64"
            )
        return draws.normal((count, *x.shape)).mul_(self.sigma).add_(x).to(x.dtype)

    def shift(self, eps: float) -> float:
        """``eps/sigma``."""
        self.threat.require(eps)
        return eps / self.sigma

    def required_mass(self, mass: float, eps: float) -> float:
        """``Phi(Phi^-1(mass) + eps/sigma)``, rounded up.

        For ``g`` with values in [0, 1] and ``E g(x + P) = p``, every ``x'`` with ``|x' - x| <= eps`` has
        ``E g(x' + P) >= Phi(Phi^-1(p) - eps/sigma)`` (Cohen, Rosenfeld and Kolter 2019; equation 1 of the paper).
        Solved for ``p`` this is equation 4.
        """
        return min(1.0, float(ndtr(ndtri(mass) + self.shift(eps))) * (1 + 1e-12))

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """``Phi(Phi^-1(mass) + sqrt(draws) * eps/sigma)``, rounded up.

        Together they are one Gaussian draw around ``(x, ..., x)``, which moves by ``sqrt(draws) * |x' - x|``.
        """
        return self.required_mass(mass, math.sqrt(draws) * eps)
