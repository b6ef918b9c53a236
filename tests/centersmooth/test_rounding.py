"""Distances are right to what certificates allow for, in every size and type; so are noise and its streams."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    Budget,
    CenterSmoother,
    Cosine,
    DistanceFunction,
    GaussianNoise,
    Jaccard,
    MeanSmoother,
    Metric,
    ModelError,
    RandomStream,
    RequestError,
    SquaredL2,
    TotalVariation,
)
from centersmooth.draws import Draws

COVERED = 1.6e-5
"""What `rules.ROUNDING` covers, in six places."""

L1_BOUND = 257 * 2**-24
"""What docs/guarantee.md states for l1 and total variation."""


def between(metric: Metric, a: Tensor, b: Tensor) -> float:
    return float(metric.pairwise(metric.features(a[None]), metric.features(b[None])))


# --- l1 and total variation -----------------------------------------------------------------------------------------


def colours(size: int) -> Tensor:
    """Black, flat colours of awkward values, and random 8-bit images: ``(7, size)``."""
    flat = torch.tensor([0.0, 0.1, 0.7137, 1 / 3, 0.999])[:, None].expand(-1, size)
    noise = torch.randint(256, (2, size), generator=torch.Generator().manual_seed(size)) / 255
    return torch.cat([flat, noise])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 784, 3_072, 49_152, 150_528])
def test_l1_is_right_to_its_stated_bound_at_any_size(size: int) -> None:
    outputs = colours(size)
    features = L1().features(outputs)
    exact = torch.cdist(outputs.double(), outputs.double(), p=1)
    distances = L1().pairwise(features, features)
    assert ((distances - exact).abs() <= L1_BOUND * exact).all()
    assert L1_BOUND < COVERED


@pytest.mark.parametrize("size", [784, 3_072, 49_152])
@pytest.mark.parametrize("metric", [L1(), TotalVariation()], ids=str)
def test_matrix_and_rows_are_equal_bit_by_bit(metric: Metric, size: int) -> None:
    features = metric.features(colours(size).view(7, -1, 16, 1))
    matrix = torch.cat(list(metric.self_rows(features)))
    assert torch.equal(matrix, metric.pairwise(features, features))
    assert torch.equal(matrix[:, 3:4], metric.pairwise(features, features[3:4]))


def test_one_float32_sum_would_be_off_by_more_than_is_covered() -> None:
    """The test above can fail: this is how distances were computed before."""
    outputs = colours(49_152)
    exact = torch.cdist(outputs.double(), outputs.double(), p=1)
    assert ((torch.cdist(outputs, outputs, p=1) - exact).abs() / exact.clamp(min=1)).max() > 10 * COVERED


SIDE, LEVEL, H = 128, 0.55, 1.5
COLOURS = LEVEL * torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1 - 1e-5] * 3])
"""Black; red, green and blue, all at one distance from black; almost white, at two from these and three from black."""


def colourful(x: Tensor) -> Tensor:
    """Black where the input is below -1.4, almost white above 2.5, between them red, green and blue in turn."""
    kind = 1 + (x[:, 0] / 0.15).floor().long() % 3
    kind = torch.where(x[:, 0] < -1.4, 0, torch.where(x[:, 0] > 2.5, 4, kind))
    return COLOURS[kind][:, :, None, None].expand(-1, -1, SIDE, SIDE)


def moved_beyond(seeds: range) -> int:
    """Runs of the smoothed model at ``x' = 1.5`` that answer beyond the radius certified at ``x = 0``."""
    budget = Budget(n=60, m=500, delta=0.2, alpha1=0.05, alpha2=0.2)
    smoother = CenterSmoother(colourful, L1(), GaussianNoise(1.0), budget, rule="exact", forward_block=64)
    beyond = 0
    for seed in seeds:
        certificate = smoother.certify(torch.zeros(1), H, stream=RandomStream(seed))
        answer = smoother.smooth(torch.tensor([H]), stream=RandomStream(seed, point=1))
        if certificate.radius is not None and answer.output is not None:
            moved = float((certificate.answer.double() - answer.output.double()).abs().sum())
            beyond += moved > certificate.radius
    return beyond


def test_a_movement_of_three_radii_is_covered() -> None:
    """Centers exactly 3 r_hat apart, which leaves nothing to spare but the allowance for rounding."""
    assert moved_beyond(range(12)) == 0


def test_sums_that_lose_digits_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L1, "pairwise", lambda self, a, b: torch.cdist(a, b, p=1))
    assert moved_beyond(range(12)) >= 6


# --- l2 and its kin -------------------------------------------------------------------------------------------------


def two_clusters(x: Tensor) -> Tensor:
    """Within 1e-8 of 0 with probability 0.58, else near -1e9, a value that stands for "no detection"."""
    return torch.where(x[:, :1] < 0.202, 1e-8 * x[:, 1:], -1e9 + x[:, 1:])


def with_far_cluster(metric: Metric, free: bool) -> float:
    budget, kind = Budget(n=4_000, m=4_000, alpha1=0.2, alpha2=0.2), "free" if free else "sample"
    smoother = CenterSmoother(two_clusters, metric, GaussianNoise(1.0), budget, kind=kind, forward_block=500)
    certificate = smoother.certify(torch.zeros(9, dtype=torch.float64), 0.02, stream=RandomStream(0))
    return certificate.radius


class ByDifferences(L2):
    """Computes every distance from differences."""

    def self_rows(self, features):
        yield self.pairwise(features, features)


class ByProducts(L2):
    """Trusts the median of all features to be where the distances that matter are."""

    def self_rows(self, features):
        features = features - features.median(dim=0).values
        squares = features.square().sum(1)
        yield (squares[:, None] + squares - 2 * features @ features.T).clamp(min=0).sqrt()


@pytest.mark.parametrize("free", [False, True])
def test_a_far_cluster_costs_no_digits(free: bool) -> None:
    """The cancellation that would cost them is caught for free centers.

    Their median of sample and means lies in the far cluster, and distances in the near one come as 0.
    """
    expected = with_far_cluster(ByDifferences(), free)
    assert with_far_cluster(L2(), free) == pytest.approx(expected, rel=1e-5)
    if free:
        assert with_far_cluster(ByProducts(), free) < 0.6 * expected


@pytest.mark.parametrize("metric", [L2(), SquaredL2(), Cosine(), Angular()], ids=str)
@pytest.mark.parametrize("spread", [1e-9, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("size", [2, 40])
def test_matrices_are_right_for_clusters_at_any_distance(metric: Metric, spread: float, size: int) -> None:
    """Clusters of one width, ``spread`` apart, whichever of them the median falls into."""
    generator = torch.Generator().manual_seed(0)
    centers = spread * torch.randn(4, 1, size, generator=generator, dtype=torch.float64)
    width = 1e-4 * spread * torch.randn(4, 20, size, generator=generator, dtype=torch.float64)
    features = metric.features((1 + centers + width).view(80, size))
    exact = metric.pairwise(features, features)
    matrix = torch.cat(list(metric.self_rows(features)))
    torch.testing.assert_close(matrix, exact, rtol=3e-6, atol=0)


def test_small_differences_have_distances() -> None:
    a, b = torch.zeros(2, dtype=torch.float64), torch.tensor([3e-170, 4e-170], dtype=torch.float64)
    assert between(L2(), a, b) == pytest.approx(5e-170)
    assert between(SquaredL2(), a, b) > 0
    features = L2().features(torch.stack([a, b, b]))
    rows = torch.cat(list(L2().self_rows(features)))
    assert rows[0].tolist() == pytest.approx([0, 5e-170, 5e-170])
    assert rows[1, 2] == 0
    assert (
        between(L2(), torch.tensor([1.0, 1e-170], dtype=torch.float64), torch.tensor([1.0, 0], dtype=torch.float64)) > 0
    )


# --- boxes ----------------------------------------------------------------------------------------------------------


def exact_jaccard(a: list[float], b: list[float]) -> Fraction:
    (ax, ay, au, av), (bx, by, bu, bv) = (map(Fraction, box) for box in (a, b))
    width, height = min(au, bu) - max(ax, bx), min(av, bv) - max(ay, by)
    common = max(width, Fraction(0)) * max(height, Fraction(0))
    return 1 - common / ((au - ax) * (av - ay) + (bu - bx) * (bv - by) - common)


@pytest.mark.parametrize("step", [1e-15, 1e-9, 1e-3, 0.5])
def test_boxes_that_are_almost_equal_have_their_distance(step: float) -> None:
    a, b = [0.25, 0.5, 1.25, 2.0], [0.25 + step, 0.5 - step, 1.25 + step, 2.0]
    distance = between(Jaccard(), *(torch.tensor(box, dtype=torch.float64) for box in (a, b)))
    assert distance == pytest.approx(float(exact_jaccard(a, b)), rel=1e-14)


# --- integers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [L1(), L2()], ids=str)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integers_are_exact_as_far_as_they_fit(metric: Metric, dtype: torch.dtype) -> None:
    a = torch.tensor([2**24, 0], dtype=dtype)
    assert between(metric, a, a + torch.tensor([1, 0])) == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.bool])
def test_narrow_integers_do_not_wrap_around(dtype: torch.dtype) -> None:
    a, b = torch.tensor([100, 0]).to(dtype), torch.tensor([0, 100]).to(dtype)
    value = 1 if dtype is torch.bool else 100
    assert between(L1(), a, b) == 2 * value
    assert between(SquaredL2(), a, b) == pytest.approx(2 * value**2)


@pytest.mark.parametrize("metric", [L1(), L2(), Cosine(), TotalVariation()], ids=str)
def test_integers_that_float64_cannot_tell_apart_are_refused(metric: Metric) -> None:
    with pytest.raises(RequestError, match="int64 with values from 1 to 9007199254740993: differences are exact up to"):
        metric.features(torch.tensor([[[1, 2**53 + 1]]]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_a_distance_of_ones_own_gets_integers_it_can_subtract(dtype: torch.dtype) -> None:
    """``(a - b)**2`` of bytes wraps around: 0 and 200 would be at distance 64."""
    squared = DistanceFunction(lambda a, b: ((a - b) ** 2).sum(1), power=2)
    a, b = torch.tensor([0, 0]).to(dtype), torch.tensor([120, 3]).to(dtype)
    assert between(squared, a, b) == 120**2 + 9
    if dtype is torch.int64:
        with pytest.raises(RequestError, match="exact up to 1518500249 only; have the model return float64"):
            squared.features(torch.tensor([[2**31]]))


def test_a_certificate_of_bytes_is_that_of_their_numbers() -> None:
    """Outputs 0 or 200 bytes apart: a distance that wraps around would be certified with a smaller radius."""
    squared = DistanceFunction(lambda a, b: ((a - b) ** 2).sum(1), power=2)
    radii = []
    for dtype in (torch.uint8, torch.float64):
        smoother = CenterSmoother(
            lambda x, dtype=dtype: (100 + 50 * x.clamp(-2, 2)).round().to(dtype),
            squared, GaussianNoise(1.0), Budget(n=200, m=400, delta=0.2), forward_block=50,
        )  # fmt: skip
        radii.append(smoother.certify(torch.zeros(1), 0.5, stream=RandomStream(0)).radius)
    assert radii[0] == radii[1]


class Raw(Metric):
    """A user's metric that takes outputs as they are."""

    def features(self, outputs: Tensor) -> Tensor:
        return outputs.flatten(1)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return ((a[:, None] - b[None]) ** 2).sum(-1).double().sqrt()


class Buffered(Raw):
    """Answers in one buffer, as an engine for features does."""

    def __init__(self) -> None:
        self.buffer = torch.empty(128, 1)

    def features(self, outputs: Tensor) -> Tensor:
        view = self.buffer[: len(outputs)]
        view.copy_(outputs.flatten(1))
        return view


def test_a_metric_in_which_integers_wrap_around_is_refused() -> None:
    """It certified radius 0 where l2 is 480."""
    smoother = CenterSmoother(
        lambda x: (x > 0).to(torch.uint8) * 240, Raw(), GaussianNoise(0.5), Budget(n=1_000, m=1_000, delta=0.1)
    )
    with pytest.raises(
        ModelError, match=r"torch.uint8 outputs are measured otherwise than as float64: convert them in"
    ):
        smoother.certify(torch.zeros(1), 0.5)


def test_sums_of_squares_of_many_integers_do_not_wrap_around() -> None:
    """2^24 apart in 65,536 coordinates: the sum of squares is 2^64, which int64 takes for 0."""
    squared = DistanceFunction(lambda a, b: ((a - b) ** 2).sum(1), power=2)
    with pytest.raises(RequestError, match="exact up to 5931641 only"):
        squared.features(torch.full((2, 65_536), 2**24))
    largest = torch.full((1, 65_536), 5_931_641)
    assert between(squared, largest[0], -largest[0]) == 65_536 * (2 * 5_931_641) ** 2


@pytest.mark.parametrize("kind", ["sample", "free"])
def test_features_in_a_buffer_are_those_of_each_output(kind: str) -> None:
    """Kept by reference all blocks were the last one, and the center another."""
    metrics = (type("Own", (one,), {"has_means": True})() for one in (Buffered, Raw))
    centers = [
        [
            CenterSmoother(
                lambda x: torch.where(x > 0.6, 1000.0, 0.0) + x,
                metric, GaussianNoise(0.5), Budget(n=400, m=400, delta=0.2), kind=kind,
            ).certify(torch.zeros(1), 0.1, stream=RandomStream(seed)).answer.item()
            for seed in range(4)
        ]
        for metric in metrics
    ]  # fmt: skip
    assert centers[0] == centers[1]


def test_boxes_beyond_float64_are_refused() -> None:
    with pytest.raises(RequestError, match="differences are exact up to"):
        Jaccard().features(torch.tensor([[2**53 - 1, 0, 2**53 + 1, 1]]))


# --- noise and its streams ------------------------------------------------------------------------------------------


def test_float64_inputs_get_float64_noise() -> None:
    x = torch.zeros(1_000, dtype=torch.float64)
    noise = GaussianNoise(1.0).sample(x, 1, RandomStream(0).draws("center", 0, x))
    assert (noise != noise.float().double()).float().mean() > 0.99
    tiny = GaussianNoise(1e-46).sample(x, 1, RandomStream(0).draws("center", 0, x))
    assert float(tiny.std()) == pytest.approx(1e-46, rel=0.1)


def test_noise_that_float32_cannot_hold_is_refused() -> None:
    x = torch.zeros(3)
    with pytest.raises(RequestError, match=r"sigma is 1e-46, which torch.float32 cannot tell from 0: rescale"):
        GaussianNoise(1e-46).sample(x, 1, RandomStream(0).draws("center", 0, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_follow_their_laws(dtype: torch.dtype) -> None:
    draws = Draws(5, torch.zeros(0, dtype=dtype))
    assert kstest(draws.normal((20_000,)).numpy(), "norm").pvalue > 1e-6
    uniform = draws.uniform((20_000,))
    assert kstest(uniform.numpy(), "uniform").pvalue > 1e-6
    assert uniform.max() < 1
    assert draws.permutation(500).sort().values.tolist() == list(range(500))


@pytest.mark.parametrize("bit", [0, 31, 32, 63, 64, 127])
def test_every_bit_of_a_key_counts(bit: int) -> None:
    """torch's generator on the CPU takes 32 bits of its seed: some pairs of a few hundred thousand blocks are equal."""
    like = torch.zeros(0)
    assert not torch.equal(Draws(7, like).normal((8,)), Draws(7 ^ (1 << bit), like).normal((8,)))


def test_blocks_do_not_repeat() -> None:
    """Among so many blocks some keys agree in their last 32 bits, and none in all."""
    keys = [RandomStream(0, point)._key("fresh", 0) for point in range(300_000)]
    assert len({key % 2**32 for key in keys}) < len(set(keys)) == len(keys)


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alpha1", "alpha2"])
def test_failure_probabilities_too_small_to_compute_with_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match=rf"{name} is 5e-324: expected a probability strictly between 1e-301 and"):
        Budget(**{name: 5e-324})


def test_total_variation_of_single_pixels_is_refused() -> None:
    limits, counts = (0.0, 1.0), Budget(n=10, m=10)
    model = lambda x: x.sigmoid().view(-1, 1, 1, 1)  # noqa: E731
    smoother = MeanSmoother(model, TotalVariation(), GaussianNoise(1.0), counts, output_range=limits)
    with pytest.raises(RequestError, match="images of 1x1 pixels: expected neighbours, or use L1"):
        smoother.certify(torch.zeros(1), 0.1)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_total_variation_of_images_without_pixels_is_refused(shape: tuple[int, int]) -> None:
    """Their diameter would be negative."""
    with pytest.raises(RequestError, match=f"images of {shape[0]}x{shape[1]} pixels: expected neighbours, or use L1"):
        TotalVariation().features(torch.zeros(2, 1, *shape))
