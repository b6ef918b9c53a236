"""From evidence to certificates: the rules, as small functions of order statistics.

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

Hence ``d(c, c') <= 3 r_hat``. Smooth-HD needs one of its ``n0`` candidates in that ball besides: it has none with
probability ``<= (1/2 - Delta1)**n0``, which is added to ``alpha``.

For ``d = e**power`` there are two ways. The paper's (theorem 3, relaxed) uses ``gamma`` twice: ``r_far = 2 gamma
r_hat`` and ``d(c, c') <= gamma (r_hat + r_far)``, a factor of 10 for ``gamma = 2``. ``bounds: exact`` goes through the
root, where the three steps above hold for ``e`` as they stand: ``(1 + 2)**power * r_hat``, a factor of 9.
"""

from __future__ import annotations

from torch import Tensor

from centersmooth.bounds import Bounds
from centersmooth.certificate import Budget, Certificate, Outcome
from centersmooth.evidence import Evidence
from centersmooth.metrics.base import Metric
from centersmooth.noise import Noise


def center_problem(budget: Budget, bounds: Bounds) -> str:
    """Why no center can ever be trusted under this budget, with the ``n`` that would do; empty if one can.

    Step 3 needs ``Delta1 <= delta``.

    >>> from centersmooth.bounds import PAPER
    >>> center_problem(Budget(n=1_000, m=4_000, delta=0.05), PAPER)
    'n = 1000 draws are too few for delta = 0.05 under paper bounds: n >= 1199 would do'
    """
    if bounds.center_margin(budget.n, budget.alpha1 / 2) <= budget.delta:
        return ""
    least = bounds.least_n(budget.delta, budget.alpha1 / 2)
    remedy = f"n >= {least} would do" if least is not None else "no number of draws would do: raise delta"
    return f"n = {budget.n} draws are too few for delta = {budget.delta:g} under {bounds.name} bounds: {remedy}"


def radius_problem(budget: Budget, noise: Noise, eps: float, bounds: Bounds) -> str:
    """Why no radius can be certified at ``eps`` under this budget, with the ``m`` that would do; empty if one can.

    >>> from centersmooth import GaussianNoise
    >>> from centersmooth.bounds import PAPER
    >>> radius_problem(Budget(n=2_000, m=4_000, delta=0.08), GaussianNoise(0.5), 1.0, PAPER)
    'm = 4000 draws are too few for eps = 1 at delta = 0.08 under paper bounds: m >= 13838 would do'
    """
    mass = noise.required_mass(0.5 + budget.delta, eps)
    if bounds.upper_rank(budget.m, mass, budget.alpha2) is not None:
        return ""
    least = bounds.least_m(mass, budget.alpha2)
    remedy = f"m >= {least} would do" if least is not None else "no number of draws would do: lower eps or raise sigma"
    return (
        f"m = {budget.m} draws are too few for eps = {eps:g} at delta = {budget.delta:g} "
        f"under {bounds.name} bounds: {remedy}"
    )


def spent_alpha(budget: Budget, bounds: Bounds) -> float:
    """The sum of all failure probabilities of one certificate."""
    if not budget.n0:
        return budget.alpha
    margin = bounds.center_margin(budget.n, budget.alpha1 / 2)
    return float(budget.alpha + max(0.0, 0.5 - margin) ** budget.n0)


def doubled_radius(r_hat: float, metric: Metric, bounds: Bounds) -> tuple[float, float, float]:
    """``(radius, r_far, beta)`` from ``r_hat`` alone, as the module explains: ``far: doubled``.

    ``beta`` is ``r_far / r_hat``.

    >>> from centersmooth.bounds import EXACT, PAPER
    >>> from centersmooth.metrics import L2, SquaredL2
    >>> doubled_radius(1.0, L2(), PAPER)
    (3.0, 2.0, 2.0)
    >>> doubled_radius(1.0, SquaredL2(), PAPER), doubled_radius(1.0, SquaredL2(), EXACT)
    ((10.0, 4.0, 4.0), (9.0, 4.0, 4.0))
    """
    if bounds.name == "paper":
        beta = 2 * metric.gamma
        return metric.gamma * (1 + beta) * r_hat, beta * r_hat, beta
    beta = 2**metric.power
    return 3**metric.power * r_hat, beta * r_hat, beta


def certificate_from(
    evidence: Evidence,
    eps: float,
    *,
    metric: Metric,
    noise: Noise,
    budget: Budget,
    bounds: Bounds,
    output_range: tuple[float, float] | None = None,
) -> Certificate:
    """The certificate of one input at one ``eps``: a read of the sorted distances.

    Parameters
    ----------
    evidence : Evidence
        From `centersmooth.evidence.gather` under the same metric, noise and budget.
    eps : float
        l2 radius of the inputs, in the unit of the input.
    """
    alpha = spent_alpha(budget, bounds)

    def without_radius(outcome: Outcome, reason: str, center: Tensor | None) -> Certificate:
        r_center = None if center is None else evidence.r_center
        return Certificate(eps, outcome, None, False, center, r_center, None, None, None, alpha, bounds.name, reason)

    problem = center_problem(budget, bounds) or radius_problem(budget, noise, eps, bounds)
    if problem:
        return without_radius(Outcome.INFEASIBLE, problem, None)
    if evidence.far is None or not budget.accepts_center(evidence.inside, bounds):
        reason = (
            f"{evidence.inside} of {budget.n} fresh draws fell around the center: too few for delta = {budget.delta:g}"
        )
        return without_radius(Outcome.BAD_CENTER, reason, evidence.center)

    rank = bounds.upper_rank(budget.m, noise.required_mass(0.5 + budget.delta, eps), budget.alpha2)
    assert rank is not None  # radius_problem has ruled it out
    r_hat = evidence.far.at_rank(rank)
    radius, r_far, beta = doubled_radius(r_hat, metric, bounds)
    diameter = metric.diameter(tuple(evidence.center.shape), output_range)
    return Certificate(
        eps=eps,
        outcome=Outcome.CERTIFIED,
        radius=min(radius, diameter),
        vacuous=radius >= diameter,
        center=evidence.center,
        r_center=evidence.r_center,
        r_hat=r_hat,
        r_far=r_far,
        beta=beta,
        alpha=alpha,
        bounds=bounds.name,
    )
