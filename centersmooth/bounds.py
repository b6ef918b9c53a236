"""Confidence bounds of center smoothing: from counts to guarantees, on plain floats.

Each certificate spends its failure probability in three places, and a *bounds* object answers for all three:

``center_margin(n, alpha)``
    The excess mass ``Delta1`` such that a ball of mass ``1/2 + Delta1`` holds at least half of ``n`` draws with
    probability ``>= 1 - alpha`` (Lemma 1 of the paper).
``mass_floor(inside, n, alpha)``
    A number that the mass of a ball exceeds with probability ``>= 1 - alpha``, when ``inside`` of ``n`` fresh
    draws fell into it (Algorithm 1, the test of the center).
``upper_rank(m, mass, alpha)``
    A rank ``j`` such that the ``j``-th smallest of ``m`` fresh distances is, with probability ``>= 1 - alpha``,
    the radius of a ball of at least ``mass`` (Lemma 2, Algorithm 2).

`PaperBounds` is the paper to the letter (Hoeffding and Dvoretzky-Kiefer-Wolfowitz). `ExactBounds` replaces the
inequalities by the binomial law they bound, and is never worse. Both hold for every law of the distances, with
ties and atoms, because they only ever use order statistics, never interpolated quantiles.

Notation: ``n`` draws for the center and its test, ``m`` draws for the radius, ``k = ceil(n/2)``.

Source: Kumar and Goldstein, *Center Smoothing: Certified Robustness for Networks with Structured Outputs*,
NeurIPS 2021; Clopper and Pearson, *The use of confidence or fiducial limits*, Biometrika 1934; Massart, *The tight
constant in the DKW inequality*, Annals of Probability 1990.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from scipy.special import betainc, betainccinv, betaincinv

BoundsName = Literal["paper", "exact"]

_ROUND_UP = 1 + 1e-12
"""Outward rounding: far above the error of the special functions, far below any statistical margin."""


UNREACHABLE = 1e-9
"""A mass closer to 1, or a margin closer to 0, needs more draws than any machine makes."""


def least(holds: Callable[[int], bool], at_most: int | None = None) -> int:
    """The least positive integer at which a property that stays true begins to hold, by doubling and bisection."""
    high = 1 if at_most is None else at_most
    while at_most is None and not holds(high):
        high *= 2
    low = 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def half_count(n: int) -> int:
    """``k = ceil(n/2)``, the number of points a median ball has to hold.

    >>> half_count(4), half_count(5)
    (2, 3)
    """
    return (n + 1) // 2


def mass_of_count(count: int, draws: int, alpha: float) -> float:
    """The mass of a set that holds at least ``count`` of ``draws`` draws w.p. ``>= 1 - alpha``, rounded up.

    >>> round(mass_of_count(501, 1_001, 0.005), 3), round(mass_of_count(901, 1_001, 0.005), 3)
    (0.541, 0.922)
    """
    return min(1.0, float(betainccinv(count, draws - count + 1, alpha)) * _ROUND_UP)


class Bounds(Protocol):
    """Confidence bounds; the module explains each method."""

    @property
    def name(self) -> BoundsName: ...
    def center_margin(self, n: int, alpha: float) -> float: ...
    def mass_floor(self, inside: int, n: int, alpha: float) -> float: ...
    def upper_rank(self, m: int, mass: float, alpha: float) -> int | None: ...
    def least_n(self, margin: float, alpha: float) -> int | None: ...
    def least_m(self, mass: float, alpha: float) -> int | None: ...


class PaperBounds:
    """Hoeffding's inequality for the center, Dvoretzky-Kiefer-Wolfowitz for the radius, as in the paper."""

    name: BoundsName = "paper"

    def center_margin(self, n: int, alpha: float) -> float:
        """``sqrt(ln(1/alpha) / (2n))``, Hoeffding. With ``alpha = alpha1/2`` it is the paper's ``Delta1``.

        >>> round(PaperBounds().center_margin(10_000, 0.0025), 6)
        0.017308
        """
        return math.sqrt(-math.log(alpha) / (2 * n)) * _ROUND_UP

    def mass_floor(self, inside: int, n: int, alpha: float) -> float:
        """Hoeffding: the mass is above ``inside/n - margin`` with probability ``>= 1 - alpha``."""
        return inside / n - self.center_margin(n, alpha)

    def upper_rank(self, m: int, mass: float, alpha: float) -> int | None:
        """``ceil(q*m)`` with ``q = mass + sqrt(ln(1/alpha) / (2m))`` (equation 5); None where ``q > 1``.

        By the DKW inequality the empirical distribution exceeds the true one by no more than the root with
        probability ``>= 1 - alpha``, so the distribution function at that order statistic is at least ``mass``.

        >>> PaperBounds().upper_rank(10_000, 0.87, 0.005)
        8863
        >>> PaperBounds().upper_rank(100, 0.9, 0.005) is None
        True
        """
        q = (mass + math.sqrt(-math.log(alpha) / (2 * m))) * _ROUND_UP
        return math.ceil(q * m) if q <= 1 else None

    def least_n(self, margin: float, alpha: float) -> int | None:
        """The least ``n`` whose `center_margin` is at most ``margin``; None where no number of draws would do.

        >>> PaperBounds().least_n(0.05, 0.0025)
        1199
        """
        return least(lambda n: self.center_margin(n, alpha) <= margin) if margin > UNREACHABLE else None

    def least_m(self, mass: float, alpha: float) -> int | None:
        """The least ``m`` that has an `upper_rank`; None where no number of draws a machine could make would do.

        >>> PaperBounds().least_m(0.8698, 0.005)
        157
        """
        return least(lambda m: self.upper_rank(m, mass, alpha) is not None) if 1 - mass > UNREACHABLE else None


class ExactBounds:
    """The binomial law itself: Clopper-Pearson for the center, the exact order-statistic rank for the radius."""

    name: BoundsName = "exact"

    def center_margin(self, n: int, alpha: float) -> float:
        """The least ``Delta1`` with ``Pr[Bin(n, 1/2 + Delta1) < k] <= alpha``.

        ``Pr[Bin(n, p) < k] = Pr[Beta(k, n-k+1) > p]``, so it is that law's upper ``alpha`` quantile less 1/2.

        >>> round(ExactBounds().center_margin(10_000, 0.0025), 5)
        0.01398
        """
        k = half_count(n)
        return float(betainccinv(k, n - k + 1, alpha)) * _ROUND_UP - 0.5

    def mass_floor(self, inside: int, n: int, alpha: float) -> float:
        """Clopper-Pearson's lower limit; the mass is above it with probability ``>= 1 - alpha``."""
        return float(betaincinv(inside, n - inside + 1, alpha)) / _ROUND_UP if inside else 0.0

    def upper_rank(self, m: int, mass: float, alpha: float) -> int | None:
        """The least ``j`` with ``Pr[Bin(m, mass) >= j] <= alpha``; None where even ``j = m`` fails.

        Let ``t`` be the ``mass``-quantile of the distance. The ``j``-th smallest of ``m`` draws is below ``t`` only
        if at least ``j`` draws are, and each is with probability at most ``mass``: so it is at least ``t``, and
        its ball holds at least ``mass``, except with probability ``Pr[Bin(m, mass) >= j] <= alpha``.

        >>> ExactBounds().upper_rank(10_000, 0.87, 0.005)
        8787
        >>> ExactBounds().upper_rank(38, 0.8698, 0.005), ExactBounds().upper_rank(37, 0.8698, 0.005)
        (38, None)
        """
        p = min(1.0, mass * _ROUND_UP)
        if m == 0 or self._tail(m, m, p) > alpha:
            return None
        return least(lambda j: self._tail(j, m, p) <= alpha, at_most=m)

    def least_n(self, margin: float, alpha: float) -> int | None:
        """The least even ``n`` from which `center_margin` stays at most ``margin``; None where no number would do.

        >>> ExactBounds().least_n(0.05, 0.0025)
        764
        """
        return 2 * least(lambda half: self.center_margin(2 * half, alpha) <= margin) if margin > UNREACHABLE else None

    def least_m(self, mass: float, alpha: float) -> int | None:
        """The least ``m`` with ``mass**m <= alpha``; None where no number of draws a machine could make would do.

        >>> ExactBounds().least_m(0.8698, 0.005)
        38
        """
        return least(lambda m: self.upper_rank(m, mass, alpha) is not None) if 1 - mass > UNREACHABLE else None

    @staticmethod
    def _tail(j: int, m: int, p: float) -> float:
        """``Pr[Bin(m, p) >= j]`` for ``j >= 1``, rounded up."""
        return float(betainc(j, m - j + 1, p)) * _ROUND_UP


PAPER = PaperBounds()
EXACT = ExactBounds()
BOUNDS: Mapping[str, Bounds] = {"paper": PAPER, "exact": EXACT}
