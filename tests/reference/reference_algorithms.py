"""Algorithms 1, 2 and 3 as plain loops over lists of outputs, for ``bounds: paper`` and ``bounds: exact``.

Written from the formulas of the paper; the binomial law comes from `scipy.stats`, term by term where it is short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.stats import beta, binom, norm

Distance = Callable[[object, object], float]


@dataclass
class Answer:
    """``certificate`` is None where the run abstains."""

    center: object
    r_center: float
    frac: float
    r_hat: float
    certificate: float | None


def median_distance(z: object, sample: Sequence[object], distance: Distance) -> float:
    """The ``ceil(n/2)``-th smallest distance from ``z`` to the sample."""
    distances = []
    for other in sample:
        distances.append(distance(z, other))
    distances.sort()
    return distances[math.ceil(len(sample) / 2) - 1]


def smooth(candidates: Sequence[object], sample: Sequence[object], distance: Distance) -> tuple[object, float]:
    """The candidate of least median distance to the sample; Algorithm 1 passes the sample itself as candidates."""
    best, least = None, math.inf
    for candidate in candidates:
        radius = median_distance(candidate, sample, distance)
        if radius < least:
            best, least = candidate, radius
    return best, least


def accepted(inside: int, n: int, delta: float, alpha1: float, bounds: str) -> bool:
    """Step 3 of Algorithm 1."""
    if bounds == "paper":
        delta1 = math.sqrt(math.log(2 / alpha1) / (2 * n))
        delta2 = 1 / 2 - (inside / n - delta1)
        return delta2 <= delta
    floor = beta.ppf(alpha1 / 2, inside, n - inside + 1) if inside else 0.0
    return bool(floor >= 1 / 2 - delta)


def rank(m: int, h: float, delta: float, alpha2: float, bounds: str) -> int:
    """Which of the ``m`` sorted distances is the radius: equations 4 and 5, or the binomial law by counting up."""
    p = norm.cdf(norm.ppf(0.5 + delta) + h)
    if bounds == "paper":
        return math.ceil((p + math.sqrt(math.log(1 / alpha2) / (2 * m))) * m)
    j = 1
    while binom.sf(j - 1, m, p) > alpha2:
        j += 1
    return j


def run(
    candidates: Sequence[object],
    sample: Sequence[object],
    fresh: Sequence[object],
    distance: Distance,
    *,
    n: int,
    m: int,
    delta: float,
    alpha1: float,
    alpha2: float,
    h: float,
    gamma: float,
    bounds: str,
) -> Answer:
    """Smooth, its test on the first ``n`` fresh outputs, Certify on the first ``m``."""
    center, r_center = smooth(candidates, sample, distance)
    inside = 0
    for output in fresh[:n]:
        if distance(center, output) <= r_center:
            inside += 1
    distances = sorted(distance(center, output) for output in fresh[:m])
    r_hat = distances[rank(m, h, delta, alpha2, bounds) - 1]
    factor = gamma * (1 + 2 * gamma) if bounds == "paper" else 3.0 ** (1 + math.log2(gamma)) * (1 + 1e-4)
    certificate = factor * r_hat if accepted(inside, n, delta, alpha1, bounds) else None
    return Answer(center, r_center, inside / n, r_hat, certificate)
