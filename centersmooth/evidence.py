"""One pass over one input: everything any rule needs to know, for any number of metrics at once.

Forward passes are what certificates cost, so they are shared: every metric sees the same draws, and the draws that
test the center are also the first of those that measure the radius (both are independent of the center, which was
chosen from other draws; each bound holds on its own, and their failure probabilities are added).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.bounds import EXACT
from centersmooth.centers import Center, best_candidate, features_in_blocks, free_center, least_median_center
from centersmooth.certificate import Budget, CenterName
from centersmooth.errors import ModelError
from centersmooth.metrics.base import Metric
from centersmooth.quantiles import QuantileTable
from centersmooth.sampling import Progress, RandomStream, Sampler

_KEEP_ALL = 2**16
_RESOLUTION = 2**-12


def kept_ranks(m: int) -> NDArray[np.int64]:
    """The ranks of ``m`` sorted distances that `DistanceSample` keeps, ascending.

    All of them up to 65,536 distances. Beyond, those of the upper half (no certificate needs less than half the mass)
    whose number of larger distances ``m - j`` goes up in steps of ``2**-12``: a rank asked for is then raised by at
    most that share of ``m - j``, less than the sampling error of the quantile itself.

    >>> len(kept_ranks(2_500)), int(kept_ranks(10**6)[-1]), len(kept_ranks(10**6)) < 40_000
    (2500, 1000000, True)
    """
    if m <= _KEEP_ALL:
        return np.arange(1, m + 1)
    linear = int(1 / _RESOLUTION)
    steps = int(np.ceil(np.log(m / 2 / linear) / np.log1p(_RESOLUTION)))
    tail = np.concatenate([np.arange(linear), linear * (1 + _RESOLUTION) ** np.arange(steps)])
    return m - np.unique(tail[tail <= m / 2].astype(np.int64))[::-1]


@dataclass(frozen=True)
class DistanceSample:
    """Order statistics of ``m`` distances.

    Attributes
    ----------
    count : int
        ``m``.
    ranks, values : arrays, shape ``(r,)``
        ``values[i]`` is the ``ranks[i]``-th smallest distance; both ascend.
    """

    count: int
    ranks: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, distances: NDArray[np.float64]) -> DistanceSample:
        """Sort and keep `kept_ranks`."""
        ranks = kept_ranks(len(distances))
        return cls(len(distances), ranks, np.sort(distances)[ranks - 1])

    def at_rank(self, rank: int) -> float:
        """The ``rank``-th smallest distance, or the next larger one that was kept. Never interpolated."""
        return float(self.values[np.searchsorted(self.ranks, rank)])


@dataclass(frozen=True)
class Evidence:
    """What the draws at one input say under one metric.

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
        Distances of ``m`` fresh draws to the center; None where only a smoothed output was asked for, or where the
        center is so bad that no bounds would accept it.
    spread : QuantileTable
        How near the other outputs were to the candidates for the center.
    blocks : QuantileTable or None
        How near the outputs outside a block were to its mean; only about a free center.
    free : Evidence or None
        The same about the free center of the same draws, where it was asked for.
    """

    center: Tensor
    base: Tensor
    error: float
    r_center: float
    inside: int
    far: DistanceSample | None
    spread: QuantileTable
    blocks: QuantileTable | None = None
    free: Evidence | None = None

    def about(self, center: CenterName) -> Evidence:
        """The evidence about one of the two centers.

        Raises
        ------
        ValueError
            Where the free center was not asked for.
        """
        if center == "sample":
            return self
        if self.free is None:
            raise ValueError("there is no free center in this evidence: expected gather(..., free=True)")
        return self.free


def gather(
    sampler: Sampler,
    metrics: Mapping[str, Metric],
    budget: Budget,
    x: Tensor,
    stream: RandomStream,
    *,
    far: bool = True,
    free: bool = False,
    progress: Progress | None = None,
) -> dict[str, Evidence]:
    """Sample ``f(x + noise)`` and reduce it to evidence, one for each metric.

    Parameters
    ----------
    x : Tensor, shape ``(*in)``
    far : bool
        False stops after the test of the center: what `smooth` needs.
    free : bool
        Whether free centers are looked for besides, under the metrics that have means; see `rules.free_problem`.

    Raises
    ------
    ModelError
        On NaN or infinite outputs or distances, naming the metric or the stage.
    """
    base = sampler.base_output(x)
    sources = list(dict.fromkeys(metric.source for metric in metrics.values()))
    centers = _find_centers(sampler, sources, budget, x, stream, free, progress)
    distances = _fresh_distances(sampler, centers, budget, x, stream, far, progress)
    return {
        name: _evidence(metric, centers[metric.source], distances[metric.source], base, budget, far)
        for name, metric in metrics.items()
    }


_Centers = dict[CenterName, Center]
_Distances = dict[CenterName, NDArray[np.float64]]


def _find_centers(
    sampler: Sampler,
    metrics: Iterable[Metric],
    budget: Budget,
    x: Tensor,
    stream: RandomStream,
    free: bool,
    progress: Progress | None,
) -> dict[Metric, _Centers]:
    block = sampler.forward_block
    if not budget.n0:
        outputs = torch.cat(list(sampler.draw(x, budget.n, stream, "center", progress=progress)))
        return {metric: _centers_of_sample(metric, outputs, block, free and metric.has_means) for metric in metrics}
    candidates = torch.cat(list(sampler.draw(x, budget.n0, stream, "candidates", progress=progress)))
    features = {metric: features_in_blocks(metric, candidates, block) for metric in metrics}
    distances = {metric: x.new_empty((budget.n, budget.n0), dtype=torch.float64) for metric in metrics}
    seen = 0
    for outputs in sampler.draw(x, budget.n, stream, "center", progress=progress):
        rows, seen = slice(seen, seen + len(outputs)), seen + len(outputs)
        for metric, kept in distances.items():
            kept[rows] = metric.pairwise(metric.features(outputs), features[metric])
    return {
        metric: {"sample": best_candidate(metric, candidates, features[metric], kept)}
        for metric, kept in distances.items()
    }


def _centers_of_sample(metric: Metric, outputs: Tensor, block: int, free: bool) -> _Centers:
    features = features_in_blocks(metric, outputs, block)
    centers: _Centers = {"sample": least_median_center(metric, outputs, features)}
    if free:
        centers["free"] = free_center(metric, outputs, features, centers["sample"], block)
    return centers


def _fresh_distances(
    sampler: Sampler,
    centers: Mapping[Metric, _Centers],
    budget: Budget,
    x: Tensor,
    stream: RandomStream,
    far: bool,
    progress: Progress | None,
) -> dict[Metric, _Distances]:
    """Distances of fresh draws to each center: all of them, or the first ``n`` where no center is worth more.

    Written to where they stay: small tensors kept between the large ones of a forward pass would keep their memory
    from being used again.
    """
    count = budget.fresh_draws if far else budget.n
    distances = {m: {name: x.new_empty(count, dtype=torch.float64) for name in own} for m, own in centers.items()}
    seen = 0
    for outputs in sampler.draw(x, count, stream, "fresh", progress=progress):
        rows, seen = slice(seen, seen + len(outputs)), seen + len(outputs)
        for metric, own in centers.items():
            features = metric.features(outputs)
            for name, center in own.items():
                distances[metric][name][rows] = metric.pairwise(features, center.features)[:, 0]
        if rows.start < budget.n <= seen:
            within = (
                distances[m][name][: budget.n] <= c.radius for m, own in centers.items() for name, c in own.items()
            )
            if not any(budget.accepts_center(int(inside.sum()), EXACT) for inside in within):
                break
    return {m: {name: to_numpy(m, kept[:seen]) for name, kept in own.items()} for m, own in distances.items()}


def to_numpy(metric: Metric, distances: Tensor) -> NDArray[np.float64]:
    """Distances on the host, in float64; a `ModelError` where one is NaN, infinite or negative."""
    array: NDArray[np.float64] = distances.double().cpu().numpy()
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ModelError(
            f"the metric {metric.name} gave a distance that is NaN, infinite or negative for a noisy output"
        )
    return array


def _evidence(
    metric: Metric, centers: _Centers, distances: _Distances, base: Tensor, budget: Budget, far: bool
) -> Evidence:
    """The evidence of a metric from the centers and the distances of its source."""
    sample = _reduce(metric, centers["sample"], distances["sample"], base, budget, far)
    if "free" not in centers:
        return sample
    free = _reduce(metric, centers["free"], distances["free"], base, budget, far)
    return replace(sample, free=replace(free, spread=sample.spread, blocks=free.spread))


def _reduce(
    metric: Metric, center: Center, distances: NDArray[np.float64], base: Tensor, budget: Budget, far: bool
) -> Evidence:
    """The same about one center, its own distances as its spread."""

    def own(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return metric.from_source(torch.from_numpy(values)).numpy()

    error = metric.pairwise(metric.features(base[None]), center.features)[:, 0]
    enough = far and len(distances) >= budget.fresh_draws
    return Evidence(
        center=center.output,
        base=base,
        error=float(to_numpy(metric, error)[0]),
        r_center=float(own(np.array([center.radius]))[0]),
        inside=int((distances[: budget.n] <= center.radius).sum()),
        far=DistanceSample.of(own(distances[: budget.m])) if enough else None,
        spread=QuantileTable.of(own(center.nearest), center.others),
    )
