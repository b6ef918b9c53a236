"""Do the certificates cover? Closed forms, and counted failures with broken variants that the same count catches.

Every statistical test counts the failures of RUNS, or MOVES, seeded runs whose failure probability is at most alpha.
It allows ``binom.isf(1e-9, runs, alpha)`` of them: a sound library fails a test with probability at most 1e-9, and, as
the seeds are fixed, always in the same way. ``alpha2 = 0.1`` is large so that unsound variants stand out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaincinv, ndtri
from scipy.stats import binom
from torch import Tensor

from centersmooth import L1, L2, Budget, CenterSmoother, DistanceFunction, GaussianNoise, RandomStream
from centersmooth.bounds import ExactBounds
from centersmooth.certifiers.center.rules import BOUNDS_OF, ROUNDING
from centersmooth.certifiers.center.search import least_median_center
from centersmooth.certifiers.distances import DistanceSample
from centersmooth.contracts import LinearModel
from centersmooth.draws import Draws
from centersmooth.gathering import Setting, gather_one
from centersmooth.sampling import Sampler

RUNS, ALPHA = 300, 0.1
MOVES = 100
"""Pairs of runs at x and x': with a slip of units, four of five move too far, and 47 of 100 may where alpha is 0.2."""

X = torch.tensor([0.3, -1.0, 0.5])
LINEAR = LinearModel(torch.tensor([2.0, -1.0, 0.5]))


def allowed(alpha: float, runs: int = RUNS) -> int:
    return int(binom.isf(1e-9, runs, alpha))


def failures(smoother: CenterSmoother, x: Tensor, eps: float, needed: Callable[[float], float]) -> int:
    """In how many runs the measured radius is below the one needed around that run's center."""
    failed = 0
    for seed in range(RUNS):
        certificate = smoother.certify(x, eps, stream=RandomStream(seed))
        if certificate.r_hat is not None:
            failed += certificate.r_hat < needed(float(certificate.answer)) * (1 - 1e-6)
    return failed


def linear_smoother(noise: GaussianNoise, rule: str = "exact", m: int = 250) -> CenterSmoother:
    budget = Budget(n=100, m=m, delta=0.15, alpha1=0.1, alpha2=ALPHA)
    return CenterSmoother(LINEAR, L2(), noise, budget, rule=rule, forward_block=256)


def radius_needed(eps: float, sigma: float, delta: float = 0.15) -> Callable[[float], float]:
    """Exact radius of mass S_h(1/2 + delta) around a center, for `LINEAR` at `X`."""
    mass = GaussianNoise(sigma).required_mass(0.5 + delta, eps)
    return lambda center: LINEAR.radius(center, mass, X, sigma)


CASES = [(0.1, 0.0), (0.25, 0.125), (0.25, 0.25), (2.0, 2.0)]


@pytest.mark.parametrize("sigma", sorted({sigma for sigma, _ in CASES}))
def test_radius_covers_the_closed_form(sigma: float) -> None:
    """R_hat is below the exact radius in at most alpha2 of the runs, for every eps and rule; from the same draws."""
    smoothers = {rule: linear_smoother(GaussianNoise(sigma), rule) for rule in ("paper", "exact")}
    needed = {eps: radius_needed(eps, sigma) for of, eps in CASES if of == sigma}
    failed, setting = Counter(), Setting(GaussianNoise(sigma), smoothers["exact"].budget)
    for seed in range(RUNS):
        certifier, budget, stream = smoothers["exact"].certifier, setting.budget, RandomStream(seed)
        evidence = gather_one(Sampler(LINEAR, setting.noise, 256, 256), certifier, budget, X, stream)
        for (rule, smoother), eps in product(smoothers.items(), needed):
            certificate = smoother.certifier.certificate(evidence, eps, rule, setting)
            if certificate.r_hat is not None:
                center = float(certificate.answer)
                failed[rule, eps] += certificate.r_hat < needed[eps](center) * (1 - 1e-6)
    assert max(failed.values()) <= allowed(ALPHA)


class UnderstatedNoise(GaussianNoise):
    """Draws less noise than it states: eps and sigma in different units."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return GaussianNoise(0.7 * self.sigma).sample(x, count, draws)


class NoConfidence(ExactBounds):
    """Takes the empirical quantile at its word."""

    def upper_rank(self, m: int, mass: float, alpha: float) -> int | None:
        return math.ceil(mass * m)


def test_less_noise_than_stated_is_caught() -> None:
    """The check above has the power to see a sigma that is 30% too small."""
    assert failures(linear_smoother(UnderstatedNoise(0.25)), X, 0.25, radius_needed(0.25, 0.25)) > allowed(ALPHA)


def test_a_missing_confidence_term_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above has the power to see an empirical quantile without its margin."""
    smoother = linear_smoother(GaussianNoise(0.25))
    monkeypatch.setitem(BOUNDS_OF, smoother.rule, NoConfidence())
    assert failures(smoother, X, 0.25, radius_needed(0.25, 0.25)) > allowed(ALPHA)


@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda m: m.name)
@pytest.mark.parametrize("rule", ["paper", "exact"])
@pytest.mark.parametrize(("sigma", "eps"), CASES)
def test_certificate_is_tight_and_covers_the_movement(sigma: float, eps: float, rule: str, metric) -> None:
    """Between 3 R at the mass required and 3 R at the upper confidence limit (1e-6) of the chosen rank's mass."""
    budget = Budget(n=1_000, m=20_000, delta=0.15, alpha1=1e-6, alpha2=1e-6)
    noise = GaussianNoise(sigma)
    smoother = CenterSmoother(LINEAR, metric, noise, budget, rule=rule, forward_block=4_000)
    certificate = smoother.certify(X, eps, stream=RandomStream(0))
    mass = smoother.noise.required_mass(0.65, eps)
    rank = BOUNDS_OF[rule].upper_rank(budget.m, mass, budget.alpha2)
    upper = float(betaincinv(rank, budget.m - rank + 1, 1 - 1e-6))
    center = float(certificate.answer)
    low, high = (3 * LINEAR.radius(center, p, X, sigma) for p in (mass, upper))
    assert low <= certificate.radius <= high * (1 + ROUNDING)
    assert certificate.radius >= LINEAR.movement(eps)
    assert upper < mass + 0.05


# --- An atom of 62% at 0 where 63% are required: the needed radius is 1, exactly -------------------------------------

THRESHOLD = float(ndtri(0.62))


def step(x: Tensor) -> Tensor:
    """0 with probability 0.62 under N(0, 1), else 1."""
    return (x > THRESHOLD).float()


def atom_failures() -> int:
    budget = Budget(n=40, m=5, delta=0.13, alpha1=0.1, alpha2=ALPHA)
    smoother = CenterSmoother(step, L1(), GaussianNoise(1.0), budget, forward_block=40)
    return failures(smoother, torch.zeros(1), 0.0, lambda center: 1.0)


def test_radius_covers_atoms() -> None:
    """With discrete outputs the order statistic still covers: 0 is returned in at most alpha2 of the runs."""
    assert 0 < atom_failures() <= allowed(ALPHA)


def test_an_interpolated_quantile_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halfway between the 4th and 5th of 5 distances is 1/2 as soon as four are 0: a radius that no ball has."""

    def interpolated(self: DistanceSample, rank: int) -> float:
        return float(np.interp(rank - 0.5, self.ranks, self.values))

    monkeypatch.setattr(DistanceSample, "at_rank", interpolated)
    assert atom_failures() > allowed(ALPHA)


# --- A metric under which a center can be chosen for its luck: d(a, b) in [1, 2], as good as independent ------------


def hashed(a: Tensor, b: Tensor) -> Tensor:
    """Any symmetric function with values in [1, 2] is a metric; this one is uniform over pairs of outputs."""
    low, high = torch.minimum(a, b)[:, 0], torch.maximum(a, b)[:, 0]
    return (low != high) * (1 + (torch.sin(low * 12_989.8 + high * 78_233.1) * 43_758.5453).remainder(1.0))


class AcceptAll(Budget):
    """Switches off the test of the center, which would catch most of the luck before the radius is looked at."""

    def accepts_center(self, inside: int, bounds: object) -> bool:
        return True


def hashed_failures() -> int:
    budget = AcceptAll(n=60, m=60, delta=0.13, alpha1=0.1, alpha2=ALPHA)
    metric = DistanceFunction(hashed)
    smoother = CenterSmoother(torch.Tensor.double, metric, GaussianNoise(1.0), budget, forward_block=60)
    return failures(smoother, torch.zeros(1), 0.0, lambda center: 1.63)


def test_fresh_samples_cover_under_a_lucky_center() -> None:
    """The center has the least of 60 medians, but fresh distances to it are uniform on [1, 2] all the same."""
    assert 0 < hashed_failures() <= allowed(ALPHA)


def test_reused_samples_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on the sample that chose the center, the radius is biased by that choice and does not cover."""
    draw = Sampler.draw

    def reused(self: Sampler, x: Tensor, count: int, stream: RandomStream, stage: str, **rest: object):
        return draw(self, x, count, stream, "center", **rest)

    monkeypatch.setattr(Sampler, "draw", reused)
    assert hashed_failures() > allowed(ALPHA)


# --- The median of the center's ball -------------------------------------------------------------------------------


def averaged_median(points: list[float]) -> float:
    """Least median distance with numpy's median, which averages two for even n: broken."""
    return min(float(np.median(np.abs(np.subtract(points, z)))) for z in points)


def library_median(points: list[float]) -> float:
    outputs = torch.tensor(points, dtype=torch.float64)[:, None]
    return least_median_center(L1(), outputs, L1().features(outputs)).radius


def least_ball(points: list[float]) -> float:
    """Least radius of any ball on the line, whatever its center, that holds ceil(n/2) points."""
    k, ordered = -(-len(points) // 2), sorted(points)
    return min((ordered[i + k - 1] - ordered[i]) / 2 for i in range(len(points) - k + 1))


@given(st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=12))
def test_center_is_a_2_approximation(points: list[float]) -> None:
    """Section 3.1: at most twice the radius of the least ball, with ties, duplicates, odd and even n."""
    assert least_ball(points) <= library_median(points) <= 2 * least_ball(points)


def test_an_averaged_median_is_no_2_approximation() -> None:
    """On {0, 0, 10, 10} the least ball has radius 0, and averaging says 5: the check above catches it."""
    points = [0.0, 0.0, 10.0, 10.0]
    assert library_median(points) == least_ball(points) == 0
    assert averaged_median(points) == 5


# --- The statement itself: two runs, at x and at x' ----------------------------------------------------------------


def moved_too_far(smoother: CenterSmoother, x: Tensor, *shifts: Tensor) -> int:
    """How often a fresh run at x + shift answers farther from the center than the certificate at x says.

    The most of several shifts, which are of one length.
    """
    far = [0] * len(shifts)
    for seed in range(MOVES):
        certificate = smoother.certify(x, float(shifts[0].norm()), stream=RandomStream(seed))
        for place, shift in enumerate(shifts):
            answer = smoother.smooth(x + shift, stream=RandomStream(seed, point=1)).output
            if certificate.radius is not None and answer is not None:
                far[place] += smoother.distance(answer, certificate.answer) > certificate.radius
    return max(far)


def step_smoother(noise: GaussianNoise, threshold: float, n0: int = 0) -> CenterSmoother:
    budget = Budget(n=40, m=30, delta=0.13, alpha1=0.1, alpha2=ALPHA, n0=n0)
    return CenterSmoother(lambda x: (x[:, :1] > threshold).float(), L1(), noise, budget, forward_block=40)


@pytest.mark.parametrize(("threshold", "n0"), [(0.45, 0), (0.84, 0), (0.84, 8), (1.5, 0)])
def test_smoothed_output_moves_no_further_than_certified(threshold: float, n0: int) -> None:
    """A step from 0 to 1 near x, so that a certificate of 0 may be wrong; fresh streams at x'."""
    smoother = step_smoother(GaussianNoise(1.0), threshold, n0)
    spent = smoother.certify(torch.zeros(2), 0.5, stream=RandomStream(0)).alpha
    shifts = torch.tensor([[0.5, 0.0], [0.3, -0.4], [-0.5, 0.0]])
    assert moved_too_far(smoother, torch.zeros(2), *shifts) <= allowed(spent, MOVES)


def test_linear_output_moves_no_further_than_certified() -> None:
    """The worst direction for a linear model; the certificate is far from tight here, so no run may fail."""
    shift = 0.25 * LINEAR.weight / LINEAR.weight.norm()
    assert moved_too_far(linear_smoother(GaussianNoise(0.25)), X, shift) == 0


def test_a_slip_of_units_is_caught_at_the_perturbed_input() -> None:
    """Noise of a fifth of the stated sigma: the step is not seen at x, certified as 0, and taken at x'."""

    class UnitSlip(GaussianNoise):
        def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
            return GaussianNoise(self.sigma / 5).sample(x, count, draws)

    far = moved_too_far(step_smoother(UnitSlip(1.0), 0.45), torch.zeros(2), torch.tensor([0.5, 0.0]))
    assert far > allowed(0.2, MOVES)
