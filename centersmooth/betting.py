"""A sequential test of yes/no questions: is the mean of 0/1 draws above a threshold?

A certificate of a class or of a pixel asks one such question: is the mass of an answer under the noise above the mass
that `Noise.required_mass` asks for at this ``eps``? The limit of Clopper and Pearson answers it with a number of draws
fixed beforehand. This test may look after every draw and stops as soon as it knows: after few draws where the mean is
far from the threshold.

**The bet.** Let ``theta`` be the threshold, and let ``k`` of ``n`` draws be 1. A bettor who holds the mean for ``q``
has, after these draws,

    ``W_q(n, k) = (q / theta)^k ((1 - q) / (1 - theta))^(n - k)``

of each unit of money. This one divides the first unit evenly over all ``q`` in ``(theta, 1)``:

    ``W(n, k) = 1/(1 - theta) integral_theta^1 W_q(n, k) dq
    = B(k + 1, n - k + 1) Pr[Beta(k + 1, n - k + 1) > theta] / ((1 - theta) theta^k (1 - theta)^(n - k))``.

**Validity.** Suppose that every draw is 1 with probability at most ``theta``, whatever came before. One draw multiplies
``W_q``, ``q > theta``, by ``q / theta`` with a probability ``p <= theta``, else by the smaller ``(1 - q) / (1 -
theta)``: on average by at most ``theta (q / theta) + (1 - theta) (1 - q) / (1 - theta) = 1``. So every ``W_q``, and
``W`` as their average, is a nonnegative supermartingale that begins with 1, and by Ville's inequality it ever reaches
``1/a`` with probability at most ``a``. Hence the least ``1/W`` so far is a p-value at every moment at once, however it
is decided when to stop. []

The answer "at most ``theta``" is tested by the same bet on zeros, against ``1 - theta``: it loses on average wherever
the mean is above ``theta``. Only one of the two answers is wrong, so that the test gives a wrong one with probability
at most ``alpha``.

Source: Ville, *Étude critique de la notion de collectif*, 1939; Robbins, *Statistical methods related to the law of the
iterated logarithm*, Annals of Mathematical Statistics 1970 (mixtures); Waudby-Smith and Ramdas, *Estimating means of
bounded random variables by betting*, Journal of the Royal Statistical Society B 2024.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincc, betaln

from centersmooth.bounds import UNREACHABLE, least
from centersmooth.certificate import LEAST_ALPHA
from centersmooth.checks import a_number
from centersmooth.errors import RequestError

_ROUNDING = 1e-6
"""Off the logarithm of the wealth: above the error of its terms up to 1e8 draws."""


def log_wealth(ones: ArrayLike, draws: ArrayLike, threshold: float) -> NDArray[np.float64]:
    """``ln W(n, k)``, rounded down: the wealth of a bettor against a mean of at most ``threshold``.

    Parameters
    ----------
    ones, draws : array_like
        ``k`` and ``n``, of any common shape.

    Examples
    --------
    >>> np.exp(log_wealth([0, 10, 20], 20, 0.5)).round(3).tolist()
    [0.048, 0.27, 99864.233]
    """
    hits, count = np.asarray(ones, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    with np.errstate(divide="ignore"):  # a mass above the threshold that underflows is a lost bet
        above = np.log(betaincc(hits + 1, count - hits + 1, threshold))
    stakes = hits * math.log(threshold) + (count - hits + 1) * math.log1p(-threshold)
    return np.asarray(betaln(hits + 1, count - hits + 1) + above - stakes - _ROUNDING)


def least_draws(threshold: float, alpha: float) -> int | None:
    """Number of draws, all of them 1, from which a mean is known to be above a threshold.

    None where no number of draws a machine could make would do.

    Examples
    --------
    >>> least_draws(0.7, 0.005), least_draws(1.0, 0.005)
    (21, None)
    """
    if 1 - threshold <= UNREACHABLE:
        return None
    return least(lambda n: bool(log_wealth(n, n, threshold) >= -math.log(alpha)))


def first_above(outcomes: NDArray[np.bool_], threshold: float, alpha: float) -> int | None:
    """Number of draws after which `BettingTest` has the answer "above"; None where it never has it.

    Parameters
    ----------
    outcomes : array of bool, shape ``(n,)``
        In the order in which they were drawn.

    Examples
    --------
    >>> first_above(np.ones(50, dtype=bool), 0.7, 0.005), first_above(np.zeros(50, dtype=bool), 0.7, 0.005)
    (21, None)
    """
    # Every bettor gains by a 1 and loses by a 0, so the wealth is largest at the last of ones that follow each other.
    tops = np.flatnonzero(outcomes & ~np.append(outcomes[1:], False))
    ones = outcomes.cumsum()
    known = log_wealth(ones[tops], tops + 1, threshold) >= -math.log(alpha)
    if not known.any():
        return None
    first = int(known.argmax())
    draws = np.arange(tops[first - 1] + 2 if first else 1, tops[first] + 2)
    return int(draws[(log_wealth(ones[draws - 1], draws, threshold) >= -math.log(alpha)).argmax()])


class BettingTest:
    """Is the mean of 0/1 draws above a threshold? Draws may stop at any moment, for one question or many.

    Parameters
    ----------
    threshold : float
        Strictly between 0 and 1.
    alpha : float
        Failure probability of each question's answer. Of many questions that are all to be right, a share of it.

    Examples
    --------
    A class of mass 0.9 under the noise; to keep more than half at ``eps = sigma`` it needs 0.84.

    >>> from centersmooth import GaussianNoise
    >>> test = BettingTest(GaussianNoise(0.25).required_mass(0.5, 0.25), alpha=0.005)
    >>> rng = np.random.default_rng(0)
    >>> while not test.decided:
    ...     test.update(rng.random(50) < 0.9)
    >>> bool(test.above), test.draws
    (True, 650)
    """

    def __init__(self, threshold: float, alpha: float) -> None:
        self.threshold = a_number("threshold", threshold, 0.0, 1.0, "a mean strictly between 0 and 1")
        what = f"a probability strictly between {LEAST_ALPHA:g} and 1/2"
        self.alpha = a_number("alpha", alpha, LEAST_ALPHA, 0.5, what)
        self.draws = 0
        self._ones = np.zeros((), dtype=np.int64)
        self._best = (np.zeros(()), np.zeros(()))

    def update(self, outcomes: ArrayLike) -> None:
        """Take further draws, each 0 or 1, ``(b,)`` or ``(b, *questions)``, and look after every one of them.

        Raises
        ------
        RequestError
            They are something else, or of another shape than those before.
        """
        values = np.asarray(outcomes)
        if values.ndim < 1 or not np.isin(values, (0, 1)).all():
            raise RequestError(
                f"outcomes are {values.dtype} of shape {values.shape}: expected a row of 0s and 1s a draw"
            )
        if self.draws and values.shape[1:] != self._ones.shape:
            expected = f"expected {self._ones.shape} as before"
            raise RequestError(f"a draw answers questions of shape {values.shape[1:]}: {expected}")
        if not len(values):
            return
        ones = self._ones + values.astype(np.int64).cumsum(axis=0)
        draws = (self.draws + np.arange(1, len(values) + 1)).reshape(-1, *(1,) * (values.ndim - 1))
        # Many questions share few pairs of counts: each has its wealth computed once.
        most = self.draws + len(values) + 1
        pairs, index = np.unique((draws * most + ones).ravel(), return_inverse=True)
        count, hits = np.divmod(pairs, most)
        above = log_wealth(hits, count, self.threshold)[index].reshape(ones.shape).max(axis=0)
        below = log_wealth(count - hits, count, 1 - self.threshold)[index].reshape(ones.shape).max(axis=0)
        self._best = np.maximum(self._best[0], above), np.maximum(self._best[1], below)
        self._ones, self.draws = ones[-1], self.draws + len(values)

    @property
    def p_above(self) -> NDArray[np.float64]:
        """p-values against means of at most the threshold, valid whenever draws stop: ``(*questions)``."""
        return np.asarray(np.exp(-self._best[0]))

    @property
    def p_below(self) -> NDArray[np.float64]:
        """p-values against means above the threshold."""
        return np.asarray(np.exp(-self._best[1]))

    @property
    def above(self) -> NDArray[np.bool_]:
        """Whether the mean is known to be above the threshold: ``(*questions)``."""
        return np.asarray(self.p_above <= self.alpha)

    @property
    def below(self) -> NDArray[np.bool_]:
        """Whether the mean is known to be at most the threshold."""
        return np.asarray(self.p_below <= self.alpha)

    @property
    def decided(self) -> bool:
        """Whether every question has its answer, so that no further draw is needed."""
        return bool((self.above | self.below).all())
