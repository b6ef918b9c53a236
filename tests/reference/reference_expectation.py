"""The bounds of smoothing by expectation, slowly: numerical integrals and root finding instead of closed forms."""

from __future__ import annotations

import math

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq


def density(t: float) -> float:
    return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)


def ratio(t: float, h: float) -> float:
    """Density of N(h, 1) over that of N(0, 1)."""
    return density(t - h) / density(t) if abs(t) < 30 else math.exp(h * t - h * h / 2)


def excess(beyond: float, h: float) -> float:
    """``E|L - 1|`` over the event ``|L - 1| > s`` of probability ``beyond``, by integrating densities."""

    def integral(function: object, level: float) -> float:
        upper = (math.log1p(level) + h * h / 2) / h
        lower = (math.log1p(-level) + h * h / 2) / h if level < 1 else -math.inf
        total = quad(function, upper, max(upper, h) + 12, epsabs=0, epsrel=1e-11, limit=200)[0]
        return total + (quad(function, max(-12.0, lower - 12), lower, epsabs=0, epsrel=1e-11)[0] if lower > -12 else 0)

    level = brentq(lambda s: integral(density, s) - beyond, 1e-12, math.exp(8 * h), xtol=1e-14, rtol=1e-13)
    return integral(lambda t: abs(ratio(t, h) - 1) * density(t), level)


def movement(masses: np.ndarray, distances: np.ndarray, h: float) -> float:
    """The largest movement of a mean whose output is at ``distances[i]`` with probability ``masses[i]``, by layers."""
    order = np.argsort(distances)
    steps, beyond = np.diff(distances[order], prepend=0.0), masses[order][::-1].cumsum()[::-1]
    whole = 2 * math.erf(h / 2 / math.sqrt(2))
    return float(sum(step * (whole if p > 1 - 1e-12 else excess(p, h)) for step, p in zip(steps, beyond, strict=True)))
