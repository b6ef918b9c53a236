"""Noise on the parameters of a transform, against changes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.base import DrawsTogether, GaussianShift, Noise
from centersmooth.noise.onesided import Upward
from centersmooth.noise.threat import Threat
from centersmooth.noise.transforms import Transform
from centersmooth.outputs import brief


@dataclass(frozen=True)
class Moves(Threat):
    """The inputs that a transform makes of ``x`` with parameters that another threat allows.

    A shift is a vector of parameters.
    """

    transform: Transform
    of_parameters: Threat

    @property
    def unit(self) -> str:
        """The transform's; of several parameters with the norm they are measured in."""
        norm = f", {self.of_parameters.unit}" if self.transform.parameters > 1 else ""
        return self.transform.unit + norm

    @property
    def meaning(self) -> str:
        return self.transform.meaning

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        return self._attained(self.of_parameters.start(self._origin(x), eps, draws))

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.transform.apply(x, shift[None])[0]

    def project(self, shift: Tensor, eps: float) -> Tensor:
        return self._attained(self.of_parameters.project(shift, eps))

    def steepest(self, gradient: Tensor) -> Tensor:
        return self.of_parameters.steepest(gradient)

    def propose(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        return self.of_parameters.propose(self._origin(x), eps, draws)

    def _attained(self, parameters: Tensor) -> Tensor:
        return self.transform.attained(parameters)

    def _origin(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.transform.parameters)


@dataclass(frozen=True, repr=False)
class Transformed(Noise):
    """A transform with random parameters, against the transform with any parameters within ``eps``.

    ``T_P(T_a(x)) = T_(a + P)(x)``: in parameters the noise is added, and the bound of its law is that of the transform
    (Li et al. 2021 call such transforms resolvable). What the law can do, draws taken together and means, this can.

    Parameters
    ----------
    transform : Transform
    law : Noise
        Of the parameters, in their unit. For a transform without an inverse a law of numbers above 0, such as
        ``ExponentialNoise``.

    Raises
    ------
    RequestError
        The law answers shifts both ways and the transform has no inverse, or the other way round.

    Examples
    --------
    >>> from centersmooth import GaussianNoise
    >>> from centersmooth.noise import Brightness
    >>> noise = Transformed(Brightness(), GaussianNoise(0.2))
    >>> round(noise.required_mass(0.55, eps=0.1), 4), noise.threat.unit
    (0.7342, 'brightness')
    """

    transform: Transform
    law: Noise

    def __new__(cls, *arguments: Any, **named: Any) -> Transformed:
        """A noise with the abilities of its law: of a subclass, as `pathlib.Path` makes one."""
        law = named.get("law", arguments[1] if len(arguments) > 1 else None)
        if cls is Transformed and isinstance(law, GaussianShift):
            cls = _GaussianTransformed
        elif cls is Transformed and isinstance(law, DrawsTogether):
            cls = _TransformedTogether
        return object.__new__(cls)

    def __post_init__(self) -> None:
        if not isinstance(self.transform, Transform):
            raise RequestError(
                f"transform is {brief(self.transform)}: expected one such as Brightness(); RotationNoise and "
                "ScalingNoise are laws of their own"
            )
        if not isinstance(self.law, Noise) or self.law.local:
            raise RequestError(f"law is {brief(self.law)}: expected a noise whose bound depends on no input")
        law, transform, upward = brief(self.law), brief(self.transform), isinstance(self.law.threat, Upward)
        if self.transform.upward and not upward:
            raise RequestError(
                f"law is {law}: {transform} has no inverse and needs a law of numbers above 0, such as "
                "ExponentialNoise(1.0)"
            )
        if upward and not self.transform.upward:  # its bound is of shifts upward, and an attacker has both
            raise RequestError(
                f"law is {law}, which answers shifts upward only: {transform} has parameters of both "
                "signs and needs a law such as GaussianNoise(1.0)"
            )
        if not _is_added(self.law, self.transform.parameters):
            raise RequestError(
                f"law is {law}, whose noise is not added to a number: expected one such as GaussianNoise(1.0)"
            )

    def __repr__(self) -> str:
        return f"Transformed({self.transform!r}, {self.law!r})"

    @property
    def threat(self) -> Threat:
        """The transform with the parameters that the law answers."""
        return Moves(self.transform, self.law.threat)

    @property
    def scale(self) -> float:
        """That of the law."""
        return self.law.scale

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Transform ``x`` by ``count`` random parameters.

        Raises
        ------
        RequestError
            The transform is not one of this input.
        """
        return transformed(self.transform, x, lambda origin: self.law.sample(origin, count, draws), draws)

    def sample_around_each(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Transform each of several inputs, ``(n, *in) -> (n, *in)``, by random parameters of its own.

        Raises
        ------
        RequestError
            The transform is not one of these inputs.
        """
        self.transform.require(inputs[0])
        parameters = self.law.sample(inputs.new_zeros(self.transform.parameters), len(inputs), draws)
        return torch.vmap(lambda x, own: self.transform.apply(x, own[None])[0])(inputs, parameters)

    def required_mass(self, mass: float, eps: float) -> float:
        """That of the law."""
        return self.law.required_mass(mass, eps)

    def kept_mass(self, mass: float, eps: float) -> float:
        """That of the law."""
        return self.law.kept_mass(mass, eps)

    def kept_mean(self, mean: float, eps: float) -> float:
        """That of the law."""
        return self.law.kept_mean(mean, eps)


@dataclass(frozen=True, repr=False)
class _TransformedTogether(Transformed):
    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """That of the law."""
        assert isinstance(self.law, DrawsTogether)
        return self.law.required_mass_of_draws(mass, eps, draws)


@dataclass(frozen=True, repr=False)
class _GaussianTransformed(_TransformedTogether):
    def shift(self, eps: float) -> float:
        """That of the law."""
        assert isinstance(self.law, GaussianShift)
        return self.law.shift(eps)


def _is_added(law: Noise, parameters: int) -> bool:
    """Whether a law adds its noise, so that the same draws around two numbers differ as these do.

    Noise around the transform's parameters is drawn around 0, and its bound is of laws around other numbers.
    """
    origin = torch.zeros(parameters, dtype=torch.float64)
    around = law.sample(origin, 16, Draws(0, origin))
    size = float(around.abs().max())
    for step in (0.5, size):  # against the law's own size, however small
        moved = law.sample(origin + step, 16, Draws(0, origin)) - around
        if not torch.allclose(moved, origin + step, rtol=0, atol=1e-6 * size + 4 * step * 2.0**-53):
            return False
    return True


def transformed(transform: Transform, x: Tensor, sample: Callable[[Tensor], Tensor], draws: Draws) -> Tensor:
    """``x`` under random parameters, calculated in the type of the draws and rounded once.

    Parameters
    ----------
    sample : callable, ``(parameters,) -> (count, parameters)``
        Draws parameters around those given.
    """
    transform.require(x)
    precise = x.to(draws.dtype)
    return transform.apply(precise, sample(precise.new_zeros(transform.parameters))).to(x.dtype)
