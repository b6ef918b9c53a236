"""The mean of the noisy outputs as a certifier; `centersmooth.certifiers.expectation` has the bounds behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from centersmooth.certificate import Certificate, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.distances import DistanceBuffer, DistanceSample, to_numpy
from centersmooth.certifiers.expectation import (
    MEAN_RULES,
    MeanEvidence,
    band_ranks,
    mean_certificate,
    mean_problem,
    reach,
)
from centersmooth.contracts.metrics import check_own_metric, check_seminorm
from centersmooth.errors import RequestError
from centersmooth.gathering import Setting, Shared
from centersmooth.metrics.base import Metric, between, features_of, require_metric


@dataclass(frozen=True)
class Mean(Certifier):
    """The mean of the noisy outputs, for metrics with a `Metric.seminorm` and outputs of a declared range.

    Parameters
    ----------
    metric : Metric
        l1, l2, total variation, or one of your own with a ``seminorm``.
    """

    metric: Metric

    name: ClassVar[str] = "mean"
    rules: ClassVar[tuple[str, ...]] = MEAN_RULES
    evidence: ClassVar[type] = MeanEvidence

    def __post_init__(self) -> None:
        require_metric(self.metric)

    def unsuited(self, setting: Setting) -> str:
        return mean_problem(self.metric, setting.noise, setting.budget, setting.output_range)

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        return ""

    def check(self, setting: Setting, outputs: Tensor) -> None:
        features_of(self.metric, outputs)
        check_own_metric(self.metric, outputs)
        check_seminorm(self.metric, outputs, _range(setting))

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> MeanCollector:
        return MeanCollector(self.metric, setting, shared, radius)

    def answer(self, evidence: MeanEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(evidence.center, False, evidence.base, evidence.error)

    def certificate(self, evidence: MeanEvidence, eps: float, rule: str, setting: Setting) -> Certificate:
        return mean_certificate(evidence, eps, rule, self.metric, setting)

    def distance(self, a: Tensor, b: Tensor) -> float:
        return between(self.metric, a, b)

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        features = features_of(self.metric, answer[None].double())

        def of_mean(outputs: Tensor) -> Tensor:
            mean = features_of(self.metric, outputs.double().mean(0, keepdim=True))
            return self.metric.pairwise(mean, features)[:, 0]

        return of_mean


class MeanCollector:
    """Sums of outputs; of fresh ones also their distances to the reference, the mean of the ``n`` before them.

    The reference is rounded to the type of the outputs: any would do that is independent of the fresh draws.
    """

    def __init__(self, metric: Metric, setting: Setting, shared: Shared, radius: bool) -> None:
        budget = setting.budget
        self._metric, self._setting, self._shared = metric, setting, shared
        self._left = {"candidates": 0, "center": budget.n, "fresh": budget.m if radius else 0}
        self._sums: dict[str, Tensor] = {}
        self._distances = DistanceBuffer(budget.m)
        self._features: Tensor | None = None

    def wants(self, stage: str) -> int:
        return self._left[stage]

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left[stage] -= len(outputs)
        if stage == "fresh":
            self._measure(outputs)
        total = self._shared.once(("sum", len(outputs)), lambda: outputs.double().sum(0))
        self._sums[stage] = self._sums[stage] + total if stage in self._sums else total

    def compute(self, base: Tensor) -> MeanEvidence:
        budget = self._setting.budget
        if "fresh" not in self._sums:
            center = self._sums["center"] / budget.n
            return MeanEvidence(center, base, self._error(base, center), None, None)
        center, reference = self._sums["fresh"] / budget.m, self._to_reference(base)
        return MeanEvidence(
            center=center,
            base=base,
            error=self._error(base, center),
            distances=_of_band(to_numpy(self._metric, self._distances.values)),
            reach=reach(self._metric, reference, _range(self._setting)),
        )

    def _measure(self, outputs: Tensor) -> None:
        if self._features is None:
            self._features = features_of(self._metric, self._to_reference(outputs)[None])
        own = self._shared.features(self._metric, outputs)
        self._distances.add(self._metric.pairwise(own, self._features)[:, 0])

    def _to_reference(self, like: Tensor) -> Tensor:
        mean = self._sums["center"] / self._setting.budget.n
        return mean.to(torch.promote_types(like.dtype, torch.float32))

    def _error(self, base: Tensor, center: Tensor) -> float:
        features = (features_of(self._metric, one[None].double()) for one in (base, center))
        return float(self._metric.pairwise(*features))


def _of_band(distances: np.ndarray) -> DistanceSample:
    """Order statistics of the ranks the band has."""
    ranks = band_ranks(len(distances))
    return DistanceSample(len(distances), ranks, np.sort(distances)[ranks - 1])


def _range(setting: Setting) -> tuple[float, float]:
    if setting.output_range is None:
        raise RequestError("output_range is None: a mean needs hard limits of every output, such as (0.0, 1.0)")
    return setting.output_range
