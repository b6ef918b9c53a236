"""Ablation and splitting noise: bounds against every noisy input of small worlds, and the threats attacks climb in."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from centersmooth import (
    L1,
    AblationNoise,
    Attack,
    Budget,
    Center,
    EnumeratedSplitting,
    PatchNoise,
    RandomStream,
    RequestError,
    Smoother,
    SplittingNoise,
)
from centersmooth.draws import Draws
from centersmooth.noise import EightBitL1, Enumerable, Noise, Patch, Pixels

X = torch.zeros(1, 28, 28)


def draws_for(x: Tensor, name: str = "ablation") -> Draws:
    return RandomStream(0).draws(name, 0, x)


def random_image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def support_of(noise: Enumerable, x: Tensor) -> Tensor:
    return torch.cat(list(noise.support(x, 7)))


def changed(noise: Enumerable, x: Tensor, other: Tensor) -> int:
    """How many of the noisy inputs differ, each compared with the one of the same number."""
    return int((support_of(noise, x) != support_of(noise, other)).flatten(1).any(dim=1).sum())


# --- Bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "keep", "rho", "distance"),
    [(784, 45, 1, 0.05740), (784, 45, 4, 0.210939), (784, 45, 8, 0.37816), (50176, 2000, 16, 0.47843)],
)
def test_distances_of_ablation(pixels: int, keep: int, rho: int, distance: float) -> None:
    """Of MNIST and ImageNet, as published certificates have them."""
    assert AblationNoise(keep, pixels).total_variation(rho) == pytest.approx(distance, abs=5e-6)


@pytest.mark.parametrize(("pixels", "keep", "most"), [(784, 45, 11), (1024, 75, 9), (50176, 2000, 17)])
def test_the_most_pixels_for_which_more_than_half_is_kept(pixels: int, keep: int, most: int) -> None:
    noise = AblationNoise(keep, pixels)
    assert noise.total_variation(most) < 0.5 < noise.total_variation(most + 1)
    assert int(noise.reach(1 - 1e-12, 0.5)) == most


@pytest.mark.parametrize(("pixels", "keep"), [(1, 1), (4, 1), (5, 2), (5, 5), (6, 9)])
def test_ablation_loses_the_sets_of_pixels_that_meet_the_changed_ones(pixels: int, keep: int) -> None:
    """Counted one by one; the noisy inputs that show one of them have no mass at ``x'``, so the bound is attained."""
    noise, sets = AblationNoise(keep, pixels), list(combinations(range(pixels), min(keep, pixels)))
    for rho in range(pixels + 2):
        meeting = sum(any(pixel < rho for pixel in kept) for kept in sets) / len(sets)
        assert noise.total_variation(rho) == pytest.approx(meeting, abs=1e-12)
        assert noise.total_variation(rho + 0.9) == noise.total_variation(rho)


@pytest.mark.parametrize(("height", "width", "size"), [(4, 4, 2), (3, 5, 2), (3, 5, 4), (4, 3, 9), (1, 6, 1)])
def test_blocks_that_meet_a_patch_are_counted(height: int, width: int, size: int) -> None:
    """Of every patch, at any place and across the border, no more of the noisy inputs change, and of some as many."""
    x = random_image(2, height, width)
    noise = PatchNoise(size).at(x)
    assert noise.support_size() == height * width == len(support_of(noise, x))
    for side in range(max(height, width) + 2):
        most = 0
        for top, left in product(range(height), range(width)):
            other = x.clone()
            rows, columns = (torch.arange(first, first + side) for first in (top, left))
            other[:, rows[:, None] % height, columns % width] += 1
            most = max(most, changed(noise, x, other))
        assert most == noise.changed(side) == noise.changed(side + 0.9)
        assert noise.total_variation(side) == most / (height * width)


def test_the_distance_of_patches_is_that_of_the_literature() -> None:
    noise = PatchNoise(8).at(X)
    assert noise.total_variation(5) == 144 / 784
    assert noise.total_variation(0.5) == 0


@pytest.mark.parametrize("scale", [1 / 510, 0.1, 0.3, 0.5, 0.866, 2.0])
def test_as_many_split_images_change_as_there_are_steps_at_most(scale: float) -> None:
    """As many where one number moves, however the steps are shared out; none where nothing moves."""
    noise, generator = EnumeratedSplitting(scale), torch.Generator().manual_seed(1)
    x = torch.randint(256, (3, 2), generator=generator) / 255
    assert noise.support_size() == int(510 * scale + 1e-6) == len(support_of(noise, x))
    for steps in (0, 1, 2, 5, 40):
        shift = EightBitL1().start(x, steps / 255, draws_for(x, f"{steps}"))
        other = EightBitL1().apply(x, shift)
        assert changed(noise.at(x), x, other) <= noise.changed(steps / 255)
        one = x.clone()
        one[0, 0] = (x[0, 0] + (steps if x[0, 0] < 0.5 else -steps) / 255).clamp(0, 1)
        assert changed(noise, x, one) == noise.changed(steps / 255) == min(steps, noise.support_size())


def test_split_images_are_those_of_the_published_formula() -> None:
    """From half a unit on: ``(1[x > s] + min(s, 1)) / 2``, with every split point once for each number."""
    noise, x = EnumeratedSplitting(0.7), torch.tensor([0.0, 17 / 255, 1.0])
    splits = (torch.arange(357) + 0.5) / 255
    for number, column in zip(x, support_of(noise, x).T, strict=True):
        expected = ((number > splits).float() + splits.clamp(max=1)) / 2
        assert torch.allclose(column.sort().values, expected.sort().values)


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.5, 1.3])
def test_splitting_noise_is_the_midpoint_of_a_cell(scale: float) -> None:
    """Within half a cell of the number, one of few values for a given first split point, and the same for all of it."""
    noise, x = SplittingNoise(scale), torch.linspace(0, 1, 101, dtype=torch.float64)
    sample = noise.sample(x, 200, draws_for(x))
    assert float((sample - x).abs().max()) <= min(scale, 0.5) + 1e-12
    assert torch.equal(sample, sample.clamp(0, 1))


def test_the_bound_of_splitting_noise_is_attained() -> None:
    """A move from 0.3 to 0.5 at half width 1/2: what lies in [0.15, 0.25) has mass 0.2 before it, and none after."""
    noise, count = SplittingNoise(0.5), 200_000
    masses = []
    for number in (0.3, 0.5):
        x = torch.tensor([number], dtype=torch.float64)
        sample = noise.sample(x, count, draws_for(x))
        masses.append(float(((sample >= 0.15) & (sample < 0.25)).double().mean()))
    assert masses[0] == pytest.approx(noise.total_variation(0.2), abs=5 * math.sqrt(0.16 / count))
    assert masses[1] == 0


LAWS = [
    (AblationNoise(2, 5), 1),
    (PatchNoise(2, (4, 4)), 1),
    (SplittingNoise(0.5), 0.2),
    (EnumeratedSplitting(0.5), 51 / 255),
]


@pytest.mark.parametrize(("noise", "eps"), LAWS)
def test_masses_follow_from_the_distance(noise: Noise, eps: float) -> None:
    distance = noise.total_variation(eps)
    assert 0 < distance < 0.5
    for mass in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert noise.required_mass(mass, eps) == pytest.approx(min(1, mass + distance))
        assert noise.required_mass(mass, eps) >= min(1, mass + distance)
        assert noise.kept_mass(mass, eps) == pytest.approx(max(0, mass - distance), abs=1e-9)
        assert noise.required_mass_of_draws(mass, eps, 4) == pytest.approx(min(1, mass + 1 - (1 - distance) ** 4))
    assert noise.required_mass(0.3, 0.0) == pytest.approx(0.3)
    assert noise.required_mass_of_draws(0.3, 1e6, 2) == 1


def test_pairs_of_draws_lose_no_more_than_they_may() -> None:
    """Pairs one of which meets the patch: their share is what the bound for two draws adds, exactly."""
    x = random_image(1, 4, 4)
    noise, other = PatchNoise(2).at(x), x.clone()
    other[0, 1, 1] += 1
    same = (support_of(noise, x) == support_of(noise, other)).flatten(1).all(dim=1)
    pairs = float((same[:, None] & same[None, :]).double().mean())
    assert noise.required_mass_of_draws(0.1, 1, 2) == pytest.approx(0.1 + 1 - pairs)


@pytest.mark.parametrize("noise", [AblationNoise(2), PatchNoise(1), EnumeratedSplitting(0.01)])
def test_all_noisy_inputs_are_equally_likely(noise: Noise) -> None:
    """Ten sets of two of five pixels, six blocks, five split images: frequencies within five standard errors."""
    x = random_image(2, 1, 5) if isinstance(noise, AblationNoise) else random_image(2, 2, 3)
    x = (255 * x).round() / 255
    count, kinds = 20_000, {AblationNoise: 10, PatchNoise: 6, EnumeratedSplitting: 5}[type(noise)]
    sample = noise.sample(x, count, draws_for(x)).flatten(1)
    found, counts = torch.unique(sample, dim=0, return_counts=True)
    assert len(found) == kinds
    assert float((counts / count - 1 / kinds).abs().max()) < 5 * math.sqrt((1 - 1 / kinds) / kinds / count)
    if isinstance(noise, Enumerable):
        listed = torch.unique(torch.cat(list(noise.at(x).support(x, 4))).flatten(1), dim=0)
        assert torch.equal(found, listed)


@pytest.mark.parametrize("noise", [AblationNoise(3), PatchNoise(2)])
def test_dropped_pixels_are_zero_in_all_channels_and_told_in_one_more(noise: AblationNoise | PatchNoise) -> None:
    x = 1 + random_image(3, 4, 4)
    sample = noise.sample(x, 50, draws_for(x))
    assert sample.shape == (50, 4, 4, 4)
    mask = sample[:, 3:]
    assert torch.equal(sample[:, :3], x * mask)
    assert set(mask.sum(dim=(1, 2, 3)).tolist()) == {3 if isinstance(noise, AblationNoise) else 4}
    assert torch.equal(noise.clean(x), torch.cat([x, torch.ones(1, 4, 4)]))


# --- Requests that cannot be served ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (lambda: AblationNoise(0), r"keep is 0: expected a whole number of pixels, of at least 1"),
        (lambda: AblationNoise(2.5), r"keep is 2.5: expected a whole number"),
        (lambda: PatchNoise(math.nan), r"size is nan: expected a whole number"),
        (lambda: PatchNoise("3"), r"size is '3': expected a whole number"),
        (lambda: AblationNoise(2).required_mass(0.5, 1), r"on the size of the image: use that of noise.at\(x\)"),
        (lambda: PatchNoise(2).changed(1), r"depends on the size of the image"),
        (lambda: PatchNoise(2).at(torch.zeros(4, 4)), r"x has shape \(4, 4\): expected an image \(channels, height"),
        (lambda: AblationNoise(2, 9).total_variation(-1), r"eps is -1: expected a number of changed pixels"),
        (lambda: PatchNoise(2, (3, 3)).changed(math.nan), r"eps is nan: expected the side of a patch"),
        (lambda: SplittingNoise(0), r"scale is 0: expected a positive number"),
        (lambda: SplittingNoise(0.5).at(2 * torch.ones(3)), r"x has numbers from 2 to 2: expected \[0, 1\]"),
        (lambda: SplittingNoise(0.5).at(torch.tensor([-0.1])), r"x has numbers from -0.1 to -0.1: expected \[0, 1\]"),
        (lambda: EnumeratedSplitting(0.001), r"scale is 0.001: expected a number of at least 1/510"),
        (lambda: EnumeratedSplitting(0.5).at(torch.tensor([0.5])), r"0.002 away from every k/255.*\(255 \* x\).round"),
    ],
)
def test_requests_that_cannot_be_served_are_refused_in_a_line(request_, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        request_()
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_come_as_floats() -> None:
    """As grids of the runner have them."""
    assert AblationNoise(45.0) == AblationNoise(45)
    assert isinstance(PatchNoise(5.0).size, int)


# --- Threats --------------------------------------------------------------------------------------------------------


def size_of(threat: Pixels | Patch, shift: Tensor) -> int:
    """Of a shift: its number of pixels, or the side of the smallest square that holds them."""
    pixels = (shift != 0).any(dim=0).nonzero()
    if not len(pixels) or isinstance(threat, Pixels):
        return len(pixels)
    return int((pixels.amax(dim=0) - pixels.amin(dim=0)).max()) + 1


@pytest.mark.parametrize("threat", [Pixels(), Patch()], ids=repr)
@pytest.mark.parametrize("eps", [0.0, 0.5, 1.0, 3.0, 3.9, 100.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_sparse_shifts_have_their_size_and_stay_in_the_range(threat, eps: float, dtype: torch.dtype) -> None:
    x, draws = random_image(2, 5, 6).to(dtype), draws_for(X)
    most = min(int(eps), 30 if isinstance(threat, Pixels) else 6)
    for shift in (threat.start(x, eps, draws), threat.propose(x, eps, draws), 3 * (x - 0.5)):
        assert (shift.shape, shift.dtype) == (x.shape, dtype)
        projected = threat.project(shift, eps)
        assert size_of(threat, projected) <= most
        perturbed = threat.perturbed(x, shift, eps)
        assert size_of(threat, perturbed - x) <= most
        assert torch.equal(perturbed, perturbed.clamp(0, 1))
    assert size_of(threat, threat.start(x, eps, draws)) == most
    signs = torch.stack([threat.start(torch.ones_like(x), eps, draws_for(x, f"{i}")) for i in range(20)]).sign()
    assert ({-1.0, 1.0} <= set(signs.unique().tolist())) is (most > 0)
    assert size_of(threat, threat.propose(x, eps, draws)) == (max(1, most) if eps else 0)


@pytest.mark.parametrize("threat", [Pixels(), Patch()], ids=repr)
def test_a_sparse_projection_keeps_what_is_largest(threat) -> None:
    shift = torch.zeros(2, 4, 4)
    shift[:, 2, 2:] = torch.tensor([0.6, -0.5])
    shift[0, 0, 0] = 0.9
    kept = threat.project(shift, 2)
    assert torch.equal(kept[:, 2, 2:], shift[:, 2, 2:])
    assert float(kept[0, 0, 0]) == 0
    assert torch.equal(threat.project(kept, 2), kept)
    assert float(threat.project(9 * shift, 2).abs().max()) == 1


def test_a_clipped_pixel_has_a_gradient_and_can_come_back() -> None:
    x, shift = torch.full((1, 2, 2), 0.8), torch.full((1, 2, 2), 0.9, requires_grad=True)
    Pixels().apply(x, shift).sum().backward()
    assert torch.equal(shift.grad, torch.ones(1, 2, 2))
    assert torch.equal(Pixels().steepest(torch.tensor([[[4.0, -8.0]]])), torch.tensor([[[0.5, -1.0]]]))
    assert torch.equal(Pixels().steepest(torch.zeros(1, 2, 2)), torch.zeros(1, 2, 2))


@pytest.mark.parametrize("eps", [0.0, 0.003, 1 / 255, 0.1, 3.0])
def test_8_bit_shifts_are_whole_steps_within_eps(eps: float) -> None:
    x, threat, draws = (255 * random_image(3, 4)).round() / 255, EightBitL1(), draws_for(X)
    for shift in (threat.start(x, eps, draws), threat.propose(x, eps, draws), x - 0.5):
        for other in (threat.perturbed(x, shift, eps), threat.apply(x, threat.project(shift, eps))):
            EnumeratedSplitting(0.5).at(other)
            assert int((255 * (other - x)).round().abs().sum()) <= threat.steps(eps)
    assert float(255 * threat.start(x, eps, draws).abs().sum()) == pytest.approx(threat.steps(eps), abs=1e-3)


# --- Certificates ---------------------------------------------------------------------------------------------------

BUDGET = Budget(n=600, m=1_200, delta=0.1, alpha1=0.01, alpha2=0.01)


class Halved(AblationNoise):
    """States half of the distance."""

    def total_variation(self, eps: float) -> float:
        return super().total_variation(eps) / 2


def shown(x: Tensor) -> Tensor:
    """The worst model of ablation: 1 where one of the pixels is shown that the attacker has turned to 1."""
    return x[:, :1].amax(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize("rule", ["exact", "measured"])
def test_certificates_under_ablation_cover_the_worst_model(rule: str) -> None:
    """All outputs at ``x`` are 0, so that the radius is 0; at ``x'`` a share of 0.38 is 1, and no run answers that.

    Half of the distance certifies 0 where a share of 0.57 is 1, and runs answer 1.
    """
    x = torch.zeros(1, 7, 7)
    noise = AblationNoise(3)
    for law, eps in ((noise, 7), (Halved(3), 12)):
        smoother = Smoother(shown, law, Center(L1()), BUDGET, rule=rule, output_range=(0.0, 1.0))
        certificate = smoother.certify(x, eps, stream=RandomStream(0))
        assert certificate.radius == 0
        worst = x.clone()
        worst.view(-1)[:eps] = 1
        answers = [float(smoother.smooth(worst, stream=RandomStream(run)).answer) for run in range(5)]
        assert answers == [float(law is not noise)] * 5
    assert 0.37 < noise.at(x).total_variation(7) < 0.5 < 0.57 < noise.at(x).total_variation(12)


@pytest.mark.parametrize("kind", ["pgd", "search"])
@pytest.mark.parametrize("noise", [AblationNoise(6), PatchNoise(2)], ids=repr)
def test_attacks_under_ablation_find_the_pixels_that_count(noise: Noise, kind: str) -> None:
    """A model that sums up one channel of a corner: what an attack changes there moves it, more than chance does."""
    x = 0.5 * torch.ones(2, 6, 6)
    smoother = Smoother(
        lambda noisy: noisy[:, 0, :3, :3].sum(dim=(1, 2))[:, None], noise, Center(L1()), BUDGET, output_range=(0.0, 9.0)
    )
    (certificate,) = smoother.certify(x, [2], stream=RandomStream(0))
    found = smoother.attack(x, certificate, Attack(kind, steps=30), stream=RandomStream(1)).perturbed
    moved = (found - x)[0, :3, :3]
    assert size_of(noise.threat, found - x) <= 2
    assert float(moved.abs().sum()) >= 0.5 * (2 if isinstance(noise, AblationNoise) else 4)
    assert abs(float(moved.sum())) == pytest.approx(float(moved.abs().sum()))


def test_the_gradient_of_ablation_reaches_the_pixels_that_are_kept() -> None:
    x = random_image(2, 3, 3).requires_grad_()
    sample = PatchNoise(2).sample(x, 1, draws_for(X))
    sample[:, :2].sum().backward()
    assert torch.equal(x.grad, sample[0, 2:].detach().expand(2, 3, 3))


def test_integers_are_uniform() -> None:
    counts = np.bincount(draws_for(X).integers((30_000,), 3).numpy())
    assert np.abs(counts / 30_000 - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 30_000)
