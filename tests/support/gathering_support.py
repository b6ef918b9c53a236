"""Evidence about centers and means, by metric, for tests that look into it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from centersmooth import Budget, Center, Mean, Metric, RandomStream
from centersmooth.certifiers import Certifier
from centersmooth.certifiers.center import CenterEvidence
from centersmooth.certifiers.center.search import CenterKind
from centersmooth.certifiers.mean import MeanEvidence
from centersmooth.gathering import gather
from centersmooth.sampling import Sampler


def gather_centers(
    sampler: Sampler,
    metrics: Mapping[str, Metric],
    budget: Budget,
    x: Tensor,
    stream: RandomStream,
    *,
    far: bool = True,
    kind: CenterKind = "sample",
) -> dict[str, CenterEvidence]:
    """From one pass; an error of any metric is raised."""
    return _gathered(sampler, {name: Center(metric, kind) for name, metric in metrics.items()}, budget, x, stream, far)


def gather_means(
    sampler: Sampler, metrics: Mapping[str, Metric], budget: Budget, x: Tensor, stream: RandomStream
) -> dict[str, MeanEvidence]:
    """From one pass; an error of any metric is raised."""
    return _gathered(sampler, {name: Mean(metric) for name, metric in metrics.items()}, budget, x, stream, True)


def _gathered(
    sampler: Sampler, certifiers: Mapping[str, Certifier], budget: Budget, x: Tensor, stream: RandomStream, radius: bool
) -> dict:
    found = gather(sampler, certifiers, budget, x, stream, radius=radius)
    for one in found.values():
        if isinstance(one, Exception):
            raise one
    return found
