"""The nearest prototype: known radii, coverage, and the errors of the published code, each of which is caught."""

from __future__ import annotations

import math
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor

from centersmooth import (
    Budget,
    GaussianNoise,
    InfeasibleError,
    Outcome,
    Prototypes,
    RandomStream,
    RequestError,
    Smoother,
)
from centersmooth.certifiers import expectation, prototypes
from centersmooth.certifiers.expectation import band_ranks
from centersmooth.certifiers.prototypes import PrototypeEvidence
from centersmooth.contracts import TwoOutputs
from centersmooth.gathering import Setting, Shared
from centersmooth.noise import RayleighNoise, UniformNoise
from centersmooth.noise.base import farthest

SIGMA = 1.0
NOISE = GaussianNoise(SIGMA)


def unit(generator: torch.Generator, *shape: int) -> Tensor:
    vectors = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return vectors / vectors.norm(dim=-1, keepdim=True)


def reach_of(certifier: Prototypes, mean: Tensor, rule: str, label: int = 0) -> float:
    """The largest eps certified where the mean embedding is known, but for what 10^12 draws leave open."""
    directions, least = certifier.bisectors(label)
    setting = Setting(NOISE, Budget())
    kept = certifier._kept((1 + directions @ mean) / 2, np.zeros((0, 0)), 10**12, rule, setting)
    return farthest(lambda eps: bool((kept(eps) > least).all()))


# --- Known values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "half_spaces", "lipschitz"), [(0.5, 0.674, 0.627), (0.9, 1.645, 1.128)])
def test_the_radius_at_a_distance_from_the_bisector(gamma: float, half_spaces: float, lipschitz: float) -> None:
    """Of prototypes of equal norm: sigma Phi^-1((1 + gamma)/2), against gamma sigma sqrt(pi/2)."""
    certifier = Prototypes(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    mean = torch.tensor([gamma, 0.0], dtype=torch.float64)
    assert reach_of(certifier, mean, "half_spaces") == pytest.approx(half_spaces, abs=1e-3)
    assert reach_of(certifier, mean, "lipschitz") == pytest.approx(lipschitz, abs=1e-3)


@pytest.mark.parametrize(("length", "apart"), [(1.0, 1.0), (1.0, 1e-13), (1e5, 1.0), (1e8, 1.0)])
def test_thresholds_of_bisectors_are_not_too_low_for_any_prototypes(length: float, apart: float) -> None:
    """Compared in fractions: along ``u`` the prototypes are equally far at ``2 q - 1`` or before it."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        first = length * unit(generator, 8)
        pair = Prototypes(torch.stack([first, first + apart * unit(generator, 8)]))
        (direction,), (least,) = pair.bisectors(0)
        at_threshold = [Fraction(float(2 * least - 1)) * Fraction(u) for u in direction.tolist()]
        nearer, farther = (
            sum((Fraction(c) - y) ** 2 for c, y in zip(center, at_threshold, strict=True))
            for center in pair.centers.tolist()
        )
        assert nearer <= farther


def test_lipschitz_is_never_beyond_half_spaces() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        certifier = Prototypes(unit(generator, 5, 8))
        mean = 0.9 * unit(generator, 8)
        label = int(certifier.nearest(mean[None])[0])
        by = {rule: reach_of(certifier, mean, rule, label) for rule in ("lipschitz", "half_spaces")}
        assert 0 < by["lipschitz"] <= by["half_spaces"]


def test_a_bisector_is_as_far_as_half_the_difference_of_squares_over_the_distance() -> None:
    """Not over its square: prototypes 0 and 2 are 1 away from their bisector at 0. There both are equally far."""
    certifier = Prototypes(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    directions, least = certifier.bisectors(0)
    assert float(1 + directions @ torch.zeros(2, dtype=torch.float64) - 2 * least) == pytest.approx(1, abs=1e-8)
    generator = torch.Generator().manual_seed(0)
    first, second = unit(generator, 2, 6)
    mean = 0.4 * first
    directions, least = Prototypes(torch.stack([first, second])).bisectors(0)
    margin = float(1 + directions @ mean - 2 * least)
    moved = mean - margin * directions[0]
    assert float((moved - first).norm()) == pytest.approx(float((moved - second).norm()), abs=1e-8)


def test_the_nearest_bisector_may_be_of_another_than_the_second_prototype() -> None:
    """In about a tenth of random cases; the radius is then that of the other."""
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(300):
        certifier = Prototypes(unit(generator, 5, 16))
        mean = unit(generator, 16) * float(torch.rand((), generator=generator))
        order = (certifier.centers - mean).norm(dim=1).argsort()
        label = int(order[0])
        directions, least = certifier.bisectors(label)
        margins = 1 + directions @ mean - 2 * least
        others = [k for k in range(5) if k != label]
        shares.append(float(margins.min() / margins[others.index(int(order[1]))]))
    assert 0.02 < sum(share < 1 - 1e-9 for share in shares) / len(shares) < 0.2
    assert min(shares) < 0.9


# --- Coverage -------------------------------------------------------------------------------------------------------

RUNS, ALPHA, EPS = 200, 0.1, 1.0
CENTERS = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)


def wrongly_certified(
    certifier: Prototypes,
    below: Tensor,
    above: Tensor,
    mass: float,
    m: int = 100,
    eps: float = EPS,
    rule: str = "half_spaces",
) -> int:
    """Runs that certify the prototype at x = 0, though it is another at x' = eps, where ``below`` has ``mass``."""
    setting = Setting(NOISE, Budget(n=10, m=m, alpha2=ALPHA))
    here = norm.cdf(norm.ppf(mass) + eps)
    hits = torch.rand(RUNS, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < here
    label = certifier.nearest((here * below + (1 - here) * above)[None])[0]
    there = certifier.nearest((mass * below + (1 - mass) * above)[None])[0]
    assert label != there
    directions, _ = certifier.bisectors(int(label))
    wrong = 0
    for run in hits:
        embeddings = torch.where(run[:, None], below, above)
        ordered = ((1 - embeddings @ directions.T) / 2).sort(0).values.numpy()[band_ranks(m) - 1]
        evidence = PrototypeEvidence(label, label, 0.0, embeddings.mean(0), m, ordered)
        wrong += certifier.certificate(evidence, eps, rule, setting).radius == 0
    return wrong


MOST = int(binom.isf(1e-9, RUNS, ALPHA))


@pytest.mark.parametrize("rule", Prototypes.rules)
@pytest.mark.parametrize("second", [CENTERS[1], torch.tensor([0.2, 0.0]).double()])
def test_the_prototype_stays_as_often_as_stated(rule: str, second: Tensor) -> None:
    """A step between two embeddings, whose mean is just beyond the bisector at x'."""
    third = torch.tensor([-0.4, 0.0]).double()
    centers = CENTERS if second is CENTERS[1] else torch.stack([torch.tensor([1.6, 0.0]).double(), third])
    assert wrongly_certified(Prototypes(centers), CENTERS[0], second, 0.499, rule=rule) <= MOST


def test_masses_without_confidence_are_caught() -> None:
    """Those seen, as if they were the true ones."""

    def plug_in(count: int, ranks: bytes, alpha: float) -> np.ndarray:
        return np.concatenate([[1.0], 1 - np.frombuffer(ranks, dtype=np.int64) / count])

    with patch.object(expectation, "_limits", plug_in):
        assert wrongly_certified(Prototypes(CENTERS), *CENTERS, 0.499, rule="cdf") > MOST


def test_embeddings_that_hardly_vary_are_certified_farther_by_their_masses() -> None:
    """Constant ones at a distance of 0.5 from the bisector, which only draws that were not seen could cross."""
    constant = CENTERS[0] / 2
    by = {
        rule: smoother_of(lambda b: constant.expand(len(b), 2), rule=rule).certify(torch.zeros(1), 0.5).reach
        for rule in Prototypes.rules
    }
    assert by["lipschitz"] < by["half_spaces"] < 0.7
    assert by["cdf"] > 2


def test_intervals_eight_times_too_narrow_are_caught() -> None:
    """Hoeffding's half width of a variable in [0, 1], an eighth of it: as in the published code."""

    def narrow(mean: float, count: int, alpha: float) -> float:
        return mean - math.sqrt(math.log(1 / alpha) / (2 * count)) / 8

    with patch.object(prototypes, "mean_floor", narrow):
        assert wrongly_certified(Prototypes(CENTERS), *CENTERS, 0.499) > MOST


class Squared(Prototypes):
    """Distances to the bisector over the squared distance of the prototypes, as in the published code."""

    def bisectors(self, label: int) -> tuple[Tensor, Tensor]:
        directions, least = super().bisectors(label)
        lengths = torch.stack(
            [(self.centers[label] - other).norm() for k, other in enumerate(self.centers) if k != label]
        )
        return directions / lengths[:, None], (1 + (2 * least - 1) / lengths) / 2


def test_a_squared_distance_of_prototypes_is_caught() -> None:
    """At a distance of 0.72 a margin of 0.6 would be one of 0.833."""
    close = torch.tensor([[0.36, 0.0], [-0.36, 0.0]], dtype=torch.float64)
    mean = torch.tensor([0.6, 0.0], dtype=torch.float64)
    for kind, margin in ((Prototypes, 0.6), (Squared, 0.833)):
        directions, least = kind(close).bisectors(0)
        assert float(1 + directions @ mean - 2 * least) == pytest.approx(margin, abs=1e-3)
    for kind, caught in ((Prototypes, False), (Squared, True)):
        assert (wrongly_certified(kind(close), *CENTERS, 0.499, m=1_000) > MOST) == caught


class SecondOnly(Prototypes):
    """The bisector with the second nearest prototype alone, here the one with index 1; as in the published code."""

    def bisectors(self, label: int) -> tuple[Tensor, Tensor]:
        directions, least = super().bisectors(label)
        return directions[:1], least[:1]


def test_the_second_nearest_prototype_alone_is_caught() -> None:
    """Prototype 1 is nearer to the mean, the bisector with prototype 2 is, and there a step goes."""
    centers = torch.tensor([[1.0, 0.0], [1.0, 0.57], [-1.2, 0.0]], dtype=torch.float64)
    assert (centers - torch.tensor([0.136, 0.0])).norm(dim=1).argsort().tolist() == [0, 1, 2]
    for kind, caught in ((Prototypes, False), (SecondOnly, True)):
        assert (wrongly_certified(kind(centers), *CENTERS, 0.449, m=10_000, eps=0.3) > MOST) == caught


def test_the_mean_moves_by_no_more_than_the_lipschitz_rule_says() -> None:
    """|g(x') - g(x)| = 2 (2 Phi(h/2) - 1) of the step that moves most, below sqrt(2/pi) h."""
    for h in (0.1, 0.5, 1.0, 2.0):
        moved = 2 * (2 * norm.cdf(h / 2) - 1)
        assert moved < math.sqrt(2 / math.pi) * h


# --- Requests -------------------------------------------------------------------------------------------------------


def smoother_of(model, noise=NOISE, **named) -> Smoother:
    return Smoother(model, noise, Prototypes(CENTERS.float()), Budget(n=100, m=1_000), **named)


def test_as_a_user_sees_it() -> None:
    smoother = smoother_of(TwoOutputs(CENTERS[0].float(), CENTERS[1].float(), threshold=2.0))
    near, far = smoother.certify(torch.zeros(1), [0.5, 2.5], stream=RandomStream(0))
    assert (near.label, near.radius, far.radius) == (0, 0.0, 1.0)
    assert 1.4 < near.reach < 2.0
    assert near.margin == pytest.approx(2 * norm.cdf(2) - 1, abs=0.1)
    assert (
        str(near) == "for every input within eps = 0.5 (l2) the nearest prototype is 0, except with probability 0.005"
    )
    assert "may be another than 0" in str(far)
    assert int(smoother.smooth(torch.zeros(1)).output) == 0


def test_a_mean_on_a_bisector_is_no_answer() -> None:
    certificate = smoother_of(TwoOutputs(*CENTERS.float(), threshold=0.0)).certify(torch.zeros(1), 0.5)
    assert certificate.outcome is Outcome.BAD_CENTER
    assert "not clearly nearest to prototype" in certificate.reason


def test_an_answer_without_a_certificate_is_not_measured() -> None:
    collector = Prototypes(CENTERS).collector(Setting(NOISE, Budget(n=4, m=5), None), Shared(), radius=False)
    collector.update("center", CENTERS[:1].expand(4, -1))
    evidence = collector.compute(CENTERS[0])
    assert (int(evidence.label), evidence.drawn, evidence.below) == (0, 0, None)
    torch.testing.assert_close(evidence.mean, CENTERS[0].double())


def test_an_attack_climbs_to_the_bisector() -> None:
    smoother = smoother_of(lambda b: torch.nn.functional.normalize(torch.cat([1 - b, b], dim=1), dim=1))
    certificate = smoother.certify(torch.zeros(1), 0.3, stream=RandomStream(0))
    attacked = smoother.attack(torch.zeros(1), certificate, stream=RandomStream(1))
    assert float(attacked.perturbed) == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("noise", [UniformNoise(1.0), RayleighNoise()])
def test_other_laws_have_half_spaces_only(noise) -> None:
    model = TwoOutputs(*CENTERS.float(), threshold=0.99)
    certificate = smoother_of(model, noise).certify(torch.full((1,), 0.5), 0.05, stream=RandomStream(0))
    assert certificate.radius is not None
    assert certificate.reach > 0
    with pytest.raises(InfeasibleError, match="the rule lipschitz is of Gaussian noise, expected rule=half_spaces"):
        smoother_of(model, noise, rule="lipschitz").certify(torch.full((1,), 0.5), 0.05)


def test_few_draws_are_refused_before_any() -> None:
    smoother = Smoother(lambda b: b, NOISE, Prototypes(CENTERS), Budget(n=10, m=5))
    with pytest.raises(InfeasibleError, match="m = 5 draws are too few for eps = 2 by cdf"):
        smoother.certify(torch.zeros(2), 2.0)


@pytest.mark.parametrize(
    ("centers", "words"),
    [
        (torch.zeros(3), "centers are .*: expected a floating-point tensor of shape"),
        (torch.zeros(1, 3), "centers are 1: expected at least two prototypes"),
        (torch.zeros(2, 3), "two of them are equal"),
        (torch.tensor([[0.0, math.nan], [1.0, 0.0]]), "centers are not finite"),
    ],
)
def test_centers_that_are_not_prototypes_are_refused(centers: Tensor, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Prototypes(centers)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda b: 3 + b, "an embedding has the norm .*: expected at most 1; let the model normalise"),
        (lambda b: b[:, :1], r"an embedding has the shape \(1,\): expected \(2,\)"),
    ],
)
def test_outputs_that_are_not_embeddings_are_refused(model, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        smoother_of(model).certify(torch.zeros(2), 0.5)
