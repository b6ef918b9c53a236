"""Compare a log of certified classes with a published one, at the same test points and the same number of draws.

Usage: python scripts/compare_logs.py OURS.tsv THEIRS.tsv SIGMA DRAWS [THEIR_DRAWS]

Radii of the published log, of 100,000 Gaussian draws by default, are turned back into the counts that gave them; from
these, counts of DRAWS draws are simulated (binomial, 20 times, seed 0), and from those radii at alpha = 0.001. Printed
are certified accuracies and average radii of both, and the mean of the paired differences of radius * correct with its
standard error over the points. Logs as `csrun.report.labels.read_log` reads them.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from centersmooth import GaussianNoise
from centersmooth.bounds import EXACT
from csrun.report.labels import average_certified_radius, certified_accuracy, read_log, three_digits

ALPHA, REPETITIONS = 0.001, 20


def main(ours: str, theirs: str, sigma: str, draws: str, their_draws: str = "100000") -> None:
    """Print the comparison."""
    scale, m = float(sigma), int(draws)
    own, published = read_log(ours), read_log(theirs)
    both = published[published["idx"].isin(own["idx"])]
    if sorted(both["idx"]) != sorted(own["idx"]):
        raise SystemExit(f"compare_logs: {theirs} lacks points of {ours}: expected a log of the same test set")
    both, own = both.sort_values("idx"), own.sort_values("idx")
    counts = _counts(both["radius"].to_numpy(), scale, int(their_draws))
    random, radii = np.random.default_rng(0), _radii(scale, m)
    simulated = np.stack([radii[random.binomial(m, counts / int(their_draws))] for _ in range(REPETITIONS)])
    simulated[:, both["predict"].to_numpy() < 0] = 0.0
    correct = both["correct"].to_numpy()
    grid = np.arange(0, 4 * scale, 0.5 * max(scale, 0.5)).tolist()
    print("radii            ", " ".join(f"{radius:6.3g}" for radius in grid), "    ACR")
    once = both.assign(radius=simulated[0])
    for name, log in (("ours", own), ("published, fewer draws", once), ("published", both)):
        accuracies = " ".join(f"{100 * one:6.1f}" for one in certified_accuracy(log, grid))
        print(f"{name:17.17s}", accuracies, f"{average_certified_radius(log):7.4f}")
    differences = own["radius"].to_numpy() * own["correct"].to_numpy() - simulated.mean(axis=0) * correct
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    summary = f"paired difference of radius * correct {differences.mean():+.4f}, standard error {error:.4f}"
    print(f"{len(own)} points, {m} draws: {summary}")


def _radii(sigma: float, draws: int) -> NDArray[np.float64]:
    """The radius of every count as our logs have it, ``(draws + 1,)``; 0 where the class is not certified."""
    law = GaussianNoise(sigma)
    half = draws // 2
    certified = [law.reach(EXACT.mass_floor(count, draws, ALPHA), 0.5) for count in range(half, draws + 1)]
    return np.concatenate([np.zeros(half), [float(three_digits(max(radius, 0.0))) for radius in certified]])


def _counts(radii: NDArray[np.float64], sigma: float, draws: int) -> NDArray[np.int64]:
    """The least counts whose lower limits give these radii; half of the draws where nothing is certified."""
    limits = np.array([EXACT.mass_floor(count, draws, ALPHA) for count in range(draws // 2, draws + 1)])
    found = np.searchsorted(limits, ndtr(radii / sigma) - 1e-9)
    return np.where(radii > 0, draws // 2 + np.minimum(found, len(limits) - 1), draws // 2)


if __name__ == "__main__":
    main(*sys.argv[1:])
