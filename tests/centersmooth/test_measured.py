"""``far: measured``: its ranks against brute force, its table against plain loops, and whether single steps cover.

Coverage is counted as in `test_coverage`: seeded runs, at most ``binom.isf(1e-9, runs, level)`` failures, and broken
variants that have to fail more often. `test_known_laws` counts those of the whole rule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gathering_support import gather_centers
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import UNIT, H, cauchy
from reference_far import far_radius, far_radius_apart, spent_at_x, spent_at_x_prime
from scipy.special import ndtr, ndtri
from scipy.stats import binom, norm

from centersmooth import L1, Budget, Center, CenterSmoother, GaussianNoise, Metric, RandomStream, Smoother, SquaredL2
from centersmooth.bounds import EXACT
from centersmooth.certifiers.center import measured
from centersmooth.certifiers.center.measured import FarRanks, far_ranks, masses_of_a_run
from centersmooth.certifiers.center.quantiles import QuantileTable, near_ranks, place_ranks, smallest, sorted_by_torch
from centersmooth.certifiers.center.rules import ROUNDING, far_problem
from centersmooth.certifiers.center.search import best_candidate, least_median_center
from centersmooth.contracts import LinearModel
from centersmooth.sampling import Sampler

BUDGETS = [
    Budget(),
    Budget(n=2_000, m=4_000, delta=0.08),
    Budget(n=1_500, m=2_000, delta=0.08, n0=30),
    Budget(n=100, m=250, delta=0.15, alpha1=0.1, alpha2=0.1),
    Budget(n=101, m=250, delta=0.15, alpha1=0.02, alpha2=0.3, n0=20),
]


# --- the ranks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [0.0, 0.3, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("budget", BUDGETS, ids=lambda b: f"{b.n}-{b.n0}")
def test_ranks_spend_no_more_than_the_budget_allows(budget: Budget, h: float) -> None:
    """From the theorem, term by term: half of alpha1 at x', and alpha2 together with the radius at x."""
    ranks = far_ranks(budget, UNIT, h)
    if ranks is None:
        assert h >= 1
        return
    masses = masses_of_a_run(budget)
    assert spent_at_x_prime(budget.n, budget.n0, *masses) <= budget.alpha1 / 2
    a_t, a_j = spent_at_x(budget.n, budget.n0, *masses, h, ranks.near, ranks.place)
    a_r = binom.sf(ranks.radius - 1, budget.m, ndtr(ndtri(0.5 + budget.delta) + h))
    assert a_t + a_j <= budget.alpha2 / 2
    assert a_r <= budget.alpha2 / 2


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda b: f"{b.n}-{b.n0}")
def test_ranks_waste_little(budget: Budget) -> None:
    """One rank lower, of either kind, would spend more than there is: the constants are not padded."""
    ranks, masses = far_ranks(budget, UNIT, 0.3), masses_of_a_run(budget)
    assert spent_at_x_prime(budget.n, budget.n0, *masses) > 0.9 * budget.alpha1 / 2
    lower = spent_at_x(budget.n, budget.n0, *masses, 0.3, ranks.near, ranks.place - 3)
    assert sum(lower) > budget.alpha2 / 2
    lower = spent_at_x(budget.n, budget.n0, *masses, 0.3, ranks.near - 5, ranks.place)
    assert sum(lower) > budget.alpha2 / 2


@given(h=st.floats(0, 2), step=st.floats(0, 0.5))
@settings(max_examples=30)
def test_ranks_never_fall_as_eps_grows(h: float, step: float) -> None:
    """The larger eps asks for more mass; a pair that serves it serves the smaller one as well."""
    less, more = (far_ranks(BUDGETS[1], UNIT, value) for value in (h, h + step))
    if more is not None:
        masses = masses_of_a_run(BUDGETS[1])
        assert less.radius <= more.radius
        assert sum(spent_at_x(2_000, 0, *masses, h, more.near, more.place)) <= BUDGETS[1].alpha2 / 2


@pytest.mark.parametrize("budget", [Budget(n=1, m=10**6, delta=0.4), Budget(n=2, m=10**6, delta=0.4)])
def test_a_tiny_sample_measures_nothing(budget: Budget) -> None:
    """Too few points for a median to say anything: beforehand, with a sentence."""
    assert far_ranks(budget, UNIT, 0.0) is None
    assert "doubled, not measured" in far_problem(budget, UNIT, 0.0)


@pytest.mark.parametrize("n", range(3, 40))
def test_small_samples_are_sound_or_refused(n: int) -> None:
    """Where the masses leave the range of the formulas there is no rank, never an invalid one."""
    for n0 in (0, 1, 5):
        budget = Budget(n=n, m=500, delta=0.45, alpha1=0.1, alpha2=0.1, n0=n0)
        for h in (0.0, 0.5):
            ranks = far_ranks(budget, UNIT, h)
            if ranks is not None:
                masses = masses_of_a_run(budget)
                assert spent_at_x_prime(n, n0, *masses) <= 0.05
                assert sum(spent_at_x(n, n0, *masses, h, ranks.near, ranks.place)) <= 0.05


# --- the table -----------------------------------------------------------------------------------------------------


@given(others=st.integers(0, 20_000), candidates=st.integers(1, 20_000))
def test_kept_ranks_ascend_end_with_the_largest_and_are_few(others: int, candidates: int) -> None:
    """Whatever is asked for, something at or above it was kept; 50 kB at most."""
    near, place = near_ranks(others), place_ranks(candidates)
    for ranks, largest in ((near, others), (place, candidates)):
        assert (np.diff(ranks) > 0).all()
        assert ranks[-1] == largest
    assert near[0] <= others / 2 + 1
    assert place[0] == 1
    assert 4 * len(near) * len(place) <= 50_000


@pytest.mark.parametrize("kept_ranks", [near_ranks, place_ranks])
def test_ranks_that_every_caller_shares_cannot_be_changed(kept_ranks: Callable[[int], np.ndarray]) -> None:
    with pytest.raises(ValueError, match="read-only"):
        kept_ranks(100)[0] = 7


@given(st.data())
@settings(max_examples=60)
def test_a_rank_that_was_not_kept_is_raised(data: st.DataObject) -> None:
    """At or above the true order statistic, and exactly the one of the next kept ranks; ties among them."""
    n = data.draw(st.integers(2, 150))
    matrix = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 12, (n, n)) / 3.0
    near, place = data.draw(st.integers(n // 2, n)), data.draw(st.integers(1, n))
    table = QuantileTable.of(smallest(torch.from_numpy(matrix), near_ranks(n)), n)

    def exact(k: int, j: int) -> float:
        return float(np.sort(np.sort(matrix, axis=1)[:, k - 1])[j - 1])

    value, raised = table.at(near, place), exact(*kept(n, n, near, place))
    assert exact(near, place) <= raised <= value == pytest.approx(raised, rel=1e-6)


def kept(others: int, candidates: int, near: int, place: int) -> list[int]:
    """The ranks that are read for those asked for."""
    pairs = ((near_ranks(others), near), (place_ranks(candidates), place))
    return [int(ranks[np.searchsorted(ranks, asked)]) for ranks, asked in pairs]


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=20))
def test_values_are_rounded_up_to_float32(values: list[float]) -> None:
    """Never below, by one step of float32 at most; infinite where float32 ends, which certifies nothing."""
    column = np.array(values)[:, None]
    table = QuantileTable.of(column, 0)
    ordered = np.sort(values)[place_ranks(len(values)) - 1]
    assert (table.values[0].astype(float) >= ordered).all()
    finite = np.isfinite(table.values[0])
    assert (table.values[0].astype(float) <= ordered * (1 + 2**-22) + 1e-44)[finite].all()


def test_what_is_a_float32_already_is_kept() -> None:
    """Distances that were computed in float32."""
    values = np.array([0.0, 1.0, 0.1], dtype=np.float32).astype(np.float64)
    assert QuantileTable.of(values[:, None], 0).values[0].tolist() == sorted(values.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_device_other_than_the_cpu_selects_the_same_ranks(dtype: torch.dtype) -> None:
    """Both ways of sorting, here on one device."""
    rows = torch.rand(300, 50, generator=torch.Generator().manual_seed(0), dtype=dtype)
    ranks = np.array([1, 2, 25, 50])
    assert np.array_equal(sorted_by_torch(rows, ranks), smallest(rows, ranks))
    assert np.array_equal(smallest(rows, ranks)[7], np.sort(rows[7].double().numpy())[[0, 1, 24, 49]])


def test_a_table_of_other_counts_is_refused() -> None:
    """Evidence of another shape is not read as if it were ours."""
    with pytest.raises(ValueError, match="expected"):
        QuantileTable(30, 100, np.zeros((3, 3), dtype=np.float32))


POINTS = torch.randn(61, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64).exp()


def plain(a: object, b: object) -> float:
    return float((a - b).abs().sum())


@pytest.mark.parametrize(("near", "place"), [(30, 1), (41, 7), (60, 61), (55, 20)])
def test_table_of_a_sample_leaves_the_point_itself_out(near: int, place: int) -> None:
    """As plain loops over the other points of the sample say."""
    center = least_median_center(L1(), POINTS, POINTS)
    spread = QuantileTable.of(center.nearest, center.others)
    assert (spread.candidates, spread.others) == (61, 60)
    expected = far_radius(list(POINTS), plain, *kept(60, 61, near, place))
    assert spread.at(near, place) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "n0"), [("sample", 0), ("free", 0), ("sample", 20)])
def test_an_answer_alone_has_the_same_center_and_no_tables(kind: str, n0: int) -> None:
    budget, sampler = Budget(60, 90, 0.2, 0.1, 0.1, n0), Sampler(LINEAR, GaussianNoise(SIGMA), 30, 30)
    whole, answer = (
        gather_centers(sampler, {"d": L1()}, budget, X, RandomStream(3), far=far, kind=kind)["d"]
        for far in (True, False)
    )
    assert torch.equal(answer.center, whole.center)
    assert (answer.r_center, answer.error, answer.inside) == (whole.r_center, whole.error, whole.inside)
    assert (answer.candidates, answer.blocks, answer.far) == (None, None, None)
    assert whole.candidates is not None
    assert (whole.blocks is not None) == (kind == "free")


@pytest.mark.parametrize(("near", "place"), [(26, 1), (41, 7), (51, 10)])
def test_table_of_candidates_drawn_apart(near: int, place: int) -> None:
    """Smooth-HD: ten candidates, 51 other points."""
    candidates, sample = POINTS[:10], POINTS[10:]
    center = best_candidate(L1(), candidates, candidates, L1().pairwise(sample, candidates))
    spread = QuantileTable.of(center.nearest, center.others)
    assert (spread.candidates, spread.others) == (10, 51)
    expected = far_radius_apart(list(candidates), list(sample), plain, *kept(51, 10, near, place))
    assert spread.at(near, place) == pytest.approx(expected, rel=1e-6)


# --- coverage: the candidates that T relies on, at the level of that one step ----------------------------------------

RUNS = 150


def allowed(level: float, runs: int) -> int:
    return int(binom.isf(1e-9, runs, level))


STEP = Budget(n=130, m=130, delta=0.2, alpha1=0.1, alpha2=0.2)
HUBS = UNIT.required_mass(masses_of_a_run(STEP)[0], H) * (1 - 1e-9)


def read(table: QuantileTable, place: int) -> float:
    return table.at(table.others, place)


def interpolated(table: QuantileTable, place: int) -> float:
    """Halfway between two order statistics."""
    return (read(table, place - 1) + read(table, place)) / 2


def all_of_alpha2(table: QuantileTable, place: int) -> float:
    """Spends on this step alone what all three of them may spend together."""
    return read(table, EXACT.upper_rank(STEP.n, HUBS, STEP.alpha2))


def test_place_covers_at_its_share_of_alpha2_and_broken_places_are_caught() -> None:
    """How often T is below 2, which hubs of a mass just below the required one do not justify.

    A hub has all others within 1, a leaf only few; so T is 1 as soon as enough of the candidates are hubs. This step
    has a quarter of alpha2, and spends almost all of it: an interpolated order statistic, or a failure probability that
    is spent twice, fails more often.
    """
    runs, place = 6_000, EXACT.upper_rank(STEP.n, HUBS, STEP.alpha2 / 4)
    failed = Counter()
    for hubs in np.random.default_rng(0).random((runs, STEP.n)) < HUBS:
        nearest = np.where(hubs, 1.0, 2.0)[:, None] * np.ones(len(near_ranks(STEP.n - 1)))
        table = QuantileTable.of(nearest, STEP.n - 1)
        for pick in (read, interpolated, all_of_alpha2):
            failed[pick] += pick(table, place) < 2
    assert 0 < failed[read] <= allowed(STEP.alpha2 / 4, runs)
    assert failed[interpolated] > allowed(STEP.alpha2 / 4, runs)
    assert failed[all_of_alpha2] > allowed(STEP.alpha2 / 4, runs)


# --- coverage: a linear model in closed form -----------------------------------------------------------------------

X = torch.tensor([0.3, -1.0, 0.5])
LINEAR = LinearModel(torch.tensor([2.0, -1.0, 0.5]))
SIGMA, EPS = 0.25, 0.25
TIGHT = Budget(n=400, m=400, delta=0.2, alpha1=0.1, alpha2=0.1)


def needed_far_radius() -> float:
    """The least ``T`` the theorem allows: candidates of the required mass lie within ``rho`` of the mean."""
    noise, mean = GaussianNoise(SIGMA), float(X @ LINEAR.weight)
    candidate_mass, near_mass = (noise.required_mass(mass, EPS) for mass in masses_of_a_run(TIGHT))
    rho = LINEAR.radius(mean, candidate_mass, X, SIGMA)
    return LINEAR.radius(mean + rho, near_mass, X, SIGMA)


def test_far_radius_covers_the_closed_form_and_ranks_without_confidence_do_not() -> None:
    """``T`` is below the radius the theorem needs in at most alpha2/2 of the runs.

    With the empirical shares for the masses it is in about half of them.
    """
    noise = GaussianNoise(SIGMA)
    sampler, ranks = Sampler(LINEAR, noise, 400, 400), far_ranks(TIGHT, noise, EPS)
    place, near = (math.ceil(noise.required_mass(mass, EPS) * TIGHT.n) for mass in masses_of_a_run(TIGHT))
    needed, failed, failed_without = needed_far_radius(), 0, 0
    for seed in range(RUNS):
        table = gather_centers(sampler, {"d": L1()}, TIGHT, X, RandomStream(seed))["d"].candidates
        failed += table.at(ranks.near, ranks.place) < needed
        failed_without += table.at(near, place) < needed
    assert failed <= allowed(TIGHT.alpha2 / 2, RUNS)
    assert failed_without > allowed(TIGHT.alpha2 / 2, RUNS)


# --- the certificate -----------------------------------------------------------------------------------------------


def certificates(metric: Metric, **rest: object) -> list:
    smoother = CenterSmoother(LINEAR, metric, GaussianNoise(SIGMA), TIGHT, forward_block=400, **rest)
    return smoother.certify(X, [0.0, 0.125, 0.25, 0.3], stream=RandomStream(0))


@pytest.mark.parametrize("metric", [L1(), SquaredL2()], ids=lambda m: m.name)
def test_radius_is_put_together_in_roots(metric: Metric) -> None:
    """``(r_hat^(1/p) + r_far^(1/p))^p``, rounded outward; below the doubled one, above the exact movement."""
    for ours, doubled in zip(certificates(metric), certificates(metric, rule="exact"), strict=True):
        roots = [value ** (1 / metric.power) for value in (ours.r_hat, ours.r_far)]
        assert ours.radius == pytest.approx(sum(roots) ** metric.power * (1 + ROUNDING), rel=1e-9)
        assert ours.radius < doubled.radius
        assert ours.r_hat >= doubled.r_hat
        assert ours.radius > LINEAR.movement(ours.eps) ** metric.power
        assert (ours.rule, doubled.rule, ours.beta, doubled.beta) == ("measured", "exact", None, 2**metric.power)


@pytest.mark.parametrize("block", [1, 4])
def test_ranks_are_compared_by_where_they_lie_in_two_normal_laws(block: int) -> None:
    """``z_u + z_v / sqrt(L (L + 2))``, each rank at the middle of its step."""
    cost = measured._cost(FarRanks(near=80, place=3, radius=1), 20, 100, block)
    expected = norm.ppf(79.5 / 100) + norm.ppf(2.5 / 20) / math.sqrt(block * (block + 2))
    assert cost == pytest.approx(expected, rel=1e-12)


def test_one_set_of_draws_serves_both_rules() -> None:
    """Nothing is drawn for ``T``: the center and its radius are the same, so are the abstentions."""
    for ours, doubled in zip(certificates(L1()), certificates(L1(), rule="exact"), strict=True):
        assert torch.equal(ours.answer, doubled.answer)
        assert (ours.r_center, ours.outcome, ours.alpha) == (doubled.r_center, doubled.outcome, doubled.alpha)


def test_far_radius_is_never_above_the_doubled_one() -> None:
    """Where few candidates are near the rest, ``T`` is large, and twice r_hat holds as well."""
    budget = Budget(n=200, m=4_000, delta=0.2, alpha1=0.02, alpha2=0.02, n0=12)
    smoother = CenterSmoother(cauchy, L1(), UNIT, budget, forward_block=200)
    found = [c for seed in range(20) for c in smoother.certify(torch.zeros(1), [0.25, 0.75], stream=RandomStream(seed))]
    answered = [c for c in found if c.radius is not None]
    assert {c.beta for c in answered} == {None, 2.0}
    assert all(c.r_far <= 2 * c.r_hat for c in answered)


def test_falls_back_to_doubled_before_any_draw() -> None:
    """At an eps for which the candidates are too few the certificate is the doubled one, to the last digit."""
    budget = Budget(n=100, m=2_000, delta=0.2, alpha1=0.1, alpha2=0.1)
    pair = [CenterSmoother(LINEAR, L1(), GaussianNoise(SIGMA), budget, rule=rule) for rule in ("measured", "exact")]
    ours, doubled = (smoother.certify(X, 2 * SIGMA, stream=RandomStream(0)) for smoother in pair)
    assert (ours.radius, ours.r_hat, ours.beta) == (doubled.radius, doubled.r_hat, 2.0)
    assert "doubled, not measured" in ours.reason
    assert doubled.reason == ""


def test_the_default_rule_is_the_sharpest() -> None:
    """The paper's inequalities, the binomial law, and what was measured: all double but the last."""
    default = CenterSmoother(LINEAR, L1(), GaussianNoise(SIGMA), TIGHT)
    assert default.rule == "measured" == Smoother(LINEAR, GaussianNoise(SIGMA), Center(L1()), TIGHT).rule
    by_rule = [certificates(L1(), rule=rule)[1] for rule in ("paper", "exact", "measured")]
    radii = [certificate.radius for certificate in by_rule]
    assert radii == sorted(set(radii), reverse=True)
    assert [certificate.beta for certificate in by_rule] == [2.0, 2.0, None]


def test_ranks_do_not_outlive_a_change_of_the_noise() -> None:
    """They are looked up by the masses they stand for, not by an object that may have changed."""

    class Mutable:
        sigma = 1.0

        def required_mass(self, mass: float, eps: float) -> float:
            return GaussianNoise(self.sigma).required_mass(mass, eps)

    noise = Mutable()
    before = far_ranks(BUDGETS[0], noise, 0.5)
    noise.sigma = 0.5
    assert far_ranks(BUDGETS[0], noise, 0.5) == far_ranks(BUDGETS[0], UNIT, 1.0) != before
    assert far_ranks(BUDGETS[0], UNIT, 0.5) == before


def test_masses_of_a_run_are_masses_whatever_the_alpha() -> None:
    for alpha in (0.4, 1e-3, 1e-30, 1e-300):
        masses = masses_of_a_run(Budget(n=4, m=10, delta=0.4, alpha1=alpha))
        assert all(0 < mass <= 1 for mass in masses)


def test_a_measured_radius_needs_no_reason() -> None:
    assert far_problem(Budget(), UNIT, 1.0) == ""
