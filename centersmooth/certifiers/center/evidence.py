"""Draws at one input, reduced to what the rules of center smoothing read.

The draws that test the center are also the first of those that measure the radius: both are independent of the center,
which was chosen from other draws; each bound holds on its own, and their failure probabilities are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.bounds import EXACT, half_count
from centersmooth.certificate import Budget
from centersmooth.certifiers.center.measured import candidates_and_others
from centersmooth.certifiers.center.quantiles import QuantileTable
from centersmooth.certifiers.center.search import (
    BLOCK,
    BestCenter,
    CenterKind,
    best_candidate,
    free_center,
    least_median_center,
)
from centersmooth.certifiers.distances import DistanceBuffer, DistanceSample, kept_ranks, to_numpy
from centersmooth.gathering import Setting, Shared, features_in_blocks
from centersmooth.metrics.base import Metric, features_of, require_within_diameter

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class CenterEvidence:
    """Distances to the center of the draws at one input, under one metric.

    Attributes
    ----------
    center, base : Tensor, shape ``(*out)``
        The center, and the base model's output at the unperturbed input.
    error : float
        Their distance.
    r_center : float
        Median distance of the center to the sample it was chosen from.
    inside : int
        How many of ``n`` fresh draws are within ``r_center`` of the center.
    far : DistanceSample or None
        Distances of ``m`` fresh draws to the center; None where only an answer was asked for, or where the center is
        so bad that no bounds would accept it.
    candidates : QuantileTable or None
        Distances of the other outputs to the candidates for the center; None where only an answer was asked for.
    blocks : QuantileTable or None
        Distances of the outputs outside a block to its mean; of free centers only, and as `candidates`.
    """

    center: Tensor
    base: Tensor
    error: float
    r_center: float
    inside: int
    far: DistanceSample | None
    candidates: QuantileTable | None = None
    blocks: QuantileTable | None = None


class CenterCollector:
    """Outputs until the center is found, then distances of fresh ones to it; none where the center is no good.

    Metrics of one source (`Metric.source`) share features, centers and distances.
    """

    def __init__(self, metric: Metric, kind: CenterKind, setting: Setting, shared: Shared, radius: bool) -> None:
        self._metric, self._source, self._kind = metric, metric.source, kind
        self._budget, self._block, self._shared, self._radius = setting.budget, setting.forward_block, shared, radius
        self._range = setting.output_range
        fresh = self._budget.fresh_draws if radius else self._budget.n
        self._left = {"candidates": self._budget.n0, "center": self._budget.n, "fresh": fresh}
        self._outputs: list[Tensor] = []
        self._candidates: tuple[Tensor, Tensor] | None = None
        self._to_candidates = DistanceBuffer(self._budget.n)
        self._to_center = DistanceBuffer(fresh)
        self._sample: BestCenter | None = None
        self._center: BestCenter | None = None
        self._pilot = torch.zeros(0)
        self._hopeless = False

    def wants(self, stage: str) -> int:
        return 0 if stage == "fresh" and self._hopeless else self._left[stage]

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left[stage] -= len(outputs)
        if stage == "fresh":
            self._measure(outputs)
        elif stage == "center" and self._candidates is not None:
            self._compare(outputs, *self._candidates)
        else:
            self._outputs.append(outputs)
            if not self._left[stage]:
                self._gathered(stage)

    def compute(self, base: Tensor) -> CenterEvidence:
        center = _found(self._center)
        distances, n, m = to_numpy(self._source, self._to_center.values), self._budget.n, self._budget.m
        error = self._metric.pairwise(features_of(self._metric, base[None]), center.features)[:, 0]
        measured = self._radius and len(distances) >= self._budget.fresh_draws
        far = DistanceSample.of(self._own(distances[:m])) if measured else None
        if far is not None:
            require_within_diameter(self._metric, float(far.values[-1]), tuple(base.shape), self._range)
        return self._evidence(
            base,
            error=float(to_numpy(self._metric, error)[0]),
            inside=int((distances[:n] <= center.radius).sum()),
            far=far,
        )

    def foresee(self) -> Callable[[Budget], CenterEvidence]:
        """The evidence expected under a budget of any counts around an accepted center, from the sample's distances."""
        pilot = self._own(to_numpy(self._source, self._pilot))
        evidence = self._evidence(_found(self._center).output, error=0.0, inside=self._budget.n, far=None)

        def expected(budget: Budget) -> CenterEvidence:
            candidates, blocks = evidence.candidates, evidence.blocks
            return replace(
                evidence,
                inside=budget.n,
                far=DistanceSample.foreseen(pilot, budget.m, kept_ranks(budget.m)),
                candidates=None if candidates is None else candidates.foreseen(*candidates_and_others(budget)),
                blocks=None if blocks is None else blocks.foreseen(*candidates_and_others(budget, BLOCK)),
            )

        return expected

    def shorten(self, m: int) -> None:
        """Want the fresh draws of a budget with this ``m``."""
        self._budget = replace(self._budget, m=m)
        self._left["fresh"] = self._budget.fresh_draws
        self._to_center = DistanceBuffer(self._budget.fresh_draws)

    def _evidence(self, base: Tensor, *, error: float, inside: int, far: DistanceSample | None) -> CenterEvidence:
        center, sample = _found(self._center), _found(self._sample)
        return CenterEvidence(
            center=center.output,
            base=base,
            error=error,
            r_center=float(self._own(np.array([center.radius]))[0]),
            inside=inside,
            far=far,
            candidates=self._table(sample),
            blocks=self._table(center) if self._kind == "free" else None,
        )

    def _table(self, found: BestCenter) -> QuantileTable | None:
        return QuantileTable.of(self._own(found.nearest), found.others) if self._radius else None

    def _gathered(self, stage: str) -> None:
        """All outputs of a stage are there: candidates with their features, or the sample and its center."""
        outputs = self._shared.once("outputs", lambda: torch.cat(self._outputs))
        features = self._once("features", lambda: features_in_blocks(self._source, outputs, self._block))
        self._outputs = []
        if stage == "candidates":
            self._candidates = outputs, features
            return
        self._sample = self._once(
            "center", lambda: least_median_center(self._source, outputs, features, measured=self._radius)
        )
        self._center = sample = self._sample
        if self._kind == "free":
            find = partial(free_center, self._source, outputs, features, sample, self._block, measured=self._radius)
            self._center = self._once("free center", find)
        center = self._center.features
        self._pilot = self._once(f"to {self._kind} center", lambda: self._source.pairwise(features, center)[:, 0])

    def _compare(self, outputs: Tensor, candidates: Tensor, features: Tensor) -> None:
        """Distances of the sample to the candidates; after the last of them, the best candidate."""
        own = self._shared.features(self._source, outputs)
        self._to_candidates.add(self._once("to candidates", lambda: self._source.pairwise(own, features)))
        if not self._left["center"]:
            distances = self._to_candidates.values
            find = partial(best_candidate, self._source, candidates, features, distances, measured=self._radius)
            self._center = self._sample = self._once("center", find)
            medians = distances.kthvalue(half_count(len(distances)), dim=0).values
            self._pilot = distances[:, medians.argmin()].clone()
            self._candidates, self._to_candidates = None, DistanceBuffer(0)

    def _measure(self, outputs: Tensor) -> None:
        """Distances of fresh draws; after ``n`` of them, whether the center is worth more."""
        center, before = _found(self._center), self._to_center.count
        own = self._shared.features(self._source, outputs)
        key = f"to {self._kind} center, {len(outputs)}"
        self._to_center.add(self._once(key, lambda: self._source.pairwise(own, center.features)[:, 0]))
        if before < self._budget.n <= self._to_center.count:
            inside = int((self._to_center.values[: self._budget.n] <= center.radius).sum())
            self._hopeless = not self._budget.accepts_center(inside, EXACT)

    def _own(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distances of the metric from those of its source."""
        return self._metric.from_source(torch.from_numpy(values)).numpy()

    def _once(self, what: str, compute: Callable[[], _Value]) -> _Value:
        return self._shared.once((what, self._source), compute)


def _found(center: BestCenter | None) -> BestCenter:
    if center is None:
        raise ValueError("there is no center yet: expected all draws of the stages before")
    return center
