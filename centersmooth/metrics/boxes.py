"""Distances between boxes as sets of points in the plane."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from centersmooth.errors import ModelError, RequestError
from centersmooth.metrics.base import Metric, exact_floats


class Jaccard(Metric):
    """``1 - |A intersect B| / |A union B|`` of two axis-aligned boxes.

    Input layout ``(n, 4)``: real-valued corners ``x1, y1, x2, y2`` with ``x1 <= x2`` and ``y1 <= y2``, ``xyxy`` to
    torchvision. A box of width or height 0 is the empty set: at distance 1 from any box and 0 from the empty set. A
    detector says "nothing found" with four zeros. Inverted boxes are refused, as those in another format mostly are;
    where a box in another format happens not to be inverted, nobody can tell. Power 1 (the Jaccard distance is a metric
    on sets, Steinhaus 1961), range ``[0, 1]``.

    Examples
    --------
    >>> import torch
    >>> jaccard = Jaccard()
    >>> boxes = jaccard.features(torch.tensor([[0.0, 0, 2, 1], [1.0, 0, 3, 1], [0.0, 0, 0, 0]]))
    >>> [round(d, 4) for d in jaccard.pairwise(boxes, boxes)[0].tolist()]
    [0.0, 0.6667, 1.0]
    """

    has_means = True
    no_mean = "it compares sets, which no norm of a difference does"

    def diameter(self, output_shape: tuple[int, ...], output_range: tuple[float, float] | None) -> float:
        return 1.0

    def means(self, groups: Tensor) -> Tensor:
        """Mean corners of the boxes of each group, without the empty ones; four zeros where all are empty.

        The order of the corners is kept, so the mean of boxes is a box.
        """
        boxes = groups.double()
        some = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1, keepdim=True)
        total = boxes.masked_fill(~some, 0.0).sum(dim=1)
        return (total / some.sum(dim=1).clamp(min=1)).to(groups.dtype)

    def features(self, outputs: Tensor) -> Tensor:
        """``(n, 4) -> (n, 4)`` in float64, with every empty box as zeros.

        Raises
        ------
        RequestError
            The outputs have another shape.
        ModelError
            A box is inverted.
        """
        if outputs.ndim != 2 or outputs.shape[1] != 4:
            raise RequestError(
                f"Jaccard distance came to outputs of shape {tuple(outputs.shape)}: expected boxes (n, 4)"
            )
        boxes = exact_floats(outputs).double()
        inverted = (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
        if bool(inverted.any()):
            came = ", ".join(f"{corner:.6g}" for corner in boxes[inverted][0].tolist())
            raise ModelError(
                f"Jaccard distance came to an inverted box ({came}): expected corners x1, y1, x2, y2 with x1 <= x2 and "
                "y1 <= y2, zeros for no box; use torchvision.ops.box_convert where they are in another format"
            )
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1, keepdim=True)
        return boxes.masked_fill(empty, 0.0)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n, 4), (m, 4) -> (n, m)``: the areas in one box only, over that of the union.

        They are sums of what sticks out on each side, which are not negative: nothing cancels, so that boxes that are
        almost equal have their distance to ``1e-15`` of itself, where ``1 - common / union`` would give 0.
        """
        of_a, of_b = a.T[:, :, None].unbind(), b.T.contiguous().unbind()  # corners one by one: pairs lie side by side
        (left, top), (right, bottom) = map(torch.maximum, of_a[:2], of_b[:2]), map(torch.minimum, of_a[2:], of_b[2:])
        width, height = (right - left).clamp(min=0), (bottom - top).clamp(min=0)

        def only_in(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:
            """Area of a box outside its overlap with the other."""
            return ((x2 - right) + (left - x1)) * (y2 - y1) + width * ((y2 - bottom) + (top - y1))

        apart, overlap = only_in(*of_a) + only_in(*of_b), width * height
        some = _has_area(a)[:, None] | _has_area(b)
        distances = apart / (apart + overlap).clamp(min=torch.finfo(apart.dtype).tiny)
        return torch.where(overlap > 0, distances.clamp(max=1), some.to(apart.dtype))


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=-1)


def worst_jaccard(box: Tensor, lower: Tensor, upper: Tensor) -> float:
    """The largest Jaccard distance of a box to one whose corners are within bounds; 1 where such a box may be inverted.

    The 16 corners of the bounds suffice. Let ``x1`` of a box of sides ``W`` and ``H`` grow, the rest fixed. Up to the
    ``x1`` of the other box the intersection stays and the union shrinks. From there on a step ``dx`` takes the share
    ``dx/w`` of the intersection, ``w <= W`` wide; the union, which is at least ``W H``, loses at most ``dx H``, no more
    than the share ``dx/W``. So intersection over union rises and then falls, and is least at an end of the interval;
    the other three numbers are alike.

    Parameters
    ----------
    box, lower, upper : Tensor, shape ``(4,)``
        ``x1, y1, x2, y2``.

    Examples
    --------
    >>> box = torch.tensor([0.0, 0, 4, 4])
    >>> worst_jaccard(box, box, box), worst_jaccard(box, box, box + torch.tensor([1.0, 0, 0, 0]))
    (0.0, 0.25)
    >>> worst_jaccard(box, box - 2, box + 2), worst_jaccard(box, box - 3, box + 3)
    (1.0, 1.0)
    """
    if bool((lower[2:] < upper[:2]).any()):
        return 1.0
    ends = torch.stack([lower, upper]).double().T.tolist()
    jaccard = Jaccard()
    corners = jaccard.features(torch.tensor(list(product(*ends)), dtype=torch.float64, device=box.device))
    return float(jaccard.pairwise(corners, jaccard.features(box[None].double())).max())
