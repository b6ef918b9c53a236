"""Distances between images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from centersmooth.errors import RequestError
from centersmooth.metrics.base import exact_floats
from centersmooth.metrics.vectors import L1, OutputRange, width


class TotalVariation(L1):
    """Total variation of ``a - b``: the l1 norm of its differences between horizontal and vertical neighbours.

    Input layout ``(n, C, H, W)``, any number of channels, or ``(n, H, W)``; the norm sums over channels (section 5.3
    of the paper). Power 1; 0 between images that differ by a constant in every channel. Range ``[0, 2 * pairs * C *
    width]``, reached by a checkerboard and its inverse.

    Examples
    --------
    >>> import torch
    >>> tv = TotalVariation()
    >>> flat, dot = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    >>> dot[0, 0, 1, 1] = 1
    >>> tv.pairwise(tv.features(flat), tv.features(dot)).item()
    4.0
    >>> tv.diameter((1, 28, 28), (0.0, 1.0))
    3024.0
    """

    def diameter(self, output_shape: tuple[int, ...], output_range: OutputRange) -> float:
        *channels, rows, columns = output_shape
        pairs = rows * (columns - 1) + columns * (rows - 1)
        return 2 * pairs * math.prod(channels) * width(output_range)

    def feature_range(self, output_range: tuple[float, float]) -> tuple[float, float]:
        return -width(output_range), width(output_range)

    def features(self, outputs: Tensor) -> Tensor:
        """Differences of neighbours, ``(n, C, H, W) -> (n, C * (H*(W-1) + W*(H-1)))``."""
        if outputs.ndim < 3:
            raise RequestError(
                f"total variation came to outputs of shape {tuple(outputs.shape)}: "
                "expected images (n, C, H, W) or (n, H, W)"
            )
        if outputs.shape[-2:].numel() < 2:
            size = "x".join(map(str, outputs.shape[-2:]))
            raise RequestError(f"total variation came to images of {size} pixels: expected neighbours, or use L1")
        images = exact_floats(outputs)
        across = images[..., :, 1:] - images[..., :, :-1]
        down = images[..., 1:, :] - images[..., :-1, :]
        return torch.cat([across.flatten(1), down.flatten(1)], dim=1)
