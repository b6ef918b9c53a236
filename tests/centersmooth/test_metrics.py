"""Each metric against an independent implementation, and its conventions; its contract is in test_contracts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from plugins import METRICS, fit_for, outputs_for, random_outputs, shape_for
from reference_distances import REFERENCE
from scipy.spatial import distance as scipy_distance
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_convert

from centersmooth import (
    L1,
    L2,
    OSPA,
    Angular,
    Budget,
    CenterSmoother,
    Cosine,
    DistanceFunction,
    GaussianNoise,
    Hamming,
    Jaccard,
    Metric,
    ModelError,
    RandomStream,
    RequestError,
    SquaredL2,
    TotalVariation,
)
from centersmooth.metrics import base, boxes

VECTORS = [L1(), L2(), SquaredL2(), Cosine(), Angular()]
EACH = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def absolute(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(1)


def measure(metric: Metric, a: Tensor, b: Tensor) -> Tensor:
    return metric.pairwise(metric.features(a), metric.features(b))


@EACH
@given(data=st.data())
def test_agrees_with_plain_python(metric: Metric, data: st.DataObject) -> None:
    """Loops that share no line with the library."""
    outputs = data.draw(outputs_for(metric, 4))
    expected = [[REFERENCE[metric.name](a, b) for b in outputs] for a in outputs]
    # The arc cosine of the reference is good for half of the digits near 0.
    assert measure(metric, outputs, outputs).tolist() == [pytest.approx(row, rel=1e-5, abs=3e-8) for row in expected]


@pytest.mark.parametrize(
    ("metric", "independent"),
    [
        (L1(), scipy_distance.cityblock),
        (L2(), scipy_distance.euclidean),
        (SquaredL2(), scipy_distance.sqeuclidean),
        (Cosine(), scipy_distance.cosine),
        (Angular(), lambda a, b: math.acos(1 - scipy_distance.cosine(a, b)) / math.pi),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 8, 8)])
def test_agrees_with_scipy(metric: Metric, independent, shape: tuple[int, ...]) -> None:
    """Vectors and images as vectors, also of one coordinate."""
    a, b = (torch.randn(5, *shape, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    expected = [[independent(u.flatten().double().numpy(), v.flatten().double().numpy()) for v in b] for u in a]
    np.testing.assert_allclose(measure(metric, a, b), expected, rtol=1e-5, atol=1e-7)


@EACH
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_entries_do_not_depend_on_the_other_rows(metric: Metric, rows: int) -> None:
    """To the last digit: the center is compared with one column, candidates with many."""
    outputs = random_outputs(metric)
    full = measure(metric, outputs, outputs)
    assert torch.equal(measure(metric, outputs[:rows], outputs), full[:rows])
    assert torch.equal(measure(metric, outputs, outputs[-rows:]), full[:, -rows:])


@EACH
def test_equal_outputs_tie(metric: Metric) -> None:
    """The 3 copies of an output have one and the same distance to everything; among themselves it is 0."""
    outputs = random_outputs(metric, 10).repeat(3, *[1] * len(shape_for(metric)))
    distances = measure(metric, outputs, outputs)
    blocks = distances.reshape(3, 10, 3, 10)
    assert all(torch.equal(blocks[i, :, j], blocks[0, :, 0]) for i in range(3) for j in range(3))
    assert not blocks[0, range(10), 1, range(10)].any()


@EACH
@pytest.mark.parametrize("values", [(0.0, 1.0), (-1.0, 1.0)])
def test_diameter_is_never_exceeded(metric: Metric, values: tuple[float, float]) -> None:
    """Corners of the output cube, where each distance is largest."""
    low, high = values
    shape = shape_for(metric)
    corners = torch.rand(60, *shape, generator=torch.Generator().manual_seed(0)).round() * (high - low) + low
    corners = fit_for(metric, torch.cat([corners, torch.full((1, *shape), low), torch.full((1, *shape), high)]))
    diameter = metric.diameter(shape, values)
    assert 0 < float(measure(metric, corners, corners).max()) <= diameter * (1 + 1e-12) < math.inf


@pytest.mark.parametrize("metric", VECTORS[:3], ids=lambda m: m.name)
def test_diameter_of_the_cube_is_attained(metric: Metric) -> None:
    """Opposite corners."""
    corners = torch.stack([torch.full((5,), -1.0), torch.full((5,), 1.0)])
    assert metric.diameter((5,), (-1.0, 1.0)) == pytest.approx(float(measure(metric, corners, corners).max()))
    assert metric.diameter((5,), None) == math.inf


@pytest.mark.parametrize(
    ("shape", "diameter"), [((1, 28, 28), 3_024), ((28, 28), 3_024), ((3, 32, 32), 11_904), ((1, 1, 2), 2)]
)
def test_total_variation_of_checkerboards_is_the_diameter(shape: tuple[int, ...], diameter: float) -> None:
    """A checkerboard and its inverse attain it, in each channel."""
    board = ((torch.arange(shape[-2])[:, None] + torch.arange(shape[-1])) % 2).float().expand(shape)[None]
    assert TotalVariation().diameter(shape, (0.0, 1.0)) == diameter
    assert float(measure(TotalVariation(), board, 1 - board)) == diameter


def test_total_variation_ignores_constants() -> None:
    """A constant added to a channel moves nothing."""
    image = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([0.25, -0.5, 2.0])[:, None, None]
    assert float(measure(TotalVariation(), image, image + shift)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.bool, torch.float16])
@pytest.mark.parametrize("metric", [L1(), TotalVariation()], ids=lambda m: m.name)
def test_narrow_types_are_widened_first(metric: Metric, dtype: torch.dtype) -> None:
    """Bytes must not wrap around, nor half precision round, before they are subtracted."""
    images = (torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)) * 120).to(dtype)
    assert torch.equal(measure(metric, images, images), measure(metric, images.float(), images.float()))


EMPTY = [[0.0, 0, 0, 0], [5.0, 5, 5, 9], [5.0, 5, 9, 5], [3.0, 3, 3, 3], [-2.0, -2, -2, -1]]


def test_a_class_alone_is_a_map_of_one_pixel() -> None:
    labels = Hamming().features(torch.tensor([3, 1, 3]))
    with pytest.raises(RequestError, match="an output has 16,777,217 pixels: expected at most 16,777,216"):
        Hamming().features(torch.zeros(1, dtype=torch.int64).expand(1, 2**24 + 1))
    assert Hamming().pairwise(labels, labels).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("empty", EMPTY)
def test_empty_box_convention(empty: list[float]) -> None:
    """Without area: at 1 from any box, also one around it, and at 0 from the empty set."""
    boxes = torch.tensor([empty, [0.0, 0, 10, 10], [0.0, 0, 0, 0]])
    assert measure(Jaccard(), boxes[:1], boxes).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("inverted", [[2.0, 2, 1, 3], [2.0, 3, 3, 2], [9.0, 9, 1, 1], [1.0, 0, 0, 0]])
def test_an_inverted_box_is_refused(inverted: list[float]) -> None:
    """It is no empty set: most often the boxes are in another format, all of them then at distance 0."""
    with pytest.raises(ModelError, match=r"inverted box \(.*torchvision\.ops\.box_convert") as caught:
        Jaccard().features(torch.tensor([[0.0, 0, 10, 10], inverted]))
    assert f"{inverted[0]:g}, {inverted[1]:g}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["xywh", "cxcywh"])
def test_boxes_in_another_format_are_refused_and_certified_once_converted(form: str) -> None:
    """A box that moves with the input, far from the origin: as corners it moves by a distance above 0."""
    corners = lambda x: torch.cat([60 + 5 * x, 60 + 5 * x, 80 + 5 * x, 90 + 5 * x], dim=1)  # noqa: E731
    other = lambda x: box_convert(corners(x), "xyxy", form)  # noqa: E731
    noise, budget, x = GaussianNoise(0.5), Budget(n=400, m=1_000, delta=0.2), torch.zeros(1)
    with pytest.raises(ModelError, match="box_convert"):
        CenterSmoother(other, Jaccard(), noise, budget).certify(x, 0.25, stream=RandomStream(0))
    back = lambda x: box_convert(other(x), form, "xyxy")  # noqa: E731
    certificate = CenterSmoother(back, Jaccard(), noise, budget).certify(x, 0.25, stream=RandomStream(0))
    assert certificate.radius > float(measure(Jaccard(), corners(x[None]), corners(x[None] + 0.25)))


@given(boxes=arrays(np.float64, (2, 4), elements=st.integers(0, 6).map(float)))
def test_jaccard_by_counting_cells(boxes: np.ndarray) -> None:
    """Integer boxes as sets of unit cells."""
    boxes = fit_for(Jaccard(), torch.from_numpy(boxes)).numpy()
    a, b = ({(i, j) for i in range(int(x1), int(x2)) for j in range(int(y1), int(y2))} for x1, y1, x2, y2 in boxes)
    expected = 1 - len(a & b) / len(a | b) if a | b else 0.0
    pair = torch.from_numpy(boxes)
    assert float(measure(Jaccard(), pair[:1], pair[1:])) == pytest.approx(expected)


@given(corner=st.floats(0, 1000), size=st.floats(1e-3, 100), move=st.floats(0.001, 0.999))
def test_jaccard_is_real_valued(corner: float, size: float, move: float) -> None:
    """A box moved by a part of its width: nothing is rounded to whole pixels."""
    box = torch.tensor([[corner, corner, corner + size, corner + size]], dtype=torch.float64)
    moved = box + torch.tensor([move * size, 0, move * size, 0], dtype=torch.float64)
    assert float(measure(Jaccard(), box, moved)) == pytest.approx(1 - (1 - move) / (1 + move), abs=1e-6)


BOXES = [Jaccard(), OSPA()]


@pytest.mark.parametrize("metric", BOXES, ids=lambda metric: metric.name)
@pytest.mark.parametrize("corner", [math.nan, math.inf, -math.inf])
def test_a_corner_that_is_no_number_is_refused(metric: Metric, corner: float) -> None:
    """NaN compares as false, which would make an empty box of it."""
    for place in range(4):
        outputs = fit_for(metric, torch.ones(2, *shape_for(metric)))
        outputs[1, ..., place] = corner
        with pytest.raises(ModelError, match="NaN or infinite: expected numbers, zeros for no box"):
            metric.features(outputs)


def some_sets(count: int, most: int, seed: int = 0) -> Tensor:
    """Sets of up to ``most`` boxes that overlap a lot, in any order, with empty ones among them."""
    generator = torch.Generator().manual_seed(seed)
    start = 4 * torch.rand(count, most, 2, generator=generator)
    sides = (5 * torch.rand(count, most, 2, generator=generator) - 1).clamp(min=0)
    return torch.cat([start, start + sides], dim=-1).double()


@pytest.mark.parametrize("most", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("steps", [boxes._MOST_STEPS, 0], ids=["by subsets", "by SciPy"])
def test_sets_of_boxes_are_matched_as_well_as_can_be(most: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all permutations; of sizes that differ too."""
    monkeypatch.setattr(boxes, "_MOST_STEPS", steps)
    outputs = some_sets(6, most)
    assert len({int(size) for size in boxes._has_area(outputs).sum(1)}) > 1
    expected = [[REFERENCE["OSPA"](a, b) for b in outputs] for a in outputs]
    np.testing.assert_allclose(measure(OSPA(), outputs, outputs), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("most", [8, 12, 20])
def test_both_ways_to_match_many_boxes_agree(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = some_sets(5, most, seed=most)
    outputs[0, 2:] = 0  # few against many are matched by subsets, many against many by SciPy
    once = measure(OSPA(), outputs, outputs)
    monkeypatch.setattr(boxes, "_MOST_STEPS", 2**16 if most == 12 else 0)
    np.testing.assert_allclose(measure(OSPA(), outputs, outputs), once, rtol=1e-12, atol=0)


def test_the_order_of_boxes_does_not_count() -> None:
    """To the last digit: a detector may list the same boxes in another order, and ties have to stay ties."""
    outputs = some_sets(20, 4)
    shuffled = torch.stack(
        [one[torch.randperm(4, generator=torch.Generator().manual_seed(i))] for i, one in enumerate(outputs)]
    )
    assert torch.equal(measure(OSPA(), outputs, outputs), measure(OSPA(), shuffled, outputs))
    assert not measure(OSPA(), outputs, shuffled).diagonal().any()


def test_the_numbers_of_boxes_alone() -> None:
    """Sets of boxes far apart: what they have more or less counts 1, over the size of the larger."""
    apart = torch.arange(5.0)[:, None] * 10 + torch.tensor([0.0, 0, 1, 1])
    sets = torch.stack([apart * (torch.arange(5) < size)[:, None] for size in range(6)])
    expected = [[abs(a - b) / max(a, b, 1) for b in range(6)] for a in range(6)]
    np.testing.assert_allclose(measure(OSPA(), sets, sets), expected)


def test_a_set_of_one_box_is_at_the_jaccard_distance() -> None:
    pairs = random_outputs(Jaccard())
    assert torch.equal(measure(OSPA(), pairs[:, None], pairs[:, None]), measure(Jaccard(), pairs, pairs))


@pytest.mark.parametrize("answer", [1, 2, 3])
def test_what_a_radius_says_of_a_list_of_boxes(answer: int) -> None:
    """The statements of the docstring, for random sets near and far from an answer."""
    generator = torch.Generator().manual_seed(answer)
    center = some_sets(50, answer, seed=answer)
    center = center[boxes._has_area(center).all(1)][:1]
    moved = center + 0.3 * torch.rand(4000, 1, 1, generator=generator) * torch.randn(
        4000, answer, 4, generator=generator
    )
    sets = torch.cat([fit_for(OSPA(), moved), some_sets(4000, 2)], dim=1)
    sets[:2000, answer:] = 0
    radii, sizes = measure(OSPA(), sets, center)[:, 0], boxes._has_area(sets).sum(1)
    assert bool(((1 - radii) * answer <= sizes + 1e-9).all())
    assert bool((sizes * (1 - radii) <= answer + 1e-9).all())
    assert set(sizes[radii < 1 / (answer + 1)].tolist()) == {answer}
    close = sets[radii < 1 / answer]
    to_each = torch.stack([measure(Jaccard(), close[:, i], center[0]) for i in range(sets.shape[1])], dim=1).amin(1)
    assert len(close) > 100
    assert bool((to_each <= answer * radii[radii < 1 / answer][:, None] + 1e-9).all())


@pytest.mark.parametrize(("metric", "apart"), [(Cosine(), 1.0), (Angular(), 0.5)], ids=["Cosine", "Angular"])
@given(scale=st.floats(1e-35, 1e35))
def test_zero_vector_convention(metric: Metric, apart: float, scale: float) -> None:
    """At a right angle to every other one, in line with itself; the length of the other does not matter."""
    pair = torch.tensor([[0.0, 0.0], [scale, -scale]])
    assert measure(metric, pair, pair).tolist() == [[0, pytest.approx(apart)], [pytest.approx(apart), 0]]


@pytest.mark.parametrize("metric", [Cosine(), Angular()], ids=lambda m: m.name)
@given(factor=st.floats(1e-6, 1e6))
def test_length_is_ignored(metric: Metric, factor: float) -> None:
    """Only the direction counts: 0 along it, the diameter against it."""
    v = torch.tensor([[0.3, -2.0, 0.7]], dtype=torch.float64)
    assert float(measure(metric, v, factor * v)) == pytest.approx(0, abs=1e-15)
    assert float(measure(metric, v, -factor * v)) == pytest.approx(metric.diameter((3,), None))


@given(angle=st.floats(1e-9, math.pi))
def test_small_angles_keep_their_digits(angle: float) -> None:
    """Where the arc cosine of a product would give 0 or a ninth digit."""
    pair = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    assert float(measure(Angular(), pair[:1], pair[1:])) == pytest.approx(angle / math.pi, rel=1e-6)


def test_l2_keeps_its_digits_far_from_the_origin() -> None:
    """Where |a|^2 + |b|^2 - 2ab would have lost them all."""
    pair = torch.tensor([[1e6, 1e6], [1e6, 1e6 + 1e-3]], dtype=torch.float64)
    assert float(measure(L2(), pair[:1], pair[1:])) == pytest.approx(1e-3, rel=1e-6)


@EACH
@given(data=st.data())
def test_relaxed_triangle_inequality(metric: Metric, data: st.DataObject) -> None:
    """d(a, c) <= gamma (d(a, b) + d(b, c)), which the factor 10 of the paper rests on."""
    distances = measure(metric, *[data.draw(outputs_for(metric, 5))] * 2).double()
    bound = metric.gamma * (distances[:, :, None] + distances[None])
    assert bool((distances[:, None, :] <= bound * (1 + 1e-5) + 1e-9).all())


@pytest.mark.parametrize(
    ("metric", "shape"),
    [(TotalVariation(), (5, 3)), (Jaccard(), (5, 3)), (Jaccard(), (5, 2, 4)), (OSPA(), (5, 4)), (OSPA(), (5, 2, 3))],
)
def test_wrong_output_shape_is_one_line(metric: Metric, shape: tuple[int, ...]) -> None:
    """What came, and what was expected."""
    with pytest.raises(RequestError, match="expected") as caught:
        metric.features(torch.zeros(shape))
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metric", VECTORS, ids=lambda m: m.name)
def test_outputs_of_one_number_each(metric: Metric) -> None:
    """A batch of scalars, shape (n,), is as good as (n, 1)."""
    scalars = torch.tensor([1.0, -2.0, 0.0])
    assert torch.equal(measure(metric, scalars, scalars), measure(metric, scalars[:, None], scalars[:, None]))


@pytest.mark.parametrize("arguments", [{"power": 0.5}, {"diameter": 0.0}, {"diameter": math.nan}])
def test_distance_function_refuses_bad_numbers(arguments: dict[str, float]) -> None:
    """Before they reach a certificate."""
    with pytest.raises(RequestError, match="expected"):
        DistanceFunction(absolute, **arguments)


def test_distance_function_that_forgets_a_dimension() -> None:
    """One number for the whole batch is the usual slip."""
    with pytest.raises(RequestError, match="one number a pair"):
        DistanceFunction(lambda a, b: (a - b).abs().sum()).pairwise(torch.zeros(3, 2), torch.zeros(3, 2))


@given(a=st.floats(-5, 5), b=st.floats(-5, 5))
def test_gamma_is_sharp_for_squares(a: float, b: float) -> None:
    """2**(power-1): equality for the midpoint of two points."""
    assume(abs(a - b) > 1e-3)
    line = torch.tensor([[a], [(a + b) / 2], [b]], dtype=torch.float64)
    d = measure(SquaredL2(), line, line)
    assert float(d[0, 2]) == pytest.approx(SquaredL2().gamma * float(d[0, 1] + d[1, 2]))


@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda metric: metric.name)
def test_tiles_of_a_large_sample_are_its_distance_matrix(metric: Metric) -> None:
    """More than one tile, the last one smaller; zeros on the diagonal."""
    n = 3001
    features = metric.features(torch.rand(n, 3, generator=torch.Generator().manual_seed(0)))
    tiles = list(metric.self_rows(features))
    assert len(tiles) > 1
    assert len(tiles[-1]) < len(tiles[0])
    matrix = torch.cat(tiles)
    torch.testing.assert_close(matrix, metric.pairwise(features, features), rtol=1e-5, atol=1e-6)
    assert float(matrix.diagonal().max()) < 1e-6


@pytest.mark.parametrize("n", [1, 2, 3])
def test_tiles_keep_the_digits_of_float64(n: int) -> None:
    """Of l1 too, whose distances have the type of the outputs."""
    features = L1().features(torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    (matrix,) = L1().self_rows(features)
    torch.testing.assert_close(matrix, L1().pairwise(features, features), rtol=1e-14, atol=0)


@pytest.mark.parametrize("columns", [255, 256, 257, 700])
@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda metric: metric.name)
def test_tiles_of_long_outputs_are_their_distance_matrix(metric: Metric, columns: int) -> None:
    """l1 is summed some columns at a time; every part counts."""
    features = metric.features(torch.randn(9, columns, generator=torch.Generator().manual_seed(0)))
    matrix = torch.cat(list(metric.self_rows(features)))
    torch.testing.assert_close(matrix, metric.pairwise(features, features), rtol=1e-5, atol=1e-5)


class HeldForPairs(TorchDispatchMode):
    """Types of the tensors made that have a number for each pair."""

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.pairs = pairs
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.numel() == self.pairs:
            self.types.add(made.dtype)
        return made


@pytest.mark.parametrize("columns", [256, 257])
@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda metric: metric.name)
def test_bytes_of_a_pair_are_those_that_tiles_are_made_from(metric: Metric, columns: int) -> None:
    features = metric.features(torch.rand(101, columns))
    with HeldForPairs(101 * 100 // 2) as held:
        list(metric.self_rows(features))
    assert metric.pair_bytes(features) == sum(one.itemsize for one in held.types)
    assert bool(held.types) == isinstance(metric, L1)


@pytest.mark.parametrize(("metric", "half"), [(Cosine(), 1.0), (Angular(), 0.5)], ids=["Cosine", "Angular"])
def test_outputs_without_negative_numbers_are_at_most_at_right_angles(metric: Metric, half: float) -> None:
    assert [metric.diameter((3,), limits) for limits in ((0.0, 1.0), (0.5, 1.0))] == [half, half]
    assert [metric.diameter((3,), limits) for limits in ((-0.1, 1.0), None)] == [2 * half, 2 * half]


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_a_direction_has_no_length(scale: float) -> None:
    """Squares of these leave float64."""
    a, b = scale * torch.tensor([[[3.0, 4.0], [4.0, -3.0]]], dtype=torch.float64).transpose(0, 1)
    assert measure(Cosine(), a, a).item() == pytest.approx(0, abs=1e-15)
    assert measure(Cosine(), a, b).item() == pytest.approx(1)


def test_a_chord_rounded_above_the_diameter_is_no_nan() -> None:
    assert Angular().from_source(torch.tensor([2 + 1e-15], dtype=torch.float64)).tolist() == [1.0]


def test_a_distance_function_on_no_outputs() -> None:
    metric, outputs = DistanceFunction(absolute), torch.zeros(3, 2)
    assert metric.pairwise(outputs, outputs[:0]).shape == (3, 0)


def test_a_distance_function_that_fails_says_on_what() -> None:
    metric = DistanceFunction(lambda a, b: a @ b, diameter=1.0)
    with pytest.raises(RequestError, match=r"failed on two batches of shape \(3, 2\): RuntimeError .*mat1"):
        metric.pairwise(torch.rand(3, 2), torch.rand(3, 2))


def test_a_distance_function_that_returns_no_tensor() -> None:
    with pytest.raises(RequestError, match="returned float for two batches of 3 outputs"):
        DistanceFunction(lambda a, b: 1.0).pairwise(torch.rand(3, 2), torch.rand(3, 2))


@pytest.mark.parametrize(
    ("outputs", "distinct"),
    [
        (torch.tensor([[1, 2], [0, 5], [1, 2], [1, 2], [7, 1], [0, 5]]), 3),
        (torch.tensor([[1.5], [0.1], [1.5]], dtype=torch.float64), 2),
        (torch.tensor([True, False, True, True]), 2),
        (torch.tensor([[0.0], [-0.0], [0.0]]), 2),
        (torch.tensor([[[1.0, 2.0]], [[2.0, 1.0]], [[1.0, 2.0]]]), 2),
        (torch.rand(5, 3), 5),
    ],
)
def test_a_distance_function_sees_repeated_outputs_once(outputs: Tensor, distinct: int) -> None:
    """Once in each of the two batches; the matrix is that of a loop over all pairs, in the sample and out of it."""
    pairs = 0

    def signed(a: Tensor, b: Tensor) -> Tensor:
        nonlocal pairs
        pairs += len(a)
        a, b = (torch.copysign(batch.double().abs() + 0.1, batch.double()) for batch in (a, b))
        return (a - b).flatten(1).abs().sum(1) if a.ndim > 1 else (a - b).abs()

    plain = torch.stack([signed(outputs, other.expand_as(outputs)) for other in outputs], dim=1)
    metric, pairs = DistanceFunction(signed), 0
    features = metric.features(outputs)
    assert torch.equal(metric.pairwise(features, features), plain)
    assert pairs == distinct**2
    assert torch.equal(torch.cat(list(metric.self_rows(features))), plain)
    assert torch.equal(metric.pairwise(features, features[1:2]), plain[:, 1:2])
    assert pairs == 2 * distinct**2 + distinct


def test_a_distance_function_sees_repeated_outputs_of_all_tiles_once_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "TILE_ENTRIES", 90)  # tiles of three rows
    outputs = torch.arange(30).remainder(2)[:, None]
    calls = []
    metric = DistanceFunction(lambda a, b: calls.append(len(a)) or (a - b).abs().double()[:, 0])
    assert torch.equal(torch.cat(list(metric.self_rows(outputs))), (outputs - outputs.T).abs().double())
    assert sum(calls) == 10 * 2 * 2


def test_memory_that_runs_out_is_no_fault_of_the_distance() -> None:
    def too_large(a: Tensor, b: Tensor) -> Tensor:
        raise MemoryError

    with pytest.raises(MemoryError):
        DistanceFunction(too_large).pairwise(torch.zeros(3, 2), torch.zeros(3, 2))
