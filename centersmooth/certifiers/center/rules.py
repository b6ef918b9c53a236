"""Rules of center smoothing: from evidence to certificates, as small functions of order statistics.

The argument, for a distance with ``gamma = 1`` (section 3 of the paper). Let ``c`` be the center at ``x``, ``c'`` the
one that a fresh run finds at any ``x'`` within ``eps``, ``r'`` the median distance of ``c'``.

1. The ball ``B(c, r_hat)`` has mass at least ``S_h(1/2 + delta)`` at ``x``, so at least ``1/2 + delta`` at ``x'``
   (`upper_rank`; fails with probability ``<= alpha2`` over the draws at ``x``).
2. At ``x'`` the run answers only if ``B(c', r')`` has mass above ``1/2 - delta`` (`Budget.accepts_center`; fails with
   probability ``<= alpha1/2`` over the draws at ``x'``). The masses add up to more than 1, so the balls share a point
   and ``d(c, c') <= r_hat + r'``.
3. Half of the sample at ``x'`` lies in ``B(c, r_hat)``, as its mass is at least ``1/2 + delta >= 1/2 + Delta1``
   (`center_margin`; fails with probability ``<= alpha1/2``). A sample point in it has all the others within
   ``2 r_hat``, so the least median distance is ``r' <= 2 r_hat =: r_far``.

Hence ``d(c, c') <= 3 r_hat``: the rules ``paper`` and ``exact``, which differ in their confidence bounds. Smooth-HD
needs one of its ``n0`` candidates in that ball besides: it has none with probability ``<= (1/2 - Delta1)**n0``, which
is added to ``alpha``.

The rule ``measured`` has another step 3: the draws at ``x`` show how small median distances are there, hence a number
``T`` with ``r' <= T`` at every ``x'``, except with the same ``alpha1/2`` at ``x'`` and with half of ``alpha2`` at
``x``; the other half is left to step 1. Theorem and proof are in `.measured`. Both bounds on ``r'`` hold at once, and
which is smaller is known before anything is drawn at ``x'``: so ``r_far = min(T, 2 r_hat)`` costs nothing more. Where
the counts are too small for any ``T``, which is known before the first draw, it is the doubled rule with all of
``alpha2``.

Free centers may be means (`.search`), at ``x`` as at ``x'``: another smoothed model from the
same draws. Steps 1 and 2 hold for any center that is chosen before the fresh draws. The sample points stay among its
proposals, so that its ``r'`` is at most that of the sample points, and step 3 holds with ``T`` and with ``2 r_hat``;
the means of blocks give a second ``T``, usually a smaller one.

For ``d = e**power`` there are two ways. The paper's (theorem 3, relaxed) uses ``gamma`` twice: ``r_far = 2 gamma
r_hat`` and ``d(c, c') <= gamma (r_hat + r_far)``, a factor of 10 for ``gamma = 2``. The other rules go through the
root, where the three steps above hold for ``e`` as they stand: ``r_far = 2**power r_hat`` or ``T``, and ``e(c, c') <=
r_hat**(1/power) + r_far**(1/power)``; a factor of 9 where it is doubled.

Rounding. Steps 1 to 3 hold for computed distances as they do for any symmetric function of two outputs; only the
triangle inequality needs the exact ones. The rule ``paper`` leaves the paper's number as it is, the others enlarge
every radius by `ROUNDING`. ``docs/guarantee.md`` has all of this at length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from centersmooth.bounds import EXACT, PAPER, Bounds
from centersmooth.certificate import Budget, CenterCertificate, Outcome
from centersmooth.certifiers.center.evidence import CenterEvidence
from centersmooth.certifiers.center.measured import far_ranks, far_ranks_of
from centersmooth.certifiers.center.search import BLOCK, CenterKind
from centersmooth.gathering import Setting
from centersmooth.metrics.base import Metric
from centersmooth.noise import Noise

CERTIFIER_OF: Final[dict[CenterKind, str]] = {"sample": "center", "free": "center_free"}
"""Names of the certifiers of both kinds of centers."""

ROUNDING: Final = 1e-4
"""Relative: covers computed distances that are off by up to 1.6e-5 of themselves, in six places.

``docs/guarantee.md``, section 7, has a table of what each distance is off by: ``257 * 2**-24 = 1.53e-5`` at most.
"""

CenterRule = Literal["paper", "exact", "measured", "enumerated"]

BOUNDS_OF: Final[dict[str, Bounds]] = {"paper": PAPER, "exact": EXACT, "measured": EXACT}
"""Confidence bounds of each rule. The measured far radius is a statement about the binomial law itself."""


def center_problem(budget: Budget, bounds: Bounds) -> str:
    """The reason why no center passes its test under this budget, with the ``n`` that would do; empty if one can.

    Step 3 needs ``Delta1 <= delta``.

    >>> from centersmooth.bounds import PAPER
    >>> center_problem(Budget(n=1_000, m=4_000, delta=0.05), PAPER)
    'n = 1000 draws are too few for delta = 0.05 under paper bounds: n >= 1199 would do'
    """
    if bounds.center_margin(budget.n, budget.alpha1 / 2) <= budget.delta:
        return ""
    least = bounds.least_n(budget.delta, budget.alpha1 / 2)
    remedy = f"n >= {least} would do" if least is not None else "no number a machine makes would do: raise delta"
    return f"n = {budget.n} draws are too few for delta = {budget.delta:g} under {bounds.name} bounds: {remedy}"


def radius_problem(budget: Budget, noise: Noise, eps: float, bounds: Bounds) -> str:
    """The reason why no radius is certified at ``eps`` under this budget, with the ``m`` that would do; else empty.

    >>> from centersmooth import GaussianNoise
    >>> from centersmooth.bounds import PAPER
    >>> radius_problem(Budget(n=2_000, m=4_000, delta=0.08), GaussianNoise(0.5), 1.0, PAPER)
    'm = 4000 draws are too few for eps = 1 at delta = 0.08 under paper bounds: m >= 13838 would do'
    """
    mass = noise.required_mass(0.5 + budget.delta, eps)
    if bounds.upper_rank(budget.m, mass, budget.alpha2) is not None:
        return ""
    least = bounds.least_m(mass, budget.alpha2)
    remedy = f"m >= {least} would do" if least is not None else "no number a machine makes would do: use more noise"
    return (
        f"m = {budget.m} draws are too few for eps = {eps:g} at delta = {budget.delta:g} "
        f"under {bounds.name} bounds: {remedy}"
    )


def far_problem(budget: Budget, noise: Noise, eps: float) -> str:
    """The reason why the far radius is the doubled one at ``eps``; empty where it is measured.

    >>> from centersmooth import GaussianNoise
    >>> far_problem(Budget(n=2_000, m=4_000, delta=0.08), GaussianNoise(0.5), 1.5)
    'the far radius is doubled, not measured: n = 2000 and m = 4000 are too few for that at eps = 1.5'
    """
    if far_ranks(budget, noise, eps) is not None:
        return ""
    counts = f"n = {budget.n}" + (f", n0 = {budget.n0}" if budget.n0 else "") + f" and m = {budget.m}"
    return f"the far radius is doubled, not measured: {counts} are too few for that at eps = {eps:g}"


def free_problem(budget: Budget, metric: Metric) -> str:
    """The reason why this metric and budget have no free centers; empty if they have.

    >>> from centersmooth import L2, DistanceFunction
    >>> free_problem(Budget(n=2_000, m=4_000, n0=30), L2())
    "kind is 'free' and n0 is 30: Smooth-HD keeps no sample to take means of: expected n0=0, or kind='sample'"
    """
    if not metric.source.has_means:
        return f"kind is 'free', but {metric.name} has no means of outputs (has_means): expected kind='sample'"
    if budget.n0:
        return (
            f"kind is 'free' and n0 is {budget.n0}: Smooth-HD keeps no sample to take means of: "
            "expected n0=0, or kind='sample'"
        )
    if budget.n < 2 * BLOCK:
        return f"kind is 'free' and n is {budget.n}: expected at least {2 * BLOCK}, as means of {BLOCK} are taken"
    return ""


def spent_alpha(budget: Budget, bounds: Bounds) -> float:
    """The sum of all failure probabilities of one certificate; the same for every rule of one kind of bounds."""
    if not budget.n0:
        return budget.alpha
    margin = bounds.center_margin(budget.n, budget.alpha1 / 2)
    return float(budget.alpha + max(0.0, 0.5 - margin) ** budget.n0)


@dataclass(frozen=True)
class Radii:
    """Components of a certified radius.

    Attributes
    ----------
    r_hat : float
        Radius of the ball around the center that keeps its mass at every ``x'``.
    r_far : float
        Bound on the median distance found at any ``x'``.
    beta : float or None
        ``r_far / r_hat`` where the rule fixes it.
    """

    r_hat: float
    r_far: float
    beta: float | None

    def total(self, metric: Metric, bounds: Bounds) -> float:
        """The largest possible ``d(c, c')``, as the module explains.

        >>> from centersmooth.metrics import L2, Levenshtein, SquaredL2
        >>> Radii(1.0, 2.0, 2.0).total(L2(), PAPER), Radii(1.0, 4.0, 4.0).total(SquaredL2(), PAPER)
        (3.0, 10.0)
        >>> round(Radii(1.0, 4.0, 4.0).total(SquaredL2(), EXACT), 2), Radii(1.0, 2.0, 2.0).total(Levenshtein(), EXACT)
        (9.0, 3.0)
        """
        if bounds.name == "paper":
            return metric.gamma * (self.r_hat + self.r_far)
        root = 1 / metric.power
        total = float((self.r_hat**root + self.r_far**root) ** metric.power * (1 + ROUNDING))
        return float(math.floor(total)) if metric.whole else total


def doubled_radii(
    evidence: CenterEvidence, eps: float, metric: Metric, noise: Noise, budget: Budget, bounds: Bounds
) -> Radii:
    """The rules ``paper`` and ``exact``: the radius of the center's ball, and what the triangle inequality makes of it.

    Raises
    ------
    ValueError
        Where there is a `radius_problem`, or no sample of distances.
    """
    rank = bounds.upper_rank(budget.m, noise.required_mass(0.5 + budget.delta, eps), budget.alpha2)
    if rank is None or evidence.far is None:
        raise ValueError("there is no radius: expected a feasible request and a center that was accepted")
    r_hat = evidence.far.at_rank(rank)
    beta = 2 * metric.gamma if bounds.name == "paper" else 2**metric.power
    return Radii(r_hat, beta * r_hat, beta)


def measured_radii(evidence: CenterEvidence, eps: float, metric: Metric, noise: Noise, budget: Budget) -> Radii | None:
    """The rule ``measured``: ``T`` where it is below the doubled radius; None where the counts are too small for any.

    Of evidence about a free center the smaller of both ``T``.
    """
    ranks = far_ranks_of(budget, noise, eps, "free" if evidence.blocks is not None else "sample")
    if not ranks or evidence.far is None:
        return None
    r_hat = evidence.far.at_rank(ranks[1].radius)
    beta = 2**metric.power
    tables = {1: evidence.candidates, BLOCK: evidence.blocks}
    measured = min(table.at(own.near, own.place) for block, own in ranks.items() if (table := tables[block]))
    return Radii(r_hat, measured, None) if measured < beta * r_hat else Radii(r_hat, beta * r_hat, beta)


def certificate_from(
    evidence: CenterEvidence, eps: float, rule: str, metric: Metric, kind: CenterKind, setting: Setting
) -> CenterCertificate:
    """The certificate of one input at one ``eps``: a read of the sorted distances.

    Parameters
    ----------
    evidence : CenterEvidence
        About a center of this kind, gathered under the same metric and setting.
    eps : float
        Size of the perturbations, in the unit of the threat.
    """
    noise, budget, bounds = setting.noise, setting.budget, BOUNDS_OF[rule]
    alpha = spent_alpha(budget, bounds)
    common: dict[str, Any] = {"alpha": alpha, "certifier": CERTIFIER_OF[kind], "rule": rule, "about": "run"}
    common["threat"] = noise.threat.unit
    if problem := center_problem(budget, bounds) or radius_problem(budget, noise, eps, bounds):
        return CenterCertificate(eps, Outcome.INFEASIBLE, None, False, None, **common, reason=problem)
    if evidence.far is None or not budget.accepts_center(evidence.inside, bounds):
        reason = (
            f"{evidence.inside} of {budget.n} fresh draws fell around the center: too few for delta = {budget.delta:g}"
        )
        return CenterCertificate(
            eps, Outcome.BAD_CENTER, None, False, evidence.center, **common, reason=reason, r_center=evidence.r_center
        )

    measured = measured_radii(evidence, eps, metric, noise, budget) if rule == "measured" else None
    radii = measured or doubled_radii(evidence, eps, metric, noise, budget, bounds)
    radius, diameter = radii.total(metric, bounds), metric.diameter(tuple(evidence.center.shape), setting.output_range)
    return CenterCertificate(
        eps=eps,
        outcome=Outcome.CERTIFIED,
        radius=min(radius, diameter),
        vacuous=radius >= diameter,
        answer=evidence.center,
        **common,
        reason=far_problem(budget, noise, eps) if rule == "measured" else "",
        r_center=evidence.r_center,
        r_hat=radii.r_hat,
        r_far=radii.r_far,
        beta=radii.beta,
    )
