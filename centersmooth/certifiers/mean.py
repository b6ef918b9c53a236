"""The mean of the noisy outputs as a certifier; `.expectation` and `.spectral` have the bounds behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal

import numpy as np
import torch
from torch import Tensor

from centersmooth.certificate import Budget, Certificate, Smoothed
from centersmooth.certifiers.ball import OutputBall
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.center.rules import ROUNDING
from centersmooth.certifiers.distances import DistanceBuffer, DistanceSample, to_numpy
from centersmooth.certifiers.expectation import (
    Band,
    band_ranks,
    estimation_error,
    global_movement,
    local_movement,
    mean_problem,
    reach,
)
from centersmooth.certifiers.spectral import (
    PILOT,
    Directions,
    DirectionsCollector,
    expected_square,
    spectral_movement,
)
from centersmooth.checks import an_integer
from centersmooth.contracts import check_own_metric, check_seminorm
from centersmooth.errors import RequestError
from centersmooth.gathering import Setting, Shared
from centersmooth.metrics.base import Metric, between, features_of, require_metric
from centersmooth.noise import GaussianShift
from centersmooth.outputs import brief

MeanRule = Literal["global", "local", "spectral"]

MEAN_RULES: Final[tuple[MeanRule, ...]] = ("global", "local", "spectral")
"""How the movement of the mean is bounded: for every model alike, from distances at ``x``, or from directions too."""


@dataclass(frozen=True)
class MeanEvidence:
    """Summary of the draws at one input around their mean, under one metric.

    Attributes
    ----------
    center : Tensor, shape ``(*out)``, float64
        Mean of ``m`` fresh draws.
    base : Tensor, shape ``(*out)``
        The base model's output at the unperturbed input.
    error : float
        Their distance.
    distances : DistanceSample or None
        Distances of the fresh draws to the reference, of the ranks `band_ranks`; None where only an answer was asked
        for, whose center is the mean of ``n`` draws.
    reach : float or None
        The largest distance of any output in the declared range to the reference.
    directions : Directions or None
        Second moments of the fresh outputs around the reference.
    """

    center: Tensor
    base: Tensor
    error: float
    distances: DistanceSample | None
    reach: float | None
    directions: Directions | None = None


@dataclass(frozen=True)
class Mean(Certifier):
    """The mean of the noisy outputs, for metrics with a `Metric.seminorm` and outputs of a declared range.

    Parameters
    ----------
    metric : Metric
        l1, l2, total variation, or one of your own with a ``seminorm``.
    n : int, optional
        Draws of an answer; by default the budget's, which is meant for centers, whose search takes its square.
    ball : OutputBall, optional
        Outputs are moved into it before their mean is taken: another smoothed model, with smaller certificates the
        smaller it is.
    """

    metric: Metric
    n: int | None = None
    ball: OutputBall | None = None

    name: ClassVar[str] = "mean"
    version: ClassVar[int] = 2
    rules: ClassVar[tuple[str, ...]] = MEAN_RULES
    evidence: ClassVar[type] = MeanEvidence

    def __post_init__(self) -> None:
        require_metric(self.metric)
        if self.n is not None:
            object.__setattr__(self, "n", an_integer("n of the mean", self.n, 1))
        if self.ball is not None and not isinstance(self.ball, OutputBall):
            raise RequestError(f"ball is {brief(self.ball)}: expected OutputBall(center, radius), or None")

    def unsuited(self, setting: Setting) -> str:
        return mean_problem(self.metric, setting.noise, setting.budget, setting.output_range)

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        return ""

    def check(self, setting: Setting, outputs: Tensor) -> None:
        features_of(self.metric, outputs)
        check_own_metric(self.metric, outputs, setting.output_range)
        check_seminorm(self.metric, outputs, _range(setting))
        if self.ball is not None:
            self.ball.check(outputs, _range(setting))

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> MeanCollector:
        return MeanCollector(self.metric, self._draws(setting), setting, shared, radius, self.ball)

    def answer(self, evidence: MeanEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(evidence.center, False, evidence.base, evidence.error)

    def certificate(self, evidence: MeanEvidence, eps: float, rule: str, setting: Setting) -> Certificate:
        diameter = self.metric.diameter(tuple(evidence.center.shape), _range(setting))
        diameter = diameter if self.ball is None else min(diameter, self.ball.diameter)
        bound, reason = self.bound(evidence, eps, rule, diameter, setting)
        return self.certified(eps, rule, evidence.center, bound, diameter, setting, reason)

    def bound(
        self, evidence: MeanEvidence, eps: float, rule: str, diameter: float, setting: Setting
    ) -> tuple[float, str]:
        """The largest distance of a run's mean within ``eps`` from the center, and why it is as for any model, if so.

        Parameters
        ----------
        diameter : float
            The largest distance between two outputs.

        Raises
        ------
        RequestError
            ``eps`` is not a radius.
        """
        noise = setting.noise
        if not isinstance(noise, GaussianShift):
            raise ValueError(self.unsuited(setting))
        if rule == "spectral" and evidence.directions is None:
            raise ValueError(_NO_RADIUS)
        h = noise.shift(eps)
        everywhere = global_movement(diameter, h)
        movement, here, there = self._terms(evidence, h, rule, setting)
        bound = (min(movement, everywhere) + here + there) * (1 + ROUNDING)
        if rule == "global" or not 0 < everywhere <= movement:
            return bound, ""
        m = setting.budget.m
        return bound, f"the movement is bounded as for any model: m = {m} draws tell too little at eps = {eps:g}"

    def _terms(self, evidence: MeanEvidence, h: float, rule: str, setting: Setting) -> tuple[float, float, float]:
        """Bounds on the movement (none for ``global``), on the error of the center and on that of a run at ``x'``.

        Half of ``alpha2`` is for the band. The other half is for the center; under the rule ``spectral`` center, second
        moments and, in l1, weighted norms have equal parts of it.
        """
        budget, band = setting.budget, _band(evidence, setting.budget.alpha2 / 2)
        directions = evidence.directions if rule == "spectral" else None
        weighted = directions.weighted if directions else None
        alpha = budget.alpha2 / 2 / (1 + (directions is not None) + (weighted is not None))
        sides = self._sides(evidence, setting)

        def error(shift: float, count: int, alpha_of_mean: float) -> float:
            square = math.inf if weighted is None else expected_square(weighted, shift, alpha)
            return estimation_error(band, shift, count, alpha_of_mean, self.metric, square, sides)

        errors = error(0.0, budget.m, alpha), error(h, self._draws(setting), budget.alpha1)
        if rule == "global":
            return math.inf, *errors
        movement = spectral_movement(band, directions, h, alpha) if directions else local_movement(band, h)
        return movement, *errors

    def _sides(self, evidence: MeanEvidence, setting: Setting) -> float | None:
        """Sum over features of the farthest that each can be from the reference's; None where the reach is that.

        The reach of a ball is not: a point of an l1 ball may be its whole radius away in any one of the features. The
        center is the mean of the fresh draws, so no farther from the reference than the farthest of them.
        """
        if self.ball is None or evidence.distances is None:
            return None
        farthest = float(evidence.distances.values[-1])
        return (reach(self.metric, evidence.center, _range(setting)) + farthest) * (1 + ROUNDING)

    def _draws(self, setting: Setting) -> int:
        """Draws of an answer."""
        return self.n if self.n is not None else setting.budget.n

    def distance(self, a: Tensor, b: Tensor) -> float:
        return between(self.metric, a, b)

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        features = features_of(self.metric, answer[None].double())

        def of_mean(outputs: Tensor) -> Tensor:
            outputs = outputs if self.ball is None else self.ball.clip(self.metric, outputs)
            mean = features_of(self.metric, outputs.double().mean(0, keepdim=True))
            return self.metric.pairwise(mean, features)[:, 0]

        return of_mean


class MeanCollector:
    """Sums of outputs; of fresh ones also their distances to the reference, the mean of the ``n`` before them.

    The reference is rounded to the type of the outputs: any would do that is independent of the fresh draws.
    """

    def __init__(
        self, metric: Metric, n: int, setting: Setting, shared: Shared, radius: bool, ball: OutputBall | None = None
    ) -> None:
        budget = setting.budget
        self._metric, self._n, self._setting, self._ball = metric, n, setting, ball
        self._shared = shared if ball is None else Shared()  # others do not have these outputs
        self._left = {"candidates": 0, "center": n, "fresh": budget.m if radius else 0}
        self._pilot: list[Tensor] = []
        self._pilot_left = PILOT if radius else 0
        self._directions: DirectionsCollector | None = None
        self._sums: dict[str, Tensor] = {}
        self._distances = DistanceBuffer(budget.m)
        self._features: Tensor | None = None
        self._dtype = torch.float32

    def wants(self, stage: str) -> int:
        return self._left[stage]

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left[stage] -= len(outputs)
        self._dtype = torch.promote_types(outputs.dtype, torch.float32)
        if self._ball is not None:
            self._shared.forget()
            outputs = self._ball.clip(self._metric, outputs)
        if stage == "fresh":
            self._measure(outputs)
        elif self._pilot_left:
            features = self._shared.features(self._metric, outputs[: self._pilot_left])
            self._pilot.append(features)
            self._pilot_left -= len(features)
        total = self._shared.once(("sum", len(outputs)), lambda: outputs.double().sum(0))
        self._sums[stage] = self._sums[stage] + total if stage in self._sums else total

    def compute(self, base: Tensor) -> MeanEvidence:
        budget = self._setting.budget
        if "fresh" not in self._sums:
            center = self._sums["center"] / self._n
            return MeanEvidence(center, base, self._error(base, center), None, None)
        center, reference = self._sums["fresh"] / budget.m, self._to_reference()
        return MeanEvidence(
            center=center,
            base=base,
            error=self._error(base, center),
            distances=_of_band(to_numpy(self._metric, self._distances.values)),
            reach=self._reach(reference),
            directions=self._directions.compute(self._metric, _range(self._setting)) if self._directions else None,
        )

    def foresee(self) -> Callable[[Budget], MeanEvidence]:
        """The evidence expected under a budget of any ``m``, from the first draws of the reference.

        Of the ``n`` draws of an answer it is told by the setting of a certificate.
        """
        metric, output_range = self._metric, _range(self._setting)
        reference, pilot = self._to_reference(), torch.cat(self._pilot)
        features = features_of(metric, reference[None])
        distances = to_numpy(metric, metric.pairwise(pilot, features)[:, 0])
        farthest = self._reach(reference)
        seen = DirectionsCollector(metric, pilot, features, len(pilot))
        seen.update(pilot, metric.pairwise(pilot, features)[:, 0])
        directions = seen.foresee(metric, output_range)

        def evidence(budget: Budget) -> MeanEvidence:
            sample = DistanceSample.foreseen(distances, budget.m, band_ranks(budget.m), farthest)
            return MeanEvidence(self.reference, self.reference, 0.0, sample, farthest, directions(budget.m))

        return evidence

    def shorten(self, m: int) -> None:
        """Want ``m`` fresh draws."""
        self._setting = replace(self._setting, budget=replace(self._setting.budget, m=m))
        self._left["fresh"] = m
        self._distances = DistanceBuffer(m)

    def _measure(self, outputs: Tensor) -> None:
        if self._features is None or self._directions is None:
            self._features = features_of(self._metric, self._to_reference()[None])
            pilot, draws = torch.cat(self._pilot), self._setting.budget.m
            self._directions = DirectionsCollector(self._metric, pilot, self._features, draws)
            self._pilot.clear()
        features = self._shared.features(self._metric, outputs)
        distances = self._metric.pairwise(features, self._features)[:, 0]
        self._distances.add(distances)
        self._directions.update(features, distances)

    @property
    def reference(self) -> Tensor:
        """The mean of the draws before the fresh ones, around which those are measured."""
        return self._sums["center"] / self._n

    def _reach(self, reference: Tensor) -> float:
        """The largest distance to the reference that an output can have."""
        farthest = reach(self._metric, reference, _range(self._setting))
        return farthest if self._ball is None else min(farthest, self._ball.reach(self._metric, reference))

    def _to_reference(self) -> Tensor:
        return self.reference.to(self._dtype)

    def _error(self, base: Tensor, center: Tensor) -> float:
        features = (features_of(self._metric, one[None].double()) for one in (base, center))
        return float(self._metric.pairwise(*features))


_NO_RADIUS = "there is no radius: expected evidence gathered with one"


def _band(evidence: MeanEvidence, alpha: float) -> Band:
    if evidence.distances is None or evidence.reach is None:
        raise ValueError(_NO_RADIUS)
    return Band.of(evidence.distances, evidence.reach, alpha)


def _of_band(distances: np.ndarray) -> DistanceSample:
    """Order statistics of the ranks the band has."""
    ranks = band_ranks(len(distances))
    return DistanceSample(len(distances), ranks, np.sort(distances)[ranks - 1])


def _range(setting: Setting) -> tuple[float, float]:
    if setting.output_range is None:
        raise RequestError("output_range is None: a mean needs hard limits of every output, such as (0.0, 1.0)")
    return setting.output_range
