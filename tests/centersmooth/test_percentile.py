"""Percentiles: exact ranks counted from 1, one failure probability for all coordinates, nothing interpolated."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import bdtr, ndtr, ndtri
from scipy.stats import binom

from centersmooth import (
    L2,
    BoxPercentile,
    Budget,
    GaussianNoise,
    Jaccard,
    ModelError,
    Outcome,
    Percentile,
    RandomStream,
    RequestError,
    Smoother,
    UniformNoise,
)
from centersmooth.bounds import EXACT, mass_of_count
from centersmooth.certifiers import pack
from centersmooth.certifiers.percentile import PercentileCollector, kept_ranks, sample_rank
from centersmooth.gathering import Setting, gather_one
from centersmooth.metrics.boxes import worst_jaccard
from centersmooth.noise import RayleighNoise
from centersmooth.sampling import Sampler

BUDGET = Budget(n=101, m=800, alpha1=0.05, alpha2=0.05)
NOISE = GaussianNoise(1.0)
STREAM = RandomStream(0)


def setting(noise=NOISE, **counts) -> Setting:
    return Setting(noise, replace(BUDGET, **counts))


def evidence_of(model, certifier, x, budget=BUDGET, noise=NOISE):
    return gather_one(Sampler(model, noise, 128, 128), certifier, budget, x, STREAM)


# --- Ranks ---------------------------------------------------------------------------------------------------------

CHIANG = {"n": 2_000, "m": 2_000, "alpha2": 2e-5}
"""Counts and failure probability, 1e-5 a side, of the paper's experiments."""


def test_ranks_are_those_of_the_paper_counted_from_1():
    above, below = Percentile().ranks(setting(GaussianNoise(0.25), **CHIANG), "order", 0.36, 1)
    assert (above, 2_001 - below) == (1_899, 102)


def test_a_rank_taken_for_an_index_from_0_is_unsound_below():
    """As in the paper's released code: its lower bound is the draw after that of rank 102."""
    p = ndtr(-0.36 / 0.25)  # of {f < t}, t the percentile at x of which the median at x' may be
    fails = [bdtr(rank - 1, 2_000, p) for rank in (102, 103)]
    assert fails[0] <= 1e-5 < fails[1] == pytest.approx(1.13e-5, rel=1e-2)


def test_the_failure_probability_is_shared_by_all_coordinates_and_both_sides():
    one = setting(GaussianNoise(0.25), n=2_000, m=2_000, alpha2=1e-5)
    assert Percentile().ranks(one, "order", 0.36, 700)[0] == 1_913


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_ranks_rest_on_the_law_and_on_both_its_sides(q):
    """A factor of 1.2 up takes more from a set than one down: 1 - S(1 - q) for S(q) would be too low a rank."""
    for noise, eps in ((UniformNoise(1.0), 0.4), (RayleighNoise(), 0.1)):
        above, below = Percentile(q=q).ranks(setting(noise), "order", eps, 3)
        share = 0.05 / 6
        assert above == EXACT.upper_rank(800, noise.required_mass(q, eps), share)
        assert below == EXACT.upper_rank(800, noise.required_mass(1 - q, eps), share)
    assert UniformNoise(1.0).required_mass(q, 0.4) == pytest.approx(min(1, q + 0.2))


@pytest.mark.parametrize(("count", "draws"), [(1, 1), (51, 101), (91, 101), (101, 101)])
def test_the_mass_of_a_count_is_the_least_there_is(count, draws):
    mass = mass_of_count(count, draws, 0.01)
    assert bdtr(count - 1, draws, mass) <= 0.01 < bdtr(count - 1, draws, mass * (1 - 1e-6))


# --- Coverage ------------------------------------------------------------------------------------------------------

SIMULATED = 10_000
H = 1.0
COORDINATES = 20


def share_of_failures(q: float, above: int, below: int, *, coordinates: int = 1, run: bool = False) -> float:
    """How often bounds of these ranks fail at ``x'`` at the largest shift, of independent coordinates.

    The mass below the ``j``-th smallest draw has the law Beta(j, m - j + 1), whatever is drawn; a shift by ``h`` takes
    it from ``p`` to ``Phi(Phi^-1(p) - h)``. Bounds of a run fail where its answer is beyond them with probability
    more than ``alpha1``, to be shared by all coordinates and sides.
    """
    generator = np.random.default_rng(0)
    m, n, k = BUDGET.m, BUDGET.n, sample_rank(q, BUDGET.n)
    failed = np.zeros(SIMULATED, dtype=bool)
    for rank, kept, hits in ((above, q, k), (below, 1 - q, n - k + 1)):
        mass = generator.beta(rank, m - rank + 1, size=(SIMULATED, coordinates))
        there = ndtr(ndtri(mass) - H)
        of_run = bdtr(hits - 1, n, there) > BUDGET.alpha1 / (2 * coordinates)
        failed |= (of_run if run else there <= kept).any(axis=1)
    return float(failed.mean())


def most(alpha: float) -> float:
    return float(binom.isf(1e-9, SIMULATED, alpha)) / SIMULATED


@pytest.mark.parametrize("q", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("rule", Percentile.rules)
@pytest.mark.parametrize("coordinates", [1, COORDINATES])
def test_bounds_cover(q, rule, coordinates):
    above, below = Percentile(q=q).ranks(setting(m=BUDGET.m), rule, H, coordinates)
    failures = share_of_failures(q, above, below, coordinates=coordinates, run=rule == "order_run")
    assert 0.003 < failures <= most(BUDGET.alpha2)  # not loose either


BROKEN = {
    "a rank lower above": lambda above, below: (above - 4, below),
    "a rank lower below": lambda above, below: (above, below - 4),
    "of half eps": lambda *_: Percentile().ranks(setting(), "order", H / 2, 1),
    "without a shift": lambda *_: Percentile().ranks(setting(), "order", 0.0, 1),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_ranks_are_caught(fault):
    ranks = BROKEN[fault](*Percentile().ranks(setting(), "order", H, 1))
    assert share_of_failures(0.5, *ranks) > most(BUDGET.alpha2)


def test_bounds_of_one_coordinate_do_not_cover_all_of_them():
    ranks = Percentile().ranks(setting(), "order", H, 1)
    assert share_of_failures(0.5, *ranks, coordinates=COORDINATES) > 5 * most(BUDGET.alpha2)


def test_bounds_of_the_map_do_not_cover_a_run():
    ranks = Percentile().ranks(setting(), "order", H, 1)
    assert share_of_failures(0.5, *ranks, run=True) > 5 * most(BUDGET.alpha2)


def steep(x: torch.Tensor) -> torch.Tensor:
    """Two numbers without a range, which noise moves together."""
    return torch.cat([(4 * x).exp(), -(x**3)], dim=1)


@pytest.mark.parametrize("q", [0.3, 0.5])
def test_exact_percentiles_of_a_model_without_a_range_are_within_the_interval(q):
    """At the ends of eps, where they are farthest; -x^3 falls, so that its percentile is of the opposite one of x."""
    smoother = Smoother(steep, GaussianNoise(1.0), Percentile(q=q), BUDGET, rule="order")
    failed = 0
    for seed in range(40):
        certificate = smoother.certify(torch.zeros(1), 0.5, stream=RandomStream(seed))
        for x in (-0.5, 0.5):
            exact = torch.tensor([math.exp(4 * (x + ndtri(q))), -((x + ndtri(1 - q)) ** 3)])
            failed += not bool(((certificate.lower <= exact) & (exact <= certificate.upper)).all())
    assert failed <= binom.isf(1e-9, 80, BUDGET.alpha2)


# --- Counting ------------------------------------------------------------------------------------------------------

VALUES = st.sampled_from([-math.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, math.inf])


def counts_of(center: torch.Tensor, fresh: torch.Tensor, pieces: int = 3):
    counts = {"n": len(center), "m": len(fresh)}
    collector = PercentileCollector(Percentile(), setting(**counts), radius=True)
    for stage, draws in (("center", center), ("fresh", fresh)):
        for piece in draws.split(pieces):
            collector.update(stage, piece)
        assert collector.wants(stage) == 0
    return collector.compute(center[0])


@given(arrays(float, (7, 2), elements=VALUES), arrays(float, (9, 2), elements=VALUES))
def test_a_bound_is_the_draw_of_its_rank_or_the_next_number_beyond_it(center, fresh):
    counts = counts_of(torch.from_numpy(center), torch.from_numpy(fresh)).counts
    for rank in range(1, 10):
        for column in range(2):
            ordered = np.sort(fresh[:, column])
            above, below = (np.append(center[:, column], ordered[end]) for end in (-1, 0))
            assert counts.upper(rank)[column] == above[above >= ordered[rank - 1]].min()
            assert counts.lower(rank)[column] == below[below <= ordered[-rank]].max()


def test_an_answer_is_an_order_statistic_of_each_coordinate():
    draws = torch.tensor([[3.0, 0.0], [1.0, 5.0], [2.0, 7.0], [9.0, 6.0]])
    assert counts_of(draws, draws).percentile.tolist() == [2.0, 5.0]


def test_outputs_of_any_shape_keep_it():
    smoother = Smoother(lambda x: x.reshape(-1, 2, 3), GaussianNoise(1.0), Percentile(), BUDGET)
    certificate = smoother.certify(torch.arange(6.0), 0.5, stream=STREAM)
    assert certificate.answer.shape == certificate.lower.shape == certificate.upper.shape == (2, 3)
    apart = torch.maximum(certificate.upper - certificate.answer, certificate.answer - certificate.lower)
    assert certificate.radius == pytest.approx(float(apart.max()), rel=1e-6)
    assert not certificate.vacuous
    answer = smoother.smooth(torch.arange(6.0), stream=STREAM)
    assert torch.equal(answer.answer, certificate.answer)


def test_a_declared_range_is_the_diameter():
    smoother = Smoother(torch.round, GaussianNoise(0.2), Percentile(), BUDGET, output_range=(-9.0, 9.0))
    certificate = smoother.certify(torch.tensor([0.5]), 0.1, stream=STREAM)
    assert (certificate.radius, certificate.vacuous) == (1.0, False)


def test_what_is_kept_does_not_grow_with_the_draws():
    def size(m: int) -> int:
        budget = replace(BUDGET, n=600, m=m)
        evidence = evidence_of(lambda x: x.repeat(1, 300), Percentile(), torch.zeros(1), budget)
        return sum(array.size for array in pack(evidence).values())

    assert size(1_000) == size(3_000) < 300 * 600 * 3


def test_few_values_cost_little():
    """The 200 values that 784 coordinates have room for are 0.06 apart in normal quantiles at most, or single draws."""
    ranks = kept_ranks(10_000, 784)
    steps = np.diff(ndtri(ranks / 10_000)[:-1])
    assert steps[np.diff(ranks)[:-1] > 1].max() < 0.06


# --- Requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0, 1, -0.5, math.nan, "half", True])
def test_a_percentile_outside_0_and_1_is_refused(q):
    with pytest.raises(RequestError, match=r"^q is .*: expected a number strictly between 0 and 1$"):
        Percentile(q=q)


@pytest.mark.parametrize("rule", Percentile.rules)
@pytest.mark.parametrize("coordinates", [1, 3])
def test_counts_that_are_too_few_are_told_with_those_that_would_do(rule, coordinates):
    def certify(m: int):
        evidence = evidence_of(lambda x: x, Percentile(), torch.zeros(coordinates), replace(BUDGET, m=m))
        return Percentile().certificate(evidence, 2.0, rule, setting(m=m))

    few = certify(20)
    assert (few.outcome, few.radius, few.answer, few.lower) == (Outcome.INFEASIBLE, None, None, None)
    least = int(few.reason.partition("m >= ")[2].split()[0])
    assert certify(least - 1).outcome is Outcome.INFEASIBLE
    assert certify(least).outcome is Outcome.CERTIFIED
    assert ("of 3 coordinates" in few.reason) == (coordinates == 3)


def test_a_size_that_no_number_of_draws_certifies_says_so():
    problem = Percentile().problem(setting(UniformNoise(1.0)), "order", 1.5)
    assert problem.endswith("too few for eps = 1.5 by order: no number a machine makes would do: use more noise")


def test_nan_is_refused():
    smoother = Smoother(lambda x: (x - 3).sqrt(), GaussianNoise(1.0), Percentile(), BUDGET)
    with pytest.raises(ModelError, match="NaN"):
        smoother.certify(torch.tensor([3.0]), 0.5, stream=STREAM)


def test_evidence_of_other_counts_is_refused():
    few = evidence_of(lambda x: x, Percentile(), torch.zeros(1), replace(BUDGET, m=100))
    with pytest.raises(RequestError, match=r"^there are 100 fresh draws: expected m = 3000$"):
        Percentile().certificate(few, 0.1, "order", setting(m=3000))


def test_integers_that_float64_rounds_are_refused():
    smoother = Smoother(lambda x: torch.full_like(x, 2**53 + 1, dtype=torch.int64), GaussianNoise(1.0), Percentile())
    with pytest.raises(RequestError, match=r"outputs are torch\.int64"):
        smoother.certify(torch.zeros(1), 0.1, stream=STREAM)


# --- Boxes ---------------------------------------------------------------------------------------------------------

BOUNDS = arrays(int, (3, 4), elements=st.integers(0, 4))


@given(BOUNDS)
def test_the_worst_jaccard_distance_is_that_of_the_worst_box(bounds):
    """Over all boxes with corners in steps of a half."""
    ordered = np.sort(bounds, axis=0).astype(float)
    lower, upper = torch.from_numpy(ordered[0]), torch.from_numpy(ordered[2])
    box = torch.from_numpy(np.sort(bounds[1].reshape(2, 2), axis=0).reshape(4).astype(float))
    inside = torch.tensor(list(product(*(np.arange(low, high + 0.5, 0.5) for low, high in ordered[[0, 2]].T))))
    proper = inside[(inside[:, :2] <= inside[:, 2:]).all(dim=1)]
    jaccard = Jaccard()
    distances = jaccard.pairwise(jaccard.features(proper), jaccard.features(box[None]))
    worst = worst_jaccard(box, lower, upper)
    if len(proper) == len(inside):
        assert worst == pytest.approx(float(distances.max()), abs=1e-12)
    else:
        assert worst == 1.0


def test_areas_beyond_float64_count_as_the_largest_distance():
    box = torch.tensor([5.0, 5, 11, 12], dtype=torch.float64) * 1e169
    assert worst_jaccard(box, box - 1e168, box + 1e168) == 1.0


def test_the_radius_of_a_box_is_that_of_its_interval():
    def boxes(x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([10.0, 10, 20, 20]) + x[:, :1] * torch.tensor([1.0, 0, 0.5, 0])

    smoother = Smoother(boxes, GaussianNoise(0.5), BoxPercentile(), BUDGET)
    certificate = smoother.certify(torch.zeros(1), 0.25, stream=STREAM)
    worst = worst_jaccard(certificate.answer, certificate.lower, certificate.upper)
    assert certificate.radius == pytest.approx(worst, rel=1e-9)
    assert certificate.radius >= worst
    assert 0.02 < worst < 0.15
    movement = Smoother(boxes, GaussianNoise(0.5), Percentile(), BUDGET).certify(torch.zeros(1), 0.25, stream=STREAM)
    assert torch.equal(movement.lower, certificate.lower)


def test_what_is_attacked_is_the_jaccard_distance_to_the_answer():
    answer, moved = torch.tensor([0.0, 0, 2, 2]), torch.tensor([[0.0, 0, 2, 2], [1.0, 0, 3, 2], [5.0, 5, 6, 6]])
    assert BoxPercentile().objective(answer)(moved).tolist() == pytest.approx([0, 2 / 3, 1])


def test_boxes_have_one_distance():
    with pytest.raises(RequestError, match=r"^L2 does not compare boxes: expected Jaccard\(\)$"):
        Smoother(lambda x: x, GaussianNoise(1.0), BoxPercentile(L2()))
