"""The contract of a smoothing law: its bound against its own draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.errors import ModelError, RequestError
from centersmooth.noise import DrawsTogether, Noise
from centersmooth.outputs import brief
from centersmooth.sampling import RandomStream

Array = NDArray[np.float64]

_BINS = 256
"""Bins in which the likelihood ratio is estimated: several hundred draws each."""

_COPIES = 16

_MASSES = (1e-3, 0.1, 0.5, 0.55, 0.9, 0.999)


def check_noise(
    noise: Noise,
    eps: float,
    *,
    x: Tensor | None = None,
    moments: tuple[float, float] | None = None,
    draws: int = 200_000,
) -> None:
    """Check that a smoothing law keeps the contract of `Noise` at one ``eps``, in one number of its noisy copies.

    `Noise.required_mass` is at least the mass, grows with mass and ``eps``, and is the mass itself at ``eps = 0``;
    `Noise.kept_mass` is its inverse, and `Noise.kept_mean` a convex function below that; one draw taken together with
    no other is one draw.

    And the bound holds for the draws. By the lemma of Neyman and Pearson the worst sets are those where the likelihood
    ratio of ``x'`` to ``x`` is small. Half of the draws estimate that ratio, in 256 bins of equal mass; the other half
    count what sets of small ratio lose from ``x = 0`` to ``x'``, and so do half-lines, for which nothing has to be
    estimated. The shifts from ``x`` to ``x'`` have the last number ``+-eps`` or ``+-eps/2`` and zeros elsewhere, as far
    as the threat has those. Three draws taken together are ordered by the product of their ratios, and by their sum.

    A sound law fails with probability at most 2e-6: each count is off by more than its margin with probability
    ``exp(-18)``, for all sets of one ordering at once (Massart 1990). A law that draws noise 30% smaller than it states
    fails. What is not seen: losses below the margin, ``3 / sqrt(draws/2)`` of mass; a ratio that changes within a bin;
    of inputs of several numbers all but their first, that their noise is not one number, and that the same draws give
    the same.

    Parameters
    ----------
    eps : float
        In the law's unit; about one scale of the noise shows most.
    x : Tensor, shape ``(*in)``, optional
        An input whose noisy copies differ in their first number, for a law that does not add its noise to a number; by
        default the number 0.
    moments : (float, float), optional
        Mean and standard deviation of that number, where the law states them: those of the draws may differ by six
        standard errors.
    draws : int
        At ``x`` and at each ``x'``.

    Raises
    ------
    ModelError
        Naming the first property that fails.

    Examples
    --------
    >>> from centersmooth import GaussianNoise
    >>> check_noise(GaussianNoise(0.5), eps=0.5, moments=(0.0, 0.5))
    """
    if not isinstance(noise, Noise):
        raise RequestError(f"noise is {brief(noise)}: expected a law such as GaussianNoise(sigma=0.25)")
    _check_draws(noise, x)
    x = torch.zeros(1, dtype=torch.float64) if x is None else x
    noise = noise.at(x)
    _check_required_mass(noise, eps)
    for mass in _MASSES:
        _check_kept_mass(noise, mass, eps)
        if isinstance(noise, DrawsTogether):
            together = [noise.required_mass_of_draws(mass, eps, count) for count in (1, 2, 4)]
            rising = noise.required_mass(mass, eps) * (1 - 1e-9) <= together[0] <= together[1] <= together[2] <= 1
            _expect(noise, f"required_mass_of_draws({mass}, ...) is {together} for 1, 2, 4", rising)
    _check_kept_mean(noise, eps)
    at_x = _sample(noise, x, "x", draws)
    if moments is not None:
        _check_moments(noise, at_x, *moments)
    for size in (eps, -eps, eps / 2, -eps / 2):
        _check_losses(noise, eps, at_x, _sample(noise, _shifted(noise, x, size, eps), f"{size}", draws))


def _check_required_mass(noise: Noise, eps: float) -> None:
    for mass in _MASSES:
        required = [noise.required_mass(mass, e) for e in (0.0, eps / 2, eps)]
        _expect(noise, f"required_mass({mass}, 0) is {required[0]}", abs(required[0] - mass) <= 1e-9)
        rising = mass <= required[1] <= required[2] <= 1
        _expect(noise, f"required_mass({mass}, ...) falls with eps: {required}", rising)
    required = [noise.required_mass(mass, eps) for mass in _MASSES]
    _expect(noise, f"required_mass falls with the mass: {required}", required == sorted(required))


def _check_draws(noise: Noise, x: Tensor | None) -> None:
    """A sample is a function of its draws, with rows of one shape, and differs from draw to draw and place to place."""
    added, x = x is None, torch.zeros(6, dtype=torch.float64) if x is None else x
    streams = (RandomStream(0).draws(name, 0, x) for name in ("one", "one", "other"))
    first, again, other = (noise.sample(x, _COPIES, draws) for draws in streams)
    _expect(noise, f"{_COPIES} noisy copies have the shape {tuple(first.shape)}", len(first) == _COPIES)
    _expect(noise, "the same draws give other noise: use those given, not torch's own", bool((first == again).all()))
    _expect(noise, "other draws give the same noise", bool((first != other).any()))
    _expect(noise, "all noisy copies of one call are equal", bool((first != first[:1]).any()))
    alike = added and first.shape[1:] == x.shape and bool((first == first[:, :1]).all())
    _expect(noise, "all coordinates have the same noise", not alike)


def _check_kept_mass(noise: Noise, mass: float, eps: float) -> None:
    kept = noise.kept_mass(mass, eps)
    again = noise.required_mass(kept, eps) if kept > 0 else 0.0  # nothing is needed to keep nothing
    _expect(noise, f"required_mass(kept_mass({mass})) is {again}, above it", again <= mass * (1 + 1e-9))
    required = noise.required_mass(mass, eps)
    if required < 1:
        back = noise.kept_mass(required, eps)
        _expect(noise, f"kept_mass(required_mass({mass})) is {back}", abs(back - mass) <= 1e-6)


def _check_kept_mean(noise: Noise, eps: float) -> None:
    """A set is a function with values in [0, 1], and so is a mixture of two: the kept mean is below both."""
    masses = (0.1, 0.3, 0.5, 0.7, 0.9)
    kept = [noise.kept_mean(mass, eps) for mass in masses]
    for mass, mean in zip(masses, kept, strict=True):
        of_sets = noise.kept_mass(mass, eps)
        _expect(noise, f"kept_mean({mass}) is {mean}, above kept_mass({mass}) = {of_sets}", mean <= of_sets + 1e-9)
    for low, middle, high in zip(kept[:-2], kept[1:-1], kept[2:], strict=True):
        _expect(noise, f"kept_mean is not convex: {kept} of {masses}", 2 * middle <= low + high + 1e-9)


def _shifted(noise: Noise, x: Tensor, size: float, eps: float) -> Tensor:
    """The input ``x'``: its shift has one number of this size, or the nearest there is within ``eps``."""
    shift = noise.threat.start(x, 0.0, RandomStream(0).draws("check noise shift", 0, x))
    shift.view(-1)[-1] = size
    return noise.threat.apply(x, noise.threat.project(shift, eps))


def _sample(noise: Noise, x: Tensor, name: str, count: int) -> Array:
    """The first number of ``count`` noisy copies of ``x``."""
    noisy = noise.sample(x, count, RandomStream(0).draws(f"check noise at {name}", 0, x))
    sample: Array = noisy.reshape(count, -1)[:, 0].double().numpy()
    return sample


def _check_moments(noise: Noise, sample: Array, mean: float, deviation: float) -> None:
    squares = (sample - mean) ** 2
    found, error = float(sample.mean()), math.sqrt(squares.mean() / len(sample))
    _expect(noise, f"its draws have the mean {found:.4g}, and {mean:.4g} is stated", abs(found - mean) <= 6 * error)
    found, error = float(squares.mean()), float(squares.std()) / math.sqrt(len(sample))
    what = f"its draws have the standard deviation {math.sqrt(found):.4g}, and {deviation:.4g} is stated"
    _expect(noise, what, abs(found - deviation**2) <= 6 * error)


def _check_losses(noise: Noise, eps: float, at_x: Array, at_x_prime: Array) -> None:
    """Compare what sets lose from ``x`` to ``x'`` with the bound, for several orderings of the draws."""
    half = len(at_x) // 2
    orderings: dict[str, Callable[[Array], Array]] = {
        "half-line": lambda draws: draws,
        "half-line upwards": lambda draws: -draws,
        "set of small likelihood ratio": _log_ratio(at_x[:half], at_x_prime[:half]),
    }
    for name, ordering in orderings.items():
        p, q = ordering(at_x[half:]), ordering(at_x_prime[half:])
        _expect_bound(noise, f"a {name}", p, q, partial(noise.required_mass, eps=eps))
        if isinstance(noise, DrawsTogether):
            p, q = (one[: len(one) // 3 * 3].reshape(-1, 3).sum(axis=1) for one in (p, q))
            _expect_bound(noise, f"a {name} of 3 draws", p, q, partial(noise.required_mass_of_draws, eps=eps, draws=3))


def _log_ratio(at_x: Array, at_x_prime: Array) -> Callable[[Array], Array]:
    """The logarithm of the likelihood ratio of ``x'`` to ``x``, estimated in bins of these draws."""
    pooled = np.sort(np.concatenate([at_x, at_x_prime]))
    edges = np.unique(pooled[:: max(1, len(pooled) // _BINS)])
    of_x, of_x_prime = (
        np.bincount(np.searchsorted(edges, draws), minlength=len(edges) + 1) + 0.5 for draws in (at_x, at_x_prime)
    )
    ratios: Array = np.log(of_x_prime / of_x)
    return lambda draws: ratios[np.searchsorted(edges, draws)]


def _expect_bound(noise: Noise, name: str, p: Array, q: Array, required: Callable[[float], float]) -> None:
    """Check the bound for the sets ``{ordering <= t}``.

    Parameters
    ----------
    p, q : array, shape ``(n,)``
        The ordering of draws at ``x`` and at ``x'``.
    """
    margin = 3 / math.sqrt(len(p))
    p, q = np.sort(p), np.sort(q)
    limits = np.unique(p[np.linspace(0, len(p) - 1, 41).astype(int)])
    found = np.stack([np.searchsorted(one, limits, side="right") for one in (p, q)], axis=1) / len(p)
    for mass, kept in found.tolist():
        most = required(min(1.0, kept + margin))
        what = f"{name} has mass {mass:.4f} at x and {kept:.4f} at x': required_mass allows {most:.4f} at x"
        _expect(noise, what, mass - margin <= most)


def _expect(noise: Noise, what: str, holds: bool) -> None:
    if not holds:
        raise ModelError(f"{noise}: {what}")
