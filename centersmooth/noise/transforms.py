"""Transforms of an input that are additive in their parameters: noise on a parameter answers changes of it.

Each obeys ``T_b(T_a(x)) = T_(a+b)(x)`` exactly, but for the rounding of its arithmetic. Values are never clipped and
never rounded to the levels of an image file: with either the law would not hold, and neither would a certificate.
Rotation and scaling interpolate, and do not obey it: see `centersmooth.noise.rotation`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from centersmooth.errors import RequestError


class Transform(ABC):
    """A family of maps of an input, additive in its parameters.

    Attributes
    ----------
    parameters : int
        How many there are; all are 0 where the input stays as it is.
    upward : bool
        Whether parameters are at least 0: the maps have no inverse.
    unit, meaning : str
        What the size of a parameter is measured in; see `Threat`.
    """

    parameters: ClassVar[int] = 1
    upward: ClassVar[bool] = False
    unit: ClassVar[str]
    meaning: ClassVar[str]

    @abstractmethod
    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        """``x`` under each row of parameters: ``(*in), (count, parameters) -> (count, *in)``.

        Differentiable in the parameters, except where they are whole numbers.
        """

    def require(self, x: Tensor) -> None:
        """Refuse an input of which the law does not hold.

        Raises
        ------
        RequestError
        """
        return

    def attained(self, parameters: Tensor) -> Tensor:
        """The nearest parameters not larger that an attacker can choose; by default all of them."""
        return parameters


@dataclass(frozen=True)
class Brightness(Transform):
    """``x + b``."""

    unit: ClassVar[str] = "brightness"
    meaning: ClassVar[str] = "a number of at least 0 that is added to every value, or taken from it"

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        return x + _column(parameters[:, 0], x)


@dataclass(frozen=True)
class Contrast(Transform):
    """``e^k x``."""

    unit: ClassVar[str] = "log contrast"
    meaning: ClassVar[str] = "the logarithm, at least 0, of the factor by which values are multiplied or divided"

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        return x * _column(parameters[:, 0], x).exp()


@dataclass(frozen=True)
class Gamma(Transform):
    """Gamma correction ``x^gamma`` of values in [0, 1], with the parameter ``log gamma``."""

    unit: ClassVar[str] = "log gamma"
    meaning: ClassVar[str] = "the logarithm, at least 0, of the largest exponent or its inverse"

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        return x ** _column(parameters[:, 0], x).exp()

    def require(self, x: Tensor) -> None:
        low, high = float(x.detach().min()), float(x.detach().max())
        if low < 0 or high > 1:
            raise RequestError(f"x has values from {low:g} to {high:g}: gamma correction is of values in [0, 1]")


@dataclass(frozen=True)
class Blur(Transform):
    """Blur of rows and columns by the heat kernel, with its variance, in squared pixels, as the parameter.

    The kernels that image libraries sample and cut off do not obey the law: two blurs one after the other differ from
    one of the summed variance by up to a tenth of what the blur changes. Here the image, mirrored at its edges, is
    multiplied by ``exp(-variance omega^2 / 2)`` in its cosine transform, which does.
    """

    upward: ClassVar[bool] = True
    unit: ClassVar[str] = "blur variance"
    meaning: ClassVar[str] = "a variance of at least 0, in squared pixels"

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        (rows, down), (columns, across) = (_cosines(size) for size in x.shape[-2:])
        rows, columns, frequencies = rows.to(x), columns.to(x), (down[:, None] + across).to(x)
        damping = torch.exp(-_column(parameters[:, 0], x) * frequencies / 2)
        return rows.T @ (damping * (rows @ x @ columns.T)) @ columns

    def require(self, x: Tensor) -> None:
        _require_image(x, "blur")


@dataclass(frozen=True)
class Translation(Transform):
    """Cyclic translation by whole pixels, down and to the right: what leaves at one edge comes back at the other.

    Only the cyclic one is additive: pixels that fill an edge would have to be known.
    """

    parameters: ClassVar[int] = 2
    unit: ClassVar[str] = "pixels, cyclic"
    meaning: ClassVar[str] = "a distance of at least 0 in pixels, by which an image is moved cyclically"

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        down, right = parameters.round().long().unbind(1)
        height, width = x.shape[-2:]
        rows = (torch.arange(height, device=x.device) - down[:, None]) % height
        columns = (torch.arange(width, device=x.device) - right[:, None]) % width
        return x[..., rows[:, :, None], columns[:, None, :]].movedim(-3, 0)

    def require(self, x: Tensor) -> None:
        _require_image(x, "translation")

    def attained(self, parameters: Tensor) -> Tensor:
        """Whole pixels, rounded towards 0."""
        return parameters.trunc()


def _column(values: Tensor, x: Tensor) -> Tensor:
    """One value for each copy of ``x``: ``(count,) -> (count, 1, ..., 1)``."""
    return values.view(-1, *[1] * x.ndim).to(x.dtype)


def _require_image(x: Tensor, name: str) -> None:
    if x.ndim < 2:
        raise RequestError(f"x has the shape {tuple(x.shape)}: {name} needs rows and columns, (..., height, width)")


@lru_cache(maxsize=16)
def _cosines(size: int) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine transform of ``size`` numbers as a matrix, and its squared frequencies."""
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * torch.outer(places, places + 0.5)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix, (math.pi / size * places).square()
