"""The measured far radius from its definition: plain loops over lists, tail sums of `scipy.stats`, no search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scipy.stats import binom, norm

Distance = Callable[[object, object], float]


def far_radius(sample: Sequence[object], distance: Distance, near: int, place: int) -> float:
    """The ``place``-th smallest, over the points of a sample, of the ``near``-th smallest distance to the others."""
    values = []
    for i, candidate in enumerate(sample):
        others = [distance(candidate, other) for index, other in enumerate(sample) if index != i]
        values.append(sorted(others)[near - 1])
    return sorted(values)[place - 1]


def far_radius_apart(
    candidates: Sequence[object], sample: Sequence[object], distance: Distance, near: int, place: int
) -> float:
    """The same for candidates that were drawn apart from the sample."""
    values = []
    for candidate in candidates:
        values.append(sorted(distance(candidate, other) for other in sample)[near - 1])
    return sorted(values)[place - 1]


def spent_at_x_prime(n: int, n0: int, candidate_mass: float, near_mass: float) -> float:
    """Probability that a run at x' misses ``T``, where candidates and balls there have at least these masses."""
    k = -(-n // 2)
    if n0:
        return float((1 - candidate_mass) ** n0 + binom.cdf(k - 1, n, near_mass))
    return float((1 - candidate_mass) ** n + n * candidate_mass * binom.cdf(k - 2, n - 1, near_mass))


def spent_at_x(
    n: int, n0: int, candidate_mass: float, near_mass: float, h: float, near: int, place: int
) -> tuple[float, float]:
    """``(a_t, a_j)`` for the best number ``b`` of spared candidates, by trying all: their least sum."""
    candidates, others = (n0, n) if n0 else (n, n - 1)
    miss = binom.sf(near - 1, others, norm.cdf(norm.ppf(near_mass) + h))
    mass = norm.cdf(norm.ppf(candidate_mass) + h)
    pairs = [(candidates * miss / spared, binom.sf(place - spared, candidates, mass)) for spared in range(1, place + 1)]
    return min(pairs, key=sum)
