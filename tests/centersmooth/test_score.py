"""Mean scores: known values, whether the limits cover on models of known means, and whether broken variants are caught.

Coverage is counted in RUNS seeded runs, of which at most ``binom.isf(1e-9, RUNS, alpha)`` may fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor

from centersmooth import Budget, GaussianNoise, Noise, PatchNoise, RandomStream, RequestError, Score, Smoother
from centersmooth.certifiers import expectation
from centersmooth.certifiers import score as scores
from centersmooth.certifiers.score import ScoreCertificate, ScoreCollector, ScoreEvidence
from centersmooth.draws import Draws
from centersmooth.gathering import Setting, Shared
from centersmooth.noise import RayleighNoise, UniformNoise
from centersmooth.noise.rayleigh import mass_against
from centersmooth.noise.threat import Threat

RUNS, ALPHA = 150, 0.1
MOST = int(binom.isf(1e-9, RUNS, ALPHA))
UNIT = (0.0, 1.0)
BUDGET = Budget(n=10, m=200, alpha2=ALPHA)


def evidence_of(draws: Tensor, setting: Setting) -> ScoreEvidence:
    """The evidence of fresh draws ``(m, *out)``."""
    collector = Score().collector(setting, Shared(), radius=True)
    collector.update("fresh", draws)
    return collector.compute(draws[0])


def certificate_of(draws: Tensor, rule: str, eps: float, noise: Noise, budget: Budget = BUDGET) -> ScoreCertificate:
    setting = Setting(noise, Budget(n=budget.n, m=len(draws), alpha2=budget.alpha2), UNIT)
    return Score().certificate(evidence_of(draws, setting), eps, rule, setting)


# --- Known values ---------------------------------------------------------------------------------------------------


def test_the_two_point_rule_is_the_published_bound() -> None:
    """Phi(Phi^-1(g) -+ eps/sigma), but for a millionth of the error of the mean: Chiang et al. 2020."""
    draws = (torch.arange(1_000_000) % 10 < 8).double()
    certificate = certificate_of(draws, "two_point", 0.25, GaussianNoise(0.25))
    floor, ceiling = 0.8 - 0.0012, 0.8 + 0.0012
    assert (
        norm.cdf(norm.ppf(floor) - 1)
        < float(certificate.lower)
        < norm.cdf(norm.ppf(0.8) - 1)
        == pytest.approx(0.437, abs=1e-3)
    )
    assert norm.cdf(norm.ppf(0.8) + 1) < float(certificate.upper) < norm.cdf(norm.ppf(ceiling) + 1)


def test_scores_that_hardly_vary_cannot_fall_as_those_of_a_step() -> None:
    """A constant score: what was not seen, a mass of about ln(4/alpha)/m, is all that the cdf rule leaves open."""
    draws = torch.full((10_000,), 0.8)
    noise = GaussianNoise(1.0)
    by_cdf, by_mean = (certificate_of(draws, rule, 1.0, noise) for rule in ("cdf", "two_point"))
    assert float(by_cdf.lower) > 0.78
    assert float(by_mean.lower) < 0.44
    unseen = 1 - (ALPHA / 4) ** (1 / 10_000)
    assert float(by_cdf.lower) == pytest.approx(0.8 - 0.8 * norm.cdf(norm.ppf(unseen) + 1), abs=1e-6)


def test_with_known_masses_the_cdf_rule_is_never_wider() -> None:
    """The integral of kept masses against the kept mean, on laws of scores of many shapes."""
    generator = np.random.default_rng(0)
    noise = GaussianNoise(1.0)
    for _ in range(20):
        values = np.sort(generator.beta(*generator.uniform(0.1, 3, 2), 50))
        beyond = 1 - np.arange(50) / 50
        kept = [noise.kept_mass(mass, 0.7) for mass in beyond]
        by_cdf = float(np.diff(np.append(0, values)) @ kept)
        assert by_cdf >= noise.kept_mean(float(values.mean()), 0.7) - 1e-9


def test_a_range_of_any_place_and_width() -> None:
    """Scores in [-3, 5] that are scores in [0, 1] stretched have limits that are those stretched, and a radius too."""
    draws = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for rule in Score.rules:
        plain = certificate_of(draws, rule, 0.5, GaussianNoise(1.0))
        setting = Setting(GaussianNoise(1.0), BUDGET, (-3.0, 5.0))
        wide = Score().certificate(evidence_of(8 * draws - 3, setting), 0.5, rule, setting)
        assert float(wide.lower) == pytest.approx(8 * float(plain.lower) - 3)
        assert float(wide.upper) == pytest.approx(8 * float(plain.upper) - 3)
        assert wide.radius == pytest.approx(8 * plain.radius)


def test_the_radius_is_the_largest_movement_of_any_score() -> None:
    draws = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.2, 0.5, 1.0])
    for rule in Score.rules:
        certificate = certificate_of(draws, rule, 0.5, GaussianNoise(1.0))
        center, lower, upper = certificate.answer, certificate.lower, certificate.upper
        assert bool(((lower <= center) & (center <= upper)).all())
        assert certificate.radius == pytest.approx(float(torch.maximum(upper - center, center - lower).max()))
        assert certificate.details == {
            "score": float(center[2]),
            "score_low": float(lower[2]),
            "score_high": float(upper[2]),
        }


# --- Coverage -------------------------------------------------------------------------------------------------------

H = 1.0
WORLDS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[float], float]]] = {
    "a step at the lower limit's worst case": (lambda z: (z < 0.5).double(), lambda s: norm.cdf(0.5 - s)),
    "a rare step": (lambda z: (z > 2).double(), lambda s: norm.sf(2 - s)),
    "a smooth score": (lambda z: torch.special.ndtr(3 * z), lambda s: norm.cdf(3 * s / math.sqrt(10))),
}
"""Scores of a normal number, and their mean where it is shifted by ``s``."""


def failures(rule: str, world: str) -> int:
    """Runs whose limits exclude the mean somewhere within ``H``; it is monotone, so at an end."""
    score, mean = WORLDS[world]
    ends = sorted((mean(-H), mean(H)))
    draws = torch.randn(RUNS, BUDGET.m, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = [certificate_of(score(run), rule, H, GaussianNoise(1.0)) for run in draws]
    return sum(float(one.lower) > ends[0] or float(one.upper) < ends[1] for one in found)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("rule", Score.rules)
def test_limits_cover(rule: str, world: str) -> None:
    assert failures(rule, world) <= MOST


def plug_in(count: int, ranks: bytes, alpha: float) -> np.ndarray:
    """The masses seen, as if they were the true ones."""
    seen = 1 - np.frombuffer(ranks, dtype=np.int64) / count
    return np.concatenate([[1.0], seen])


def test_masses_without_confidence_are_caught() -> None:
    with patch.object(expectation, "_limits", plug_in):
        assert failures("cdf", "a step at the lower limit's worst case") > MOST


def test_a_mean_without_confidence_is_caught() -> None:
    with patch.object(scores, "mean_floor", lambda mean, count, alpha: max(0.0, mean)):
        assert failures("two_point", "a step at the lower limit's worst case") > MOST


def joint_failures() -> int:
    """Runs in which one of fourteen independent scores of mean 0.7 has a lower limit above its mean."""
    draws = (torch.rand(RUNS, BUDGET.m, 14, generator=torch.Generator().manual_seed(1)) < 0.7).double()
    found = [certificate_of(run, "two_point", 0.0, GaussianNoise(1.0)) for run in draws]
    return sum(bool(((one.lower > 0.7) | (one.upper < 0.7)).any()) for one in found)


def test_all_scores_of_an_output_hold_at_once() -> None:
    """Without a share of alpha for each side of each coordinate they do not."""
    assert joint_failures() <= MOST
    with patch.object(scores, "_share", lambda evidence, setting: setting.budget.alpha2):
        assert joint_failures() > MOST


# --- Any law --------------------------------------------------------------------------------------------------------


class HalfLost(Noise):
    """Two noisy inputs, equally likely, of which an attacker takes one away and puts another in its place.

    Its bound is of sets, and is the best there is for them: one of them may be lost.
    """

    scale = 1.0

    @property
    def threat(self) -> Threat:
        return GaussianNoise(1.0).threat

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return x + (draws.uniform((count, *x.shape)) < 0.5)

    def required_mass(self, mass: float, eps: float) -> float:
        if mass == 0 or eps == 0:
            return mass
        return 0.5 + 1e-9 if mass <= 0.5 else 1.0


def test_a_bound_of_sets_is_not_taken_for_one_of_scores() -> None:
    """Scores 1 and 1/2 at the two inputs: at x' 1/2 and 0, of mean 1/4, though sets of mass 3/4 keep 1/2."""
    noise = HalfLost()
    assert noise.kept_mass(0.75, 1.0) == pytest.approx(0.5)
    assert 0.2 < noise.kept_mean(0.75, 1.0) <= 0.25
    draws = 0.5 + 0.5 * (torch.arange(100_000) % 2).double()
    for rule in Score.rules:
        assert float(certificate_of(draws, rule, 1.0, noise).lower) <= 0.25
    with patch.object(HalfLost, "kept_mean", Noise.kept_mass):
        assert float(certificate_of(draws, "two_point", 1.0, noise).lower) > 0.25


@pytest.mark.parametrize("eps", [0.1, 0.4, 0.8])
def test_the_kept_mean_is_below_every_mixture_of_sets(eps: float) -> None:
    """Rayleigh noise loses other sets against smaller exponents than against larger ones: both are convex, in one."""
    noise, masses = RayleighNoise(), np.linspace(0.05, 0.95, 7)
    for direction in (1, -1):
        kept = [kept_against(direction * eps, mass) for mass in masses]
        for i, first in enumerate(masses):
            for j, second in enumerate(masses[:i]):
                mixed = noise.kept_mean((first + second) / 2, eps)
                assert mixed <= (kept[i] + kept[j]) / 2
                assert mixed > noise.kept_mass((first + second) / 2, eps) - 0.02


def kept_against(log_gamma: float, mass: float) -> float:
    """The mass that a set of ``mass`` at ``x`` keeps at ``x^gamma``: the inverse of `mass_against`, in closed form."""
    power = math.exp(-2 * log_gamma)
    kept = 1 - (1 - mass) ** power if log_gamma > 0 else mass**power
    assert mass_against(log_gamma, kept) == pytest.approx(mass)
    return kept


def test_laws_of_total_variation_lose_their_distance_and_no_more() -> None:
    """By both rules: what one noisy input in ten can do to a score in [0, 1]."""
    draws = torch.full((100_000,), 0.6)
    noise = UniformNoise(0.5)
    for rule, limit in (("two_point", 0.6 - 0.1), ("cdf", 0.6 - 0.1 * 0.6)):
        assert float(certificate_of(draws, rule, 0.1, noise).lower) == pytest.approx(limit, abs=0.01)
        assert float(certificate_of(draws, rule, 0.1, noise).lower) < limit


def test_patches_at_an_image() -> None:
    smoother = Smoother(lambda b: b[:, 0].mean((1, 2)), PatchNoise(3), Score(), Budget(n=50, m=500), output_range=UNIT)
    certificate = smoother.certify(torch.ones(1, 8, 8), 1, stream=RandomStream(0))
    assert float(certificate.answer) == pytest.approx(9 / 64)
    assert float(certificate.lower) == pytest.approx(9 / 64 * (1 - 9 / 64), abs=0.03)


# --- Requests -------------------------------------------------------------------------------------------------------


def test_what_it_says() -> None:
    smoother = Smoother(torch.sigmoid, GaussianNoise(0.5), Score(), output_range=UNIT)
    certificate = smoother.certify(torch.zeros(1), 0.25, stream=RandomStream(0))
    assert str(certificate).startswith("for every input within eps = 0.25 (l2) the mean score, 0.49")
    assert str(certificate).endswith("except with probability 0.005")
    assert certificate.about == "map"
    assert smoother.smooth(torch.zeros(1), stream=RandomStream(0)).output.item() == pytest.approx(0.5, abs=0.02)


def test_a_range_is_needed() -> None:
    with pytest.raises(RequestError, match="output_range is None: a mean needs hard limits of every output"):
        Smoother(torch.sigmoid, GaussianNoise(0.5), Score())


def test_more_scores_than_memory_holds_are_refused() -> None:
    setting = Setting(GaussianNoise(1.0), Budget(m=1_000_000), UNIT)
    with pytest.raises(RequestError, match="an output has 784 scores, and m is 1000000: expected at most 342392 draws"):
        Score().check(setting, torch.zeros(2, 28, 28))


def test_an_answer_takes_no_more_draws_than_a_certificate() -> None:
    setting = Setting(GaussianNoise(1.0), Budget(n=1_000, m=100), UNIT)
    assert ScoreCollector(setting, radius=False).wants("center") == 100
    assert ScoreCollector(setting, radius=True).wants("center") == 0
