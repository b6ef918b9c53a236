"""Gaussian noise, against perturbations measured in l_p or in an ellipsoid of its own shape."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from centersmooth.checks import a_number, an_integer
from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.balls import Ellipsoid, a_norm, ball
from centersmooth.noise.base import ROUND_UP, Noise, require_size, require_visible
from centersmooth.noise.threat import Threat
from centersmooth.outputs import brief_repr


class ShiftedNormal(Noise):
    """A law under which the attacker does no more than shift a normal variable."""

    @abstractmethod
    def shift(self, eps: float) -> float:
        """The largest shift within ``eps``, in standard deviations."""

    def required_mass(self, mass: float, eps: float) -> float:
        """``Phi(Phi^-1(mass) + shift(eps))``, rounded up.

        For ``g`` with values in [0, 1] and ``E g(x + P) = p``, every ``x'`` with ``|x' - x|_2 <= h sigma`` has
        ``E g(x' + P) >= Phi(Phi^-1(p) - h)`` (Cohen, Rosenfeld and Kolter 2019; equation 1 of the paper).
        Solved for ``p`` this is equation 4.
        """
        return min(1.0, float(ndtr(ndtri(mass) + self.shift(eps))) * ROUND_UP)

    def kept_mass(self, mass: float, eps: float) -> float:
        """``Phi(Phi^-1(mass) - shift(eps))``, rounded down."""
        return float(ndtr(ndtri(mass / ROUND_UP) - self.shift(eps))) / ROUND_UP

    def kept_mean(self, mean: float, eps: float) -> float:
        """`kept_mass`, ``Phi(Phi^-1(mean) - shift(eps))``, which is convex."""
        return self.kept_mass(mean, eps)

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """``Phi(Phi^-1(mass) + sqrt(draws) * shift(eps))``, rounded up.

        Together they are one Gaussian draw around ``(x, ..., x)``, which moves by ``sqrt(draws) * |x' - x|_2``.
        """
        return self.required_mass(mass, math.sqrt(draws) * eps)


@dataclass(frozen=True, repr=False)
class GaussianNoise(ShiftedNormal):
    """Isotropic Gaussian noise ``N(0, sigma^2 I)`` against l_p perturbations, l2 by default.

    Parameters
    ----------
    sigma : float
        Standard deviation of every input coordinate, in the unit of the input; positive.
    p : float
        Perturbations are measured in ``l_p``, at least 1; ``math.inf`` for the largest change of a coordinate.
    size : int, optional
        Number of input coordinates, on which the bound depends where ``p > 2``; `at` fills it in.

    Examples
    --------
    >>> import torch
    >>> noise = GaussianNoise(sigma=0.5)
    >>> round(noise.required_mass(0.55, eps=0.5), 4)
    0.8698
    >>> round(noise.kept_mass(0.8698, eps=0.5), 3), round(noise.reach(0.8698, kept=0.55), 3)
    (0.55, 0.5)
    >>> round(GaussianNoise(sigma=0.5, p=math.inf).at(torch.zeros(3, 32, 32)).shift(0.01), 4)
    1.1085
    """

    sigma: float
    p: float = 2
    size: int | None = field(default=None, kw_only=True)

    coordinatewise: ClassVar[bool] = True
    by_size: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expected = "a positive number, in the unit of the model's input"
        object.__setattr__(self, "sigma", a_number("sigma", self.sigma, 0.0, math.inf, expected))
        object.__setattr__(self, "p", a_norm(self.p))
        if self.size is not None:
            object.__setattr__(self, "size", an_integer("size", self.size, 1))

    def __repr__(self) -> str:
        return brief_repr(self, sigma=self.sigma, **({} if self.p == 2 else {"p": self.p}))

    @property
    def local(self) -> bool:  # type: ignore[override]
        """Whether the bound depends on the size of the input, as it does where ``p > 2``."""
        return self.p > 2

    @property
    def threat(self) -> Threat:
        """The ball of ``l_p``."""
        return ball(self.p)

    @property
    def scale(self) -> float:
        """``sigma``."""
        return self.sigma

    def at(self, x: Tensor) -> GaussianNoise:
        return replace(self, size=x.numel()) if self.local else self

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``x + sigma * N(0, I)``, ``count`` times.

        The sum is taken in the type of the draws and rounded once: a function of ``x + noise``, as the shift bound
        asks for.

        Raises
        ------
        RequestError
            ``sigma`` is so small that noise of this type would be 0.
        """
        require_visible("sigma", self.sigma, draws)
        return draws.normal((count, *x.shape)).mul_(self.sigma).add_(x).to(x.dtype)

    def shift(self, eps: float) -> float:
        """``eps/sigma``, times ``d^(1/2 - 1/p)`` for inputs of ``d`` coordinates where ``p > 2``.

        The shift is ``|x' - x|_2 / sigma``. The largest l2 norm within ``|x' - x|_p <= eps`` is ``eps``, on an axis,
        for ``p <= 2``, and ``d^(1/2 - 1/p) eps``, with all coordinates equal, for ``p > 2`` (Hölder).
        """
        self.threat.require(eps)
        if self.p <= 2:
            return eps / self.sigma
        longest = eps * math.pow(require_size(self, self.size), 0.5 - 1 / self.p)
        return longest / self.sigma * ROUND_UP


@dataclass(frozen=True, eq=False, repr=False)
class EllipsoidNoise(ShiftedNormal):
    """Gaussian noise ``N(0, scale^2 diag(shape^2))`` against perturbations within an ellipsoid of the same shape.

    Parameters
    ----------
    scale : float
        Standard deviations are ``scale * shape``; positive.
    shape : Tensor
        Positive, in the unit of the input; its shape is that of the inputs, or broadcasts to it. One for all inputs:
        were it chosen for each, the noise at ``x'`` would have another, of which the bound at ``x`` knows nothing.

    Examples
    --------
    Twice the noise, and perturbations twice as large, in the second coordinate.

    >>> import torch
    >>> noise = EllipsoidNoise(0.25, torch.tensor([1.0, 2.0]))
    >>> round(noise.threat.norm(torch.tensor([0.3, 0.8])), 4), round(noise.required_mass(0.55, eps=0.25), 4)
    (0.5, 0.8698)
    """

    scale: float
    shape: Tensor

    coordinatewise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", a_number("scale", self.scale, 0.0, math.inf, "a positive number"))
        object.__setattr__(self, "shape", Ellipsoid(self.shape).shape)

    def __repr__(self) -> str:
        return brief_repr(self, scale=self.scale, shape=self.shape)

    @property
    def threat(self) -> Ellipsoid:
        """The ellipsoid of half axes ``eps * shape``."""
        return Ellipsoid(self.shape)

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``x + scale * shape * N(0, I)``, ``count`` times; the sum is rounded once.

        Raises
        ------
        RequestError
            The shape does not broadcast to that of ``x``, or noise of this type would be 0.
        """
        require_visible("scale * shape", self.scale * float(self.shape.min()), draws)
        noise = draws.normal((count, *x.shape))
        shape = self.shape.to(torch.promote_types(self.shape.dtype, noise.dtype))  # half precision rounds products
        deviations = (self.scale * shape).to(noise)
        try:
            return noise.mul_(deviations).add_(x).to(x.dtype)
        except RuntimeError as error:
            raise RequestError(
                f"shape is {tuple(self.shape.shape)} and the input {tuple(x.shape)}: expected one number a coordinate"
            ) from error

    def shift(self, eps: float) -> float:
        """``eps/scale``: in units of ``shape`` the noise is isotropic and the ellipsoid an l2 ball."""
        self.threat.require(eps)
        return eps / self.scale
