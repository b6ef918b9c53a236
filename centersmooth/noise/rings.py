"""Images sampled on rings around their center, where rotation and scaling are exactly additive.

A ring point sees a Gaussian average of the pixels near it. Along the rings a rotation, and across rings of
geometrically growing radius a scaling, is a shift of the samples, which as a trigonometric polynomial can be shifted by
any amount: ``R_b R_a = R_(a+b)`` exactly, and a rotation keeps the norm of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from centersmooth.errors import RequestError
from centersmooth.noise.warps import Rotation, Scaling, Warp

_WINDOW = 3
"""Standard deviations at which the Gaussian average is cut off."""

_INNERMOST = 0.5
"""Radius of the smallest ring of a scaling, in pixels."""

_Layout = tuple[Tensor, Tensor, int, float]
"""Radii, the area that a sample of each ring stands for, angles, and the parameter after which a shift comes back."""


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A matrix by its rows, of which few numbers are not 0; the products of torch's own take up to ten times as long.

    Attributes
    ----------
    starts : Tensor, shape ``(rows + 1,)``
        Where the numbers of each row begin, and where the last ones end.
    columns, values : Tensor, shape ``(numbers,)``
    shape : (int, int)
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseMatrix:
        """The matrix of numbers at given places, in any order."""
        order = rows.argsort(stable=True)
        starts = torch.searchsorted(rows[order], torch.arange(shape[0] + 1))
        return cls(starts, columns[order], values[order], shape)

    def transposed(self) -> SparseMatrix:
        rows = torch.repeat_interleave(torch.arange(self.shape[0]), self.starts.diff())
        return SparseMatrix.of(self.columns, rows, self.values, (self.shape[1], self.shape[0]))

    def times(self, vectors: Tensor) -> Tensor:
        """The products with vectors: ``(*, columns) -> (*, rows)``."""
        table = vectors.reshape(-1, self.shape[1]).T.contiguous()
        products = embedding_bag(
            self.columns, table, self.starts, mode="sum", per_sample_weights=self.values, include_last_offset=True
        )
        return products.T.reshape(*vectors.shape[:-1], self.shape[0])

    def to(self, dtype: torch.dtype, device: torch.device) -> SparseMatrix:
        return SparseMatrix(self.starts.to(device), self.columns.to(device), self.values.to(device, dtype), self.shape)


@dataclass(frozen=True, eq=False)
class Rings:
    """The samples of images of one size, and the group that acts on them.

    Attributes
    ----------
    frame : (int, int)
        Height and width of the images.
    sampling : SparseMatrix, shape ``(rings * angles, height * width)``
        The matrix ``A``. A row is a Gaussian average times the root of the area that the sample stands for, so that
        norms are about those of the pixels.
    adjoint : SparseMatrix
        Its transpose, back to pixels.
    grid : (int, int)
        Rings and angles.
    axis : int
        Of the grid, along which the group shifts.
    frequencies : Tensor, shape ``(k,)``
        Of its Fourier coefficients, in radians for a unit of the parameter.
    growth : float
        Logarithm of the factor on the norm for a unit of the parameter.
    """

    frame: tuple[int, int]
    sampling: SparseMatrix
    adjoint: SparseMatrix
    grid: tuple[int, int]
    axis: int
    frequencies: Tensor
    growth: float

    def samples(self, images: Tensor) -> Tensor:
        """``A x``: ``(*, h, w) -> (*, rings, angles)``."""
        return self.sampling.times(images.flatten(-2)).view(*images.shape[:-2], *self.grid)

    def image(self, samples: Tensor) -> Tensor:
        """The transpose of `samples`: ``(*, rings, angles) -> (*, h, w)``."""
        return self.adjoint.times(samples.flatten(-2)).view(*samples.shape[:-2], *self.frame)

    def moved(self, samples: Tensor, parameters: Tensor) -> Tensor:
        """``R_b v`` for each parameter: ``(*, rings, angles), (b,) -> (b, *, rings, angles)``."""
        column = parameters.view(-1, *[1] * samples.ndim)
        phases = torch.polar(torch.ones_like(column), -column * self._along_axis(samples))
        return torch.exp(self.growth * column) * self._filtered(samples, phases)

    def derivative(self, samples: Tensor) -> Tensor:
        """Derivative of `moved` by the parameter, at 0."""
        return self.growth * samples + self._filtered(samples, -1j * self._along_axis(samples))

    def _filtered(self, samples: Tensor, factors: Tensor) -> Tensor:
        coefficients = torch.fft.rfft(samples, dim=self.axis)
        filtered: Tensor = torch.fft.irfft(coefficients * factors, n=self.grid[self.axis], dim=self.axis)
        return filtered

    def _along_axis(self, samples: Tensor) -> Tensor:
        return self.frequencies if self.axis == -1 else self.frequencies[:, None]


@lru_cache(maxsize=8)
def rings_of(warp: Warp, height: int, width: int, low_pass: float) -> Rings:
    """The rings for a warp of images of this size, in float64.

    Parameters
    ----------
    low_pass : float
        Standard deviation of the average, in pixels; rings and their points lie as far apart.

    Raises
    ------
    RequestError
        The average is too wide for the image.
    """
    half = (min(height, width) - 1) / 2
    if half < 2 * low_pass:
        raise RequestError(
            f"low_pass is {low_pass:g} and the image {height} x {width}: expected at most a quarter of the shorter side"
        )
    radii, areas, angles, period = _LAYOUTS[type(warp)](half, low_pass)
    sampling = _averages(radii, areas, angles, (height, width), low_pass)
    axis = -1 if isinstance(warp, Rotation) else -2
    grid = (len(radii), angles)
    frequencies = 2 * math.pi / period * torch.arange(grid[axis] // 2 + 1, dtype=torch.float64)
    return Rings((height, width), sampling, sampling.transposed(), grid, axis, frequencies, warp.growth)


@lru_cache(maxsize=8)
def rings_in(warp: Warp, height: int, width: int, low_pass: float, dtype: torch.dtype, device: torch.device) -> Rings:
    """`rings_of` in another type and on another device."""
    rings = rings_of(warp, height, width, low_pass)
    sampling, adjoint = (one.to(dtype, device) for one in (rings.sampling, rings.adjoint))
    return replace(rings, sampling=sampling, adjoint=adjoint, frequencies=rings.frequencies.to(device, dtype))


def _for_rotation(half: float, low_pass: float) -> _Layout:
    """Equally spaced rings within the frame: what turns out of it is seen by none."""
    outer = half - low_pass
    count = math.ceil(outer / low_pass)
    radii = (torch.arange(count, dtype=torch.float64) + 0.5) * outer / count
    angles = _odd(2 * math.pi * outer / low_pass)
    return radii, radii * (outer / count) * (2 * math.pi / angles), angles, 360.0


def _for_scaling(half: float, low_pass: float) -> _Layout:
    """Rings of growing radius, up to twice the frame: what is enlarged beyond them comes back at the center."""
    ratio = low_pass / half
    count = _odd(math.log(2 * half / _INNERMOST) / ratio)
    radii = _INNERMOST * torch.exp(ratio * torch.arange(count, dtype=torch.float64))
    angles = _odd(2 * math.pi / ratio)
    return radii, radii.square() * ratio * (2 * math.pi / angles), angles, count * ratio


_LAYOUTS: dict[type[Warp], Callable[[float, float], _Layout]] = {Rotation: _for_rotation, Scaling: _for_scaling}


def _odd(least: float) -> int:
    """An odd number of samples: a shift of an even number loses part of its highest frequency, and is not additive."""
    return math.ceil(least) | 1


def _averages(radii: Tensor, areas: Tensor, angles: int, frame: tuple[int, int], low_pass: float) -> SparseMatrix:
    """The matrix of `Rings.sampling`."""
    directions = 2 * math.pi / angles * torch.arange(angles, dtype=torch.float64)
    window = math.ceil(_WINDOW * low_pass)
    rows, columns = (
        _axis_weights(torch.outer(radii, of_direction).flatten() + (size - 1) / 2, size, window, low_pass)
        for of_direction, size in zip((directions.sin(), directions.cos()), frame, strict=True)
    )
    weights = rows[1][:, :, None] * columns[1][:, None, :] * areas.sqrt().repeat_interleave(angles)[:, None, None]
    pixels = rows[0][:, :, None] * frame[1] + columns[0][:, None, :]
    samples = torch.arange(len(pixels))[:, None, None].expand_as(pixels)
    seen = weights > 0
    return SparseMatrix.of(samples[seen], pixels[seen], weights[seen], (len(pixels), frame[0] * frame[1]))


def _axis_weights(centers: Tensor, size: int, window: int, deviation: float) -> tuple[Tensor, Tensor]:
    """Pixels of one axis near each center, and weights, 0 outside the frame: ``(n,) -> (n, 2 window + 2)`` twice."""
    pixels = centers.floor()[:, None] + torch.arange(-window, window + 2, dtype=torch.float64)
    weights = torch.exp(-((pixels - centers[:, None]) / deviation).square() / 2)
    weights /= weights.sum(1, keepdim=True)
    inside = (pixels >= 0) & (pixels < size)
    return torch.where(inside, pixels, 0).long(), torch.where(inside, weights, 0.0)
