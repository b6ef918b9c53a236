"""Order statistics of distances: what evidence keeps of a sample of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.errors import ModelError
from centersmooth.metrics.base import Metric

_KEEP_ALL = 2**16
_RESOLUTION = 2**-12


def kept_ranks(m: int) -> NDArray[np.int64]:
    """The ranks of ``m`` sorted distances that `DistanceSample` keeps, ascending.

    All of them up to 65,536 distances. Beyond, those of the upper half (no certificate needs less than half the mass)
    whose number of larger distances ``m - j`` goes up in steps of ``2**-12``: a rank asked for is then raised by at
    most that share of ``m - j``, less than the sampling error of the quantile itself.

    >>> len(kept_ranks(2_500)), int(kept_ranks(10**6)[-1]), len(kept_ranks(10**6)) < 40_000
    (2500, 1000000, True)
    """
    if m <= _KEEP_ALL:
        return np.arange(1, m + 1)
    linear = int(1 / _RESOLUTION)
    steps = int(np.ceil(np.log(m / 2 / linear) / np.log1p(_RESOLUTION)))
    tail = np.concatenate([np.arange(linear), linear * (1 + _RESOLUTION) ** np.arange(steps)])
    return m - np.unique(tail[tail <= m / 2].astype(np.int64))[::-1]


@dataclass(frozen=True)
class DistanceSample:
    """Order statistics of ``m`` distances.

    Attributes
    ----------
    count : int
        ``m``.
    ranks, values : arrays, shape ``(r,)``
        ``values[i]`` is the ``ranks[i]``-th smallest distance; both ascend.
    """

    count: int
    ranks: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, distances: NDArray[np.float64]) -> DistanceSample:
        """Sort and keep `kept_ranks`."""
        ranks = kept_ranks(len(distances))
        return cls(len(distances), ranks, np.sort(distances)[ranks - 1])

    @classmethod
    def foreseen(
        cls, pilot: NDArray[np.float64], count: int, ranks: NDArray[np.int64], limit: float = np.inf
    ) -> DistanceSample:
        """Order statistics expected of ``count`` distances, from at least 50 of the same law.

        Quantiles of the pilot, and beyond its largest fiftieth those of an exponential tail of the same mean, up to a
        limit that no distance exceeds. An estimate, on which no certificate may rest.

        >>> DistanceSample.foreseen(np.arange(100.0), 10, np.array([1, 5, 10])).values.round(1).tolist()
        [4.0, 44.0, 94.0]
        """
        ordered, size, beyond = np.sort(pilot), len(pilot), 1 - (ranks - 0.5) / count
        tail = size // 50
        threshold = ordered[-tail - 1]
        extrapolated = threshold + (ordered[-tail:] - threshold).mean() * np.log(tail / size / beyond)
        quantiles = ordered[np.ceil((1 - beyond) * size - 1e-6).astype(np.int64) - 1]
        values = np.where(beyond < tail / size, extrapolated, quantiles)
        return cls(count, ranks, np.minimum(values, limit))

    def at_rank(self, rank: int) -> float:
        """The ``rank``-th smallest distance, or the next larger one that was kept. Never interpolated."""
        return float(self.values[np.searchsorted(self.ranks, rank)])


class DistanceBuffer:
    """Distances of draws as they come, one row a draw, in float64.

    Written to where they stay: small tensors kept between the large ones of a forward pass would keep their memory from
    being used again.

    Parameters
    ----------
    size : int
        Rows it has room for.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self._size = size
        self._rows: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """The next rows, ``(b,)`` or ``(b, columns)``."""
        if self._rows is None:
            self._rows = rows.new_empty((self._size, *rows.shape[1:]), dtype=torch.float64)
        self._rows[self.count : self.count + len(rows)] = rows
        self.count += len(rows)

    @property
    def values(self) -> Tensor:
        """The rows so far."""
        return torch.zeros(0, dtype=torch.float64) if self._rows is None else self._rows[: self.count]


def to_numpy(metric: Metric, distances: Tensor) -> NDArray[np.float64]:
    """Distances on the host, in float64; a `ModelError` where one is NaN, infinite or negative."""
    array: NDArray[np.float64] = distances.double().cpu().numpy()
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ModelError(
            f"the metric {metric.name} gave a distance that is NaN, infinite or negative for a noisy output"
        )
    return array
