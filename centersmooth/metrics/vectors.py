"""Distances between vectors and images as vectors: l1, l2, squared l2, cosine, angular.

Input layout: any ``(n, *out)``, flattened to ``(n, D)``. The Euclidean family works in float64: the identity
``|a-b|^2 = |a|^2 + |b|^2 - 2ab`` and the arc cosine near 1 would lose half of float32's digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from centersmooth.metrics.base import TILE_ENTRIES, Hilbertian, Metric, ball_reach, exact_floats

_CHUNK = 256
"""Columns of a float32 sum of absolute differences; longer sums are put together in float64."""

_CHUNK_ON_DEVICE = 2**15
"""Columns of such a sum on CUDA, where ``cdist`` adds every 256th column, then 256 sums in a tree: 136 roundings."""

_GROUP, _GROUP_ENTRIES = 16, 2**15
"""Rows compared with others in one call of ``pdist``; more where all its pairs have fewer numbers than that."""

_CANCELLED, _CANCELLED_A_COLUMN = 1e-6, 1e-10
"""Share of ``|a|^2 + |b|^2``, the larger of the two, below which ``|a|^2 + |b|^2 - 2ab`` has lost too many digits."""

_VANISHING, _SMALL, _UPSCALE = 1e-140, 1e-138, 2.0**500
"""Distances whose squares may have vanished, the coordinates this takes, and a factor that brings them back."""

OutputRange = tuple[float, float] | None


def width(output_range: OutputRange) -> float:
    return math.inf if output_range is None else output_range[1] - output_range[0]


def _flat(outputs: Tensor) -> Tensor:
    """``(n, *out) -> (n, D)``; also where an output is a single number."""
    return outputs.reshape(len(outputs), -1)


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
        return _flat(exact_floats(outputs))

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n, D), (m, D) -> (n, m)``, to ``257 * 2**-24`` of each distance, by the sums of `self_rows`."""
        if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
            return torch.cdist(a, b, p=1)
        if a.device.type != "cpu":
            return _l1_on_device(a, b)
        distances, size = a.new_empty((len(a), len(b))), max(_GROUP, math.isqrt(_GROUP_ENTRIES // max(1, a.shape[1])))
        for rows, columns in product(_groups(len(a), size), _groups(len(b), size)):
            own, other = b[columns], a[rows]
            pairs = _l1_of_pairs(torch.cat([own, other]))
            distances[rows, columns] = pairs[_across(len(own), len(other))].view(len(own), -1).T
        return distances

    def self_rows(self, features: Tensor) -> Iterator[Tensor]:
        """On the CPU from ``pdist``, about ten times faster than ``cdist`` for this norm; ``n^2 / 2`` numbers at once.

        Bit by bit what `pairwise` gives, as both take their sums in the same order.

        ``pdist`` leaves the pairs ``i < j`` in order: ``(i, j)`` is number ``first[i] + j``. Pairs with later rows lie
        side by side, for all rows of a tile; those with rows before the tile are gathered, those within it mirrored.
        """
        if features.device.type != "cpu" or len(features) < 2:
            yield from super().self_rows(features)
            return
        n = len(features)
        pairs, index = _l1_of_pairs(features), torch.arange(n)
        first = index * (2 * n - index - 3) // 2 - 1
        for start in range(0, n, step := max(1, TILE_ENTRIES // n)):
            stop = min(start + step, n)
            tile = torch.zeros((stop - start, n), dtype=features.dtype)
            tile[:, :start] = pairs.take(first[:start] + index[start:stop, None])
            later = pairs[int(first[start]) + start + 1 : int(first[stop - 1]) + n]
            tile.masked_scatter_(index > index[start:stop, None], later.to(tile.dtype))
            among = tile[:, start:stop]
            among += among.T.clone()
            yield tile

    def pair_bytes(self, features: Tensor) -> int:
        if features.device.type != "cpu":
            return 0
        number = features.element_size()
        return number if features.shape[1] <= _CHUNK else number + torch.float64.itemsize


def _l1_of_pairs(features: Tensor) -> Tensor:
    """``torch.pdist`` for l1, summed by chunks of columns: ``(n, D) -> (n (n-1) / 2,)``, to be rounded once.

    A float32 sum of ``D`` terms may be off by ``D * 2**-24``, more than certificates allow for. Sums of `_CHUNK` are
    within ``256 * 2**-24``, and float64 puts them together. All rows of a chunk stay in the cache: up to four times
    faster than whole rows.
    """
    if features.shape[1] <= _CHUNK:
        return torch.pdist(features, p=1)
    total = torch.zeros(len(features) * (len(features) - 1) // 2, dtype=torch.float64)
    for chunk in torch.split(features, _CHUNK, dim=1):
        total += torch.pdist(chunk.contiguous(), p=1)
    return total


def _l1_on_device(a: Tensor, b: Tensor) -> Tensor:
    """Distances between two lists, ``(n, D), (m, D) -> (n, m)``, where there is no ``pdist`` to gain from."""
    kind = torch.promote_types(a.dtype, b.dtype)  # cdist takes no two types
    of_a, of_b = (torch.split(part.to(kind), _CHUNK_ON_DEVICE, 1) for part in (a, b))
    sums = [torch.cdist(*parts, p=1) for parts in zip(of_a, of_b, strict=True)]
    return sums[0] if len(sums) == 1 else torch.stack(sums).double().sum(dim=0).to(kind)


def _groups(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@lru_cache(maxsize=64)
def _across(size: int, others: int) -> Tensor:
    """Indices of the pairs between ``size`` and ``others`` rows, among all pairs as ``pdist`` orders them."""
    first, second = torch.triu_indices(size + others, size + others, 1)
    indices: Tensor = ((first < size) & (second >= size)).nonzero()[:, 0]
    return indices


class _Euclidean(Hilbertian):
    """A function of the l2 distance of the features, in float64."""

    has_means = True

    @property
    def source(self) -> Metric:
        """Shared by the classes of this module only: one that inherits from them may have features of its own."""
        return _SOURCES.get(type(self), self)

    def from_source(self, distances: Tensor) -> Tensor:
        return distances if self.source is self else self.of_l2(distances)

    def of_l2(self, distance: Tensor) -> Tensor:
        return distance

    def to_l2(self, distance: float) -> float:
        return distance

    def feature_reach(self, mean: Tensor, output_range: OutputRange) -> float:
        low, high = (-math.inf, math.inf) if output_range is None else output_range
        return float(torch.linalg.vector_norm(torch.maximum(mean - low, high - mean)))

    def features(self, outputs: Tensor) -> Tensor:
        return _flat(exact_floats(outputs)).double()

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return self.of_l2(_l2(a, b))

    def self_rows(self, features: Tensor) -> Iterator[Tensor]:
        """By one matrix product a tile, around the coordinate-wise median; by differences where that loses digits.

        ``|a|^2 + |b|^2 - 2ab`` is right to ``2^-53 D`` of ``|a|^2 + |b|^2``. Around the median that is little against
        the distances of most samples. But a cluster far from it (a value that stands for "no detection", say) has
        small distances between large vectors: a row with an entry below `_CANCELLED` of that sum is computed again
        from differences. So every distance is right to ``1.2e-6``, whatever the sample looks like.
        """
        centred = features - features.median(dim=0).values
        if _has_small(centred):
            yield from super().self_rows(features)
            return
        squares, least = centred.square().sum(1), max(_CANCELLED, _CANCELLED_A_COLUMN * features.shape[1])
        for start in range(0, len(features), step := max(1, TILE_ENTRIES // len(features))):
            tile = slice(start, start + step)
            sums = squares[tile, None] + squares
            squared = torch.addmm(sums, centred[tile], centred.T, alpha=-2)
            own = torch.arange(len(squared), device=squared.device)
            squared[own, own + start] = sums[own, own + start]  # of the point itself, 0 below
            lost = (squared < least * sums).any(dim=1) | ~(squares[tile] < math.inf)
            squared[own, own + start] = 0.0
            distances = squared.clamp_(min=0).sqrt_()
            if bool(lost.any()):
                distances[lost] = _l2(features[tile][lost], features)
            yield self.of_l2(distances)


def _l2(a: Tensor, b: Tensor) -> Tensor:
    """l2 distances from differences, ``(n, D), (m, D) -> (n, m)``; right also where their squares would vanish."""
    distances = torch.cdist(a, b, p=2, compute_mode="donot_use_mm_for_euclid_dist")
    vanishing = distances < _VANISHING
    if bool(vanishing.any()) and (_has_small(a) or _has_small(b)):
        scaled = torch.cdist(a * _UPSCALE, b * _UPSCALE, p=2, compute_mode="donot_use_mm_for_euclid_dist")
        distances = torch.where(vanishing, scaled / _UPSCALE, distances)
    return distances


def _has_small(features: Tensor) -> bool:
    """Test for coordinates so small that squares of their differences leave float64's range."""
    sizes = features.abs()
    return bool(((sizes > 0) & (sizes < _SMALL)).any())


def _square(distance: Tensor) -> Tensor:
    """The square, at least float64's smallest normal number where the distance is not 0: it never vanishes."""
    squared = distance.square()
    return torch.where(distance > 0, squared.clamp(min=torch.finfo(squared.dtype).tiny), squared)


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

    def of_l2(self, distance: Tensor) -> Tensor:
        return _square(distance)

    def to_l2(self, distance: float) -> float:
        return math.sqrt(distance)


class _Direction(_Euclidean):
    """A function of the direction of the output.

    The zero vector has no direction. It is given one of its own, at right angles to all others, as an extra
    coordinate: two zero vectors are at distance 0, and the triangle inequality holds with zeros in it.
    """

    no_mean = "it compares directions, which no norm of a difference does"

    def feature_reach(self, mean: Tensor, output_range: OutputRange) -> float:
        return ball_reach(1.0, mean, output_range is not None and output_range[0] >= 0)

    def features(self, outputs: Tensor) -> Tensor:
        if torch.is_grad_enabled() and outputs.requires_grad:
            return self._differentiable(outputs)
        flat = _flat(exact_floats(outputs))
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
        """`pairwise` for attacks: gradients need tensors that are not written in place."""
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

    def of_l2(self, distance: Tensor) -> Tensor:
        return _square(distance) / 2

    def to_l2(self, distance: float) -> float:
        return math.sqrt(2 * distance)


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

    def of_l2(self, distance: Tensor) -> Tensor:
        return (distance / 2).clamp(max=1).asin() * (2 / math.pi)

    def to_l2(self, distance: float) -> float:
        return 2 * math.sin(math.pi / 2 * min(distance, 1.0))


_L2, _CHORD = L2(), _Direction()
_SOURCES: dict[type[Metric], Metric] = {L2: _L2, SquaredL2: _L2, Cosine: _CHORD, Angular: _CHORD}
"""One object for each source, by which metrics know that they share it."""
