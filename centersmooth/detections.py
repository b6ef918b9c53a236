"""Lists of detections as outputs of one shape, and the precision and recall that a certificate of them leaves.

A detector returns a list of boxes with classes; a certifier needs one tensor. `Slots` puts the detections of an image
into a fixed number of slots. Where a box goes must not depend on the others more than it has to, or one box that comes
and goes moves all others to new slots: so there are bins by class and by location, a few slots each, and in a bin boxes
are ordered by their centers. A slot is six numbers, ``x1, y1, x2, y2, class, present``; six zeros where it is empty.

`Percentile` of such outputs is a smoothed detector: each slot has the median of each number, and is a detection where
most of its draws are. Its certificate has an interval for each number. `certified_detections` counts what these leave
of precision and recall at every ``x'`` within ``eps`` at once, with the failure probability of the certificate.

Source: Chiang, Curry, Abdelkader, Kumar, Dickerson and Goldstein, *Detection as Regression: Certified Object Detection
with Median Smoothing*, NeurIPS 2020. Their empty slots are infinite; here they have a flag of their own, as no output
may be infinite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from centersmooth.checks import an_integer, is_number
from centersmooth.errors import RequestError
from centersmooth.metrics.boxes import worst_jaccard
from centersmooth.outputs import brief

CLASS, PRESENT = 4, 5
"""Places of a slot's class and of its flag, after the four corners of the box."""


@dataclass(frozen=True)
class Slots:
    """Slots for the detections of one image.

    Parameters
    ----------
    count : int
        Slots of a bin; of more detections the first of the list are taken, those of highest score in most detectors.
    classes : int, optional
        Bins by class, ``0`` to ``classes - 1``; without it boxes of all classes share bins, and their classes are
        certified as another number.
    grid : (int, int), optional
        Bins by the location of a box's center: rows and columns that divide the image.
    size : (int, int), optional
        Height and width of the image in the unit of the boxes, where there is a grid.

    Examples
    --------
    >>> slots = Slots(count=2, grid=(1, 2), size=(10, 20))
    >>> boxes = torch.tensor([[14.0, 0, 18, 4], [1, 1, 3, 3], [11, 0, 15, 4]])
    >>> slots(boxes, torch.tensor([0, 1, 0])).tolist()  # the second box is alone on the left
    [[1.0, 1.0, 3.0, 3.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [11.0, 0.0, 15.0, 4.0, 0.0, 1.0], \
[14.0, 0.0, 18.0, 4.0, 0.0, 1.0]]
    """

    count: int
    classes: int | None = None
    grid: tuple[int, int] = (1, 1)
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        an_integer("count", self.count, 1)
        if self.classes is not None:
            an_integer("classes", self.classes, 1)
        for name, pair in (("grid", self.grid), ("size", self.size or (1, 1))):
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise RequestError(f"{name} is {brief(pair)}: expected two integers, vertical and horizontal")
            for side in pair:
                an_integer(name, side, 1)
        if self.grid != (1, 1) and self.size is None:
            raise RequestError(
                f"size is None: expected height and width of the image, which a grid {self.grid} divides"
            )

    @property
    def total(self) -> int:
        """Slots of all bins."""
        return self.count * self.grid[0] * self.grid[1] * (self.classes or 1)

    def __call__(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """One image's detections in their slots.

        Parameters
        ----------
        boxes : Tensor, shape ``(k, 4)``
            ``x1, y1, x2, y2``.
        labels : Tensor of integers, shape ``(k,)``
            Their classes.

        Returns
        -------
        Tensor, shape ``(total, 6)``
            In the type of the boxes.

        Raises
        ------
        RequestError
            The shapes are others, a class is beyond ``classes``, or no number of the type of the boxes: bfloat16 holds
            integers up to 256, float16 up to 2048.
        """
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            came = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
            raise RequestError(f"detections are {came}: expected (k, 4) and (k,)")
        if self.classes is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise RequestError(f"a class is {int(labels.max())}: expected 0 to {self.classes - 1}")
        numbers = labels.to(boxes)
        if not torch.equal(numbers.double(), labels.double()):
            first = int(labels[numbers.double() != labels.double()][0])
            raise RequestError(f"a class is {first}, which {boxes.dtype} rounds: expected boxes.float()")
        slots, bins = boxes.new_zeros(self.total, 6), self._bins(boxes, labels)
        for bin_ in bins.unique().tolist():
            of_bin = (bins == bin_).nonzero()[: self.count, 0]
            inside = boxes[of_bin]
            order = np.lexsort((inside[:, [1, 3]].sum(dim=1).tolist(), inside[:, [0, 2]].sum(dim=1).tolist()))
            rows = of_bin[torch.from_numpy(order).to(of_bin)]
            place = slice(bin_ * self.count, bin_ * self.count + len(rows))
            slots[place, :CLASS], slots[place, CLASS], slots[place, PRESENT] = boxes[rows], numbers[rows], 1
        return slots

    def _bins(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """The bin of each box; a center outside the image is in the bin next to it."""
        bins = labels.long() if self.classes is not None else torch.zeros_like(labels, dtype=torch.int64)
        for axis, (cells, side) in enumerate(zip(self.grid, self.size or (1, 1), strict=True)):
            centers = boxes[:, [1 - axis, 3 - axis]].double().mean(dim=1)
            bins = bins * cells + (centers * cells / side).floor().long().clamp(0, cells - 1)
        return bins


@dataclass(frozen=True)
class CertifiedDetections:
    """Counts that hold for the smoothed detector at every ``x'`` within ``eps``.

    Attributes
    ----------
    hits : int
        Least number of objects that are found.
    detections : int
        Largest number of detections.
    objects : int
        Number of objects that there are.
    """

    hits: int
    detections: int
    objects: int

    @property
    def precision(self) -> float:
        """The least share of detections that find an object; 0 where there may be none."""
        return self.hits / self.detections if self.detections else 0.0

    @property
    def recall(self) -> float:
        """The least share of objects that are found; 0 where there are none."""
        return self.hits / self.objects if self.objects else 0.0


def certified_detections(
    lower: Tensor, upper: Tensor, boxes: Tensor, labels: Tensor, *, iou: float = 0.5
) -> CertifiedDetections:
    """The least precision and recall of slots whose numbers are within bounds.

    A slot finds an object for sure if it is present, of the object's class, and its box has an intersection over union
    of at least ``iou`` with the object's, all whatever its numbers are within their bounds; an object without area is
    never found. Each object is found by one
    slot and each slot finds one object, in a matching that finds as many as possible; so at any ``x'`` at least as many
    are found as in the largest matching of those that are sure. Detections are at most the slots that may be present.

    Parameters
    ----------
    lower, upper : Tensor, shape ``(slots, 6)``
        Bounds of the numbers of `Slots`, as a `Percentile` certificate has them.
    boxes : Tensor, shape ``(k, 4)``
        Boxes of the objects that there are.
    labels : Tensor of integers, shape ``(k,)``
        Their classes.
    iou : float
        Least intersection over union.

    Raises
    ------
    RequestError
        Bounds, boxes or classes have other shapes, or ``iou`` is not above 0 and at most 1.
    """
    if not is_number(iou) or not 0 < iou <= 1:
        raise RequestError(f"iou is {brief(iou)}: expected a number above 0 and at most 1")
    if lower.shape != upper.shape or lower.ndim != 2 or lower.shape[1] != 6:
        raise RequestError(f"bounds are {tuple(lower.shape)} and {tuple(upper.shape)}: expected (slots, 6) twice")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise RequestError(f"objects are {tuple(boxes.shape)} and {tuple(labels.shape)}: expected (k, 4) and (k,)")
    sure = _sure(lower, upper, boxes, labels, iou)
    hits = int((maximum_bipartite_matching(csr_array(sure)) >= 0).sum()) if sure.any() else 0
    return CertifiedDetections(hits, int((upper[:, PRESENT] > 0).sum()), len(boxes))


def _sure(lower: Tensor, upper: Tensor, boxes: Tensor, labels: Tensor, iou: float) -> NDArray[np.int8]:
    """Which slots find which objects for sure, ``(slots, k)``."""
    certain = (lower[:, PRESENT] > 0) & (lower[:, CLASS] == upper[:, CLASS])
    sure = np.zeros((len(lower), len(boxes)), dtype=np.int8)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    of_class = lower[:, CLASS, None].double() == labels.double()  # which half precision would round
    for slot, truth in (certain[:, None] & of_class & has_area).nonzero().tolist():
        ends = lower[slot, :CLASS], upper[slot, :CLASS]
        sure[slot, truth] = 1 - worst_jaccard(boxes[truth], *ends) >= iou
    return sure
