"""Means of outputs that are kept in a ball: the ball holds them, its reach holds, and certificates still cover."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plugins import METRICS, outputs_for
from scipy.stats import binom
from torch import Tensor

from centersmooth import L1, L2, Attack, Budget, GaussianNoise, Mean, OutputBall, RandomStream, RequestError, Smoother
from centersmooth.certifiers.expectation import reach
from centersmooth.certifiers.mean import MEAN_RULES
from centersmooth.gathering import Setting, Shared
from centersmooth.metrics import Metric, TotalVariation

SEMINORMS = [metric for metric in METRICS.values() if metric.seminorm]


@pytest.mark.parametrize("metric", SEMINORMS, ids=lambda one: one.name)
@given(data=st.data(), radius=st.sampled_from([1e-3, 0.5, 4.0]))
def test_clipped_outputs_are_in_the_ball_and_within_its_reach(
    metric: Metric, data: st.DataObject, radius: float
) -> None:
    """Of any other output too: the reach is the farthest that an output of the ball can be from it."""
    outputs = data.draw(outputs_for(metric))
    ball, other = OutputBall(outputs[0], radius), outputs[-1]
    clipped = ball.clip(metric, outputs)

    def farthest_from(output: Tensor) -> float:
        return float(metric.pairwise(metric.features(clipped), metric.features(output[None].double())).max())

    assert farthest_from(ball.center) <= ball.diameter / 2
    assert farthest_from(other) <= ball.reach(metric, other)
    inside = metric.pairwise(metric.features(outputs), metric.features(outputs[:1]))[:, 0] <= 0.999 * radius
    assert torch.equal(clipped[inside], outputs[inside].double())


def test_the_reach_is_attained() -> None:
    """On the far side of the center."""
    ball, output = OutputBall(torch.zeros(3), 2.0), torch.tensor([3.0, 0.0, 0.0])
    far = ball.clip(L2(), torch.tensor([[-9.0, 0.0, 0.0]]))
    assert torch.equal(far, torch.tensor([[-2.0, 0.0, 0.0]]).double())
    assert ball.reach(L2(), output) == pytest.approx(5.0, rel=2e-5)


def wild(inputs: Tensor) -> Tensor:
    """Mostly about 0.5; the farthest corner of the range for one input in a hundred."""
    quiet = 0.5 + 0.02 * torch.tanh(inputs)
    return torch.where(inputs[:, :1] > 2.33, torch.ones_like(quiet), quiet)


BALL = OutputBall(torch.full((40,), 0.5), 0.3)
BUDGET = Budget(n=1_000, m=5_000)


def smoother(ball: OutputBall | None, metric: Metric | None = None) -> Smoother:
    return Smoother(wild, GaussianNoise(1.0), Mean(metric or L2(), ball=ball), BUDGET, output_range=(0.0, 1.0))


def test_a_ball_makes_certificates_smaller_and_a_large_one_changes_nothing() -> None:
    x = torch.zeros(40)
    for metric in (L2(), L1()):
        plain, small, large = (
            smoother(ball, metric).certify(x, 0.5, stream=RandomStream(0))
            for ball in (None, OutputBall(BALL.center, 0.3), OutputBall(BALL.center, 1e3))
        )
        assert large.radius == pytest.approx(plain.radius, rel=1e-6)
        assert small.radius < 0.6 * plain.radius
        torch.testing.assert_close(large.answer, plain.answer)


def test_certificates_cover_the_clipped_mean() -> None:
    """No run of the clipped mean at ``x'`` is beyond its radius, and an attack stays within it."""
    x, shift, runs = torch.zeros(40), torch.zeros(40), 40
    shift[0] = 0.5
    clipped, beyond = smoother(BALL), 0
    for run in range(runs):
        certificate = clipped.certify(x, 0.5, stream=RandomStream(run))
        moved = clipped.smooth(x + shift, stream=RandomStream(run, point=1)).output
        beyond += clipped.distance(certificate.answer, moved) > certificate.radius
    assert beyond <= binom.isf(1e-9, runs, 0.01)
    found = clipped.attack(x, certificate, Attack("pgd", steps=5), stream=RandomStream(0))
    assert max(found.movements) <= certificate.radius


def one_of_many(inputs: Tensor) -> Tensor:
    """The ``k``-th unit vector for one of 2,000 equal parts of the noise: an l1 ball of radius 1 holds them all."""
    part = (torch.special.ndtr(inputs[:, 0].double()) * 2_000).long().clamp(0, 1_999)
    return torch.nn.functional.one_hot(part, 2_000).float()


def moved_beyond(rule: str) -> int:
    """How many of ten runs at ``x`` itself move farther than their certificate at next to no ``eps``."""
    ball, noise = OutputBall(torch.zeros(2_000), 1.0), GaussianNoise(1.0)
    certifier, budget = Mean(L1(), n=500, ball=ball), Budget(n=500, m=2_000)
    unit = Smoother(one_of_many, noise, certifier, budget, rule=rule, output_range=(-1.0, 1.0))
    beyond = 0
    for run in range(2):
        certificate = unit.certify(torch.zeros(1), 1e-6, stream=RandomStream(run))
        for point in range(1, 6):
            moved = unit.smooth(torch.zeros(1), stream=RandomStream(run, point=point)).output
            beyond += unit.distance(certificate.answer, moved) > certificate.radius
    return beyond


@pytest.mark.parametrize("rule", MEAN_RULES)
def test_in_l1_the_sides_of_the_range_count_and_not_the_ball(rule: str) -> None:
    assert moved_beyond(rule) == 0


def test_the_ball_in_the_place_of_the_sides_is_caught() -> None:
    with patch.object(Mean, "_sides", lambda *rest: None):
        assert moved_beyond("local") == 10


@pytest.mark.parametrize("metric", [one for one in SEMINORMS if one.seminorm == "l1"], ids=lambda one: one.name)
def test_the_sides_are_those_of_the_reference_or_more(metric: Metric) -> None:
    images = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = lambda inputs: images[(torch.special.ndtr(inputs[:, 0].double()) * 60).long().clamp(0, 59)]  # noqa: E731
    setting = Setting(GaussianNoise(1.0), Budget(n=20, m=50), (0.0, 1.0), 10)
    certifier = Mean(metric, ball=OutputBall(torch.full((1, 4, 4), 0.5), 2.0))
    collector = certifier.collector(setting, Shared(), radius=True)
    draws = GaussianNoise(1.0).sample(torch.zeros(1), 70, RandomStream(0).draws("test", 0, torch.zeros(1)))
    collector.update("center", model(draws[:20]))
    collector.update("fresh", model(draws[20:]))
    evidence = collector.compute(model(torch.zeros(1, 1))[0])
    exact = reach(metric, collector.reference, (0.0, 1.0))
    assert exact <= certifier._sides(evidence, setting) <= 2 * exact
    assert evidence.reach < exact


def test_a_ball_around_the_answer_of_other_outputs_is_refused() -> None:
    for ball, expected in (
        (OutputBall(torch.zeros(3), 1.0), r"center of the ball has the shape \(3,\): expected \(40,\)"),
        (OutputBall(torch.full((40,), 2.0), 1.0), r"center of the ball leaves the output_range \(0.0, 1.0\)"),
    ):
        with pytest.raises(RequestError, match=expected):
            smoother(ball).certify(torch.zeros(40), 0.5)
    for end in (0.0, 1.0):
        OutputBall(torch.full((40,), end), 1.0).check(torch.zeros(2, 40), (0.0, 1.0))
    with pytest.raises(RequestError, match="radius of the ball is 0: expected a positive number"):
        OutputBall(torch.zeros(3), 0)
    with pytest.raises(RequestError, match=r"ball is \(.*\): expected OutputBall"):
        Mean(L2(), ball=(torch.zeros(3), 1.0))
    with pytest.raises(RequestError, match="center of the ball is "):
        OutputBall([0.0, 0.0], 1.0)


def test_total_variation_of_images_is_clipped_as_a_whole() -> None:
    """An image twice as far as the ball is wide comes to half of it, pixel by pixel."""
    image = torch.arange(16.0).view(1, 1, 4, 4) / 16
    metric = TotalVariation()
    distance = float(metric.pairwise(metric.features(image), metric.features(torch.zeros_like(image))))
    torch.testing.assert_close(OutputBall(torch.zeros(1, 4, 4), distance / 2).clip(metric, image), image.double() / 2)
