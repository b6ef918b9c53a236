"""Approximate minimum enclosing balls of half a sample.

``k = ceil(n/2)``; the median distance of a point to a sample is the ``k``-th smallest distance, the point itself
included when it belongs to the sample. Never the average of two: on ``{0, 0, 10, 10}`` that would give 5 where a ball
of radius 0 holds half of the points.

The point of least median distance is a 2-approximation (section 3.1 of the paper): every point of the optimal ball,
of radius ``r*``, is within ``2 r*`` of every other one, so any of them has a median distance of at most ``2 r*``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.bounds import half_count
from centersmooth.errors import ModelError
from centersmooth.metrics.base import Metric
from centersmooth.quantiles import near_ranks, smallest


@dataclass(frozen=True)
class Center:
    """A center and its ball.

    Attributes
    ----------
    output : Tensor, shape ``(*out)``
        The center, one of the drawn outputs.
    features : Tensor, shape ``(1, ...)``
        Its features under the metric.
    radius : float
        Its median distance to the sample.
    nearest : array, shape ``(N, len(near_ranks(others)))``
        Of each of ``N`` candidates the distances of those ranks to ``others`` other outputs, from the same matrix.
    others : int
    """

    output: Tensor
    features: Tensor
    radius: float
    nearest: NDArray[np.float64]
    others: int


def features_in_blocks(metric: Metric, outputs: Tensor, block: int) -> Tensor:
    """Features of ``(n, *out)``, computed ``block`` outputs at a time, as they are for streamed draws."""
    return torch.cat([metric.features(outputs[i : i + block]) for i in range(0, len(outputs), block)])


def least_median_center(metric: Metric, outputs: Tensor, features: Tensor) -> Center:
    """The sample point of least median distance to its sample (Algorithm 1).

    ``n^2`` distances, in tiles; equal medians go to the first point.

    Parameters
    ----------
    outputs : Tensor, shape ``(n, *out)``
    features : Tensor, shape ``(n, ...)``
        ``metric.features(outputs)``.
    """
    k, others = half_count(len(features)), len(features) - 1
    # Of a row without the point itself, the k-th smallest is at most the (k+1)-th of the whole row.
    ranks = np.append(k, near_ranks(others) + 1)
    nearest = np.empty((len(features), len(ranks)))
    done = 0
    for tile in metric.self_rows(features):
        nearest[done : done + len(tile)] = smallest(_valid(metric, tile), ranks)
        done += len(tile)
    best = int(nearest[:, 0].argmin())
    chosen = features[best : best + 1]
    # The tiles may round differently from `pairwise`, which is what fresh draws are compared by: measure once more.
    radius = float(metric.pairwise(features, chosen)[:, 0].kthvalue(k).values)
    return _checked(metric, Center(outputs[best].clone(), chosen.clone(), radius, nearest[:, 1:], others))


def best_candidate(metric: Metric, candidates: Tensor, features: Tensor, distances: Tensor) -> Center:
    """The candidate of least median distance to a separate sample (Algorithm 3, Smooth-HD).

    Parameters
    ----------
    candidates : Tensor, shape ``(n0, *out)``
    features : Tensor, shape ``(n0, ...)``
    distances : Tensor, shape ``(n, n0)``
        From each of ``n`` other draws to each candidate.
    """
    n = len(distances)
    nearest = smallest(_valid(metric, distances).T, np.append(half_count(n), near_ranks(n)))
    best = int(nearest[:, 0].argmin())
    chosen = features[best : best + 1].clone()
    return _checked(metric, Center(candidates[best].clone(), chosen, float(nearest[best, 0]), nearest[:, 1:], n))


def _valid(metric: Metric, distances: Tensor) -> Tensor:
    if not bool((torch.isfinite(distances) & (distances >= 0)).all()):
        raise ModelError(f"the metric {metric.name} gave a distance that is NaN, infinite or negative")
    return distances


def _checked(metric: Metric, center: Center) -> Center:
    if not 0 <= center.radius < float("inf"):
        raise ModelError(
            f"the metric {metric.name} gave a median distance of {center.radius}: "
            "expected a finite number of at least 0"
        )
    return center
