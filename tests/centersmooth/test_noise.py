"""What smoothing laws offer beside their contract, which is in test_contracts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from plugins import NOISES
from torch import Tensor

from centersmooth import L2, Budget, Center, CenterSmoother, GaussianNoise, Noise, RequestError, UniformNoise
from centersmooth.draws import Draws
from centersmooth.gathering import Setting
from centersmooth.noise import L2Ball
from centersmooth.noise.base import farthest


def test_reach_is_the_largest_eps() -> None:
    """Cohen's radius, sigma * Phi^-1(mass), where half is to be kept."""
    noise = GaussianNoise(0.5)
    assert noise.reach(0.8413447460685429, kept=0.5) == pytest.approx(0.5, rel=1e-9)
    assert noise.required_mass(0.5, noise.reach(0.9, kept=0.5)) <= 0.9
    assert noise.reach(0.4, kept=0.5) == 0
    assert noise.reach(1.0, kept=0.5) == noise.reach(1 - 2**-53, kept=0.5) < 9 * 0.5
    assert UniformNoise(0.5).reach(1.0, kept=0.5) <= 1.0  # whose supports are disjoint beyond


def test_a_property_that_holds_at_none_is_told_by_few_questions() -> None:
    """Halving down to the smallest number would take a thousand."""
    asked: list[float] = []

    def holds(eps: float) -> bool:
        asked.append(eps)
        return eps == 0

    assert farthest(holds) == 0
    assert len(asked) < 10
    assert farthest(lambda eps: eps <= 1e-200) == pytest.approx(1e-200, rel=1e-9)


@pytest.mark.parametrize("name", NOISES)
def test_masses_needed_are_probabilities(name: str) -> None:
    """Also after they are rounded up."""
    for row in NOISES[name]:
        noise = row.noise.at(torch.zeros(1) if row.x is None else row.x)
        for mass in (1 - 1e-15, 1.0):
            assert mass <= noise.required_mass(mass, row.eps) <= 1


class SingleDraws(Noise):
    """A law without a bound for several draws together."""

    threat = L2Ball()
    scale = 1.0
    sample: Callable[..., Tensor] = GaussianNoise(1.0).sample
    required_mass: Callable[..., float] = GaussianNoise(1.0).required_mass


def test_free_centers_need_a_bound_for_draws_together() -> None:
    setting = Setting(SingleDraws(), Budget(n=2_000, m=4_000, delta=0.1))
    assert Center(L2()).problem(setting, "measured", 0.5) == ""
    assert Center(L2()).unsuited(setting) == ""
    with pytest.raises(RequestError, match="has no bound for several draws together: use kind='sample'"):
        CenterSmoother(lambda x: x, L2(), setting.noise, setting.budget, kind="free")


def test_an_object_that_is_not_a_law_is_refused() -> None:
    with pytest.raises(RequestError, match=r"noise is 0.5: expected a law such as GaussianNoise\(sigma=0.25\)"):
        CenterSmoother(lambda x: x, L2(), 0.5, Budget())


def test_laws_are_plain_values() -> None:
    assert GaussianNoise(0.5) == dataclasses.replace(GaussianNoise(0.25), sigma=0.5)
    assert GaussianNoise(0.5).threat.unit == "l2"
    assert GaussianNoise(0.5).scale == 0.5
    assert torch.equal(*(GaussianNoise(1.0).sample(torch.zeros(2), 3, Draws(1, torch.zeros(2))) for _ in "ab"))
