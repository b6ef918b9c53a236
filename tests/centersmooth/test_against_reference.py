"""The library against plain loops, on the same draws: every metric, Smooth and Smooth-HD, with both kinds of bounds."""

from __future__ import annotations

import math

import pytest
import torch
from gathering_support import gather_centers
from reference_algorithms import run
from reference_distances import REFERENCE

from centersmooth import (
    L1,
    L2,
    OSPA,
    Angular,
    Budget,
    CenterSmoother,
    Cosine,
    GaussianNoise,
    Jaccard,
    Metric,
    Outcome,
    RandomStream,
    SquaredL2,
    TotalVariation,
)
from centersmooth.sampling import Sampler

SIGMA, H = 0.5, 0.25
WEIGHTS = torch.randn(6, 24, generator=torch.Generator().manual_seed(1))


def image_model(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ WEIGHTS).reshape(-1, 2, 3, 4)


def box_model(x: torch.Tensor) -> torch.Tensor:
    """Boxes of all sizes; about every tenth one is empty."""
    out = torch.tanh(x @ WEIGHTS[:, :4])
    return torch.cat([out[:, :2], out[:, :2] + (0.7 + out[:, 2:]).clamp(min=0)], dim=1)


def list_model(x: torch.Tensor) -> torch.Tensor:
    """Three boxes of those sizes, some of them empty."""
    return torch.stack([box_model(x), box_model(x.flip(1)), box_model(-x)], dim=1)


CASES = [(metric, image_model) for metric in (L1(), L2(), SquaredL2(), Cosine(), Angular(), TotalVariation())]
CASES += [(Jaccard(), box_model), (OSPA(), list_model)]
DIAMETER = {"Cosine": 2.0, "Angular": 1.0, "Jaccard": 1.0, "OSPA": 1.0}


@pytest.mark.parametrize("rule", ["paper", "exact"])
@pytest.mark.parametrize("n0", [0, 9])
@pytest.mark.parametrize(("metric", "model"), CASES, ids=lambda value: getattr(value, "name", ""))
def test_same_answer_as_plain_loops(metric: Metric, model, n0: int, rule: str) -> None:
    """Center, its radius, the share around it, the radius and the certificate: all as in the paper's algorithms."""
    budget = Budget(n=61, m=150, delta=0.35, alpha1=0.1, alpha2=0.1, n0=n0)
    x, noise, stream = torch.linspace(-1, 1, 6), GaussianNoise(SIGMA), RandomStream(seed=0, point=8)
    sampler = Sampler(model, noise, 16, 64)
    sample = torch.cat(list(sampler.draw(x, budget.n, stream, "center")))
    candidates = torch.cat(list(sampler.draw(x, n0, stream, "candidates"))) if n0 else sample
    fresh = torch.cat(list(sampler.draw(x, 150, stream, "fresh")))
    expected = run(
        list(candidates), list(sample), list(fresh), REFERENCE[metric.name],
        n=budget.n, m=budget.m, delta=budget.delta, alpha1=budget.alpha1, alpha2=budget.alpha2,
        h=H, gamma=metric.gamma, bounds=rule,
    )  # fmt: skip

    smoother = CenterSmoother(model, metric, noise, budget, rule=rule, forward_block=16, batch_size=64)
    certificate = smoother.certify(x, H * SIGMA, stream=stream)
    inside = gather_centers(sampler, {"d": metric}, budget, x, stream)["d"].inside
    assert certificate.outcome is Outcome.CERTIFIED
    assert torch.equal(certificate.answer, expected.center)
    assert inside / budget.n == expected.frac
    capped = min(expected.certificate, DIAMETER.get(metric.name, math.inf))
    measured = [certificate.r_center, certificate.r_hat, certificate.radius]
    assert measured == pytest.approx([expected.r_center, expected.r_hat, capped], rel=1e-5)


@pytest.mark.parametrize("rule", ["paper", "exact"])
def test_same_abstentions_as_plain_loops(rule: str) -> None:
    """Two modes of half the mass each, at the least feasible n: about half of the runs have to abstain."""
    budget = Budget(n=48, m=48, delta=0.13 if rule == "exact" else 0.18, alpha1=0.1, alpha2=0.1)
    x, noise = torch.zeros(1), GaussianNoise(SIGMA)
    sampler, answers = Sampler(torch.sign, noise, 48, 48), []
    smoother = CenterSmoother(torch.sign, L1(), noise, budget, rule=rule, forward_block=48)
    for seed in range(40):
        stream = RandomStream(seed)
        sample, fresh = (torch.cat(list(sampler.draw(x, 48, stream, stage))) for stage in ("center", "fresh"))
        expected = run(
            list(sample), list(sample), list(fresh), REFERENCE["L1"],
            n=48, m=48, delta=budget.delta, alpha1=0.1, alpha2=0.1, h=0.0, gamma=1.0, bounds=rule,
        )  # fmt: skip
        certificate = smoother.certify(x, 0.0, stream=stream)
        assert certificate.radius == pytest.approx(expected.certificate)
        answers.append(expected.certificate is None)
    assert 5 < sum(answers) < 35
