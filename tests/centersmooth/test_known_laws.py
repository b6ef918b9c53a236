"""Whether centers cover, over laws where the shift bound is attained and every mass is known.

The laws are finite or on a line: they are put right where the rule ``measured`` is allowed to fail most. Seeded
runs at x and at x' = +-H of a law serve every statement: far radii of both kinds of centers against the median
distances at x', certificates against the answers at x', and broken readings that have to be caught. Each count allows
``binom.isf(1e-9, runs, level)`` failures, as in `test_coverage`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from laws import APART, LAWS, SMOOTH, UNIT, H, with_means
from scipy.stats import binom
from torch import Tensor

from centersmooth import Budget, Center, Metric, RandomStream
from centersmooth.certifiers.center import CenterEvidence
from centersmooth.certifiers.center.measured import FarRanks, far_ranks, far_ranks_of
from centersmooth.certifiers.center.quantiles import QuantileTable
from centersmooth.certifiers.center.rules import ROUNDING
from centersmooth.certifiers.center.search import BLOCK, CenterKind
from centersmooth.gathering import Setting, gather
from centersmooth.sampling import Sampler

RUNS, RUNS_OF_BROKEN = 60, 150
"""The weakest broken reading fails in a fifth of its runs: of 60 in as many as may, and of 150 in 30, where 18 may."""

SHIFTS = (H, -H)
KINDS: dict[str, tuple[CenterKind, ...]] = {"Smooth": ("sample", "free"), "Smooth-HD": ("sample",)}
BUDGETS = {"Smooth": SMOOTH, "Smooth-HD": APART}


def allowed(level: float, runs: int) -> int:
    return int(binom.isf(1e-9, runs, level))


# --- T as `rules.measured_radii` reads it, and as it must not be read -----------------------------------------------


def least_far(evidence: CenterEvidence, budget: Budget, kind: CenterKind) -> float:
    tables = {1: evidence.candidates, BLOCK: evidence.blocks}
    ranks = far_ranks_of(budget, UNIT, H, kind)
    return min(tables[block].at(own.near, own.place) for block, own in ranks.items())


Reading = Callable[[QuantileTable, Tensor, FarRanks], float]


def no_confidence(table: QuantileTable, matrix: Tensor, ranks: FarRanks) -> float:
    """Takes the shares of the sample for the masses."""
    return table.at(math.ceil(table.others * UNIT.required_mass(0.5, H)), ranks.place)


def best_candidate_only(table: QuantileTable, matrix: Tensor, ranks: FarRanks) -> float:
    """Reads the candidate that was chosen for being near its sample, as if a run at x' had it as well."""
    return table.at(ranks.near, 1)


def swapped(table: QuantileTable, matrix: Tensor, ranks: FarRanks) -> float:
    """The rank among candidates within each row, and the rank within a row among candidates."""
    return float(matrix.sort(dim=1).values[:, ranks.place].sort().values[ranks.near])


def paper_median(table: QuantileTable, matrix: Tensor, ranks: FarRanks) -> float:
    """The median distance at x itself: no shift at all."""
    return float(matrix.sort(dim=1).values[:, SMOOTH.n // 2 - 1].min())


BROKEN: dict[tuple[str, str], list[Reading]] = {
    ("atom just below half at x'", "Smooth"): [no_confidence, paper_median],
    ("rare hub", "Smooth"): [best_candidate_only],
    ("three branches", "Smooth"): [swapped],
}
"""Readings of the sample's distances that some law shows to be wrong, at x' = H."""


def matrix_at_x(sampler: Sampler, metric: Metric, budget: Budget, seed: int) -> Tensor:
    """The distances among the sample from which the run of this seed chose its center."""
    sample = metric.features(torch.cat(list(sampler.draw(torch.zeros(1), budget.n, RandomStream(seed), "center"))))
    return metric.pairwise(sample, sample)


@pytest.mark.parametrize("algorithm", BUDGETS)
@pytest.mark.parametrize("law", LAWS)
def test_centers_cover_known_laws(law: str, algorithm: str) -> None:
    """Half-lines are where the shift bound is attained, so x' = +-H are the worst inputs; most are unkind to means.

    Far radii: the median distance of a run at x' is above ``T`` in few runs. The statement itself: a run at x' answers
    farther away than the certificate at x in few runs. Broken readings fail the first count.
    """
    budget, metric = BUDGETS[algorithm], with_means(LAWS[law][1])
    centers = {kind: Center(metric, kind) for kind in KINDS[algorithm]}
    sampler, setting = Sampler(LAWS[law][0], UNIT, budget.n, budget.n), Setting(UNIT, budget, forward_block=budget.n)
    ranks, broken = far_ranks(budget, UNIT, H), BROKEN.get((law, algorithm), [])
    runs = RUNS_OF_BROKEN if broken else RUNS
    too_far, moved, misread, certified, measured = Counter(), Counter(), Counter(), Counter(), Counter()
    for seed in range(runs):
        # From one pass at each input: it gives what a pass for either center gives (`test_free_centers`).
        at_x, at_x_prime = RandomStream(seed), RandomStream(seed, point=1)
        here = gather(sampler, centers, budget, torch.zeros(1), at_x)
        there = {
            shift: gather(sampler, centers, budget, torch.tensor([shift]), at_x_prime, radius=False) for shift in SHIFTS
        }
        for kind, center in centers.items():
            far = least_far(here[kind], budget, kind) * (1 + ROUNDING)
            certificate = center.certificate(here[kind], H, "measured", setting)
            for shift in SHIFTS:
                too_far[kind, shift] += there[shift][kind].r_center > far
                answer = center.answer(there[shift][kind], setting, "measured").output
                if certificate.radius is not None and answer is not None:
                    certified[kind, shift] += 1
                    measured[kind, shift] += certificate.beta is None
                    moved[kind, shift] += center.distance(answer, certificate.answer) > certificate.radius
        matrix = matrix_at_x(sampler, metric, budget, seed) if broken else torch.zeros(0)
        for reading in broken:
            read = reading(here["sample"].candidates, matrix, ranks) * (1 + ROUNDING)
            misread[reading.__name__] += there[H]["sample"].r_center > read
    assert max(too_far.values()) <= allowed(budget.alpha1 / 2 + budget.alpha2 / 2, runs)
    assert max(moved.values()) <= allowed(budget.alpha1 + budget.alpha2, runs)
    assert min(certified[kind, shift] for kind in centers for shift in SHIFTS) > runs / 2
    if "hub" not in law and law != "constant":  # where T may be as large as the doubled radius
        assert min(measured[kind, shift] for kind in centers for shift in SHIFTS) > runs / 2
    for reading in broken:
        assert misread[reading.__name__] > allowed(budget.alpha1 / 2 + budget.alpha2 / 2, runs)
