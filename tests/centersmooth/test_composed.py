"""Two noises one after the other: which pairs there are, their masses against the lemma itself, threat and attacks."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from centersmooth import (
    L2,
    Attack,
    Budget,
    Center,
    GaussianNoise,
    LaplaceNoise,
    Mean,
    Noise,
    RandomStream,
    RequestError,
    Smoother,
    SplittingNoise,
    UniformNoise,
)
from centersmooth.draws import Draws
from centersmooth.noise import (
    Blur,
    Brightness,
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

PARAMETERS: dict[type[Transform], tuple[list[float], list[float]]] = {
    Brightness: ([0.2], [0.3]),
    Contrast: ([0.4], [-0.3]),
    Gamma: ([0.9], [-0.2]),
    Blur: ([0.7], [1.3]),
    Translation: ([2.0, 3.0], [-4.0, 1.0]),
}
COMMUTING = [(Brightness, Blur), (Brightness, Translation), (Contrast, Blur), (Contrast, Translation)]
COMMUTING += [(Gamma, Translation)]
OTHERS = [pair for pair in combinations(PARAMETERS, 2) if set(pair) not in map(set, COMMUTING)]


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def on(transform: Transform, scale: float = 0.2) -> Transformed:
    return Transformed(transform, ExponentialNoise(scale) if transform.upward else GaussianNoise(scale))


BRIGHT = on(Brightness())


class Doubled(Brightness):
    """A transform of a user's own, derived from one that lengthens nothing."""

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        return 2 * super().apply(x, parameters)


def defect(first: Transform, second: Transform) -> float:
    """How far ``S_a T_b S_c T_d`` is from ``S_(a+c) T_(b+d)`` at most."""
    x = image(2, 9, 12)
    (a, c), (b, d) = (tuple(torch.tensor([one]) for one in PARAMETERS[type(t)]) for t in (first, second))
    alternating = x
    for transform, by in ((second, d), (first, c), (second, b), (first, a)):
        alternating = transform.apply(alternating, by)[0]
    return float((alternating - first.apply(second.apply(x, b + d)[0], a + c)[0]).abs().max())


# --- Pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", COMMUTING, ids=lambda pair: "-".join(one.__name__ for one in pair))
def test_pairs_that_are_allowed_obey_the_law_of_composition(pair: tuple[type[Transform], type[Transform]]) -> None:
    for first, second in (pair, pair[::-1]):
        assert isinstance(Composed(on(first()), on(second())), Composed)
        assert defect(first(), second()) < 1e-5


@pytest.mark.parametrize("pair", OTHERS, ids=lambda pair: "-".join(one.__name__ for one in pair))
def test_pairs_that_do_not_commute_are_refused(pair: tuple[type[Transform], type[Transform]]) -> None:
    """Among them blur, which mirrors at the edges, and cyclic translation, which moves the edges inside."""
    first, second = pair
    assert defect(first(), second()) > 1e-4
    for one, other in (pair, pair[::-1]):
        with pytest.raises(RequestError, match=r"are not known to commute: expected one of the pairs Blur and Bri.*$"):
            Composed(on(one()), on(other()))


@pytest.mark.parametrize("transform", [Brightness(), Translation(), Blur(), Contrast(), Gamma()], ids=str)
def test_pixel_noise_follows_a_transform_that_lengthens_no_difference(transform: Transform) -> None:
    longest = 0.0
    for seed in range(200):
        x, y = torch.rand((2, 1, 6, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for by in PARAMETERS[type(transform)]:
            moved = [transform.apply(one, torch.tensor([by]).double())[0] for one in (x, y)]
            longest = max(longest, float((moved[0] - moved[1]).norm() / (x - y).norm()))
    if isinstance(transform, (Brightness, Translation, Blur)):
        assert longest <= 1 + 1e-9
        assert Composed(on(transform), GaussianNoise(0.5)).scale == 0.2
    else:
        assert longest > 1.1
        with pytest.raises(RequestError, match=r"can lengthen an l2 perturbation, .*: expected one of Blur and"):
            Composed(on(transform), GaussianNoise(0.5))


@pytest.mark.parametrize(
    ("first", "second", "ratio", "expected"),
    [
        (GaussianNoise(0.5), BRIGHT, 1, r"first is GaussianNoise.*: expected noise on a transform"),
        (RayleighNoise(), on(Translation()), 1, r"first is RayleighNoise.*: expected noise on a transform"),
        (BRIGHT, GaussianNoise(0.5, p=math.inf), 1, "second is Gauss.*: expected noise on a transform, or Gauss.* l2"),
        (BRIGHT, SplittingNoise(0.5), 1, "second is SplittingNoise.*: expected noise on a transform, or Gauss.* in l2"),
        (BRIGHT, BRIGHT, 1, "are not known to commute"),
        (on(Doubled()), on(Translation()), 1, "are not known to commute"),
        (on(Doubled()), GaussianNoise(0.5), 1, "can lengthen an l2 perturbation"),
        (BRIGHT, GaussianNoise(0.5), 0, "ratio is 0"),
    ],
    ids=str,
)
def test_what_is_no_pair_is_refused_in_one_line(first: Noise, second: Noise, ratio: float, expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        Composed(first, second, ratio)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("law", [SplittingNoise(0.5)], ids=str)
def test_a_law_that_does_not_add_its_noise_is_refused_for_parameters(law: Noise) -> None:
    """Splitting noise around 0 is uniform on [0, 1/2]: a shift by 1/4 loses half of it, and its bound says 1/4."""
    around = law.sample(torch.zeros(1).double(), 20_000, Draws(0, torch.zeros(1).double()))
    lost = 1 - float(((around >= 0.25) & (around <= 0.5)).double().mean())
    assert lost > law.required_mass(0.0, 0.25) + 0.2
    with pytest.raises(RequestError, match=r"law is SplittingNoise.*, whose noise is not added to a number"):
        Transformed(Brightness(), law)


@pytest.mark.parametrize("law", [SplittingNoise(5e-4), SplittingNoise(1e-9), UniformNoise(5e-4), GaussianNoise(1e-9)])
def test_small_laws_are_told_apart_too(law: Noise) -> None:
    if isinstance(law, SplittingNoise):
        with pytest.raises(RequestError, match="whose noise is not added to a number"):
            Transformed(Brightness(), law)
    else:
        assert Transformed(Brightness(), law).required_mass(0.5, 0.0) == pytest.approx(0.5)


# --- Masses ---------------------------------------------------------------------------------------------------------

Array = NDArray[np.float64]
Cells = tuple[Array, Array]


def cells(distribution: Callable[[Array], Array], low: float, high: float, shift: float) -> Cells:
    """Masses of cells of the line under a law, and under the law moved by ``shift``."""
    edges = np.concatenate([[-np.inf], np.linspace(low, high, 1500), [np.inf]])
    return np.diff(distribution(edges)), np.diff(distribution(edges - shift))


def exact(mass: float, first: Cells, second: Cells) -> float:
    """The mass of the worst set of cells of both, by the lemma of Neyman and Pearson."""
    at_x, at_moved = (np.outer(a, b).ravel() for a, b in zip(first, second, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.argsort(np.where(at_x > 0, at_moved / at_x, np.inf), kind="stable")
    return float(at_x[order].cumsum()[np.searchsorted(at_moved[order].cumsum(), mass) - 1])


NORMAL = cells(stats.norm.cdf, -6, 6, 0.5)
EXPONENTIAL = cells(stats.expon.cdf, 0, 14, 0.5)
UNIFORM = cells(stats.uniform(-0.5, 1).cdf, -0.5, 0.7, 0.1)
LAPLACE = cells(stats.laplace.cdf, -12, 12, 0.5)
FOLDED = cells(stats.foldnorm(0).cdf, 0, 6, 0.5)

PAIRS = {
    "normal, normal": (Composed(on(Translation(), 2.0), on(Brightness(), 1.0), 0.5), 1.0, NORMAL, NORMAL),
    "normal, pixels": (Composed(on(Brightness(), 1.0), GaussianNoise(0.4), 0.4), 0.5, NORMAL, NORMAL),
    "exponential, normal": (Composed(on(Blur(), 1.0), on(Brightness(), 1.0)), 0.5, EXPONENTIAL, NORMAL),
    "normal, exponential": (Composed(on(Brightness(), 1.0), on(Blur(), 1.0)), 0.5, NORMAL, EXPONENTIAL),
    "uniform, pixels": (
        Composed(Transformed(Brightness(), UniformNoise(0.5)), GaussianNoise(1.0), 5.0),
        0.1,
        UNIFORM,
        NORMAL,
    ),
    "uniform, uniform": (
        Composed(Transformed(Blur(), UpperUniformNoise(1.0)), Transformed(Brightness(), UniformNoise(0.5))),
        0.1,
        UNIFORM,
        UNIFORM,
    ),
    "exponential, uniform": (
        Composed(on(Blur(), 1.0), Transformed(Contrast(), UniformNoise(0.5)), 0.2),
        0.5,
        EXPONENTIAL,
        UNIFORM,
    ),
    "exponential, Laplace": (
        Composed(on(Blur(), 1.0), Transformed(Brightness(), LaplaceNoise(1.0))),
        0.5,
        EXPONENTIAL,
        LAPLACE,
    ),
}
LOOSE = {
    "Laplace, normal": (
        Composed(Transformed(Brightness(), LaplaceNoise(1.0)), GaussianNoise(1.0)),
        0.5,
        LAPLACE,
        NORMAL,
    ),
    "folded normal, normal": (
        Composed(Transformed(Blur(), FoldedNormalNoise(1.0)), on(Brightness(), 1.0)),
        0.5,
        FOLDED,
        NORMAL,
    ),
}


@pytest.mark.parametrize("name", [*PAIRS, *LOOSE])
@pytest.mark.parametrize("mass", [0.05, 0.3, 0.55, 0.8])
def test_masses_are_those_of_the_lemma(name: str, mass: float) -> None:
    """And no less where one step after the other asks for more than is needed."""
    noise, eps, first, second = (PAIRS | LOOSE)[name]
    worst, needed = exact(mass, first, second), noise.required_mass(mass, eps)
    assert worst <= needed + 1e-9
    assert needed <= worst + (0.003 if name in PAIRS else 0.13)
    assert needed > max(noise.first.required_mass(mass, eps), noise.second.required_mass(mass, noise.ratio * eps))
    if isinstance(noise, DrawsTogether):
        assert noise.required_mass_of_draws(mass, eps, 1) == pytest.approx(needed)
        assert noise.required_mass_of_draws(mass, eps, 3) >= needed


@pytest.mark.parametrize(("mass", "needed"), [(0.1, 0.312009), (0.55, 0.804661), (0.9, 1.0)])
def test_total_variation_and_a_normal_shift_are_exact_together(mass: float, needed: float) -> None:
    noise, eps, *_ = PAIRS["uniform, pixels"]
    assert noise.required_mass(mass, eps) == pytest.approx(needed, abs=1e-6)
    assert noise.kept_mass(needed, eps) == pytest.approx(mass, abs=1e-5)


def test_uniform_laws_leave_what_both_leave() -> None:
    """Several draws together lose mass as one does: ``1 - ((1 - D) (1 - E))^draws`` is lost."""
    noise, eps, *_ = PAIRS["uniform, uniform"]
    assert noise.required_mass(0.5, eps) == pytest.approx(0.5 + 1 - 0.9 * 0.9)
    assert isinstance(noise, DrawsTogether)
    assert noise.required_mass_of_draws(0.2, eps, 3) == pytest.approx(0.2 + 1 - 0.9**6)


@pytest.mark.parametrize(
    ("noise", "together", "shift"),
    [
        (Composed(BRIGHT, GaussianNoise(0.5), ratio=2.5), True, True),
        (Composed(on(Blur()), BRIGHT), True, False),
        (Composed(Transformed(Blur(), FoldedNormalNoise(1.0)), BRIGHT), False, False),
    ],
    ids=str,
)
def test_a_pair_can_do_what_both_can(noise: Composed, together: bool, shift: bool) -> None:
    by_name = Composed(first=noise.first, second=noise.second, ratio=noise.ratio)
    for one in (noise, by_name, pickle.loads(pickle.dumps(noise)), replace(noise, ratio=noise.ratio)):
        assert one == noise
        assert isinstance(one, DrawsTogether) is together
        assert isinstance(one, GaussianShift) is shift


def test_normal_shifts_add_as_the_sides_of_a_right_angle() -> None:
    noise = Composed(BRIGHT, GaussianNoise(0.5), ratio=2.5)
    assert isinstance(noise, GaussianShift)
    assert noise.shift(0.12) == pytest.approx(math.hypot(0.6, 0.6))
    assert isinstance(noise, DrawsTogether)
    assert noise.required_mass_of_draws(0.5, 0.12, 4) == pytest.approx(stats.norm.cdf(2 * math.hypot(0.6, 0.6)))


# --- Draws, threat and attacks --------------------------------------------------------------------------------------


def test_noisy_copies_have_both_noises_and_each_its_own() -> None:
    """Brightness is one number a copy, of deviation 0.2; pixels differ by noise of deviation 0.5."""
    x = image(1, 20, 20)
    noisy = Composed(BRIGHT, GaussianNoise(0.5)).sample(x, 2_000, Draws(0, x)) - x
    assert noisy.shape == (2_000, 1, 20, 20)
    assert float(noisy.flatten(1).mean(1).std()) == pytest.approx(math.hypot(0.2, 0.5 / 20), rel=0.05)
    assert float(noisy.flatten(1).std(1).mean()) == pytest.approx(0.5, rel=0.01)
    moved = Composed(BRIGHT, on(Translation(), 2.0)).sample(x, 500, Draws(0, x))
    brightness = moved.flatten(1).mean(1) - x.mean()
    rolled = {tuple((one - by).flatten().round(decimals=4).tolist()) for one, by in zip(moved, brightness, strict=True)}
    assert 20 < len(rolled) < 200  # translations, and nothing else
    assert float(brightness.std()) == pytest.approx(0.2, rel=0.1)


def test_an_input_that_the_second_transform_does_not_have_is_refused() -> None:
    noise = Composed(on(Translation()), on(Gamma()))
    with pytest.raises(RequestError, match=r"gamma correction is of values in \[0, 1\]"):
        noise.sample(2 * torch.ones(1, 2, 2), 2, Draws(0, torch.zeros(1)))


def test_the_unit_names_both() -> None:
    assert Composed(on(Translation()), BRIGHT).threat.unit == "pixels, cyclic, l2 and brightness"
    threat = Composed(BRIGHT, GaussianNoise(0.5), ratio=2.5).threat
    assert threat.unit == "brightness, 2.5 of it in l2"
    with pytest.raises(RequestError, match=r"eps is -1: expected a number .*, and 2.5 of it in l2"):
        threat.require(-1)


@pytest.mark.parametrize("kind", ["pgd", "search"])
def test_attacks_use_both_perturbations_to_their_limits(kind: str) -> None:
    """The mean of 16 pixels is the output: 0.2 of brightness move it by 0.2 and an l2 perturbation of 0.4 by 0.1."""
    noise = Composed(BRIGHT, GaussianNoise(0.5), ratio=2.0)
    smoother = Smoother(lambda x: x.flatten(1).mean(1, keepdim=True), noise, Center(L2()), Budget.quick())
    x = torch.full((1, 4, 4), 0.1)
    certificate = smoother.certify(x, 0.2, stream=RandomStream(0))
    attack = Attack(kind, steps=60, restarts=2, draws=32)  # type: ignore[arg-type]
    found = smoother.attack(x, certificate, attack, stream=RandomStream(0))
    change = (found.perturbed - x).flatten().double()
    brightness = float(change.mean())
    assert 0.24 < abs(brightness) <= 0.3 + 1e-5
    assert float((change - math.copysign(0.2, brightness)).norm()) <= 0.4 + 1e-5
    assert max(found.movements) <= certificate.radius


def test_the_nearest_shift_is_that_of_each_part() -> None:
    threat = Composed(on(Translation()), BRIGHT, ratio=0.1).threat
    shift = threat.project(torch.tensor([3.0, -4.0, 7.0]), 2.6)
    torch.testing.assert_close(shift, torch.tensor([1.0, -2.0, 0.26]))
    x = image(3, 4, 5)
    torch.testing.assert_close(threat.perturbed(x, shift, 2.6), x.roll((1, -2), (-2, -1)) + 0.26)


def test_a_ratio_of_1_goes_without_saying() -> None:
    first, second = BRIGHT, GaussianNoise(0.5)
    assert repr(Composed(first, second)) == f"Composed({first}, {second})"
    assert repr(Composed(first, second, ratio=2.5)) == f"Composed({first}, {second}, ratio=2.5)"


def test_means_are_certified_under_two_normal_noises() -> None:
    noise = Composed(on(Brightness(), 1.0), GaussianNoise(1.0))
    smoother = Smoother(torch.sigmoid, noise, Mean(L2()), Budget(n=1_000, m=4_000), output_range=(0.0, 1.0))
    x = torch.zeros(1)
    certificate = smoother.certify(x, 0.5, stream=RandomStream(0))
    draws = torch.sigmoid(noise.sample(torch.ones(1), 20_000, Draws(0, x)))
    movement = float((draws.mean() - 0.5).abs())
    assert 0.1 < movement <= certificate.radius < 0.4
