"""The rule `spectral` of means: its bound against slow integrals, its coverage, and broken variants that are caught.

Coverage is counted as in `test_coverage`: RUNS seeded runs, at most ``binom.isf(1e-9, RUNS, level)`` failures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference_spectral as reference
import torch
from gathering_support import gather_means
from reference_expectation import density
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import binom
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Budget,
    GaussianNoise,
    Mean,
    MeanSmoother,
    Metric,
    RandomStream,
    RequestError,
    Smoother,
    TotalVariation,
)
from centersmooth.certifiers import pack, spectral, unpack
from centersmooth.certifiers.expectation import (
    Band,
    estimation_error,
    excess,
    global_movement,
    level,
    local_movement,
    shifted,
)
from centersmooth.certifiers.mean import MEAN_RULES, MeanEvidence
from centersmooth.certifiers.spectral import (
    Directions,
    DirectionsCollector,
    excess_above,
    expected_square,
    kl_upper,
    spectral_movement,
    top_eigenvalue,
)
from centersmooth.gathering import Setting, Shared, passes
from centersmooth.sampling import Sampler

RUNS, ALPHA = 200, 0.1
UNIT = GaussianNoise(1.0)
ENOUGH = 10**12
"""Draws after which a second moment is known."""


def allowed(alpha: float, runs: int = RUNS) -> int:
    return int(binom.isf(1e-9, runs, alpha))


# --- models whose mean moves as far as the bound says ---------------------------------------------------------------
# Noise in coordinate 0 is what an attack shifts; the other coordinates choose independent directions.

MU = 0.7


def pull(t: Tensor, h: float) -> Tensor:
    """The part of an output of distance 1 that lies in the direction of the attack: ``clip((L - 1) / 2 MU, -1, 1)``."""
    return (torch.expm1(h * t - h * h / 2) / (2 * MU)).clamp(-1, 1)


def on_the_sphere(h: float) -> Callable[[Tensor], Tensor]:
    """Outputs of l2 norm 1: `pull` along the first axis, the rest along a random direction of the others."""

    def model(x: Tensor) -> Tensor:
        y = pull(x[:, :1], h)
        return torch.cat([y, (1 - y**2).sqrt() * torch.nn.functional.normalize(x[:, 1:], dim=1)], dim=1)

    return model


def of_signs(h: float) -> Callable[[Tensor], Tensor]:
    """Outputs of l1 norm 1: equal sizes, each sign up with probability ``(1 + pull) / 2``, alternately turned."""

    def model(x: Tensor) -> Tensor:
        k = x.shape[1] - 1
        up = torch.special.ndtr(x[:, 1:]) < (1 + pull(x[:, :1], h)) / 2
        return (2 * up.to(x.dtype) - 1) * (1 - 2 * (torch.arange(k) % 2)) / k

    return model


def moves(h: float) -> float:
    """How far both means move within ``h``: ``E(L - 1) pull``."""
    at = lambda t: float(pull(torch.tensor(t, dtype=torch.float64), h))  # noqa: E731
    return quad(lambda t: (density(t - h) - density(t)) * at(t), -10, 12, epsabs=1e-12, limit=500)[0]


def second_moment(h: float) -> float:
    """``E pull^2``."""
    at = lambda t: float(pull(torch.tensor(t, dtype=torch.float64), h))  # noqa: E731
    return quad(lambda t: density(t) * at(t) ** 2, -10, 10, epsabs=1e-12, limit=500)[0]


# --- the bound -----------------------------------------------------------------------------------------------------


def above(beyond: np.ndarray, least: np.ndarray, h: float) -> np.ndarray:
    return excess_above(beyond, level(beyond, h), least, h)


@pytest.mark.parametrize("h", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("least", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("beyond", [1e-5, 1e-3, 0.1, 0.5, 0.9])
def test_excess_above_is_the_integral_and_never_below(beyond: float, least: float, h: float) -> None:
    """Against numerical integration of densities."""
    exact = reference.excess_above(beyond, least, h)
    found = float(above(np.array([beyond]), np.array([least]), h)[0])
    assert exact * (1 - 1e-9) <= found <= exact * (1 + 1e-7) + 3e-15


def test_excess_above_at_its_ends() -> None:
    """From 0 it is `excess`; no mass, an eps at which the level overflows, and a tiny one."""
    masses = np.array([1e-12, 0.01, 0.5, 1.0])
    np.testing.assert_allclose(above(masses, np.zeros(4), 1.0), excess(masses, 1.0), rtol=1e-8, atol=2e-14)
    assert 0 < above(np.zeros(1), np.zeros(1), 1.0)[0] < 1e-12
    for h in (1e-9, 30.0, 100.0):
        found = above(masses, np.full(4, 0.5), h)
        assert (found <= excess(masses, h) * (1 + 1e-8) + 3e-15).all()
        assert 0 <= above(np.zeros(1), np.zeros(1), h)[0] <= 2


def test_the_bound_is_that_of_the_slow_integrals() -> None:
    """A law of distances inside and beyond the truncation."""
    rng = np.random.default_rng(0)
    masses, distances = np.append(0.97 * rng.dirichlet(np.ones(4)), 0.03), np.array([0.2, 0.5, 0.7, 1.0, 3.0])
    band = Band(np.append(0.0, distances), np.append(1.0, 1 - masses.cumsum()[:-1]))
    for h, second in ((0.5, 0.02), (1.0, 0.1)):
        exact = reference.movement(masses, distances, second, 1.0, h)
        found = spectral_movement(band, Directions(1.0, second, ENOUGH), h, 0.01)
        assert exact * (1 - 1e-6) <= found <= exact * 1.02
        assert found < 0.95 * local_movement(band, h)


@pytest.mark.parametrize("h", [0.3, 1.0, 2.0])
def test_the_extremal_model_attains_the_bound(h: float) -> None:
    """Movement and second moment by numerical integration; the bound is right above."""
    directions = Directions(1.0, second_moment(h), ENOUGH)
    found = spectral_movement(Band(np.array([0.0, 1.0]), np.array([1.0])), directions, h, 0.01)
    assert moves(h) <= found <= moves(h) * 1.02


@pytest.mark.parametrize("h", [0.0, 1e-6, 0.3, 1.0, 4.0, 60.0])
@pytest.mark.parametrize("t", [0.0, 1e-200, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("top", [0.0, 1e-6, 0.3, 1.0, 7.0])
def test_never_above_local_with_the_same_band(h: float, t: float, top: float) -> None:
    """Truncations within, between and beyond the distances, with no second moment and with more than there can be."""
    band = Band(np.array([0.0, 0.0, 0.5, 1.0, 2.0]), np.array([1.0, 0.8, 0.3, 1e-3]))
    found, local = spectral_movement(band, Directions(t, top, 1_000), h, 0.01), local_movement(band, h)
    assert 0 <= found <= local
    assert t > 0 or found == local


def test_rises_with_eps_the_second_moment_and_confidence() -> None:
    """What makes one eps cover all smaller ones, and upper confidence bounds enough."""
    band = Band(np.array([0.0, 0.4, 1.0, 2.0]), np.array([1.0, 0.5, 1e-3]))

    def at(h: float = 1.0, top: float = 0.05, count: int = 1_000, alpha: float = 0.01) -> float:
        return spectral_movement(band, Directions(0.9, top, count), h, alpha)

    for found in (
        [at(h=h) for h in (0.0, 0.1, 0.2, 0.9, 1.0, 1.1, 2.0)],
        [at(top=top) for top in (0.0, 0.01, 0.05, 0.2, 1.0)],
        [at(count=count) for count in (10**6, 1_000, 30)],
        [at(alpha=alpha) for alpha in (0.1, 0.01, 1e-6)],
    ):
        assert found == sorted(found)
        assert found[0] < found[-1]


# --- confidence ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 10, 1_000])
@pytest.mark.parametrize("truth", [1e-4, 0.01, 0.5, 0.999])
def test_kl_upper_covers(truth: float, count: int) -> None:
    """For the widest law on [0, 1] the probability that the bound is too low is a sum of binomial weights."""
    missed = [k for k in range(count + 1) if kl_upper(k / count, -math.log(ALPHA) / count) < truth]
    assert binom.pmf(missed, count, truth).sum() <= ALPHA
    assert kl_upper(0.3, 0.0) == pytest.approx(0.3, rel=1e-7)


def test_a_range_of_another_norm_is_caught() -> None:
    """In l1 a second moment goes up to ``t^2`` with ``t`` in l1; a range from the l2 norm is too small."""
    truth, count, features = 0.01, 100, 30
    wrong = [k for k in range(count + 1) if max(k / count, kl_upper(0.0, -math.log(ALPHA) / count) / features) < truth]
    assert binom.pmf(wrong, count, truth).sum() > ALPHA


def misses(metric: Metric, model: Callable[[Tensor], Tensor], h: float, features: int, count: int) -> int:
    """How often the bound is below the movement, for outputs all at distance 1 from the reference 0."""
    band, failed = Band(np.array([0.0, 1.0]), np.array([1.0])), 0
    zero, truth = torch.zeros(1, features, dtype=torch.float64), moves(h)
    for seed in range(RUNS):
        generator = torch.Generator().manual_seed(seed)
        inputs = features + (metric.seminorm == "l1")
        outputs = model(torch.randn(count + 1, inputs, generator=generator, dtype=torch.float64))
        collector = DirectionsCollector(metric, outputs[:1], zero, count)
        collector.update(outputs[1:], torch.ones(count))
        directions = replace(collector.compute(metric, (-1.0, 1.0)), truncation=1.0)
        failed += spectral_movement(band, directions, h, ALPHA) < truth * (1 - 1e-6)
    return failed


WORLDS = {"l2": (L2(), on_the_sphere, 30), "l1": (L1(), of_signs, 20)}


@pytest.mark.parametrize("h", [0.5, 1.0])
@pytest.mark.parametrize("world", WORLDS)
def test_covers_a_model_that_attains_the_bound(world: str, h: float) -> None:
    """The distances are known, the directions are not."""
    metric, model, features = WORLDS[world]
    assert misses(metric, model(h), h, features, 300) <= allowed(ALPHA)


def test_second_moments_without_confidence_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the sample at their word."""
    monkeypatch.setattr(spectral, "kl_upper", lambda mean, exponent: mean)
    assert misses(L2(), on_the_sphere(1.0), 1.0, 30, 300) > allowed(ALPHA)


def test_the_dual_norm_of_another_metric_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit vectors of l2 in place of vectors of signs."""
    monkeypatch.setattr(spectral, "_top_in_l1", top_eigenvalue)
    assert misses(L1(), of_signs(1.0), 1.0, 20, 300) > allowed(ALPHA)


def jumping(x: Tensor) -> Tensor:
    """Rarely, and never in most pilots, ten times as far as otherwise."""
    return torch.where(x[:, :1] > 2.5, torch.tensor([10.0, 0.0, 0.0, 0.0]), on_the_sphere(1.0)(x))


def test_covers_a_tail_just_beyond_the_truncation_and_a_missing_tail_is_caught() -> None:
    """How often the bound is below the movement of `jumping`: few pilots have seen the jump.

    From the same draws it is too often without what is beyond the truncation.
    """
    sampler, beyond, failed, cut = Sampler(jumping, UNIT, 500, 1_000, (-10.0, 10.0)), 2.5, 0, 0
    truth = 10 * (ndtr(1 - beyond) - ndtr(-beyond))
    truth += quad(lambda t: (density(t - 1) - density(t)) * float(pull(torch.tensor(t), 1.0)), -10, beyond, limit=500)[
        0
    ]
    for seed in range(RUNS):
        one = gather_means(sampler, {"": L2()}, Budget(n=50, m=400), torch.zeros(4), RandomStream(seed))[""]
        band = Band.of(one.distances, one.reach, ALPHA / 2)
        without = Band(np.minimum(band.edges, one.directions.truncation), band.beyond)
        failed += spectral_movement(band, one.directions, 1.0, ALPHA / 2) < truth * (1 - 1e-6)
        cut += spectral_movement(without, one.directions, 1.0, ALPHA / 2) < truth * (1 - 1e-6)
    assert failed <= allowed(ALPHA) < cut


# --- the largest second moment of a sample --------------------------------------------------------------------------


def matrix_of(values: np.ndarray) -> Tensor:
    """A matrix with these eigenvalues."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(len(values), len(values))))[0]
    return torch.from_numpy(basis * values @ basis.T)


@pytest.mark.parametrize(
    "values",
    [np.ones(50), np.linspace(0.99, 1, 400), np.geomspace(1e-12, 1, 60), np.eye(30)[0], np.zeros(4), np.array([3.0])],
)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_top_eigenvalue_is_above_and_close(values: np.ndarray, scale: float) -> None:
    """Flat, slowly and quickly falling, single and none."""
    most = values.max() * scale
    assert most <= top_eigenvalue(matrix_of(values * scale)) <= most * 1.005


def test_an_estimate_alone_would_be_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """By more than the outward rounding; and a bad one costs sharpness, not safety."""
    matrix = matrix_of(np.linspace(0.9, 1, 400))
    assert spectral._estimate(matrix) < 1 - 1e-6
    for low in (0.0, 0.3, 0.999):
        monkeypatch.setattr(spectral, "_estimate", lambda matrix, low=low: low)
        assert 1 <= top_eigenvalue(matrix) <= 2.01


@pytest.mark.parametrize("features", [1, 2, 9])
def test_the_bound_on_sign_vectors_is_above_all_of_them(features: int) -> None:
    """And within the gap of the relaxation."""
    rng = np.random.default_rng(features)
    rows = rng.normal(size=(40, features)) * rng.gamma(1, size=features)
    moments = rows.T @ rows
    signs = np.array(np.meshgrid(*[[-1, 1]] * features)).reshape(features, -1)
    most = np.einsum("ij,ik,jk->k", moments, signs, signs).max()
    assert most <= spectral._top_in_l1(torch.from_numpy(moments)) <= most * math.pi / 2 * 1.01


def directions_of(metric: Metric, outputs: Tensor, pilot: int = 100, size: int = 64) -> Directions:
    """From outputs of which the first are the pilot, handed over in pieces; the reference is 0.4."""
    features, center = metric.features(outputs), metric.features(torch.full_like(outputs[:1], 0.4))
    collector = DirectionsCollector(metric, features[:pilot], center, len(outputs) - pilot)
    for part in features[pilot:].split(size):
        collector.update(part, metric.pairwise(part, center)[:, 0])
    return collector.compute(metric, (0.0, 1.0))


def outputs_of(features: int, count: int) -> Tensor:
    """Outputs in [0, 1] that vary together."""
    generator = torch.Generator().manual_seed(1)
    together = torch.randn(count, 3, generator=generator) @ torch.randn(3, features, generator=generator)
    return torch.sigmoid(together + torch.randn(count, features, generator=generator))


@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda m: m.name)
def test_second_moments_are_those_of_the_draws_within_the_truncation(metric: Metric) -> None:
    """Against plain loops."""
    outputs = outputs_of(6, 2_600)
    found, around = directions_of(metric, outputs), outputs.double().numpy() - 0.4
    norms = np.linalg.norm(around, 1 if metric.seminorm == "l1" else 2, axis=1)
    assert found.truncation == pytest.approx(norms[:100].max(), rel=1e-6)
    inside = around[100:][norms[100:] <= found.truncation] / found.truncation
    assert len(inside) < 2_500
    moments = inside.T @ inside / 2_500
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    most = np.linalg.eigvalsh(moments)[-1] if metric.seminorm == "l2" else ((moments @ signs) * signs).sum(0).max()
    assert most <= found.top <= most * 1.1
    assert found.count == 2_500


@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda m: m.name)
@pytest.mark.parametrize("size", [1, 300, 2_600])
def test_second_moments_do_not_depend_on_how_draws_arrive(metric: Metric, size: int) -> None:
    """To the last digit, with and without a matrix."""
    for features in (7, spectral.MATRIX + 1):
        outputs = outputs_of(features, 1_300 if features > 7 else 2_600)
        assert directions_of(metric, outputs, size=size).top == directions_of(metric, outputs).top


@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda m: m.name)
def test_second_moments_are_the_same_panel_by_panel(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(7, 600)
    at_once = directions_of(metric, outputs).top
    monkeypatch.setattr(spectral, "_PANEL", 3)
    assert directions_of(metric, outputs).top == pytest.approx(at_once, rel=1e-9)


@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda m: m.name)
def test_many_features_have_a_bound_without_a_matrix(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least that of the matrix in l2, and of the best signs found in l1; above by what a block of draws adds."""
    outputs = outputs_of(40, 5_100)
    whole = directions_of(metric, outputs)
    monkeypatch.setattr(spectral, "MATRIX", 39)
    in_blocks = directions_of(metric, outputs)
    assert whole.top / 1.03 <= in_blocks.top <= whole.top * 1.3


def test_only_the_first_draws_are_used_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number fixed by the counts, and confidence of that many."""
    monkeypatch.setattr(spectral, "_OPERATIONS", 2_100 * 36)
    outputs = outputs_of(6, 2_600)
    found = directions_of(L2(), outputs)
    assert found.count == 2_100
    assert found.top == directions_of(L2(), torch.cat([outputs[:2_200], torch.ones(400, 6)])).top
    assert found.top != directions_of(L2(), outputs.flip(0)).top


# --- estimation in l1 ----------------------------------------------------------------------------------------------


def test_weighted_norms_bound_the_expected_error_in_l1() -> None:
    """At x and at x', and by less than half of the reach times the first moment."""
    h, count, features = 1.0, 50, 40
    model = lambda x: torch.sigmoid(3 * x)  # noqa: E731
    draw = lambda shift, n: model(torch.randn(n, features, generator=generator) + shift)  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    outputs, shift = draw(0.0, 4_100), torch.zeros(features)
    shift[0] = h
    found = directions_of(L1(), outputs)
    for there, at in ((0.0, torch.zeros(features)), (h, shift)):
        means = draw(at, 400 * count).reshape(400, count, features).mean(1).double()
        error = float((means - means.mean(0)).abs().sum(1).mean())
        most = math.sqrt(expected_square(found.weighted, there, 0.01) / count)
        assert error <= most <= 2 * error + (there > 0) * error
    assert found.weighted.reach >= found.weighted.norms.values[-1]


def test_the_smaller_bound_on_the_expected_error_counts() -> None:
    """Whichever it is."""
    band = Band(np.array([0.0, 1.0, 3.0]), np.array([1.0, 1 / 3]))
    plain = estimation_error(band, 0.5, 50, 0.01, L1())
    assert estimation_error(band, 0.5, 50, 0.01, L1(), 1e9) == plain
    first = 3.0 * band.integral(lambda p: shifted(p, 0.5))
    lower = estimation_error(band, 0.5, 50, 0.01, L1(), 0.25 * first)
    assert plain - lower == pytest.approx(math.sqrt(first / 50) / 2)


# --- the certificate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [L1(), L2(), TotalVariation()], ids=lambda m: m.name)
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_radius_is_put_together_from_its_shares_of_alpha(metric: Metric, eps: float) -> None:
    """Half of alpha2 for the band; the rest for the center, the second moments and, in l1, the weighted norms."""
    noise, budget = GaussianNoise(0.5), Budget(n=300, m=2_000, alpha1=0.01, alpha2=0.04)
    smoother = MeanSmoother(blurry, metric, noise, budget, output_range=(0.0, 1.0))
    stream, h = RandomStream(0), eps / noise.sigma
    certificate = smoother.certify(IMAGE, eps, stream=stream)
    one = gather_means(Sampler(blurry, noise, 128, 1_024, (0.0, 1.0)), {"": metric}, budget, IMAGE, stream)[""]
    l1 = metric.seminorm == "l1"
    band, alpha = Band.of(one.distances, one.reach, 0.02), 0.02 / (3 if l1 else 2)
    square = lambda shift: expected_square(one.directions.weighted, shift, alpha) if l1 else math.inf  # noqa: E731
    errors = estimation_error(band, 0.0, 2_000, alpha, metric, square(0.0))
    errors += estimation_error(band, h, 300, 0.01, metric, square(h))
    movement = spectral_movement(band, one.directions, h, alpha)
    everywhere = global_movement(metric.diameter(tuple(IMAGE.shape), (0.0, 1.0)), h)
    assert certificate.radius == pytest.approx((min(movement, everywhere) + errors) * (1 + 1e-4), rel=1e-9)
    assert (certificate.rule, certificate.alpha, certificate.about) == ("spectral", 0.05, "run")


IMAGE = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(0))
KERNEL = torch.randn(30, 30, generator=torch.Generator().manual_seed(1)) / 5


def blurry(x: Tensor) -> Tensor:
    """A small network with outputs in [0, 1]."""
    return torch.sigmoid(x.flatten(1) @ KERNEL.to(x.dtype)).reshape(x.shape)


@pytest.mark.parametrize("metric", [L1(), L2(), TotalVariation()], ids=lambda m: m.name)
def test_sharper_than_local_where_outputs_vary_in_many_directions(metric: Metric) -> None:
    """By the same draws."""
    found = {}
    for rule in MEAN_RULES:
        smoother = MeanSmoother(
            blurry, metric, GaussianNoise(0.5), Budget(n=2_000, m=20_000), rule=rule, output_range=(0.0, 1.0)
        )
        found[rule] = smoother.certify(IMAGE, 0.25, stream=RandomStream(0)).radius
    assert found["spectral"] < 0.8 * found["local"] < 0.8 * found["global"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("changes", [{}, {"m": 40}, {"n": 2}])
def test_the_mean_moves_no_further_than_certified(world: str, changes: dict[str, int]) -> None:
    """A fresh run at x', for models whose mean moves by all that distances and directions allow."""
    metric, model, features = WORLDS[world]
    budget, h = Budget(**{"n": 200, "m": 400, "alpha1": ALPHA, "alpha2": ALPHA, **changes}), 1.0
    smoother = MeanSmoother(model(h), metric, UNIT, budget, output_range=(-1.0, 1.0), forward_block=400)
    x = torch.zeros(features + (metric.seminorm == "l1"))
    shift, far = torch.zeros_like(x), 0
    shift[0] = h
    for seed in range(RUNS):
        certificate = smoother.certify(x, h, stream=RandomStream(seed))
        answer = smoother.smooth(x + shift, stream=RandomStream(seed, point=1)).output
        far += smoother.distance(answer, certificate.answer) > certificate.radius
    assert far <= allowed(2 * ALPHA)


@pytest.mark.parametrize("metric", [L1(), L2(), TotalVariation()], ids=lambda m: m.name)
@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (50, 60)])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_outputs_and_few_draws_have_certificates(
    metric: Metric, counts: tuple[int, int], value: float
) -> None:
    """Inside the range and at its corners; close to those of the local rule, as there is no direction."""
    budget, x, radii = Budget(n=counts[0], m=counts[1]), torch.zeros(1, 2, 3), {}
    for rule in MEAN_RULES:
        smoother = MeanSmoother(
            lambda x: torch.full_like(x, value), metric, UNIT, budget, output_range=(0.0, 1.0), rule=rule
        )
        radii[rule] = [smoother.certify(x, eps, stream=RandomStream(0)).radius for eps in (0.0, 1.0)]
    for spectral_radius, local_radius in zip(radii["spectral"], radii["local"], strict=True):
        assert 0 < spectral_radius <= local_radius * 1.1


def test_evidence_is_packed_and_unpacked(tmp_path: Path) -> None:
    """The same certificates, to the last digit."""
    noise, budget = GaussianNoise(0.5), Budget(n=100, m=300)
    for metric in (L1(), L2()):
        stream = RandomStream(0)
        one = gather_means(Sampler(blurry, noise, 128, 1_024, (0.0, 1.0)), {"": metric}, budget, IMAGE, stream)[""]
        np.savez(tmp_path / "one.npz", **pack(one))
        with np.load(tmp_path / "one.npz") as arrays:
            again = unpack(MeanEvidence, arrays)
        setting = Setting(noise, budget, (0.0, 1.0))
        for rule in MEAN_RULES:
            radii = [Mean(metric).certificate(e, 0.3, rule, setting).radius for e in (one, again)]
            assert radii[0] == radii[1]
        assert (one.directions.weighted is None) == (metric.seminorm == "l2")


def test_a_mean_may_have_a_count_of_its_own() -> None:
    """Draws of an answer, the error at x' of that many, and the budget's for everything else."""
    noise, budget, seen = GaussianNoise(0.5), Budget(n=100, m=300), []
    radii = {}
    for n in (None, 50, 400):
        certifier = Mean(L2(), n=n)
        smoother = Smoother(blurry, noise, certifier, budget, output_range=(0.0, 1.0))
        smoother.smooth(IMAGE, progress=seen.append)
        assert sum(seen) == (n or 100)
        seen.clear()
        assert passes([certifier], Setting(noise, budget, (0.0, 1.0))) == 1 + (n or 100) + 300
        radii[n] = smoother.certify(IMAGE, 0.0, stream=RandomStream(0)).radius
    assert radii[400] < radii[None] < radii[50]
    with pytest.raises(RequestError, match="n of the mean"):
        Mean(L2(), n=0)


def test_without_a_radius_no_directions_are_gathered() -> None:
    """Nor features of pilot draws."""
    setting = Setting(UNIT, Budget(n=10, m=10), (0.0, 1.0))
    evidence = MeanEvidence(torch.zeros(1), torch.zeros(1), 0.0, None, None)
    for rule in MEAN_RULES:
        with pytest.raises(ValueError, match="there is no radius"):
            Mean(L2()).certificate(evidence, 0.1, rule, setting)


def test_a_pilot_is_of_the_first_draws_alone() -> None:
    """Of 0 here; a third of all draws is 1."""
    shared = Shared()
    collector = Mean(L2()).collector(Setting(UNIT, Budget(n=1_800, m=10), (0.0, 1.0)), shared, radius=True)
    for stage, count, value in (("center", 600, 0.0), ("center", 600, 0.0), ("center", 600, 1.0), ("fresh", 10, 0.0)):
        shared.forget()
        collector.update(stage, torch.full((count, 1), value))
    assert collector.compute(torch.zeros(1)).directions.truncation == pytest.approx(1 / 3)
