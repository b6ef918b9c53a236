"""Classes: predict and certify as Cohen et al. do, and a question at one eps that may stop the draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import betaincinv, ndtri
from scipy.stats import binom, binomtest

from centersmooth import Budget, GaussianNoise, Label, Outcome, RandomStream, RequestError, Smoother
from centersmooth.betting import BettingTest, first_above, least_draws, log_wealth
from centersmooth.certifiers import pack, unpack
from centersmooth.certifiers.label import LabelEvidence
from centersmooth.gathering import STAGES, Setting, Shared

X = torch.zeros(1, dtype=torch.float64)
RUNS, ALPHA = 400, 0.1


def step(mass: float):
    """A classifier of numbers under ``N(0, 1)``: class 1 with this probability, else class 0."""
    threshold = float(ndtri(mass))
    return lambda x: (x[:, 0] <= threshold).long()


def evidence(outcomes: np.ndarray, votes: tuple[int, int] = (100, 0)) -> LabelEvidence:
    one = torch.tensor(1)
    return LabelEvidence(one, one, 0.0, np.array(votes), len(outcomes), np.packbits(outcomes))


def setting(m: int, alpha2: float = ALPHA, n: int = 100) -> Setting:
    return Setting(GaussianNoise(1.0), Budget(n=n, m=m, delta=0.1, alpha1=0.05, alpha2=alpha2))


# --- Certify ---------------------------------------------------------------------------------------------------------


def test_reach_is_the_radius_of_cohen_et_al() -> None:
    """``sigma Phi^-1`` of Clopper and Pearson's one-sided limit; 3.8115 sigma where all of 100,000 draws agree."""
    outcomes = np.arange(100_000) >= 1_000
    for hits, rows in ((99_000, outcomes), (100_000, np.ones(100_000, dtype=bool))):
        certificate = Label().certificate(evidence(rows), 0.5, "counts", setting(100_000, 0.001))
        assert certificate.reach == pytest.approx(ndtri(betaincinv(hits, 100_001 - hits, 0.001)), rel=1e-6)
    assert round(certificate.reach, 4) == 3.8115


@pytest.mark.parametrize(("draws", "most"), [(10_000, 3.1986), (1_000, 2.4633), (100, 1.5005)])
def test_the_largest_reach_of_so_many_draws(draws: int, most: float) -> None:
    """``sigma Phi^-1(alpha^(1/n))``, where all of them agree."""
    certificate = Label().certificate(evidence(np.ones(draws, dtype=bool)), 0.5, "counts", setting(draws, 0.001))
    assert round(certificate.reach, 4) == most


def test_classes_may_be_any_integers() -> None:
    """They are counted by what occurs; ties go to the lowest."""
    far, label = 2**40, step(0.9)
    ids = torch.tensor([7, far])
    certificate = Smoother(lambda x: ids[label(x)], GaussianNoise(1.0), Label(), Budget(n=100, m=400)).certify(X, 0.1)
    assert certificate.label == far
    collector = Label().collector(setting(10, n=4), Shared(), radius=False)
    collector.update("center", torch.tensor([far, 3, far, 3]))
    kept = collector.compute(torch.tensor(far))
    assert (int(kept.label), kept.error, kept.votes.tolist()) == (3, 1.0, [2, 2])


def test_evidence_keeps_every_draw_in_its_order() -> None:
    outcomes = np.random.default_rng(0).random(1_003) < 0.7
    kept = evidence(outcomes)
    read = unpack(LabelEvidence, pack(kept))
    assert (read.outcomes == outcomes).all()
    assert read.hits == kept.hits == outcomes.sum()
    assert pack(kept)["order"].nbytes == 126


# --- Betting ---------------------------------------------------------------------------------------------------------


def test_the_class_is_certified_where_its_bet_ever_wins() -> None:
    """Against the wealth after every draw, the largest of which counts: also where later draws are unlucky."""
    theta = GaussianNoise(1.0).required_mass(0.5, 0.5)
    outcomes = np.concatenate([np.ones(200, dtype=bool), np.zeros(300, dtype=bool)])
    wealth = log_wealth(outcomes.cumsum(), np.arange(1, 501), theta)
    certificate = Label().certificate(evidence(outcomes), 0.5, "betting", setting(500))
    assert wealth[-1] < 0 < wealth.max()
    assert (certificate.radius, certificate.vacuous) == (0.0, False)
    assert certificate.stopped == np.argmax(wealth >= -math.log(ALPHA)) + 1 == least_draws(theta, ALPHA)
    assert certificate.about == "map"
    assert certificate.alpha == ALPHA  # of this eps alone
    assert certificate.p_low is None


@pytest.mark.parametrize("mean", [0.5, 0.72, 0.8, 0.97])
def test_the_first_moment_of_the_answer_is_that_of_a_look_after_every_draw(mean: float) -> None:
    found = []
    for seed in range(40):
        outcomes = np.random.default_rng(seed).random(300) < mean
        known = log_wealth(outcomes.cumsum(), np.arange(1, 301), 0.7) >= -math.log(0.05)
        found.append(int(known.argmax()) + 1 if known.any() else None)
        assert first_above(outcomes, 0.7, 0.05) == found[-1]
    assert (None in found) == (mean < 0.9)
    assert (mean > 0.6) == any(found)


def test_the_least_number_of_draws_is_that_of_a_test_of_ones() -> None:
    test = BettingTest(0.9, 0.01)
    while not test.decided:
        test.update([1])
    assert least_draws(0.9, 0.01) == test.draws
    assert least_draws(1 - 1e-12, 0.01) is None


def failures(certifies) -> int:
    """Runs, of `RUNS` at a mass that is exactly the one required, in which some look at the draws certifies."""
    theta = GaussianNoise(1.0).required_mass(0.5, 0.5)
    outcomes = np.random.default_rng(1).random((RUNS, 1_000)) < theta
    return sum(certifies(one, theta) for one in outcomes)


def test_betting_covers_whenever_draws_stop() -> None:
    """A mass at the threshold is not above it: the bet ever wins in at most a share alpha2 of all runs."""

    def certifies(outcomes: np.ndarray, theta: float) -> bool:
        return Label().certificate(evidence(outcomes), 0.5, "betting", setting(1_000)).radius == 0.0

    assert 0 < failures(certifies) <= binom.isf(1e-9, RUNS, ALPHA)


def test_clopper_and_pearson_again_after_every_batch_is_caught() -> None:
    """The count above has the power to see a limit at the full alpha that is read after each of twenty batches."""

    def certifies(outcomes: np.ndarray, theta: float) -> bool:
        looks = np.arange(50, 1_001, 50)
        ones = outcomes.cumsum()[looks - 1]
        return bool((betaincinv(ones, looks - ones + 1, ALPHA) > theta).any())

    assert failures(certifies) > binom.isf(1e-9, RUNS, ALPHA)


@pytest.mark.parametrize(("eps", "mass", "mean_draws"), [(1.0, 0.99, 66), (1.0, 0.9, 564)])
def test_a_question_at_one_eps_takes_few_draws(eps: float, mass: float, mean_draws: float) -> None:
    """At alpha2 = 0.001, about as many as a bet on the mean so far takes (within a quarter), of 100,000."""
    theta = GaussianNoise(1.0).required_mass(0.5, eps)
    outcomes = np.random.default_rng(2).random((300, 5_000)) < mass
    assert np.mean([first_above(one, theta, 0.001) for one in outcomes]) == pytest.approx(mean_draws, rel=0.25)


def test_draws_stop_once_every_eps_is_answered() -> None:
    calls = []

    def model(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return step(0.99)(x)

    budget = Budget(n=100, m=100_000, alpha2=0.001)
    smoother = Smoother(model, GaussianNoise(1.0), Label(), budget, rule="betting", forward_block=50, batch_size=50)
    near, far = smoother.certify(X, [0.5, 3.0], stream=RandomStream(0))  # it reaches 2.33
    assert (near.radius, far.radius, far.vacuous) == (0.0, 1.0, True)
    assert near.stopped <= near.m == far.m < 2_000
    assert sum(calls) < 2_500
    whole = Smoother(step(0.99), GaussianNoise(1.0), Label(), budget, forward_block=50)
    assert whole.certify(X, 0.5, stream=RandomStream(0)).m is None


@pytest.mark.parametrize("rule", ["counts", "counts_run"])
def test_draws_that_were_stopped_are_not_counted(rule: str) -> None:
    """A limit for a fixed number of draws does not hold where the draws decided the number."""
    with pytest.raises(RequestError, match=f"^rule is '{rule}' on 900 of m = 1000 fresh draws, which betting may have"):
        Label().certificate(evidence(np.ones(900, dtype=bool)), 0.5, rule, setting(1_000))


def test_draws_that_never_answer_are_all_made() -> None:
    """The mass is the one required."""
    noise = GaussianNoise(1.0)
    smoother = Smoother(step(noise.required_mass(0.5, 0.5)), noise, Label(), Budget(n=100, m=3_000), rule="betting")
    certificate = smoother.certify(X, 0.5, stream=RandomStream(0))
    assert (certificate.radius, certificate.stopped, certificate.m) == (1.0, None, None)


def test_counts_too_small_for_the_bet_are_refused_with_those_that_do() -> None:
    theta = GaussianNoise(1.0).required_mass(0.5, 1.0)
    least = least_draws(theta, ALPHA)
    said = Label().problem(setting(least - 1), "betting", 1.0)
    assert said == (
        f"m = {least - 1} draws are too few for eps = 1 by betting, though all were of one class: m >= {least} would do"
    )
    assert not Label().problem(setting(least), "betting", 1.0)
    assert "use more noise" in Label().problem(setting(least), "betting", 9.0)
    refused = Label().certificate(evidence(np.ones(least - 1, dtype=bool)), 1.0, "betting", setting(least - 1))
    assert (refused.outcome, refused.radius, refused.vacuous, refused.reason) == (Outcome.INFEASIBLE, None, False, said)


def test_a_class_without_a_majority_has_no_radius_about_the_map() -> None:
    outcomes = np.arange(100) < 50
    certificate = Label().certificate(evidence(outcomes), 0.0, "counts", setting(100))
    assert (certificate.outcome, certificate.radius, certificate.vacuous) == (Outcome.BAD_CENTER, None, False)
    assert certificate.reason == "50 of 100 fresh draws are of class 1: no sure majority"
    assert Label().certificate(evidence(outcomes), 0.0, "counts_run", setting(100)).radius == 1.0


# --- Predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("votes", [(5, 5), (10, 1), (59, 41), (60, 40), (64, 36), (100, 0)])
def test_a_run_abstains_as_predict_does(votes: tuple[int, int]) -> None:
    """By the two-sided binomial test of the two classes that come most often."""
    none, of = evidence(np.zeros(0, dtype=bool), votes), setting(1_000)
    chance = binomtest(votes[0], sum(votes), 0.5).pvalue
    for rule in ("counts", "betting"):
        assert Label().answer(none, of, rule).abstained == (chance > of.budget.alpha1)
    assert not Label().answer(none, of, "counts_run").abstained


def test_an_answer_is_another_class_than_the_smoothed_one_in_a_share_alpha1_of_runs() -> None:
    """Class 0 has mass 0.501: runs that answer with class 1 are rare, those that abstain are most."""
    smoother = Smoother(step(0.499), GaussianNoise(1.0), Label(), Budget(n=200, m=1, alpha1=0.05))
    answers = [smoother.smooth(X, stream=RandomStream(seed)).output for seed in range(RUNS)]
    wrong = sum(one is not None and int(one) == 1 for one in answers)
    assert wrong <= binom.isf(1e-9, RUNS, 0.05)
    assert sum(one is None for one in answers) > 0.8 * RUNS
    by_the_largest_count = Smoother(step(0.499), GaussianNoise(1.0), Label(), smoother.budget, rule="counts_run")
    wrong = sum(int(by_the_largest_count(X)) == 1 for _ in range(100))
    assert wrong > binom.isf(1e-9, 100, 0.05)


def test_the_second_class_is_that_of_the_draws() -> None:
    scores = torch.tensor([[0, 2, 0], [0, 0, 1], [3, 0, 0]]).float()

    def model(x: torch.Tensor) -> torch.Tensor:
        return scores[(x[:, 0] > -1).long() + (x[:, 0] > 1.5).long()]

    collector = Label().collector(setting(1), Shared(), radius=False)
    assert [collector.wants(stage) for stage in STAGES] == [0, 100, 0]
    collector.update("center", model(torch.tensor([-2.0, 0.0, 0.0, 0.0, 2.0, 2.0])[:, None]))
    found = collector.compute(scores[0])
    assert (int(found.label), found.votes.tolist(), found.drawn, found.hits) == (2, [3, 2], 0, 0)
