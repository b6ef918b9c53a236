"""The base class of smoothing laws.

A law owns its unit: its parameters and every `eps` are in the unit of the model's input, and nothing here rescales
either.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.threat import Threat
from centersmooth.outputs import brief_repr

ROUND_UP: Final = 1 + 1e-12
"""Outward rounding of inverses, as in `centersmooth.bounds`."""


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
    """

    coordinatewise: ClassVar[bool] = False
    local: ClassVar[bool] = False

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

    def reach(self, mass: float, kept: float) -> float:
        """The largest ``eps`` at which a set of ``mass`` keeps ``kept``, rounded down; 0 where it does at none."""
        if mass >= 1:
            return math.inf
        if self.required_mass(kept, 0.0) > mass:
            return 0.0
        high = 1.0
        while self.required_mass(kept, high) <= mass:
            high *= 2
        return _largest(lambda eps: self.required_mass(kept, eps) <= mass, high)


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


def _largest(holds: Callable[[float], bool], high: float) -> float:
    """The largest number in (0, ``high``) at which a property holds that holds below some point; 0 if at none."""
    low = 0.0
    while low < (middle := (low + high) / 2) < high and high - low > 1e-16 * high:
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low / ROUND_UP
