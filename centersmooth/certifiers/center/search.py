"""Approximate minimum enclosing balls of half a sample.

``k = ceil(n/2)``; the median distance of a point to a sample is the ``k``-th smallest distance, the point itself
included when it belongs to the sample. Never the average of two: on ``{0, 0, 10, 10}`` that would give 5 where a ball
of radius 0 holds half of the points.

The point of least median distance is a 2-approximation (section 3.1 of the paper): every point of the optimal ball,
of radius ``r*``, is within ``2 r*`` of every other one, so any of them has a median distance of at most ``2 r*``.

A free center need not be a point of the sample. Means lie nearer to most points than any of them does: proposed are
the means of blocks of the sample, whose distances also bound how far off a center can be (`.measured`), and
what the mean of the nearest half, taken again and again, comes to. The sample points stay among the proposals, so that
a free center has the least median distance of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.bounds import half_count
from centersmooth.certifiers.center.quantiles import near_ranks, smallest
from centersmooth.errors import ModelError
from centersmooth.gathering import features_in_blocks
from centersmooth.metrics.base import Metric, features_of

CenterKind = Literal["sample", "free"]
"""Kinds of centers: drawn outputs alone, as in the paper, or means of them as well."""

BLOCK: Final = 4
"""Draws of a block whose mean is proposed as a center.

The mean of more of them lies nearer to the rest, but there are fewer blocks, and their law shifts by ``sqrt(BLOCK)
eps``. One number serves every eps, as a smoothed model knows of none: measured on an autoencoder of MNIST, ``n =
2_000``, 4 gives a ``T`` within 2% of the least of 1, 2, 4, 8 and 16, at ``h = 1`` and at ``h = 2``.
"""

REFINEMENTS: Final = 5
"""How often the mean of the nearest half is taken; almost all is gained by the first two."""


@dataclass(frozen=True)
class BestCenter:
    """A center and its ball.

    Attributes
    ----------
    output : Tensor, shape ``(*out)``
        The center: one of the drawn outputs, or a mean of some.
    features : Tensor, shape ``(1, ...)``
        Its features under the metric.
    radius : float
        Its median distance to the sample.
    nearest : array, shape ``(N, len(near_ranks(others)))``, or ``(N, 0)``
        Of each of ``N`` candidates the distances of those ranks to ``others`` other outputs, from the same matrix;
        without the ranks where only the center was asked for.
    others : int
    """

    output: Tensor
    features: Tensor
    radius: float
    nearest: NDArray[np.float64]
    others: int


def least_median_center(metric: Metric, outputs: Tensor, features: Tensor, *, measured: bool = True) -> BestCenter:
    """The sample point of least median distance to its sample (Algorithm 1).

    ``n^2`` distances, in tiles; equal medians go to the first point.

    Parameters
    ----------
    outputs : Tensor, shape ``(n, *out)``
    features : Tensor, shape ``(n, ...)``
        ``metric.features(outputs)``.
    measured : bool
        Keep the other ranks of the distances, which certificates read, and not the center alone.
    """
    k, others = half_count(len(features)), len(features) - 1
    # Of a row without the point itself, the k-th smallest is at most the (k+1)-th of the whole row.
    ranks = np.append(k, _kept_ranks(others, measured) + 1)
    nearest = np.empty((len(features), len(ranks)))
    done = 0
    for tile in metric.self_rows(features):
        nearest[done : done + len(tile)] = smallest(valid(metric, tile), ranks)
        done += len(tile)
    best = int(nearest[:, 0].argmin())
    chosen = features[best : best + 1]
    # The tiles may round differently from `pairwise`, which is what fresh draws are compared by: measure once more.
    radius = float(metric.pairwise(features, chosen)[:, 0].kthvalue(k).values)
    return _checked(metric, BestCenter(outputs[best].clone(), chosen.clone(), radius, nearest[:, 1:], others))


def free_center(
    metric: Metric, outputs: Tensor, features: Tensor, sample: BestCenter, block: int, *, measured: bool = True
) -> BestCenter:
    """The proposal of least median distance to the sample; the sample point where none is nearer than that.

    Parameters
    ----------
    outputs : Tensor, shape ``(n, *out)``
        At least `BLOCK`, floating-point.
    features : Tensor, shape ``(n, ...)``
        ``metric.features(outputs)``.
    sample : BestCenter
        Of the same sample, from `least_median_center`.
    block : int
        Outputs whose features are computed at a time.
    measured : bool
        As of `least_median_center`.

    Returns
    -------
    BestCenter
        Its `nearest` are of the ``n // BLOCK`` means of blocks, to the ``n - BLOCK`` outputs outside the block.

    Raises
    ------
    ModelError
        The outputs are not floating-point, so that their means need not be outputs.
    """
    require_means(outputs)
    blocks = outputs[: len(outputs) // BLOCK * BLOCK].reshape(-1, BLOCK, *outputs.shape[1:])
    means = metric.means(blocks)
    nearest = _nearest_of_blocks(metric, features_in_blocks(metric, means, block), features, measured)
    starts = [_ball(metric, output, features) for output in (sample.output, means[int(nearest[:, 0].argmin())])]
    best = latest = min(starts, key=lambda ball: ball.radius)
    for _ in range(REFINEMENTS):
        latest = _ball(metric, metric.means(outputs[latest.half][None])[0], features)
        best = min(best, latest, key=lambda ball: ball.radius)
    others = len(outputs) - BLOCK
    return _checked(metric, BestCenter(best.output.clone(), best.features, best.radius, nearest[:, 1:], others))


def require_means(outputs: Tensor) -> None:
    """Refuse outputs whose means need not be outputs.

    Raises
    ------
    ModelError
    """
    if not outputs.is_floating_point():
        raise ModelError(f"kind='free' takes means of outputs: expected floating-point ones, got {outputs.dtype}")


class _Ball(NamedTuple):
    """A proposal: its output, features ``(1, ...)``, median distance, and the indices of the nearest half."""

    output: Tensor
    features: Tensor
    radius: float
    half: Tensor


def _ball(metric: Metric, output: Tensor, features: Tensor) -> _Ball:
    own, k = features_of(metric, output[None]), half_count(len(features))
    ordered = valid(metric, metric.pairwise(features, own)[:, 0]).sort(stable=True)
    return _Ball(output, own, float(ordered.values[k - 1]), ordered.indices[:k])


def _nearest_of_blocks(metric: Metric, means: Tensor, features: Tensor, measured: bool) -> NDArray[np.float64]:
    """Median distance of each mean to the sample, and its distances of the kept ranks to outputs outside its block.

    The latter, where they are asked for, leave the block out by putting it infinitely far away.
    """
    n = len(features)
    block_of, median = torch.arange(n, device=features.device) // BLOCK, half_count(n)
    kept = _kept_ranks(n - BLOCK, measured)
    nearest = np.empty((len(means), 1 + len(kept)))
    done = 0
    for rows in _rows_to_sample(metric, means, features):
        those = slice(done, done := done + len(rows))
        nearest[those, :1] = smallest(rows, np.array([median]))
        if measured:
            own = block_of == torch.arange(those.start, done, device=features.device)[:, None]
            nearest[those, 1:] = smallest(rows.masked_fill(own, torch.inf), kept)
    return nearest


def _rows_to_sample(metric: Metric, means: Tensor, features: Tensor) -> Iterator[Tensor]:
    """The distances of means to a sample as tiles of rows: a part of their common matrix, which is the fast one."""
    left = len(means)
    for tile in metric.self_rows(torch.cat([means, features])):
        yield valid(metric, tile[:left, len(means) :])
        left -= len(tile)
        if left <= 0:
            return


def best_candidate(
    metric: Metric, candidates: Tensor, features: Tensor, distances: Tensor, *, measured: bool = True
) -> BestCenter:
    """The candidate of least median distance to a separate sample (Algorithm 3, Smooth-HD).

    Parameters
    ----------
    candidates : Tensor, shape ``(n0, *out)``
    features : Tensor, shape ``(n0, ...)``
    distances : Tensor, shape ``(n, n0)``
        From each of ``n`` other draws to each candidate.
    measured : bool
        As of `least_median_center`.
    """
    n = len(distances)
    nearest = smallest(valid(metric, distances).T, np.append(half_count(n), _kept_ranks(n, measured)))
    best = int(nearest[:, 0].argmin())
    chosen = features[best : best + 1].clone()
    return _checked(metric, BestCenter(candidates[best].clone(), chosen, float(nearest[best, 0]), nearest[:, 1:], n))


def _kept_ranks(others: int, measured: bool) -> NDArray[np.int64]:
    """The ranks of distances that certificates read; none where only the center is asked for."""
    return near_ranks(others) if measured else near_ranks(others)[:0]


def valid(metric: Metric, distances: Tensor) -> Tensor:
    """The distances.

    Raises
    ------
    ModelError
        One is NaN, infinite or negative.
    """
    low, high = torch.stack(torch.aminmax(distances)).tolist()  # NaN if one of them is
    if not (low >= 0 and high < math.inf):
        raise ModelError(f"the metric {metric.name} gave a distance that is NaN, infinite or negative")
    return distances


def _checked(metric: Metric, center: BestCenter) -> BestCenter:
    if not 0 <= center.radius < float("inf"):
        raise ModelError(
            f"the metric {metric.name} gave a median distance of {center.radius}: "
            "expected a finite number of at least 0"
        )
    return center
