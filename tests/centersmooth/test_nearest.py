"""The output nearest to the mean feature: what it is, its radius part by part, coverage, and broken variants caught.

Coverage is counted as in `test_coverage`: at most ``binom.isf(1e-9, runs, level)`` failures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import binom
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    Budget,
    Center,
    Cosine,
    GaussianNoise,
    Jaccard,
    Metric,
    ModelError,
    Nearest,
    Noise,
    Outcome,
    RandomStream,
    RequestError,
    Smoother,
    SquaredL2,
    TotalVariation,
)
from centersmooth.bounds import EXACT
from centersmooth.certifiers.center import NearestEvidence, nearest
from centersmooth.certifiers.center.nearest import least_seen_mass
from centersmooth.certifiers.center.rules import ROUNDING
from centersmooth.certifiers.expectation import Band, estimation_error, global_movement
from centersmooth.certifiers.spectral import spectral_movement
from centersmooth.gathering import Setting, gather_one
from centersmooth.metrics.base import Hilbertian
from centersmooth.sampling import Sampler

METRICS: tuple[Hilbertian, ...] = (L2(), SquaredL2(), Cosine(), Angular())
UNIT, X = GaussianNoise(1.0), torch.zeros(6)
KERNEL = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def smooth_model(x: Tensor) -> Tensor:
    """A small network with outputs in [0, 1]."""
    return torch.sigmoid(x @ KERNEL.to(x.dtype))


def allowed(alpha: float, runs: int) -> int:
    return int(binom.isf(1e-9, runs, alpha))


# --- the metrics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS, ids=str)
@given(distance=st.floats(0, 2))
def test_to_l2_is_the_inverse_of_of_l2(metric: Hilbertian, distance: float) -> None:
    """Chords are at most 2."""
    there = float(metric.of_l2(torch.tensor(distance, dtype=torch.float64)))
    assert metric.to_l2(there) == pytest.approx(distance, rel=1e-7, abs=1e-150)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_distances_are_of_l2_of_the_distances_of_features(metric: Hilbertian) -> None:
    outputs = torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    features = metric.features(outputs)
    l2 = (features[:, None] - features).norm(dim=2)
    assert torch.allclose(metric.pairwise(features, features), metric.of_l2(l2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("output_range", [(0.0, 1.0), (-1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_no_output_is_beyond_the_feature_reach(metric: Hilbertian, output_range: tuple[float, float]) -> None:
    """Of 2,000 corners and outputs inside, and the corner that is farthest in l2: attained there."""
    low, high = output_range
    generator = torch.Generator().manual_seed(0)
    some = low + (high - low) * torch.rand(1_000, 4, generator=generator, dtype=torch.float64)
    corners = low + (high - low) * torch.randint(2, (1_000, 4), generator=generator).double()
    mean = metric.features(some[:3]).mean(0)
    farthest = torch.where(mean - low > high - mean, low, high)[None, :4]
    outputs = torch.cat([some, corners, farthest, torch.zeros(1, 4).clamp(low, high).double()])
    distances, most = (metric.features(outputs) - mean).norm(dim=1), metric.feature_reach(mean, output_range)
    assert distances.max() <= most
    if metric.source == L2().source:
        assert float(distances.max()) == pytest.approx(most)


def test_directions_are_within_a_right_angle_of_a_mean_where_no_output_is_negative() -> None:
    """And opposite to it where some are: both attained."""
    mean = torch.tensor([0.6, 0.0, 0.0], dtype=torch.float64)
    assert Cosine().feature_reach(mean, (0.0, 1.0)) == pytest.approx(math.sqrt(1.36))
    assert Cosine().feature_reach(mean, (-1.0, 1.0)) == pytest.approx(1.6)
    assert Cosine().feature_reach(mean, None) == pytest.approx(1.6)


# --- the answer and its radius, part by part -----------------------------------------------------------------------


def draws_of(metric: Metric, budget: Budget, noise: Noise, stream: RandomStream) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of the sample, its features and those of the fresh draws."""
    sampler = Sampler(smooth_model, noise, 128, 1_024, (0.0, 1.0))
    sample, fresh = (
        torch.cat(list(sampler.draw(X, count, stream, stage)))
        for count, stage in ((budget.n, "center"), (budget.m, "fresh"))
    )
    return sample, metric.features(sample), metric.features(fresh)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_the_answer_is_the_output_nearest_to_the_mean_feature(metric: Hilbertian) -> None:
    """Against a plain loop; with a radius and without."""
    budget, stream = Budget(n=301, m=500), RandomStream(2)
    sample, features, _ = draws_of(metric, budget, UNIT, stream)
    distances = [float((one - features.mean(0)).norm()) for one in features]
    smoother = Smoother(smooth_model, UNIT, Nearest(metric), budget, output_range=(0.0, 1.0))
    expected = sample[distances.index(min(distances))]
    smoothed = smoother.smooth(X, stream=stream)
    assert torch.equal(smoothed.answer, expected)
    assert torch.equal(smoother.certify(X, 0.5, stream=stream).answer, expected)
    assert smoothed.error == pytest.approx(smoother.distance(smooth_model(X[None])[0], expected))


@pytest.mark.parametrize("eps", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_radius_is_put_together_from_its_shares_of_alpha(metric: Hilbertian, eps: float) -> None:
    """Half of alpha2 for the band, a sixth each for second moments, fresh mean and quantile; halves of alpha1."""
    noise, stream = GaussianNoise(0.5), RandomStream(0)
    budget, h = Budget(n=300, m=2_000, alpha1=0.02, alpha2=0.06), eps / 0.5
    _, features, fresh = draws_of(metric, budget, noise, stream)
    mean = features.mean(0)
    distances = (fresh - mean).norm(dim=1).sort().values
    rank = EXACT.upper_rank(2_000, noise.required_mass(1 - 0.01 ** (1 / 300), eps), 0.01)

    setting = Setting(noise, budget, (0.0, 1.0))
    sampler = Sampler(smooth_model, noise, 128, 1_024, (0.0, 1.0))
    evidence = gather_one(sampler, Nearest(metric), budget, X, stream)
    draws = evidence.fresh
    assert distances[rank - 1] <= draws.near.at_rank(rank) <= distances[int(1.1 * rank) + 1]
    assert draws.offset == pytest.approx(float((fresh.mean(0) - mean).norm()))
    assert draws.directions.truncation == pytest.approx(float((features - mean).norm(dim=1).max()))
    inside = (fresh - mean)[(fresh - mean).norm(dim=1) <= draws.directions.truncation]
    top = float(torch.linalg.eigvalsh(inside.T @ inside / 2_000)[-1]) / draws.directions.truncation**2
    assert top <= draws.directions.top <= 1.01 * top

    band = Band.of(draws.distances, draws.reach, 0.03)
    diameter = metric.to_l2(metric.diameter((5,), (0.0, 1.0)))
    movement = min(spectral_movement(band, draws.directions, h, 0.01), global_movement(diameter, h))
    errors = estimation_error(band, 0.0, 2_000, 0.01, L2()) + estimation_error(band, h, 300, 0.01, L2())
    nearest_distance = float((features - mean).norm(dim=1).min())
    bound = nearest_distance + draws.near.at_rank(rank) + 2 * (draws.offset + movement + errors)
    radius = float(metric.of_l2(torch.tensor(bound * (1 + ROUNDING))))

    certificate = Nearest(metric).certificate(evidence, eps, "nearest", setting)
    assert certificate.radius == pytest.approx(min(radius, metric.diameter((5,), (0.0, 1.0))), rel=1e-6)
    assert (certificate.alpha, certificate.rule, certificate.about) == (0.08, "nearest", "run")


def test_least_seen_mass_is_missed_with_probability_alpha() -> None:
    for n in (1, 30, 10_000):
        assert 0.01 * (1 - 1e-9) <= (1 - least_seen_mass(n, 0.01)) ** n * (1 + 1e-9) <= 0.01 * (1 + 1e-8)


def test_the_reach_stands_in_where_no_fresh_draw_is_far_enough() -> None:
    """Three draws cannot show a ball of mass 0.9: the radius is the whole space, said to be vacuous."""
    smoother = Smoother(smooth_model, UNIT, Nearest(L2()), Budget(n=5, m=3), output_range=(0.0, 1.0))
    certificate = smoother.certify(X, 1.0, stream=RandomStream(0))
    assert (certificate.radius, certificate.vacuous) == (math.sqrt(5), True)
    assert certificate.outcome is Outcome.CERTIFIED


def test_equal_outputs_move_by_the_errors_alone() -> None:
    """A constant model, whose radius comes from the reach: what is not seen could move the mean."""
    constant = Smoother(
        lambda x: torch.ones(len(x), 2), UNIT, Nearest(L2()), Budget(n=50, m=5_000), output_range=(0, 1)
    )
    certificates = constant.certify(X, [0.0, 0.5], stream=RandomStream(0))
    assert 0 < certificates[0].radius < certificates[1].radius < 1


def test_it_answers_where_centers_abstain() -> None:
    """Eight clusters of an eighth each: no ball around an output holds half."""
    corners = torch.eye(8)
    model = lambda x: corners[(x[:, 0].abs() * 1_000).long() % 8]  # noqa: E731
    budget, stream = Budget(n=1_200, m=2_500, delta=0.1), RandomStream(0)
    certifiers = Center(SquaredL2()), Nearest(SquaredL2())
    of_each = [Smoother(model, UNIT, one, budget, output_range=(0.0, 1.0)) for one in certifiers]
    assert not of_each[1].smooth(X, stream=stream).abstained
    assert of_each[1].certify(X, 0.1, stream=stream).outcome is Outcome.CERTIFIED


# --- coverage: a run at x, a run at x' -----------------------------------------------------------------------------


class Moved:
    """How often a fresh answer at ``x' = (h, 0, ...)`` is farther than certified at 0, and radii."""

    def __init__(self, model, inputs: int, h: float, counts: int, alpha: float, runs: int) -> None:
        budget = Budget(n=counts, m=counts, alpha1=alpha, alpha2=alpha)
        smoother = Smoother(model, UNIT, Nearest(L2()), budget, output_range=(-1.0, 1.0), forward_block=1_000)
        x, there = torch.zeros(inputs), torch.zeros(inputs)
        there[0] = h
        self.radii, self.moves = [], []
        for seed in range(runs):
            certificate = smoother.certify(x, h, stream=RandomStream(seed))
            answer = smoother.smooth(there, stream=RandomStream(seed, point=1)).output
            self.radii.append(certificate.radius)
            self.moves.append(smoother.distance(answer, certificate.answer))
        self.failures = int((np.array(self.moves) > np.array(self.radii)).sum())


def turning(x: Tensor) -> Tensor:
    """The mean moves as far as it can, from -0.2 to 0.2; the output nearest to it from -0.25 to 0.58."""
    z = x[:, :1] - 0.25
    low, high = torch.where(z > -0.08, -0.247, -1.0), torch.where(z < 0.08, 0.58, 1.0)
    return torch.where(z < 0, low, high)


def vanishing(x: Tensor) -> Tensor:
    """0 with probability 0.0025 at 0, 0.00005 at x'; otherwise directions in 50 dimensions, of mean 0."""
    return torch.where(x[:, :1] < float(ndtri(0.0025)), 0.0, torch.nn.functional.normalize(x[:, 1:], dim=1))


def test_the_radius_covers_a_mean_that_moves_and_a_nearest_output_on_its_other_side() -> None:
    moved = Moved(turning, 1, 0.5, 2_000, 0.1, 60)
    assert moved.failures <= allowed(0.2, 60)
    assert sum(move > 0.8 for move in moved.moves) > 45


def test_the_radius_covers_a_nearest_output_that_vanishes() -> None:
    moved = Moved(vanishing, 51, 1.1, 10_000, 0.005, 16)
    assert moved.failures <= allowed(0.01, 16)
    assert max(moved.moves) == pytest.approx(1)  # often it has vanished


def test_one_movement_in_place_of_two_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest output may lie beyond the moved mean as far as the known one lies before it."""

    def once(self: Nearest, evidence: NearestEvidence, eps: float, *rest: object) -> float:
        bound, fresh = of_twice(self, evidence, eps, *rest), evidence.fresh
        rank = EXACT.upper_rank(2_000, UNIT.required_mass(least_seen_mass(2_000, 0.05), eps), 0.1 / 6)
        twice = bound - evidence.r_center - fresh.near.at_rank(rank)
        return bound - twice / 2

    of_twice = Nearest._l2_bound
    monkeypatch.setattr(Nearest, "_l2_bound", once)
    assert Moved(turning, 1, 0.5, 2_000, 0.1, 60).failures > allowed(0.2, 60)


class Unshifted(GaussianNoise):
    def required_mass(self, mass: float, eps: float) -> float:
        return mass


def test_a_rank_without_the_shift_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mass that n draws see at x, as if it were the same at x'."""
    monkeypatch.setattr(GaussianNoise, "required_mass", Unshifted.required_mass)
    assert Moved(vanishing, 51, 1.1, 10_000, 0.005, 16).failures > allowed(0.01, 16)


def test_a_movement_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors alone."""
    monkeypatch.setattr(nearest, "spectral_movement", lambda *rest: 0.0)
    assert Moved(turning, 1, 0.5, 2_000, 0.1, 60).failures > allowed(0.2, 60)


# --- requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [L1(), TotalVariation(), Jaccard()], ids=str)
def test_other_metrics_are_refused_in_one_line(metric: Metric) -> None:
    with pytest.raises(RequestError, match=r"is not Hilbertian, a function of the l2 distance .*: use Center$"):
        Smoother(smooth_model, UNIT, Nearest(metric), output_range=(0.0, 1.0))


def test_a_range_is_asked_for_where_features_are_unbounded() -> None:
    for metric in (L2(), SquaredL2()):
        with pytest.raises(RequestError, match=r"output_range is None: a mean under .* needs hard limits"):
            Smoother(smooth_model, UNIT, Nearest(metric))
    for bounded in (Cosine(), Angular()):
        assert Smoother(smooth_model, UNIT, Nearest(bounded)).certify(X, 0.1, stream=RandomStream(0)).radius < 1


class Halved(L2):
    """A metric of one's own, with features that are half of the output."""

    def features(self, outputs: Tensor) -> Tensor:
        return super().features(outputs) / 2


class WrongScale(Halved):
    def of_l2(self, distance: Tensor) -> Tensor:
        return 2 * super().of_l2(distance)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return super().pairwise(a, b) / 2

    def self_rows(self, features: Tensor) -> Iterator[Tensor]:
        return (tile / 2 for tile in super().self_rows(features))


class WrongReach(Halved):
    def feature_reach(self, mean: Tensor, output_range: tuple[float, float] | None) -> float:
        return 0.01


class WrongInverse(Halved):
    def to_l2(self, distance: float) -> float:
        return distance / 2


def test_a_hilbertian_metric_of_ones_own_is_served() -> None:
    halved, whole = (
        Smoother(smooth_model, UNIT, Nearest(metric), output_range=(0.0, 1.0)).certify(X, 0.5, stream=RandomStream(0))
        for metric in (Halved(), L2())
    )
    assert halved.radius < whole.radius
    assert torch.equal(halved.answer, whole.answer)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (WrongScale(), "it is not of_l2 of the l2 distances of its features"),
        (WrongReach(), "features are beyond their declared feature_reach"),
        (WrongInverse(), "to_l2 is not the inverse of of_l2"),
    ],
    ids=str,
)
def test_a_wrong_declaration_is_caught_before_any_certificate(metric: Metric, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Smoother(smooth_model, UNIT, Nearest(metric), output_range=(0.0, 1.0)).certify(X, 0.5)


def test_evidence_of_an_answer_has_no_radius() -> None:
    sampler, budget = Sampler(smooth_model, UNIT, 128, 1_024, (0.0, 1.0)), Budget(n=50, m=60)
    evidence = gather_one(sampler, Nearest(L2()), budget, X, RandomStream(0), radius=False)
    assert evidence.fresh is None
    with pytest.raises(ValueError, match="there is no radius"):
        Nearest(L2()).certificate(evidence, 0.1, "nearest", Setting(UNIT, budget, (0.0, 1.0)))
    full = gather_one(sampler, Nearest(L2()), budget, X, RandomStream(0))
    with pytest.raises(RequestError, match="eps is -1"):
        Nearest(L2()).certificate(full, -1.0, "nearest", Setting(UNIT, budget, (0.0, 1.0)))
