"""Distances between boxes as sets of points in the plane."""

from __future__ import annotations

import torch
from torch import Tensor

from centersmooth.errors import RequestError
from centersmooth.metrics.base import Metric


class Jaccard(Metric):
    """``1 - |A intersect B| / |A union B|`` of two axis-aligned boxes.

    Input layout ``(n, 4)``: real-valued ``x1, y1, x2, y2``. A box without area, or inverted, is the empty set: at
    distance 1 from any box and 0 from the empty set. A detector says "nothing found" with four zeros. Power 1 (the
    Jaccard distance is a metric on sets, Steinhaus 1961), range ``[0, 1]``.

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
        """Of each group the mean corners of its boxes, without the empty ones; four zeros where all are empty.

        The order of the corners is kept, so the mean of boxes is a box.
        """
        boxes = groups.double()
        some = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1, keepdim=True)
        total = boxes.masked_fill(~some, 0.0).sum(dim=1)
        return (total / some.sum(dim=1).clamp(min=1)).to(groups.dtype)

    def features(self, outputs: Tensor) -> Tensor:
        """``(n, 4) -> (n, 4)`` in float64, with every empty box as zeros."""
        if outputs.ndim != 2 or outputs.shape[1] != 4:
            raise RequestError(
                f"Jaccard distance came to outputs of shape {tuple(outputs.shape)}: expected boxes (n, 4)"
            )
        boxes = outputs.double()
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1, keepdim=True)
        return boxes.masked_fill(empty, 0.0)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        low = torch.maximum(a[:, None, :2], b[None, :, :2])
        high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
        common = (high - low).clamp_(min=0).prod(dim=2)
        union = _area(a)[:, None] + _area(b) - common
        return torch.where(union > 0, 1 - common / union.clamp(min=torch.finfo(a.dtype).tiny), 0.0).clamp_(0, 1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
