"""How far the mean of the noisy outputs can move, from the directions of the outputs as well as their distances.

The bounds of `centersmooth.certifiers.expectation` know how far outputs lie from the reference ``c``, and assume that
all of them push the mean in one direction. With ``Y = f(x + P) - c`` in features, ``D = ||Y||`` and a truncation ``t``
fixed by the pilot draws, let ``lambda_t = sup_v E <v, Y>^2 1{D <= t}`` over the unit vectors of the dual norm. For l2
that is the top eigenvalue of ``M = E Y Y^T 1{D <= t}``; for l1 and total variation the largest ``s^T M s`` over sign
vectors.

**Movement.** For all ``mu >= 0`` at once, and every ``x'`` within ``eps``,

    ``||g(x') - g(x)|| <= mu lambda_t + integral_0^t U_{2 mu s}(1 - F(s)) ds
    + min(t W(1 - F(t)), mu t^2 (1 - F(t))) + integral_t^b W(1 - F(s)) ds``,

``U_k(p) = sup E(|L - 1| - k)_+ 1_A`` over events of probability at most ``p``, ``W = U_0``. With ``mu = 0`` it is the
local bound, so the least over some ``mu`` is never larger. Every term rises with ``1 - F`` and with ``lambda_t``, so
upper confidence limits may stand in.

**Confidence.** For the population's maximiser ``v``, which is fixed though unknown, ``Z = <v, Y>^2 1{D <= t}`` is in
``[0, t^2]`` and has mean ``lambda_t``. The maximum over all directions of the sample's second moments is at least the
sample mean of ``Z``, and so is any upper bound of that maximum. Hence ``lambda_t <= t^2 kl^-1(top / t^2, ln(1/a)/k)``
from ``k`` draws, except with probability ``a`` (Chernoff's bound for variables in [0, 1]). The number of features plays
no part.

**Tops.** Of l2 the top eigenvalue, from above: a value ``theta`` for which ``theta I - M`` has a Cholesky factor. Of l1
``max s^T M s <= lambda_max(W^-1/2 M W^-1/2) sum(w)`` for any weights ``w > 0``. Beyond `MATRIX` features the matrix is
not formed: blocks of `BLOCK` draws each have a top, from their Gram matrix, and the mean of the tops is at least the
mean over blocks of each block's mean of ``Z``.

**Estimation in l1.** With weights ``w`` from the pilot, ``E||S||_1 <= sqrt(sum(w) E sum_k Y_k^2 / w_k / N)`` by Cauchy
and Schwarz. The weighted l2 norm of ``Y`` has a band of its own, shifted to ``x'`` like the other.

Proofs are in ``docs/guarantee.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from centersmooth.certifiers.distances import DistanceBuffer, DistanceSample, to_numpy
from centersmooth.certifiers.expectation import Array, Band, band_ranks, excess, level, shifted
from centersmooth.metrics.base import Metric

MATRIX: Final = 2_000
"""Features up to which the matrix of second moments is formed."""

BLOCK: Final = 1_000
"""Draws of one Gram matrix, where there are more features."""

PILOT: Final = 1_000
"""Draws, of those for the reference, that fix truncation and weights."""

_OPERATIONS: Final = 4e10
"""Multiplications and additions spent on second moments at one point, at most; the first so many draws are used."""

_TINY = 1e-15


@dataclass(frozen=True)
class Directions:
    """Second moments of the fresh outputs around the reference, as the bound reads them.

    Attributes
    ----------
    truncation : float
        ``t``: outputs farther from the reference count as 0.
    top : float
        The largest second moment of the sample in any direction, or a little more.
    count : int
        Draws behind it.
    weights : float or None
        ``sum(w)`` of the weighted norm; None for l2, whose own norm serves.
    norms : DistanceSample or None
        Weighted norms of all fresh outputs around the reference, of the ranks a band has.
    reach : float or None
        The largest weighted norm in the declared range.
    """

    truncation: float
    top: float
    count: int
    weights: float | None = None
    norms: DistanceSample | None = None
    reach: float | None = None


class DirectionsCollector:
    """Second moments and weighted norms of fresh outputs, in a pass.

    Parameters
    ----------
    pilot : Tensor, shape ``(p, features)``
        Features of draws that are not among the fresh ones.
    reference : Tensor, shape ``(features,)``
    draws : int
        Fresh draws to come.
    """

    def __init__(self, metric: Metric, pilot: Tensor, reference: Tensor, draws: int) -> None:
        self._l1, self._reference = metric.seminorm == "l1", reference
        around = pilot.double() - reference
        self._truncation = float(torch.linalg.vector_norm(around, 1 if self._l1 else 2, dim=1).max())
        deviations = around.square().mean(dim=0).sqrt()
        self._weights = deviations.clamp(min=0.1 * float(deviations.mean())) if self._l1 else None
        features = pilot.shape[1]
        of_a_draw = 2 * features * (features if features <= MATRIX else BLOCK)
        self._left = self.count = min(draws, max(BLOCK, int(_OPERATIONS / of_a_draw)))
        self._moments = around.new_zeros(features, features) if features <= MATRIX else None
        self._block: list[Tensor] = []
        self._tops: list[tuple[int, float]] = []
        self._norms = DistanceBuffer(draws) if self._l1 else None

    def update(self, features: Tensor, distances: Tensor) -> None:
        """Take the next fresh draws: features ``(b, features)`` and distances to the reference ``(b,)``."""
        around = features.double() - self._reference
        if self._norms is not None and self._weights is not None:
            self._norms.add((around.square() / self._weights).sum(dim=1).sqrt())
        used = around[: self._left]
        if not len(used):
            return
        self._left -= len(used)
        used = used * (distances[: len(used)] <= self._truncation).to(used)[:, None]
        if self._moments is not None:
            self._moments.addmm_(used.T, used)
            return
        self._block.append(used)
        if sum(map(len, self._block)) >= BLOCK or not self._left:
            self._tops.append(self._top_of_block(torch.cat(self._block)))
            self._block = []

    def compute(self, metric: Metric, output_range: tuple[float, float]) -> Directions:
        """What was seen; ``output_range`` limits how large a weighted norm can be."""
        if self.count == 0 or self._truncation == 0:
            top = 0.0
        elif self._moments is not None:
            top = _top_in_l1(self._moments) if self._l1 else top_eigenvalue(self._moments)
            top /= self.count
        else:
            top = sum(size * value for size, value in self._tops) / self.count
        if self._norms is None or self._weights is None:
            return Directions(self._truncation, top, self.count)
        low, high = metric.feature_range(output_range)
        farthest = torch.maximum(self._reference - low, high - self._reference)
        reach = float((farthest.square() / self._weights).sum().sqrt())
        norms = to_numpy(metric, self._norms.values)
        ranks = band_ranks(len(norms))
        sample = DistanceSample(len(norms), ranks, np.sort(norms)[ranks - 1])
        return Directions(self._truncation, top, self.count, float(self._weights.sum()), sample, reach)

    def _top_of_block(self, around: Tensor) -> tuple[int, float]:
        """Draws of a block, and the top of its mean second moments."""
        if self._weights is not None:
            around = around / self._weights.sqrt()
        top = top_eigenvalue(around @ around.T) / len(around)
        return len(around), top * (float(self._weights.sum()) if self._weights is not None else 1.0)


def top_eigenvalue(matrix: Tensor) -> float:
    """An upper bound on the top eigenvalue of a positive semidefinite matrix, within about a thousandth of it.

    A guess by subspace iteration is raised until ``guess * I - matrix`` has a Cholesky factor, which proves it. A guess
    alone would be too low.
    """
    size = len(matrix)
    basis = torch.randn(size, min(8, size), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = basis.to(matrix.device)
    for _ in range(20):
        basis = torch.linalg.qr(matrix @ basis).Q
    guess = float(torch.linalg.matrix_norm(matrix @ basis, 2))
    if not guess:
        return 0.0
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    raised = 1e-3
    while int(torch.linalg.cholesky_ex(guess * (1 + raised) * identity - matrix).info):
        raised *= 2
    return guess * (1 + raised) * (1 + 1e-9)


def _top_in_l1(matrix: Tensor) -> float:
    """An upper bound on the largest ``s^T M s`` over sign vectors, for good weights."""
    weights = _weights_for(matrix)
    root = weights.rsqrt()
    return top_eigenvalue(root[:, None] * matrix * root) * float(weights.sum())


def _weights_for(matrix: Tensor) -> Tensor:
    """Weights under which the bound is nearly attained: row norms at a maximum of the max-cut relaxation.

    By ascent over unit vectors, one a feature (Burer and Monteiro 2003). Any positive weights give a bound.
    """
    size = len(matrix)
    columns = math.ceil(math.sqrt(2 * size))
    rows = torch.randn(size, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.nn.functional.normalize(rows.to(matrix.device), dim=1)
    norms = matrix.diagonal().sqrt()
    for _ in range(20):
        moved = matrix @ rows
        norms = torch.linalg.vector_norm(moved, dim=1)
        rows = torch.nn.functional.normalize(moved, dim=1)
    return norms.clamp(min=1e-9 * float(norms.max()) + 1e-300)


def kl_upper(mean: float, exponent: float) -> float:
    """The largest ``q`` with ``kl(mean, q) <= exponent``, rounded up; ``kl`` of Bernoulli laws, natural logarithm.

    Examples
    --------
    >>> round(kl_upper(0.0, 0.01), 4), round(kl_upper(0.5, 0.02), 3), kl_upper(1.0, 0.1)
    (0.01, 0.599, 1.0)
    """
    if mean >= 1:
        return 1.0

    def divergence(q: float) -> float:
        below = mean * math.log(mean / q) if mean else 0.0
        return below + (1 - mean) * math.log((1 - mean) / (1 - q))

    low, high = mean, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if divergence(middle) <= exponent else (low, middle)
    return min(1.0, high * (1 + 1e-9))


def spectral_movement(band: Band, directions: Directions, h: float, alpha: float) -> float:
    """The most that ``g`` moves within ``eps = h scale``, if the band holds, except with probability ``alpha``."""
    t = directions.truncation
    if h == 0 or t == 0:
        return band.integral(lambda beyond: excess(beyond, h))
    second = t**2 * kl_upper(min(1.0, directions.top / t**2), -math.log(alpha) / directions.count)
    inside = (band.edges > 0) & (band.edges < t)
    points = np.unique(np.concatenate([np.linspace(0, t, _CELLS + 1), band.edges[inside]]))
    starts, widths = points[:-1], np.diff(points)
    beyond = _at(band, starts)
    levels, at_t = level(beyond, h), _at(band, np.array([t]))
    tail = float(excess(band.beyond, h) @ np.diff(np.maximum(band.edges, t)))
    last = t * float(excess(at_t, h)[0])

    def bound(mu: float) -> float:
        held = float(_above(beyond, 2 * mu * starts, levels, h) @ widths)
        return mu * second + held + min(last, mu * t**2 * float(at_t[0])) + tail

    tried = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 61) / t])
    return min(bound(float(mu)) for mu in tried) * (1 + 1e-9)


_CELLS = 200
"""Pieces of the integral up to the truncation; on each the integrand is taken at its larger end."""


def _at(band: Band, points: Array) -> Array:
    """The band's limits on the mass beyond these points."""
    steps = np.searchsorted(band.edges, points, side="right") - 1
    return band.beyond[np.minimum(steps, len(band.beyond) - 1)]


def _above(beyond: Array, least: Array, levels: Array, h: float) -> Array:
    """``U_k(p)`` at most: ``(s - k) p + E(|L - 1| - s)_+`` for ``s = max(k, level)``, the best ``s`` there is."""
    chosen = np.maximum(least, levels)
    return np.asarray((chosen - least) * beyond + expected_above(chosen, h) * (1 + 1e-9) + _TINY)


def expected_above(levels: NDArray[np.float64], h: float) -> Array:
    """``E(|L - 1| - s)_+`` at each level ``s >= 0``.

    Examples
    --------
    >>> round(float(expected_above(np.array([0.0]), 1.0)[0]), 6)
    0.76585
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        upper = np.log1p(levels) / h + h / 2
        lower = np.where(levels < 1, np.log1p(-np.minimum(levels, 1.0)) / h + h / 2, -np.inf)
    over = ndtr(h - upper) - (1 + levels) * ndtr(-upper)
    under = np.where(levels < 1, (1 - levels) * ndtr(lower) - ndtr(lower - h), 0.0)
    return np.asarray(over.clip(min=0) + under.clip(min=0))


def weighted_error(band: Band, directions: Directions, weighted: Band, h: float, count: int, alpha: float) -> float:
    """`estimation_error` in l1, with the expected error from the weighted norms.

    Parameters
    ----------
    band, weighted : Band
        Of the distances in l1, and of the weighted norms.
    """
    assert directions.weights is not None  # of l1
    expected = directions.weights * weighted.integral(lambda beyond: shifted(beyond, h), power=2)
    second = band.integral(lambda beyond: shifted(beyond, h), power=2)
    log = -math.log(alpha)
    step = band.reach * log / (3 * count)
    return math.sqrt(expected / count) + step + math.sqrt(step**2 + 2 * second * log / count)
