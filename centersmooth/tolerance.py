"""The number of fresh draws, chosen from those that chose the center.

A certificate from ``m`` fresh draws comes close to that of unlimited ones long before ``m`` is a million. How close
depends on how scattered the distances are, which the draws of the stage ``center`` show: they are the *pilot*. From it
the radius at every ``m`` of a fixed list is estimated, and the least ``m`` is taken whose radius is expected within ``1
+ tolerance`` of that of all of ``Budget.m``.

**The certificate holds as stated.** Given the draws of the stage ``center``, ``m`` is a fixed number and the fresh
draws are independent of it: so a statement that fails with probability at most ``alpha`` for every fixed ``m`` fails
with probability at most ``alpha`` for the one chosen. A poor estimate costs draws or radius, never the guarantee.

What is spent on the draws of the center themselves must not depend on the choice. The rule ``measured`` spends half of
``alpha2`` there, and none where ``m`` is too small for it, when it gives way to ``exact``: choosing between the two by
these draws could cost both. So an ``m`` at which the rule gives way, though at ``Budget.m`` it does not, is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, runtime_checkable

from torch import Tensor

from centersmooth.certificate import Budget, Certificate
from centersmooth.certifiers.base import Certifier
from centersmooth.checks import a_number
from centersmooth.errors import RequestError
from centersmooth.gathering import Collector, Setting, Shared
from centersmooth.outputs import brief

LEAST_PILOT: Final = 100
"""Draws from which the number of further ones can be chosen."""


@runtime_checkable
class PilotCollector(Collector, Protocol):
    """A collector whose draws of the stage ``center`` tell what fresh ones are going to show."""

    def foresee(self) -> Callable[[Budget], Any]:
        """The evidence expected under a budget of any counts, as a function of it; after the stage ``center``."""
        ...

    def shorten(self, m: int) -> None:
        """Want the fresh draws of a budget with this ``m``; before the first of them."""
        ...


def counts(budget: Budget) -> list[int]:
    """The numbers of fresh draws that may be chosen, ascending: from ``n`` to ``m``, in steps of a factor ``sqrt(2)``.

    Not below ``n``, as many as a center is tested by.

    Examples
    --------
    >>> counts(Budget(n=1_000, m=5_000)), counts(Budget(n=1_000, m=500))
    ([1000, 1414, 2000, 2828, 4000, 5000], [500])
    """
    steps = math.ceil(2 * math.log2(max(1.0, budget.m / budget.n)))
    return [math.floor(budget.n * 2 ** (step / 2)) for step in range(steps)] + [budget.m]


@dataclass(frozen=True)
class WithinTolerance:
    """A certifier that measures with as many fresh draws as a tolerance asks for.

    Its evidence is a pair: that of the certifier, and the setting with the ``m`` chosen.

    Parameters
    ----------
    certifier : Certifier
    rule : str
    eps : sequence of floats
        Each has its radius within the tolerance.
    tolerance : float
        Relative.
    """

    certifier: Certifier
    rule: str
    eps: Sequence[float]
    tolerance: float

    def require(self, setting: Setting) -> None:
        """Refuse a tolerance that is not one, or from which this certifier cannot choose a number of draws.

        Raises
        ------
        RequestError
        """
        expected = "a number above 0, such as 0.05, or None for all of m"
        a_number("tolerance", self.tolerance, 0.0, math.inf, expected)
        collector = self.certifier.collector(setting, Shared(), radius=True)
        asked = f"tolerance is {brief(self.tolerance)}"
        if not isinstance(collector, PilotCollector):
            raise RequestError(f"{asked}: the certifier {self.certifier.name} takes all of m, expected None")
        if (pilot := collector.wants("center")) < LEAST_PILOT:
            raise RequestError(
                f"{asked}: n = {pilot} draws are too few to choose m by, expected at least {LEAST_PILOT}"
            )

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> ShortenedCollector:
        """The certifier's own collector, shortened once the center is there."""
        return ShortenedCollector(self, self.certifier.collector(setting, shared, radius=radius), setting)

    def least_m(self, foreseen: Callable[[Budget], Any], setting: Setting) -> int:
        """The least of `counts` whose radii are expected within the tolerance; the last one always is."""

        def expected(m: int) -> list[Certificate]:
            shortened = with_draws(setting, m)
            evidence = foreseen(shortened.budget)
            return [self.certifier.certificate(evidence, eps, self.rule, shortened) for eps in self.eps]

        limits = expected(setting.budget.m)
        return next(m for m in counts(setting.budget) if all(map(self._suffices, expected(m), limits)))

    def _suffices(self, certificate: Certificate, limit: Certificate) -> bool:
        if limit.radius is None:
            return True  # more draws would not help
        return (
            certificate.radius is not None
            and bool(certificate.reason) == bool(limit.reason)  # neither rule gave way, or both did: one division
            and certificate.radius <= (1 + self.tolerance) * limit.radius
        )


class ShortenedCollector:
    """A collector that wants fewer fresh draws after a look at those of the center."""

    def __init__(self, request: WithinTolerance, collector: Collector, setting: Setting) -> None:
        self._request, self._collector, self._setting = request, collector, setting

    def wants(self, stage: str) -> int:
        return self._collector.wants(stage)

    def update(self, stage: str, outputs: Tensor) -> None:
        self._collector.update(stage, outputs)
        if stage == "center" and not self.wants("center") and isinstance(self._collector, PilotCollector):
            m = self._request.least_m(self._collector.foresee(), self._setting)
            self._setting = with_draws(self._setting, m)
            self._collector.shorten(m)

    def compute(self, base: Tensor) -> tuple[Any, Setting]:
        return self._collector.compute(base), self._setting


def with_draws(setting: Setting, m: int) -> Setting:
    """A setting with another ``m``."""
    return replace(setting, budget=replace(setting.budget, m=m))
