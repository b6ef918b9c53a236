"""The mean direction: whether its angle is attained, whether it covers, and whether broken variants are caught.

Coverage is counted as in `test_coverage`: RUNS seeded runs, at most ``binom.isf(1e-9, RUNS, level)`` failures.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import binom
from torch import Tensor

from centersmooth import (
    L2,
    Angular,
    Attack,
    Budget,
    Certificate,
    Cosine,
    Direction,
    DistanceFunction,
    GaussianNoise,
    Jaccard,
    Mean,
    Metric,
    ModelError,
    RandomStream,
    RequestError,
    Smoother,
    SquaredL2,
)
from centersmooth.certifiers import direction
from centersmooth.certifiers.center.rules import ROUNDING
from centersmooth.certifiers.direction import DirectionCollector, DirectionEvidence, directions_of
from centersmooth.certifiers.expectation import Band, estimation_error, global_movement, local_movement
from centersmooth.certifiers.mean import MeanEvidence
from centersmooth.certifiers.spectral import spectral_movement
from centersmooth.contracts import TwoOutputs
from centersmooth.gathering import Setting, gather, gather_one
from centersmooth.metrics.base import between
from centersmooth.sampling import Sampler

RUNS, ALPHA = 100, 0.1
UNIT = GaussianNoise(1.0)
ORIGIN = torch.zeros(2)
BOTH = pytest.mark.parametrize("metric", [Angular(), Cosine()], ids=lambda metric: metric.name)


def certificate_of(
    metric: Metric, center: Tensor, bound: float, limits: tuple[float, float] | None = None
) -> Certificate:
    """The certificate where a run's mean direction is within ``bound`` of the center."""
    evidence = DirectionEvidence(center, center, 0.0, MeanEvidence(center, center, 0.0, None, None))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Mean, "bound", lambda *rest: (bound, ""))
        return Direction(metric).certificate(evidence, 0.1, "spectral", Setting(UNIT, Budget(), limits))


# --- the angle -----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("rho", "h"), [(0.2, 0.1), (0.7, 1.0), (0.9, 2.0), (0.999, 0.01)])
def test_the_angle_is_attained(metric: Metric, rho: float, h: float) -> None:
    """Directions ``(rho, r)`` beyond the threshold h and ``(rho, -r)`` below: at x' = h the mean is ``(rho, 0)``."""
    r, beyond = math.sqrt(1 - rho * rho), ndtr(-h)
    here, there = torch.tensor([[rho, r * (2 * beyond - 1)], [rho, 0.0]], dtype=torch.float64)
    certified = certificate_of(metric, here, float((here - there).norm())).radius
    assert between(metric, here, there) == pytest.approx(certified, rel=1e-9)


@BOTH
@given(rho=st.floats(0.01, 1), share=st.floats(0, 0.999), seed=st.integers(0, 10**6))
def test_no_mean_within_the_bound_is_farther(metric: Metric, rho: float, share: float, seed: int) -> None:
    """Points of the ball around the center, in five dimensions."""
    center, off = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    center, off = rho * center / center.norm(), share * rho * off / off.norm()
    assert between(metric, center, center + off) <= certificate_of(metric, center, share * rho).radius + 1e-12


@BOTH
@pytest.mark.parametrize("bound", [0.5, 0.6, 2.0])
@pytest.mark.parametrize(("limits", "share"), [(None, 1), ((-1.0, 1.0), 1), ((0.0, 1.0), 2)])
def test_a_bound_that_reaches_the_origin_is_vacuous(
    metric: Metric, bound: float, limits: tuple[float, float] | None, share: int
) -> None:
    """The mean may be 0 or point anywhere: in half of the space where no output has a negative entry."""
    certificate = certificate_of(metric, torch.tensor([0.3, 0.4], dtype=torch.float64), bound, limits)
    assert certificate.vacuous
    assert certificate.radius == metric.diameter((2,), None) / share


# --- the bound -----------------------------------------------------------------------------------------------------

IMAGE = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
KERNEL = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)) / 3


def blurry(x: Tensor) -> Tensor:
    """A small network with outputs in [0, 1]."""
    return torch.sigmoid(x.flatten(1) @ KERNEL.to(x.dtype)).reshape(x.shape)


def evidence_of(model: object, x: Tensor, budget: Budget, limits: tuple[float, float] | None = None) -> object:
    sampler = Sampler(model, GaussianNoise(0.5), 64, 128, limits)
    found = gather(sampler, {"": Direction(Angular())}, budget, x, RandomStream(0), radius=True)[""]
    if isinstance(found, Exception):
        raise found
    return found


@pytest.mark.parametrize(("limits", "widest"), [(None, 2.0), ((-1.0, 1.0), 2.0), ((0.0, 1.0), math.sqrt(2))])
@pytest.mark.parametrize("rule", ["global", "local", "spectral"])
def test_radius_is_put_together_from_its_shares_of_alpha(
    rule: str, limits: tuple[float, float] | None, widest: float
) -> None:
    """As those of a mean in l2: of directions, whose reach and diameter depend on the signs of outputs."""
    budget, h = Budget(n=300, m=2_000, alpha1=0.01, alpha2=0.04), 0.1
    smoother = Smoother(
        blurry, GaussianNoise(0.5), Direction(Angular()), budget, rule=rule, output_range=limits, forward_block=64
    )
    certificate = smoother.certify(IMAGE, 0.05, stream=RandomStream(0))
    sampler = Sampler(blurry, GaussianNoise(0.5), 64, 128)
    stages = (("center", 300), ("fresh", 2_000))
    first, fresh = (torch.cat(list(sampler.draw(IMAGE, k, RandomStream(0), s))).double().flatten(1) for s, k in stages)
    reference = float((first / first.norm(dim=1, keepdim=True)).mean(0).norm())
    rho = float((fresh / fresh.norm(dim=1, keepdim=True)).mean(0).norm())
    found = evidence_of(blurry, IMAGE, budget, limits).directions
    assert found.reach == pytest.approx(1 + reference if widest == 2 else math.sqrt(1 + reference**2), rel=1e-12)
    band, metric = Band.of(found.distances, found.reach, 0.02), L2()
    share = 0.01 if rule == "spectral" else 0.02
    errors = estimation_error(band, 0.0, 2_000, share, metric) + estimation_error(band, h, 300, 0.01, metric)
    movement = {
        "global": global_movement(widest, h),
        "local": local_movement(band, h),
        "spectral": spectral_movement(band, found.directions, h, share),
    }[rule]
    sine = (min(movement, global_movement(widest, h)) + errors) * (1 + ROUNDING) / rho
    assert certificate.radius == pytest.approx(math.asin(sine) / math.pi, rel=1e-9)
    assert (certificate.alpha, certificate.certifier, certificate.rule, certificate.about) == (
        0.05,
        "direction",
        rule,
        "run",
    )
    assert (certificate.reason, certificate.vacuous) == ("", False)


@pytest.mark.parametrize("limits", [None, (0.0, 9.0)])
def test_no_direction_is_beyond_the_reach(limits: tuple[float, float] | None) -> None:
    """Attained by minus the reference, or by a direction at right angles to it; the zero output is nearer."""
    reference = torch.tensor([[0.6, 0.0, 0.0]])
    outputs = torch.tensor([[-4.0, 0, 0], [0, 0, 0], [1, 2, 3], [0, 8, 0]])[1 if limits else 0 :]
    farthest = float((directions_of(outputs) - reference).norm(dim=1).max())
    assert direction._reach(0.6, Setting(UNIT, Budget(), limits)) == pytest.approx(farthest, rel=1e-6)


def test_where_the_draws_tell_nothing_the_bound_is_the_global_one() -> None:
    """And the certificate says so."""
    step = TwoOutputs(torch.tensor([1.0, 0.1]), torch.tensor([1.0, 0.0]), threshold=0.5)
    smoother = Smoother(step, UNIT, Direction(Angular()), Budget(n=10_000, m=1))
    certificate = smoother.certify(torch.zeros(1), 0.5, stream=RandomStream(0))
    assert "bounded as for any model: m = 1 draws tell too little" in certificate.reason


# --- the statement: a run at x, a run at x' ------------------------------------------------------------------------


def swing(x: Tensor) -> Tensor:
    """Far apart and of different lengths, with a mean direction of length 0.2: the bound is small, the angle large."""
    up = x[:, :1] > 0.0
    return torch.where(up, torch.tensor([0.2, 0.98]), torch.tensor([0.02, -0.098]))


def rare(x: Tensor) -> Tensor:
    """At right angles where a threshold is passed, which is seldom at the origin."""
    return torch.where(x[:, :1] > 2.0, torch.tensor([0.0, 1.0]), torch.tensor([3.0, 0.0]))


def sparse(x: Tensor) -> Tensor:
    """Zero but for 2% of the noise, and there of two directions that part by a quarter turn."""
    return (x[:, 1:] > 2.05) * torch.where(x[:, :1] > 0.5, torch.tensor([0.0, 5.0]), torch.tensor([1.0, 0.0]))


def half_empty(x: Tensor) -> Tensor:
    """Zero for half of the noise."""
    return (x[:, 1:] > 0) * torch.cat([torch.ones(len(x), 1), x[:, :1].sigmoid()], dim=1)


def moved_too_far(model: object, h: float, *rules: str, count: int = 4_000) -> list[int]:
    """How often a fresh run at x' answers farther from the center than certified under each rule."""
    budget, certifier = Budget(n=count, m=count, alpha1=ALPHA, alpha2=ALPHA), Direction(Angular())
    sampler, setting = Sampler(model, UNIT, 1_000, 1_000), Setting(UNIT, budget, forward_block=1_000)
    there, far = ORIGIN + torch.tensor([h, 0.0]), [0] * len(rules)
    for seed in range(RUNS):
        evidence = gather_one(sampler, certifier, budget, ORIGIN, RandomStream(seed))
        moved = gather_one(sampler, certifier, budget, there, RandomStream(seed, point=1), radius=False)
        for place, rule in enumerate(rules):
            certificate = certifier.certificate(evidence, h, rule, setting)
            answer = certifier.answer(moved, setting, rule).output
            far[place] += certifier.distance(answer, certificate.answer) > certificate.radius
    return far


def name_of(value: object) -> str:
    return getattr(value, "__name__", str(value))


def allowed(alpha: float, runs: int = RUNS) -> int:
    return int(binom.isf(1e-9, runs, alpha))


@pytest.mark.parametrize(
    ("model", "h"), [(swing, 0.02), (rare, 0.5), (rare, 1.0), (half_empty, 0.5), (sparse, 0.3)], ids=name_of
)
def test_the_direction_moves_no_further_than_certified(model: object, h: float) -> None:
    assert max(moved_too_far(model, h, "local", "spectral")) <= allowed(2 * ALPHA)


@pytest.mark.parametrize(("model", "h"), [(swing, 0.02), (rare, 0.5), (half_empty, 0.5)], ids=name_of)
def test_the_worlds_of_these_tests_are_certified(model: object, h: float) -> None:
    """None of them is covered by saying nothing."""
    smoother = Smoother(model, UNIT, Direction(Angular()), Budget(n=4_000, m=4_000, alpha1=ALPHA, alpha2=ALPHA))
    assert not smoother.certify(ORIGIN, h, stream=RandomStream(0)).vacuous


def test_an_angle_without_the_length_of_the_mean_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """``asin(R)``, as if all outputs had one direction."""
    true = Direction._at_sine

    def of_bound(self: Direction, sine: float) -> float:
        return true(self, 0.2 * sine)

    monkeypatch.setattr(Direction, "_at_sine", of_bound)
    assert moved_too_far(swing, 0.1, "spectral")[0] > allowed(2 * ALPHA)


def test_zero_outputs_with_a_direction_of_their_own_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metric's features in the place of directions: zero outputs make the mean long, and no answer points there."""

    def compute(self: DirectionCollector, base: Tensor) -> DirectionEvidence:
        found = replace(self._mean.compute(Cosine().features(base[None])[0]), reach=2.0)
        return DirectionEvidence(found.center[:2], base, 0.0, found)

    monkeypatch.setattr(direction, "directions_of", Cosine().features)
    monkeypatch.setattr(DirectionCollector, "compute", compute)
    assert moved_too_far(sparse, 0.3, "spectral")[0] > allowed(2 * ALPHA)


# --- the answer ----------------------------------------------------------------------------------------------------


def test_the_answer_is_the_mean_direction_at_the_mean_length() -> None:
    """Short outputs count as much as long ones; `n` is the certifier's own count."""
    step = TwoOutputs(torch.tensor([[6.0, 8.0]]), torch.tensor([[-2.0, 0.0]]), threshold=0.3)
    smoother = Smoother(step, UNIT, Direction(Cosine(), n=500), Budget(n=40, m=40), forward_block=500)
    smoothed = smoother.smooth(torch.zeros(1), stream=RandomStream(0))
    (draws,) = Sampler(step, UNIT, 500, 500).draw(torch.zeros(1), 500, RandomStream(0), "center")
    lengths = draws.double().norm(dim=(1, 2), keepdim=True)
    mean = (draws / lengths).mean(0)
    expected = mean / mean.norm() * lengths.mean()
    torch.testing.assert_close(smoothed.output, expected)
    assert smoothed.error == pytest.approx(between(Cosine(), step(torch.zeros(1, 1))[0].double(), expected))
    assert smoothed.base.tolist() == step(torch.zeros(1, 1))[0].tolist()


@pytest.mark.parametrize(
    ("limits", "outputs"),
    [
        ((-1.0, 3.0), ([3.0, 0.1], [-1.0, 0.2])),  # the first entry of a mean decides, or the second of the other
        ((-1.0, 3.0), ([0.2, -1.0], [3.0, -1.0])),
        ((-1.0, 0.0), ([0.0, -1.0], [-1.0, -0.1])),
        ((0.0, 1.0), ([1.0, 0.0], [1.0, 1.0])),
        ((0.5, 1.0), ([0.5, 1.0], [0.5, 0.5])),
        ((0.5, 1.0), ([0.5, 1.0], [0.5, 1.0])),
        ((-1.0, -0.5), ([-1.0, -1.0], [-0.5, -0.6])),
        ((0.0, math.inf), ([1e300, 0.0], [1e300, 1e300])),
        (None, ([1e300, 0.0], [1e300, 1e300])),
        (None, ([1e-310, 0.0], [1e-310, 1e-310])),
    ],
)
def test_the_answer_is_inside_the_range_and_not_turned(
    limits: tuple[float, float] | None, outputs: tuple[list[float], list[float]]
) -> None:
    """Also where outputs have one sign, and where squares of entries leave float64's range."""
    step = TwoOutputs(*(torch.tensor(one, dtype=torch.float64) for one in outputs), threshold=0.4)
    smoother = Smoother(step, UNIT, Direction(Angular()), Budget(n=100, m=100), output_range=limits)
    answer = smoother.smooth(torch.zeros(1), stream=RandomStream(0)).output
    low, high = limits or (-math.inf, math.inf)
    assert low <= float(answer.min()) <= float(answer.max()) <= high
    (draws,) = Sampler(step, UNIT, 100, 100).draw(torch.zeros(1), 100, RandomStream(0), "center")
    mean = directions_of(draws).mean(0)
    assert between(Angular(), answer, mean) < 1e-7
    assert float(answer @ mean) > 0


@pytest.mark.parametrize(("limits", "sign"), [((0.5, 1.0), 1), ((-1.0, -0.5), -1)])
def test_an_answer_too_short_for_its_range_is_lengthened(limits: tuple[float, float], sign: int) -> None:
    """Until its smallest entry is at the limit next to 0."""
    answer = direction._output(sign * torch.tensor([0.6, 0.8], dtype=torch.float64), 0.1, limits)
    assert answer.tolist() == pytest.approx([sign * 0.5, sign * 2 / 3])


@BOTH
def test_a_model_of_zero_outputs_has_no_direction(metric: Metric) -> None:
    """The answer is 0, and the certificate says nothing."""
    smoother = Smoother(torch.zeros_like, UNIT, Direction(metric), Budget(n=50, m=50))
    certificate = smoother.certify(ORIGIN, 0.1, stream=RandomStream(0))
    assert certificate.vacuous
    assert certificate.answer.tolist() == [0, 0]


def test_outputs_of_one_number_have_a_sign() -> None:
    smoother = Smoother(lambda x: x[:, 0] + 9, UNIT, Direction(Angular()), Budget(n=200, m=2_000))
    certificate = smoother.certify(ORIGIN, 0.1, stream=RandomStream(0))
    assert float(certificate.answer) == pytest.approx(9, abs=0.1)
    assert 0 < certificate.radius < 0.1


@BOTH
def test_an_attack_turns_the_mean_and_stays_below(metric: Metric) -> None:
    """Further than chance does, less than certified; each run answers."""
    smoother = Smoother(blurry, GaussianNoise(0.5), Direction(metric), Budget(n=500, m=2_000))
    certificate = smoother.certify(IMAGE, 0.5, stream=RandomStream(0))
    attacked = smoother.attack(IMAGE, certificate, Attack(steps=10), stream=RandomStream(1))
    still = smoother.distance(smoother.smooth(IMAGE, stream=RandomStream(2)).output, certificate.answer)
    assert attacked.abstained == 0
    assert 2 * still < max(attacked.movements) <= certificate.radius < 1


def test_what_is_attacked_is_the_direction_of_the_mean_direction() -> None:
    """Not the direction of the mean, nor the mean distance."""
    outputs = torch.tensor([[9.0, 0.0], [0.0, 1.0]])
    objective = Direction(Angular()).objective(torch.tensor([1.0, 1.0]))
    assert float(objective(outputs)) == pytest.approx(0, abs=1e-12)
    assert objective(outputs.requires_grad_()).item() == pytest.approx(0, abs=1e-12)


# --- what is refused -----------------------------------------------------------------------------------------------


class Doubled(Angular):
    """A distance of one's own."""

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return 2 * super().pairwise(a, b)


@pytest.mark.parametrize(
    "metric", [L2(), SquaredL2(), Jaccard(), Doubled(), DistanceFunction(lambda a, b: (a - b).abs().amax(1))]
)
def test_other_metrics_are_refused_in_one_line(metric: Metric) -> None:
    with pytest.raises(RequestError, match=r"^\S+ does not compare directions: expected Angular\(\) or Cosine\(\)$"):
        Smoother(blurry, UNIT, Direction(metric), Budget(n=9, m=9))


def test_integer_outputs_are_refused_in_one_line() -> None:
    smoother = Smoother(lambda x: x.long(), UNIT, Direction(Angular()), Budget(n=9, m=9))
    for ask in (smoother.smooth, lambda x: smoother.certify(x, 0.1)):
        with pytest.raises(RequestError, match=r"^outputs are torch\.int64: expected floating-point ones[^\n]+$"):
            ask(ORIGIN)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n": 0}, "n of the direction is 0: expected"),
        ({"metric": "angular"}, "metric is 'angular': expected an instance"),
    ],
)
def test_bad_certifiers_are_refused_in_one_line(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        Direction(**{"metric": Angular(), **changes})
    assert "\n" not in str(caught.value)


def test_candidates_bad_eps_and_outputs_beyond_the_range_are_refused() -> None:
    with pytest.raises(RequestError, match="n0 is 30"):
        Smoother(blurry, UNIT, Direction(Angular()), Budget(n=9, m=9, n0=30))
    for eps in (-1.0, math.nan, math.inf):
        with pytest.raises(RequestError, match="expected an l2 radius"):
            Smoother(blurry, UNIT, Direction(Angular()), Budget(n=9, m=9)).certify(IMAGE, eps)
    narrow = Smoother(blurry, UNIT, Direction(Angular()), Budget(n=9, m=9), output_range=(0.0, 0.1))
    with pytest.raises(ModelError, match="outside the declared output_range"):
        narrow.certify(IMAGE, 0.1)
