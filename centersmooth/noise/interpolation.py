"""How much warping pixels differs from moving their samples on rings: a bound for one image, with no probability.

The error of a parameter ``a`` is ``||A T_a(x) - R_a A x||`` (`centersmooth.noise.rings`). Over an interval it is
bounded from its value and its derivative in the middle and from how much the derivative can change; intervals are
halved until the bound is close to the largest value seen.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from centersmooth.noise.base import ROUND_UP
from centersmooth.noise.rings import rings_of
from centersmooth.noise.warps import Warp, points_of

_STEP = 0.05
"""Errors are bounded up to multiples of the parameter that moves the corner of the frame by this, in pixels."""

_SLACK = 0.05
"""The bound is at most this much, relatively, above the largest error seen; or `_FLOOR` of the norm of the samples."""

_FLOOR = 3e-4

_NUMBERS_AT_ONCE = 2**20

_MARGIN = 3
"""Cells kept around the frame, in which the image goes from its edge to zero, or is zero."""


class InterpolationError:
    """Upper bounds of ``||A T_a(x) - R_a A x||`` over all ``|a| <= eps``, for one image ``x``.

    Parameters
    ----------
    warp : Warp
    x : Tensor, float64, shape ``(*, h, w)``
    low_pass : float
        Of the rings; see `rings_of`.
    """

    def __init__(self, warp: Warp, x: Tensor, low_pass: float) -> None:
        height, width = x.shape[-2:]
        self._warp, self._rings = warp, rings_of(warp, height, width, low_pass)
        images = x.reshape(-1, height, width)
        matrix, points = self._rings.sampling, points_of(height, width)
        # in float64 scipy's products take less time than torch's
        sampling = csr_array((matrix.values.numpy(), matrix.columns.numpy(), matrix.starts.numpy()), matrix.shape)
        # ||A u||^2 <= sum_j u_j^2 (A^T A 1)_j by Cauchy and Schwarz, as no entry of A is below 0
        weights = torch.from_numpy(sampling.T @ sampling.sum(1))
        seen = weights > 0
        self._cells, self._points, self._weights = _Cells(images), points[seen], weights[seen]
        self._sampling = sampling[:, seen.numpy()]
        self._samples = self._sampled(images.flatten(1)[None, :, seen])[0]
        self._derivative = self._rings.derivative(self._samples)
        self._curvature = float(self._rings.derivative(self._derivative).norm())
        self._step = _STEP / (warp.rate * float(points.norm(dim=1).max()))
        self._largest = 0.0
        self._bounds: list[float] = []

    def up_to(self, eps: float) -> float:
        """The bound for all parameters within ``eps``, or within the next of the multiples at which there is one."""
        if eps == 0:
            return 0.0
        while len(self._bounds) * self._step < eps:
            self._bounds.append(max([self._over_next_step(), *self._bounds[-1:]]))
        return self._bounds[min(len(self._bounds), math.ceil(eps / self._step)) - 1] * ROUND_UP

    def _over_next_step(self) -> float:
        """The bound between the last multiple and the next, for both signs."""
        reach, bound = self._step / 2, 0.0
        middle = len(self._bounds) * self._step + reach
        middles = torch.tensor([middle, -middle], dtype=torch.float64)
        together = max(1, _NUMBERS_AT_ONCE // max(self._samples.numel(), self._cells.channels * len(self._points)))
        while len(middles):
            found = [self._within(reach, some) for some in middles.split(together)]
            errors, bounds = (torch.cat(one) for one in zip(*found, strict=True))
            self._largest = max(self._largest, float(errors.max()))
            slack = max(_SLACK * self._largest, _FLOOR * float(self._samples.norm()))
            close = bounds <= self._largest + slack
            bound = max([bound, *bounds[close].tolist()])
            reach /= 2
            middles = torch.cat([middles[~close] - reach, middles[~close] + reach])
        return bound

    def _within(self, reach: float, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Errors at parameters, and bounds of all within ``reach`` of each: ``(b,) -> (b,), (b,)``.

        The difference ``A T_a(x) - R_a A x`` is followed along its tangent, on which the norm is largest at an end.
        """
        sources = self._warp.sources(parameters, self._points)
        speeds = self._warp.rate * math.exp(self._warp.growth * reach) * sources.norm(dim=2)
        values, changes, departures = self._cells.along(
            sources, self._warp.velocities(sources), speeds, self._warp.rate, reach
        )
        difference = self._sampled(values) - self._rings.moved(self._samples, parameters)
        tangent = self._sampled(changes) - self._rings.moved(self._derivative, parameters)
        ends = [(difference + sign * reach * tangent).flatten(1).norm(dim=1) for sign in (-1, 1)]
        of_pixels = (departures.square() @ self._weights).sqrt()
        of_samples = torch.exp(self._warp.growth * (parameters + reach)) * self._curvature * reach**2 / 2
        return difference.flatten(1).norm(dim=1), torch.maximum(*ends) + of_pixels + of_samples

    def _sampled(self, pixels: Tensor) -> Tensor:
        """Samples of the pixels that the rings see: ``(b, c, p) -> (b, c, rings, angles)``."""
        columns = pixels.flatten(0, 1).T.numpy()
        return torch.from_numpy(self._sampling @ columns).T.reshape(*pixels.shape[:2], *self._rings.grid)


class _Cells:
    """The bilinear interpolation of an image, ``(c, h, w)``, cell by cell between four pixels."""

    def __init__(self, images: Tensor) -> None:
        framed = pad(images, (_MARGIN,) * 4)
        down, right = framed.diff(dim=1), framed.diff(dim=2)
        mixed = down.diff(dim=2)
        self.channels, self.size = len(images), mixed.shape[1:]
        self._first_pixel = torch.tensor([(side - 1) / 2 for side in images.shape[1:]], dtype=torch.float64)
        self._corners, self._down, self._right, self._mixed = (
            one.flatten(1) for one in (framed[:, :-1, :-1], down[:, :, :-1], right[:, :-1], mixed)
        )
        self._twist = self._mixed.norm(dim=0)
        # within a cell each partial derivative is between its values on two edges
        steep_down = torch.maximum(down[:, :, :-1].abs(), down[:, :, 1:].abs())
        steep_right = torch.maximum(right[:, :-1].abs(), right[:, 1:].abs())
        squares = (steep_down.square() + steep_right.square()).sum(0)
        self._steepest = max_pool2d(squares[None], 3, stride=1, padding=1).flatten().sqrt()

    def along(
        self, sources: Tensor, velocities: Tensor, speeds: Tensor, rate: float, reach: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values at sources, their derivatives, and how far the values can depart from the tangent within ``reach``.

        ``(b, p, 2), (b, p, 2), (b, p) -> (b, c, p), (b, c, p), (b, p)``. A source moves by ``reach * speed`` at most,
        and its velocity changes by ``rate`` times that. The gradient changes by the twist of the cell times the
        distance, or, if the source can leave its cell, by twice what is steepest there and in the eight cells around
        it. Infinite where a source can move by more than a pixel, beyond those cells.
        """
        places = sources + self._first_pixel
        lower = places.floor()
        row, column = (places - lower).unbind(2)
        rows, columns = ((lower[..., i].long() + _MARGIN).clamp(0, size - 1) for i, size in enumerate(self.size))
        cells = rows * self.size[1] + columns
        down, right, mixed = (one[:, cells].movedim(0, 1) for one in (self._down, self._right, self._mixed))
        row, column = row[:, None], column[:, None]
        values = self._corners[:, cells].movedim(0, 1) + row * down + column * right + row * column * mixed
        velocity = velocities[:, None]
        changes = (down + column * mixed) * velocity[..., 0] + (right + row * mixed) * velocity[..., 1]
        moves, steepest = reach * speeds, self._steepest[cells]
        to_edge = torch.minimum(torch.minimum(row, 1 - row), torch.minimum(column, 1 - column))[:, 0]
        turn = torch.where(to_edge > moves, self._twist[cells] * moves / 2, 2 * steepest)
        departures = reach * (turn * speeds + steepest * rate * moves / 2)
        return values, changes, torch.where(moves <= 1, departures, math.inf)


class Image(NamedTuple):
    """An image by its shape and the bytes of its numbers in float64: a value that can be compared and hashed."""

    shape: tuple[int, ...]
    values: bytes

    @classmethod
    def of(cls, x: Tensor) -> Image:
        numbers = x.detach().cpu().double().contiguous().numpy()
        return cls(numbers.shape, numbers.tobytes())

    def tensor(self) -> Tensor:
        return torch.frombuffer(bytearray(self.values), dtype=torch.float64).view(self.shape)


@lru_cache(maxsize=32)
def interpolation_error(warp: Warp, low_pass: float, image: Image) -> InterpolationError:
    """The errors of an image; kept, with all that is computed of them."""
    return InterpolationError(warp, image.tensor(), low_pass)
