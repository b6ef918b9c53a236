"""Additive laws: their bounds in closed form and against brute force, what center smoothing certifies under them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plugins import NOISES, VECTORS
from scipy.stats import binom, laplace, uniform
from torch import Tensor

from centersmooth import (
    L2,
    Angular,
    Attack,
    Budget,
    Center,
    CenterSmoother,
    Direction,
    EllipsoidNoise,
    GaussianNoise,
    Label,
    LaplaceNoise,
    Mean,
    ModelError,
    Nearest,
    Noise,
    RandomStream,
    RequestError,
    Smoother,
    UniformNoise,
)
from centersmooth.contracts import LinearModel, check_certifier, check_noise
from centersmooth.draws import Draws
from centersmooth.noise import DrawsTogether, GaussianShift
from centersmooth.noise.laplace import _required_of_responses

MASSES = (0.1, 0.55, 0.9)
ROWS = [row for name in ("gaussian", "ellipsoid", "laplace", "uniform") for row in NOISES[name]]


@pytest.mark.parametrize(
    ("noise", "eps", "expected"),
    [
        (GaussianNoise(1.0), 0.5, (0.217239, 0.734231, 0.962589)),
        (GaussianNoise(0.5, p=math.inf).at(torch.zeros(3, 32, 32)), 0.01, (0.431310, 0.891431, 0.991577)),
        (LaplaceNoise(0.5), 0.25, (0.164872, 0.727061, 0.939347)),
        (UniformNoise(0.5), 0.2, (0.3, 0.75, 1.0)),
        (UniformNoise(0.5, p=math.inf).at(torch.zeros(100)), 0.01, (0.733968, 1.0, 1.0)),
    ],
)
def test_required_masses_are_those_of_the_closed_forms(noise: Noise, eps: float, expected: tuple[float, ...]) -> None:
    assert [noise.required_mass(mass, eps) for mass in MASSES] == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("noise", "eps", "expected"),
    [
        (GaussianNoise(1.0), 0.5, (0.389144, 0.869846, 0.988742)),
        (LaplaceNoise(1.0), 0.25, (0.204173, 0.735568, 0.963184)),
        (UniformNoise(0.5), 0.2, (0.6904, 1.0, 1.0)),
    ],
)
def test_required_masses_of_four_draws(noise: DrawsTogether, eps: float, expected: tuple[float, ...]) -> None:
    found = [noise.required_mass_of_draws(mass, eps, 4) for mass in MASSES]
    assert found == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.noise))
@given(mass=st.floats(1e-12, 1), share=st.floats(0.01, 1), draws=st.integers(1, 40))
def test_a_bound_rises_with_all_it_depends_on(row, mass: float, share: float, draws: int) -> None:
    noise, eps = row.noise.at(torch.zeros(3)), row.eps
    required, smaller = noise.required_mass(mass, eps), noise.required_mass(mass, share * eps)
    assert mass <= smaller <= required * (1 + 1e-12) <= 1 + 1e-12
    assert noise.required_mass(share * mass, eps) <= required * (1 + 1e-12)
    together = noise.required_mass_of_draws(mass, eps, draws)
    assert required * (1 - 1e-12) <= together <= noise.required_mass_of_draws(mass, eps, draws + 1) * (1 + 1e-12)
    assert noise.required_mass_of_draws(mass, eps, 1) == pytest.approx(required, rel=1e-11)


@given(mass=st.floats(0, 1), shift=st.floats(0, 50))
def test_a_laplace_shift_is_that_of_the_distribution_function(mass: float, shift: float) -> None:
    exact = float(laplace.cdf(laplace.ppf(mass) + shift)) if 0 < mass < 1 else mass
    required = LaplaceNoise(1.0).required_mass(mass, shift)
    assert exact * (1 - 1e-11) <= required <= exact * (1 + 1e-9)


def least_of_draws(mass: float, shift: float, draws: int, cells: int = 2_000) -> float:
    """What several Laplace draws require, from below: the product of the ratio's law on a grid (Neyman, Pearson)."""
    edges = np.linspace(0, shift, cells + 1)
    at_x = np.concatenate([[0.5], np.diff(laplace.cdf(edges)), [laplace.sf(shift)]])
    at_x_prime = at_x[::-1]
    p, q = at_x, at_x_prime
    for _ in range(draws - 1):
        p, q = np.convolve(p, at_x), np.convolve(q, at_x_prime)
    return float(np.interp(mass, np.concatenate([[0], q.cumsum()]), np.concatenate([[0], p.cumsum()])))


@pytest.mark.parametrize(("mass", "exact"), [(0.1, 0.20329), (0.58, 0.75877), (0.9, 0.96098)])
def test_four_laplace_draws_are_bounded_within_a_hundredth(mass: float, exact: float) -> None:
    """By the better of two bounds; the one of a single shift by four times as much is off by up to 0.09."""
    assert least_of_draws(mass, 0.25, 4) == pytest.approx(exact, abs=1e-4)
    assert exact < LaplaceNoise(1.0).required_mass_of_draws(mass, 0.25, 4) < exact + 0.01
    assert LaplaceNoise(1.0).required_mass(mass, 1.0) > exact + 0.002


@given(
    mass=st.floats(1e-3, 0.999), shift=st.floats(0.01, 2), draws=st.integers(1, 6), scale=st.sampled_from([0.1, 1.0])
)
def test_laplace_draws_together_never_require_more_than_is_said(
    mass: float, shift: float, draws: int, scale: float
) -> None:
    required = LaplaceNoise(scale).required_mass_of_draws(mass, shift * scale, draws)
    assert least_of_draws(mass, shift, draws, cells=60) <= required * (1 + 1e-9)


@given(mass=st.floats(1e-3, 0.999), shift=st.floats(0.01, 3), draws=st.integers(1, 30))
def test_randomized_responses_are_a_binomial_test(mass: float, shift: float, draws: int) -> None:
    r, count = 1 / (1 + math.exp(-shift)), np.arange(draws + 1)
    q, p = binom.cdf(count, draws, r), binom.cdf(count, draws, 1 - r)
    expected = np.interp(mass, np.concatenate([[0], q]), np.concatenate([[0], p]))
    assert _required_of_responses(mass, shift, draws) == pytest.approx(float(expected), rel=1e-8)


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (GaussianNoise(1.0, p=1), (0.253, 1.282, 2.326)),
        (LaplaceNoise(0.5**0.5), (0.158, 1.138, 2.766)),
        (UniformNoise(3**0.5), (0.346, 1.386, 1.697)),
    ],
    ids=str,
)
def test_how_far_a_class_reaches_in_l1_at_one_standard_deviation(noise: Noise, expected: tuple[float, ...]) -> None:
    """As docs/which-noise.md says."""
    assert [noise.reach(mass, kept=0.5) for mass in (0.6, 0.9, 0.99)] == pytest.approx(expected, abs=5e-4)


def random_directions(p: float, d: int, count: int = 2_000) -> np.ndarray:
    """Vectors of ``l_p`` norm 1, in few coordinates or in many."""
    generator = np.random.default_rng(0)
    vectors = np.abs(generator.normal(size=(count, d))) ** generator.uniform(0.2, 5, size=(count, 1))
    return vectors / np.linalg.norm(vectors, p, axis=1, keepdims=True)


@pytest.mark.parametrize("d", [1, 2, 3, 20])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
def test_no_perturbation_shifts_a_normal_variable_further(p: float, d: int) -> None:
    shift = GaussianNoise(0.5, p=p).at(torch.zeros(d)).shift(0.7)
    furthest = 0.7 * np.linalg.norm(random_directions(p, d), axis=1).max() / 0.5
    attained = 1.4 * max(1, np.linalg.norm(np.ones(d)) / np.linalg.norm(np.ones(d), p))
    assert furthest <= shift * (1 + 1e-9)
    assert shift == pytest.approx(attained, rel=1e-9)


@pytest.mark.parametrize("d", [1, 2, 3, 20])
@pytest.mark.parametrize("h", [0.3, 1.0, 1.2, 1.9, 2.5])
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_no_perturbation_moves_a_cube_further(p: float, h: float, d: int) -> None:
    """Total variation distance of two cubes; attained on an axis, or by an equal split where that is the worst."""
    noise = UniformNoise(0.5, p=p).at(torch.zeros(d))
    directions = np.concatenate(
        [random_directions(p, d), np.eye(d)[:1], np.ones((1, d)) / np.linalg.norm(np.ones(d), p)]
    )
    distances = 1 - np.prod(np.clip(1 - h * directions / 2, 0, None), axis=1)
    bound = noise.required_mass(0.0, 0.5 * h)
    assert distances.max() <= bound * (1 + 1e-12)
    if p != 2 or h <= 1:
        assert bound == pytest.approx(distances.max(), rel=1e-9)


def test_an_ellipsoid_is_a_ball_in_units_of_its_shape() -> None:
    noise = EllipsoidNoise(2.0, torch.tensor([0.5, 0.25], dtype=torch.float64))
    size = noise.threat.norm(torch.tensor([0.1, 0.2]))
    assert size == pytest.approx(0.824621, abs=1e-6)
    assert noise.shift(size) == size / 2
    assert noise.required_mass(0.6, size) == GaussianNoise(2.0).required_mass(0.6, size)
    x = torch.tensor([10.0, -3.0], dtype=torch.float64)
    drawn = noise.sample(x, 40_000, RandomStream(0).draws("ellipsoid", 0, x))
    assert drawn.mean(0).tolist() == pytest.approx(x.tolist(), abs=0.03)
    assert drawn.std(0).tolist() == pytest.approx([1.0, 0.5], rel=0.02)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_noise_of_a_shape_in_half_precision_is_as_large_as_it_says(half: torch.dtype) -> None:
    shape, x = torch.full((4,), 2.0**-13, dtype=half), torch.zeros(4)
    drawn, meant = (
        EllipsoidNoise(2.0**-12 * 1.001, one).sample(x, 8, RandomStream(0).draws("ellipsoid", 0, x))
        for one in (shape, shape.double())
    )
    torch.testing.assert_close(drawn, meant, rtol=1e-6, atol=0.0)


def test_the_shape_of_an_ellipsoid_is_that_of_the_input_or_broadcasts() -> None:
    noise = EllipsoidNoise(1.0, torch.ones(3, 1, 1))
    x = torch.zeros(3, 4, 5)
    assert noise.sample(x, 2, RandomStream(0).draws("one", 0, x)).shape == (2, 3, 4, 5)
    with pytest.raises(RequestError, match=r"^shape is \(3, 1, 1\) and the input \(2, 4\): expected one number"):
        noise.sample(torch.zeros(2, 4), 2, RandomStream(0).draws("one", 0, x))


# --- In many coordinates: draws against the set that the bound says is worst -----------------------------------------

X = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
ONES = torch.ones(3, dtype=torch.float64)
AXIS = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)


def beyond(direction: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """How far draws are from ``x`` along a direction."""
    return lambda drawn, x: (drawn - x) @ direction


def outside(direction: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """By how many coordinates draws are outside of the cube of half width 0.5 around ``x`` moved along a direction."""
    return lambda drawn, x: ((drawn - x - direction).abs() <= 0.5).all(dim=1).double()


WORST = [
    (GaussianNoise(0.5, p=1), 0.5, AXIS, beyond(AXIS)),
    (GaussianNoise(0.5, p=math.inf), 0.3, ONES, beyond(ONES)),
    (EllipsoidNoise(0.5, ONES * 1.0), 0.5, ONES / 3**0.5, beyond(ONES)),
    (LaplaceNoise(0.5), 0.5, AXIS, beyond(AXIS)),
    (UniformNoise(0.5), 0.3, AXIS, outside(0.3 * AXIS)),
    (UniformNoise(0.5, p=2), 0.3, ONES / 3**0.5, outside(0.3 * ONES / 3**0.5)),
    (UniformNoise(0.5, p=math.inf), 0.1, ONES, outside(0.1 * ONES)),
]


class WithoutSize(GaussianNoise):
    """Takes a change of every coordinate for one in l2."""

    def shift(self, eps: float) -> float:
        return eps / self.sigma


def measured(noise: Noise, eps: float, direction: Tensor, score) -> tuple[float, float]:
    """Mass at ``X`` and at ``X`` moved by ``eps`` of the set of low scores, of 200,000 draws each."""
    samples = [
        noise.sample(x, 200_000, RandomStream(i).draws("worst", 0, x)) for i, x in enumerate((X, X + eps * direction))
    ]
    at_x, at_x_prime = (score(drawn, X) for drawn in samples)
    limit = min(float(at_x.quantile(0.7)), 0.5 if set(at_x.tolist()) <= {0.0, 1.0} else math.inf)
    return float((at_x <= limit).double().mean()), float((at_x_prime <= limit).double().mean())


@pytest.mark.parametrize(("noise", "eps", "direction", "score"), WORST, ids=lambda value: str(value)[:40])
def test_the_worst_set_in_three_coordinates_loses_what_is_said_and_no_more(noise, eps, direction, score) -> None:
    """Margins of five standard errors."""
    mass, kept = measured(noise, eps, direction, score)
    assert mass == pytest.approx(noise.at(X).required_mass(kept, eps), abs=0.006)


def test_shares_of_a_perturbation_do_no_more_than_all_of_it_in_one_coordinate() -> None:
    direction = ONES / 3
    mass, kept = measured(UniformNoise(0.5), 0.3, direction, outside(0.3 * direction))
    assert kept == 0
    assert 0.2 < mass < UniformNoise(0.5).required_mass(0.0, 0.3) - 0.02


@pytest.mark.parametrize("broken", [WithoutSize(0.5, p=math.inf)])
def test_a_bound_that_forgets_the_number_of_coordinates_is_caught(broken: Noise) -> None:
    mass, kept = measured(broken, 0.3, ONES, beyond(ONES))
    assert mass > broken.at(X).required_mass(kept, 0.3) + 0.05


# --- Laws that are wrong --------------------------------------------------------------------------------------------


class SmallLaplace(LaplaceNoise):
    """Draws noise 30% smaller than it states."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return LaplaceNoise(0.7 * self.scale).sample(x, count, draws)


class SmallUniform(UniformNoise):
    """Draws noise 30% smaller than it states."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return UniformNoise(0.7 * self.scale).sample(x, count, draws)


class RootOfDraws(LaplaceNoise):
    """Takes the rule of Gaussian draws together."""

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        return self.required_mass(mass, math.sqrt(draws) * eps)


class RootOfUniformDraws(UniformNoise):
    """Takes the rule of Gaussian draws together."""

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        return self.required_mass(mass, math.sqrt(draws) * eps)


class Unclipped(UniformNoise):
    """Takes 1.8 to an even power: a distance of 0.36."""

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        return min(1.0, mass + 1 - (1 - eps / (2 * self.scale)) ** draws)


@pytest.mark.parametrize(
    ("broken", "eps", "words"),
    [
        (SmallLaplace(0.5), 0.5, "has mass"),
        (SmallUniform(0.5), 0.3, "has mass"),
        (RootOfDraws(0.5), 0.5, "of 3 draws has mass"),
        (RootOfUniformDraws(0.5), 0.3, "of 3 draws has mass"),
        (Unclipped(0.5), 1.8, r"required_mass_of_draws\(.*\) is .* for 1, 2, 4"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_law_that_is_wrong_is_caught(broken: Noise, eps: float, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        check_noise(broken, eps)


# --- Center smoothing -----------------------------------------------------------------------------------------------

OTHER = [(LaplaceNoise(1.0), 1.5), (UniformNoise(1.0), 0.5)]
SAME = [
    (GaussianNoise(1.0, p=1), 1.5),
    (EllipsoidNoise(1.0, torch.ones(1)), 1.5),
    (UniformNoise(1.0, p=math.inf), 0.5),
]
"""On one number these are a law that `test_contracts` or `OTHER` has under all certifiers."""

CERTIFIED = [(one, *law) for law in OTHER for one in (Center(L2()), Center(L2(), "free"), Label())]
CERTIFIED += [(Label(), *law) for law in SAME]


@pytest.mark.parametrize(("certifier", "noise", "eps"), CERTIFIED, ids=str)
def test_certificates_cover_under_every_law(certifier, noise: Noise, eps: float) -> None:
    label = isinstance(certifier, Label)
    outputs = (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) if label else VECTORS
    details = {"exact": lambda mass: torch.tensor(0 if mass > 0.5 else 1)} if label else {}
    check_certifier(certifier, outputs, noise, eps, runs=30, **details)  # enough: `test_contracts`


RUNS, ALPHA = 150, 0.1
LAWS = {"laplace": laplace(0, 0.5), "uniform": uniform(-0.5, 1.0)}


def failures(noise: Noise, law, required: float, eps: float) -> int:
    """Runs whose measured radius is below the one needed around their center, for the identity of one number."""
    budget = Budget(n=100, m=250, delta=0.15, alpha1=0.1, alpha2=ALPHA)
    smoother = CenterSmoother(lambda x: x, L2(), noise, budget, rule="exact", forward_block=256)
    failed = 0
    for seed in range(RUNS):
        certificate = smoother.certify(torch.zeros(1, dtype=torch.float64), eps, stream=RandomStream(seed))
        if certificate.r_hat is not None:
            center, radius = float(certificate.answer), certificate.r_hat * (1 + 1e-6)
            failed += law.cdf(center + radius) - law.cdf(center - radius) < required
    return failed


@pytest.mark.parametrize(
    ("noise", "law", "eps", "required"),
    [
        (LaplaceNoise(0.5), "laplace", 0.3, float(laplace.cdf(laplace.ppf(0.65) + 0.6))),
        (UniformNoise(0.5), "uniform", 0.2, 0.85),
    ],
    ids=str,
)
def test_a_measured_radius_holds_the_mass_that_the_law_requires(noise, law, eps: float, required: float) -> None:
    """In at most alpha2 of the runs it is too small; with noise 30% smaller than stated in many more."""
    allowed = int(binom.isf(1e-9, RUNS, ALPHA))
    assert failures(noise, LAWS[law], required, eps) <= allowed
    small = {LaplaceNoise: SmallLaplace, UniformNoise: SmallUniform}[type(noise)](noise.scale)
    assert failures(small, LAWS[law], required, eps) > allowed


LINEAR = LinearModel(torch.tensor([2.0, -1.0, 0.5, 0.0]))
ATTACKS = [Attack("pgd", steps=10, restarts=2, draws=500), Attack("search", steps=120, restarts=2, draws=500)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
@pytest.mark.parametrize(
    ("noise", "dual"),
    [
        (LaplaceNoise(0.5), math.inf),
        (UniformNoise(0.5), math.inf),
        (UniformNoise(0.5, p=2), 2),
        (GaussianNoise(0.5, p=math.inf), 1),
        (GaussianNoise(0.5, p=3), 1.5),
        (EllipsoidNoise(0.5, torch.tensor([1.0, 2.0, 1.0, 1.0])), 0),
    ],
    ids=str,
)
def test_attacks_find_the_largest_movement_of_a_linear_model(noise: Noise, dual: float, attack: Attack) -> None:
    """The dual norm of its weights; within eps after rounding, and within the certificate."""
    x, eps = torch.tensor([0.3, -1.0, 0.5, 2.0]), 0.1
    smoother = CenterSmoother(LINEAR, L2(), noise, Budget(n=1_000, m=2_000, delta=0.1))
    certificate = smoother.certify(x, eps, stream=RandomStream(0))
    found = smoother.attack(x, certificate, attack, runs=2, stream=RandomStream(1))
    weights = LINEAR.weight.flatten().double()
    slope = (weights * noise.shape.double()).norm() if dual == 0 else torch.linalg.vector_norm(weights, dual)
    beside = abs(float(certificate.answer) - float(LINEAR(x[None])))
    moved = abs(float(LINEAR(found.perturbed[None])) - float(certificate.answer))
    assert 0.95 * eps * float(slope) <= moved - beside <= eps * float(slope) * (1 + 1e-5)
    assert noise.threat.norm(found.perturbed.double() - x.double()) <= eps
    assert max(found.movements) <= certificate.radius
    assert certificate.threat == noise.threat.unit


# --- Requests that cannot be served ---------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [LaplaceNoise(0.5), UniformNoise(0.5)], ids=str)
@pytest.mark.parametrize("certifier", [Mean(L2()), Direction(Angular()), Nearest(L2())], ids=lambda one: one.name)
def test_means_under_other_laws_are_refused_in_one_line(certifier, noise: Noise) -> None:
    assert not isinstance(noise, GaussianShift)
    with pytest.raises(RequestError, match=r"(?i)^noise is (Laplace|Uniform)Noise.*Gaussian noise[^\n]*$"):
        Smoother(torch.sigmoid, noise, certifier, output_range=(0.0, 1.0))


def test_a_mean_is_certified_under_every_gaussian_law() -> None:
    """In l_inf as in l2 with the root of the number of coordinates."""
    x, budget = torch.zeros(4), Budget(n=500, m=1_000)
    laws = [(GaussianNoise(0.5), 0.2), (GaussianNoise(0.5, p=math.inf), 0.1), (EllipsoidNoise(0.5, torch.ones(4)), 0.2)]
    radii = []
    for noise, eps in laws:
        smoother = Smoother(torch.sigmoid, noise, Mean(L2()), budget, output_range=(0.0, 1.0))
        radii.append(smoother.certify(x, eps, stream=RandomStream(0)).radius)
    assert radii[1:] == pytest.approx([radii[0]] * 2, rel=1e-9)


@pytest.mark.parametrize("noise", [GaussianNoise(0.5, p=3), UniformNoise(0.5, p=2)], ids=str)
def test_a_bound_that_depends_on_the_size_of_the_input_asks_for_it(noise: Noise) -> None:
    assert noise.local
    with pytest.raises(RequestError, match=r"^the bound of \w+\(.*p=\d\) depends on the size .*: use noise\.at\(x\)$"):
        noise.required_mass(0.5, 0.1)
    assert noise.at(torch.zeros(2, 3)).required_mass(0.5, 0.1) > noise.at(torch.zeros(2)).required_mass(0.5, 0.1) > 0.5
    assert repr(noise.at(torch.zeros(2))) == repr(noise)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: GaussianNoise(0.5, p=0.5), "p is 0.5: expected a number of at least 1, or inf"),
        (lambda: GaussianNoise(0.5, p="inf"), "p is 'inf': expected a number"),
        (lambda: UniformNoise(0.5, p=3), "p is 3: expected 1, 2 or inf"),
        (lambda: LaplaceNoise(0.0), "scale is 0.0: expected a positive number"),
        (lambda: UniformNoise(math.nan), "scale is nan: expected a positive number"),
        (lambda: EllipsoidNoise(-1, torch.ones(2)), "scale is -1: expected a positive number"),
        (lambda: LaplaceNoise(0.5).required_mass(0.5, -1), "eps is -1: expected an l1 radius"),
    ],
)
def test_what_is_no_law_is_refused(build, words: str) -> None:
    with pytest.raises(RequestError, match=f"^{words}"):
        build()


@pytest.mark.parametrize("noise", [LaplaceNoise(1e-40), UniformNoise(1e-40), EllipsoidNoise(1.0, torch.tensor(1e-40))])
def test_noise_that_the_type_cannot_tell_from_0_is_refused(noise: Noise) -> None:
    x = torch.zeros(2)
    with pytest.raises(RequestError, match=r"scale.* is .*e-4., which torch\.float32 cannot tell from 0"):
        noise.sample(x, 1, RandomStream(0).draws("tiny", 0, x))


def test_laws_show_what_is_not_the_default() -> None:
    assert repr(GaussianNoise(0.5)) == "GaussianNoise(sigma=0.5)"
    assert repr(GaussianNoise(0.5, p=math.inf)) == "GaussianNoise(sigma=0.5, p=inf)"
    assert repr(UniformNoise(0.5, p=2.0)) == "UniformNoise(scale=0.5, p=2)"
    assert repr(LaplaceNoise(0.5)) == "LaplaceNoise(scale=0.5)"
    assert (GaussianNoise(0.5, p=1).threat.unit, UniformNoise(0.5).threat.unit) == ("l1", "l1")
