"""The number of fresh draws chosen from those of the center: which, by what, and that certificates still cover."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import binom
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    Budget,
    Center,
    Certificate,
    Direction,
    GaussianNoise,
    Jaccard,
    Label,
    Mean,
    Nearest,
    RandomStream,
    RequestError,
    Smoother,
)
from centersmooth.bounds import EXACT
from centersmooth.certifiers import Certifier
from centersmooth.certifiers.distances import DistanceSample
from centersmooth.certifiers.spectral import MATRIX
from centersmooth.contracts import LinearModel
from centersmooth.draws import Draws
from centersmooth.gathering import Setting, Shared, gather_one
from centersmooth.sampling import Sampler
from centersmooth.tolerance import PilotCollector, counts

STREAM = RandomStream(0)
X = torch.zeros(3)
WEIGHT = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 1.0]])
BUDGET = Budget(n=400, m=20_000, delta=0.15, alpha1=0.1, alpha2=0.1)


def model(x: Tensor) -> Tensor:
    return torch.sigmoid(x @ WEIGHT.T)


def smoother(certifier: Certifier, budget: Budget = BUDGET, **rest: Any) -> Smoother:
    options = {"output_range": (0.0, 1.0), "forward_block": 400} | rest
    return Smoother(model, GaussianNoise(0.5), certifier, budget, **options)


def content(certificate: Certificate) -> dict[str, Any]:
    """Comparable with ==."""
    fields = {field.name: getattr(certificate, field.name) for field in dataclasses.fields(certificate)}
    return fields | {"answer": None if certificate.answer is None else certificate.answer.tolist()}


CASES = {
    "center, paper": (Center(L2()), "paper", BUDGET),
    "center, exact": (Center(L1()), "exact", BUDGET),
    "center, measured": (Center(L2()), "measured", BUDGET),
    "center, candidates apart": (Center(L2()), "measured", dataclasses.replace(BUDGET, n0=30)),
    "free center": (Center(L2(), "free"), "measured", BUDGET),
    "mean, local": (Mean(L2()), "local", BUDGET),
    "mean, spectral": (Mean(L2()), "spectral", BUDGET),
    "mean in l1": (Mean(L1()), "spectral", BUDGET),
    "mean of more draws": (Mean(L2(), 1_500), "spectral", BUDGET),
    "direction": (Direction(Angular()), "spectral", BUDGET),
    "nearest": (Nearest(L2()), "nearest", BUDGET),
    "nearest direction": (Nearest(Angular()), "nearest", BUDGET),
}

of_all = pytest.mark.parametrize("case", CASES)


def of_case(case: str, **budget: int) -> Smoother:
    certifier, rule, counted = CASES[case]
    return smoother(certifier, dataclasses.replace(counted, **budget), rule=rule)


@of_all
def test_the_certificate_is_that_of_the_number_of_draws_chosen(case: str) -> None:
    """From the same draws, to the last digit: nothing but their number is another."""
    chosen = of_case(case).certify(X, [0.2, 0.4], tolerance=0.2, stream=STREAM)
    m = chosen[0].m
    assert BUDGET.n <= m < BUDGET.m
    assert chosen[1].m == m
    fixed = of_case(case, m=m).certify(X, [0.2, 0.4], stream=STREAM)
    assert [content(one) for one in chosen] == [content(one) | {"m": m} for one in fixed]


class OtherFresh(RandomStream):
    """A stream whose fresh draws, and no others, are those of another one."""

    def draws(self, stage: str, block: int, like: Tensor) -> Draws:
        return super().draws("other" if stage == "fresh" else stage, block, like)


@of_all
@pytest.mark.parametrize("tolerance", [0.02, 0.1])
def test_fresh_draws_have_no_part_in_their_number(case: str, tolerance: float) -> None:
    found = [of_case(case).certify(X, 0.3, tolerance=tolerance, stream=kind(5)) for kind in (RandomStream, OtherFresh)]
    assert found[0].m == found[1].m
    assert found[0].radius != found[1].radius


@of_all
def test_a_larger_tolerance_takes_fewer_draws(case: str) -> None:
    """And a tiny one almost all, where quantiles of the pilot are equal."""
    found = [of_case(case).certify(X, 0.3, tolerance=t, stream=STREAM).m for t in (1e-9, 0.05, 0.3, 1e9)]
    assert found == sorted(found, reverse=True)
    assert found[0] > BUDGET.m / 2
    assert found[-1] == BUDGET.n


@of_all
@pytest.mark.parametrize("tolerance", [0.05, 0.2])
def test_radii_are_about_as_near_as_the_tolerance_says(case: str, tolerance: float) -> None:
    """An expectation, from 400 draws: half as much again is allowed, and a few percent for luck."""
    chosen = of_case(case).certify(X, 0.3, tolerance=tolerance, stream=STREAM)
    limit = of_case(case).certify(X, 0.3, stream=STREAM)
    assert chosen.radius <= (1 + 1.5 * tolerance + 0.03) * limit.radius


def test_several_eps_have_the_draws_of_the_one_that_needs_most() -> None:
    one = smoother(Mean(L2()))
    alone = [one.certify(X, eps, tolerance=0.1, stream=STREAM).m for eps in (0.1, 0.5, 0.8)]
    assert len(set(alone)) > 1
    assert {found.m for found in one.certify(X, [0.1, 0.5, 0.8], tolerance=0.1, stream=STREAM)} == {max(alone)}


def test_an_eps_that_no_number_of_draws_serves_asks_for_none() -> None:
    one = smoother(Center(L2()))
    served, not_served = one.certify(X, [0.3, 4.0], tolerance=0.05, stream=STREAM)
    assert served.m == one.certify(X, 0.3, tolerance=0.05, stream=STREAM).m
    assert not_served.outcome.value == "infeasible"


@pytest.mark.parametrize(("n", "m"), [(400, 20_000), (400, 100)])
def test_draws_are_those_it_says(n: int, m: int) -> None:
    """One input without noise, ``n`` for the center, and ``m``, or the ``n`` that test the center."""
    made: list[int] = []
    one = smoother(Mean(L2()), dataclasses.replace(BUDGET, n=n, m=m))
    chosen = one.certify(X, 0.3, tolerance=0.2, stream=STREAM, progress=made.append)
    assert sum(made) == n + chosen.m
    assert chosen.m < m or chosen.m == m == 100


def test_without_a_tolerance_the_number_is_the_budgets() -> None:
    assert smoother(Center(L2())).certify(X, 0.3, stream=STREAM).m is None


def test_each_input_has_a_number_of_its_own() -> None:
    """The second is where the outputs saturate."""
    one, xs = smoother(Mean(L2())), [X, X + 4, X]
    found = [certificate.m for certificate in one.certify_all(xs, 0.3, tolerance=0.1, stream=STREAM)]
    streams = [RandomStream(0, point) for point in range(3)]
    alone = [one.certify(x, 0.3, tolerance=0.1, stream=s).m for x, s in zip(xs, streams, strict=True)]
    assert found == alone
    assert len(set(found)) > 1


def test_second_moments_of_many_features_are_foreseen() -> None:
    """Beyond `MATRIX` features, where bounds are those of blocks."""
    wide = torch.randn(3, MATRIX + 1, generator=torch.Generator().manual_seed(0))
    budget = Budget(n=200, m=1_000)
    one = Smoother(lambda x: torch.sigmoid(x @ wide), GaussianNoise(0.5), Mean(L2()), budget, output_range=(0.0, 1.0))
    assert 200 <= one.certify(X, 0.3, tolerance=0.5, stream=STREAM).m < 1_000


# --- What is spent at x does not depend on the choice --------------------------------------------------------------


def test_a_number_at_which_the_rule_gives_way_is_not_taken() -> None:
    """At the least number the measured rule gives way to the doubled one, with another division of alpha2."""
    budget = Budget(n=200, m=1_600, delta=0.2, alpha1=0.1, alpha2=0.1)
    noise, eps = GaussianNoise(1.0), 1.7

    def certify(m: int, tolerance: float | None = None) -> Certificate:
        one = Smoother(lambda x: x, noise, Center(L2()), dataclasses.replace(budget, m=m))
        return one.certify(torch.zeros(1), eps, tolerance=tolerance, stream=STREAM)

    least = counts(budget)[0]
    assert certify(least).radius is not None
    assert certify(least).reason.startswith("the far radius is doubled")
    chosen = certify(budget.m, tolerance=1e9)
    assert chosen.m > least
    assert chosen.reason == ""


# --- Coverage ------------------------------------------------------------------------------------------------------

RUNS, ALPHA = 300, 0.1
LINEAR, AT = LinearModel(torch.tensor([2.0, -1.0, 0.5])), torch.tensor([0.3, -1.0, 0.5])
SMALL = Budget(n=100, m=3_200, delta=0.15, alpha1=0.1, alpha2=ALPHA)


def too_small(certificate: Certificate, eps: float, sigma: float) -> bool:
    """Is the radius of the ball below that of the mass it has to have around this center?"""
    mass = GaussianNoise(sigma).required_mass(0.5 + SMALL.delta, eps)
    needed = LINEAR.radius(float(certificate.answer), mass, AT, sigma)
    return certificate.r_hat is not None and certificate.r_hat < needed * (1 - 1e-6)


def linear_smoother(sigma: float, m: int) -> Smoother:
    noise, budget = GaussianNoise(sigma), dataclasses.replace(SMALL, m=m)
    return Smoother(LINEAR, noise, Center(L2()), budget, rule="exact", forward_block=400)


@pytest.mark.parametrize(("sigma", "eps", "tolerance"), [(0.25, 0.25, 0.05), (2.0, 4.0, 0.2)])
def test_radii_cover_whatever_number_is_chosen(sigma: float, eps: float, tolerance: float) -> None:
    one = linear_smoother(sigma, SMALL.m)
    found = [one.certify(AT, eps, tolerance=tolerance, stream=RandomStream(seed)) for seed in range(RUNS)]
    assert len({certificate.m for certificate in found}) > 2
    assert sum(too_small(certificate, eps, sigma) for certificate in found) <= binom.isf(1e-9, RUNS, ALPHA)


def test_a_number_chosen_by_fresh_draws_is_caught() -> None:
    """The count above has the power to see the least radius over many numbers of the same fresh draws."""
    mass = GaussianNoise(0.25).required_mass(0.5 + SMALL.delta, 0.25)
    ranks = {m: EXACT.upper_rank(m, mass, ALPHA) for m in range(SMALL.n, SMALL.m + 1, 50)}
    failed = 0
    for run in np.abs(np.random.default_rng(0).normal(size=(RUNS, SMALL.m))):
        failed += min(np.sort(run[:m])[rank - 1] for m, rank in ranks.items()) < ndtri((1 + mass) / 2)
    assert failed > binom.isf(1e-9, RUNS, ALPHA)


# --- Estimates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["exact", "measured"])
@pytest.mark.parametrize("h", [1.0, 2.0])
def test_half_normal_distances_need_a_fiftieth_of_the_papers_draws(h: float, rule: str) -> None:
    """Within 5% of the radius of a million draws from at most 20,000; candidates apart, which saves the test time."""
    one = Smoother(lambda x: x, GaussianNoise(1.0), Center(L2()), Budget(n0=30), rule=rule, forward_block=10_000)
    chosen = one.certify(torch.zeros(1), h, tolerance=0.05, stream=STREAM)
    assert chosen.m <= 20_000
    assert chosen.radius <= 1.05 * one.certify(torch.zeros(1), h, stream=STREAM).radius


@of_all
@pytest.mark.parametrize("counts_asked", [(500, 2_000), (1_000, 1_000), (4_000, 10_000)])
def test_radii_are_foreseen_at_other_counts(case: str, counts_asked: tuple[int, int]) -> None:
    """Of an answer as of a radius: at half the draws of the pilot, as many, and four times as many."""
    certifier, rule, budget = CASES[case]
    pilot = dataclasses.replace(budget, n=1_000)
    asked = dataclasses.replace(budget, n=counts_asked[0], m=counts_asked[1])
    sampler = Sampler(model, GaussianNoise(0.5), 400, 400, (0.0, 1.0))
    collector = certifier.collector(Setting.of(sampler, pilot), shared := Shared(), radius=True)
    for stage in ("candidates", "center"):
        for outputs in sampler.draw(X, collector.wants(stage), STREAM, stage) if collector.wants(stage) else ():
            shared.forget()
            collector.update(stage, outputs)
    assert isinstance(collector, PilotCollector)
    expected = certifier.certificate(collector.foresee()(asked), 0.3, rule, Setting.of(sampler, asked))
    found = gather_one(sampler, certifier, asked, X, RandomStream(7))
    certified = certifier.certificate(found, 0.3, rule, Setting.of(sampler, asked))
    assert expected.radius == pytest.approx(certified.radius, rel=0.08)


@pytest.mark.parametrize("share", [0.5, 0.87, 0.9865, 0.99995])
def test_order_statistics_are_foreseen(share: float) -> None:
    """Of half-normal distances, from 10,000 at their expected places: within 1%, and 8% beyond all of those."""
    pilot = ndtri((1 + (np.arange(10_000) + 0.5) / 10_000) / 2)
    rank = math.ceil(share * 10**6)
    found = DistanceSample.foreseen(pilot, 10**6, np.array([rank])).values[0]
    expected = ndtri((1 + (rank - 0.5) / 10**6) / 2)
    assert expected * 0.99 <= found <= expected * (1.01 if share < 0.99 else 1.08)


@pytest.mark.parametrize("pilot", [100, 999])
@pytest.mark.parametrize("count", [1, 50, 100_000])
def test_foreseen_order_statistics_ascend(pilot: int, count: int) -> None:
    distances = np.random.default_rng(0).exponential(size=pilot)
    values = DistanceSample.foreseen(distances, count, np.arange(1, count + 1)).values
    assert (np.diff(values) >= 0).all()
    assert values[0] >= distances.min()


def test_a_constant_model_needs_the_least_number_of_draws() -> None:
    one = Smoother(lambda x: 0 * x, GaussianNoise(1.0), Center(L2()), BUDGET)
    certificate = one.certify(X, 1.0, tolerance=0.01, stream=STREAM)
    assert (certificate.m, certificate.radius) == (BUDGET.n, 0.0)


# --- Errors --------------------------------------------------------------------------------------------------------

REFUSED = {
    "0": (Center(L2()), BUDGET, 0, "tolerance is 0: expected a number above 0, such as 0.05, or None for all of m"),
    "negative": (Center(L2()), BUDGET, -0.1, "tolerance is -0.1: expected a number above 0"),
    "NaN": (Center(L2()), BUDGET, math.nan, "tolerance is nan: expected a number above 0"),
    "infinite": (Center(L2()), BUDGET, math.inf, "tolerance is inf: expected a number above 0"),
    "a word": (Center(L2()), BUDGET, "5%", "tolerance is '5%': expected a number above 0"),
    "True": (Center(L2()), BUDGET, True, "tolerance is True: expected a number above 0"),
    "of classes": (Label(), BUDGET, 0.05, "tolerance is 0.05: the certifier label takes all of m, expected None"),
    "few draws": (
        Center(Jaccard()),
        Budget(n=99, m=1_000, delta=0.3, alpha1=0.1),
        0.05,
        "tolerance is 0.05: n = 99 draws are too few to choose m by, expected at least 100",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("several", [False, True], ids=["certify", "certify_all"])
def test_what_is_no_tolerance_is_refused_in_one_line_before_any_draw(case: str, several: bool) -> None:
    certifier, budget, tolerance, message = REFUSED[case]

    def never(x: Tensor) -> Tensor:
        raise AssertionError("a draw was made")

    one = Smoother(never, GaussianNoise(1.0), certifier, budget, output_range=(0.0, 1.0))
    call = one.certify_all if several else one.certify
    with pytest.raises(RequestError) as refused:
        call([X] if several else X, 0.1, tolerance=tolerance)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
