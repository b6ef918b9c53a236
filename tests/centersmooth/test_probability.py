"""Probabilities over random transforms: exact values, coverage, and what CC-Cert's estimate does instead."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from centersmooth import L2, GaussianNoise, RandomStream, RequestError, UniformNoise
from centersmooth.noise import Brightness, Transformed
from centersmooth.probability import Movements, movements

RUNS, ALPHA = 300, 0.1
MOST = int(binom.isf(1e-9, RUNS, ALPHA))


def seen(beyond: int, draws: int) -> Movements:
    """So many of the draws moved the output by 1, the others by 0."""
    return Movements(np.repeat([0.0, 1.0], [draws - beyond, beyond]))


@pytest.mark.parametrize(
    ("beyond", "draws", "limit"), [(0, 1_000, 0.006884), (1, 1_000, 0.009195), (0, 100_000, 6.9e-5), (5, 5, 1.0)]
)
def test_the_exact_limit(beyond: int, draws: int, limit: float) -> None:
    assert seen(beyond, draws).probability(0.5) == pytest.approx(limit, rel=2e-3)


def test_a_distance_equal_to_the_radius_is_not_beyond_it() -> None:
    assert seen(3, 10).beyond(1.0) == 0
    assert seen(3, 10).beyond(0.99) == 3


def runs_of(probability: float, draws: int, runs: int = RUNS) -> list[Movements]:
    generator = np.random.default_rng(0)
    return [Movements((generator.random(draws) < probability).astype(float)) for _ in range(runs)]


@pytest.mark.parametrize("probability", [0.003, 0.05, 0.6])
def test_the_exact_limit_covers(probability: float) -> None:
    assert sum(run.probability(0.5, ALPHA) < probability for run in runs_of(probability, 200)) <= MOST


def test_the_share_seen_is_no_limit() -> None:
    assert sum(run.beyond(0.5) / 200 < 0.05 for run in runs_of(0.05, 200)) > MOST


@pytest.mark.parametrize("tail", [0.05, 0.3])
def test_a_quantile_is_exceeded_as_rarely_as_stated(tail: float) -> None:
    """Of a uniform distance the probability to exceed q is 1 - q."""
    generator = np.random.default_rng(1)
    found = [Movements(generator.random(200)).quantile(tail, ALPHA) for _ in range(RUNS)]
    assert sum(1 - one > tail for one in found) <= MOST
    assert None not in found


def test_few_draws_have_no_small_tail() -> None:
    assert seen(0, 100).quantile(0.01) is None
    assert seen(0, 1_000).quantile(0.01) == 0.0


@pytest.mark.parametrize(("probability", "share"), [(1e-3, 0.39), (1e-4, 0.93)])
def test_the_estimate_of_cc_cert_is_no_bound(probability: float, share: float) -> None:
    """Without a distance above the margin among 1,000 it is next to 0: (1 - p)^1000 of all runs."""
    counts, times = np.unique(np.random.default_rng(0).binomial(1_000, probability, 1_000), return_counts=True)
    tiny = [seen(beyond, 1_000).cc_estimate(0.5) < 1e-10 for beyond in counts]
    assert float(times @ tiny) / 1_000 == pytest.approx(share, abs=0.06)


def test_the_estimate_of_cc_cert_is_its_formula() -> None:
    """Chernoff's bound with means for expectations, by a slow loop; no overflow where e^tY is beyond any float."""
    distances = np.random.default_rng(0).random(40)
    grid = np.geomspace(1e-4, 1e4, 500)
    each = [
        min(np.mean(np.exp(np.minimum(t * (batch - 0.8), 700))) for t in grid) for batch in distances.reshape(4, 10)
    ]
    assert Movements(distances).cc_estimate(0.8, batches=4) == pytest.approx(min(1.0, max(each) / 0.9))
    assert Movements(1e3 * distances).cc_estimate(1e3) == pytest.approx(0.0, abs=1e-12)
    assert Movements(distances).cc_estimate(-1.0) == 1.0


def test_as_a_user_calls_it() -> None:
    """Brightness by a uniform number in [-1/4, 1/4]: the probability of a change above r is 1 - 4r."""
    law = Transformed(Brightness(), UniformNoise(0.25))
    found = movements(lambda b: b[:, :1], law, L2(), torch.full((3,), 0.5), 5_000, stream=RandomStream(0))
    assert found.distances.shape == (5_000,)
    for radius in (0.05, 0.2):
        assert 1 - 4 * radius < found.probability(radius) < 1 - 4 * radius + 0.04
    assert len(found.table([0.1, 0.2]).splitlines()) == 3
    assert "no guarantee" in found.table([0.1])
    again = movements(lambda b: b[:, :1], law, L2(), torch.full((3,), 0.5), 10, stream=RandomStream(0))
    assert again.distances.tolist() == found.distances[:10].tolist()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: seen(0, 10).probability(0.5, alpha=0.0), "alpha is 0.0: expected a probability"),
        (lambda: seen(0, 10).quantile(1.0), "tail is 1.0: expected a probability"),
        (lambda: seen(0, 10).cc_estimate(0.5, batches=11), "batches is 11: expected at most one a draw, 10"),
        (lambda: seen(0, 10).cc_estimate(0.5, delta=1.5), "delta is 1.5: expected a number"),
        (lambda: movements(torch.tanh, L2(), L2(), torch.zeros(1)), "transforms is L2.*: expected a law"),
        (lambda: movements(torch.tanh, GaussianNoise(1.0), L2(), torch.zeros(1), 0), "draws is 0: expected an integer"),
        (lambda: seen(0, 10).probability(math.nan), "radius is nan: expected a distance"),
        (lambda: Movements(np.array([0.0, math.nan])), "distances has 1 NaN: expected numbers alone"),
    ],
)
def test_what_is_no_request_is_refused(call, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        call()
