"""Every smoothing law keeps the contract of `Noise`; laws that do not are caught."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from centersmooth import L2, Budget, Center, CenterSmoother, GaussianNoise, ModelError, Noise, RequestError
from centersmooth.contracts import check_noise
from centersmooth.draws import Draws
from centersmooth.gathering import Setting

LAWS: dict[str, tuple[Noise, float]] = {
    "gaussian": (GaussianNoise(0.5), 0.5),
    "gaussian, far": (GaussianNoise(1.0), 2.0),
    "gaussian, near": (GaussianNoise(2.0), 0.1),
}
"""A row a law, with the eps it is looked at."""


@pytest.mark.parametrize("law", LAWS)
def test_a_law_keeps_its_contract(law: str) -> None:
    check_noise(*LAWS[law])


class Understated(GaussianNoise):
    """Draws noise 30% smaller than it states."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return GaussianNoise(0.7 * self.sigma).sample(x, count, draws)


class Mirrored(GaussianNoise):
    """Takes for the inverse what is one for symmetric threats only; harmless here, so made asymmetric."""

    def required_mass(self, mass: float, eps: float) -> float:
        return 1 - (1 - mass) ** math.exp(eps)

    def kept_mass(self, mass: float, eps: float) -> float:
        return 1 - self.required_mass(1 - mass, eps)


class Shrinking(GaussianNoise):
    def required_mass(self, mass: float, eps: float) -> float:
        return mass * math.exp(-eps)


@pytest.mark.parametrize(
    ("noise", "words"),
    [(Understated(0.5), "half-line"), (Mirrored(0.5), "kept_mass"), (Shrinking(0.5), "falls with eps")],
)
def test_a_law_that_does_not_is_caught(noise: Noise, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        check_noise(noise, 0.5)


def test_reach_is_the_largest_eps() -> None:
    """Cohen's radius, sigma * Phi^-1(mass), where half is to be kept."""
    noise = GaussianNoise(0.5)
    assert noise.reach(0.8413447460685429, kept=0.5) == pytest.approx(0.5, rel=1e-9)
    assert noise.required_mass(0.5, noise.reach(0.9, kept=0.5)) <= 0.9
    assert noise.reach(0.4, kept=0.5) == 0
    assert noise.reach(1.0, kept=0.5) == math.inf


class SingleDraws(Noise):
    """A law without a bound for several draws together."""

    threat = "l2"
    sample: Callable[..., Tensor] = GaussianNoise(1.0).sample
    required_mass: Callable[..., float] = GaussianNoise(1.0).required_mass


def test_free_centers_need_a_bound_for_draws_together() -> None:
    setting = Setting(SingleDraws(), Budget(n=2_000, m=4_000, delta=0.1))
    assert Center(L2()).problem(setting, "measured", 0.5) == ""
    assert "has no bound for several draws together: use 'sample'" in Center(L2(), "free").problem(setting, "measured")


def test_an_object_that_is_not_a_law_is_refused() -> None:
    with pytest.raises(RequestError, match=r"noise is 0.5: expected a law such as GaussianNoise\(sigma=0.25\)"):
        CenterSmoother(lambda x: x, L2(), 0.5, Budget())


def test_laws_are_plain_values() -> None:
    assert GaussianNoise(0.5) == dataclasses.replace(GaussianNoise(0.25), sigma=0.5)
    assert GaussianNoise(0.5).threat == "l2"
    assert torch.equal(*(GaussianNoise(1.0).sample(torch.zeros(2), 3, Draws(1, torch.zeros(2))) for _ in "ab"))
