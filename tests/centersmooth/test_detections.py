"""Detections in slots, and certified precision and recall, against everything the bounds allow."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from centersmooth import Budget, GaussianNoise, Jaccard, Percentile, RandomStream, RequestError, Smoother
from centersmooth.detections import CLASS, PRESENT, CertifiedDetections, Slots, certified_detections

BOXES = torch.tensor([[14.0, 0, 18, 4], [1, 1, 3, 3], [11, 0, 15, 4], [2, 7, 4, 9]])
LABELS = torch.tensor([0, 1, 0, 1])


def test_an_empty_list_is_zeros():
    slots = Slots(count=3, classes=2, grid=(2, 2), size=(10, 20))
    found = slots(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert found.shape == (slots.total, 6) == (24, 6)
    assert not found.any()


def test_a_box_that_goes_moves_none_of_another_bin():
    slots = Slots(count=1, classes=2, grid=(2, 2), size=(10, 20))
    whole, part = slots(BOXES, LABELS), slots(BOXES[1:], LABELS[1:])
    moved = (whole != part).any(dim=1)
    assert moved.tolist() == [False, True, *[False] * 6]  # class 0, upper row, right column
    assert [int(index) for index in whole[:, PRESENT].nonzero()] == [1, 4, 6]


def test_boxes_of_a_bin_are_ordered_by_center_and_the_first_of_the_list_are_taken():
    assert Slots(count=4)(BOXES, LABELS)[:, 0].tolist() == [1.0, 2.0, 11.0, 14.0]
    assert Slots(count=2)(BOXES, LABELS)[:, 0].tolist() == [1.0, 14.0]
    assert Slots(count=2)(BOXES, LABELS)[:, CLASS].tolist() == [1.0, 0.0]


def test_a_center_outside_the_image_is_in_the_nearest_bin():
    slots = Slots(count=1, grid=(1, 2), size=(10, 20))
    found = slots(torch.tensor([[-9.0, 0, -5, 2], [30, 0, 40, 2]]), torch.tensor([0, 0]))
    assert found[:, 0].tolist() == [-9.0, 30.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Slots(count=0), "count is 0: expected an integer of at least 1"),
        (lambda: Slots(2, grid=(2, 2)), "size is None: expected height and width of the image, which a grid"),
        (lambda: Slots(2, grid=4), "grid is 4: expected two integers"),
        (lambda: Slots(2)(BOXES, LABELS[:2]), r"detections are boxes \(4, 4\) and labels \(2,\): expected"),
        (lambda: Slots(2, classes=1)(BOXES, LABELS), "a class is 1: expected 0 to 0"),
        (lambda: Slots(2)(BOXES.bfloat16(), LABELS + 256), "a class is 257, which torch.bfloat16 rounds"),
        (lambda: Slots(2)(BOXES.half(), LABELS + 2048), "a class is 2049, which torch.float16 rounds"),
        (lambda: certified_detections(BOXES, BOXES, BOXES, LABELS), r"bounds are \(4, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(RequestError, match=f"^{message}"):
        make()


# --- Counts --------------------------------------------------------------------------------------------------------


def least(lower, upper, boxes, labels, iou) -> tuple[int, int]:
    """Least hits and most detections of all slots within bounds, in steps of 1, by every assignment there is."""
    choices = [
        list(product(*(range(int(a), int(b) + 1) for a, b in zip(*ends, strict=True))))
        for ends in zip(lower.tolist(), upper.tolist(), strict=True)
    ]
    jaccard, truths = Jaccard(), boxes.double()
    hits, most = [], 0
    for slots in product(*choices):
        rows = torch.tensor(slots, dtype=torch.float64)
        rows = rows[(rows[:, PRESENT] > 0)]
        most = max(most, len(rows))
        proper = rows[(rows[:, :2] <= rows[:, 2:4]).all(dim=1)]
        overlap = 1 - jaccard.pairwise(jaccard.features(proper[:, :4]), jaccard.features(truths))
        fits = ((overlap >= iou) & (proper[:, CLASS, None] == labels)).numpy()
        padded = np.zeros((len(fits) + len(truths), len(truths)), dtype=int)
        padded[: len(fits)] = fits
        hits.append(
            max(sum(padded[i, j] for j, i in enumerate(rows)) for rows in permutations(range(len(padded)), len(truths)))
        )
    return min(hits), most


@st.composite
def bounded_slots(draw):
    """Two slots, near the objects; a few numbers of each uncertain."""
    lower, upper = [], []
    for _ in range(2):
        x, y, wide, label, present = (draw(st.integers(0, most)) for most in (2, 1, 1, 1, 1))
        slot = [x, y, x + 3 + wide, y + 3, label, present]
        loose = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5]), max_size=2, unique=True))
        lower.append(slot)
        upper.append([value + (index in loose) * (index < PRESENT or value == 0) for index, value in enumerate(slot)])
    return torch.tensor(lower).double(), torch.tensor(upper).double()


@given(bounded_slots(), st.sampled_from([0.3, 0.5, 0.7]))
def test_counts_are_the_least_there_is(bounds, iou):
    """No more than that in any case, and exactly that with one slot."""
    boxes, labels = torch.tensor([[0.0, 0, 3, 3], [2, 0, 5, 3]]), torch.tensor([0, 0])
    lower, upper = bounds
    found = certified_detections(lower, upper, boxes, labels, iou=iou)
    hits, most = least(lower, upper, boxes, labels, iou)
    assert found.hits <= hits
    assert (found.detections, found.objects) == (most, 2)
    one = certified_detections(lower[:1], upper[:1], boxes[:1], labels[:1], iou=iou)
    assert one.hits == least(lower[:1], upper[:1], boxes[:1], labels[:1], iou)[0]


def test_two_slots_do_not_find_one_object_twice():
    slot = torch.tensor([[0.0, 0, 4, 4, 0, 1]]).expand(2, 6)
    found = certified_detections(slot, slot, slot[:1, :4], torch.tensor([0]))
    assert found == CertifiedDetections(hits=1, detections=2, objects=1)
    assert (found.precision, found.recall) == (0.5, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_classes_are_compared_as_they_are(dtype):
    """In bfloat16, to which PyTorch would take them, 256 and 257 are one."""
    slot = torch.tensor([[0.0, 0, 4, 4, 256, 1]], dtype=dtype)
    hits = [certified_detections(slot, slot, slot[:, :4], torch.tensor([of])).hits for of in (256, 257)]
    assert hits == [1, 0]


def test_an_object_without_area_is_never_found():
    slot = torch.tensor([[2.0, 2, 2, 4, 0, 1]])
    assert certified_detections(slot, slot, slot[:, :4], torch.tensor([0])).hits == 0


def test_nothing_is_certain_of_no_objects_or_no_detections():
    empty, some = torch.zeros(2, 6), torch.tensor([[0.0, 0, 4, 4]])
    assert certified_detections(empty, empty, some, torch.tensor([0])).precision == 0.0
    assert certified_detections(empty, empty, some[:0], torch.zeros(0, dtype=torch.int64)).recall == 0.0


def test_a_smoothed_detector_has_certified_precision_and_recall():
    """Two objects move with the input; a third detection is there in a third of the draws only, so that it may come."""
    slots, truth = Slots(count=2, grid=(1, 2), size=(20, 40)), torch.tensor([[2.0, 2, 12, 12], [22, 2, 32, 12]])

    def detect(x):
        moved = truth + x[0]
        extra = torch.tensor([[30.0, 5, 39, 15]]) if x[1] > 0.43 else moved[:0]
        boxes = torch.cat([moved, extra])
        return slots(boxes, torch.zeros(len(boxes), dtype=torch.int64))

    smoother = Smoother(
        lambda batch: torch.stack([detect(x) for x in batch]),
        GaussianNoise(1.0),
        Percentile(),
        Budget(n=200, m=1_000),
        rule="order",
    )
    counts = []
    for eps in (0.25, 1.0):
        certificate = smoother.certify(torch.zeros(2), eps, stream=RandomStream(0))
        counts.append(certified_detections(certificate.lower, certificate.upper, truth, torch.tensor([0, 0])))
    assert counts[0] == CertifiedDetections(hits=2, detections=2, objects=2)
    assert counts[1] == CertifiedDetections(hits=2, detections=3, objects=2)
    assert counts[1].precision == pytest.approx(2 / 3)


@pytest.mark.parametrize("iou", [0, -0.1, 1.5, float("nan"), "half"])
def test_no_object_has_such_an_overlap(iou):
    slots, truth = torch.zeros(1, 6), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    with pytest.raises(RequestError, match=r"^iou is .*: expected a number above 0 and at most 1"):
        certified_detections(slots, slots, truth, torch.tensor([1]), iou=iou)
