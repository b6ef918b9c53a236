"""Rotation and scaling: the group on rings, the error of interpolation, numbers, coverage, attacks, what is refused."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import binom
from torch import Tensor

from centersmooth import (
    L2,
    Attack,
    Budget,
    Center,
    CenterSmoother,
    Mean,
    RandomStream,
    RequestError,
    Smoother,
)
from centersmooth.contracts import TwoOutputs
from centersmooth.draws import Draws
from centersmooth.noise import DrawsTogether, GaussianShift, Rotation, RotationNoise, Scaling, ScalingNoise, Warp
from centersmooth.noise.interpolation import InterpolationError, _Cells
from centersmooth.noise.rings import rings_of
from centersmooth.noise.rotation import InterpolatedNoise, mass_against

WARPS: list[tuple[Warp, float]] = [(Rotation(), 20.0), (Scaling(), 0.3)]
"""Each with a large parameter."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters(count: int, eps: float, seed: int = 1) -> Tensor:
    """Both ends and random parameters within them."""
    return eps * torch.cat([torch.tensor([-1.0, 1.0]).double(), 2 * random(count, seed=seed) - 1])


def rings_image(side: int = 15) -> Tensor:
    """Concentric waves five pixels long, which a rotation leaves alone and interpolation makes paler."""
    places = torch.arange(side).double() - (side - 1) / 2
    radii = torch.hypot(places[:, None], places)
    return ((1 + torch.cos(2 * math.pi * radii / 5)) / 2 * (radii < (side - 1) / 2))[None]


IMAGES = {
    "noise": random(2, 16, 19),
    "board": (torch.arange(17)[:, None] + torch.arange(17)).remainder(2).double()[None],
    "bar": torch.nn.functional.pad(torch.ones(1, 3, 11).double(), (5, 5, 9, 9)),
    "flat": torch.ones(1, 15, 15).double(),
    "waves": rings_image(),
}


def errors(warp: Warp, x: Tensor, values: Tensor, low_pass: float = 1.0) -> Tensor:
    """``||A T_a(x) - R_a A x||``, by the threat's own interpolation."""
    rings = rings_of(warp, *x.shape[-2:], low_pass)
    difference = rings.samples(warp.warped(x, values)) - rings.moved(rings.samples(x), values)
    return difference.flatten(1).norm(dim=1)


# --- Threats and rings ----------------------------------------------------------------------------------------------


def test_an_image_is_turned_by_quarters_without_interpolation() -> None:
    x = random(2, 5, 5)
    quarter = Rotation().apply(x, torch.tensor([90.0]).double())
    torch.testing.assert_close(quarter, x.rot90(-1, (-2, -1)), rtol=0, atol=1e-12)


def test_an_image_is_enlarged_around_its_center() -> None:
    """Twice as large, every second pixel is one of before; half as large, the rest is zero."""
    x = random(1, 5, 5)
    larger, smaller = Scaling().warped(x, torch.tensor([math.log(2), -math.log(2)], dtype=torch.float64))
    torch.testing.assert_close(larger[:, ::2, ::2], x[:, 1:4, 1:4], rtol=0, atol=1e-12)
    torch.testing.assert_close(smaller[:, 1:4, 1:4], x[:, ::2, ::2], rtol=0, atol=1e-12)
    assert float(smaller[:, [0, 0, 4, 4], [0, 4, 0, 4]].abs().max()) < 1e-12


@pytest.mark.parametrize(("warp", "large"), WARPS, ids=str)
def test_moves_of_samples_are_additive_and_turning_keeps_their_norm(warp: Warp, large: float) -> None:
    rings = rings_of(warp, 16, 19, 1.0)
    samples = random(2, *rings.grid)
    for a, b in parameters(8, large).view(-1, 2):
        once, twice = rings.moved(samples, (a + b)[None])[0], rings.moved(rings.moved(samples, a[None])[0], b[None])[0]
        torch.testing.assert_close(once, twice, rtol=1e-10, atol=1e-12)
        length = samples.norm() * math.exp(warp.growth * float(a))
        assert float(rings.moved(samples, a[None]).norm()) == pytest.approx(float(length), rel=1e-12)


def test_a_full_turn_leaves_samples_as_they_were() -> None:
    rings = rings_of(Rotation(), 16, 19, 1.0)
    samples = random(2, *rings.grid)
    torch.testing.assert_close(rings.moved(samples, torch.tensor([360.0]).double())[0], samples, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("warp", "large"), WARPS, ids=str)
def test_the_way_back_is_the_transpose_and_the_derivative_is_one(warp: Warp, large: float) -> None:
    rings = rings_of(warp, 16, 19, 1.0)
    x, samples = random(3, 16, 19), random(3, *rings.grid, seed=2)
    assert float((rings.samples(x) * samples).sum()) == pytest.approx(float((x * rings.image(samples)).sum()))
    step = 1e-5 * large
    ahead, behind = rings.moved(samples, torch.tensor([step, -step]).double())
    torch.testing.assert_close((ahead - behind) / (2 * step), rings.derivative(samples), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("warp", "large"), WARPS, ids=str)
def test_samples_of_a_smooth_image_move_as_its_pixels_are_warped(warp: Warp, large: float) -> None:
    """So direction and unit of both are the same: another direction would be off by more than the image."""
    places = torch.arange(41).double() - 20
    blot = torch.exp(-((places[:, None] - 4).square() + (places - 6).square()) / 30)[None]
    norm = float(rings_of(warp, 41, 41, 1.0).samples(blot).norm())
    assert float(errors(warp, blot, torch.tensor([large, -large]).double()).max()) < 0.05 * norm
    assert float((errors(warp, blot, torch.tensor([0.0]).double())).max()) < 1e-12


# --- The error of interpolation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(("warp", "large"), WARPS, ids=str)
def test_no_error_is_larger_than_its_bound_and_the_bound_is_close(warp: Warp, large: float, name: str) -> None:
    x = IMAGES[name]
    bound = InterpolationError(warp, x, 1.0)
    for eps in (large / 50, large / 5, large):
        found, most = errors(warp, x, parameters(200, eps)), bound.up_to(eps)
        assert float(found.max()) <= most
    assert most <= 1.1 * float(errors(warp, x, parameters(1_000, 1.05 * large)).max()) + 0.01


@pytest.mark.parametrize("reach", [0.02, 0.1, 0.6])
def test_values_depart_from_their_tangent_by_no_more_than_is_said(reach: float) -> None:
    """Along straight lines, within a cell and beyond its edges; on a diagonal of a cell by as much."""
    cells, angles = _Cells(random(2, 9, 9)), 2 * math.pi * random(1, 1_000, seed=2)
    sources, speeds = 7 * random(1, 1_000, 2, seed=1) - 3.5, torch.ones_like(angles)
    ways = torch.stack([angles.cos(), angles.sin()], dim=2)
    sources[0, 0], ways[0, 0] = 0.5, 0.5**0.5
    values, changes, most = cells.along(sources, ways, speeds, 0.0, reach)
    for move in (-reach, reach):
        moved, _, _ = cells.along(sources + move * ways, ways, speeds, 0.0, reach)
        apart = (moved - values - move * changes).norm(dim=1)
        assert bool((apart <= most + 1e-12).all())
        if reach < 0.5:
            assert float(apart[0, 0]) == pytest.approx(float(most[0, 0]))


@pytest.mark.parametrize(("warp", "large"), WARPS, ids=str)
def test_the_bound_covers_every_random_parameter(warp: Warp, large: float) -> None:
    """``R_b A T_a(x)`` is within the bound of ``R_(a+b) A x``, times ``e^b`` for a scaling, but not without."""
    x, beyond = IMAGES["noise"], 0
    rings, most = rings_of(warp, 16, 19, 1.0), InterpolationError(warp, x, 1.0).up_to(large)
    for a in parameters(6, large):
        moved = rings.samples(warp.warped(x, a[None])[0])
        for b in parameters(6, 2 * large, seed=3):
            distance = rings.moved(moved, b[None]) - rings.moved(rings.samples(x), (a + b)[None])
            assert float(distance.norm()) <= most * math.exp(warp.growth * float(b)) * (1 + 1e-9)
            beyond += float(distance.norm()) > most
    assert (beyond > 0) is isinstance(warp, Scaling)


def test_bounds_grow_with_eps_and_the_first_is_not_of_nothing() -> None:
    bound = InterpolationError(Rotation(), IMAGES["bar"], 1.0)
    found = [bound.up_to(eps) for eps in (0.0, 1e-6, 0.5, 1.0, 5.0, 10.0, 90.0)]
    assert found[0] == 0
    assert found[1] > 0
    assert found == sorted(found)
    assert [bound.up_to(eps) for eps in (90.0, 0.5)] == [found[-1], found[2]]  # kept as it was


class AtMiddles(InterpolationError):
    """Takes the error in the middle of an interval for a bound over it."""

    def _within(self, reach: float, parameters: Tensor) -> tuple[Tensor, Tensor]:
        errors, _ = super()._within(reach, parameters)
        return errors, errors


def test_errors_at_some_parameters_are_no_bound() -> None:
    """Not in the middle of a step, over which the error rises; and at quarter turns nothing is interpolated at all."""
    eps, x = 0.2, IMAGES["bar"]
    found = float(errors(Rotation(), x, parameters(200, eps)).max())
    assert AtMiddles(Rotation(), x, 1.0).up_to(eps) < found
    assert InterpolationError(Rotation(), x, 1.0).up_to(eps) >= found
    quarters = errors(Rotation(), x, torch.tensor([-90.0, 0.0, 90.0]).double())
    assert float(quarters.max()) < 0.1 * InterpolationError(Rotation(), x, 1.0).up_to(90.0)


class WithoutCrossings(InterpolationError):
    """Follows each source along its tangent as if it could not leave its cell."""

    def __init__(self, warp: Warp, x: Tensor, low_pass: float) -> None:
        super().__init__(warp, x, low_pass)
        self._cells._steepest = torch.zeros_like(self._cells._steepest)
        self._cells._twist = torch.zeros_like(self._cells._twist)
        self._curvature = 0.0


@pytest.mark.parametrize(("warp", "large"), WARPS, ids=str)
def test_within_an_interval_the_bound_holds_and_that_of_the_tangent_alone_does_not(warp: Warp, large: float) -> None:
    x = IMAGES["board"]
    sound, broken, caught = InterpolationError(warp, x, 1.0), WithoutCrossings(warp, x, 1.0), 0
    reach = large / 60
    for middle in parameters(40, large):
        found = float(errors(warp, x, middle + parameters(40, reach)).max())
        assert found <= float(sound._within(reach, middle[None])[1])
        caught += found > float(broken._within(reach, middle[None])[1])
    assert caught >= 3


# --- Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mass", "needed"), [(0.1, 0.369765), (0.55, 0.858047), (0.9, 0.987148)])
def test_masses_are_those_of_both_shifts_and_the_failure(mass: float, needed: float) -> None:
    """An angle of 5 under 10 degrees, an error of 0.2 under 0.25, and 0.001 of the draws of which nothing is known."""
    assert mass_against(mass, math.hypot(5 / 10, 0.2 / 0.25), 0.001, 1) == pytest.approx(needed, abs=1e-6)
    lost = 1 - 0.999**4
    together = ndtr(ndtri(mass + lost) + 2 * math.hypot(5 / 10, 0.2 / 0.25))
    assert mass_against(mass, math.hypot(5 / 10, 0.2 / 0.25), 0.001, 4) == pytest.approx(together, abs=1e-9)


def test_laws_have_the_masses_of_their_errors() -> None:
    x = IMAGES["bar"]
    rotation, scaling = RotationNoise(10.0, 0.5).at(x), ScalingNoise(0.1, 0.5).at(x)
    assert isinstance(rotation, InterpolatedNoise)
    assert isinstance(scaling, InterpolatedNoise)
    error = InterpolationError(Rotation(), x, 1.0).up_to(5.0)
    h = math.hypot(0.5, error / 0.5)
    assert rotation.required_mass(0.5, 5.0) == pytest.approx(ndtr(h), abs=1e-9)
    error = InterpolationError(Scaling(), x, 1.0).up_to(0.05)
    h = math.hypot(0.5, math.exp(0.4) * error / 0.5)
    assert scaling.required_mass(0.5, 0.05) == pytest.approx(ndtr(ndtri(0.5 + ndtr(-4)) + h), abs=1e-9)
    assert scaling.required_mass(0.5, 0.0) == 0.5


def test_what_each_law_can_do() -> None:
    for noise, shift in ((RotationNoise(10.0), True), (ScalingNoise(0.1), False)):
        local = noise.at(IMAGES["bar"])
        assert local != noise.at(IMAGES["waves"])
        for one in (local, pickle.loads(pickle.dumps(local)), replace(local, scale=noise.scale)):
            assert one == local
            assert hash(one) == hash(local)
            assert isinstance(one, DrawsTogether)
            assert isinstance(one, GaussianShift) is shift


def test_errors_are_computed_once_for_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    x, calls = random(1, 16, 16, seed=7), []
    within = InterpolationError._within
    monkeypatch.setattr(InterpolationError, "_within", lambda *given: calls.append(1) or within(*given))
    RotationNoise(10.0).at(x).required_mass(0.5, 2.0)
    first = len(calls)
    RotationNoise(20.0, 0.3).at(x).kept_mass(0.5, 2.0)
    assert len(calls) == first > 0
    RotationNoise(10.0).at(x + 0.01).required_mass(0.5, 2.0)
    assert len(calls) > first


def test_a_bound_is_of_the_image_as_it_was() -> None:
    x = random(1, 16, 16)
    noise = RotationNoise(10.0).at(x)
    before = noise.required_mass(0.5, 2.0)
    x.zero_()
    assert noise.required_mass(0.5, 2.0) == before


def test_noisy_images_have_the_noise_that_is_stated() -> None:
    """Around black: 0.28 of a sample's noise at a low pass of 1, half of that at 2; the corners stay black."""
    for low_pass in (1.0, 2.0):
        x = torch.zeros(1, 41, 41)
        noisy = RotationNoise(10.0, 0.5, low_pass).sample(x, 400, Draws(0, x))
        assert float(noisy[..., 15:26, 15:26].std()) == pytest.approx(0.5 * 0.282 / low_pass, rel=0.05)
        assert float(noisy[..., 0, 0].abs().max()) == 0


# --- Coverage -------------------------------------------------------------------------------------------------------

RUNS = 8


@dataclass(frozen=True)
class WithoutError(RotationNoise):
    """Takes two rotations for one."""

    def interpolation_error(self, eps: float) -> float:
        return 0.0


def failures(noise: InterpolatedNoise, shift: float) -> int:
    """Runs at ``x'`` that leave the radius certified at ``x``, of a model that sees how pale the waves are.

    The model is a step at a threshold that leaves its first output 40% of the mass at ``x'``, so that most runs there
    answer with the second.
    """
    x, budget = IMAGES["waves"], Budget(n=500, m=1_200, delta=0.1)
    moved = noise.threat.apply(x, torch.tensor([shift]).double())
    rings, count = rings_of(noise.threat, *x.shape[-2:], noise.low_pass), 0
    lost = rings.image(rings.samples(x) - rings.samples(moved))

    def paleness(inputs: Tensor) -> Tensor:
        return -(inputs * lost).flatten(1).sum(1, keepdim=True)

    threshold = float(paleness(noise.sample(moved, 20_000, Draws(0, x))).quantile(0.4))
    step = TwoOutputs(torch.zeros(1), torch.ones(1), threshold)
    smoother = CenterSmoother(lambda z: step(paleness(z)), L2(), noise, budget, rule="exact", forward_block=500)
    for run in range(RUNS):
        certificate = smoother.certify(x, abs(shift), stream=RandomStream(run))
        answer = smoother.smooth(moved, stream=RandomStream(run, point=1)).output
        if certificate.radius is not None and answer is not None:
            count += smoother.distance(certificate.answer, answer) > certificate.radius
    return count


def test_centers_are_covered_under_rotation_and_without_the_error_they_are_not() -> None:
    """The error is two standard deviations, by far the most of the shift."""
    most = binom.isf(1e-9, RUNS, 0.01)
    assert failures(RotationNoise(80.0, 0.12), 8.0) <= most
    assert failures(WithoutError(80.0, 0.12), 8.0) > most


def test_centers_are_covered_under_scaling() -> None:
    assert failures(ScalingNoise(0.1, 3.0), 0.03) <= binom.isf(1e-9, RUNS, 0.01)


def test_means_are_certified_under_rotation_and_refused_under_scaling() -> None:
    """The mean of a model that sees how bright the right half is moves, and by less than its radius."""
    x = IMAGES["bar"]

    def model(inputs: Tensor) -> Tensor:
        return torch.sigmoid(inputs[..., 11:].flatten(1).sum(1, keepdim=True) - 10)

    budget = Budget(n=1_000, m=4_000)
    smoother = Smoother(model, RotationNoise(10.0, 0.5), Mean(L2()), budget, output_range=(0.0, 1.0))
    certificate = smoother.certify(x, 5.0, stream=RandomStream(0))
    assert certificate.threat == "degrees"
    assert certificate.radius < 0.6
    moved = smoother.noise.threat.apply(x, torch.tensor([5.0]).double())
    answer = smoother.smooth(moved, stream=RandomStream(0, point=1)).output
    assert smoother.distance(certificate.answer, answer) <= certificate.radius
    with pytest.raises(RequestError, match=r"noise is ScalingNoise.*needs Gaussian noise"):
        Smoother(model, ScalingNoise(0.1), Mean(L2()), budget, output_range=(0.0, 1.0))


# --- Attacks and refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pgd", "search"])
def test_attacks_turn_the_image_as_far_as_they_may(kind: str) -> None:
    """Of a model that sees the end of a bar rise, both find an angle near the largest."""
    x = IMAGES["bar"].float()
    smoother = Smoother(
        lambda z: torch.tanh((z[..., :8, 12:] - z[..., 13:, 12:]).flatten(1).sum(1, keepdim=True) / 5),
        RotationNoise(5.0, 0.5),
        Center(L2()),
        Budget.quick(),
    )
    certificate = smoother.certify(x, 8.0, stream=RandomStream(0))
    found = smoother.attack(x, certificate, Attack(kind, steps=20, restarts=2, draws=64), stream=RandomStream(0))
    angles = torch.linspace(-8, 8, 161).double()
    distances = (Rotation().warped(x.double(), angles) - found.perturbed.double()).flatten(1).norm(dim=1)
    assert float(distances.min()) < 0.05
    assert abs(float(angles[distances.argmin()])) > 7
    assert max(found.movements) <= certificate.radius


@pytest.mark.parametrize(
    ("noise", "x", "expected"),
    [
        (RotationNoise(10.0), torch.zeros(9), r"x has the shape \(9,\): expected rows and columns"),
        (RotationNoise(10.0), torch.zeros(1, 30, 4), "low_pass is 1 and the image 30 x 4: expected at most a quarter"),
        (ScalingNoise(0.1, 0.5, 5.0), torch.zeros(1, 16, 16), "low_pass is 5 and the image 16 x 16"),
    ],
    ids=str,
)
def test_inputs_that_have_no_rings_are_refused(noise: InterpolatedNoise, x: Tensor, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        noise.sample(x, 1, Draws(0, x))
    with pytest.raises(RequestError, match=expected):
        noise.at(x)


def test_numbers_that_are_not_finite_are_refused_and_far_beyond_the_noise_nothing_is_computed() -> None:
    for noise in (RotationNoise(10.0), ScalingNoise(0.1)):
        for bad in (math.nan, math.inf):
            with pytest.raises(RequestError, match="x has numbers that are not finite"):
                noise.at(torch.full((1, 16, 16), bad))
        assert noise.at(random(1, 64, 64)).required_mass(0.5, 1e6) == 1
        assert 0 < noise.at(IMAGES["bar"]).reach(0.99, kept=0.5) < 3 * noise.scale


def test_bounds_without_an_image_and_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(RequestError, match=r"bound of RotationNoise\(.*\) depends on the image: use noise.at\(x\)"):
        RotationNoise(10.0).required_mass(0.5, 1.0)
    with pytest.raises(RequestError, match="eps is -1: expected an angle of at least 0, in degrees"):
        RotationNoise(10.0).at(IMAGES["bar"]).required_mass(0.5, -1)
    for name in ("scale", "pixels", "low_pass"):
        with pytest.raises(RequestError, match=f"{name} is 0"):
            RotationNoise(**{"scale": 1.0, name: 0})
