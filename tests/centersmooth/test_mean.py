"""Smoothing by expectation: its integrals against slow ones, whether it covers, and whether broken variants are caught.

Coverage is counted as in `test_coverage`: RUNS seeded runs, at most ``binom.isf(1e-9, RUNS, level)`` failures.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from unittest.mock import patch

import numpy as np
import pytest
import reference_expectation as reference
import torch
from gathering_support import gather_centers, gather_means
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import beta, binom, norm
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    Attack,
    Budget,
    CenterSmoother,
    Certificate,
    Cosine,
    DistanceFunction,
    GaussianNoise,
    Jaccard,
    Mean,
    MeanSmoother,
    Metric,
    ModelError,
    Noise,
    RandomStream,
    RequestError,
    SquaredL2,
    TotalVariation,
)
from centersmooth.certifiers import mean as mean_certifier
from centersmooth.certifiers.center.rules import ROUNDING
from centersmooth.certifiers.distances import DistanceSample
from centersmooth.certifiers.expectation import (
    Band,
    band_ranks,
    estimation_error,
    excess,
    global_movement,
    local_movement,
    reach,
    shifted,
)
from centersmooth.certifiers.mean import MeanEvidence
from centersmooth.draws import Draws
from centersmooth.gathering import Setting
from centersmooth.noise import L2Ball
from centersmooth.sampling import Sampler

RUNS, ALPHA = 300, 0.1
UNIT = GaussianNoise(1.0)
ORIGIN = torch.zeros(1)


def allowed(alpha: float, runs: int = RUNS) -> int:
    return int(binom.isf(1e-9, runs, alpha))


def step_at(threshold: float) -> Callable[[Tensor], Tensor]:
    """0 below the threshold, 1 above."""
    return lambda x: (x[:, :1] > threshold).float()


# --- the integrals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [0.1, 0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("beyond", [1e-9, 1e-5, 1e-3, 0.1, 0.5, 0.9, 0.999])
def test_excess_is_the_integral_and_never_below(beyond: float, h: float) -> None:
    """Against numerical integration of densities, which is right to about 1e-10."""
    exact = reference.excess(beyond, h)
    assert exact * (1 - 1e-9) <= float(excess(np.array([beyond]), h)[0]) <= exact * (1 + 1e-7) + 2e-15


def test_excess_at_its_ends() -> None:
    """No mass, all mass, no perturbation, and an eps so large that nothing is left but 2."""
    assert excess(np.array([0.0]), 1.0)[0] <= 1e-14
    assert excess(np.array([1.0]), 1.0)[0] == pytest.approx(2 * (2 * ndtr(0.5) - 1), rel=1e-8)
    assert (excess(np.linspace(0, 1, 5), 0.0) == 0).all()
    assert np.isfinite(excess(np.linspace(0, 1, 5), 50.0)).all()
    assert excess(np.array([0.5]), 50.0)[0] == pytest.approx(1.5, abs=0.51)


@given(h=st.floats(1e-6, 5), more=st.floats(0, 2), p=st.floats(0, 1), q=st.floats(0, 1))
@settings(max_examples=200)
def test_weights_rise_with_the_mass_and_with_eps(h: float, more: float, p: float, q: float) -> None:
    """What makes a band from one side enough, and one eps cover all smaller ones."""
    low, high = np.array([min(p, q)]), np.array([max(p, q)])
    for weight in (excess, shifted):
        assert weight(low, h)[0] <= weight(high, h)[0] * (1 + 3e-9) + 3e-15
        assert weight(low, h)[0] <= weight(low, h + more)[0] * (1 + 3e-9) + 3e-15


@pytest.mark.parametrize("h", [0.5, 1.0, 2.0])
def test_the_extremal_function_attains_the_bound(h: float) -> None:
    """``f = sign(L - 1) D`` with ``D`` 2 where ``|L - 1|`` is large and 1/2 elsewhere, from first principles."""
    upper = h / 2 + math.log1p(0.4) / h
    lower = h / 2 + math.log1p(-0.4) / h

    def mean(shift: float) -> float:
        far_up, far_down = ndtr(shift - upper), ndtr(lower - shift)
        near_up, near_down = ndtr(shift - h / 2) - far_up, ndtr(h / 2 - shift) - far_down
        return float(2 * (far_up - far_down) + 0.5 * (near_up - near_down))

    far = float(ndtr(-upper) + ndtr(lower))
    band = Band(np.array([0.0, 0.5, 2.0]), np.array([1.0, far]))
    assert mean(h) - mean(0.0) <= local_movement(band, h) <= (mean(h) - mean(0.0)) * (1 + 1e-7)


@pytest.mark.parametrize("h", [0.3, 1.0, 2.0])
def test_local_is_the_largest_movement_layer_by_layer(h: float) -> None:
    """A law of many distances, against the slow integral."""
    rng = np.random.default_rng(0)
    masses, distances = rng.dirichlet(np.ones(12)), np.sort(rng.exponential(size=12))
    beyond = np.append(1.0, 1 - masses.cumsum()[:-1])
    band = Band(np.append(0.0, distances), beyond.clip(min=0))
    assert local_movement(band, h) == pytest.approx(reference.movement(masses, distances, h), rel=1e-6)


@given(h=st.floats(0, 4), p=st.floats(0.01, 0.99))
def test_local_contains_global(h: float, p: float) -> None:
    """Knowing nothing, around the middle of the range, local is global; a step at h/2 attains both."""
    nothing = Band(np.array([0.0, 0.5]), np.array([1.0]))
    assert local_movement(nothing, h) == pytest.approx(global_movement(1.0, h), rel=1e-8, abs=1e-14)
    assert global_movement(1.0, h) >= ndtr(h / 2) - ndtr(-h / 2)
    assert local_movement(Band(np.array([0.0, 0.1, 0.5]), np.array([1.0, p])), h) <= local_movement(nothing, h) + 1e-12


# --- the range -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [L1(), L2(), TotalVariation()], ids=lambda m: m.name)
def test_no_output_is_beyond_the_reach(metric: Metric) -> None:
    """Corners of the range, checkerboards, and the corner that is farthest for vectors: attained there."""
    torch.manual_seed(0)
    center = torch.rand(2, 4, 5) * 2 - 1
    corners = torch.randint(0, 2, (500, 2, 4, 5)).float() * 2 - 1
    board = (torch.arange(4)[:, None] + torch.arange(5)) % 2 * 2.0 - 1
    corners = torch.cat([corners, board.expand(1, 2, 4, 5), -board.expand(1, 2, 4, 5), -center.sign()[None]])
    found = metric.pairwise(metric.features(corners), metric.features(center[None])).max()
    most = reach(metric, center, (-1.0, 1.0))
    assert float(found) <= most * (1 + 1e-6)
    if metric.name != "TotalVariation":
        assert float(found) == pytest.approx(most)
    assert most <= metric.diameter((2, 4, 5), (-1.0, 1.0))


# --- the band ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 7, 100, 4_000, 10**6])
def test_band_spends_no_more_than_its_alpha(m: int) -> None:
    """Each limit is exceeded with the probability the law of the order statistic says; together at most alpha."""
    ranks = band_ranks(m)
    assert ranks[0] == 1
    assert ranks[-1] == m
    assert (np.diff(ranks) > 0).all()
    band = Band.of(DistanceSample(m, ranks, np.linspace(1, 2, len(ranks))), 3.0, 0.01)
    spent = beta.sf(band.beyond[1:], m - ranks + 1, ranks).sum()
    assert 0.0099 < spent <= 0.01 or m == 1
    assert band.beyond[0] == 1
    assert (np.diff(band.beyond) <= 0).all()
    assert band.edges[-1] == 3.0


BandOf = Callable[[DistanceSample, float], Band]


def library(sample: DistanceSample, reach: float) -> Band:
    return Band.of(sample, reach, ALPHA)


def without_tail(sample: DistanceSample, reach: float) -> Band:
    """Nothing beyond the largest distance seen."""
    return Band.of(sample, float(sample.values[-1]), ALPHA)


def of_a_small_range(sample: DistanceSample, reach: float) -> Band:
    """A range that is believed without a look."""
    return Band.of(sample, 0.1, ALPHA)


def empirical(sample: DistanceSample, reach: float) -> Band:
    """The empirical distribution function at its word."""
    edges = np.concatenate([[0.0], sample.values, [reach]])
    return Band(edges, np.append(1.0, 1 - sample.ranks / sample.count))


def from_the_wrong_side(sample: DistanceSample, reach: float) -> Band:
    """DKW with its margin added to the distribution function where it has to be taken away."""
    margin = math.sqrt(-math.log(ALPHA) / (2 * sample.count))
    edges = np.concatenate([[0.0], sample.values, [reach]])
    return Band(edges, np.append(1.0, (1 - sample.ranks / sample.count - margin).clip(min=0)))


@pytest.mark.parametrize(
    ("threshold", "h", "m", "broken"),
    [
        (2.326, 1.0, 300, [empirical]),
        (3.0, 2.0, 500, [without_tail, of_a_small_range]),
        (0.5, 1.0, 100, [from_the_wrong_side]),
    ],
)
def test_movement_covers_a_rare_step(threshold: float, h: float, m: int, broken: list[BandOf]) -> None:
    """Also where most runs never see it at x. The bound on the movement of g is below the truth in few runs.

    With broken bands, from the same draws, it is in many.
    """
    truth = ndtr(h - threshold) - ndtr(-threshold)
    sampler = Sampler(step_at(threshold), UNIT, 500, 1_000, (0.0, 1.0))
    failed = dict.fromkeys([library, *broken], 0)
    for seed in range(RUNS):
        one = gather_means(sampler, {"": L2()}, Budget(n=200, m=m), ORIGIN, RandomStream(seed))[""]
        for band_of in failed:
            failed[band_of] += local_movement(band_of(one.distances, one.reach), h) < truth * (1 - 1e-6)
    assert failed.pop(library) <= allowed(ALPHA)
    assert min(failed.values()) > allowed(ALPHA)


def test_outputs_beyond_the_range_are_refused() -> None:
    """No range that is too small is believed."""
    smoother = MeanSmoother(step_at(0.0), L2(), UNIT, Budget(n=50, m=50), output_range=(0.0, 0.1))
    with pytest.raises(ModelError, match="outside the declared output_range"):
        smoother.certify(ORIGIN, 1.0, stream=RandomStream(0))


# --- the estimation error ------------------------------------------------------------------------------------------


def estimates(h: float, count: int, threshold: float, metric: Metric, bound: Callable[..., float]) -> int:
    """How often a mean at distance h is off by more than the bound; outputs of 3 equal steps in 3 coordinates."""
    mass, rng = float(ndtr(-threshold)), np.random.default_rng(1)
    farthest = 3.0 if metric.seminorm == "l1" else math.sqrt(3)
    band = Band(np.array([0.0, 0.0, farthest]), np.array([1.0, mass]))
    hits = rng.binomial(count, ndtr(h - threshold), size=2_000) / count
    return int((farthest * np.abs(hits - ndtr(h - threshold)) > bound(band, h, count, ALPHA, metric)).sum())


@pytest.mark.parametrize(("metric", "power"), [(L1(), 1), (L2(), 2), (TotalVariation(), 1)], ids=str)
@pytest.mark.parametrize("h", [0.0, 0.7])
def test_estimation_error_term_by_term(metric: Metric, power: int, h: float) -> None:
    """A third of the mass beyond 1, none beyond 3, both as at x'; for l1 the reach times the first moment."""
    band, count, alpha = Band(np.array([0.0, 1.0, 3.0]), np.array([1.0, 1 / 3])), 50, 0.01
    beyond = norm.cdf(norm.ppf(1 / 3) + h)
    first, second = 1 + 2 * beyond, 1 + 8 * beyond
    log, spread = math.log(1 / alpha), second if power == 2 else 3 * first
    linear = 3 * log / (3 * count)
    deviation = linear + math.sqrt(linear**2 + 2 * second * log / count)
    found = estimation_error(band, h, count, alpha, metric)
    assert math.sqrt(spread / count) + deviation < found < (math.sqrt(spread / count) + deviation) * (1 + 1e-8)


@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda m: m.name)
@pytest.mark.parametrize(("h", "threshold"), [(0.0, 0.0), (1.0, 2.0), (2.0, 3.0), (0.0, 3.0)])
@pytest.mark.parametrize("count", [1, 20, 2_000])
def test_estimation_error_covers(metric: Metric, h: float, threshold: float, count: int) -> None:
    """Frequent and rare steps, at x and where they have become frequent."""
    assert estimates(h, count, threshold, metric, estimation_error) <= allowed(ALPHA, 2_000)


def test_moments_of_the_wrong_input_are_caught() -> None:
    """The spread at x in place of the one at x'."""
    at_x = lambda band, h, count, alpha, metric: estimation_error(band, 0.0, count, alpha, metric)  # noqa: E731
    assert estimates(2.0, 2_000, 3.0, L2(), at_x) > allowed(ALPHA, 2_000)


def test_an_expected_error_without_its_deviation_is_caught() -> None:
    """Half of a bound."""

    def expected(band: Band, h: float, count: int, alpha: float, metric: Metric) -> float:
        return math.sqrt(band.integral(lambda p: shifted(p, h), power=2) / count) * 0.7

    assert estimates(0.0, 2_000, 0.0, L2(), expected) > allowed(ALPHA, 2_000)


# --- the statement: a run at x, a run at x' ------------------------------------------------------------------------


Certify = Callable[[MeanSmoother, MeanEvidence, float], Certificate]


def certified(smoother: MeanSmoother, evidence: MeanEvidence, h: float) -> Certificate:
    setting = Setting(smoother.noise, smoother.budget, (0.0, 1.0))
    return smoother.certifier.certificate(evidence, h, smoother.rule, setting)


def without_estimation_errors(smoother: MeanSmoother, evidence: MeanEvidence, h: float) -> Certificate:
    """Of the movement of g alone."""
    with patch.object(mean_certifier, "estimation_error", return_value=0.0):
        return certified(smoother, evidence, h)


def moved_too_far(h: float, threshold: float, *certify: Certify, **changes: object) -> list[int]:
    """How often a fresh mean at x' is farther from the center than certified."""
    budget = Budget(**{"n": 400, "m": 400, "alpha1": ALPHA, "alpha2": ALPHA, **changes})
    smoother = MeanSmoother(step_at(threshold), L1(), UNIT, budget, output_range=(0.0, 1.0), forward_block=400)
    sampler, metrics, far = Sampler(step_at(threshold), UNIT, 400, 400, (0.0, 1.0)), {"": L1()}, [0] * len(certify)
    for seed in range(RUNS):
        evidence = gather_means(sampler, metrics, budget, ORIGIN, RandomStream(seed))[""]
        answer = smoother.smooth(ORIGIN + h, stream=RandomStream(seed, point=1)).output
        for place, one in enumerate(certify):
            certificate = one(smoother, evidence, h)
            far[place] += smoother.distance(answer, certificate.answer) > certificate.radius
    return far


@pytest.mark.parametrize(("h", "threshold"), [(2.0, 1.0), (2.0, 3.0), (0.5, 1.5)])
def test_the_mean_moves_no_further_than_certified(h: float, threshold: float) -> None:
    """A step at h/2 moves by exactly the bound; the others by less or after few sightings at x."""
    assert moved_too_far(h, threshold, certified)[0] <= allowed(2 * ALPHA)


def test_missing_estimation_errors_are_caught() -> None:
    """Where the movement of g is attained."""
    covered, caught = moved_too_far(1.0, 0.5, certified, without_estimation_errors)
    assert covered <= allowed(2 * ALPHA) < caught


@pytest.mark.parametrize("rule", ["local", "global"])
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_radius_is_put_together_from_its_shares_of_alpha(rule: str, eps: float) -> None:
    """The band and the error at x have half of alpha2 each, the error at x' has alpha1."""
    metric, noise = L2(), GaussianNoise(0.5)
    budget = Budget(n=300, m=2_000, alpha1=0.01, alpha2=0.04)
    smoother = MeanSmoother(blurry, metric, noise, budget, rule=rule, output_range=(0.0, 1.0))
    stream, h = RandomStream(0), eps / noise.sigma
    certificate = smoother.certify(IMAGE, eps, stream=stream)
    one = gather_means(Sampler(blurry, noise, 128, 1_024, (0.0, 1.0)), {"": metric}, budget, IMAGE, stream)
    band = Band.of(one[""].distances, one[""].reach, 0.02)
    movement = global_movement(math.sqrt(30), h)
    movement = min(movement, local_movement(band, h)) if rule == "local" else movement
    errors = estimation_error(band, 0.0, 2_000, 0.02, metric) + estimation_error(band, h, 300, 0.01, metric)
    assert certificate.radius == pytest.approx((movement + errors) * (1 + ROUNDING), rel=1e-12)
    assert (certificate.alpha, certificate.certifier, certificate.rule) == (0.05, "mean", rule)
    assert certificate.about == "run"
    assert (certificate.reason, certificate.vacuous) == ("", False)


def test_evidence_has_the_distance_between_model_and_mean() -> None:
    """The smoothing error."""
    noise, stream, metric = GaussianNoise(0.5), RandomStream(0), L1()
    sampler = Sampler(lambda x: (x[:, :1] > 0.3).float(), noise, 128, 1_024, (0.0, 1.0))
    evidence = gather_means(sampler, {"": metric}, Budget(n=300, m=500), torch.ones(1), stream)[""]
    draws = torch.cat([outputs.clone() for outputs in sampler.draw(torch.ones(1), 500, stream, "fresh")])
    assert 0 < evidence.error == pytest.approx(1 - float(draws.double().mean()))


def test_a_bound_that_is_the_whole_space_is_vacuous() -> None:
    """Equal to the diameter counts."""
    distances = DistanceSample(4, np.arange(1, 5), np.zeros(4))
    evidence = MeanEvidence(ORIGIN.double(), ORIGIN, 0.0, distances, 1.0)
    setting = Setting(UNIT, Budget(n=4, m=4), (0.0, 1.0))
    certificate = Mean(L1()).certificate(evidence, 50.0, "global", setting)
    assert (certificate.radius, certificate.vacuous) == (1.0, True)


def test_understated_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of a third of the stated sigma: eps and sigma in different units."""
    monkeypatch.setattr(GaussianNoise, "sample", lambda self, x, count, draws: x + draws.normal((count, 1)) / 3)
    assert moved_too_far(1.0, 0.5, certified, n=2_000, m=2_000)[0] > allowed(2 * ALPHA)


# --- the smoother --------------------------------------------------------------------------------------------------

IMAGE = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(0))
KERNEL = torch.randn(30, 30, generator=torch.Generator().manual_seed(1)) / 5


def blurry(x: Tensor) -> Tensor:
    """A small network with outputs in [0, 1]."""
    return torch.sigmoid(x.flatten(1) @ KERNEL.to(x.dtype)).reshape(x.shape)


def smoother_of(metric: Metric, **rest: object) -> MeanSmoother:
    options = {"output_range": (0.0, 1.0), "forward_block": 64, **rest}
    return MeanSmoother(blurry, metric, GaussianNoise(0.5), Budget(n=200, m=1_000), **options)


@pytest.mark.parametrize("metric", [L1(), L2(), TotalVariation()], ids=lambda m: m.name)
def test_center_error_and_distances_are_those_of_the_draws(metric: Metric) -> None:
    """Against plain loops over the draws that center smoothing makes under the same stream."""
    stream, noise, budget = RandomStream(3), GaussianNoise(0.5), Budget(n=200, m=1_000, delta=0.2)
    sampler = Sampler(blurry, noise, 64, 128, (0.0, 1.0))
    first, fresh = (torch.cat(list(sampler.draw(IMAGE, k, stream, s))) for k, s in ((200, "center"), (1_000, "fresh")))
    one = gather_means(sampler, {"": metric}, budget, IMAGE, stream)[""]
    assert torch.allclose(one.center, fresh.double().mean(0), rtol=1e-12)
    reference = first.double().mean(0).float()
    plain = sorted(float(metric.pairwise(metric.features(o[None]), metric.features(reference[None]))) for o in fresh)
    assert np.allclose(one.distances.values, np.array(plain)[band_ranks(1_000) - 1], rtol=1e-5)
    evidence = gather_centers(sampler, {"": metric}, budget, IMAGE, stream)[""]
    assert torch.equal(one.base, evidence.base)
    assert (one.distances.values[-1], one.reach) >= (0, one.distances.values[-1])
    exact = metric.pairwise(metric.features(fresh), metric.features(reference[None]))[:, 0].double().sort().values
    assert one.distances.values.tolist() == exact.numpy()[band_ranks(1_000) - 1].tolist()


def test_draws_do_not_depend_on_the_batch_size() -> None:
    """The same certificates."""
    by_size = [
        smoother_of(L2(), batch_size=size).certify(IMAGE, [0.0, 0.3], stream=RandomStream(0)) for size in (64, 999)
    ]
    for a, b in zip(*by_size, strict=True):
        assert a.radius == b.radius
        assert torch.equal(a.answer, b.answer)


def test_radius_rises_with_eps_and_is_never_above_global() -> None:
    """At eps = 0 the two estimation errors are left; at the other end the output space."""
    many = [0.0, 0.1, 0.5, 1.0, 5.0]
    local = smoother_of(TotalVariation()).certify(IMAGE, many, stream=RandomStream(0))
    everywhere = smoother_of(TotalVariation(), rule="global").certify(IMAGE, many, stream=RandomStream(0))
    radii = [certificate.radius for certificate in local]
    assert radii == sorted(radii)
    assert radii[0] > 0
    assert all(a.radius <= b.radius for a, b in zip(local, everywhere, strict=True))
    assert everywhere[-1].vacuous
    assert {(c.rule, c.reason) for c in everywhere} == {("global", "")}


def test_where_the_draws_tell_nothing_the_bound_is_the_global_one() -> None:
    """And the certificate says so."""
    budget = Budget(n=10_000, m=1)
    smoother = MeanSmoother(step_at(0.5), L1(), UNIT, budget, output_range=(0.0, 1.0))
    certificate = smoother.certify(ORIGIN, 0.5, stream=RandomStream(0))
    assert "bounded as for any model: m = 1 draws tell too little" in certificate.reason


def test_an_attack_moves_the_mean_and_stays_below() -> None:
    """Further than chance does, less than certified; each run answers."""
    smoother = smoother_of(L2())
    certificate = smoother.certify(IMAGE, 0.5, stream=RandomStream(0))
    attacked = smoother.attack(IMAGE, certificate, Attack(steps=10), stream=RandomStream(1))
    still = smoother.distance(smoother.smooth(IMAGE, stream=RandomStream(2)).output, certificate.answer)
    assert (len(set(attacked.movements)), attacked.abstained) == (4, 0)
    assert 2 * still < max(attacked.movements) <= certificate.radius
    assert float((attacked.perturbed - IMAGE).norm()) <= 0.5
    again = smoother.attack(IMAGE, certificate, Attack(steps=10), stream=RandomStream(1))
    assert again.movements == attacked.movements


def test_what_is_attacked_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the mean distance to it."""
    asked = []
    monkeypatch.setattr(Attack, "perturb", lambda self, sampler, certifier, *rest: asked.append(certifier) or IMAGE)
    smoother = smoother_of(L2())
    certificate = smoother.certify(IMAGE, 0.5, stream=RandomStream(0))
    smoother.attack(IMAGE, certificate)
    assert [type(one) for one in asked] == [Mean]
    outputs = torch.stack([IMAGE, IMAGE + 2])
    assert float(asked[0].objective(IMAGE)(outputs)) == pytest.approx(float((IMAGE + 1 - IMAGE).norm()))


def test_every_pass_is_counted_as_it_is_made() -> None:
    """n draws to smooth, n + m to certify; `smooth` always answers."""
    smoother, seen = smoother_of(L2()), []
    smoothed = smoother.smooth(IMAGE, progress=seen.append)
    assert smoothed.abstained is False
    torch.testing.assert_close(smoothed.base, blurry(IMAGE[None])[0])
    assert sum(seen) == 200
    smoother.certify(IMAGE, 0.5, progress=seen.append)
    assert sum(seen) == 200 + 1_200


def test_both_smoothers_call_the_model_alike() -> None:
    """The same defaults, so that their draws are the same."""
    ours, theirs = (inspect.signature(kind.__init__).parameters for kind in (MeanSmoother, CenterSmoother))
    for name in ("forward_block", "batch_size"):
        assert ours[name].default == theirs[name].default


def test_an_attack_on_the_mean_finds_the_worst_direction() -> None:
    """A step at h/2 in the plane: the mean moves most along its normal, by 2 Phi(1/2) - 1."""
    smoother = MeanSmoother(step_at(0.5), L2(), UNIT, Budget(n=4_000, m=4_000), output_range=(0.0, 1.0))
    certificate = smoother.certify(torch.zeros(2), 1.0, stream=RandomStream(0))
    search = Attack("search", steps=60, restarts=2, draws=512)
    attacked = smoother.attack(torch.zeros(2), certificate, search, stream=RandomStream(1))
    assert max(attacked.movements) > 0.9 * (2 * ndtr(0.5) - 1)


@pytest.mark.parametrize(
    "metric", [SquaredL2(), Cosine(), Angular(), Jaccard(), DistanceFunction(lambda a, b: (a - b).abs().amax(1))]
)
def test_a_metric_without_a_mean_is_refused_with_its_reason(metric: Metric) -> None:
    """One line, before any draw, that says what to use."""
    with pytest.raises(RequestError, match=r"has no mean to smooth by: [^\n]+; use CenterSmoother$"):
        smoother_of(metric)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"output_range": None}, "hard limits"),
        ({"output_range": (0.0, math.inf)}, "hard limits"),
        ({"output_range": (-math.inf, 1.0)}, "hard limits"),
        ({"output_range": (1.0, 0.0)}, "two numbers"),
        ({"rule": "measured"}, "rule is 'measured': expected one of 'global', 'local', 'spectral' for mean"),
    ],
)
def test_bad_requests_are_one_line(changes: dict[str, object], expected: str) -> None:
    """What came, what was expected."""
    with pytest.raises(RequestError, match=expected) as caught:
        smoother_of(L2(), **changes)
    assert "\n" not in str(caught.value)


class Uniform(Noise):
    """Another law; its numbers do not matter here."""

    threat = L2Ball()
    scale = 1.0

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return x + draws.uniform((count, *x.shape))

    def required_mass(self, mass: float, eps: float) -> float:
        return 1.0

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        return 1.0


def test_candidates_other_noise_and_bad_eps_are_refused() -> None:
    """What only center smoothing has, and what has no likelihood ratio here."""
    for noise, n0, expected in (
        (UNIT, 30, "n0 is 30"),
        (Uniform(), 0, r"noise is Uniform\(\): the certificate of a mean needs Gaussian noise"),
    ):
        with pytest.raises(RequestError, match=expected):
            MeanSmoother(blurry, L2(), noise, Budget(n=9, m=9, n0=n0), output_range=(0.0, 1.0))
    for eps in (-1.0, math.nan, math.inf):
        with pytest.raises(RequestError, match="expected an l2 radius"):
            smoother_of(L2()).certify(IMAGE, eps)


class Bent(L1):
    """Features that are no affine function of the output."""

    def features(self, outputs: Tensor) -> Tensor:
        return super().features(outputs).square()


class Stretched(L1):
    """Features that leave the range they inherit."""

    def features(self, outputs: Tensor) -> Tensor:
        return 3 * super().features(outputs)


class Halved(L2):
    """Not the norm it declares."""

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return super().pairwise(a, b) / 2

    def self_rows(self, features: Tensor) -> Iterator[Tensor]:
        return (tile / 2 for tile in super().self_rows(features))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [(Bent(), "not affine"), (Stretched(), "leave their declared"), (Halved(), "not the l2 norm")],
)
def test_a_false_seminorm_is_refused(metric: Metric, expected: str) -> None:
    """Looked at on outputs of the model, before any certificate."""
    with pytest.raises(ModelError, match=expected):
        smoother_of(metric).certify(IMAGE, 0.1, stream=RandomStream(0))


def test_a_nan_raises() -> None:
    """At the first one."""
    smoother = MeanSmoother(lambda x: x.log(), L2(), UNIT, Budget(n=9, m=9), output_range=(0.0, 1.0))
    with pytest.raises(ModelError, match="NaN or infinity"):
        smoother.smooth(ORIGIN)
