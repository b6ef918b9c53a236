"""The contract of a metric: what a certificate takes for granted of a distance."""

from __future__ import annotations

import torch
from torch import Tensor

from centersmooth.errors import ModelError
from centersmooth.metrics.base import (
    DistanceFunction,
    Hilbertian,
    Metric,
    features_of,
    is_shipped,
    require_metric,
    require_within_diameter,
)


def check_metric(metric: Metric, outputs: Tensor, *, tolerance: float = 1e-5) -> None:
    """Check that a metric keeps the contract of `Metric` on the given outputs.

    Self-distance 0; symmetry; finite and not negative; whole numbers where `Metric.whole` says so; the triangle
    inequality for ``d**(1/power)``; a batch gives what one output at a time gives; `self_rows` agrees with `pairwise`.

    Parameters
    ----------
    outputs : Tensor, shape ``(n, *out)``
        At most a few hundred: all ``n^3`` triangles are checked.
    tolerance : float
        Allowed rounding, relative to the largest distance (of ``d**(1/power)`` for the triangle inequality).

    Raises
    ------
    ModelError
        Naming the first property that fails and by how much.

    Examples
    --------
    >>> from centersmooth import L2, SquaredL2
    >>> check_metric(L2(), torch.rand(20, 3))
    >>> SquaredL2.power
    2.0
    """
    require_metric(metric)
    features = features_of(metric, outputs)
    distances = metric.pairwise(features, features).double()
    if not bool(torch.isfinite(distances).all()):
        raise ModelError(f"{metric.name}: a distance is NaN or infinite")
    if float(distances.min()) < 0:
        raise ModelError(f"{metric.name}: a distance is negative ({float(distances.min()):.3g})")
    scale = max(float(distances.max()), torch.finfo(torch.float32).tiny)
    if metric.whole:
        off = (distances - distances.round()).abs().max() / scale
        _require(metric, "a distance is not a whole number, as its attribute whole says", off, 0.0)
    _require(metric, "an output's distance to itself is not 0", distances.diagonal().abs().max() / scale, tolerance)
    _require(metric, "it is not symmetric", (distances - distances.T).abs().max() / scale, tolerance)

    roots = distances ** (1 / metric.power)
    excess = max(float((roots - (column[:, None] + column)).max()) for column in roots)
    _require(metric, "the triangle inequality fails", excess / scale ** (1 / metric.power), tolerance)

    single = torch.cat([metric.pairwise(features_of(metric, output[None]), features) for output in outputs]).double()
    _require(metric, "a batch differs from one output at a time", (single - distances).abs().max() / scale, tolerance)
    rows = torch.cat(list(metric.self_rows(features))).double()
    rounding = tolerance ** (1 / metric.power) if metric.power > 1 else max(tolerance, 1e-6)
    _require(metric, "self_rows differs from pairwise", (rows - distances).abs().max() / scale, rounding)


def check_own_metric(metric: Metric, outputs: Tensor, output_range: tuple[float, float] | None) -> None:
    """Look at a user's metric on a few real outputs before anything is certified by it.

    What users get wrong once: a sign, an order, a square without ``power=2``, differences of integers that wrap around,
    a diameter inherited from a metric of smaller distances. The shipped metrics are tested.
    """
    if is_shipped(metric) or len(outputs) < 2:
        return
    some = outputs[:32]
    check_metric(metric, some, tolerance=1e-3)
    _check_diameter(metric, some, output_range)
    if isinstance(metric, DistanceFunction) or some.is_floating_point() or some.dtype == torch.bool:
        return
    narrow, wide = (features_of(metric, one) for one in (some, some.double()))
    excess = (metric.pairwise(narrow, narrow).double() - metric.pairwise(wide, wide).double()).abs().max()
    what = f"{some.dtype} outputs are measured otherwise than as float64: convert them in features()"
    _require(metric, what, excess, 0.0)


def _check_diameter(metric: Metric, outputs: Tensor, output_range: tuple[float, float] | None) -> None:
    """No two outputs, nor two corners of their range where these have features, are farther apart than declared."""
    batches = [outputs]
    if isinstance(metric, Hilbertian) and output_range is not None and outputs.is_floating_point():
        batches.append(_corners(outputs, output_range))
    for batch in batches:
        features = features_of(metric, batch)
        require_within_diameter(
            metric, float(metric.pairwise(features, features).max()), tuple(outputs.shape[1:]), output_range
        )


def _corners(outputs: Tensor, output_range: tuple[float, float]) -> Tensor:
    """As many corners of the range as there are outputs, in their shape and type."""
    low, high = output_range
    ends = torch.randint(2, outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
    return low + ends * (high - low)


def check_seminorm(metric: Metric, outputs: Tensor, output_range: tuple[float, float]) -> None:
    """Check what a metric with a `Metric.seminorm` declares, on up to 32 outputs and as many corners of their range.

    Its features are affine in the output and within `Metric.feature_range`; distances are that norm of their
    differences. All to 1e-5 of the largest.

    Parameters
    ----------
    outputs : Tensor, shape ``(n, *out)``
        In the range.

    Raises
    ------
    ModelError
        Naming the first property that fails and by how much.
    """
    outputs = outputs[:32].double()
    corners = _corners(outputs, output_range)
    a, b, middle = (features_of(metric, batch).double() for batch in (outputs, corners, (outputs + corners) / 2))
    low, high = metric.feature_range(output_range)
    scale = max(abs(low), abs(high))
    outside = torch.maximum(low - torch.cat([a, b]), torch.cat([a, b]) - high).max() / scale
    _require(metric, "features leave their declared range", outside, 1e-5)
    _require(metric, "its features are not affine in the output", ((a + b) / 2 - middle).abs().max() / scale, 1e-5)
    norms = torch.linalg.vector_norm(b - a[:1], 1 if metric.seminorm == "l1" else 2, dim=1)
    distances = metric.pairwise(features_of(metric, corners), features_of(metric, outputs[:1])).double()[:, 0]
    excess = (distances - norms).abs().max() / norms.max()
    _require(metric, f"it is not the {metric.seminorm} norm of a difference of features", excess, 1e-5)


def check_hilbertian(metric: Hilbertian, outputs: Tensor, output_range: tuple[float, float] | None) -> None:
    """Check what a user's `Hilbertian` declares, on up to 32 outputs; the shipped ones are tested.

    Distances are `Hilbertian.of_l2` of the l2 distances of features, `Hilbertian.to_l2` is its inverse, and no output
    is beyond `Hilbertian.feature_reach`. All to 1e-3, of the largest distance and of the reach.

    Parameters
    ----------
    outputs : Tensor, shape ``(n, *out)``
        In the range.

    Raises
    ------
    ModelError
        Naming the first property that fails and by how much.
    """
    if is_shipped(metric):
        return
    features = features_of(metric, outputs[:32])
    distances, vectors = metric.pairwise(features, features).double(), features.double().flatten(1)
    l2 = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    largest = max(float(distances.max()), torch.finfo(torch.float32).tiny)
    excess = (distances - metric.of_l2(l2)).abs().max() / largest
    _require(metric, "it is not of_l2 of the l2 distances of its features", excess, 1e-3)
    inverse = metric.to_l2(float(metric.of_l2(l2.max())))
    _require(metric, "to_l2 is not the inverse of of_l2", (l2.max() - inverse) / l2.max().clamp(min=1e-300), 1e-3)
    reach = metric.feature_reach(vectors.mean(0), output_range)
    beyond = (vectors - vectors.mean(0)).norm(dim=1).max() / max(reach, 1e-300) - 1
    _require(metric, "features are beyond their declared feature_reach", beyond, 1e-3)


def _require(metric: Metric, what: str, excess: Tensor | float, tolerance: float) -> None:
    if not float(excess) <= tolerance:  # so that NaN fails
        raise ModelError(f"{metric.name}: {what}, by {float(excess):.3g} of the largest distance")
