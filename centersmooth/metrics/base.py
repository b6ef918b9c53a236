"""The base class of metrics.

Shapes: ``n, m`` numbers of outputs, ``*out`` the shape of one output, ``D`` the length of its features.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from centersmooth.checks import is_number
from centersmooth.errors import ModelError, RequestError, is_out_of_memory
from centersmooth.outputs import brief, brief_repr

TILE_ENTRIES = 2**20
"""Entries of one tile of a distance matrix: 8 MiB in float64, which with what it is made from stays in a CPU's cache.

Centers are found up to twice as fast as by tiles of 64 MiB.
"""


_EXACT = 2**53
"""Integers up to here are float64 numbers, and so are their differences."""

_OWN_BITS = 61
"""A user's distance gets integers up to the root of ``2**61 / D``: sums of ``D`` squares of differences fit int64."""


def exact_floats(outputs: Tensor) -> Tensor:
    """Outputs as floating-point numbers of float32 at least, in which they and their differences are exact.

    Raises
    ------
    RequestError
        Integers beyond 2^53, which float64 cannot tell apart.
    """
    if outputs.is_floating_point():
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if outputs.dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16):
        return outputs.float()
    require_small(outputs, _EXACT, "scale them down")
    return outputs.double()


def require_small(outputs: Tensor, largest: int, remedy: str) -> None:
    """Refuse integers beyond ``largest`` in size.

    Raises
    ------
    RequestError
    """
    if outputs.numel() and not (-largest <= int(outputs.amin()) and int(outputs.amax()) <= largest):
        raise RequestError(
            f"outputs are {outputs.dtype} with values from {int(outputs.amin())} to {int(outputs.amax())}: differences "
            f"are exact up to {largest} only; {remedy}"
        )


class Metric(ABC):
    """A symmetric distance ``d = e**power`` on model outputs, where ``e`` satisfies the triangle inequality.

    ``power = 1``: ``d`` is itself a pseudometric. ``power = 2``: the square of one (squared l2, cosine, LPIPS), with
    the relaxed inequality ``d(a,c) <= gamma * (d(a,b) + d(b,c))``, ``gamma = 2**(power-1)``. Distance 0 between
    different outputs is allowed.

    Subclasses give `features`, computed once an output, and `pairwise` on features.
    """

    power: float = 1.0

    has_means: bool = False
    """Whether `means` gives outputs, so that a center can be other than a drawn output (``kind="free"``)."""

    seminorm: Literal["l1", "l2"] | None = None
    """Where `pairwise` is that norm of the difference of two features, and these are affine in the output."""

    no_mean: str = "it is not known to be a norm of the difference of two outputs"
    """Why there is no `seminorm`, for messages."""

    whole: bool = False
    """Whether all distances are whole numbers, so that a radius is rounded down to one."""

    @property
    def name(self) -> str:
        """Name of the metric in messages."""
        return type(self).__name__

    def __repr__(self) -> str:
        return brief_repr(self)

    @property
    def gamma(self) -> float:
        """Constant of the relaxed triangle inequality, ``2**(power-1)``; by convexity of ``t**power``."""
        return float(2.0 ** (self.power - 1))

    def diameter(self, output_shape: tuple[int, ...], output_range: tuple[float, float] | None) -> float:
        """``sup d`` over outputs of that shape in that range, infinity if unbounded.

        A certificate of this size says nothing: it is called vacuous.
        """
        return math.inf

    def feature_range(self, output_range: tuple[float, float]) -> tuple[float, float]:
        """Limits of every feature of outputs in that range; only asked of a `seminorm`."""
        return output_range

    @property
    def source(self) -> Metric:
        """The metric of which this one is a non-decreasing function; itself unless it says otherwise.

        Order statistics commute with such a function, so metrics of one source share features, distances and center.
        """
        return self

    def from_source(self, distances: Tensor) -> Tensor:
        """Distances of this metric from those of its `source`, entry by entry."""
        return distances

    def means(self, groups: Tensor) -> Tensor:
        """The mean output of each group, an output again: ``(g, size, *out) -> (g, *out)``, group by group.

        Here coordinate by coordinate, summed in float64: within the range of the group's outputs.
        """
        return groups.double().mean(dim=1).to(groups.dtype)

    @abstractmethod
    def features(self, outputs: Tensor) -> Tensor:
        """Features of outputs, from which distances are computed: ``(n, *out) -> (n, ...)``, row by row."""

    @abstractmethod
    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances between two lists of features: ``(n, ...), (m, ...) -> (n, m)``.

        Entry ``(i, j)`` may depend on row ``i`` of ``a`` and row ``j`` of ``b`` only, to the last digit: ties between
        equal outputs have to stay ties.
        """

    def self_rows(self, features: Tensor) -> Iterator[Tensor]:
        """The distance matrix of a sample with itself as tiles of consecutive rows; may round unlike `pairwise`.

        Together the tiles have shape ``(n, n)``. Only used to compare candidate centers.
        """
        step = max(1, TILE_ENTRIES // len(features))
        for start in range(0, len(features), step):
            yield self.pairwise(features[start : start + step], features)

    def pair_bytes(self, features: Tensor) -> int:
        """Bytes that `self_rows` holds for each of the ``n (n - 1) / 2`` pairs at once, beside its tiles."""
        return 0


class Hilbertian(Metric):
    """A metric that is a non-decreasing function of the l2 distance ``e`` of bounded features, ``(n, D)``.

    Such features have a mean, whose movement has a bound: `Nearest` certifies the output nearest to it.
    """

    @abstractmethod
    def of_l2(self, distance: Tensor) -> Tensor:
        """``d`` from ``e``, entry by entry; of an ``e`` larger than any, the largest ``d``, or more."""

    @abstractmethod
    def to_l2(self, distance: float) -> float:
        """The largest ``e`` that has this ``d``: the inverse of `of_l2`."""

    @abstractmethod
    def feature_reach(self, mean: Tensor, output_range: tuple[float, float] | None) -> float:
        """The largest ``e`` between the features of an output in that range and a mean of features, or more.

        Parameters
        ----------
        mean : Tensor, shape ``(D,)``, float64
        """


def ball_reach(norm: float, mean: Tensor, not_negative: bool) -> float:
    """The largest l2 distance of features of at most this norm to a mean of such features, ``(D,)``, rounded up.

    ``norm + ||mean||``; where no feature is negative, ``||f - mean||^2 <= ||f||^2 + ||mean||^2``.

    Examples
    --------
    >>> mean = torch.tensor([0.6, 0.0], dtype=torch.float64)
    >>> round(ball_reach(0.8, mean, True), 6), round(ball_reach(0.8, mean, False), 6)
    (1.0, 1.4)
    """
    own = float(torch.linalg.vector_norm(mean))
    return (math.hypot(norm, own) if not_negative else norm + own) * (1 + 1e-9)


def features_of(metric: Metric, outputs: Tensor) -> Tensor:
    """Features in memory of their own: a user's metric may answer in a buffer that its next call overwrites."""
    features = metric.features(outputs)
    return features if is_shipped(metric) else features.clone()


def require_within_diameter(
    metric: Metric, largest: float, output_shape: tuple[int, ...], output_range: tuple[float, float] | None
) -> None:
    """Refuse a distance beyond the diameter that a metric declares, by more than rounding.

    Raises
    ------
    ModelError
    """
    diameter = metric.diameter(output_shape, output_range)
    if largest > diameter * (1 + 1e-3):
        raise ModelError(
            f"{metric.name}: two outputs are {largest:.4g} apart, beyond the diameter {diameter:.4g} that it declares"
        )


def is_shipped(metric: Metric) -> bool:
    """Test for a metric of this library; a `DistanceFunction` is the user's."""
    kind = type(metric)
    return kind.__module__.partition(".")[0] in ("centersmooth", "csrun") and kind is not DistanceFunction


def between(metric: Metric, a: Tensor, b: Tensor) -> float:
    """The distance of two outputs ``(*out)``, in the more precise of their types.

    Raises
    ------
    RequestError
        They are not two tensors of one shape.
    """
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        came = [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in (a, b)]
        raise RequestError(f"no distance between {came[0]} and {came[1]}: expected two outputs of one shape")
    dtype = torch.promote_types(a.dtype, b.dtype)
    first, second = (features_of(metric, one[None].to(dtype)) for one in (a, b))
    return float(metric.pairwise(first, second))


class DistanceFunction(Metric):
    """Your own distance, from a function of two equally long batches.

    Parameters
    ----------
    distance : callable, ``(n, *out), (n, *out) -> (n,)``
        Symmetric, non-negative, 0 on equal outputs; row by row. The triangle inequality is yours to guarantee:
        `centersmooth.contracts.check_metric` looks for violations on your real outputs.
    power : float
        1 where ``distance`` satisfies the triangle inequality, 2 where its square root does.
    diameter : float
        The largest value it can take, if bounded.

    Examples
    --------
    >>> import torch
    >>> hamming = DistanceFunction(lambda a, b: (a != b).float().mean(dim=1), diameter=1.0)
    >>> a = torch.tensor([[0, 1, 1], [0, 0, 0]])
    >>> hamming.pairwise(hamming.features(a), hamming.features(a))[0].tolist()
    [0.0, 0.6666666865348816]
    """

    def __init__(
        self, distance: Callable[[Tensor, Tensor], Tensor], *, power: float = 1.0, diameter: float = math.inf
    ) -> None:
        if not callable(distance):
            raise RequestError(f"distance is {brief(distance)}: expected a function of two equally long batches")
        if not is_number(power) or not 1 <= power < math.inf:
            raise RequestError(
                f"power is {brief(power)}: expected 1 (a metric) or more (a power of one, 2 for its square)"
            )
        if not is_number(diameter) or not diameter > 0:
            raise RequestError(
                f"diameter is {brief(diameter)}: expected the largest distance, a positive number or infinity"
            )
        self.distance = distance
        self.power = power
        self._diameter = diameter

    @property
    def name(self) -> str:
        return getattr(self.distance, "__name__", type(self.distance).__name__)

    def __repr__(self) -> str:
        return brief_repr(self, distance=self.distance, power=self.power, diameter=self._diameter)

    def diameter(self, output_shape: tuple[int, ...], output_range: tuple[float, float] | None) -> float:
        return self._diameter

    def features(self, outputs: Tensor) -> Tensor:
        """The outputs in a type in which differences are right: half precision as float32, integers as int64.

        ``(a - b)**2`` of unsigned or narrow integers would wrap around.
        """
        if outputs.is_floating_point():
            return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        if outputs.dtype == torch.bool:
            return outputs
        largest = math.isqrt(2**_OWN_BITS // max(1, outputs[:1].numel()))
        require_small(outputs, largest, "have the model return float64")
        return outputs.long()

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """The function is called on distinct outputs only, as texts and boxes often repeat."""
        (a, row_of), (b, column_of) = distinct(a), distinct(b)
        columns = [self._column(a, row) for row in b]
        distances = torch.stack(columns, dim=1) if columns else a.new_zeros((len(a), 0))
        return distances[row_of][:, column_of]

    def _column(self, a: Tensor, row: Tensor) -> Tensor:
        try:
            distances = self.distance(a, row.expand_as(a))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [""])[0]
            raise RequestError(
                f"the distance '{self.name}' failed on two batches of shape {tuple(a.shape)}: "
                f"{type(error).__name__} {reason}"
            ) from error
        if not isinstance(distances, Tensor) or distances.shape != (len(a),):
            came = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
            raise RequestError(
                f"the distance '{self.name}' returned {came} for two batches of {len(a)} outputs: "
                f"expected one number a pair, shape ({len(a)},); look for a missing dim= or reduction='none'"
            )
        if distances.is_complex():
            raise RequestError(f"the distance '{self.name}' returned {distances.dtype}: expected real numbers")
        return distances if distances.is_floating_point() else distances.double()


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By their size in bytes."""


def distinct(outputs: Tensor) -> tuple[Tensor, Tensor | slice]:
    """The outputs without repetitions, ``(k, *out)``, and the indices that expand them again.

    Compared bit by bit, as a distance may tell -0 from 0.

    Examples
    --------
    >>> rows, indices = distinct(torch.tensor([[2.0], [1.0], [2.0]]))
    >>> len(rows), rows[indices].tolist()
    (2, [[2.0], [1.0], [2.0]])
    """
    if len(outputs) < 2 or outputs[0].numel() == 0:
        return outputs, slice(None)
    bits = outputs.view(_INTEGERS[outputs.element_size()]).reshape(len(outputs), -1)
    distinct, indices = torch.unique(bits, dim=0, return_inverse=True)
    if len(distinct) == len(outputs):
        return outputs, slice(None)
    positions = torch.arange(len(outputs), device=outputs.device)
    one_of_each = positions.new_empty(len(distinct)).scatter_(0, indices, positions)
    return outputs[one_of_each], indices


def require_metric(metric: Metric) -> None:
    """Refuse what is not a metric.

    Raises
    ------
    RequestError
    """
    if not isinstance(metric, Metric):
        raise RequestError(
            f"metric is {brief(metric)}: expected an instance such as L2(), or DistanceFunction(yours) around a "
            "function"
        )
