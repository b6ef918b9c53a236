"""The base class of smoothing laws.

A law owns its unit: its parameters and every `eps` are in the unit of the model's input, and nothing here rescales
either.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.threat import Threat
from centersmooth.outputs import brief_repr

ROUND_UP: Final = 1 + 1e-12
"""Outward rounding of inverses, as in `centersmooth.bounds`."""

_STEPS: Final = 500
"""Number of steps of the staircase of `Noise.kept_mean`, which are closer at its ends."""

_SLOPES: Final = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 601)])
"""Slopes of the lines below the staircase of `Noise.kept_mean`."""

_ROUNDING: Final = 1e-12
"""Outward rounding of their heights."""


class Noise(ABC):
    """A smoothing law together with its shift bound.

    Attributes
    ----------
    scale : float
        The size of the law, which grids vary.
    coordinatewise : bool
        Whether noisy copies have the shape of the input and independent coordinates, so that one draw around a batch is
        a draw around each of its inputs.
    local : bool
        Whether the bound depends on the input, so that it is that of ``noise.at(x)`` only.
    by_size : bool
        Whether it then depends on the input's size alone.
    """

    coordinatewise: ClassVar[bool] = False
    local: ClassVar[bool] = False
    by_size: ClassVar[bool] = False

    if TYPE_CHECKING:  # a property of the class would leave dataclasses no field of this name

        @property
        def scale(self) -> float: ...

    @property
    @abstractmethod
    def threat(self) -> Threat:
        """The perturbations it answers; says what ``eps`` measures."""

    def clean(self, x: Tensor) -> Tensor:
        """The base model's input at ``x`` without noise, ``(*in) -> (*noised)``; by default ``x`` itself."""
        return x

    def at(self, x: Tensor) -> Noise:
        """The law with its bound for the input ``x``, ``(*in)``; by default itself.

        What it draws is the same at every input.
        """
        return self

    def __repr__(self) -> str:
        return brief_repr(self)

    @abstractmethod
    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """``count`` noisy copies of ``x``: ``(*in) -> (count, *noised)``, on the device and in the type of ``x``."""

    @abstractmethod
    def required_mass(self, mass: float, eps: float) -> float:
        """The mass a set needs under the noise at ``x`` so that it keeps ``mass`` at every ``x'`` within ``eps``.

        Rounded up; 1 where no set keeps it for sure.

        Raises
        ------
        RequestError
            ``eps`` is not a size of perturbations, or the bound depends on an input that is not known (see `at`).
        """

    def kept_mass(self, mass: float, eps: float) -> float:
        """The mass that a set of ``mass`` at ``x`` keeps at every ``x'`` within ``eps``, rounded down.

        The inverse of `required_mass`, ``sup {p : required_mass(p, eps) <= mass}``, by bisection. Not ``1 -
        required_mass(1 - mass, eps)``, which is the same for symmetric threats only.
        """
        mass = min(mass, 1 - 2**-53)  # where 1 is required, no set keeps it for sure
        return _largest(lambda kept: self.required_mass(kept, eps) <= mass, 1.0)

    def kept_mean(self, mean: float, eps: float) -> float:
        """The mean that a function with values in [0, 1] keeps at every ``x'`` within ``eps``, rounded down.

        A function is the integral over ``t`` in [0, 1] of the sets where it is above ``t``. So its mean at ``x'`` is at
        least the integral of the masses that these keep, and by Jensen's inequality at least the lower convex hull of
        `kept_mass`, at its mean at ``x``. Every line below a staircase below `kept_mass` is below that hull; the
        highest of many is up to about 0.003 too low. A law whose `kept_mass` is convex is its own hull and
        returns that.

        Examples
        --------
        >>> from centersmooth.noise import RayleighNoise
        >>> round(RayleighNoise().kept_mean(0.683316, eps=math.log(1.2)), 3)
        0.547
        """
        steps = (1 - np.cos(np.linspace(0, math.pi, _STEPS + 1))) / 2
        required = np.maximum.accumulate([self.required_mass(float(kept), eps) for kept in steps])
        kept_for_sure = steps[required < 1]  # where 1 is required, no set keeps it for sure
        corners = np.append(required[1 : len(kept_for_sure)], 1.0)  # up to each of them no more than this is kept:
        heights = kept_for_sure if len(kept_for_sure) else np.zeros(1)
        lines = _SLOPES * mean + (heights - _SLOPES[:, None] * corners).min(axis=1)
        return max(0.0, float(lines.max()) - _ROUNDING)

    def reach(self, mass: float, kept: float) -> float:
        """The largest ``eps`` at which a set of ``mass`` keeps ``kept``, rounded down; 0 where it does at none."""
        mass = min(mass, 1 - 2**-53)  # where 1 is required, no set keeps it for sure
        return farthest(lambda eps: self.required_mass(kept, eps) <= mass)


@runtime_checkable
class DrawsTogether(Protocol):
    """A law that bounds shifts of several draws taken together, which free centers ask for."""

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """`Noise.required_mass` for sets of ``draws`` independent noisy copies."""
        ...


@runtime_checkable
class Enumerable(Protocol):
    """A law with finitely many noisy inputs, all equally likely, so that each of them can be computed.

    At every ``x'`` within ``eps`` all of them but `changed` are the same as at ``x``, in the same order.
    """

    def support_size(self) -> int:
        """The number of noisy inputs.

        Raises
        ------
        RequestError
            It depends on an input that is not known (see `Noise.at`).
        """
        ...

    def support(self, x: Tensor, block: int) -> Iterator[Tensor]:
        """All noisy inputs at ``x`` in their order, ``(*in) -> (block, *noised)`` at a time, the last ones fewer."""
        ...

    def changed(self, eps: float) -> int:
        """The largest number of noisy inputs that are others at an ``x'`` within ``eps``.

        Raises
        ------
        RequestError
            ``eps`` is not a size of perturbations, or it depends on an input that is not known.
        """
        ...


@runtime_checkable
class GaussianShift(Protocol):
    """A law under which an attacker does no more than shift one standard normal variable, which means ask for.

    The noisy inputs at ``x`` and at any ``x'`` within ``eps`` are in law what one random map makes of a standard normal
    ``z`` and of ``z + s``, with ``s`` at most `shift`.
    """

    def shift(self, eps: float) -> float:
        """The largest shift within ``eps``, in standard deviations, rounded up.

        Raises
        ------
        RequestError
            ``eps`` is not a size of perturbations.
        """
        ...


def require_visible(name: str, scale: float, draws: Draws) -> None:
    """Refuse a scale at which noise of the type of the draws would be 0.

    Raises
    ------
    RequestError
    """
    if scale < torch.finfo(draws.dtype).tiny:
        raise RequestError(
            f"{name} is {scale:g}, which {draws.dtype} cannot tell from 0: rescale the input, or use float64"
        )


def require_size(noise: Noise, size: int | None) -> int:
    """The number of input coordinates, on which the bound of a law depends.

    Raises
    ------
    RequestError
        It is not known.
    """
    if size is None:
        raise RequestError(f"the bound of {noise} depends on the size of the input: use noise.at(x)")
    return size


def farthest(holds: Callable[[float], bool], precision: float = 1e-16) -> float:
    """The largest ``eps`` at which a property holds that fails beyond some point, rounded down; 0 where at none."""
    if not holds(0.0):
        return 0.0
    high = 1.0
    while holds(high):
        high *= 2
    return _largest(holds, high, precision)


def _largest(holds: Callable[[float], bool], high: float, precision: float = 1e-16) -> float:
    """The largest number in (0, ``high``) at which a property holds that holds below some point; 0 if at none."""
    low = sys.float_info.min
    if not holds(low):  # else half of 0 and the bound, a thousand times
        return 0.0
    while low < (middle := (low + high) / 2) < high and high - low > precision * high:
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low / ROUND_UP
