"""The direction of the mean direction of the noisy outputs: for the angular and the cosine distance.

The direction of an output ``y`` is ``y / ||y||``, and 0 for the zero output. The smoothed model answers with an output
in the direction of their mean. Its length does not matter to these distances, so no range has to be declared.

Let ``c`` be the mean direction of the fresh draws at ``x`` and ``rho = ||c||``. If a run at ``x'`` has a mean direction
within ``R < rho`` of ``c``, then the angle between the two is at most ``asin(R / rho)``, under which the ball of radius
``R`` around ``c`` is seen from the origin. So the angular distance of the answers is at most ``asin(R / rho) / pi``,
their cosine distance ``1 - sqrt(1 - (R / rho)^2)``. Where ``R >= rho`` nothing is known. ``R`` is the bound of
`centersmooth.certifiers.mean` for l2 on directions, which lie in the unit ball: their reach is ``1 + ||reference||``,
and ``sqrt(1 + ||reference||^2)`` where no output coordinate is negative.

Proof in ``docs/guarantee.md``, section 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from centersmooth.certificate import Budget, Certificate, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.mean import MEAN_RULES, Mean, MeanEvidence
from centersmooth.checks import an_integer
from centersmooth.errors import RequestError
from centersmooth.gathering import Setting, Shared
from centersmooth.metrics import L2, Angular, Cosine
from centersmooth.metrics.base import Metric, between, features_of, require_metric


@dataclass(frozen=True)
class DirectionEvidence:
    """Summary of the draws at one input around their mean direction.

    Attributes
    ----------
    center : Tensor, shape ``(*out)``, float64
        An output in the mean direction.
    base : Tensor, shape ``(*out)``
        The base model's output at the unperturbed input.
    error : float
        Their distance.
    directions : MeanEvidence
        Evidence of the mean of the directions, ``(D,)``, under l2.
    """

    center: Tensor
    base: Tensor
    error: float
    directions: MeanEvidence


@dataclass(frozen=True)
class Direction(Certifier):
    """The direction of the mean direction of the noisy outputs, for floating-point outputs of any range.

    Parameters
    ----------
    metric : Angular or Cosine
    n : int, optional
        Draws of an answer; by default the budget's, which is meant for centers, whose search takes its square.
    """

    metric: Metric
    n: int | None = None

    name: ClassVar[str] = "direction"
    rules: ClassVar[tuple[str, ...]] = MEAN_RULES
    evidence: ClassVar[type] = DirectionEvidence

    def __post_init__(self) -> None:
        require_metric(self.metric)
        if self.n is not None:
            object.__setattr__(self, "n", an_integer("n of the direction", self.n, 1))

    @property
    def _mean(self) -> Mean:
        """The mean of the directions."""
        return Mean(L2(), self.n)

    def unsuited(self, setting: Setting) -> str:
        if type(self.metric) not in (Angular, Cosine):  # one that inherits from them may be any other distance
            return f"{self.metric.name} does not compare directions: expected Angular() or Cosine()"
        return self._mean.unsuited(_of_directions(setting))

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        return ""

    def check(self, setting: Setting, outputs: Tensor) -> None:
        features_of(self.metric, outputs)
        if not outputs.is_floating_point():
            raise RequestError(
                f"outputs are {outputs.dtype}: expected floating-point ones, between which directions lie"
            )

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> DirectionCollector:
        return DirectionCollector(self.metric, self._mean, setting, shared, radius)

    def answer(self, evidence: DirectionEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(evidence.center, False, evidence.base, evidence.error)

    def certificate(self, evidence: DirectionEvidence, eps: float, rule: str, setting: Setting) -> Certificate:
        widest = math.sqrt(2) if _nonnegative(setting) else 2.0
        bound, reason = self._mean.bound(evidence.directions, eps, rule, widest, _of_directions(setting))
        rho = float(evidence.directions.center.norm())
        diameter = self.metric.diameter(tuple(evidence.center.shape), setting.output_range)
        distance = self._at_sine(bound / rho) if bound < rho else diameter
        return self.certified(eps, rule, evidence.center, distance, diameter, setting, reason)

    def _at_sine(self, sine: float) -> float:
        """The distance between directions at an acute angle with this sine."""
        if isinstance(self.metric, Angular):
            return math.asin(sine) / math.pi
        return sine**2 / (1 + math.sqrt(1 - sine**2))  # 1 - sqrt(1 - sine^2) without cancellation

    def distance(self, a: Tensor, b: Tensor) -> float:
        return between(self.metric, a, b)

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        features = features_of(self.metric, answer[None].double())

        def of_mean(outputs: Tensor) -> Tensor:
            mean = directions_of(outputs).mean(0, keepdim=True)
            return self.metric.pairwise(features_of(self.metric, mean), features)[:, 0]

        return of_mean


class DirectionCollector:
    """A collector of the mean of directions, and of the mean length of outputs, which an answer is given."""

    def __init__(self, metric: Metric, mean: Mean, setting: Setting, shared: Shared, radius: bool) -> None:
        self._metric, self._setting, self._shared = metric, setting, shared
        self._shared_of_directions = Shared()  # what the others share is of outputs
        self._mean = mean.collector(_of_directions(setting), self._shared_of_directions, radius=radius)
        self._lengths = self._count = 0.0

    def wants(self, stage: str) -> int:
        return self._mean.wants(stage)

    def update(self, stage: str, outputs: Tensor) -> None:
        self._shared_of_directions.forget()
        directions = self._shared.once(("directions", len(outputs)), lambda: directions_of(outputs))
        self._mean.update(stage, directions)
        self._lengths += float(outputs.double().reshape(len(outputs), -1).norm(dim=1).sum())
        self._count += len(outputs)

    def compute(self, base: Tensor) -> DirectionEvidence:
        found = self._with_reach(self._mean.compute(directions_of(base[None])[0]))
        center = _output(found.center, self._lengths / self._count, self._setting.output_range).reshape(base.shape)
        return DirectionEvidence(center, base, between(self._metric, base.double(), center), found)

    def foresee(self) -> Callable[[Budget], DirectionEvidence]:
        """The evidence expected under a budget of any counts, with the reference for a center."""
        directions = self._mean.foresee()

        def evidence(budget: Budget) -> DirectionEvidence:
            found = self._with_reach(directions(budget))
            return DirectionEvidence(found.center, found.base, found.error, found)

        return evidence

    def shorten(self, m: int) -> None:
        """Want ``m`` fresh draws."""
        self._mean.shorten(m)

    def _with_reach(self, found: MeanEvidence) -> MeanEvidence:
        if found.reach is None:  # no radius is asked for
            return found
        return replace(found, reach=_reach(float(self._mean.reference.norm()), self._setting))


def directions_of(outputs: Tensor) -> Tensor:
    """Outputs scaled to length 1, ``(b, *out) -> (b, D)`` in float64; a zero output stays 0.

    The features of `Cosine` without their last coordinate. In that one zero outputs would pull the mean away from the
    origin, and away from all answers.
    """
    return features_of(Cosine(), outputs)[:, :-1]


def _reach(reference: float, setting: Setting) -> float:
    """The largest distance of a direction to a reference of this length."""
    return math.hypot(1, reference) if _nonnegative(setting) else 1 + reference


def _output(mean: Tensor, length: float, output_range: tuple[float, float] | None) -> Tensor:
    """The mean direction as an output of this length, or the nearest length that keeps it in the range.

    Clipping would turn it. There is a length for every range: where all entries have one sign, none is more than ``high
    / low`` times another in any output, and so it is in a mean of directions.
    """
    norm = float(mean.norm())
    if norm == 0:
        return mean
    factor = min(max(length, 1e-100), 1e100) / norm  # beyond these, entries would lose digits
    low, high = output_range or (-math.inf, math.inf)
    least, largest = float(mean.min()), float(mean.max())
    if low > 0:
        factor = max(factor, low / least)
    if high < 0:
        factor = max(factor, high / largest)
    if largest > 0:
        factor = min(factor, high / largest)
    if least < 0:
        factor = min(factor, low / least)
    return (mean * factor).clamp(low, high)  # which mends a last digit


def _nonnegative(setting: Setting) -> bool:
    """True if no output coordinate can be negative."""
    return setting.output_range is not None and setting.output_range[0] >= 0


def _of_directions(setting: Setting) -> Setting:
    """The setting of the mean of the directions, whose entries are within [-1, 1]."""
    return replace(setting, output_range=(-1.0, 1.0))
