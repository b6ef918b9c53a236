"""Distances between boxes as sets of points in the plane, and between sets of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import comb
from typing import Final

import numpy as np
import torch
from torch import Tensor

from centersmooth.errors import ModelError, RequestError
from centersmooth.metrics.base import TILE_ENTRIES, Metric, distinct, exact_floats

_MOST_STEPS: Final = 1100
"""Steps of `_cheapest_matching` up to which it is faster than one call of SciPy a pair: 1,024 match 8 boxes with 8."""

_PAIRS_AT_ONCE: Final = 2**16
"""Pairs of boxes of which a dozen numbers each stay in the cache of a CPU: five times faster than tiles of millions."""


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
            A box is inverted, or a corner is NaN or infinite.
        """
        if outputs.ndim != 2 or outputs.shape[1] != 4:
            raise RequestError(
                f"Jaccard distance came to outputs of shape {tuple(outputs.shape)}: expected boxes (n, 4)"
            )
        return _with_empty_as_zeros(outputs)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n, 4), (m, 4) -> (n, m)``: the areas in one box only, over that of the union.

        They are sums of what sticks out on each side, which are not negative: nothing cancels, so that boxes that are
        almost equal have their distance to ``1e-15`` of itself, where ``1 - common / union`` would give 0.
        """
        if a.device.type != "cpu" or len(a) * len(b) <= _PAIRS_AT_ONCE:
            return self._of_pairs(a, b)
        return torch.cat([self._of_pairs(rows, b) for rows in a.split(max(1, _PAIRS_AT_ONCE // len(b)))])

    @staticmethod
    def _of_pairs(a: Tensor, b: Tensor) -> Tensor:
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
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def _with_empty_as_zeros(outputs: Tensor) -> Tensor:
    """Boxes ``(..., 4)`` in float64, with every empty one as zeros.

    Raises
    ------
    ModelError
        A box is inverted, or a corner is NaN or infinite.
    """
    boxes = exact_floats(outputs).double()
    if not bool(torch.isfinite(boxes).all()):
        raise ModelError("a corner of a box is NaN or infinite: expected numbers, zeros for no box")
    inverted = (boxes[..., 2:] < boxes[..., :2]).any(dim=-1)
    if bool(inverted.any()):
        came = ", ".join(f"{corner:.6g}" for corner in boxes[inverted][0].tolist())
        raise ModelError(
            f"Jaccard distance came to an inverted box ({came}): expected corners x1, y1, x2, y2 with x1 <= x2 and "
            "y1 <= y2, zeros for no box; use torchvision.ops.box_convert where they are in another format"
        )
    return boxes.masked_fill(~_has_area(boxes)[..., None], 0.0)


class OSPA(Metric):
    """OSPA distance of two sets of boxes (order 1, cutoff 1), each box measured by its Jaccard distance.

    Of sets of ``a <= b`` boxes it is ``(total + b - a) / b``, where ``total`` is the least sum of Jaccard distances in
    a matching of all ``a`` boxes with different ones of the ``b``: a box that is left over counts 1. Two empty sets are
    at distance 0.

    Input layout ``(n, N, 4)``: up to ``N`` boxes an output, in any order, as `Jaccard` takes them; empty boxes fill up
    the rest and count as none. Classes of boxes are not compared. Power 1, range ``[0, 1]``; at distance 0 are outputs
    with the same boxes.

    A set within ``r`` of an answer of ``b`` boxes has between ``(1 - r) b`` and ``b/(1 - r)`` boxes; exactly ``b`` if
    ``r < 1/(b + 1)``. If ``r < 1/b``, it has a different box for each of the answer's, within a Jaccard distance of
    ``b r`` of that.

    Notes
    -----
    *Source.* Schuhmacher, Vo and Vo, *A Consistent Metric for Performance Evaluation of Multi-Object Filters*, IEEE
    Transactions on Signal Processing 56(8), 2008.

    *Triangle inequality.* It holds for any base metric that is at most 1, as the Jaccard distance is. Fill up all sets
    to one size with fillers, at distance 1 from every box and 0 from each other: still a metric. To match two boxes
    never costs more than to leave both to fillers, so the distance is ``D(X, Y)/max(x, y)``, with the sizes in small
    letters and ``D`` the least total of a matching of the filled sets. ``D`` is at most ``max(x, y)``, and one matching
    after another is a matching: ``D`` has the triangle inequality. Let ``x <= y``. If ``z <= y``, then ``D(X, Z)/max(x,
    z) + D(Z, Y)/y >= (D(X, Z) + D(Z, Y))/y >= D(X, Y)/y``. If ``z > y``, the best matchings lead from ``X`` through the
    boxes of ``Z`` to ``Y`` on ``z`` paths. Of these, ``z - y`` end in a filler and cost 1 or more. The others match all
    of ``Y`` with boxes of ``X`` and fillers; boxes of ``X`` that are not among them can take the place of fillers at no
    cost. So ``D(X, Z) + D(Z, Y) >= D(X, Y) + z - y``, and ``(D(X, Y) + z - y)/z >= D(X, Y)/y`` as ``D(X, Y) <= y``.

    Examples
    --------
    >>> import torch
    >>> ospa = OSPA()
    >>> none, left, right = [0.0, 0, 0, 0], [0.0, 0, 2, 1], [5.0, 0, 7, 1]
    >>> sets = ospa.features(torch.tensor([[left, right], [right, left], [right, none], [none, none]]))
    >>> ospa.pairwise(sets, sets)[0].tolist()
    [0.0, 0.0, 0.5, 1.0]
    """

    no_mean = "it compares sets, which no norm of a difference does"

    def diameter(self, output_shape: tuple[int, ...], output_range: tuple[float, float] | None) -> float:
        return 1.0

    def features(self, outputs: Tensor) -> Tensor:
        """``(n, N, 4) -> (n, N, 4)`` in float64, with the boxes of each set in one order and its empty ones last.

        Raises
        ------
        RequestError
            The outputs have another shape.
        ModelError
            A box is inverted, or a corner is NaN or infinite.
        """
        if outputs.ndim != 3 or outputs.shape[2] != 4:
            raise RequestError(
                f"OSPA distance came to outputs of shape {tuple(outputs.shape)}: expected sets of boxes (n, N, 4)"
            )
        boxes = _with_empty_as_zeros(outputs)
        for corner in (3, 2, 1, 0):  # stable, so that the first corner decides, then the second, and so on
            boxes = _in_order_of(boxes[..., corner], boxes)
        return _in_order_of((~_has_area(boxes)).int(), boxes)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n, N, 4), (m, N, 4) -> (n, m)``; equal sets are measured once, and pairs of the same sizes together."""
        (a, row_of), (b, column_of) = distinct(a), distinct(b)
        distances = a.new_zeros((len(a), len(b)))
        for size, rows in _by_size(a):
            for other, columns in _by_size(b):
                first, second = a[rows, :size], b[columns, :other]
                if size <= other:
                    distances[rows[:, None], columns] = _between_sets(first, second)
                else:
                    distances[rows[:, None], columns] = _between_sets(second, first).T
        return distances[row_of][:, column_of]


def _in_order_of(key: Tensor, boxes: Tensor) -> Tensor:
    """The boxes of each set by a number of each, ``(n, N), (n, N, 4) -> (n, N, 4)``; equal ones keep their order."""
    return boxes.take_along_dim(key.argsort(dim=1, stable=True)[..., None], dim=1)


def _by_size(sets: Tensor) -> list[tuple[int, Tensor]]:
    """The numbers of boxes that sets have, each with the indices of its sets."""
    sizes = _has_area(sets).sum(dim=1)
    return [(size, (sizes == size).nonzero()[:, 0]) for size in sizes.unique().tolist()]


def _between_sets(a: Tensor, b: Tensor) -> Tensor:
    """OSPA distances of sets of ``k`` boxes and sets of ``l >= k``: ``(n, k, 4), (m, l, 4) -> (n, m)``."""
    few, many = a.shape[1], b.shape[1]
    if few == 0:
        return a.new_full((len(a), len(b)), float(many > 0))
    by_subsets = sum(comb(many, taken) * taken for taken in range(1, few + 1)) <= _MOST_STEPS
    total = _cheapest_matching if by_subsets else _cheapest_by_scipy
    jaccard, tiles = Jaccard(), []
    # At the peak three numbers for each two boxes of a pair of sets; four tiles of them are fastest.
    for rows in a.split(max(1, 4 * TILE_ENTRIES // (3 * few * many * len(b)))):
        cost = [[jaccard.pairwise(rows[:, i], b[:, j]) for j in range(many)] for i in range(few)]
        tiles.append((total(cost, rows.new_zeros((len(rows), len(b)))) + (many - few)) / many)
    return torch.cat(tiles)


def _cheapest_matching(cost: Sequence[Sequence[Tensor]], zero: Tensor) -> Tensor:
    """The least total of ``cost`` over matchings of every row with a column of its own, entry by entry.

    Exact: row by row, the least total of the rows so far for every set of columns that they may have taken.

    >>> zero = torch.zeros(1)
    >>> _cheapest_matching([[zero + 1, zero + 2, zero + 4], [zero + 1, zero + 4, zero + 3]], zero).tolist()
    [3.0]
    """
    least = {0: zero}  # by the columns taken, a bit each
    for row in cost:
        longer: dict[int, Tensor] = {}
        for taken, total in least.items():
            for column, distance in enumerate(row):
                if taken >> column & 1:
                    continue
                now, extended = taken | 1 << column, total + distance
                longer[now] = torch.minimum(longer[now], extended) if now in longer else extended
        least = longer
    return torch.stack(list(least.values())).amin(dim=0)


def _cheapest_by_scipy(cost: Sequence[Sequence[Tensor]], zero: Tensor) -> Tensor:
    """As `_cheapest_matching`, pair by pair, for sets of many boxes."""
    from scipy.optimize import linear_sum_assignment  # a fifth of the time of importing this package

    matrices = torch.stack([torch.stack(list(row), dim=-1) for row in cost], dim=-2).cpu().numpy()
    totals = [matrix[linear_sum_assignment(matrix)].sum() for matrix in matrices.reshape(-1, *matrices.shape[-2:])]
    return torch.from_numpy(np.array(totals)).reshape(zero.shape).to(zero)


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
    distances = jaccard.pairwise(corners, jaccard.features(box[None].double()))
    return float(distances.nan_to_num(nan=1.0).max())  # of areas beyond float64
