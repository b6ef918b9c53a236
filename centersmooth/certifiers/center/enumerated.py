"""The center of all noisy outputs of a law that has finitely many: no sampling, and no failure probability.

The law has ``K`` equally likely noisy inputs, so ``K`` outputs, of which at most ``t`` are others at an ``x'`` within
``eps`` (`Enumerable`). Let ``h = K//2 + 1`` be the least majority, and ``D_i(r)`` the ``r``-th smallest distance of
output ``i`` to all ``K``, itself included. The answer ``c`` is the output of least ``D_i(h)``. For a pseudometric ``e``
and ``h + t <= K``

    ``e(c, c') <= D_c(h + t) + min(2 D_c(h + t), T)``,   ``T`` the ``(t + 1)``-th smallest of all ``D_i(h + t)``.

1. The ball of radius ``D_c(h + t)`` around ``c`` holds ``h + t`` outputs at ``x``, so ``h`` of those that are the same
   at ``x'``. That of radius ``r' = D'_c'(h)`` around ``c'`` holds ``h`` of the outputs at ``x'``. Two majorities of
   ``K`` share one, so ``e(c, c') <= D_c(h + t) + r'``.
2. Any of the ``h`` outputs of the first ball that are the same has the others of them within ``2 D_c(h + t)``: the
   least ``D'_i(h)``, which is ``r'``, is at most that.
3. Of the ``t + 1`` outputs of least ``D_i(h + t)`` one is the same at ``x'``. Its ball held ``h + t`` outputs at ``x``,
   and holds ``h`` of them still: so ``r' <= T``.

Nothing is asked of ``c``, which may itself be another output at ``x'``, and ties may go either way there.
``docs/guarantee.md`` has this at length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.bounds import EXACT
from centersmooth.certificate import CenterCertificate, Outcome, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.center.quantiles import smallest
from centersmooth.certifiers.center.rules import CERTIFIER_OF, Radii
from centersmooth.certifiers.center.search import valid
from centersmooth.contracts.metrics import check_own_metric
from centersmooth.gathering import Setting, Shared, SupportCollector, features_in_blocks
from centersmooth.metrics.base import Metric, between, features_of, require_metric, require_within_diameter
from centersmooth.noise import Enumerable, Noise


@dataclass(frozen=True)
class EnumeratedEvidence:
    """Order statistics of the distances between all ``K`` noisy outputs at one input, for the majority ``h``.

    Attributes
    ----------
    center, base : Tensor, shape ``(*out)``
        The center, and the base model's output at the unperturbed input.
    error : float
        Their distance.
    near : array, shape ``(K - h + 1,)``
        ``D_c(h + t)`` for each ``t`` from 0.
    far : array, shape ``(K - h + 1,)``
        The ``(t + 1)``-th smallest of all ``D_i(h + t)`` for each ``t`` from 0.
    """

    center: Tensor
    base: Tensor
    error: float
    near: NDArray[np.float64]
    far: NDArray[np.float64]


@dataclass(frozen=True)
class Enumerated(Certifier):
    """The rule ``enumerated`` of centers, `Center`'s for an `Enumerable` law. The budget plays no part.

    Parameters
    ----------
    metric : Metric
        The distance between outputs.
    """

    metric: Metric

    name: ClassVar[str] = CERTIFIER_OF["sample"]
    rules: ClassVar[tuple[str, ...]] = ("enumerated",)
    evidence: ClassVar[type] = EnumeratedEvidence
    sampled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_metric(self.metric)

    def unsuited(self, setting: Setting) -> str:
        if isinstance(setting.noise, Enumerable):
            return ""
        return (
            f"rule is 'enumerated', but {setting.noise} has no list of all noisy inputs: expected PatchNoise or "
            "EnumeratedSplitting, or another rule"
        )

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        if eps is None:
            return ""
        law = _enumerable(setting.noise)
        size, changed = law.support_size(), law.changed(eps)
        most = size - majority(size)
        if changed <= most:
            return ""
        return f"eps = {eps:g} changes {changed} of {size} noisy inputs: fewer than half may change, at most {most}"

    def check(self, setting: Setting, outputs: Tensor) -> None:
        features_of(self.metric, outputs)
        check_own_metric(self.metric, outputs, setting.output_range)

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> EnumeratedCollector:
        return EnumeratedCollector(self.metric, setting, shared)

    def answer(self, evidence: EnumeratedEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(evidence.center, False, evidence.base, evidence.error)

    def certificate(self, evidence: EnumeratedEvidence, eps: float, rule: str, setting: Setting) -> CenterCertificate:
        common: dict[str, Any] = {"alpha": 0.0, "certifier": self.name, "rule": rule, "about": self.about(rule)}
        common["threat"] = setting.noise.threat.unit
        if problem := self.problem(setting, rule, eps):
            return CenterCertificate(eps, Outcome.INFEASIBLE, None, False, None, **common, reason=problem)
        changed = _enumerable(setting.noise).changed(eps)
        near, far = float(evidence.near[changed]), float(evidence.far[changed])
        radii = Radii(near, min(far, 2**self.metric.power * near), None)
        radius = radii.total(self.metric, EXACT)
        diameter = self.metric.diameter(tuple(evidence.center.shape), setting.output_range)
        return CenterCertificate(
            eps=eps,
            outcome=Outcome.CERTIFIED,
            radius=min(radius, diameter),
            vacuous=radius >= diameter,
            answer=evidence.center,
            **common,
            r_center=float(evidence.near[0]),
            r_hat=radii.r_hat,
            r_far=radii.r_far,
        )

    def distance(self, a: Tensor, b: Tensor) -> float:
        return between(self.metric, a, b)

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        features = features_of(self.metric, answer[None])
        return lambda outputs: self.metric.pairwise(features_of(self.metric, outputs), features)[:, 0]


def majority(size: int) -> int:
    """The least number of outputs that is more than half of them.

    >>> majority(4), majority(5)
    (3, 3)
    """
    return size // 2 + 1


class EnumeratedCollector(SupportCollector):
    """All noisy outputs, then the order statistics of their distances. Metrics of one source share these."""

    def __init__(self, metric: Metric, setting: Setting, shared: Shared) -> None:
        super().__init__(_enumerable(setting.noise).support_size())
        self._metric, self._block, self._shared = metric, setting.forward_block, shared
        self._range = setting.output_range
        self._outputs: list[Tensor] = []
        self._center: _Center | None = None

    def take(self, outputs: Tensor) -> None:
        self._outputs.append(outputs)
        if not self.wants("support"):
            source, everything = self._metric.source, self._outputs
            self._center = self._shared.once(("enumerated", source), lambda: _center(source, everything, self._block))
            self._outputs = []

    def compute(self, base: Tensor) -> EnumeratedEvidence:
        if self._center is None:
            raise ValueError("there is no center yet: expected all noisy outputs")
        center, near, far = self._center
        error, far = between(self._metric, base, center), self._own(far)
        require_within_diameter(self._metric, float(far[-1]), tuple(base.shape), self._range)
        return EnumeratedEvidence(center, base, error, self._own(near), far)

    def _own(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distances of the metric from those of its source."""
        own: NDArray[np.float64] = self._metric.from_source(torch.from_numpy(values)).numpy()
        return own


class _Center(NamedTuple):
    """The center with its order statistics, as in `EnumeratedEvidence`."""

    output: Tensor
    near: NDArray[np.float64]
    far: NDArray[np.float64]


def _center(metric: Metric, blocks: list[Tensor], size: int) -> _Center:
    outputs = torch.cat(blocks)
    features = features_in_blocks(metric, outputs, size)
    ranks = np.arange(majority(len(outputs)), len(outputs) + 1)
    distances = np.concatenate([smallest(valid(metric, tile), ranks) for tile in metric.self_rows(features)])
    best = int(distances[:, 0].argmin())
    near = distances[best].copy()
    distances.sort(axis=0)
    return _Center(outputs[best].clone(), near, distances.diagonal().copy())


def _enumerable(noise: Noise) -> Enumerable:
    """The law; `Enumerated.unsuited` refuses others."""
    if not isinstance(noise, Enumerable):
        raise ValueError(f"noise is {noise}: expected a law that is enumerable")
    return noise
