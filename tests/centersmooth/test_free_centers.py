"""Free centers: proposals and tables against plain loops, ranks against tail sums, and whether ``T`` covers.

Coverage is counted as in `test_known_laws`, here for a law in which means are good centers and drawn outputs are not,
so that everything hangs on the theorem about means of blocks.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from gathering_support import gather_centers
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import LAWS, SMOOTH, UNIT, H, OfPairs, with_means
from reference_free import (
    far_radius_of_means,
    free_center,
    means_of_blocks,
    spent_by_means_at_x,
    spent_by_means_at_x_prime,
)
from scipy.special import betainccinv, ndtri
from scipy.stats import binom
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    Budget,
    Center,
    CenterSmoother,
    Cosine,
    DistanceFunction,
    GaussianNoise,
    Jaccard,
    Metric,
    ModelError,
    Outcome,
    RandomStream,
    RequestError,
    SquaredL2,
    TotalVariation,
)
from centersmooth.attack import Attack
from centersmooth.bounds import half_count
from centersmooth.certifiers.center import CenterEvidence
from centersmooth.certifiers.center import search as library
from centersmooth.certifiers.center.measured import far_ranks, far_ranks_of, masses_of_a_run
from centersmooth.certifiers.center.quantiles import QuantileTable
from centersmooth.certifiers.center.rules import ROUNDING, certificate_from, free_problem, measured_radii
from centersmooth.certifiers.center.search import BLOCK, REFINEMENTS, least_median_center
from centersmooth.contracts import LinearModel
from centersmooth.gathering import Setting, gather
from centersmooth.sampling import Sampler

LARGE = Budget()
BUDGETS = [
    LARGE,
    Budget(n=2_000, m=4_000, delta=0.08),
    Budget(n=1_203, m=2_500, delta=0.1),
    Budget(n=100, m=250, delta=0.15, alpha1=0.1, alpha2=0.1),
]


# --- the ranks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [0.0, 0.3, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("budget", BUDGETS, ids=lambda b: f"{b.n}")
def test_ranks_of_means_spend_no_more_than_their_share(budget: Budget, h: float) -> None:
    """From the theorem, term by term: half of alpha1 at x', and a quarter of alpha2 at x."""
    ranks = far_ranks(budget, UNIT, h, block=BLOCK, share=0.5)
    if ranks is None:
        assert h >= 1
        return
    masses = masses_of_a_run(budget, BLOCK)
    assert 0.9 * budget.alpha1 / 2 < spent_by_means_at_x_prime(budget.n, BLOCK, *masses) <= budget.alpha1 / 2
    spent = spent_by_means_at_x(budget.n, BLOCK, *masses, h, ranks.near, ranks.place)
    assert sum(spent) <= budget.alpha2 / 4


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda b: f"{b.n}")
def test_masses_that_count_the_block_itself_are_caught(budget: Budget) -> None:
    """As if all n outputs were independent of the mean: less mass, and more than alpha1/2 is spent."""
    candidate_mass, near_mass = masses_of_a_run(budget, BLOCK)
    k, failing = half_count(budget.n), 0.125 * budget.alpha1 / (budget.n // BLOCK * candidate_mass)
    of_all = float(betainccinv(k, budget.n - k + 1, failing))
    assert of_all < near_mass
    assert spent_by_means_at_x_prime(budget.n, BLOCK, candidate_mass, of_all) > budget.alpha1 / 2


@pytest.mark.parametrize("n", range(8, 40))
def test_small_samples_are_sound_or_refused(n: int) -> None:
    """Where there are few blocks there are no ranks, never invalid ones."""
    budget = Budget(n=n, m=500, delta=0.45, alpha1=0.2, alpha2=0.2)
    ranks = far_ranks(budget, UNIT, 0.0, block=BLOCK, share=0.5)
    if ranks is not None:
        masses = masses_of_a_run(budget, BLOCK)
        assert spent_by_means_at_x_prime(n, BLOCK, *masses) <= 0.1
        assert sum(spent_by_means_at_x(n, BLOCK, *masses, 0.0, ranks.near, ranks.place)) <= 0.05


def test_too_few_blocks_leave_all_to_the_sample_points() -> None:
    """Known beforehand: at h = 3 no set of means keeps its mass, at h = 1 two bounds share what there is."""
    assert far_ranks_of(LARGE, UNIT, 3.0, "free") == {1: far_ranks(LARGE, UNIT, 3.0)}
    assert set(far_ranks_of(LARGE, UNIT, 1.0, "free")) == {1, BLOCK}
    assert far_ranks_of(LARGE, UNIT, 1.0, "sample") == {1: far_ranks(LARGE, UNIT, 1.0)}


# --- proposals and tables against plain loops ----------------------------------------------------------------------


def points(seed: int, count: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()


def plain(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().sum())


def plain_mean(outputs: list[Tensor]) -> Tensor:
    return sum(outputs) / len(outputs)


@given(seed=st.integers(0, 10**6), count=st.integers(8, 45))
@settings(max_examples=25, deadline=None)
def test_center_is_that_of_plain_loops(seed: int, count: int) -> None:
    """With counts that are no multiple of the block among them."""
    outputs = points(seed, count)
    sample = least_median_center(L1(), outputs, outputs)
    center = library.free_center(L1(), outputs, outputs, sample, 16)
    output, radius = free_center(list(outputs), plain, plain_mean, BLOCK, REFINEMENTS)
    assert center.radius == pytest.approx(radius, rel=1e-12)
    assert center.output.tolist() == pytest.approx(output.tolist(), rel=1e-12)
    assert center.radius <= sample.radius


@pytest.mark.parametrize(("near", "place"), [(31, 1), (41, 7), (58, 15), (55, 12)])
@pytest.mark.parametrize("tile", [2**23, 300])
def test_table_leaves_the_own_block_out(near: int, place: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """62 points: 15 blocks, two points in none; in one tile, or in tiles of a few rows."""
    monkeypatch.setattr("centersmooth.metrics.base.TILE_ENTRIES", tile)
    metric, outputs = with_means(OfPairs(lambda a, b: (a - b).abs().sum(dim=-1))), points(5, 62)
    center = library.free_center(metric, outputs, outputs, least_median_center(metric, outputs, outputs), 16)
    table = QuantileTable.of(center.nearest, center.others)
    assert (table.candidates, table.others) == (15, 58)
    expected = far_radius_of_means(list(outputs), plain, plain_mean, BLOCK, near, place)
    assert table.at(near, place) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "metric", [L1(), L2(), SquaredL2(), Cosine(), Angular(), TotalVariation()], ids=lambda m: m.name
)
def test_evidence_about_the_sample_is_untouched(metric: Metric) -> None:
    """To the last digit; and one pass says what a pass for the free center alone says."""
    sampler = Sampler(lambda x: x.reshape(-1, 1, 3, 4).sigmoid(), UNIT, 64, 64, (0.0, 1.0))
    budget, x, stream = Budget(n=200, m=300, delta=0.3), torch.ones(12), RandomStream(3)
    certifiers = {"sample": Center(metric), "free": Center(metric, "free")}
    alone = {name: gather(sampler, {"d": one}, budget, x, stream)["d"] for name, one in certifiers.items()}
    both = gather(sampler, certifiers, budget, x, stream)
    for name, evidence in alone.items():
        assert torch.equal(evidence.center, both[name].center)
        assert (evidence.r_center, evidence.inside, evidence.error) == (
            both[name].r_center,
            both[name].inside,
            both[name].error,
        )
        assert np.array_equal(evidence.far.values, both[name].far.values)
        assert np.array_equal(evidence.candidates.values, both["sample"].candidates.values)
    free, sample = both["free"], both["sample"]
    assert free.r_center < sample.r_center
    assert free.center.shape == sample.center.shape
    assert 0 <= float(free.center.min()) <= float(free.center.max()) <= 1


# --- what means are ------------------------------------------------------------------------------------------------


def test_means_of_boxes_are_boxes() -> None:
    """Corners stay in order, empty boxes count for nothing, and nothing but empty ones gives the empty one."""
    groups = torch.tensor(
        [
            [[0.0, 0, 2, 2], [2, 4, 4, 8], [0, 0, 0, 0]],
            [[5, 5, 5, 9], [0, 0, 0, 0], [3, 1, 3, 2]],
            [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]],
            [[0, 0, 0, 0], [2, 4, 4, 8], [0, 0, 0, 0]],
        ]
    )
    assert Jaccard().means(groups).tolist() == [[1, 2, 3, 5], [0, 0, 0, 0], [0, 0, 1, 1], [2, 4, 4, 8]]


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=30))
def test_means_stay_in_range(group: list[list[float]]) -> None:
    """Between the least and the largest value of each coordinate."""
    outputs = torch.tensor(group)
    mean = L2().means(outputs[None])[0]
    assert mean.dtype == outputs.dtype
    assert (outputs.amin(dim=0) <= mean).all()
    assert (mean <= outputs.amax(dim=0)).all()


def boxes_or_none(x: Tensor) -> Tensor:
    """A box that wanders with the input, and none where its third coordinate is large."""
    box = torch.stack([x[:, 0], x[:, 1], x[:, 0] + 4, x[:, 1] + 3], dim=1)
    return box.masked_fill(x[:, 2:3] > 1.5, 0.0)


def test_boxes_have_free_centers() -> None:
    """A mean of boxes is nearer to the rest than the best drawn box, though some draws have none.

    In two dimensions that gains little, less here than is lost by sharing alpha2 among two bounds.
    """
    pair = [
        CenterSmoother(boxes_or_none, Jaccard(), GaussianNoise(0.5), Budget(n=400, m=1_000, delta=0.2), kind=kind)
        for kind in ("free", "sample")
    ]
    free, sample = (smoother.certify(torch.zeros(3), 0.1, stream=RandomStream(1)) for smoother in pair)
    assert free.radius < 1.01 * sample.radius
    assert free.r_center < sample.r_center
    assert (free.answer[2:] > free.answer[:2]).all()


# --- coverage ------------------------------------------------------------------------------------------------------

RUNS = 150


def allowed(level: float) -> int:
    return int(binom.isf(1e-9, RUNS, level))


class ShiftOfOne(GaussianNoise):
    """Takes the shift of one draw for that of a block: h for h sqrt(L)."""

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        return self.required_mass(mass, eps)


LOOSE = Budget(n=400, m=400, delta=0.2, alpha1=0.1, alpha2=0.2)
LEVEL = allowed(LOOSE.alpha1 / 2 + LOOSE.alpha2 / 2)


class ThroughTheHub(Metric):
    """The way from one point to another is through the hub: 1 from a point, 0 from those that are at the hub.

    At the hub is what lies left of a threshold and has no sign of its own, as the mean of unlike signs has none: no
    drawn output does. A mean is left of it with probability ``Phi(2 threshold)`` at x.
    """

    has_means = True

    def __init__(self, mass: float) -> None:
        self.threshold = float(ndtri(mass)) / math.sqrt(BLOCK)

    def features(self, outputs: Tensor) -> Tensor:
        hub = (outputs[:, 0] < self.threshold) & (outputs[:, 1].abs() < 1)
        return torch.stack([outputs[:, 0], outputs[:, 1], (~hub).float()], dim=1)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        same = (a[:, None, 0] == b[:, 0]) & (a[:, None, 1] == b[:, 1])
        return (a[:, None, 2] + b[:, 2]).masked_fill(same, 0.0)


def signed(x: Tensor) -> Tensor:
    """One coordinate as it is, of the other its sign."""
    return torch.stack([x[:, 0], x[:, 1].sign()], dim=1)


def least_far(evidence: CenterEvidence, noise: GaussianNoise, shift: float) -> float:
    """The smaller ``T``, as `rules.measured_radii` reads it."""
    ranks = far_ranks_of(LOOSE, noise, shift, "free")
    tables = {1: evidence.candidates, BLOCK: evidence.blocks}
    return min(tables[block].at(own.near, own.place) for block, own in ranks.items()) * (1 + ROUNDING)


@pytest.mark.parametrize(("mass", "shift"), [(0.6, 1.0), (0.7, 1.0), (0.999, 1.0), (0.67, 1.5)])
def test_covers_where_only_means_are_near_the_rest(mass: float, shift: float) -> None:
    """A half-space of blocks, orthogonal to the shift of all four draws: the mass falls as fast as it may.

    Two broken variants are caught: h instead of h sqrt(L), as means that seem safe at x are then gone at x'; and a T of
    means where the run at x' proposes sample points alone.
    """
    metric = ThroughTheHub(mass)
    certifiers = {"free": Center(metric, "free"), "sample": Center(metric)}
    sampler, x_prime = Sampler(signed, UNIT, LOOSE.n, LOOSE.n), torch.tensor([shift, 0.0])
    failed, shift_of_one, without_means = 0, 0, 0
    for seed in range(RUNS):
        here = gather(sampler, {"free": certifiers["free"]}, LOOSE, torch.zeros(2), RandomStream(seed))
        there = gather(sampler, certifiers, LOOSE, x_prime, RandomStream(seed, point=1), radius=False)
        far = least_far(here["free"], UNIT, shift)
        failed += there["free"].r_center > far
        shift_of_one += there["free"].r_center > least_far(here["free"], ShiftOfOne(1.0), shift)
        without_means += there["sample"].r_center > far
    assert failed <= LEVEL
    if mass == 0.67:
        assert shift_of_one > LEVEL
    if mass == 0.999:
        assert without_means > LEVEL


def test_a_table_with_the_own_block_is_caught() -> None:
    """Means that are near their own block and to nothing else look nearer than they are."""
    outputs = points(7, 40)
    rows = [sorted(plain(mean, z) for z in outputs) for mean in means_of_blocks(list(outputs), plain_mean, BLOCK)]
    for near, place in ((20, 1), (25, 4), (36, 10)):
        with_block = sorted(row[near - 1] for row in rows)[place - 1]
        assert with_block < far_radius_of_means(list(outputs), plain, plain_mean, BLOCK, near, place)


# --- the certificate -----------------------------------------------------------------------------------------------


X, EPS = torch.tensor([0.3, -1.0, 0.5]), 0.25
LINEAR = LinearModel(torch.tensor([2.0, -1.0, 0.5]))


def linear_smoother(metric: Metric, kind: str = "free") -> CenterSmoother:
    budget = Budget(n=400, m=400, delta=0.2, alpha1=0.1, alpha2=0.1)
    return CenterSmoother(LINEAR, metric, GaussianNoise(0.25), budget, kind=kind, forward_block=400)


@pytest.mark.parametrize("metric", [L1(), SquaredL2()], ids=lambda m: m.name)
def test_radius_is_put_together_from_the_smallest_far_radius(metric: Metric) -> None:
    """``(r_hat^(1/p) + r_far^(1/p))^p`` around the free center, above the exact movement."""
    smoother = linear_smoother(metric)
    for certificate in smoother.certify(X, [0.0, 0.125, 0.25, 0.3], stream=RandomStream(0)):
        roots = [value ** (1 / metric.power) for value in (certificate.r_hat, certificate.r_far)]
        assert certificate.radius == pytest.approx(sum(roots) ** metric.power * (1 + ROUNDING), rel=1e-9)
        assert certificate.radius > LINEAR.movement(certificate.eps) ** metric.power
        assert (certificate.certifier, certificate.rule) == ("center_free", "measured")


def test_far_radius_is_the_least_of_three() -> None:
    """Two measured ones and the doubled one, each of which occurs."""
    noise, used = GaussianNoise(1.0), set()
    for law in ("steps", "rare hub", "heavy tails"):
        model, metric = LAWS[law]
        sampler = Sampler(model, noise, 200, 200)
        for seed in range(20):
            evidence = gather_centers(
                sampler, {"d": with_means(metric)}, SMOOTH, torch.zeros(1), RandomStream(seed), kind="free"
            )["d"]
            ranks = far_ranks_of(SMOOTH, noise, H, "free")
            candidates = {
                "sample": evidence.candidates.at(ranks[1].near, ranks[1].place),
                "means": evidence.blocks.at(ranks[BLOCK].near, ranks[BLOCK].place),
                "doubled": 2**metric.power * evidence.far.at_rank(ranks[1].radius) if evidence.far else math.inf,
            }
            radii = measured_radii(evidence, H, metric, noise, SMOOTH)
            if radii is not None:
                assert radii.r_far == min(candidates.values())
                used.add(min(candidates, key=candidates.get))
    assert used >= {"sample", "means"}


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda b: f"{b.n}")
def test_two_far_radii_share_the_failure_probability_of_one(budget: Budget) -> None:
    """Each has half; alone, the sample points have all of it."""
    noise = GaussianNoise(1.0)
    shared = far_ranks_of(budget, noise, 1.0, "free")
    assert shared == {block: far_ranks(budget, noise, 1.0, block=block, share=0.5) for block in (1, BLOCK)}
    assert far_ranks_of(budget, noise, 1.0, "sample") == {1: far_ranks(budget, noise, 1.0)}


def test_evidence_about_the_sample_has_all_of_its_failure_probability() -> None:
    """Even where free centers were found from the same draws."""
    model, metric = LAWS["steps"]
    noise, sampler = GaussianNoise(1.0), Sampler(model, GaussianNoise(1.0), 200, 200)
    whole, half = far_ranks(SMOOTH, noise, H), far_ranks(SMOOTH, noise, H, share=0.5)
    assert (whole.near, whole.place) != (half.near, half.place)
    metric = with_means(metric)
    for certifiers in ({"sample": Center(metric)}, {"free": Center(metric, "free"), "sample": Center(metric)}):
        evidence = gather(sampler, certifiers, SMOOTH, torch.zeros(1), RandomStream(1))["sample"]
        expected = evidence.candidates.at(whole.near, whole.place)
        radii = measured_radii(evidence, H, metric, noise, SMOOTH)
        assert radii.r_far == min(expected, 2**metric.power * evidence.far.at_rank(whole.radius))


@pytest.mark.parametrize("metric", [L1(), L2(), Angular()], ids=lambda m: m.name)
def test_center_and_table_are_the_same_in_tiles_of_any_size(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one tile to one for each row."""
    outputs = points(3, 40)
    features = metric.features(outputs)
    found = []
    for tile in (2**23, 100, 1):
        for module in ("base", "vectors"):
            monkeypatch.setattr(f"centersmooth.metrics.{module}.TILE_ENTRIES", tile)
        found.append(least_median_center(metric, outputs, features))
    assert len({center.radius for center in found}) == 1
    for center in found[1:]:
        assert torch.equal(center.output, found[0].output)
        assert np.allclose(center.nearest, found[0].nearest, rtol=1e-12)


def test_smoothing_and_certificate_have_one_center() -> None:
    """`smooth` and `certify` answer with the same mean, which is none of the outputs that were drawn."""
    smoother = linear_smoother(L1())
    answer = smoother.smooth(X, stream=RandomStream(4))
    certificate = smoother.certify(X, 0.1, stream=RandomStream(4))
    assert torch.equal(answer.output, certificate.answer)
    sampler, stream = Sampler(LINEAR, smoother.noise, 400, 400), RandomStream(4)
    found = gather_centers(sampler, {"d": L1()}, smoother.budget, X, stream, far=False, kind="free")["d"]
    assert found.r_center == certificate.r_center
    samples = linear_smoother(L1(), "sample")
    assert not torch.equal(answer.output, samples.smooth(X, stream=stream).output)
    assert certificate.r_center <= samples.certify(X, 0.1, stream=stream).r_center


def test_attacks_on_a_linear_model_stay_within_the_certificate() -> None:
    """In closed form the movement is eps |w|; an attack comes close to it, and not beyond the radius."""
    smoother = linear_smoother(L1())
    certificate = smoother.certify(X, EPS, stream=RandomStream(0))
    attacked = smoother.attack(X, certificate, Attack(steps=8), runs=8, stream=RandomStream(1))
    assert len(attacked.movements) == 8
    assert 0.8 * LINEAR.movement(EPS) < max(attacked.movements) <= certificate.radius


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "changes", "rest", "message"),
    [
        (DistanceFunction(lambda a, b: (a - b).abs().sum(1)), {}, {}, "has no means of outputs"),
        (L1(), {"n0": 30}, {}, "expected n0=0"),
        (L1(), {"n": 7}, {}, "expected at least 8"),
        (L1(), {}, {"rule": "paper"}, "rule is 'paper': expected one of 'measured' for center_free"),
        (L1(), {}, {"rule": "exact"}, "rule is 'exact': expected one of 'measured' for center_free"),
        (L1(), {}, {"kind": "mean"}, "kind is 'mean': expected one of 'sample', 'free'"),
    ],
)
def test_refused_in_one_line(metric: Metric, changes: dict, rest: dict, message: str) -> None:
    budget = Budget(**{"n": 200, "m": 200, "delta": 0.2} | changes)
    with pytest.raises(RequestError, match=message) as error:
        CenterSmoother(LINEAR, metric, UNIT, budget, **{"kind": "free"} | rest)
    assert "\n" not in str(error.value)


def test_whole_numbers_have_no_means() -> None:
    """A mean of labels is no label: nothing is rounded silently."""
    smoother = CenterSmoother(lambda x: x.round().long(), L1(), UNIT, Budget(n=200, m=200, delta=0.2), kind="free")
    with pytest.raises(ModelError, match="expected floating-point"):
        smoother.smooth(torch.zeros(1))


def test_two_blocks_are_enough_for_means() -> None:
    assert free_problem(Budget(n=2 * BLOCK), L1()) == ""
    assert f"expected at least {2 * BLOCK}" in free_problem(Budget(n=2 * BLOCK - 1), L1())


@pytest.mark.parametrize(("kind", "certifier"), [("sample", "center"), ("free", "center_free")])
def test_a_certificate_without_a_radius_names_its_certifier_and_rule(kind: str, certifier: str) -> None:
    """Where too few of the fresh draws fell around it."""
    model, metric = LAWS["steps"]
    metric, sampler = with_means(metric), Sampler(model, UNIT, 200, 200)
    found = gather_centers(sampler, {"d": metric}, SMOOTH, torch.zeros(1), RandomStream(0), kind=kind)["d"]
    missed = dataclasses.replace(found, inside=0)
    certificate = certificate_from(missed, H, "measured", metric, kind, Setting(UNIT, SMOOTH))
    assert (certificate.radius, certificate.certifier, certificate.rule) == (None, certifier, "measured")
    assert (certificate.eps, certificate.alpha) == (H, SMOOTH.alpha)
    assert (certificate.outcome, certificate.r_center) == (Outcome.BAD_CENTER, found.r_center)


def test_evidence_without_far_has_no_distances_though_its_draws_would_do() -> None:
    """What `smooth` gathers."""
    model, metric = LAWS["steps"]
    budget = Budget(n=400, m=250, delta=0.2, alpha1=0.1, alpha2=0.1)
    sampler = Sampler(model, UNIT, 200, 200)
    evidence = gather_centers(sampler, {"d": metric}, budget, torch.zeros(1), RandomStream(0), far=False)["d"]
    assert evidence.far is None
    whole = gather_centers(sampler, {"d": metric}, budget, torch.zeros(1), RandomStream(0))["d"]
    assert whole.far.count == 250
