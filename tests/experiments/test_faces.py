"""The face detector returns what facenet-pytorch returns for one image at a time, whatever the batch."""

from __future__ import annotations

import io
import itertools
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from csrun.data import load_data
from csrun.errors import RunError
from csrun.models import face_kernels, faces
from csrun.models.faces import MOST_FACES, Boxes, FaceDetector, FaceListDetector, LandmarkDetector

ROUNDING = 1e-2
"""Pixels. The package gives its networks other numbers of crops, which moves last digits: 1e-4 at the corners."""


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip(
        "facenet_pytorch", reason="no facenet-pytorch: pip install 'centersmooth[faces]'", exc_type=ImportError
    )


@pytest.fixture(scope="module")
def detector(package) -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def reference(package):
    return package.MTCNN()


@pytest.fixture
def portraits(data_folder: Path) -> Tensor:
    """Sixteen photographs, ``(16, 3, 218, 178)`` in [0, 1]."""
    path = data_folder / "celeba_test.zip"
    if not path.is_file():
        pytest.skip(f"no {path}: the photographs of the CelebA test split, as docs/data.md says")
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:16]
        pictures = [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def noisy(images: Tensor, sigma: float) -> Tensor:
    return images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def as_arrays(images: Tensor) -> np.ndarray:
    return (images * 255).permute(0, 2, 3, 1).contiguous().numpy()


def first_boxes(found: list) -> Tensor:
    """The first box of each image as ``detect`` orders them, ``(n, 4)``; zeros where there is none."""
    return torch.tensor(np.array([np.zeros(4) if boxes is None else boxes[0] for boxes in found], dtype=np.float32))


def one_by_one(reference, images: Tensor) -> Tensor:
    return first_boxes([reference.detect(array)[0] for array in as_arrays(images)])


def some_boxes(count: int, images: int, *, whole: bool = False) -> Boxes:
    """Random boxes that overlap a lot, some reaching outside, with equal scores among them."""
    generator = torch.Generator().manual_seed(count)
    image = torch.randint(images, (count,), generator=generator).sort()[0]
    start = torch.rand(count, 2, generator=generator) * 60 - 20
    corners = torch.cat([start, start + 20 + 30 * torch.rand(count, 2, generator=generator)], dim=1)
    score = torch.randint(50, (count,), generator=generator) / 50
    return Boxes(image, corners.round() if whole else corners, score, torch.zeros(count, 4))


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.2, 0.5])
def test_boxes_are_those_of_the_package_one_at_a_time(detector, reference, portraits, sigma):
    images = noisy(portraits[:12], sigma)
    expected = one_by_one(reference, images)
    assert (expected.any(dim=1)).sum() >= 6  # the comparison is about faces, not about zeros
    torch.testing.assert_close(detector(images), expected, rtol=0, atol=ROUNDING)


def test_landmarks_are_those_of_the_packages_largest_box(package, reference, portraits):
    images = noisy(portraits[:6], 0.1)
    detector = LandmarkDetector()
    found = detector(images)
    assert found.shape == (6, 5, 2)
    for image, points in zip(as_arrays(images), found, strict=True):
        boxes, _, expected = reference.detect(image, landmarks=True)
        sides = boxes[:, 2:] - boxes[:, :2]
        assert points.numpy() == pytest.approx(expected[sides.prod(axis=1).argmax()], abs=ROUNDING)
    assert not detector(torch.zeros(1, 3, 60, 60)).any()


def test_all_faces_are_those_of_the_package_largest_first(reference):
    """On a made-up picture of two faces, and on one of none."""
    pytest.importorskip("skimage", reason="pip install 'centersmooth[faces]'")
    data = load_data("astronauts", None)
    images = torch.cat([noisy(data.images(data.test, [0]).expand(4, -1, -1, -1), 0.1), torch.zeros(1, 3, 218, 267)])
    found = FaceListDetector()(images)
    assert found.shape == (5, MOST_FACES, 4)
    assert not found[4].any()
    assert not found[:, 2:].any()
    for array, boxes in zip(as_arrays(images[:4]), found, strict=False):
        expected = reference.detect(array)[0].astype(np.float32)
        assert len(expected) == 2
        sides = expected[:, 2:] - expected[:, :2]
        np.testing.assert_allclose(boxes[:2], expected[np.argsort(-sides.prod(axis=1))], rtol=0, atol=ROUNDING)
    assert torch.equal(found[:, 0], FaceDetector()(images))


def test_of_many_faces_the_largest_are_listed(package, monkeypatch):
    """Boxes of three images: ten and one turned inside out, none, one; of each image those that are its own."""
    generator = torch.Generator().manual_seed(0)
    start, sides = torch.rand(12, 2, generator=generator), torch.rand(12, 2, generator=generator) + 0.1
    corners = torch.cat([start, start + sides], dim=1)
    corners[3] = torch.tensor([5.0, 5.0, 1.0, 1.0])
    image = torch.tensor([0] * 11 + [2])
    detector = FaceListDetector()
    judged = Boxes(image, corners, torch.ones(12), torch.zeros(12, 4)), torch.ones(12, 5, 2)
    monkeypatch.setattr(detector, "_judge", lambda sums, boxes: judged)
    found = detector(torch.rand(3, 3, 24, 24))
    listed = [tuple(box) for index, box in enumerate(corners.tolist()) if index not in (3, 11)]
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    assert [tuple(box) for box in found[0].tolist()] == sorted(listed, key=area, reverse=True)[:MOST_FACES]
    assert not found[1].any()
    assert found[2, 0].tolist() == corners[11].tolist()
    assert not found[2, 1:].any()
    assert FaceListDetector()(torch.zeros(0, 3, 24, 24)).shape == (0, MOST_FACES, 4)


def test_a_batch_gives_each_image_its_own_box(detector, portraits):
    images = noisy(portraits, 0.25)
    alone = torch.cat([detector(image[None]) for image in images])
    together = detector(images)
    assert together.shape == (16, 4)
    assert together.dtype == torch.float32
    assert torch.equal(together, alone)  # to the last bit, on a CPU
    assert torch.equal(detector(images.flip(0)).flip(0), alone)


def test_an_accelerator_finds_the_same_boxes(detector, portraits, monkeypatch):
    """Its operators and numbers of crops at once, here on the CPU."""
    images = noisy(portraits[:8], 0.1)
    expected = detector(images)
    monkeypatch.setattr(faces, "_on_cpu", lambda tensor: False)
    torch.testing.assert_close(detector(images), expected, rtol=0, atol=ROUNDING)


def test_faces_smaller_than_their_image_and_odd_sizes(detector, reference, portraits):
    small = interpolate(portraits[:4], size=(61, 47), mode="area")
    scene = torch.cat([torch.cat([small[0], small[1]], 2), torch.cat([small[2], small[3]], 2)], 1)[None]
    torch.testing.assert_close(detector(scene), one_by_one(reference, scene), rtol=0, atol=ROUNDING)
    tiny = interpolate(portraits[:4], size=(20, 20), mode="area")
    torch.testing.assert_close(detector(tiny), one_by_one(reference, tiny), rtol=0, atol=ROUNDING)


def test_nothing_found_is_zeros(detector):
    noise = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    images = torch.cat([torch.zeros(1, 3, 64, 48), torch.ones(1, 3, 64, 48), noise])
    assert torch.equal(detector(images), torch.zeros(3, 4))
    assert detector(images[:0]).shape == (0, 4)


def test_one_line_errors(detector):
    detector(torch.zeros(1, 3, 20, 20))
    with pytest.raises(RunError, match=r"images of 30x19 pixels: expected 20 or more"):
        detector(torch.zeros(1, 3, 30, 19))
    with pytest.raises(RunError, match=r"images of torch.uint8: expected torch.float32"):
        detector(torch.zeros(1, 3, 30, 30, dtype=torch.uint8))
    with pytest.raises(RunError, match=r"shape \(1, 1, 30, 30\)"):
        detector(torch.zeros(1, 1, 30, 30))


@pytest.mark.parametrize("package", ["facenet_pytorch", "numba"])
def test_a_missing_package_is_one_line(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=r"pip install 'centersmooth\[faces\]'") as caught:
        FaceDetector()
    assert "\n" not in str(caught.value)


def test_the_interface_of_the_runner(detector):
    images = torch.rand(2, 3, 30, 30)
    assert detector.inputs(images) is images
    assert detector.output_range is None
    assert not detector.training
    assert not any(parameter.requires_grad for parameter in detector.parameters())


def test_suppression_is_that_of_each_image_alone():
    boxes = some_boxes(400, images=5, whole=True)
    kept = faces.suppress(boxes, 0.5)
    for image in range(5):
        alone = (boxes.image == image).nonzero()[:, 0]
        assert kept[boxes.image[kept] == image].tolist() == alone[greedy(boxes.take(alone), 0.5)].tolist()


def greedy(boxes: Boxes, overlap: float) -> list[int]:
    """Indices kept by intersection over union, written out; among equal scores the earlier box wins."""
    kept: list[int] = []
    for index in sorted(range(len(boxes.score)), key=lambda i: -boxes.score[i].item()):
        if all(union_share(boxes.corners[index], boxes.corners[other]) <= overlap for other in kept):
            kept.append(index)
    return kept


def union_share(first: Tensor, second: Tensor) -> float:
    shared = (torch.minimum(first[2:], second[2:]) - torch.maximum(first[:2], second[:2])).clamp(min=0).prod()
    areas = [(box[2:] - box[:2]).prod() for box in (first, second)]
    return float(shared / (areas[0] + areas[1] - shared))


def test_nested_suppression_is_the_packages_on_one_image(package):
    from facenet_pytorch.models.utils.detect_face import batched_nms_numpy

    # Up to 16 scores numpy's default sort is an insertion sort, hence stable: equal scores are comparable.
    for count in (0, 1, 2, 9, 16):
        boxes = some_boxes(count, images=1)
        expected = batched_nms_numpy(boxes.corners, boxes.score, boxes.image, 0.7, "Min")
        assert faces.suppress_nested(boxes, 0.7).tolist() == expected.tolist()


def test_the_packages_batched_suppression_leaks_and_ours_does_not(package):
    """Its offsets put a box that begins outside one image upon a box of the image before."""
    from facenet_pytorch.models.utils.detect_face import batched_nms_numpy

    corners = torch.tensor([[40.0, 40.0, 99.0, 99.0], [-60.0, -60.0, -1.0, -1.0]])
    boxes = Boxes(torch.tensor([0, 1]), corners, torch.tensor([0.9, 0.8]), torch.zeros(2, 4))
    assert batched_nms_numpy(boxes.corners, boxes.score, boxes.image, 0.7, "Min").tolist() == [0]
    assert faces.suppress_nested(boxes, 0.7).tolist() == [0, 1]


def test_crops_are_those_of_the_package_and_boxes_without_a_pixel_go():
    pixels = 255 * torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    rows = [
        [-9.0, -9, 12, 12],
        [29.5, 39.5, 50, 60],
        [5, 5, 20.75, 20.75],
        [31, 5, 40, 14],
        [-9, -9, 0, 0],
        [7, 7, 7, 7],
    ]
    boxes = Boxes(torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor(rows), torch.rand(6), torch.zeros(6, 4))
    sums = faces.summed(pixels)
    left = faces._inside(sums, boxes)
    assert left.corners.tolist() == [rows[index] for index in (0, 1, 2, 5)]
    windows = faces._windows_of(sums, left)
    views = [pixels[0, :, :12, :12], pixels[0, :, 38:, 28:], pixels[0, :, 4:20, 4:20], pixels[1, :, 6:7, 6:7]]
    expected = torch.cat([interpolate(view[None], size=(24, 24), mode="area") for view in views])
    gathered = faces._gathered(sums, left.image, windows, 24, 24)
    torch.testing.assert_close(gathered, expected, rtol=1e-6, atol=0)
    compiled = faces._means(sums, left.image, windows, 24, 24)
    assert torch.equal(compiled, faces._normal(gathered))


def test_windows_lie_in_their_image_whatever_the_corners():
    """Where nothing checks indices: corners that no integer holds."""
    extremes = [-torch.inf, -1e20, -5.0, 0.0, 1.0, 7.5, 30.0, 31.0, 1e9, 1e20, torch.inf, torch.nan]
    corners = torch.tensor(list(itertools.product(extremes, repeat=4)))
    sums = torch.zeros(1, 41, 31, 3, dtype=torch.float64)
    count = len(corners)
    boxes = Boxes(torch.zeros(count, dtype=torch.int64), corners, torch.zeros(count), torch.zeros(count, 4))
    left = faces._inside(sums, boxes)
    row, column, rows, columns = faces._windows_of(sums, left).unbind(1)
    assert 0 < len(left.corners) < count
    assert bool(((row >= 0) & (rows > 0) & (row + rows <= 40)).all())
    assert bool(((column >= 0) & (columns > 0) & (column + columns <= 30)).all())
    assert not left.corners[:, 2:].isnan().any()


@pytest.mark.parametrize("scale", [1e3, 1e18, 1e30])
def test_absurd_pixels_give_boxes_or_none(detector, scale):
    for seed in range(6):
        images = scale * torch.randn(1, 3, 90, 70, generator=torch.Generator().manual_seed(seed))
        assert detector(images).shape == (1, 4)


def test_levels_of_the_pyramid_are_area_interpolation():
    pixels = 255 * torch.rand(2, 3, 218, 178, generator=torch.Generator().manual_seed(0))
    for size in ((131, 107), (17, 14), (1, 1), (300, 200)):
        expected = faces._normal(interpolate(pixels.double(), size=size, mode="area").float())
        torch.testing.assert_close(faces._level(faces.summed(pixels), *size), expected, rtol=0, atol=1e-6)


def test_sums_are_those_of_pytorch():
    pixels = 255 * torch.randn(2, 3, 21, 34, generator=torch.Generator().manual_seed(0))
    sums = faces.summed(pixels)
    assert not sums[:, 0].any()
    assert not sums[:, :, 0].any()
    assert torch.equal(sums[:, 1:, 1:], pixels.permute(0, 2, 3, 1).double().cumsum(1).cumsum(2))


@pytest.mark.parametrize("size", [None, 2, 3])
@pytest.mark.parametrize("shape", [(3, 28, 22, 22), (2, 10, 11, 14), (1, 5, 3, 4), (4, 64, 8, 8), (2, 1, 5, 5)])
def test_activations_and_poolings_are_those_of_pytorch(size, shape):
    """Slopes of both signs; infinities; a NaN comes out of every window it is in."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    values[0, 0, 0, 0], values[0, 0, 1, 2], values[0, -1, 2, 2] = torch.inf, torch.nan, -torch.inf
    prelu = nn.PReLU(shape[1]).requires_grad_(False)
    prelu.weight.copy_(torch.randn(shape[1], generator=generator))
    pool = nn.MaxPool2d(size, 2, ceil_mode=True) if size else None
    expected = pool(prelu(values)) if pool else prelu(values)
    fused = faces._Activation(prelu, pool)
    torch.testing.assert_close(fused(values.clone()), expected, rtol=0, atol=0, equal_nan=True)
    # What has no kernel, an accelerator or another type, takes PyTorch's own operators.
    doubles = fused.double()(values.double())
    torch.testing.assert_close(doubles.float(), expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_activations_of_vectors_are_those_of_pytorch():
    prelu, values = nn.PReLU(6).requires_grad_(False), torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(faces._Activation(prelu, None)(values.clone()), prelu(values))


def test_where_nothing_can_be_kept_kernels_are_compiled_each_time(monkeypatch):
    def njit(function=None, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(face_kernels.numba, "njit", njit)
    assert face_kernels._compiled(print) is print


def test_a_box_turned_inside_out_is_none(detector, monkeypatch):
    """Nothing bounds what the last network adds to the corners; Jaccard distance refuses an inverted box."""
    corners = torch.tensor([[30.0, 10, 5, 40], [1, 2, 3, 4], [9, 9, 1, 1]])
    found = Boxes(torch.arange(3), corners, torch.ones(3), torch.zeros(3, 4))
    monkeypatch.setattr(detector, "_judge", lambda sums, boxes: (found, torch.ones(3, 5, 2)))
    assert detector(torch.rand(4, 3, 24, 24)).tolist() == [[0] * 4, [1, 2, 3, 4], [0] * 4, [0] * 4]


def test_the_largest_box_and_the_last_of_equal_ones():
    rows = [[0.0, 0, 2, 2], [0, 0, 5, 5], [1, 1, 6, 6], [3, 3, 4, 4]]
    boxes = Boxes(torch.tensor([0, 0, 0, 2]), torch.tensor(rows), torch.ones(4), torch.zeros(4, 4))
    assert faces._largest(boxes, 3, boxes.corners).tolist() == [rows[2], [0, 0, 0, 0], rows[3]]
