"""The rule ``enumerated``: a deterministic certificate, against corruptions of exactly as many outputs as it allows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    Attack,
    Center,
    CenterSmoother,
    DistanceFunction,
    EnumeratedSplitting,
    GaussianNoise,
    InfeasibleError,
    Metric,
    ModelError,
    Noise,
    Outcome,
    PatchNoise,
    RandomStream,
    RequestError,
    Smoother,
    SquaredL2,
    TotalVariation,
)
from centersmooth.certifiers.center import Enumerated
from centersmooth.certifiers.center.rules import ROUNDING
from centersmooth.noise import Enumerable, Pixels, Threat
from centersmooth.noise.total_variation import TotalVariationNoise

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OneOf(TotalVariationNoise):
    """One row of the input, each equally likely, of which an attacker changes ``eps``: any corruption there is."""

    size: int = 5
    scale = 1.0

    @property
    def threat(self) -> Threat:
        return Pixels()

    def sample(self, x: Tensor, count: int, draws) -> Tensor:
        return x[draws.integers((count,), len(x))]

    def total_variation(self, eps: float) -> float:
        return self.changed(eps) / self.size

    def clean(self, x: Tensor) -> Tensor:
        return x[0]

    def support_size(self) -> int:
        return self.size

    def support(self, x: Tensor, block: int):
        yield from x.split(block)

    def changed(self, eps: float) -> int:
        return min(int(eps), self.size)


def smoother_of(size: int, metric: Metric, **options) -> Smoother:
    return Smoother(lambda x: x, OneOf(size), Center(metric), rule="enumerated", **options)


def slow_radius(distances: Array, t: int) -> tuple[int, float]:
    """The center and the radius by definition, from the distances between all outputs."""
    size = len(distances)
    h = size // 2 + 1
    at = [sorted(row) for row in distances.tolist()]
    center = min(range(size), key=lambda i: at[i][h - 1])
    near = at[center][h + t - 1]
    return center, near + min(2 * near, sorted(row[h + t - 1] for row in at)[t])


# --- Worlds of corrupted outputs, thousands at a time -----------------------------------------------------------------


def ordered(distances: Array) -> Array:
    """For ``(worlds, K, K)`` distances, the ``r``-th smallest of each row at ``[..., r - 1]``."""
    return np.sort(distances, axis=-1)


def movements_and_radii(points: Array, corrupted: Array, t: int, distance) -> tuple[Array, Array, Array, Array]:
    """How far the center of each world moves, the radius, and two radii that are too small.

    Ties at ``x'`` go to the output farthest from the center at ``x``.

    Parameters
    ----------
    points, corrupted : array, shape ``(worlds, K, 2)``
    """
    size = points.shape[1]
    h, worlds = size // 2 + 1, np.arange(len(points))
    at = ordered(distance(points[:, :, None], points[:, None]))
    center = at[..., h - 1].argmin(axis=1)
    near = at[worlds, center]
    best = np.sort(at, axis=1)
    then = ordered(distance(corrupted[:, :, None], corrupted[:, None]))[..., h - 1]
    least = then <= then.min(axis=1, keepdims=True)
    moved = np.where(least, distance(corrupted, points[worlds, center][:, None]), -1).max(axis=1)

    def radius(rank: int, place: int) -> Array:
        return near[:, rank - 1] + np.minimum(2 * near[:, rank - 1], best[:, place - 1, rank - 1])

    return moved, radius(h + t, t + 1), radius(h + t - 1, t + 1), radius(h + t, t)


def worlds(size: int, t: int, count: int, seed: int) -> tuple[Array, Array]:
    """Outputs on a small grid, and the same with exactly ``t`` of them moved elsewhere, most of them to one place.

    The first half of the worlds loses the outputs with the smallest majorities, the others any.
    """
    random = np.random.default_rng(seed)
    points = random.integers(0, 5, (count, size, 2)).astype(float)
    at = ordered(np.abs(points[:, :, None] - points[:, None]).sum(axis=-1))[..., size // 2 + t]
    order = np.where(np.arange(count)[:, None] < count // 2, at, random.random((count, size))).argsort(axis=1)
    corrupted, target = points.copy(), random.integers(-3, 8, (count, 1, 2))
    elsewhere = target + random.integers(0, 2, (count, t, 2)) * random.integers(0, 2, (count, 1, 1))
    np.put_along_axis(corrupted, order[:, :t, None], elsewhere, axis=1)
    return points, corrupted


def l1(a: Array, b: Array) -> Array:
    return np.abs(a - b).sum(axis=-1)


def largest(a: Array, b: Array) -> Array:
    return np.abs(a - b).max(axis=-1)


CASES = [(size, t) for size in (3, 4, 5, 6, 7, 9, 12) for t in (1, 2, 3) if size // 2 + 1 + t <= size]


@pytest.mark.parametrize("distance", [l1, largest])
def test_no_center_moves_farther_than_the_radius_however_outputs_are_corrupted(distance) -> None:
    """In 45,000 worlds none; with one rank less, or one output less for ``T``, some, so that the attacks are strong."""
    beyond = np.zeros(3, dtype=int)
    for seed, (size, t) in enumerate(CASES):
        moved, *radii = movements_and_radii(*worlds(size, t, 3_000, seed), t, distance)
        beyond += [(moved > radius + 1e-9).sum() for radius in radii]
    assert len(CASES) == 15
    assert beyond[0] == 0
    assert beyond[1] > 100
    assert beyond[2] > 0


def test_radii_are_those_of_the_definition() -> None:
    """Of small worlds, for every ``t`` there is, from one set of outputs; rounding apart."""
    for seed in range(40):
        size = 3 + seed % 7
        x = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (size, 2)).astype(float))
        distances = l1(x[:, None].numpy(), x[None].numpy())
        smoother = smoother_of(size, L1(), forward_block=4)
        largest_t = size - size // 2 - 1
        for t, certificate in enumerate(smoother.certify(x, range(largest_t + 1))):
            center, radius = slow_radius(distances, t)
            assert torch.equal(certificate.answer, x[center])
            assert certificate.radius == pytest.approx(radius * (1 + ROUNDING), rel=1e-9)


# A world in which the bound is attained, by distances between seven points; 0 to 4 are the outputs at x, and at x'
# point 5 stands for 0. Balls of radius 1 around 0, of radius 2 around each of 1, 2, 3; point 5 is 2 away from these.
_ATTAINED = np.full((6, 6), 2.0)
np.fill_diagonal(_ATTAINED, 0)
_ATTAINED[0, 1:4] = _ATTAINED[1:4, 0] = 1
_ATTAINED[4, :] = _ATTAINED[:, 4] = 9
_ATTAINED[4, 4] = 0
_ATTAINED[0, 5] = _ATTAINED[5, 0] = 3


def test_the_bound_is_attained() -> None:
    """``D_c(4) = 1``, ``T = 2``, and the center moves by 3, as outputs tie at ``x'``: none smaller is right."""
    table = torch.from_numpy(_ATTAINED)
    # `x'` lists the new output first, and ties go to the first.
    metric = DistanceFunction(lambda a, b: table[a[:, 0].long(), b[:, 0].long()])
    smoother = smoother_of(5, metric)
    x, other = (torch.tensor(outputs, dtype=torch.float64)[:, None] for outputs in ([0, 1, 2, 3, 4], [5, 1, 2, 3, 4]))
    assert bool((_ATTAINED[:, None] <= _ATTAINED[:, :, None] + _ATTAINED[None] + 1e-12).all())
    certificate = smoother.certify(x, 1)
    moved = smoother.distance(certificate.answer, smoother.smooth(other).output)
    assert (certificate.r_center, certificate.r_hat, certificate.r_far) == (1, 1, 2)
    assert moved == 3
    assert certificate.radius == pytest.approx(moved * (1 + ROUNDING))


# --- The smoothed model -----------------------------------------------------------------------------------------------


def test_every_run_is_the_same_and_spends_no_alpha() -> None:
    """From as many calls as there are noisy inputs, besides the one without noise, whatever the budget says."""
    x, passes = torch.rand(7, 3, generator=torch.Generator().manual_seed(0)), []
    smoother = smoother_of(7, L2(), forward_block=4, batch_size=4)
    certificate = smoother.certify(x, 1, progress=passes.append)
    assert sum(passes) == 7
    assert (certificate.alpha, certificate.certifier, certificate.rule) == (0, "center", "enumerated")
    assert (certificate.about, certificate.threat) == ("run", "pixels")
    again = smoother_of(7, L2(), batch_size=7).certify(x, 1, stream=RandomStream(5))
    assert again.radius == certificate.radius
    assert torch.equal(again.answer, smoother(x))
    smoothed = smoother.smooth(x)
    assert smoothed.error == smoother.distance(smoothed.base, smoothed.answer) > 0
    assert str(certificate).endswith("of the answer here")


def test_metrics_that_are_powers_are_certified_through_the_root() -> None:
    x = torch.rand(9, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (plain,), (squared,) = (smoother_of(9, metric).certify(x, [2]) for metric in (L2(), SquaredL2()))
    assert torch.equal(plain.answer, squared.answer)
    assert squared.r_hat == pytest.approx(plain.r_hat**2)
    assert squared.radius == pytest.approx((plain.radius / (1 + ROUNDING)) ** 2 * (1 + ROUNDING))


def test_a_radius_is_at_most_the_diameter() -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0], [1.0, 1.0]])
    certificate = smoother_of(5, Angular()).certify(x, 2)
    assert certificate.vacuous
    assert certificate.radius == Angular().diameter((2,), None)


def test_half_of_the_outputs_are_too_many() -> None:
    """Said before any call of the model, with how many there may be."""
    smoother = smoother_of(6, L1())
    with pytest.raises(InfeasibleError, match=r"^eps = 3 changes 3 of 6 noisy inputs: .* may change, at most 2$"):
        smoother.certify(torch.zeros(6, 1), 3)
    fine, infeasible = smoother.certify(torch.zeros(6, 1), [2, 3])
    assert (fine.outcome, infeasible.outcome) == (Outcome.CERTIFIED, Outcome.INFEASIBLE)
    assert fine.radius == 0


def test_other_laws_have_no_such_rule() -> None:
    words = (
        r"^rule is 'enumerated', but GaussianNoise\(sigma=0.5\) has no list of all noisy inputs: expected PatchNoise"
    )
    with pytest.raises(RequestError, match=words):
        Smoother(torch.tanh, GaussianNoise(0.5), Center(L2()), rule="enumerated")
    with pytest.raises(RequestError, match="rule is 'enumerated': expected one of 'measured' for center_free"):
        Smoother(torch.tanh, OneOf(), Center(L2(), "free"), rule="enumerated")
    with pytest.raises(RequestError, match="the certifier center takes all of m, expected None"):
        smoother_of(5, L2()).certify(torch.zeros(5, 1), 1, tolerance=0.1)


def test_certificates_of_draws_are_of_another_smoothed_model() -> None:
    x = torch.zeros(5, 1)
    drawn, listed = (Smoother(lambda x: x, OneOf(), Center(L1()), rule=rule) for rule in ("exact", "enumerated"))
    certificate = drawn.certify(x, 0)
    with pytest.raises(RequestError, match=r"^the certificate is of the rule 'exact': expected one of 'enumerated'$"):
        listed.attack(x, certificate)


def test_a_broken_metric_is_named() -> None:
    class Broken(L2):
        def self_rows(self, features: Tensor):
            return (torch.nan * rows for rows in super().self_rows(features))

    with pytest.raises(ModelError, match="Broken: self_rows differs from pairwise, by nan of the largest distance"):
        smoother_of(5, Broken()).certify(torch.rand(5, 2), 1)


def test_facade_and_certifier_agree() -> None:
    x = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    facade = CenterSmoother(lambda x: x, L2(), OneOf(), smoother_of(5, L2()).budget, rule="enumerated")
    alone = Smoother(lambda x: x, OneOf(), Enumerated(L2()))
    assert facade.certify(x, 1).radius == alone.certify(x, 1).radius == smoother_of(5, L2()).certify(x, 1).radius


# --- The laws that have it --------------------------------------------------------------------------------------------


class Blurred(torch.nn.Module):
    """An image of the mean of the pixels shown around each, twice as steep where few are; the mask may be missing."""

    def forward(self, noisy: Tensor) -> Tensor:
        image, mask = (noisy[:, :1], noisy[:, 1:]) if noisy.shape[1] == 2 else (noisy, torch.ones_like(noisy))
        total, seen = (torch.nn.functional.avg_pool2d(one, 3, stride=1, padding=1) for one in (image, mask))
        return torch.sigmoid(8 * total / (seen + 0.2) - 4)


@pytest.mark.parametrize(
    ("noise", "eps"), [(PatchNoise(2), 1), (PatchNoise(3), 2), (EnumeratedSplitting(0.1), 10 / 255)]
)
def test_no_attack_moves_the_answer_farther_than_certified(noise: Noise, eps: float) -> None:
    """Of random images; each answer at ``x'`` differs from that at ``x`` by corruptions of ``changed(eps)`` outputs."""
    x = (255 * torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(3))).round() / 255
    smoother = Smoother(Blurred(), noise, Center(TotalVariation()), rule="enumerated", output_range=(0.0, 1.0))
    certificate = smoother.certify(x, eps)
    assert not certificate.vacuous
    attack = Attack("search", steps=20, restarts=1, draws=32)
    attacked = smoother.attack(x, certificate, attack, runs=1, stream=RandomStream(0))
    assert bool((attacked.perturbed != x).any())
    (moved,) = attacked.movements
    assert moved <= certificate.radius
    law = noise.at(x)
    assert isinstance(law, Enumerable)
    before, after = (torch.cat(list(law.support(one, 16))) for one in (x, attacked.perturbed))
    assert 0 < int((before != after).flatten(1).any(dim=1).sum()) <= law.changed(eps)


def test_steps_of_images_in_float32_are_all_counted() -> None:
    """At ``eps`` the distance of two images as PyTorch computes it, which may say a little less than the steps."""
    noise = EnumeratedSplitting(0.5)
    numbers = torch.arange(256.0) / 255
    less = 0
    for start in range(0, 256, 5):
        for end in range(start, 256, 3):
            eps = float((numbers[end] - numbers[start]).double().abs())
            assert noise.changed(eps) == min(end - start, noise.support_size())
            less += int(255 * eps) < end - start
    assert less > 100  # so that rounding alone would count too few
    assert noise.changed(3.999 / 255) == 3


def test_a_law_that_counts_too_few_is_caught() -> None:
    """One change less than there are: the majority at ``x`` is a minority at ``x'``, and the radius was 0."""

    class OneLess(OneOf):
        def changed(self, eps: float) -> int:
            return super().changed(eps) - 1

    x, other = torch.zeros(5, 1), torch.tensor([1.0, 0, 0, 1, 1])[:, None]
    x[3] = 1
    for law, covered in ((OneOf(), True), (OneLess(), False)):
        smoother = Smoother(lambda x: x, law, Center(L1()), rule="enumerated")
        certificate = smoother.certify(x, 2)
        moved = smoother.distance(certificate.answer, smoother(other))
        assert moved == 1
        assert (moved <= certificate.radius) is covered
    assert dataclasses.replace(certificate, radius=None).outcome is Outcome.CERTIFIED
