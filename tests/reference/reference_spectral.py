"""The spectral bound on the movement of a mean, slowly: numerical integrals and root finding."""

from __future__ import annotations

import math

import numpy as np
from reference_expectation import density, excess, ratio
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar


def tails(function: object, level: float, h: float) -> float:
    """The integral of ``function(t)`` over ``|L(t) - 1| > level``."""
    upper = (math.log1p(level) + h * h / 2) / h
    lower = (math.log1p(-level) + h * h / 2) / h if level < 1 else -math.inf
    total = quad(function, upper, max(upper, h) + 12, epsabs=0, epsrel=1e-11, limit=200)[0]
    return total + (quad(function, lower - 12, lower, epsabs=0, epsrel=1e-11)[0] if lower > -12 else 0)


def excess_above(beyond: float, least: float, h: float) -> float:
    """``E(|L - 1| - least)_+`` over the event of probability ``beyond``, or less, on which it is largest."""
    level = 0.0
    if beyond < 1 - 1e-9:
        level = brentq(lambda s: tails(density, s, h) - beyond, 1e-12, math.exp(8 * h), xtol=1e-14, rtol=1e-13)
    return tails(lambda t: (abs(ratio(t, h) - 1) - least) * density(t), max(level, least), h)


def movement(masses: np.ndarray, distances: np.ndarray, second: float, t: float, h: float) -> float:
    """The bound for an output at ``distances[i]`` with probability ``masses[i]`` and ``lambda_t = second``."""
    order = np.argsort(distances)
    starts, ends = np.append(0.0, distances[order][:-1]), distances[order]
    beyond = masses[order][::-1].cumsum()[::-1]
    pieces = list(zip(starts, ends, np.minimum(beyond, 1 - 1e-12), strict=True))
    at_t = float(masses[distances > t].sum())
    tail = sum((end - max(start, t)) * excess(p, h) for start, end, p in pieces if end > t)
    last = t * excess(at_t, h) if at_t else 0.0

    def bound(mu: float) -> float:
        held = sum(
            quad(lambda s, p=p: excess_above(p, 2 * mu * s, h), start, min(end, t), epsrel=1e-6, limit=100)[0]
            for start, end, p in pieces
            if start < t
        )
        return mu * second + held + min(last, mu * t * t * at_t) + tail

    return float(min(bound(0.0), minimize_scalar(lambda u: bound(math.exp(u)), bounds=(-5, 5), method="bounded").fun))
