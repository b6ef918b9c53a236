"""The output nearest to the mean feature of its sample, for functions of an l2 distance between features.

The metric is ``d = of_l2(e)``, ``e`` the l2 distance of bounded features (`Hilbertian`). A run at ``x`` draws ``n``
outputs and answers with the one whose features are nearest to their mean: an output of the model, unlike the mean
itself. That takes ``n`` distances where the search for a center takes ``n^2``, and it never abstains.

**Certificate.** Let ``m`` be the mean feature of the ``n`` draws at ``x``, ``c`` the output nearest to it, ``m'`` and
``c'`` those of a run at ``x'``. If ``||m - m'|| <= Delta``, and one of the ``n`` draws at ``x'`` is within ``t`` of
``m``, then that draw is within ``t + Delta`` of ``m'``, hence so is ``c'``, and

    ``e(c, c') <= e(c, m) + ||m - m'|| + e(m', c') <= e(c, m) + t + 2 Delta``.

``e(c, m)`` is seen. Fresh draws at ``x``, as many as the budget's ``m``, bound the rest:

- ``t``: the ball of radius ``t`` around ``m`` has mass at least ``S_h(p)`` at ``x``, so at least ``p`` at ``x'``, and
  ``n`` draws miss it with probability ``(1 - p)^n = alpha1/2``. It is a low quantile of the distances to ``m``.
- ``Delta``: from ``m`` to the mean of the fresh draws (seen), its error, the movement of the expectation, and the error
  of ``m'``, which fails with probability ``alpha1/2``; see `.expectation` and `.spectral`.

Half of ``alpha2`` is spent on the band of the distances, a sixth each on the second moments, the fresh mean and ``t``.
``docs/guarantee.md`` has the proof at length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from centersmooth.bounds import EXACT
from centersmooth.certificate import Budget, Certificate, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.center.quantiles import place_ranks
from centersmooth.certifiers.center.rules import ROUNDING
from centersmooth.certifiers.distances import DistanceBuffer, DistanceSample, to_numpy
from centersmooth.certifiers.expectation import Band, band_ranks, estimation_error, global_movement
from centersmooth.certifiers.spectral import PILOT, Directions, DirectionsCollector, spectral_movement
from centersmooth.contracts.metrics import check_hilbertian, check_own_metric
from centersmooth.errors import RequestError
from centersmooth.gathering import Setting, Shared
from centersmooth.metrics import L2
from centersmooth.metrics.base import Hilbertian, Metric, between, features_of, require_metric, require_within_diameter
from centersmooth.noise import GaussianShift, Noise

_L2, _UNLIMITED = L2(), (-math.inf, math.inf)


@dataclass(frozen=True)
class FreshDraws:
    """Features of the fresh draws at one input around the mean feature of the draws before them.

    Attributes
    ----------
    offset : float
        Distance of their mean to that mean.
    reach : float
        The largest distance of any output's features to that mean.
    distances : DistanceSample
        Distances to that mean, of the ranks `band_ranks`.
    near : DistanceSample
        The same distances, of the ranks `place_ranks`.
    directions : Directions
        Second moments.
    """

    offset: float
    reach: float
    distances: DistanceSample
    near: DistanceSample
    directions: Directions


@dataclass(frozen=True)
class NearestEvidence:
    """Summary of the draws at one input around their mean feature.

    Attributes
    ----------
    center, base : Tensor, shape ``(*out)``
        The output nearest to the mean feature, and the base model's output at the unperturbed input.
    error : float
        Their distance under the metric.
    r_center : float
        The l2 distance of the center's features to the mean feature.
    fresh : FreshDraws or None
        None where only an answer was asked for.
    """

    center: Tensor
    base: Tensor
    error: float
    r_center: float
    fresh: FreshDraws | None


@dataclass(frozen=True)
class Nearest(Certifier):
    """The output nearest to the mean feature of the noisy outputs, one of a sample.

    Features of the sample are computed twice, first for their mean and then for the distances to it, so that only the
    outputs are kept; those of up to 1,000 draws once more where a number of fresh draws is chosen by them. The budget's
    ``delta`` and ``n0`` play no part.

    Parameters
    ----------
    metric : Metric
        A `Hilbertian` one: l2, squared l2, cosine, angular, LPIPS, or your own.
    """

    metric: Metric

    name: ClassVar[str] = "center_nearest"
    rules: ClassVar[tuple[str, ...]] = ("nearest",)
    evidence: ClassVar[type] = NearestEvidence

    def __post_init__(self) -> None:
        require_metric(self.metric)

    def unsuited(self, setting: Setting) -> str:
        if not isinstance(self.metric, Hilbertian):
            return f"{self.metric!r} is not Hilbertian, a function of the l2 distance of features like L2(): use Center"
        if not isinstance(setting.noise, GaussianShift):
            return f"noise is {setting.noise!r}: the movement of a mean is bounded for Gaussian noise only"
        if math.isinf(self.metric.diameter((1,), setting.output_range)):
            return (
                f"output_range is {setting.output_range}: a mean under {self.metric!r} needs hard limits of every "
                "output, such as (0.0, 1.0)"
            )
        return ""

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        return ""

    def check(self, setting: Setting, outputs: Tensor) -> None:
        features_of(self.metric, outputs)
        check_own_metric(self.metric, outputs, setting.output_range)
        check_hilbertian(self._metric, outputs, setting.output_range)

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> NearestCollector:
        return NearestCollector(self._metric, setting, shared, radius)

    def answer(self, evidence: NearestEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(evidence.center, False, evidence.base, evidence.error)

    def certificate(self, evidence: NearestEvidence, eps: float, rule: str, setting: Setting) -> Certificate:
        noise, budget = setting.noise, setting.budget
        diameter = self.metric.diameter(tuple(evidence.center.shape), setting.output_range)
        bound = self._l2_bound(evidence, eps, self._metric.to_l2(diameter), noise, budget) * (1 + ROUNDING)
        distance = float(self._metric.of_l2(torch.tensor(bound, dtype=torch.float64)))
        return self.certified(eps, rule, evidence.center, distance, diameter, setting)

    def _l2_bound(self, evidence: NearestEvidence, eps: float, diameter: float, noise: Noise, budget: Budget) -> float:
        """The largest l2 distance between the features of the center and those of a run's answer within ``eps``."""
        fresh = evidence.fresh
        if fresh is None or not isinstance(noise, GaussianShift):
            raise ValueError("there is no radius: expected Gaussian noise, and evidence gathered with a radius")
        mass = noise.required_mass(least_seen_mass(budget.n, budget.alpha1 / 2), eps)  # refuses a bad eps
        rank = EXACT.upper_rank(budget.m, mass, budget.alpha2 / 6)
        near = fresh.reach if rank is None else fresh.near.at_rank(rank)

        h, band = noise.shift(eps), Band.of(fresh.distances, fresh.reach, budget.alpha2 / 2)
        movement = spectral_movement(band, fresh.directions, h, budget.alpha2 / 6)
        movement = min(movement, global_movement(diameter, h))
        here = estimation_error(band, 0.0, budget.m, budget.alpha2 / 6, _L2)
        there = estimation_error(band, h, budget.n, budget.alpha1 / 2, _L2)
        return evidence.r_center + near + 2 * (fresh.offset + here + movement + there)

    @property
    def _metric(self) -> Hilbertian:
        """The metric; `unsuited` refuses others."""
        if not isinstance(self.metric, Hilbertian):
            raise RequestError(f"{self.metric!r} is not Hilbertian, a function of the l2 distance of features")
        return self.metric

    def distance(self, a: Tensor, b: Tensor) -> float:
        return between(self.metric, a, b)

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        features = features_of(self.metric, answer[None])
        return lambda outputs: self.metric.pairwise(features_of(self.metric, outputs), features)[:, 0]


def least_seen_mass(n: int, alpha: float) -> float:
    """The mass of which ``n`` draws see something with probability ``>= 1 - alpha``: ``1 - alpha^(1/n)``, rounded up.

    Examples
    --------
    >>> round(least_seen_mass(1, 0.01), 9), round(least_seen_mass(10_000, 0.0025), 6)
    (0.99, 0.000599)
    """
    return min(1.0, -math.expm1(math.log(alpha) / n) * (1 + 1e-12))


class NearestCollector:
    """Outputs until the one nearest to their mean is found, then distances and second moments of fresh ones.

    Metrics of one source share features.
    """

    def __init__(self, metric: Hilbertian, setting: Setting, shared: Shared, radius: bool) -> None:
        self._metric, self._setting, self._shared = metric, setting, shared
        self._n, self._m = setting.budget.n, setting.budget.m
        self._left = {"candidates": 0, "center": self._n, "fresh": self._m if radius else 0}
        self._outputs: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}
        self._center: Tensor | None = None
        self._r_center = math.inf
        self._of_sample, self._farthest = np.zeros(0), torch.zeros(0)
        self._distances = DistanceBuffer(self._m)
        self._directions: DirectionsCollector | None = None

    def wants(self, stage: str) -> int:
        return self._left[stage]

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left[stage] -= len(outputs)
        features = self._shared.features(self._metric.source, outputs)
        total = features.double().sum(0)
        self._sums[stage] = self._sums[stage] + total if stage in self._sums else total
        if stage == "center":
            self._outputs.append(outputs)
            if not self._left[stage]:
                self._choose()
        else:
            if self._directions is None:
                self._directions, self._outputs = self._second_moments(self._m), []
            distances = _distances(features, self._mean)
            self._distances.add(distances)
            self._directions.update(features, distances)

    def compute(self, base: Tensor) -> NearestEvidence:
        if self._center is None:
            raise ValueError("there is no center yet: expected all draws of the stages before")
        error = between(self._metric, base, self._center)
        fresh = None if "fresh" not in self._sums else self._of_fresh()
        if fresh is not None:  # the mean is within the hull of the outputs' features
            farthest = float(self._metric.of_l2(torch.tensor(fresh.distances.values[-1])))
            require_within_diameter(self._metric, farthest, tuple(base.shape), self._setting.output_range)
        return NearestEvidence(self._center, base, error, self._r_center, fresh)

    def foresee(self) -> Callable[[Budget], NearestEvidence]:
        """The evidence expected under a budget of any counts, from distances and directions of the sample."""
        center, mean, distances = self._center, self._mean, self._of_sample
        if center is None:
            raise ValueError("there is no center yet: expected all draws of the stages before")
        farthest = self._metric.feature_reach(mean, self._setting.output_range)
        square = float(np.square(distances).mean())
        directions = self._directions_of_sample()

        def evidence(budget: Budget) -> NearestEvidence:
            n, m = budget.n, budget.m
            fresh = FreshDraws(
                offset=math.sqrt(square / n + square / m),
                reach=farthest,
                distances=DistanceSample.foreseen(distances, m, band_ranks(m), farthest),
                near=DistanceSample.foreseen(distances, m, place_ranks(m), farthest),
                directions=directions(m),
            )
            r_center = DistanceSample.foreseen(distances, n, np.array([1])).at_rank(1)
            return NearestEvidence(center, center, 0.0, r_center, fresh)

        return evidence

    def shorten(self, m: int) -> None:
        """Want ``m`` fresh draws."""
        self._m = self._left["fresh"] = m
        self._distances = DistanceBuffer(m)

    @property
    def _mean(self) -> Tensor:
        """The mean feature of the sample, ``(features,)``."""
        return self._sums["center"] / self._n

    def _choose(self) -> None:
        """A second look at the sample: the output nearest to the mean feature, and the features farthest from it.

        Their distance truncates second moments, for which it has to be chosen before the fresh draws.
        """
        seen: list[np.ndarray] = []
        self._farthest, truncation = self._mean, 0.0
        for outputs in self._outputs:
            features = features_of(self._metric.source, outputs)
            distances = to_numpy(self._metric, _distances(features, self._mean))
            nearest, last = int(distances.argmin()), int(distances.argmax())
            if distances[nearest] < self._r_center:
                self._center, self._r_center = outputs[nearest].clone(), float(distances[nearest])
            if distances[last] > truncation:
                self._farthest, truncation = features[last].clone(), float(distances[last])
            seen.append(distances)
        self._of_sample = np.concatenate(seen)

    def _second_moments(self, draws: int) -> DirectionsCollector:
        """A collector of second moments of so many draws around the mean feature."""
        return DirectionsCollector(_L2, self._farthest[None].double(), self._mean[None], draws)

    def _directions_of_sample(self) -> Callable[[int], Directions]:
        """The directions expected of ``m`` fresh draws, from a third look at the first draws of the sample."""
        left = min(PILOT, self._n)
        moments = self._second_moments(left)
        for outputs in self._outputs:
            if not left:
                break
            features = features_of(self._metric.source, outputs[:left])
            moments.update(features, _distances(features, self._mean))
            left -= len(features)
        return moments.foresee(_L2, _UNLIMITED)

    def _of_fresh(self) -> FreshDraws:
        if self._directions is None:
            raise ValueError("there are no second moments: expected all draws of the stages before")
        distances, mean, m = np.sort(to_numpy(self._metric, self._distances.values)), self._mean, self._m
        near, band = (DistanceSample(m, ranks, distances[ranks - 1]) for ranks in (place_ranks(m), band_ranks(m)))
        return FreshDraws(
            offset=float(_distances((self._sums["fresh"] / m)[None], mean)[0]),
            reach=self._metric.feature_reach(mean, self._setting.output_range),
            distances=band,
            near=near,
            directions=self._directions.compute(_L2, _UNLIMITED),
        )


def _distances(features: Tensor, mean: Tensor) -> Tensor:
    """l2 distances of features ``(b, features)`` to a mean, ``(b,)`` in float64."""
    return _L2.pairwise(features.double(), mean[None])[:, 0]
