"""Bounds on the median distance at ``x'`` from distances measured at ``x``: the ranks behind the rule ``measured``.

The paper bounds the median distance ``r'`` that a run at ``x'`` finds by ``2 r_hat``, from the triangle inequality
alone. But a run at ``x`` sees how large median distances are: it has the distances from every candidate to the sample.
From those this rule reads a number ``T`` with ``r' <= T`` at every ``x'`` within ``eps``. The smoothed function, the
draws and the abstentions are the paper's; no property of the distance is used.

Notation. ``mu`` and ``mu'`` are the laws of ``f(x + P)`` and ``f(x' + P)``; ``F_y(t)`` and ``F'_y(t)`` the masses they
give to ``{z : d(y, z) <= t}``; ``S_h(p)`` the mass at ``x`` that leaves ``p`` at ``x'`` (`Noise.required_mass`). A run
has ``C`` candidates and ``n`` outputs to compare them with, ``k = ceil(n/2)``: the same ones in Smooth, ``C = n``;
drawn apart in Smooth-HD, ``C = n0``. Either way ``r'`` is the least, over its candidates, of the ``k``-th smallest
distance. At ``x`` there are ``N = C`` candidates ``y_i``, each with ``M`` distances to other outputs: ``M = n - 1`` in
Smooth, which leaves out the point itself, and ``n`` in Smooth-HD.

**At x'.** Fix ``p_s`` and ``q_a``. Suppose that a set ``A`` of outputs has mass ``>= p_s`` under ``mu'`` and that every
``y`` in ``A`` has ``F'_y(T) >= q_a``. Then ``r' > T`` with probability at most

    ``(1 - p_s)**n + n p_s delta``     (Smooth,    ``delta = Pr[Bin(n-1, q_a) < k-1]``)
    ``(1 - p_s)**n0 + delta``          (Smooth-HD, ``delta = Pr[Bin(n, q_a) < k]``).

*Proof.* Mark each candidate that lies in ``A`` with probability ``p_s / mu'(A)``, independently of all else: each is
marked with probability ``p_s``, independently of the others, so that none is with probability ``(1 - p_s)**C``. Given a
candidate in ``A``, the other outputs are independent draws of ``mu'``, each within ``T`` of it with probability
``>= q_a``; so it has fewer than ``k`` outputs within ``T``, itself counted in Smooth, with probability ``<= delta``.
If ``r' > T`` then every marked candidate is such a failure. In Smooth the expected number of marked failures is at most
``n p_s delta``. In Smooth-HD the first marked candidate is chosen without looking at the outputs. []

**At x.** Let ``p_a = S_h(q_a)`` and ``P_s = S_h(p_s)``. Choose ranks ``k_a``, ``j`` and a number ``b >= 1`` with

    ``N Pr[Bin(M, p_a) >= k_a] <= a_t b``     and     ``Pr[Bin(N, P_s) >= j - b + 1] <= a_j``.

Let ``t_i`` be the ``k_a``-th smallest distance of ``y_i``, and ``T`` the ``j``-th smallest ``t_i``. Then, except with
probability ``a_t + a_j``, the set ``A = {y : F_y(T) >= p_a}`` has ``mu(A) >= P_s``.

*Proof.* Let ``tau(y) = inf {t : F_y(t) >= p_a}``; as ``F_y`` is continuous from the right, ``A = {y : tau(y) <= T}``.
Given ``y_i``, its ``M`` others are independent draws of ``mu``, and each is nearer than ``tau(y_i)`` with probability
``<= p_a``: so ``t_i < tau(y_i)`` with probability ``<= Pr[Bin(M, p_a) >= k_a]``. The expected number of such ``i`` is
``<= a_t b``, so there are ``b`` or more of them with probability ``<= a_t`` (Markov). Let ``s`` be the
``P_s``-quantile of ``tau(y)``, ``y`` drawn from ``mu``. If ``T < s``, then ``j`` of the ``t_i`` are below ``s``, and
unless ``b`` of them are below their ``tau(y_i)``, at least ``j - b + 1`` of the independent ``tau(y_i)`` are below
``s``: probability ``<= a_j``. Otherwise ``T >= s`` and ``mu(A) >= P_s``. []

**Means of blocks** (``center: free``). There a run also proposes the ``N = n // L`` means of ``L`` consecutive outputs,
so that ``r'`` is at most the least ``k``-th smallest distance of these as well. Both parts hold for them, with a ``T``
of their own: a candidate is now a function of ``L`` draws, and what was said of the other outputs is said of the ``M =
n - L`` outside its block.

At x' ``A`` is a set of means, its mass taken under their law at ``x'``: if that is ``>= p_s``, and ``F'_y(T) >= q_a``
for ``y`` in ``A``, then ``r' > T`` with probability at most

    ``(1 - p_s)**N + N p_s delta``,    ``delta = Pr[Bin(n - L, q_a) < k]``.

The means are independent of each other, as blocks share no draw; given one, the ``n - L`` other outputs are independent
draws of ``mu'``. The mean is no point of the sample and its block is left out, so that all ``k`` have to come from
these; the block's own points, if near, only help. The rest of the proof is that of Smooth.

At x ``A = {y : F_y(T) >= p_a}`` again, with ``M = n - L``, and ``P_s`` is the mass that leaves ``p_s`` under the law of
*means* (`Noise.required_mass_of_draws`): a mean is a function of ``L`` noisy inputs together, which are one Gaussian
draw around ``(x, ..., x)`` and at ``x'`` one around a point ``sqrt(L) |x' - x|`` away; so ``P_s = S_(h sqrt(L))(p_s)``.
Balls are still masses of single outputs: ``p_a = S_h(q_a)``. Nothing is used of the mean but that it is a function of
its block.

Both bounds on ``r'``, from sample points and from means, hold at once when both sets have their masses at ``x``, so the
smaller one may be taken: each has half of the share of ``alpha2``, and all of the share of ``alpha1``, as which of them
is used is settled at ``x``.

**Together.** By the shift bound, applied to the set ``A`` and to each ball around a point of it, ``mu(A) >= S_h(p_s)``
and ``F_y(T) >= S_h(q_a)`` give what the first part supposes, at every ``x'`` at once. The probability over the draws at
``x`` is spent before any ``x'`` is looked at; that over the run at ``x'`` is counted for each ``x'`` by itself, as
`alpha1` is.

**What is fixed beforehand.** All of ``p_s, q_a, k_a, j, b`` and how the failure probabilities are divided follow from
the budget, the noise and ``eps``, never from a draw. The division: ``alpha1/2`` tests the center, as always; ``3/8
alpha1`` and ``1/8 alpha1`` are the two terms at ``x'``; ``alpha2/2`` is spent on ``r_hat``, ``alpha2/4`` on each of
``a_t`` and ``a_j``, or ``alpha2/8`` for each of two ``T``. Moving these shares changes certificates by less than 0.5%.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from scipy.special import betainccinv, ndtri

from centersmooth.bounds import EXACT, half_count
from centersmooth.certificate import Budget
from centersmooth.certifiers.center.search import BLOCK, CenterKind
from centersmooth.noise import DrawsTogether, Noise

_ROUND_UP = 1 + 1e-12
"""Outward rounding of masses, as in `centersmooth.bounds`."""


@dataclass(frozen=True)
class FarRanks:
    """Which order statistics certify at one eps.

    Attributes
    ----------
    near : int
        ``k_a``: of each candidate's sorted distances.
    place : int
        ``j``: of the candidates' values.
    radius : int
        Of the ``m`` sorted distances to the center: ``r_hat`` at a failure probability of ``alpha2/2``.
    """

    near: int
    place: int
    radius: int


def far_ranks_of(budget: Budget, noise: Noise, eps: float, center: CenterKind) -> dict[int, FarRanks]:
    """The ranks of each ``T`` of a rule, by the draws of a candidate: 1, and `BLOCK` for free centers.

    None where the counts are too small for any. Two share the failure probability of one; where they are too small for
    means of blocks, the sample points have all of it.
    """
    if center == "free":
        halves = {block: far_ranks(budget, noise, eps, block=block, share=0.5) for block in (1, BLOCK)}
        both = {block: ranks for block, ranks in halves.items() if ranks is not None}
        if len(both) == 2:
            return both
    alone = far_ranks(budget, noise, eps)
    return {} if alone is None else {1: alone}


def far_ranks(budget: Budget, noise: Noise, eps: float, *, block: int = 1, share: float = 1.0) -> FarRanks | None:
    """The ranks for one eps; None where the counts are too small for any.

    Parameters
    ----------
    block : int
        Draws of a candidate: 1 for the sample points or those of Smooth-HD, more for means of blocks.
    share : float
        Of what ``T`` may spend at ``x``, ``alpha2/2``.

    Examples
    --------
    >>> from centersmooth import Budget, GaussianNoise
    >>> far_ranks(Budget(), GaussianNoise(1.0), eps=1.0)
    FarRanks(near=8699, place=168, radius=870790)
    """
    if budget.n < 3:
        return None
    candidate_mass, near_mass = masses_of_a_run(budget, block)
    if block == 1:
        candidate_mass_at_x = noise.required_mass(candidate_mass, eps)
    elif isinstance(noise, DrawsTogether):
        candidate_mass_at_x = noise.required_mass_of_draws(candidate_mass, eps, block)
    else:
        raise ValueError(f"{noise} has no bound for several draws together, which means of blocks need")
    masses = (candidate_mass_at_x, noise.required_mass(near_mass, eps), noise.required_mass(0.5 + budget.delta, eps))
    return _far_ranks(budget, block, share, *masses)


def masses_of_a_run(budget: Budget, block: int = 1) -> tuple[float, float]:
    """``(p_s, q_a)``: the masses at ``x'`` under which ``r' <= T`` fails with probability ``<= alpha1/2``.

    ``(1 - p_s)**C = 3/8 alpha1``; ``delta`` is ``1/8 alpha1``, divided by ``C p_s`` in Smooth.
    """
    candidates, others = candidates_and_others(budget, block)
    candidate_mass = -math.expm1(math.log(0.375 * budget.alpha1) / candidates) * _ROUND_UP
    failing = 0.125 * budget.alpha1 / (1 if budget.n0 else candidates * candidate_mass)
    own = 1 if block == 1 and not budget.n0 else 0
    needed = half_count(budget.n) - own
    near_mass = float(betainccinv(needed, others - needed + 1, failing)) * _ROUND_UP
    return min(1.0, candidate_mass), min(1.0, near_mass)


def candidates_and_others(budget: Budget, block: int = 1) -> tuple[int, int]:
    """``(C, M)``: candidates, and the outputs each of them is compared with."""
    return (budget.n0, budget.n) if budget.n0 else (budget.n // block, budget.n - block)


@lru_cache(maxsize=1024)
def _far_ranks(
    budget: Budget, block: int, share: float, candidate_mass: float, near_mass: float, center_mass: float
) -> FarRanks | None:
    """The pair of ranks of least `_cost`, over ``b`` in powers of two."""
    candidates, others = candidates_and_others(budget, block)
    radius = EXACT.upper_rank(budget.m, center_mass, budget.alpha2 / 2)
    spent = budget.alpha2 / 4 * share
    first = EXACT.upper_rank(candidates, candidate_mass, spent)
    if radius is None or first is None:
        return None
    options = []
    for spared in (2**i for i in range(candidates.bit_length())):
        near = EXACT.upper_rank(others, near_mass, spent * spared / candidates)
        if near is not None and first + spared - 1 <= candidates:
            options.append(FarRanks(near, first + spared - 1, radius))
    return min(options, key=lambda ranks: _cost(ranks, candidates, others, block), default=None)


def _cost(ranks: FarRanks, candidates: int, others: int, block: int) -> float:
    """A proxy for the size of ``T``, which orders pairs of ranks; any fixed order is sound.

    For ``D`` independent standard normal coordinates, the squared distances of a candidate ``y`` have mean ``|y|^2 +
    D`` and variance about ``2 D + 4 |y|^2``. The mean of ``L`` outputs has ``|y|^2`` about ``D/L``, with variance ``2
    D/L^2`` over the candidates: at the quantiles ``u`` and ``v`` of the two, ``T^2`` is about ``D (1 + 1/L) + sqrt(D (2
    + 4/L)) (z_u + z_v / sqrt(L (L+2)))``.
    """
    within, between = ndtri((ranks.near - 0.5) / others), ndtri((ranks.place - 0.5) / candidates)
    return float(within + between / math.sqrt(block * (block + 2)))
