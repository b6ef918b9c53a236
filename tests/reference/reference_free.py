"""Free centers and the far radius of means of blocks, from their definitions: plain loops, tail sums, no search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reference_algorithms import median_distance
from scipy.stats import binom, norm

Distance = Callable[[object, object], float]
Mean = Callable[[Sequence[object]], object]


def means_of_blocks(sample: Sequence[object], mean: Mean, length: int) -> list[object]:
    """Of disjoint blocks; what is left at the end belongs to none."""
    return [mean(sample[i * length : (i + 1) * length]) for i in range(len(sample) // length)]


def far_radius_of_means(
    sample: Sequence[object], distance: Distance, mean: Mean, length: int, near: int, place: int
) -> float:
    """The ``place``-th smallest, over means, of the ``near``-th smallest distance to the points outside the block."""
    values = []
    for i, candidate in enumerate(means_of_blocks(sample, mean, length)):
        outside = [z for index, z in enumerate(sample) if index // length != i]
        values.append(sorted(distance(candidate, z) for z in outside)[near - 1])
    return sorted(values)[place - 1]


def free_center(
    sample: Sequence[object], distance: Distance, mean: Mean, length: int, refinements: int
) -> tuple[object, float]:
    """The best of sample points, means of blocks, and repeated means of the nearest half, which start from the best."""
    k = -(-len(sample) // 2)
    best = min([*sample, *means_of_blocks(sample, mean, length)], key=lambda z: median_distance(z, sample, distance))
    latest = best
    for _ in range(refinements):
        latest = mean(sorted(sample, key=lambda z, center=latest: distance(center, z))[:k])
        best = min(best, latest, key=lambda z: median_distance(z, sample, distance))
    return best, median_distance(best, sample, distance)


def spent_by_means_at_x_prime(n: int, length: int, candidate_mass: float, near_mass: float) -> float:
    """Probability that a run at x' misses ``T``, where means and balls there have at least these masses."""
    means, k = n // length, -(-n // 2)
    return float((1 - candidate_mass) ** means + means * candidate_mass * binom.cdf(k - 1, n - length, near_mass))


def spent_by_means_at_x(
    n: int, length: int, candidate_mass: float, near_mass: float, h: float, near: int, place: int
) -> tuple[float, float]:
    """``(a_t, a_j)`` for the best number ``b`` of spared means, by trying all: their least sum."""
    means = n // length
    miss = binom.sf(near - 1, n - length, norm.cdf(norm.ppf(near_mass) + h))
    mass = norm.cdf(norm.ppf(candidate_mass) + h * length**0.5)
    pairs = [(means * miss / spared, binom.sf(place - spared, means, mass)) for spared in range(1, place + 1)]
    return min(pairs, key=sum)
