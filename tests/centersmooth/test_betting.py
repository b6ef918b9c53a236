"""The sequential test of a mean of 0/1 draws: an exact martingale, errors under optional stopping, draws it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import betaincinv
from scipy.stats import binom

from centersmooth import RequestError
from centersmooth.betting import BettingTest, log_wealth

RUNS, ALPHA = 1_000, 0.1


def draws(mean: float, count: int, runs: int = RUNS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, runs)) < mean


@pytest.mark.parametrize("threshold", [0.01, 0.5, 0.84, 0.999])
@pytest.mark.parametrize("n", [1, 10, 300])
def test_the_wealth_is_1_on_average_at_the_threshold_and_less_below(n: int, threshold: float) -> None:
    ones = np.arange(n + 1)
    at, below = (
        np.exp(binom.logpmf(ones, n, mean) + log_wealth(ones, n, threshold)).sum()
        for mean in (threshold, 0.9 * threshold)
    )
    assert at == pytest.approx(1, abs=2e-6)
    assert below < at


@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_the_bet_is_fair_at_every_step(threshold: float) -> None:
    """The wealth after a draw is, on average, that before it."""
    ones = np.arange(41)
    now = np.exp(log_wealth(ones, 40, threshold))
    then = [np.exp(log_wealth(ones + one, 41, threshold)) for one in (0, 1)]
    assert (1 - threshold) * then[0] + threshold * then[1] == pytest.approx(now, rel=1e-9)


@pytest.mark.parametrize(("ones", "n"), [(0, 3), (2, 3), (9, 12), (30, 40)])
def test_the_wealth_is_the_average_over_bettors(ones: int, n: int) -> None:
    """Against numerical integration."""
    wealth, _ = quad(lambda q: (q / 0.6) ** ones * ((1 - q) / 0.4) ** (n - ones) / 0.4, 0.6, 1)
    assert np.exp(log_wealth(ones, n, 0.6)) == pytest.approx(wealth, rel=2e-6)


def test_a_lost_bet_is_no_error() -> None:
    """A wealth that underflows is 0."""
    assert log_wealth(0, 100_000, 0.9) == -np.inf


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.97])
def test_stopping_at_the_first_answer_errs_in_alpha_of_runs(threshold: float) -> None:
    """A mean at the threshold is called above it, and one just over it at most that, in a share alpha of all runs."""
    allowed = binom.isf(1e-9, RUNS, ALPHA)
    test = BettingTest(threshold, ALPHA)
    test.update(draws(threshold, 400))
    assert 0 < test.above.sum() <= allowed
    test = BettingTest(threshold, ALPHA)
    test.update(draws(np.nextafter(threshold, 1), 400, seed=1))
    assert 0 < test.below.sum() <= allowed


def test_looking_at_a_fixed_test_again_and_again_is_caught() -> None:
    """The count above has the power to see a limit of Clopper and Pearson that is read at every tenth draw."""
    looks = np.arange(10, 401, 10)
    ones = draws(0.7, 400).cumsum(axis=0)[looks - 1]
    limits = betaincinv(np.maximum(ones, 1), looks[:, None] - ones + 1, ALPHA)
    assert (limits > 0.7).any(axis=0).sum() > binom.isf(1e-9, RUNS, ALPHA)


def stopping_times(threshold: float, mean: float, alpha: float, most: int) -> np.ndarray:
    """Draws until the right answer, of 500 runs; all of which have it after ``most``."""
    ones, n = draws(mean, most, 500).cumsum(axis=0), np.arange(1, most + 1)[:, None]
    answered = log_wealth(ones, n, threshold) >= -np.log(alpha)
    assert answered.any(axis=0).all()
    return answered.argmax(axis=0) + 1


def fixed_draws(threshold: float, mean: float, alpha: float, power: float) -> int:
    """The least number of draws at which the limit of Clopper and Pearson is above with this probability."""

    def succeeds(n: int) -> bool:
        ones = np.arange(1, n + 1)
        return binom.pmf(ones, n, mean)[betaincinv(ones, n - ones + 1, alpha) > threshold].sum() >= power

    return next(n for n in range(2, 2_000) if succeeds(n))


@pytest.mark.parametrize(("mean", "most"), [(0.8, 1_200), (0.9, 250), (0.99, 50)])
def test_answers_come_sooner_than_from_a_number_of_draws_that_suffices(mean: float, most: int) -> None:
    """On average, than the least fixed number that answers 99% of the time, though that is chosen knowing the mean."""
    assert stopping_times(0.7, mean, 0.005, most).mean() < fixed_draws(0.7, mean, 0.005, 0.99)


def test_an_easy_question_takes_few_draws() -> None:
    """Where all are ones, as many as the integral says."""
    test = BettingTest(0.7, 0.005)
    while not test.decided:
        test.update([1])
    n = next(n for n in range(100) if (1 - 0.7 ** (n + 1)) / ((n + 1) * 0.3 * 0.7**n) >= 200 * (1 + 1e-6))
    assert (test.draws, bool(test.above), bool(test.below)) == (n, True, False)


@pytest.mark.parametrize("rows", [1, 7, 200])
def test_batches_change_no_answer(rows: int) -> None:
    outcomes = draws(0.75, 200, 30)
    whole, parts = BettingTest(0.7, 0.05), BettingTest(0.7, 0.05)
    whole.update(outcomes)
    for first in range(0, 200, rows):
        parts.update(torch.from_numpy(outcomes[first : first + rows]))
    assert (whole.p_above == parts.p_above).all()
    assert (whole.p_below == parts.p_below).all()
    assert whole.draws == parts.draws == 200


def test_questions_are_answered_each_by_itself() -> None:
    """Pixels of an image; a p-value stays where a later run of bad luck would raise it."""
    outcomes = np.zeros((60, 2, 3), dtype=bool)
    outcomes[:, 0] = True
    test = BettingTest(0.5, 0.001)
    test.update(outcomes)
    assert test.above.tolist() == [[True] * 3, [False] * 3]
    assert test.below.tolist() == [[False] * 3, [True] * 3]
    least = test.p_above.copy()
    test.update(~outcomes)
    assert (test.p_above == least).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BettingTest(1.0, 0.05), "threshold is 1.0: expected a mean strictly between 0 and 1"),
        (lambda: BettingTest(0.5, 0.0), "alpha is 0.0: expected a probability strictly between"),
        (lambda: BettingTest(0.5, 0.05).update([0.5]), r"outcomes are float64 of shape \(1,\): expected a row of 0s"),
        (lambda: BettingTest(0.5, 0.05).update(1), r"outcomes are int64 of shape \(\): expected a row of 0s and 1s"),
    ],
)
def test_errors_are_one_line(call, message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}[^\n]*$"):
        call()


def test_other_questions_than_before_are_refused() -> None:
    test = BettingTest(0.5, 0.05)
    test.update(np.ones((3, 4)))
    with pytest.raises(RequestError, match=r"a draw answers questions of shape \(5,\): expected \(4,\) as before"):
        test.update(np.ones((3, 5)))
