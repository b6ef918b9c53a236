"""Brightness and contrast together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import gammainc, gammaincc, gammainccinv, gammaincinv, ndtr, ndtri
from torch import Tensor

from centersmooth.checks import a_number
from centersmooth.draws import Draws
from centersmooth.noise.base import ROUND_UP, Noise
from centersmooth.noise.threat import Threat


@dataclass(frozen=True)
class BrightnessContrast(Threat):
    """All ``e^k (x + b)`` with ``|k| <= eps`` and ``|b| <= ratio * eps``; a shift is the vector ``(k, b)``.

    Parameters
    ----------
    ratio : float
        Brightness for one unit of log contrast.
    """

    ratio: float = 1.0

    @property
    def meaning(self) -> str:
        return f"the log factor, at least 0, of the largest change of contrast, {self.ratio:g} of it in brightness"

    @property
    def unit(self) -> str:
        return "log contrast and brightness" if self.ratio == 1 else f"log contrast, {self.ratio:g} of it in brightness"

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """A random corner."""
        signs = (draws.uniform((2,)) < 0.5).to(x.dtype) * 2 - 1
        return eps * signs * self._sizes(x)

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        return shift[0].exp() * (x + shift[1])

    def project(self, shift: Tensor, eps: float) -> Tensor:
        limits = eps * self._sizes(shift)
        return shift.clamp(-limits, limits)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign() * self._sizes(gradient)

    def propose(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """A random point of the rectangle."""
        return eps * (2 * draws.uniform((2,)).to(x.dtype) - 1) * self._sizes(x)

    def _sizes(self, like: Tensor) -> Tensor:
        return like.new_tensor([1.0, self.ratio])


@dataclass(frozen=True)
class BrightnessContrastNoise(Noise):
    """``e^k (x + b)`` with independent normal ``k`` and ``b``, against changes of contrast and brightness together.

    Parameters
    ----------
    sigma : float
        Standard deviation of the log contrast ``k``; that of ``b`` is ``ratio * sigma``.
    ratio : float
        Brightness for one unit of log contrast, in threat and noise alike.
    """

    sigma: float
    ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sigma", "ratio"):
            object.__setattr__(self, name, a_number(name, getattr(self, name), 0.0, math.inf, "a positive number"))

    @property
    def threat(self) -> Threat:
        """Contrast and brightness."""
        return BrightnessContrast(self.ratio)

    @property
    def scale(self) -> float:
        """``sigma``."""
        return self.sigma

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``e^(sigma N(0, 1)) (x + ratio sigma N(0, 1))``; never clipped."""
        contrast, brightness = (self.sigma * draws.normal((2, count, *[1] * x.ndim))).unbind()
        return (contrast.exp() * (x + self.ratio * brightness)).to(x.dtype)

    def required_mass(self, mass: float, eps: float) -> float:
        """The larger of two bounds of `two_steps`, for more and for less contrast."""
        return self.required_mass_of_draws(mass, eps, 1)

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """The larger of two bounds of `two_steps`, on the squared length of ``draws`` normal variables."""
        self.threat.require(eps)
        h = eps / self.sigma
        return two_steps(mass, -eps, eps, (h, h), h, draws)


def two_steps(
    mass: float, low: float, high: float, h_contrast: tuple[float, float], h_brightness: float, draws: int
) -> float:
    """The mass needed against every ``k`` from ``low`` to ``high`` with every ``|b|`` up to a limit, rounded up.

    At ``e^k (x + b)`` the parameters of the noisy copies are ``k + k_0`` and ``b + e^-k b_0``: shifted, and the second
    of another variance. In two steps, each by the lemma of Neyman and Pearson (Li et al. 2021): from the law at ``x``
    to the other variance, where the worst sets are those of large ``|b_0|`` for ``k > 0``, of small ones for ``k < 0``;
    from there the shift, of ``(k/sigma_k, e^k b/sigma_b)``. Both grow with ``|k|``, so that the ends of the interval
    serve all between.

    Parameters
    ----------
    low, high : float
        At most 0 and at least 0.
    h_contrast : (float, float)
        Sizes of ``low`` and ``high`` over the standard deviation of ``k_0``.
    h_brightness : float
        The largest ``|b|`` over the standard deviation of ``b_0``.
    draws : int

    Examples
    --------
    >>> low, high = math.log(0.8), math.log(1.2)
    >>> round(two_steps(0.58, low, high, (-low / 0.2, high / 0.2), 0.1 / 0.2, 1), 6)
    0.97285
    """
    less = _shifted(mass, math.hypot(h_contrast[0], h_brightness), draws)
    more = _shifted(mass, math.hypot(h_contrast[1], math.exp(high) * h_brightness), draws)
    for_less = gammainc(draws / 2, math.exp(-2 * low) * gammaincinv(draws / 2, less))
    for_more = gammaincc(draws / 2, math.exp(-2 * high) * gammainccinv(draws / 2, more))
    return min(1.0, float(max(for_less, for_more)) * ROUND_UP)


def _shifted(mass: float, shift: float, draws: int) -> float:
    return min(1.0, float(ndtr(ndtri(mass) + math.sqrt(draws) * shift)))
