"""For your own metrics, noises and models: contracts they have to keep, and a model whose answer is known.

`check_metric` and `check_noise` are meant to run in your test suite; the library's own run them as tables.
"""

from __future__ import annotations

import math

import torch
from scipy.special import ndtr
from torch import Tensor

from centersmooth.errors import ModelError
from centersmooth.metrics.base import DistanceFunction, Metric, features_of, is_shipped
from centersmooth.noise import DrawsTogether, Noise
from centersmooth.sampling import RandomStream


def check_metric(metric: Metric, outputs: Tensor, *, tolerance: float = 1e-5) -> None:
    """Check that a metric keeps the contract of `Metric` on the given outputs.

    Self-distance 0; symmetry; finite and not negative; the triangle inequality for ``d**(1/power)``; a batch gives
    what one output at a time gives; `self_rows` agrees with `pairwise`.

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
    features = features_of(metric, outputs)
    distances = metric.pairwise(features, features).double()
    if not bool(torch.isfinite(distances).all()):
        raise ModelError(f"{metric.name}: a distance is NaN or infinite")
    if float(distances.min()) < 0:
        raise ModelError(f"{metric.name}: a distance is negative ({float(distances.min()):.3g})")
    scale = max(float(distances.max()), torch.finfo(torch.float32).tiny)
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


def check_own_metric(metric: Metric, outputs: Tensor) -> None:
    """Look at a user's metric on a few real outputs before anything is certified by it.

    What users get wrong once: a sign, an order, a square without ``power=2``, differences of integers that wrap around.
    The shipped metrics are tested.
    """
    if is_shipped(metric) or len(outputs) < 2:
        return
    some = outputs[:32]
    check_metric(metric, some, tolerance=1e-3)
    if isinstance(metric, DistanceFunction) or some.is_floating_point() or some.dtype == torch.bool:
        return
    narrow, wide = (features_of(metric, one) for one in (some, some.double()))
    excess = (metric.pairwise(narrow, narrow).double() - metric.pairwise(wide, wide).double()).abs().max()
    what = f"{some.dtype} outputs are measured otherwise than as float64: convert them in features()"
    _require(metric, what, excess, 0.0)


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
    corners = torch.randint(2, outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
    corners = output_range[0] + corners * (output_range[1] - output_range[0])
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


def _require(metric: Metric, what: str, excess: Tensor | float, tolerance: float) -> None:
    if float(excess) > tolerance:
        raise ModelError(f"{metric.name}: {what}, by {float(excess):.3g} of the largest distance")


def check_noise(noise: Noise, eps: float, *, draws: int = 200_000) -> None:
    """Check that a smoothing law keeps the contract of `Noise` at one ``eps``, for inputs of one number.

    `Noise.required_mass` is at least the mass, grows with mass and ``eps``, and is the mass itself at ``eps = 0``;
    `Noise.kept_mass` is its inverse; with several draws taken together one draw is one draw. And the bound holds: of
    half-lines, which for one-sided shifts are the worst sets there are (Neyman and Pearson), none loses more from ``x =
    0`` to ``x' = +-eps`` than it says, up to six standard errors. A law that draws noise 30% smaller than it states
    fails.

    Parameters
    ----------
    eps : float
        In the law's unit; about one scale of the noise shows most.
    draws : int
        At ``x`` and at each ``x'``.

    Raises
    ------
    ModelError
        Naming the first property that fails.
    """
    masses = (1e-3, 0.1, 0.5, 0.55, 0.9, 0.999)
    for mass in masses:
        required = [noise.required_mass(mass, e) for e in (0.0, eps / 2, eps)]
        _expect(noise, f"required_mass({mass}, 0) is {required[0]}", abs(required[0] - mass) <= 1e-9)
        _expect(
            noise, f"required_mass({mass}, ...) falls with eps: {required}", mass <= required[1] <= required[2] <= 1
        )
        kept = noise.kept_mass(mass, eps)
        found = noise.required_mass(kept, eps)
        _expect(noise, f"required_mass(kept_mass({mass})) is {found}, above it", found <= mass * (1 + 1e-9))
        if required[2] < 1:
            back = noise.kept_mass(required[2], eps)
            _expect(noise, f"kept_mass(required_mass({mass})) is {back}", abs(back - mass) <= 1e-6)
        if isinstance(noise, DrawsTogether):
            together = [noise.required_mass_of_draws(mass, eps, count) for count in (1, 2, 4)]
            rising = required[2] * (1 - 1e-9) <= together[0] <= together[1] <= together[2] <= 1
            _expect(noise, f"required_mass_of_draws({mass}, ...) is {together} for 1, 2, 4", rising)
    required = [noise.required_mass(mass, eps) for mass in masses]
    _expect(noise, f"required_mass falls with the mass: {required}", required == sorted(required))
    _check_half_lines(noise, eps, draws)


def _check_half_lines(noise: Noise, eps: float, count: int) -> None:
    inputs = torch.tensor([[0.0], [eps], [-eps]], dtype=torch.float64)
    streams = (RandomStream(0).draws(f"check noise {i}", 0, inputs) for i in range(3))
    at_x, *moved = (noise.sample(x, count, one)[:, 0].sort().values for x, one in zip(inputs, streams, strict=True))
    error = 6 * math.sqrt(0.25 / count)
    for mass in torch.arange(0.05, 1.0, 0.05).tolist():
        low, high = at_x[int(mass * count) - 1], at_x[count - int(mass * count)]
        least = noise.kept_mass(max(0.0, mass - error), eps) - error
        for at_x_prime in moved:
            found = (float((at_x_prime <= low).double().mean()), float((at_x_prime >= high).double().mean()))
            what = f"a half-line of mass {mass:.2f} at x has {min(found):.4f} at x', and {least:.4f} is promised"
            _expect(noise, what, min(found) >= least)


def _expect(noise: Noise, what: str, holds: bool) -> None:
    if not holds:
        raise ModelError(f"{noise}: {what}")


class LinearModel:
    """``f(x) = x @ weight``, one number an input: under Gaussian noise everything is known in closed form.

    Parameters
    ----------
    weight : Tensor, shape ``(d,)``
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight[:, None]

    def movement(self, eps: float) -> float:
        """How far the exact smoothed output moves within ``eps``: ``eps * |weight|``."""
        return eps * float(self.weight.norm())

    def mass(self, center: float, radius: float, x: Tensor, sigma: float) -> float:
        """Mass of ``[center - radius, center + radius]`` under ``f(x + N(0, sigma^2 I))``."""
        scale = sigma * float(self.weight.norm())
        mean = float(x @ self.weight)
        return float(ndtr((center + radius - mean) / scale) - ndtr((center - radius - mean) / scale))

    def radius(self, center: float, mass: float, x: Tensor, sigma: float) -> float:
        """The radius at which the ball around ``center`` has ``mass``, by bisection to the last digit."""
        low, high = 0.0, abs(center - float(x @ self.weight)) + 40 * sigma * float(self.weight.norm())
        while low < (middle := (low + high) / 2) < high:
            low, high = (low, middle) if self.mass(center, middle, x, sigma) >= mass else (middle, high)
        return high if math.isfinite(high) else math.inf
