"""Steps of the face detector compiled for a core of a CPU, by numba: each takes one pass where PyTorch takes several.

The numbers are those of PyTorch's operators, bit by bit. Compiling takes some seconds, once a machine: what it comes to
is kept beside this file, or in the user's cache. Nothing checks indices here; the callers do. Arrays are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


def _compiled(function: Callable[..., None]) -> Any:
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # nowhere to keep it
        return numba.njit(nogil=True, error_model="numpy")(function)


_inlined = numba.njit(inline="always")


@_inlined
def _prelu(value: float, slope: float) -> float:
    return value if value > 0 else slope * value


@_inlined
def _larger(first: float, second: float) -> float:
    """NaN if one of them is."""
    return second if (second > first) | (second != second) else first


@_inlined
def _smaller(first: float, second: float) -> float:
    return second if second < first else first


@_compiled
def sum_up(pixels: Floats, sums: Doubles) -> None:
    """Sums over all pixels above and to the left: ``(b, 3, H, W)`` into ``(b, H+1, W+1, 3)``, zero at first."""
    count, channels, height, width = pixels.shape
    for i in range(count):
        for row in range(height):
            for channel in range(channels):
                total = 0.0
                for column in range(width):
                    total += pixels[i, channel, row, column]
                    sums[i, row + 1, column + 1, channel] = sums[i, row, column + 1, channel] + total


@_compiled
def average(sums: Doubles, image: Integers, window: Integers, means: Floats) -> None:
    """Means over the bins of area interpolation of windows ``(n, 4)`` of images ``(n,)``: into ``(n, h, w, 3)``."""
    count, height, width, channels = means.shape
    left, right = np.empty(width, np.int64), np.empty(width, np.int64)
    for i in range(count):
        table = sums[image[i]]
        first_row, first_column, rows, columns = window[i]
        for k in range(width):
            left[k] = first_column + k * columns // width
            right[k] = first_column + ((k + 1) * columns + width - 1) // width
        for j in range(height):
            top = first_row + j * rows // height
            bottom = first_row + ((j + 1) * rows + height - 1) // height
            above, below = table[top], table[bottom]
            for k in range(width):
                area = (bottom - top) * (right[k] - left[k])
                for c in range(channels):
                    total = below[right[k], c] - above[right[k], c] - below[left[k], c] + above[left[k], c]
                    means[i, j, k, c] = total / area


@_compiled
def activate(values: Floats, slope: Floats) -> None:
    """PReLU in place: ``(n, channels)``, a slope a channel below zero."""
    for i in range(values.shape[0]):
        for c in range(values.shape[1]):
            values[i, c] = _prelu(values[i, c], slope[c])


@_compiled
def activate_and_pool(values: Floats, slope: Floats, size: int, pooled: Floats) -> None:
    """PReLU, then the maximum over windows of ``size`` 2 or 3 at a stride of 2: ``(n, H, W, channels)`` into such.

    A PReLU rises, or falls and then rises: over any values it is largest at the largest or at the smallest of them.
    """
    count, height, width, channels = values.shape
    _, rows, columns, _ = pooled.shape
    for i in range(count):
        for j in range(rows):
            # Windows end with the image: a row or column taken twice changes no maximum.
            first = values[i, 2 * j]
            second = values[i, min(2 * j + 1, height - 1)]
            third = values[i, min(2 * j + 2, height - 1)]
            for k in range(columns):
                p, q, r = 2 * k, min(2 * k + 1, width - 1), min(2 * k + 2, width - 1)
                a, b, c = first[p], first[q], first[r]
                d, e, f = second[p], second[q], second[r]
                u, v, w = third[p], third[q], third[r]
                kept = pooled[i, j, k]
                for n in range(channels):
                    high = _larger(_larger(a[n], b[n]), _larger(d[n], e[n]))
                    low = _smaller(_smaller(a[n], b[n]), _smaller(d[n], e[n]))
                    if size == 3:
                        high = _larger(high, _larger(_larger(c[n], f[n]), _larger(_larger(u[n], v[n]), w[n])))
                        low = _smaller(low, _smaller(_smaller(c[n], f[n]), _smaller(_smaller(u[n], v[n]), w[n])))
                    kept[n] = _larger(_prelu(high, slope[n]), _prelu(low, slope[n]))
