"""Bounds on the movement of the mean of the noisy outputs, from distances.

For a seminorm ``d(a, b) = ||a - b||``, outputs of a declared range and Gaussian noise, ``h = eps/sigma``. Let ``g(x) =
E f(x + P)``; a run of the smoothed model at ``x`` answers with the mean of ``n`` draws. At ``x`` draw ``n`` outputs,
whose mean is the *reference* ``c``, then ``m`` fresh ones, whose mean is the *center*. Given ``c``, let ``D = ||f(x +
P) - c||``, ``F`` its distribution function, and ``b`` its *reach*, the largest distance of any output in the range to
``c``.

**Movement.** ``L = exp(h T - h^2/2)``, ``T`` standard normal, is the likelihood ratio of the noise at ``x'`` to that at
``x``, ``|x' - x| = eps``. As ``E(L - 1) = 0``, ``g(x') - g(x) = E(L - 1)(f(x + P) - c)``, so

    ``||g(x') - g(x)|| <= E|L - 1| D = integral_0^b E|L - 1| 1{D > t} dt <= integral_0^b W_h(1 - F(t)) dt``

with ``W_h(p) = sup E|L - 1| 1_A`` over events ``A`` of probability at most ``p``. By duality ``W_h(p) = min_s {s p +
E(|L - 1| - s)_+}``, so any ``s`` gives an upper bound; by convexity it grows with ``h`` (``L`` is a martingale in
``h^2``), so it covers all smaller ``eps``. Nothing smaller follows from the law of ``D``: ``f = c + sign(L - 1) D v``,
``||v|| = 1``, ``D`` growing with ``|L - 1|``, attains it.

**Band.** ``1 - F`` is unknown. At the ``j``-th smallest of ``m`` distances it is at most the upper ``a``-quantile of
the law Beta(m-j+1, j), except with probability ``a`` (Clopper and Pearson). These limits at about a hundred ranks,
fixed beforehand, make a step function above ``1 - F``, and every integrand here rises with ``1 - F``. Beyond the
largest distance seen it is the limit there all the way to ``b``: the tail, which no statement about a mean can do
without.

**Estimation.** Let ``S`` be the mean of ``N`` draws less its expectation, and ``V = E D^2``. Then, except with
probability ``a``, for ``l = ln(1/a)``,

    ``||S|| <= E||S|| + b l / 3N + sqrt((b l / 3N)^2 + 2 V l / N)``,

because a draw replaced by ``c`` changes ``||N S||`` by at most its ``D`` (Yurinskii's martingale and Bernstein's
inequality). And ``E||S|| <= sqrt(V/N)`` for l2; for l1, coordinate by coordinate, ``sqrt(B E D / N)``, where ``B`` is
the sum over coordinates of the farthest that each can be from ``c``'s: ``b`` itself, unless outputs are kept in a ball,
whose reach bounds the distance as a whole. At ``x'`` the same holds with the moments there: ``E D <= integral S_h(1 -
F) dt`` and ``V <= integral 2t S_h(1 - F) dt``, by the shift bound.

**Together.** The output of a run at ``x'`` is farther from the center than movement and both estimation errors together
with probability at most ``alpha1``, unless the band or the center failed: ``alpha2/2`` each. The rule ``local`` is
that; ``global`` puts ``diameter * (2 Phi(h/2) - 1)`` in the place of the movement, which holds for every model; local
is never larger. ``docs/guarantee.md`` has the proofs at length.

Source: the representation by the likelihood ratio is that of Neyman and Pearson's lemma; Yurinskii, *Exponential
inequalities for sums of random vectors*, Journal of Multivariate Analysis 1976; Bennett's moment condition as in
Boucheron, Lugosi and Massart, *Concentration Inequalities*, 2013, theorem 2.9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betainccinv, ndtr, ndtri
from torch import Tensor

from centersmooth.certificate import Budget
from centersmooth.certifiers.distances import DistanceSample
from centersmooth.metrics.base import Metric, features_of
from centersmooth.noise import GaussianShift

Array = NDArray[np.float64]

_ROUND_UP = 1 + 1e-9
"""Outward rounding of the special functions and sums, which are right to about 1e-12."""

_TINY = 1e-15
"""Outward rounding of differences of probabilities, right to about 1e-16 however small."""

_BULK, _TAIL = 64, 1.3
"""Ranks of the band: so many evenly spaced ones, and those whose number of larger distances grows by this factor."""


def mean_problem(metric: Metric, noise: object, budget: Budget, output_range: tuple[float, float] | None) -> str:
    """The reason why a mean has no certificate here; empty if it has one.

    >>> from centersmooth import GaussianNoise, Jaccard
    >>> mean_problem(Jaccard(), GaussianNoise(1.0), Budget(), (0.0, 1.0))
    'Jaccard has no mean to smooth by: it compares sets, which no norm of a difference does; use CenterSmoother'
    """
    if metric.seminorm is None:
        return f"{metric.name} has no mean to smooth by: {metric.no_mean}; use CenterSmoother"
    if not isinstance(noise, GaussianShift):
        return f"noise is {noise!r}: the certificate of a mean needs Gaussian noise"
    if budget.n0:
        return f"n0 is {budget.n0}: a mean has no candidates, expected n0 = 0"
    return range_problem(output_range)


def range_problem(output_range: tuple[float, float] | None) -> str:
    """The reason why outputs of this range have no certificate of their mean; empty if they have one."""
    if output_range is None or not (math.isfinite(output_range[0]) and output_range[0] < output_range[1] < math.inf):
        return f"output_range is {output_range}: a mean needs hard limits of every output, such as (0.0, 1.0)"
    return ""


def reach(metric: Metric, output: Tensor, output_range: tuple[float, float]) -> float:
    """``sup ||y - output||`` over outputs ``y`` in the range, or a little more: every feature at its far limit.

    Parameters
    ----------
    output : Tensor, shape ``(*out)``

    >>> from centersmooth import TotalVariation
    >>> reach(TotalVariation(), torch.full((1, 28, 28), 0.5), (0.0, 1.0))
    1512.0
    """
    low, high = metric.feature_range(output_range)
    features = features_of(metric, output[None]).double()
    farthest = torch.maximum(features - low, high - features)
    return float(torch.linalg.vector_norm(farthest, 1 if metric.seminorm == "l1" else 2))


@lru_cache(maxsize=64)
def band_ranks(m: int) -> NDArray[np.int64]:
    """The ranks among ``m`` distances at which the band has its limits, ascending; fixed by ``m`` alone.

    >>> band_ranks(5).tolist(), len(band_ranks(10_000)), band_ranks(10_000)[-5:].tolist()
    ([1, 2, 3, 4, 5], 81, [9996, 9997, 9998, 9999, 10000])
    """
    even = np.linspace(0, m - 1, _BULK)
    tail = np.geomspace(1, max(1, m / _BULK), 1 + int(math.log(max(1, m / _BULK), _TAIL)))
    larger = np.concatenate([[0], even, np.minimum(tail, m - 1)])
    return m - np.unique(larger.astype(np.int64))[::-1]


@dataclass(frozen=True)
class Band:
    """A step function above ``1 - F``: ``beyond[i]`` from ``edges[i]`` to ``edges[i+1]``.

    Attributes
    ----------
    edges : array, shape ``(r + 2,)``
        0, distances that ascend, the reach.
    beyond : array, shape ``(r + 1,)``
        1, then upper confidence limits of the mass beyond each distance.
    """

    edges: Array
    beyond: Array

    @classmethod
    def of(cls, distances: DistanceSample, reach: float, alpha: float) -> Band:
        """Holds everywhere at once with probability ``>= 1 - alpha``.

        Half of ``alpha`` is spent on the largest distance, where the tail begins, the other on all other ranks alike.
        """
        edges = np.concatenate([[0.0], distances.values, [max(reach, distances.values[-1])]])
        return cls(edges, _limits(distances.count, distances.ranks.astype(np.int64).tobytes(), alpha))

    @property
    def reach(self) -> float:
        """The largest possible distance."""
        return float(self.edges[-1])

    def integral(self, weight: Callable[[Array], Array], power: int = 1) -> float:
        """``integral_0^reach weight(1 - F(t)) d(t^power)`` at most, for a ``weight`` that rises; rounded up."""
        return float(weight(self.beyond) @ np.diff(self.edges**power)) * _ROUND_UP


@lru_cache(maxsize=64)
def _limits(count: int, bytes_of_ranks: bytes, alpha: float) -> Array:
    """The masses of `Band.of`; kept from one input to the next, as they follow from the budget alone."""
    ranks = np.frombuffer(bytes_of_ranks, dtype=np.int64)
    shares = np.full(len(ranks), alpha / 2 / max(1, len(ranks) - 1))
    shares[-1] = alpha / 2
    limits = betainccinv(count - ranks + 1, ranks, shares) * _ROUND_UP
    beyond: Array = np.minimum(1.0, np.concatenate([[1.0], limits]))
    beyond.flags.writeable = False
    return beyond


def shifted(beyond: Array, h: float) -> Array:
    """The most mass at ``x'`` of a set of mass ``beyond`` at ``x``: ``Phi(Phi^-1(beyond) + h)``, rounded up."""
    return np.asarray(np.minimum(1.0, ndtr(ndtri(beyond) + h) * _ROUND_UP))


def excess(beyond: Array, h: float) -> Array:
    """``W_h(p) = sup E|L - 1| 1_A`` over events ``A`` of probability at most ``p = beyond``, rounded up.

    The best event is ``{|L - 1| > s}`` with ``s`` such that it has probability ``p``: two tails of ``T``, of which the
    lower one is empty for ``s >= 1``. The ``s`` found by bisection is put into ``s p + E(|L - 1| - s)_+``, which is
    never too small, and too large by the square of that ``s``'s error only.

    >>> excess(np.array([0.0, 1.0]), 1.0).round(6).tolist()
    [0.0, 0.76585]
    """
    if h == 0:
        return np.zeros_like(beyond)
    whole = 2 * (ndtr(h / 2) - ndtr(-h / 2))
    with np.errstate(over="ignore", invalid="ignore"):
        upper, lower = _tails(_upper_tail(beyond, h), h)
        gain = ndtr(h - upper) - ndtr(-upper) + ndtr(lower) - ndtr(lower - h)
        dual = np.expm1(h * (upper - h / 2)) * (beyond - ndtr(-upper) - ndtr(lower)) + gain
    return np.asarray(np.fmin(dual, whole).clip(min=0) * _ROUND_UP + _TINY)


def level(beyond: Array, h: float) -> Array:
    """The ``s`` such that ``|L - 1| > s`` has probability ``beyond``, nearly: where `excess` has its best event."""
    with np.errstate(over="ignore"):
        return np.asarray(np.expm1(h * (_upper_tail(beyond, h) - h / 2)))


def _upper_tail(beyond: Array, h: float) -> Array:
    """Where the upper tail of `level` begins.

    Kept from one input to the next: the masses are those of a band, which follow from the budget alone.
    """
    return _bisected(np.asarray(beyond, dtype=np.float64).tobytes(), h).reshape(beyond.shape)


@lru_cache(maxsize=256)
def _bisected(masses: bytes, h: float) -> Array:
    """`_upper_tail` of an array with these bytes."""
    beyond = np.frombuffer(masses, dtype=np.float64)
    low, high = np.full_like(beyond, h / 2), np.full_like(beyond, h / 2 + 40)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(60):
            middle = (low + high) / 2
            upper, lower = _tails(middle, h)
            above = ndtr(-upper) + ndtr(lower) > beyond
            low, high = np.where(above, middle, low), np.where(above, high, middle)
    high.flags.writeable = False
    return high


def _tails(upper: Array, h: float) -> tuple[Array, Array]:
    """``(t, t')`` such that ``|L - 1| > s`` where ``T > t`` or ``T < t'``, for the ``s`` that ``t`` stands for."""
    with np.errstate(over="ignore", divide="ignore"):
        below = 1 - np.minimum(1.0, np.expm1(h * (upper - h / 2)))
        return upper, h / 2 + np.log(below) / h


def local_movement(band: Band, h: float) -> float:
    """The most that ``g`` moves within ``eps = h sigma``, if the band holds."""
    return band.integral(lambda beyond: excess(beyond, h))


def global_movement(diameter: float, h: float) -> float:
    """``diameter * (2 Phi(h/2) - 1)``: no mean of outputs of that diameter moves farther.

    ``E(L - 1)_+ = E(L - 1)_- = 2 Phi(h/2) - 1``, so the movement is that share of the distance between two means.

    >>> round(global_movement(28.0, 1.0), 2)
    10.72
    """
    return float(diameter * (ndtr(h / 2) - ndtr(-h / 2)) * _ROUND_UP)


def estimation_error(
    band: Band,
    h: float,
    count: int,
    alpha: float,
    metric: Metric,
    expected_square: float = math.inf,
    sides: float | None = None,
) -> float:
    """Error of the mean of ``count`` draws at any ``x'`` within ``eps = h sigma``, w.p. ``>= 1 - alpha``.

    Parameters
    ----------
    expected_square : float
        A further upper bound on ``count (E||S||)^2``.
    sides : float, optional
        For l1, the sum over features of the farthest that each can be from the reference's; by default the reach, which
        it is where outputs are limited by their range alone.
    """
    second = band.integral(lambda beyond: shifted(beyond, h), power=2)
    first = band.integral(lambda beyond: shifted(beyond, h))
    coordinates = band.reach if sides is None else sides
    expected = min(expected_square, second if metric.seminorm == "l2" else coordinates * first)
    log = -math.log(alpha)
    step = band.reach * log / (3 * count)
    return math.sqrt(expected / count) + step + math.sqrt(step**2 + 2 * second * log / count)
