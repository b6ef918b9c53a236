"""Summaries of a distance matrix: order statistics over the candidates of order statistics of their distances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NEAR_STEPS = 128
_PLACE_STEPS = 110
_ROWS_AT_ONCE = 256


@lru_cache(maxsize=64)
def near_ranks(others: int) -> NDArray[np.int64]:
    """The ranks of a candidate's ``others`` sorted distances that are kept, ascending: at most 128.

    From the median up (no ball of a certificate holds less than half), the numbers of larger distances being squares
    of equal steps: a rank asked for is raised by about the standard error of that quantile, or less.

    >>> near_ranks(9).tolist(), len(near_ranks(9_999)), near_ranks(9_999)[-4:].tolist()
    ([5, 6, 7, 8, 9], 127, [9995, 9997, 9998, 9999])
    """
    larger = np.linspace(0, math.sqrt(others // 2), _NEAR_STEPS) ** 2
    return _constant(others - np.unique((larger + 1e-6).astype(np.int64))[::-1])


@lru_cache(maxsize=64)
def place_ranks(candidates: int) -> NDArray[np.int64]:
    """The ranks among ``candidates`` sorted values that are kept, ascending, in steps of one or about a tenth.

    >>> place_ranks(30).tolist() == list(range(1, 31)), len(place_ranks(10_000))
    (True, 92)
    """
    return _constant(np.unique(np.geomspace(1, candidates, _PLACE_STEPS).round().astype(np.int64)))


def _constant(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """An array made read-only, as every caller gets the same one."""
    ranks.flags.writeable = False
    return ranks


@dataclass(frozen=True)
class QuantileTable:
    """For ``N`` candidates, each with its distances to ``M`` other outputs: how near ``k`` of them are, ``j``-th best.

    Attributes
    ----------
    candidates, others : int
        ``N`` and ``M``.
    values : array, shape ``(len(near_ranks(M)), len(place_ranks(N)))``, float32
        Entry ``(a, b)``: of the candidates' ``near_ranks(M)[a]``-th smallest distances, the ``place_ranks(N)[b]``-th
        smallest; rounded up to float32. Ascends along both axes.
    """

    candidates: int
    others: int
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        expected = (len(near_ranks(self.others)), len(place_ranks(self.candidates)))
        if self.values.shape != expected:
            raise ValueError(f"the table has shape {self.values.shape}: expected {expected}")

    @classmethod
    def of(cls, nearest: NDArray[np.float64], others: int) -> QuantileTable:
        """Build the table from each candidate's distances of the ranks ``near_ranks(others)``, shape ``(N, ranks)``."""
        ordered = np.sort(nearest, axis=0)
        return cls(len(nearest), others, _up_to_float32(ordered[place_ranks(len(nearest)) - 1].T))

    def at(self, near: int, place: int) -> float:
        """The ``place``-th smallest of the candidates' ``near``-th smallest distances, or a larger kept value.

        Raising a rank is sound: a candidate's distance of a higher rank is no smaller, so neither is any order
        statistic over the candidates; and that of a higher place is no smaller either. Never interpolated.
        """
        row = np.searchsorted(near_ranks(self.others), near)
        column = np.searchsorted(place_ranks(self.candidates), place)
        return float(self.values[row, column])

    def foreseen(self, candidates: int, others: int) -> QuantileTable:
        """The table expected of other counts: values of this one at the same shares of its counts.

        An estimate, on which no certificate may rest. Beyond the largest distance of this table it is that one.
        """
        near = np.ceil(near_ranks(others) / others * self.others - 1e-6)
        place = np.ceil(place_ranks(candidates) / candidates * self.candidates - 1e-6)
        rows = np.searchsorted(near_ranks(self.others), near)
        columns = np.searchsorted(place_ranks(self.candidates), place)
        return QuantileTable(candidates, others, self.values[np.ix_(rows, columns)])


def smallest(rows: Tensor, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """The order statistics of these ranks of each row: ``(b, n) -> (b, len(ranks))``.

    On the CPU numpy sorts several times faster than torch selects even one rank; a few rows at a time bound the copy.
    """
    parts = torch.split(rows, _ROWS_AT_ONCE)
    if rows.device.type == "cpu":
        return np.concatenate([sorted_by_numpy(part, ranks) for part in parts])
    return np.concatenate([sorted_by_torch(part, ranks) for part in parts])


def sorted_by_numpy(rows: Tensor, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """`smallest` by numpy. Keeps float32, which sorts four times faster than float64; one rank alone is selected."""
    numbers = (rows if rows.dtype == torch.float32 else rows.double()).numpy()
    ordered = np.partition(numbers, ranks[0] - 1, axis=1) if len(ranks) == 1 else np.sort(numbers, axis=1)
    return ordered[:, ranks - 1].astype(np.float64)


def sorted_by_torch(rows: Tensor, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """`smallest` on the device that holds the rows."""
    return rows.sort(dim=1).values[:, ranks - 1].double().cpu().numpy()


def _up_to_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The least float32 at or above each value; exact for distances that were computed in float32."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
        raised = np.nextafter(nearest, np.float32(np.inf))
    return np.where(nearest < values, raised, nearest)
