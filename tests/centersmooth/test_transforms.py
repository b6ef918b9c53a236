"""Noise on the parameters of transforms: group laws, published numbers, coverage, what is refused."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom
from torch import Tensor

from centersmooth import (
    L2,
    AblationNoise,
    Attack,
    Budget,
    Center,
    CenterSmoother,
    GaussianNoise,
    Mean,
    Noise,
    RandomStream,
    RequestError,
    Smoother,
)
from centersmooth.contracts import TwoOutputs
from centersmooth.draws import Draws
from centersmooth.noise import (
    Blur,
    Brightness,
    BrightnessContrastNoise,
    Composed,
    Contrast,
    DrawsTogether,
    ExponentialNoise,
    FoldedNormalNoise,
    Gamma,
    GaussianShift,
    RayleighNoise,
    Transform,
    Transformed,
    Translation,
    UpperUniformNoise,
)
from centersmooth.noise.brightness_contrast import two_steps
from centersmooth.noise.rayleigh import mass_against

TRANSFORMS: list[Transform] = [Brightness(), Contrast(), Gamma(), Blur(), Translation()]


def image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# --- Transforms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda one: type(one).__name__)
@given(a=st.tuples(*[st.floats(0, 3)] * 2), b=st.tuples(*[st.floats(0, 3)] * 2))
def test_transforms_are_additive_in_their_parameters(
    transform: Transform, a: tuple[float, float], b: tuple[float, float]
) -> None:
    x = image(2, 5, 8)
    first, second = (torch.tensor([one[: transform.parameters]]).double() for one in (a, b))
    if isinstance(transform, Translation):
        first, second = first.round(), second.round()
    once, twice = transform.apply(x, first + second), transform.apply(transform.apply(x, first)[0], second)
    torch.testing.assert_close(once, twice, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(transform.apply(x, 0 * first)[0], x, rtol=0, atol=1e-14)


def test_several_parameters_give_one_image_each() -> None:
    """Blur by variance 2 leaves the mean and the constant image, and damps a checkerboard by its exact factor."""
    board = (torch.arange(4)[:, None] + torch.arange(6)).remainder(2).double()
    blurred = Blur().apply(board, torch.tensor([[0.0], [2.0]]).double())
    assert blurred.shape == (2, 4, 6)
    assert float(blurred[1].mean()) == pytest.approx(0.5)
    assert float(blurred[1].std()) < float(board.std())
    wave = torch.cos(math.pi / 8 * 3 * (torch.arange(8) + 0.5)).double()[None]
    damped = Blur().apply(wave, torch.tensor([[2.0]]).double())[0]
    torch.testing.assert_close(damped, wave * math.exp(-((math.pi * 3 / 8) ** 2)))


def test_translation_is_cyclic() -> None:
    x = image(3, 4, 5)
    moved = Translation().apply(x, torch.tensor([[1.0, -2.0], [4.0, 5.0]]))
    assert torch.equal(moved[0], x.roll((1, -2), (-2, -1)))
    assert torch.equal(moved[1], x)


@pytest.mark.parametrize(
    ("noise", "x", "expected"),
    [
        (RayleighNoise(), torch.tensor([0.0, 1.5]), "values from 0 to 1.5: gamma correction is of values in"),
        (Transformed(Gamma(), GaussianNoise(1.0)), torch.tensor([-0.5, 0.5]), "values from -0.5 to 0.5"),
        (Transformed(Blur(), ExponentialNoise(1.0)), torch.zeros(4), "blur needs rows and columns"),
        (Transformed(Translation(), GaussianNoise(1.0)), torch.zeros(4), "translation needs rows and columns"),
        (FoldedNormalNoise(1.0), torch.zeros(4), "x has 4 numbers: FoldedNormalNoise has a bound for one"),
    ],
    ids=str,
)
def test_inputs_that_a_transform_does_not_have_are_refused(noise: Noise, x: Tensor, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        noise.sample(x, 2, Draws(0, x))


def test_a_law_of_both_signs_is_refused_where_there_is_no_inverse() -> None:
    with pytest.raises(RequestError, match=r"Blur\(\) has no inverse and needs a law of numbers above 0"):
        Transformed(Blur(), GaussianNoise(1.0))


def test_a_law_that_answers_shifts_upward_only_is_refused_where_there_are_both() -> None:
    """Under exponential brightness an image made darker by 0.45 moves whole steps that the bound says stay."""
    for law in (ExponentialNoise(0.5), UpperUniformNoise(1.0), FoldedNormalNoise(1.0)):
        for transform in (Brightness(), Contrast(), Gamma(), Translation()):
            with pytest.raises(RequestError, match=r"shifts upward only: .* has parameters of both signs"):
                Transformed(transform, law)


def test_what_is_no_transform_and_no_law_is_refused_in_one_line() -> None:
    for transform, law, expected in (
        (GaussianNoise(2.0), Brightness(), r"transform is GaussianNoise\(.*: expected one such as Brightness"),
        (Brightness, GaussianNoise(2.0), "transform is .*: expected one such as Brightness"),
        (Brightness(), 0.2, "law is 0.2: expected a noise"),
    ):
        with pytest.raises(RequestError, match=expected):
            Transformed(transform, law)


def test_the_unit_of_several_parameters_has_their_norm() -> None:
    assert Transformed(Translation(), GaussianNoise(1.0)).threat.unit == "pixels, cyclic, l2"
    assert Transformed(Brightness(), GaussianNoise(1.0)).threat.unit == "brightness"


def test_what_the_noise_refuses_is_said_without_advice_on_batches() -> None:
    """And a model that does not take the mask of pixels is told of the shape it is given."""
    gamma = CenterSmoother(lambda x: x.flatten(1), L2(), Transformed(Gamma(), GaussianNoise(0.4)), Budget.quick())
    with pytest.raises(RequestError, match=r"values in \[0, 1\]$"):
        gamma.certify(torch.full((1, 2, 2), 2.0), 0.1)
    convolution = torch.nn.Conv2d(1, 1, 3)
    with pytest.raises(RequestError, match=r"under this noise the model is given inputs of shape \(2, 8, 8\)$"):
        CenterSmoother(convolution, L2(), AblationNoise(keep=5), Budget.quick()).certify(torch.zeros(1, 8, 8), 1)


# --- Abilities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "together", "shift"),
    [
        (Transformed(Brightness(), GaussianNoise(0.2)), True, True),
        (Transformed(Blur(), ExponentialNoise(0.2)), True, False),
        (Transformed(Blur(), FoldedNormalNoise(0.2)), False, False),
    ],
    ids=str,
)
def test_a_transform_can_do_what_its_law_can(noise: Transformed, together: bool, shift: bool) -> None:
    for one in (noise, pickle.loads(pickle.dumps(noise)), replace(noise, law=noise.law)):
        assert one == noise
        assert isinstance(one, DrawsTogether) is together
        assert isinstance(one, GaussianShift) is shift
        assert (one.scale, one.kept_mass(0.9, 0.1)) == (0.2, noise.law.kept_mass(0.9, 0.1))


def test_means_are_certified_under_normal_brightness() -> None:
    """The mean of ``sigmoid(x + b)`` moves by less than a quarter of the change of brightness."""
    noise = Transformed(Brightness(), GaussianNoise(1.0))
    smoother = Smoother(torch.sigmoid, noise, Mean(L2()), Budget(n=1_000, m=4_000), output_range=(0.0, 1.0))
    certificate = smoother.certify(torch.zeros(1), 0.5, stream=RandomStream(0))
    assert certificate.threat == "brightness"
    assert 0.1 < certificate.radius < 0.3
    with pytest.raises(RequestError, match=r"noise is .*needs Gaussian noise"):
        Smoother(torch.sigmoid, RayleighNoise(), Mean(L2()), Budget(), output_range=(0.0, 1.0))


# --- Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "eps", "one", "four"),
    [
        (ExponentialNoise(1.0), 0.2, (0.263142, 0.631571, 0.918127), (0.595604, 0.797802, 0.955067)),
        (ExponentialNoise(2.0), 0.4, (0.263142, 0.631571, 0.918127), (0.595604, 0.797802, 0.955067)),
        (UpperUniformNoise(1.0), 0.2, (0.3, 0.75, 1.0), (0.6904, 1.0, 1.0)),
        (GaussianNoise(0.4), 0.2, (0.217239, 0.734231, 0.962589), (0.389144, 0.869846, 0.988742)),
    ],
    ids=str,
)
def test_masses_are_those_of_the_formulas(
    noise: DrawsTogether, eps: float, one: tuple[float, ...], four: tuple[float, ...]
) -> None:
    for mass, needed, together in zip((0.1, 0.55, 0.9), one, four, strict=True):
        assert noise.required_mass_of_draws(mass, eps, 1) == pytest.approx(needed, abs=1e-6)
        assert noise.required_mass_of_draws(mass, eps, 4) == pytest.approx(together, abs=1e-6)


@pytest.mark.parametrize(
    ("factor", "draws", "needed"),
    [
        (1.44, 1, (0.140770, 0.683316, 0.963692)),
        (0.64, 1, (0.229087, 0.682075, 0.934792)),
        (1.44, 4, (0.245092, 0.813604, 0.986376)),
        (0.64, 4, (0.381539, 0.819250, 0.973011)),
    ],
)
def test_rayleigh_masses_are_those_of_exponential_laws(factor: float, draws: int, needed: tuple[float, ...]) -> None:
    for mass, expected in zip((0.1, 0.55, 0.9), needed, strict=True):
        assert mass_against(math.log(factor) / 2, mass, draws) == pytest.approx(expected, abs=1e-6)


def test_rayleigh_noise_takes_the_worse_end() -> None:
    """Neither end of an interval of exponents is the worse for every mass."""
    eps = math.log(1.2)
    ends = [(mass_against(eps, mass), mass_against(-eps, mass)) for mass in (0.05, 0.9)]
    assert ends[0][0] < ends[0][1]
    assert ends[1][0] > ends[1][1]
    assert [RayleighNoise().required_mass(mass, eps) for mass in (0.05, 0.9)] == [max(one) for one in ends]


@pytest.mark.parametrize(
    ("p_a", "p_b", "darker", "brighter"),
    [
        (0.600, 0.400, 0.86, 1.15),
        (0.600, 0.200, 0.71, 1.33),
        (0.700, 0.300, 0.72, 1.32),
        (0.700, 0.100, 0.54, 1.56),
        (0.800, 0.200, 0.57, 1.52),
        (0.900, 0.100, 0.39, 1.82),
        (0.990, 0.010, 0.12, 2.58),
        (0.999, 0.001, 0.04, 3.16),
    ],
)
def test_the_published_table_of_gamma_correction(p_a: float, p_b: float, darker: float, brighter: float) -> None:
    """The exponents between which a class stays (Muravev and Petiushko 2021), to the two digits printed.

    A class of mass ``p_a`` stays before another of mass ``p_b`` while what it keeps, and what the complement of the
    other keeps, are more than 1 together.
    """

    def kept(mass: float, log_gamma: float) -> float:
        return brentq(lambda q: mass_against(log_gamma, q) - mass, 0.0, 1.0)

    for low, high, expected in ((-5.0, -1e-9, darker), (1e-9, 3.0, brighter)):
        end = brentq(lambda log_gamma: kept(p_a, log_gamma) + kept(1 - p_b, log_gamma) - 1, low, high)
        assert math.exp(end) == pytest.approx(expected, abs=0.0051)


@pytest.mark.parametrize(("mass", "needed"), [(0.1, 0.574818), (0.55, 0.966607), (0.58, 0.972850)])
def test_brightness_and_contrast_in_two_steps(mass: float, needed: float) -> None:
    """Factors 0.8 to 1.2 and brightness up to 0.1, under standard deviations of 0.2."""
    low, high = math.log(0.8), math.log(1.2)
    assert two_steps(mass, low, high, (-low / 0.2, high / 0.2), 0.5, 1) == pytest.approx(needed, abs=1e-6)


@pytest.mark.parametrize("mass", [0.3, 0.58, 0.9])
@pytest.mark.parametrize("k", [-0.15, 0.15])
def test_two_steps_are_above_the_worst_set_of_all(k: float, mass: float) -> None:
    """On a grid of ``(k_0, b_0)`` the lemma of Neyman and Pearson gives the exact mass; two steps need some more."""
    sigma, b = 0.2, 0.1
    z = torch.linspace(-9, 9, 1501, dtype=torch.float64)
    z_k, z_b = z[:, None], z[None]
    scale = math.exp(-k)
    log_ratio = (
        z_k * k / sigma - (k / sigma) ** 2 / 2 - math.log(scale) - (z_b - b / sigma) ** 2 / (2 * scale**2) + z_b**2 / 2
    )
    at_x = torch.exp(-(z_k**2 + z_b**2) / 2)
    at_x = (at_x / at_x.sum()).flatten()
    order = log_ratio.flatten().argsort()
    kept = (at_x * log_ratio.flatten().exp())[order].cumsum(0)
    exact = float(at_x[order].cumsum(0)[torch.searchsorted(kept, mass)])
    needed = two_steps(mass, min(k, 0.0), max(k, 0.0), (max(-k, 0.0) / sigma, max(k, 0.0) / sigma), b / sigma, 1)
    assert exact - 1e-3 <= needed <= 1 - (1 - exact) / 3


# --- Coverage -------------------------------------------------------------------------------------------------------

RUNS = 12
ONE, GREY = torch.ones(1, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
DOT = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
STEPS = torch.tensor([[0.0, *range(-1, -11, -1), *range(9, 0, -1)]], dtype=torch.float64)
"""An image whose first number is by how much it was moved to the right."""

BRIGHTNESS_AND_PIXELS = Composed(Transformed(Brightness(), GaussianNoise(0.2)), GaussianNoise(0.2))

WORST = {
    "brightness": (Transformed(Brightness(), GaussianNoise(0.2)), ONE, [0.3]),
    "contrast": (Transformed(Contrast(), GaussianNoise(0.2)), ONE, [0.3]),
    "brightness and contrast": (BrightnessContrastNoise(0.2, 0.5), ONE, [0.1, 0.05]),
    "gamma": (Transformed(Gamma(), GaussianNoise(0.2)), GREY, [0.3]),
    "less gamma": (RayleighNoise(), GREY, [-0.9]),
    "more gamma": (RayleighNoise(), GREY, [0.8]),
    "blur": (Transformed(Blur(), ExponentialNoise(1.0)), DOT, [1.5]),
    "uniform blur": (Transformed(Blur(), UpperUniformNoise(2.0)), DOT, [0.7]),
    "blur of folded normal variance": (Transformed(Blur(), FoldedNormalNoise(1.0)), DOT, [1.0]),
    "translation": (Transformed(Translation(), GaussianNoise(2.0)), STEPS, [0.0, 3.0]),
    "brightness and pixels": (BRIGHTNESS_AND_PIXELS, ONE, [0.3, 0.3]),
    "brightness and translation": (
        Composed(Transformed(Translation(), GaussianNoise(2.0)), Transformed(Brightness(), GaussianNoise(2.0))),
        STEPS,
        [0.0, 3.0, 3.0],
    ),
    "blur and brightness": (
        Composed(Transformed(Blur(), ExponentialNoise(1.0)), Transformed(Brightness(), GaussianNoise(0.1)), 0.1),
        DOT,
        [1.0, -0.1],
    ),
}
"""A law, an input whose noisy copies rise or fall with the parameter in their first number, a shift to the worst x'."""


def failures(noise: Noise, x: Tensor, shift: list[float], share: float, runs: int = RUNS) -> int:
    """Runs at the worst ``x'`` that leave the radius certified at ``x`` with the bound of a share of ``eps``.

    The model is a step, at a threshold that leaves its first output 40% of the mass at ``x'``, so that most runs there
    answer with the second.
    """
    moved = noise.threat.apply(x, torch.tensor(shift, dtype=x.dtype))
    at_x, at_moved = (noise.sample(one, 50_000, Draws(0, x)).reshape(50_000, -1)[:, 0] for one in (x, moved))
    rising = float(at_moved.median()) > float(at_x.median())
    step = TwoOutputs(torch.zeros(1), torch.ones(1), float(at_moved.quantile(0.4 if rising else 0.6)))
    budget = Budget(n=500, m=2_000, delta=0.1)
    model = lambda inputs: step(inputs.reshape(len(inputs), -1)[:, :1])  # noqa: E731
    smoother = CenterSmoother(model, L2(), noise, budget, rule="exact", forward_block=500)
    eps, count = max(map(abs, shift)), 0
    for run in range(runs):
        certificate = smoother.certify(x, share * eps, stream=RandomStream(run))
        answer = smoother.smooth(moved, stream=RandomStream(run, point=1)).output
        if certificate.radius is not None and answer is not None:
            count += smoother.distance(certificate.answer, answer) > certificate.radius
    return count


@pytest.mark.parametrize("name", WORST)
def test_centers_are_covered_and_the_bound_of_less_is_not(name: str) -> None:
    """The bound of a fifth of ``eps`` fails, except where two steps need much more than they must."""
    noise, x, shift = WORST[name]
    most = binom.isf(1e-9, RUNS, 0.01)
    assert failures(noise, x, shift, 1.0) <= most
    if not isinstance(noise, BrightnessContrastNoise):
        assert failures(noise, x, shift, 0.2) > most


class OnlyTheFirst(Composed):
    """Its bound forgets the second perturbation."""

    def required_mass(self, mass: float, eps: float) -> float:
        return self.first.required_mass(mass, eps)


def test_a_bound_for_one_of_two_noises_fails() -> None:
    """In a third of the runs: in more of them than above, so that they are by far more than may fail."""
    pair, runs = BRIGHTNESS_AND_PIXELS, 40
    assert failures(OnlyTheFirst(pair.first, pair.second), ONE, [0.3, 0.3], 1.0, runs) > binom.isf(1e-9, runs, 0.01)


def test_shifts_upward_keep_their_proportions_and_rise_where_the_slope_is_largest() -> None:
    upward = ExponentialNoise(1.0).threat
    assert upward.project(torch.tensor([-1.0, 1.0, 3.0]), 2.0).tolist() == [0.0, 0.5, 1.5]
    assert upward.project(torch.tensor([0.5, 1.0]), 2.0).tolist() == [0.5, 1.0]
    assert upward.steepest(torch.tensor([1.0, 3.0, 2.0])).tolist() == [0.0, 1.0, 0.0]
    assert upward.apply(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])).tolist() == [1.5, 2.0]


def test_contrast_and_brightness_are_clipped_each_to_its_limit() -> None:
    threat = BrightnessContrastNoise(0.2, ratio=0.5).threat
    for shift, within in (([0.05, 0.2], [0.05, 0.05]), ([-0.3, -0.01], [-0.1, -0.01])):
        assert threat.project(torch.tensor(shift), 0.1).tolist() == pytest.approx(within)
    assert threat.steepest(torch.tensor([3.0, -2.0])).tolist() == [1.0, -0.5]


def test_attacks_move_the_parameter_to_its_limit() -> None:
    """Of a model that falls with brightness, gradients and queries find the darkest image; translations by queries."""
    smoother = Smoother(
        lambda x: torch.tanh(x.flatten(1).sum(1, keepdim=True)),
        Transformed(Brightness(), GaussianNoise(0.2)),
        Center(L2()),
        Budget.quick(),
    )
    x = torch.full((2, 2), 0.1)
    certificate = smoother.certify(x, 0.2, stream=RandomStream(0))
    for kind in ("pgd", "search"):
        found = smoother.attack(x, certificate, Attack(kind, steps=20, restarts=2, draws=64), stream=RandomStream(0))
        assert float((found.perturbed - x).abs().mean()) == pytest.approx(0.2, abs=0.01)
        assert max(found.movements) <= certificate.radius
    moving = Smoother(
        lambda x: x.flatten(1)[:, :1], Transformed(Translation(), GaussianNoise(1.0)), Center(L2()), Budget.quick()
    )
    certificate = moving.certify(image(4, 4), 1.0, stream=RandomStream(0))
    expected = r"attack is 'pgd', and Transformed\(Translation\(\).* passes no gradient .*: use attack=search$"
    with pytest.raises(RequestError, match=expected):
        moving.attack(image(4, 4), certificate, Attack("pgd"), stream=RandomStream(0))
    found = moving.attack(image(4, 4), certificate, Attack("search"), stream=RandomStream(0))
    moves = [image(4, 4).roll(by, (0, 1)) for by in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
    assert any(torch.equal(found.perturbed, one) for one in moves)
