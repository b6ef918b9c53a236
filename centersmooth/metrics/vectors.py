"""Distances between vectors and images as vectors: l1, l2, squared l2, cosine, angular.

Input layout: any ``(n, *out)``, flattened to ``(n, D)``. The Euclidean family works in float64: the identity
``|a-b|^2 = |a|^2 + |b|^2 - 2ab`` and the arc cosine near 1 would lose half of float32's digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from centersmooth.metrics.base import TILE_ENTRIES, Metric

_L1_COLUMNS = 256

OutputRange = tuple[float, float] | None


def width(output_range: OutputRange) -> float:
    return math.inf if output_range is None else output_range[1] - output_range[0]


def _flat(outputs: Tensor) -> Tensor:
    """``(n, *out) -> (n, D)``; also where an output is a single number."""
    return outputs.reshape(len(outputs), -1)


def floating(outputs: Tensor) -> Tensor:
    """Flattened to ``(n, D)``, in float32 at least."""
    return _flat(outputs).to(torch.promote_types(outputs.dtype, torch.float32))


class L1(Metric):
    """``sum |a_i - b_i|``. Power 1, range ``[0, D * width]``; 0 only on equal outputs.

    Examples
    --------
    >>> import torch
    >>> metric = L1()
    >>> metric.pairwise(metric.features(torch.tensor([[0.0, 0.0]])), metric.features(torch.tensor([[3.0, 4.0]]))).item()
    7.0
    """

    seminorm = "l1"
    has_means = True

    def diameter(self, output_shape: tuple[int, ...], output_range: OutputRange) -> float:
        return math.prod(output_shape) * width(output_range)

    def features(self, outputs: Tensor) -> Tensor:
        return floating(outputs)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, p=1)

    def self_rows(self, features: Tensor) -> Iterator[Tensor]:
        """On the CPU from ``pdist``, about ten times faster than ``cdist`` for this norm; ``n^2 / 2`` numbers at once.

        ``pdist`` leaves the pairs ``i < j`` in order: ``(i, j)`` is number ``first[i] + j``. Of a row, the pairs with
        later rows lie side by side; those with rows before the tile are gathered, those within it mirrored.
        """
        if features.device.type != "cpu" or len(features) < 2:
            yield from super().self_rows(features)
            return
        n = len(features)
        pairs, index = _l1_of_pairs(features), torch.arange(n)
        first = index * (2 * n - index - 3) // 2 - 1
        for start in range(0, n, step := max(1, TILE_ENTRIES // 8 // n)):
            stop = min(start + step, n)
            tile = torch.zeros((stop - start, n), dtype=pairs.dtype)
            tile[:, :start] = pairs.take(first[:start] + index[start:stop, None])
            for i, row in zip(range(start, stop), tile, strict=True):
                row[i + 1 :] = pairs[int(first[i]) + i + 1 : int(first[i]) + n]
            among = tile[:, start:stop]
            among += among.T.clone()
            yield tile


def _l1_of_pairs(features: Tensor) -> Tensor:
    """``torch.pdist`` for l1, some columns at a time: all rows of those stay in the cache, up to four times faster."""
    parts = iter(torch.split(features, _L1_COLUMNS, dim=1))
    pairs = torch.pdist(next(parts).contiguous(), p=1)
    for part in parts:
        pairs += torch.pdist(part.contiguous(), p=1)
    return pairs


class _Euclidean(Metric):
    """A function of the l2 distance of the features, in float64."""

    has_means = True

    @property
    def source(self) -> Metric:
        """Shared by the classes of this module only: one that inherits from them may have features of its own."""
        return _SOURCES.get(type(self), self)

    def from_source(self, distances: Tensor) -> Tensor:
        return distances if self.source is self else self._of_l2(distances)

    def _of_l2(self, distance: Tensor) -> Tensor:
        return distance

    def features(self, outputs: Tensor) -> Tensor:
        return _flat(outputs).double()

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return self._of_l2(torch.cdist(a, b, p=2, compute_mode="donot_use_mm_for_euclid_dist"))

    def self_rows(self, features: Tensor) -> Iterator[Tensor]:
        """By one matrix product a tile, around the coordinate-wise median.

        ``|a|^2 + |b|^2 - 2ab`` loses half of the digits of ``|a|``, so the origin has to be where the points are: the
        median lies within ``sqrt(D)`` radii of any ball that holds more than half of them, and in an atom of that
        mass exactly. Around it the distances within such a ball are right to about ``1e-8 sqrt(D)`` of its radius,
        whatever the rest of the sample does.
        """
        features = features - features.median(dim=0).values
        squares = features.square().sum(1)
        for start in range(0, len(features), step := max(1, TILE_ENTRIES // len(features))):
            tile = slice(start, start + step)
            squared = torch.addmm(squares[tile, None] + squares, features[tile], features.T, alpha=-2)
            yield self._of_l2(squared.clamp_(min=0).sqrt_())


class L2(_Euclidean):
    """``|a - b|_2``. Power 1, range ``[0, sqrt(D) * width]``; 0 only on equal outputs.

    Examples
    --------
    >>> import torch
    >>> metric = L2()
    >>> metric.pairwise(metric.features(torch.tensor([[0.0, 0.0]])), metric.features(torch.tensor([[3.0, 4.0]]))).item()
    5.0
    """

    seminorm = "l2"

    def diameter(self, output_shape: tuple[int, ...], output_range: OutputRange) -> float:
        return math.sqrt(math.prod(output_shape)) * width(output_range)


class SquaredL2(_Euclidean):
    """``|a - b|_2^2``. Power 2 (the square of l2), range ``[0, D * width^2]``; 0 only on equal outputs."""

    power = 2.0
    no_mean = "it is the square of a norm, use L2"

    def diameter(self, output_shape: tuple[int, ...], output_range: OutputRange) -> float:
        return math.prod(output_shape) * width(output_range) ** 2

    def _of_l2(self, distance: Tensor) -> Tensor:
        return distance.square()


class _Direction(_Euclidean):
    """A function of the direction of the output.

    The zero vector has no direction. It is given one of its own, at right angles to all others, as an extra
    coordinate: two zero vectors are at distance 0, and the triangle inequality holds with zeros in it.
    """

    no_mean = "it compares directions, which no norm of a difference does"

    def features(self, outputs: Tensor) -> Tensor:
        if torch.is_grad_enabled() and outputs.requires_grad:
            return self._differentiable(outputs)
        flat = _flat(outputs)
        features = torch.zeros((len(flat), flat.shape[1] + 1), dtype=torch.float64, device=flat.device)
        directions, zero = features[:, :-1], features[:, -1:]
        directions.copy_(flat)
        largest = torch.linalg.vector_norm(directions, math.inf, dim=1, keepdim=True)
        directions.div_(largest.clamp_(min=torch.finfo(torch.float64).tiny))
        norms = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        zero.copy_(norms == 0)
        directions.div_(norms.add_(zero))
        return features

    @staticmethod
    def _differentiable(outputs: Tensor) -> Tensor:
        """The same, for attacks: gradients pass through no tensor that is written in place."""
        flat = _flat(outputs).double()
        norms = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        zero = (norms == 0).double()
        return torch.cat([flat / (norms + zero), zero], dim=1)


class Cosine(_Direction):
    """``1 - cos(a, b)``. Power 2: half the square of the chord between directions; range ``[0, 2]``.

    0 on outputs of the same direction; 1 between the zero vector and any other.

    Examples
    --------
    >>> import torch
    >>> metric = Cosine()
    >>> a = metric.features(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    >>> [round(d, 6) for d in metric.pairwise(a, a)[0].tolist()]
    [0.0, 1.0, 1.0]
    """

    power = 2.0

    def diameter(self, output_shape: tuple[int, ...], output_range: OutputRange) -> float:
        return 1.0 if output_range is not None and output_range[0] >= 0 else 2.0

    def _of_l2(self, distance: Tensor) -> Tensor:
        return distance.square() / 2


class Angular(_Direction):
    """``acos(cos(a, b)) / pi``, from the chord as ``2 asin(chord/2) / pi``. Power 1, range ``[0, 1]``.

    0 on outputs of the same direction; 1/2 between the zero vector and any other.

    Examples
    --------
    >>> import torch
    >>> metric = Angular()
    >>> a = metric.features(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    >>> [round(d, 6) for d in metric.pairwise(a, a)[0].tolist()]
    [0.0, 0.5, 1.0]
    """

    def diameter(self, output_shape: tuple[int, ...], output_range: OutputRange) -> float:
        return 0.5 if output_range is not None and output_range[0] >= 0 else 1.0

    def _of_l2(self, distance: Tensor) -> Tensor:
        return (distance / 2).clamp(max=1).asin() * (2 / math.pi)


_L2, _CHORD = L2(), _Direction()
_SOURCES: dict[type[Metric], Metric] = {L2: _L2, SquaredL2: _L2, Cosine: _CHORD, Angular: _CHORD}
"""One object for each source, by which metrics know that they share it."""
