"""Noise above 0, against shifts upward: for transforms without an inverse, such as a blur."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from centersmooth.checks import a_number
from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.base import ROUND_UP, Noise
from centersmooth.noise.threat import Threat
from centersmooth.noise.total_variation import TotalVariationNoise


@dataclass(frozen=True)
class Upward(Threat):
    """All ``x + shift`` with a shift of numbers of at least 0, whose sum is at most ``eps``."""

    unit = "sum, upward"
    meaning = "a sum of at least 0 of what is added to the input"

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        shares = -torch.log1p(-draws.uniform(tuple(x.shape))).to(x.dtype)
        return eps * shares / shares.sum()

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        return x + shift

    def project(self, shift: Tensor, eps: float) -> Tensor:
        """Numbers below 0 become 0; the others shrink in proportion, not by the least change."""
        shift = shift.clamp(min=0)
        return shift * min(1.0, eps / max(float(shift.sum()), torch.finfo(shift.dtype).tiny))

    def steepest(self, gradient: Tensor) -> Tensor:
        """All in the coordinate of the largest gradient; down where none rises, which `project` takes back to 0."""
        return torch.zeros_like(gradient).flatten().index_fill(0, gradient.argmax(), 1.0).view_as(gradient)


@dataclass(frozen=True)
class OneSided(Noise):
    """Independent numbers of at least 0 in every coordinate.

    Parameters
    ----------
    size : float
        The scale of the law, in the unit of what it is added to; positive.
    """

    size: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", a_number("size", self.size, 0.0, math.inf, "a positive number"))

    @property
    def threat(self) -> Threat:
        """Shifts upward."""
        return Upward()

    @property
    def scale(self) -> float:
        """``size``."""
        return self.size

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return (x + self.size * self.standard((count, *x.shape), draws)).to(x.dtype)

    @abstractmethod
    def standard(self, shape: tuple[int, ...], draws: Draws) -> Tensor:
        """Independent numbers of the law of size 1."""


class ExponentialNoise(OneSided):
    """Exponential noise, with ``size`` its mean.

    Examples
    --------
    >>> round(ExponentialNoise(1.0).required_mass(0.55, eps=0.2), 6)
    0.631571
    """

    def standard(self, shape: tuple[int, ...], draws: Draws) -> Tensor:
        return -torch.log1p(-draws.uniform(shape))

    def required_mass(self, mass: float, eps: float) -> float:
        """``1 - exp(-eps/size) (1 - mass)``, rounded up.

        Above the shift the likelihood ratio of ``x'`` to ``x`` is one constant, ``exp(sum of shifts / size)``, below it
        0. The worst sets hold all that is below, of mass ``1 - exp(-eps/size)``, which is lost.
        """
        self.threat.require(eps)
        return min(1.0, (1 - math.exp(-eps / self.size) * (1 - mass)) * ROUND_UP)

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """That of one draw at ``draws * eps``: together they are one draw in more coordinates."""
        return self.required_mass(mass, draws * eps)


class UpperUniformNoise(OneSided, TotalVariationNoise):
    """Uniform noise between 0 and ``size``.

    Examples
    --------
    >>> round(UpperUniformNoise(2.0).required_mass(0.5, eps=0.5), 6)
    0.75
    """

    def standard(self, shape: tuple[int, ...], draws: Draws) -> Tensor:
        return draws.uniform(shape)

    def total_variation(self, eps: float) -> float:
        """``eps/size``: the share of draws at ``x`` that ``x'`` can never give."""
        self.threat.require(eps)
        return min(1.0, eps / self.size)


class FoldedNormalNoise(OneSided):
    """The size of a normal number, whose standard deviation is ``size``; of one parameter only.

    Examples
    --------
    >>> round(FoldedNormalNoise(1.0).required_mass(0.5, eps=0.0), 6)
    0.5
    """

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``x + |size N(0, 1)|``.

        Raises
        ------
        RequestError
            ``x`` is more than one number: the bound is for one.
        """
        if x.numel() != 1:
            raise RequestError(f"x has {x.numel()} numbers: FoldedNormalNoise has a bound for one parameter only")
        return super().sample(x, count, draws)

    def standard(self, shape: tuple[int, ...], draws: Draws) -> Tensor:
        return draws.normal(shape).abs()

    def required_mass(self, mass: float, eps: float) -> float:
        """``2 Phi(Phi^-1((1 + mass)/2) + eps/size) - 1``, rounded up.

        The likelihood ratio of ``x'`` to ``x`` is 0 below the shift and rises above it: the worst sets are the
        intervals from ``x`` up.
        """
        self.threat.require(eps)
        return min(1.0, float(2 * ndtr(ndtri((1 + mass) / 2) + eps / self.size) - 1) * ROUND_UP)
