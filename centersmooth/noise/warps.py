"""Threats that turn or scale an image: each new pixel is interpolated between four old ones.

Two of them one after the other are not one: the second interpolates what the first has interpolated. So they are no
`Transform`, and their law bounds by how much they differ.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.threat import Threat


class Warp(Threat):
    """Images warped around their center by one parameter, by bilinear interpolation, with zeros outside the frame.

    A shift is the parameter, a tensor of one number. Coordinates are rows and columns from the center of the frame.

    Attributes
    ----------
    rate : float
        Speed of a source for a unit of the parameter, over its distance from the center.
    growth : float
        Logarithm of the factor by which the warped image is larger, for a unit of the parameter.
    """

    rate: ClassVar[float]
    growth: ClassVar[float]

    @abstractmethod
    def sources(self, parameters: Tensor, points: Tensor) -> Tensor:
        """Where the warped images take their points from: ``(b,), (p, 2) -> (b, p, 2)``."""

    @abstractmethod
    def velocities(self, sources: Tensor) -> Tensor:
        """Their derivative by the parameter, `rate` times as long as they are: ``(*, 2) -> (*, 2)``."""

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """``eps`` or ``-eps``."""
        return torch.where(draws.uniform((1,)) < 0.5, -eps, eps).to(x.dtype)

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        """The warped image, calculated in float64 and rounded once."""
        return self.warped(x.double(), shift.double())[0].to(x.dtype)

    def warped(self, x: Tensor, parameters: Tensor) -> Tensor:
        """``x`` warped by each parameter: ``(*, h, w), (b,) -> (b, *, h, w)``."""
        height, width = sides(x)
        source = self.sources(parameters, points_of(height, width).to(x)).view(-1, height, width, 2)
        size = source.new_tensor([height, width])
        places = ((2 * source + size) / size - 1).flip(-1)  # of pixels in [-1, 1], columns first
        images = x.reshape(1, -1, height, width).expand(len(parameters), -1, -1, -1)
        return grid_sample(images, places, padding_mode="zeros", align_corners=False).view(-1, *x.shape)

    def project(self, shift: Tensor, eps: float) -> Tensor:
        return shift.clamp(-eps, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def propose(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """Any parameter within ``eps``, all equally likely."""
        return (eps * (2 * draws.uniform((1,)) - 1)).to(x.dtype)


@dataclass(frozen=True)
class Rotation(Warp):
    """An image turned around its center by at most ``eps`` degrees."""

    unit = "degrees"
    meaning = "an angle of at least 0, in degrees"
    rate = math.pi / 180
    growth = 0.0

    def sources(self, parameters: Tensor, points: Tensor) -> Tensor:
        angles = torch.deg2rad(parameters)[:, None]
        rows, columns = points.unbind(1)
        return torch.stack(
            [angles.cos() * rows - angles.sin() * columns, angles.sin() * rows + angles.cos() * columns], dim=2
        )

    def velocities(self, sources: Tensor) -> Tensor:
        rows, columns = sources.unbind(-1)
        return self.rate * torch.stack([-columns, rows], dim=-1)


@dataclass(frozen=True)
class Scaling(Warp):
    """An image enlarged around its center by a factor from ``e^-eps`` to ``e^eps``."""

    unit = "log factor"
    meaning = "the logarithm, at least 0, of the largest factor by which an image is enlarged or made smaller"
    rate = 1.0
    growth = 1.0

    def sources(self, parameters: Tensor, points: Tensor) -> Tensor:
        return torch.exp(-parameters)[:, None, None] * points

    def velocities(self, sources: Tensor) -> Tensor:
        return -sources


def points_of(height: int, width: int) -> Tensor:
    """Rows and columns of all pixels from the center of the frame, float64, ``(h * w, 2)``."""
    rows, columns = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in (height, width))
    return torch.cartesian_prod(rows, columns)


def sides(x: Tensor) -> tuple[int, int]:
    """Height and width of an image.

    Raises
    ------
    RequestError
        It is none.
    """
    if x.ndim < 2:
        raise RequestError(f"x has the shape {tuple(x.shape)}: expected rows and columns, (..., height, width)")
    return x.shape[-2], x.shape[-1]
