"""Random rotation or scaling, with Gaussian noise that covers for interpolation.

The noisy copies of an image ``z`` are ``A^T (R_b A z + sigma e)``: its samples on rings (`centersmooth.noise.rings`),
moved by a random parameter ``b``, with Gaussian noise added, made an image again. An attacker turns or scales pixels,
which interpolates. For the image at hand that differs from moving its samples by at most an error that is computed. So
the attacker does no more than shift two Gaussian variables: the parameter by his own, the samples by the error
(docs/guarantee.md, section 14). Fischer, Baader and Vechev (2020) bound such an error for most random parameters, from
draws; here it is bounded for all of them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

from scipy.special import ndtr, ndtri
from torch import Tensor

from centersmooth.checks import a_number
from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.base import ROUND_UP, Noise, require_visible
from centersmooth.noise.interpolation import Image, interpolation_error
from centersmooth.noise.rings import rings_in, rings_of
from centersmooth.noise.warps import Rotation, Scaling, Warp, sides

_LARGEST = 4.0
"""Standard deviations of a log factor beyond which it counts as a failure of the bound."""

_HOPELESS = 10.0
"""Standard deviations of the parameter beyond which the required mass is 1, and no error is computed for it."""


@dataclass(frozen=True)
class InterpolatedNoise(Noise):
    """Random moves of samples on rings, with Gaussian noise.

    Parameters
    ----------
    scale : float
        Standard deviation of the parameter, in its unit; positive.
    pixels : float
        Standard deviation of the noise of a sample, in the unit of the image; positive. The way back averages: of each
        pixel the noise has a standard deviation of about ``0.28 pixels / low_pass``.
    low_pass : float
        Standard deviation of the average that a sample is, in pixels; the noisy images are blurred by 1.4 times as
        much. The wider, the smaller the error of interpolation.
    image : Image, optional
        The numbers of the input, which the bound depends on; `at` fills them in.
    """

    scale: float
    pixels: float = 0.5
    low_pass: float = 1.0
    image: Image | None = field(default=None, kw_only=True, repr=False)

    local: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("scale", "pixels", "low_pass"):
            object.__setattr__(self, name, a_number(name, getattr(self, name), 0.0, math.inf, "a positive number"))

    @property
    @abstractmethod
    def threat(self) -> Warp:
        """The warp that the parameter is one of."""

    def at(self, x: Tensor) -> InterpolatedNoise:
        """The law with its bound for the image ``x``.

        Raises
        ------
        RequestError
            The image is too small, or has numbers that are not finite.
        """
        rings_of(self.threat, *sides(x), self.low_pass)
        if not bool(x.isfinite().all()):
            raise RequestError("x has numbers that are not finite: expected an image")
        return replace(self, image=Image.of(x))

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``count`` parameters, and the noise of all samples.

        Raises
        ------
        RequestError
            The image is too small, or noise of this type would be 0.
        """
        require_visible("pixels", self.pixels, draws)
        rings = rings_in(self.threat, *sides(x), self.low_pass, draws.dtype, x.device)
        parameters = self.scale * draws.normal((count,))
        moved = rings.moved(rings.samples(x.to(draws.dtype)), parameters)
        noisy = draws.normal(tuple(moved.shape)).mul_(self.pixels).add_(moved)
        return rings.image(noisy).to(x.dtype)

    def interpolation_error(self, eps: float) -> float:
        """Bound of ``||A T_a(x) - R_a A x||`` over all ``|a| <= eps``, with no probability.

        Computed once for an image and kept: a second for a digit, ten to twenty for a face of 178 x 218 pixels.

        Raises
        ------
        RequestError
            ``eps`` is not a size of perturbations, or the image is not known.
        """
        self.threat.require(eps)
        if self.image is None:
            raise RequestError(f"the bound of {self} depends on the image: use noise.at(x)")
        return interpolation_error(self.threat, self.low_pass, self.image).up_to(eps)


class RotationNoise(InterpolatedNoise):
    """Random rotation with Gaussian noise, against rotations by up to ``eps`` degrees.

    The noisy image is the disc within the frame, black around it.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 20, 20)
    >>> x[:, 6:14, 9:11] = 1
    >>> noise = RotationNoise(scale=10.0, pixels=0.5).at(x)
    >>> round(noise.interpolation_error(5.0), 2), round(noise.shift(5.0), 2), noise.threat.unit
    (0.12, 0.55, 'degrees')
    """

    @property
    def threat(self) -> Rotation:
        """Rotations."""
        return Rotation()

    def shift(self, eps: float) -> float:
        """``sqrt((eps/scale)^2 + (E/pixels)^2)`` with the error ``E`` of interpolation, rounded up.

        At ``T_a(x)`` the samples are those at ``x`` for the angle ``b + a`` with what is ``E`` long at most, as ``R_b``
        keeps norms.
        """
        return math.hypot(eps / self.scale, self.interpolation_error(min(eps, 180.0)) / self.pixels) * ROUND_UP

    def required_mass(self, mass: float, eps: float) -> float:
        """``Phi(Phi^-1(mass) + shift(eps))``, rounded up."""
        return self.required_mass_of_draws(mass, eps, 1)

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """``Phi(Phi^-1(mass) + sqrt(draws) shift(eps))``, rounded up."""
        self.threat.require(eps)
        if eps > _HOPELESS * self.scale:
            return 1.0
        return mass_against(mass, self.shift(eps), 0.0, draws)


class ScalingNoise(InterpolatedNoise):
    """Random scaling with Gaussian noise, against factors from ``e^-eps`` to ``e^eps``.

    For images that are dark at their edges: what is enlarged beyond the frame is lost, and the error of interpolation
    then is that of all the edge.
    """

    @property
    def threat(self) -> Scaling:
        """Scalings."""
        return Scaling()

    def required_mass(self, mass: float, eps: float) -> float:
        """``Phi(Phi^-1(mass + rho) + h)``, rounded up; see `required_mass_of_draws`."""
        return self.required_mass_of_draws(mass, eps, 1)

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """``Phi(Phi^-1(mass + 1 - (1 - rho)^draws) + sqrt(draws) h)``, rounded up.

        ``h = sqrt((eps/scale)^2 + (e^b E/pixels)^2)`` with the error ``E`` of interpolation and ``b = 4 scale``: a
        scaling by ``e^b`` makes the samples of the error as much longer. Larger factors are drawn with the probability
        ``rho = Phi(-4)``.
        """
        self.threat.require(eps)
        if eps == 0:
            return mass
        if eps > _HOPELESS * self.scale:
            return 1.0
        enlarged = math.exp(min(_LARGEST * self.scale, 700.0)) * self.interpolation_error(eps)
        h = math.hypot(eps / self.scale, enlarged / self.pixels)
        return mass_against(mass, h, float(ndtr(-_LARGEST)), draws)


def mass_against(mass: float, shift: float, failure: float, draws: int) -> float:
    """The mass needed against a Gaussian shift that holds but for a probability, rounded up.

    Parameters
    ----------
    shift : float
        In standard deviations of one draw.
    failure : float
        Probability that a draw at ``x'`` is none of those of which the shift holds.

    Examples
    --------
    >>> round(mass_against(0.55, math.hypot(5 / 10, 0.2 / 0.25), 0.001, 1), 6)
    0.858047
    """
    lost = -math.expm1(draws * math.log1p(-failure))
    needed = ndtr(ndtri(min(1.0, mass + lost)) + math.sqrt(draws) * shift)
    return min(1.0, float(needed) * ROUND_UP)
