"""Bounds on the movement of the mean of the noisy outputs, from their directions as well as their distances.

The bounds of `centersmooth.certifiers.expectation` use the distances to the reference ``c`` alone, as if all outputs
pushed the mean in one direction. Let ``Y = f(x + P) - c`` in features, ``D = ||Y||`` in the metric's own norm, and ``t
> 0`` a *truncation* fixed before the fresh draws. Let ``lambda_t = sup_v E <v, Y>^2 1{D <= t}`` over unit vectors ``v``
of the dual norm: for l2 the top eigenvalue of ``M = E Y Y^T 1{D <= t}``, for l1 the largest ``s^T M s`` over sign
vectors.

**Movement.** For all ``mu >= 0`` at once, and every ``x'`` within ``eps``,

    ``||g(x') - g(x)|| <= mu lambda_t + integral_0^t U_{2 mu s}(1 - F(s)) ds
    + min(t W(1 - F(t)), mu t^2 (1 - F(t))) + integral_t^b W(1 - F(s)) ds``

with ``U_k(p) = sup E(|L - 1| - k)_+ 1_A`` over events ``A`` of probability at most ``p``, and ``W = U_0``. With ``mu =
0`` it is the local bound. Every term rises with ``1 - F`` and ``lambda_t``, so upper confidence bounds may stand in.

**Confidence.** For the ``v`` that attains ``lambda_t``, fixed though unknown, ``Z = <v, Y>^2 1{D <= t}`` has mean
``lambda_t`` and lies in ``[0, t^2]``. The largest second moment of a sample in any direction is at least the sample
mean of ``Z``, and so is any upper bound of it. Hence ``lambda_t <= t^2 kl^-1(top / t^2, ln(1/a) / k)`` from ``k``
draws, except with probability ``a`` (Chernoff). The number of features plays no part.

**Upper bounds of the largest second moment.** For l2 a ``theta`` for which ``theta I - M`` has a Cholesky factor. For
l1 ``max_s s^T M s <= lambda_max(W^-1/2 M W^-1/2) sum(w)``, for any weights ``w > 0``, ``W = diag(w)``. Beyond `MATRIX`
features ``M`` is not formed: each block of draws has a bound from its Gram matrix, and their mean over blocks is at
least the sample mean of ``Z``.

**Estimation in l1.** For weights ``w > 0`` fixed before the draws, ``E||S||_1 <= sqrt(sum(w) E Q^2 / N)`` with ``Q^2 =
sum_k Y_k^2 / w_k``, by Cauchy and Schwarz. ``Q`` has confidence bounds of its own, shifted to ``x'`` like those of
``D``.

Proofs are in ``docs/guarantee.md``, section 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from centersmooth.certifiers.distances import DistanceBuffer, DistanceSample, to_numpy
from centersmooth.certifiers.expectation import Array, Band, band_ranks, excess, level, local_movement, shifted
from centersmooth.metrics.base import Metric

PILOT: Final = 1_000
"""Draws, of those for the reference, that fix the truncation and the weights."""

MATRIX: Final = 2_000
"""Features up to which the matrix of second moments is formed."""

_BLOCK, _BLOCK_ENTRIES = 1_000, 2**25
"""Draws taken together, fewer where they would have more entries than that (256 MiB)."""

_PANEL = 128
"""Columns of a matrix product of which only the part on and above the diagonal is computed."""

_OPERATIONS = 4e10
"""Multiplications and additions spent on second moments at one input, about; the first so many draws are used."""

_COLUMNS, _STEPS = 16, 20
"""Length of the vectors and steps of the ascent that chooses weights; of the subspace iteration, steps only."""

_CELLS = 200
"""Pieces of the integral up to the truncation; on each the integrand is taken at its left end, where it is largest."""

_MULTIPLIERS = np.geomspace(1e-3, 1e3, 61)
"""The values of ``mu t`` that are tried, as shares of ``min(1, h)``."""

_ROUND_UP = 1 + 1e-9
_TINY = 1e-15


@dataclass(frozen=True)
class WeightedNorms:
    """Norms ``Q`` of the fresh outputs around the reference, ``Q^2 = sum_k Y_k^2 / w_k``.

    Attributes
    ----------
    norms : DistanceSample
        Of all fresh draws, of the ranks `band_ranks`.
    total : float
        ``sum(w)``.
    reach : float
        The largest norm of an output in the declared range.
    """

    norms: DistanceSample
    total: float
    reach: float


@dataclass(frozen=True)
class Directions:
    """Second moments of the fresh outputs around the reference.

    Attributes
    ----------
    truncation : float
        ``t``: outputs farther from the reference count as 0.
    top : float
        An upper bound of the sample's largest second moment in any direction, as a share of ``t^2``.
    count : int
        Draws behind it.
    weighted : WeightedNorms or None
        For l1; None for l2, whose own norm serves.
    """

    truncation: float
    top: float
    count: int
    weighted: WeightedNorms | None = None


class DirectionsCollector:
    """Second moments and weighted norms of fresh outputs, in a pass.

    Parameters
    ----------
    pilot : Tensor, shape ``(p, ...)``
        Features of draws that are not among the fresh ones.
    reference : Tensor, shape ``(1, ...)``
        Features of the reference.
    draws : int
        Fresh draws to come.
    """

    def __init__(self, metric: Metric, pilot: Tensor, reference: Tensor, draws: int) -> None:
        self._l1, self._reference = metric.seminorm == "l1", reference.flatten().double()
        self._truncation = float(to_numpy(metric, metric.pairwise(pilot, reference)).max())
        around = pilot.flatten(1).double() - self._reference
        self._weights = _weights_of_pilot(around) if self._l1 else None
        self._norms = DistanceBuffer(draws) if self._l1 else None
        features = len(self._reference)
        size = _rows_together(features, draws)
        self._moments = around.new_zeros(features, features) if features <= MATRIX else None
        self._left = self.count = _draws_used(features, draws)
        self._block, self._filled = around.new_empty(size, features), 0
        self._sum_of_tops = 0.0

    def update(self, features: Tensor, distances: Tensor) -> None:
        """Take the next fresh draws: features ``(b, ...)`` and distances to the reference ``(b,)``."""
        around = features.flatten(1).double() - self._reference
        if self._norms is not None and self._weights is not None:
            self._norms.add(_weighted(around, self._weights))
        if self._truncation == 0:
            return
        inside = (distances <= self._truncation)[:, None]
        rows = torch.where(inside, around / self._truncation, 0.0)[: self._left]
        self._left -= len(rows)
        # Blocks of one size, so that second moments are the same to the last digit however the draws arrive.
        while len(rows):
            taken = rows[: len(self._block) - self._filled]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled, rows = self._filled + len(taken), rows[len(taken) :]
            if self._filled == len(self._block) or not (self._left or len(rows)):
                self._take(self._block[: self._filled])
                self._filled = 0

    def compute(self, metric: Metric, output_range: tuple[float, float]) -> Directions:
        """Directions of the draws seen; ``output_range`` limits how large a weighted norm can be."""
        if self._moments is not None:
            moments = self._moments.triu() + self._moments.triu(1).T
            self._sum_of_tops = _top_in_l1(moments) if self._l1 else top_eigenvalue(moments)
        top = self._sum_of_tops / self.count
        if self._norms is None or self._weights is None:
            return Directions(self._truncation, top, self.count)
        low, high = metric.feature_range(output_range)
        farthest = torch.maximum(self._reference - low, high - self._reference)
        norms, ranks = np.sort(to_numpy(metric, self._norms.values)), band_ranks(self._norms.count)
        sample = DistanceSample(len(norms), ranks, norms[ranks - 1])
        reach = float(_weighted(farthest[None], self._weights))
        return Directions(self._truncation, top, self.count, WeightedNorms(sample, float(self._weights.sum()), reach))

    def foresee(self, metric: Metric, output_range: tuple[float, float]) -> Callable[[int], Directions]:
        """The directions expected of ``m`` fresh draws, as a function of ``m``, where those seen are a pilot.

        The second moments are those of the pilot; only the number of draws behind them is that of the fresh ones.
        """
        seen, features = self.compute(metric, output_range), len(self._reference)
        norms = None if self._norms is None else to_numpy(metric, self._norms.values)

        def directions(m: int) -> Directions:
            expected = replace(seen, count=_draws_used(features, m))
            if seen.weighted is None or norms is None:
                return expected
            sample = DistanceSample.foreseen(norms, m, band_ranks(m), seen.weighted.reach)
            return replace(expected, weighted=replace(seen.weighted, norms=sample))

        return directions

    def _take(self, block: Tensor) -> None:
        """Add a block of draws, ``(b, features)``, as shares of the truncation."""
        if self._moments is not None:
            for start in range(0, block.shape[1], _PANEL):  # the matrix is symmetric: the upper part is enough
                panel = slice(start, start + _PANEL)
                self._moments[panel, start:] += block[:, panel].T @ block[:, start:]
        elif self._weights is None:
            self._sum_of_tops += top_eigenvalue(block @ block.T)
        else:
            block = block / self._weights.sqrt()
            self._sum_of_tops += top_eigenvalue(block @ block.T) * float(self._weights.sum())


def _rows_together(features: int, draws: int) -> int:
    """Draws whose second moments are computed at a time."""
    return max(1, min(_BLOCK, draws, _BLOCK_ENTRIES // max(1, features)))


def _draws_used(features: int, draws: int) -> int:
    """How many of the fresh draws second moments are computed of."""
    operations = features * features if features <= MATRIX else 2 * features * _rows_together(features, draws)
    return min(draws, max(_BLOCK, int(_OPERATIONS / max(1, operations))))


def _weights_of_pilot(around: Tensor) -> Tensor:
    """Root mean squares of the features, ``(p, features) -> (features,)``, none below a tenth of their mean."""
    deviations = around.square().mean(dim=0).sqrt()
    least = 0.1 * float(deviations.mean())
    return deviations.clamp(min=least) if least > 0 else torch.ones_like(deviations)


def _weighted(around: Tensor, weights: Tensor) -> Tensor:
    return (around.square() / weights).sum(dim=1).sqrt()


def top_eigenvalue(matrix: Tensor) -> float:
    """An upper bound on the top eigenvalue of a positive semidefinite matrix, within about a thousandth of it.

    An estimate is raised until ``bound * I - matrix`` has a Cholesky factor, which proves it. The factorization of a
    matrix of size ``n`` is that of one within ``n (n + 1) 2**-53`` of the bound, which the outward rounding covers up
    to ``n = 3,000``. The trace is a bound too.
    """
    trace = float(matrix.trace())
    if trace <= 0:
        return 0.0
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    bound, raised = max(_estimate(matrix), 1e-9 * trace), 1e-3
    while bound * (1 + raised) < trace:
        if not int(torch.linalg.cholesky_ex(bound * (1 + raised) * identity - matrix).info):
            return bound * (1 + raised) * _ROUND_UP
        raised *= 2
    return trace * _ROUND_UP


def _estimate(matrix: Tensor) -> float:
    """The top eigenvalue from below, by subspace iteration."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(len(matrix), min(8, len(matrix)), generator=generator, dtype=torch.float64).to(matrix.device)
    for _ in range(_STEPS):
        basis = torch.linalg.qr(matrix @ basis).Q
    return float(torch.linalg.matrix_norm(matrix @ basis, 2))


def _top_in_l1(matrix: Tensor) -> float:
    """An upper bound on the largest ``s^T M s`` over sign vectors: `top_eigenvalue` under good weights.

    The weights are the row norms of ``M V`` at a maximum of the max-cut relaxation, where ``V`` has a unit vector for
    each feature (Burer and Monteiro 2003). Any positive weights give a bound.
    """
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(matrix), _COLUMNS, generator=generator, dtype=torch.float64).to(matrix.device)
    for _ in range(_STEPS):
        vectors = matrix @ torch.nn.functional.normalize(vectors, dim=1)
    norms = torch.linalg.vector_norm(vectors, dim=1)
    weights = norms.clamp(min=1e-9 * float(norms.max()) + 1e-300)
    root = weights.rsqrt()
    return top_eigenvalue(root[:, None] * matrix * root) * float(weights.sum())


def kl_upper(mean: float, exponent: float) -> float:
    """The largest ``q`` with ``kl(mean, q) <= exponent``, rounded up; ``kl`` of Bernoulli laws, natural logarithm.

    Examples
    --------
    >>> round(kl_upper(0.0, 0.01), 5), round(kl_upper(0.5, 0.02), 3), kl_upper(1.0, 0.1)
    (0.00995, 0.599, 1.0)
    """
    if mean >= 1:
        return 1.0

    def divergence(q: float) -> float:
        below = mean * math.log(mean / q) if mean else 0.0
        return below + (1 - mean) * (math.log1p(-mean) - math.log1p(-q))

    low, high = mean, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if divergence(middle) <= exponent else (low, middle)
    return min(1.0, high * _ROUND_UP)


def spectral_movement(band: Band, directions: Directions, h: float, alpha: float) -> float:
    """The most that ``g`` moves within ``eps = h sigma``, if the band holds, except with probability ``alpha``.

    Never more than `local_movement` with the same band.
    """
    local, t = local_movement(band, h), directions.truncation
    if h == 0 or t == 0:
        return local
    second = kl_upper(min(1.0, directions.top), -math.log(alpha) / directions.count)
    inside = band.edges[(band.edges > 0) & (band.edges < t)]
    points = np.unique(np.concatenate([np.linspace(0, t, _CELLS + 1), inside]))
    starts, widths = points[:-1], np.diff(points)
    multipliers = min(1.0, h) * _MULTIPLIERS  # mu t
    masses = np.append(band.beyond, 0.0)  # none beyond the reach
    cells, at_t = _steps(band, starts), masses[_steps(band, np.array([t]))]
    least = 2 * multipliers[:, None] * (starts / t)
    up_to_t = excess_above(masses[cells], level(masses, h)[cells], least, h) @ widths
    remainder = t * np.minimum(excess(at_t, h), multipliers * at_t)
    tail = float(excess(band.beyond, h) @ np.diff(np.maximum(band.edges, t)))
    bounds = multipliers * t * second + up_to_t + remainder + tail
    return min(local, float(bounds.min()) * _ROUND_UP)


def _steps(band: Band, points: Array) -> NDArray[np.intp]:
    """For each of the points the step of the band it lies on; ``len(band.beyond)`` from the reach on."""
    return np.searchsorted(band.edges, points, side="right") - 1


def excess_above(beyond: Array, levels: Array, least: Array, h: float) -> Array:
    """``U_k(p) = sup E(|L - 1| - k)_+ 1_A`` over events of probability at most ``p``, rounded up; ``k`` is ``least``.

    ``p`` is ``beyond``, and ``levels`` are ``level(beyond, h)``.

    ``(s - k) p + E(|L - 1| - s)_+`` for any ``s >= k`` is a bound; the best ``s`` is the larger of ``k`` and the level
    that ``|L - 1|`` exceeds with probability ``p``.

    Examples
    --------
    >>> certain = np.ones(2)
    >>> excess_above(certain, level(certain, 1.0), np.array([0.0, 0.5]), 1.0).round(5).tolist()
    [0.76585, 0.35905]
    """
    levels = np.maximum(least, np.minimum(levels, 1e300))
    return np.asarray(((levels - least) * beyond + _expected_above(levels, h)) * _ROUND_UP + _TINY)


def _expected_above(levels: Array, h: float) -> Array:
    """``E(|L - 1| - s)_+`` for each ``s >= 0``: the two tails of ``T`` where ``|L - 1| > s``."""
    with np.errstate(divide="ignore"):
        upper = np.log1p(levels) / h + h / 2
        lower = np.log1p(-np.minimum(levels, 1.0)) / h + h / 2
    over = ndtr(h - upper) - (1 + levels) * ndtr(-upper)
    under = (1 - levels) * ndtr(lower) - ndtr(lower - h)  # 0 from s = 1 on, where lower is -inf
    return np.asarray(over.clip(min=0) + under.clip(min=0))


def expected_square(weighted: WeightedNorms, h: float, alpha: float) -> float:
    """An upper bound on ``N (E||S||)^2`` at ``x'``, for the error ``S`` of a mean of ``N`` draws in l1."""
    band = Band.of(weighted.norms, weighted.reach, alpha)
    return weighted.total * band.integral(lambda beyond: shifted(beyond, h), power=2)
