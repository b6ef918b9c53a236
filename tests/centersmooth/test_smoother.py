"""The whole path: one set of draws for many eps, abstentions, infeasible requests, edge cases, errors of one line."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from gathering_support import gather_centers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from centersmooth import (
    L1,
    L2,
    Angular,
    Attack,
    Budget,
    Center,
    CenterSmoother,
    CenterSmoothError,
    Certificate,
    Cosine,
    DistanceFunction,
    EnumeratedSplitting,
    GaussianNoise,
    InfeasibleError,
    Jaccard,
    Mean,
    MeanSmoother,
    Metric,
    ModelError,
    Outcome,
    RandomStream,
    RequestError,
    Smoother,
    SquaredL2,
    TotalVariation,
    UniformNoise,
)
from centersmooth.attack import judge
from centersmooth.bounds import EXACT, PAPER, half_count
from centersmooth.certifiers import Certifier
from centersmooth.certifiers.center.rules import BOUNDS_OF, ROUNDING, center_problem, spent_alpha
from centersmooth.certifiers.center.search import best_candidate, least_median_center
from centersmooth.certifiers.distances import DistanceSample, kept_ranks
from centersmooth.draws import Draws
from centersmooth.noise import Noise
from centersmooth.sampling import Sampler

SIGMA = 0.5
NOISE = GaussianNoise(SIGMA)
X = torch.tensor([0.3, -1.0, 0.5])
WEIGHT = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 1.0]])
BUDGET = Budget(n=200, m=600, delta=0.25, alpha1=0.1, alpha2=0.1)
STREAM = RandomStream(seed=0)


def linear(x: Tensor) -> Tensor:
    return x @ WEIGHT.to(x.dtype).T


def make(
    model: Callable = linear, metric: Metric | None = None, budget: Budget = BUDGET, noise: Noise = NOISE, **rest
) -> CenterSmoother:
    return CenterSmoother(model, metric or L2(), noise, budget, **{"forward_block": 64, **rest})


def content(certificate: Certificate) -> dict[str, object]:
    """Comparable with ==."""
    fields = {f.name: getattr(certificate, f.name) for f in dataclasses.fields(certificate)}
    return fields | {"answer": None if certificate.answer is None else certificate.answer.tolist()}


class Counting:
    """A model that counts its calls."""

    def __init__(self, model: Callable = linear) -> None:
        self.model, self.calls = model, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.model(x)


# --- one set of draws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n0", [0, 10])
@pytest.mark.parametrize("rule", ["paper", "exact", "measured"])
def test_many_eps_are_as_good_as_one_by_one(rule: str, n0: int) -> None:
    """In the order asked for, infeasible ones among them."""
    smoother = make(budget=dataclasses.replace(BUDGET, n0=n0), rule=rule)
    radii = [0.25, 0.0, 5.0, 0.5]
    together = [content(c) for c in smoother.certify(X, radii, stream=STREAM)]
    apart = [content(*smoother.certify(X, [0.1, e], stream=STREAM)[1:]) for e in radii]
    assert together == apart
    assert [c["outcome"].value for c in together] == ["certified", "certified", "infeasible", "certified"]
    assert together[1]["radius"] < together[0]["radius"] < together[3]["radius"]


def test_batch_size_changes_no_certificate() -> None:
    """1, 7 and 256 outputs at a time."""
    certificates = [make(batch_size=size).certify(X, 0.25, stream=STREAM) for size in (1, 7, 256)]
    assert content(certificates[0]) == content(certificates[1]) == content(certificates[2])


@pytest.mark.parametrize("n0", [0, 10])
def test_smooth_and_certify_agree_under_one_stream(n0: int) -> None:
    """The certificate is about the output that `smooth` gives."""
    smoother = make(budget=dataclasses.replace(BUDGET, n0=n0))
    smoothed = smoother.smooth(X, stream=STREAM)
    certificate = smoother.certify(X, 0.1, stream=STREAM)
    assert torch.equal(smoothed.output, certificate.answer)
    found = gather_centers(Sampler(linear, NOISE, 64, 64), {"d": L2()}, smoother.budget, X, STREAM, far=False)["d"]
    assert found.r_center == certificate.r_center
    assert torch.allclose(smoothed.base, linear(X))
    assert smoothed.error == pytest.approx(float((linear(X) - smoothed.answer).norm()))


def test_smooth_uses_fresh_entropy_by_default() -> None:
    """A published seed would let an attacker search for a draw that fails; a stream repeats itself."""
    smoother = make()
    assert not torch.equal(smoother.smooth(X).answer, smoother.smooth(X).answer)
    assert torch.equal(smoother.smooth(X, stream=STREAM).answer, smoother.smooth(X, stream=STREAM).answer)


def test_certify_uses_fresh_entropy_by_default() -> None:
    """The same for the radius."""
    smoother = make()
    assert smoother.certify(X, 0.1).r_hat != smoother.certify(X, 0.1).r_hat


@pytest.mark.parametrize(("n", "m"), [(200, 300), (300, 200)])
@pytest.mark.parametrize("n0", [0, 10])
def test_forward_passes_are_as_announced(n: int, m: int, n0: int) -> None:
    """`Budget.passes` less the base output; draws of the center's test count among the m."""
    budget, seen = dataclasses.replace(BUDGET, n=n, m=m, n0=n0), []
    make(budget=budget).certify(X, 0.1, stream=STREAM, progress=seen.append)
    assert 1 + sum(seen) == budget.passes == 1 + n0 + n + 300


def test_progress_counts_the_last_batch_of_an_abstention() -> None:
    """A run that stops early has still done the passes of the batch it stopped in."""
    budget = Budget(n=48, m=10_000, delta=0.13, alpha1=0.1, alpha2=0.1)
    smoother = make(lambda x: torch.sign(x[:, :1]), L1(), budget, forward_block=48, batch_size=48)
    streams = [s for s in map(RandomStream, range(30)) if smoother.smooth(torch.zeros(1), stream=s).abstained]
    seen: list[int] = []
    smoother.certify(torch.zeros(1), 0.0, stream=streams[0], progress=seen.append)
    assert sum(seen) == 48 + 48


def test_metrics_share_draws_without_changing_each_other() -> None:
    """One pass for two metrics is what two passes are."""
    sampler = Sampler(linear, GaussianNoise(SIGMA), 64, 128)
    both = gather_centers(sampler, {"a": L1(), "b": Cosine()}, BUDGET, X, STREAM)
    for name, metric in (("a", L1()), ("b", Cosine())):
        alone = gather_centers(sampler, {name: metric}, BUDGET, X, STREAM)[name]
        assert (alone.inside, alone.r_center, alone.error) == (both[name].inside, both[name].r_center, both[name].error)
        assert np.array_equal(alone.far.values, both[name].far.values)


# --- edge cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [L1(), L2(), SquaredL2(), Cosine(), Angular()], ids=lambda m: m.name)
@pytest.mark.parametrize("rule", ["paper", "exact", "measured"])
def test_a_constant_model_is_certified_at_0(metric: Metric, rule: str) -> None:
    """It cannot move, and every bound has to say so exactly."""
    smoother = make(lambda x: x.new_full((len(x), 3), 0.1), metric, rule=rule)
    certificate = smoother.certify(X, 0.1, stream=STREAM)
    assert (certificate.radius, certificate.r_center, certificate.vacuous) == (0, 0, False)


@pytest.mark.parametrize("n0", [0, 1])
def test_one_draw_for_the_center(n0: int) -> None:
    """n = 1 is feasible at delta near 1/2: the center is that draw, its radius 0 (Smooth)."""
    budget = Budget(n=1, m=4_000, delta=0.498, alpha1=0.005, n0=n0)
    certificate = make(lambda x: x[:, :1] * 0 + 3, L1(), budget).certify(X, 0.0, stream=STREAM)
    assert certificate.outcome is Outcome.CERTIFIED
    assert certificate.answer.tolist() == [3]


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("metric", [L1(), L2()], ids=lambda m: m.name)
def test_few_points(metric: Metric, n: int) -> None:
    """The least of the ceil(n/2)-th smallest distances, the point itself included."""
    outputs = torch.tensor([0.0, 1.0, 5.0, 5.5, 9.0])[:n, None]
    gaps = (outputs - outputs.T).abs().sort(dim=1).values
    center = least_median_center(metric, outputs, metric.features(outputs))
    assert center.radius == gaps[:, half_count(n) - 1].min()


@pytest.mark.parametrize("forward_block", [1, 64, 1_000])
def test_blocks_larger_than_the_sample(forward_block: int) -> None:
    """n = 200 and m = 600 in blocks of 1,000: the rest of a block goes unused."""
    certificate = make(forward_block=forward_block, batch_size=4_096).certify(X, 0.1, stream=STREAM)
    assert certificate.outcome is Outcome.CERTIFIED


def test_eps_0_needs_no_more_than_the_margin() -> None:
    """R_hat at eps = 0 is the order statistic for mass 1/2 + delta."""
    certificate = make(rule="exact").certify(X, 0, stream=STREAM)
    sample = gather_centers(Sampler(linear, GaussianNoise(SIGMA), 64, 64), {"d": L2()}, BUDGET, X, STREAM)["d"].far
    assert certificate.r_hat == sample.at_rank(EXACT.upper_rank(600, 0.75, 0.1))


@pytest.mark.parametrize("metric", [L1(), L2(), SquaredL2()], ids=lambda m: m.name)
def test_float64_inputs(metric: Metric) -> None:
    """Other draws, in double precision: the center keeps its type, the radius about its value."""
    single, double = (make(linear, metric).certify(x, 0.1, stream=STREAM) for x in (X, X.double()))
    assert double.answer.dtype is torch.float64
    assert single.radius == pytest.approx(double.radius, rel=0.1)


@pytest.mark.parametrize("metric", [L1(), L2(), SquaredL2(), TotalVariation()], ids=lambda m: m.name)
def test_center_of_a_stable_model_is_the_least_one(metric: Metric) -> None:
    """Outputs that differ in the tenth digit only: the proof needs r' <= 2 R_hat there as well."""
    offsets = torch.randn(20, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = 0.7 + 1e-10 * offsets
    features = metric.features(outputs)
    medians = metric.pairwise(features, features).kthvalue(10, dim=1).values
    assert least_median_center(metric, outputs, features).radius == pytest.approx(float(medians.min()), rel=1e-5)


@pytest.mark.parametrize("metric", [L1(), L2(), SquaredL2()], ids=lambda m: m.name)
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_an_atom_of_more_than_half_is_the_center(metric: Metric, scale: float) -> None:
    """13 of 21 outputs are equal, the others close to them: a certificate of 0 rests on finding a ball of radius 0."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        point, near = torch.rand(784, generator=generator), torch.randn(8, 784, generator=generator) * 1e-9
        outputs = scale * (point.double() + torch.cat([torch.zeros(13, 784), near]).double())
        outputs = outputs[torch.randperm(21, generator=generator)]
        assert least_median_center(metric, outputs, metric.features(outputs)).radius == 0


def test_model_with_one_number_an_output() -> None:
    """Outputs of shape (b,) are certified as those of shape (b, 1)."""
    flat, column = (make(m).certify(X, 0.1, stream=STREAM) for m in (lambda x: x.sum(1), lambda x: x.sum(1)[:, None]))
    assert flat.radius == column.radius


def test_best_candidate_is_a_candidate() -> None:
    """Smooth-HD answers with one of the n0, the first of equal ones."""
    candidates = torch.tensor([[9.0], [1.0], [1.0]])
    sample = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    center = best_candidate(L1(), candidates, candidates, L1().pairwise(sample, candidates))
    assert (center.output.tolist(), center.features.tolist(), center.radius) == ([1.0], [[1.0]], 1.0)


def batch_norm_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2))
        net(3 * torch.randn(64, 3) + 1)
    return net


def test_train_mode_changes_nothing_and_comes_back() -> None:
    """A model in training gives the certificate of its eval mode, and is still in training afterwards."""
    trained, evaluated = batch_norm_net().train(), batch_norm_net().eval()
    trained[2].eval()
    flags, state = [m.training for m in trained.modules()], trained[1].running_mean.clone()
    ours, theirs = (make(net).certify(X, 0.1, stream=STREAM) for net in (trained, evaluated))
    assert content(ours) == content(theirs)
    assert [m.training for m in trained.modules()] == flags
    assert torch.equal(trained[1].running_mean, state)


def test_train_mode_comes_back_after_a_failure() -> None:
    """Also when the model fails halfway."""
    net = nn.Sequential(batch_norm_net(), nn.Linear(7, 1)).train()
    with pytest.raises(RequestError, match="the model failed"):
        make(net).smooth(X)
    assert all(m.training for m in net.modules())


# --- abstaining, vacuous, infeasible --------------------------------------------------------------------------------


def test_abstains_where_two_modes_hold_half_each() -> None:
    """Two outputs far apart at the least feasible n: many runs find too few fresh draws around either."""
    model, budget = (lambda x: 100 * torch.sign(x[:, :1])), Budget(n=48, m=48, delta=0.13, alpha1=0.1, alpha2=0.1)
    smoother, sampler, abstained = make(model, L1(), budget), Sampler(model, NOISE, 64, 64), 0
    for seed in range(30):
        smoothed = smoother.smooth(torch.zeros(1), stream=RandomStream(seed))
        certificate = smoother.certify(torch.zeros(1), 0.0, stream=RandomStream(seed))
        assert (certificate.outcome is Outcome.BAD_CENTER) is smoothed.abstained is (smoothed.output is None)
        if smoothed.abstained:
            abstained += 1
            assert (certificate.radius, certificate.r_hat, certificate.vacuous) == (None, None, False)
            assert torch.equal(certificate.answer, smoothed.answer)
            stream = RandomStream(seed)
            found = gather_centers(sampler, {"d": L1()}, smoother.budget, torch.zeros(1), stream, far=False)["d"]
            assert certificate.r_center == found.r_center
            assert "48 fresh draws" in certificate.reason
    assert 3 <= abstained <= 27


def test_an_abstention_saves_the_remaining_draws() -> None:
    """No bounds would accept that center: the m draws for its radius are not made."""
    model = Counting(lambda x: torch.sign(x[:, :1]))
    budget = Budget(n=48, m=10_000, delta=0.13, alpha1=0.1, alpha2=0.1)
    smoother = make(model, L1(), budget, forward_block=48, batch_size=48)
    streams = [s for s in map(RandomStream, range(30)) if smoother.smooth(torch.zeros(1), stream=s).abstained]
    model.calls = 0
    certificate = smoother.certify(torch.zeros(1), 0.0, stream=streams[0])
    assert certificate.outcome is Outcome.BAD_CENTER
    assert model.calls == 3  # the base output, the sample, the test of the center


def test_vacuous_radii_are_capped_and_flagged() -> None:
    """Three times a radius of 2 in a space of diameter 2 says nothing; without a range nobody can tell."""
    model, budget = (lambda x: torch.sign(x[:, :1])), Budget(n=200, m=400, delta=0.2, alpha1=0.1, alpha2=0.1)
    capped, equal, open_ = (
        make(model, L1(), budget, rule="paper", output_range=limits).certify(torch.zeros(1), 0.1, stream=STREAM)
        for limits in ((-1.0, 1.0), (-3.0, 3.0), None)
    )
    assert (capped.radius, capped.vacuous, capped.r_hat) == (2, True, 2)
    assert (equal.radius, equal.vacuous) == (6, True)
    assert (open_.radius, open_.vacuous) == (6, False)


@pytest.mark.parametrize("rule", ["paper", "exact", "measured"])
def test_partial_infeasibility_is_an_outcome(rule: str) -> None:
    """Those that can be served are; the others say which m would do."""
    served, refused = make(rule=rule).certify(X, [0.1, 1.5], stream=STREAM)
    assert served.outcome is Outcome.CERTIFIED
    assert (refused.outcome, refused.radius, refused.answer) == (Outcome.INFEASIBLE, None, None)
    assert re.search(r"m >= \d+ would do", refused.reason)


@pytest.mark.parametrize("rule", ["paper", "exact", "measured"])
def test_infeasible_n_is_refused_before_any_forward_pass(rule: str) -> None:
    """The n that it names is feasible, and no smaller even one is."""
    model = Counting()
    for call in (lambda s: s.smooth(X), lambda s: s.certify(X, 0.1)):
        with pytest.raises(InfeasibleError, match=r"n >= \d+ would do") as caught:
            call(make(model, budget=Budget(n=100, m=300, delta=0.05), rule=rule))
    assert model.calls == 0
    assert "\n" not in str(caught.value)
    named = int(re.search(r"n >= (\d+)", str(caught.value))[1])
    make(model, budget=Budget(n=named, m=300, delta=0.05), rule=rule).smooth(X)
    with pytest.raises(InfeasibleError):
        make(model, budget=Budget(n=named - 2, m=300, delta=0.05), rule=rule).smooth(X)


@pytest.mark.parametrize("rule", ["paper", "exact", "measured"])
def test_a_delta_that_no_n_reaches_is_said_to_be_so(rule: str) -> None:
    with pytest.raises(InfeasibleError, match="no number a machine makes would do: raise delta"):
        make(budget=Budget(n=100, m=300, delta=1e-12), rule=rule).smooth(X)


@pytest.mark.parametrize("rule", ["paper", "exact", "measured"])
def test_infeasible_m_is_refused_before_any_forward_pass(rule: str) -> None:
    """The m that it names is feasible, and one fewer is not."""
    model = Counting()
    with pytest.raises(InfeasibleError, match=r"m >= \d+ would do") as caught:
        make(model, budget=dataclasses.replace(BUDGET, m=5), rule=rule).certify(X, [0.5, 0.75])
    assert model.calls == 0
    assert "\n" not in str(caught.value)
    named = int(re.search(r"m >= (\d+)", str(caught.value))[1])
    make(model, budget=dataclasses.replace(BUDGET, m=named), rule=rule).certify(X, 0.5)
    with pytest.raises(InfeasibleError):
        make(model, budget=dataclasses.replace(BUDGET, m=named - 1), rule=rule).certify(X, 0.5)


def test_an_eps_far_above_sigma_is_refused() -> None:
    """There is no m to name, so it names what would help."""
    with pytest.raises(InfeasibleError, match="no number a machine makes would do"):
        make().certify(X, 50.0)


@pytest.mark.parametrize("rule", BOUNDS_OF)
@pytest.mark.parametrize("n0", [0, 1, 30])
def test_alpha_counts_missed_candidates(n0: int, rule: str) -> None:
    """Smooth-HD fails also where none of its n0 candidates is in the half-mass ball."""
    budget = dataclasses.replace(BUDGET, n0=n0)
    certificate = make(budget=budget, rule=rule).certify(X, 0.1, stream=STREAM)
    bounds = BOUNDS_OF[rule]
    missed = (0.5 - bounds.center_margin(200, 0.05)) ** n0 if n0 else 0.0
    assert certificate.alpha == spent_alpha(budget, bounds) == pytest.approx(0.2 + missed)


# --- order statistics ----------------------------------------------------------------------------------------------


@given(m=st.integers(1, 200_000) | st.integers(65_530, 65_545), share=st.floats(0, 1))
def test_at_rank_is_never_below_the_order_statistic(m: int, share: float) -> None:
    """Exact up to 65,536 distances; beyond, the next larger kept one, at most 2**-12 of the larger ones further."""
    rank = max(1, math.ceil(share * m))
    sample = DistanceSample.of(np.arange(m, 0, -1.0))
    assert sample.at_rank(m) == m
    assert sample.at_rank(rank) >= rank
    if m <= 2**16:
        assert sample.at_rank(rank) == rank
    elif rank > m / 2:
        assert sample.at_rank(rank) <= rank + (m - rank) / 2**12


@pytest.mark.parametrize("m", [1, 65_536, 65_537, 1_000_000])
def test_kept_ranks_ascend_and_end_with_the_largest(m: int) -> None:
    """Whatever rank is asked for, something is kept at or above it."""
    ranks = kept_ranks(m)
    assert (np.diff(ranks) > 0).all()
    assert ranks[0] == 1 if m <= 2**16 else ranks[0] <= m / 2 * (1 + 2**-12) + 1
    assert ranks[-1] == m


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 10.0]), min_size=1, max_size=30), st.data())
def test_order_statistics_with_ties(distances: list[float], data: st.DataObject) -> None:
    """Always one of the distances, with at least `rank` of them at or below it."""
    rank = data.draw(st.integers(1, len(distances)))
    value = DistanceSample.of(np.array(distances)).at_rank(rank)
    assert value in distances
    assert sum(d <= value for d in distances) >= rank > sum(d < value for d in distances)


# --- user errors, each one line ------------------------------------------------------------------------------------


BAD_CALLS = {
    "negative eps": (lambda: make().certify(X, -0.1), RequestError, "eps is -0.1"),
    "NaN eps": (lambda: make().certify(X, math.nan), RequestError, "eps is nan"),
    "infinite eps": (lambda: make().certify(X, [0.1, math.inf]), RequestError, "eps is inf"),
    "no eps": (lambda: make().certify(X, []), RequestError, "eps is empty"),
    "eps None": (lambda: make().certify(X, None), RequestError, "eps"),
    "eps a word": (lambda: make().certify(X, "small"), RequestError, "eps"),
    "list as input": (lambda: make().smooth([1.0, 2.0, 3.0]), RequestError, "x is list"),
    "integers as input": (
        lambda: make().smooth(torch.arange(3)),
        RequestError,
        "x is a tensor of torch.int64: expected a floating-point tensor, one input without a batch dimension; noise is "
        "added to real numbers: of pixels use x / 255, of tokens or texts their embeddings",
    ),
    "a text as input": (
        lambda: make().smooth("a text"),
        RequestError,
        "x is str: expected a floating-point tensor, one input without a batch dimension; noise is added to real "
        "numbers: of a text use its embedding",
    ),
    "a list of texts as input": (lambda: make().smooth(["a", "b"]), RequestError, "of a text use its embedding"),
    "a list of tokens as input": (lambda: make().smooth([5, 3]), RequestError, "of tokens use their embeddings"),
    "texts as inputs": (lambda: list(make().certify_all(["a", "b"], 0.1)), RequestError, "of a text use its embedding"),
    "an array as input": (
        lambda: make().smooth(X.numpy()),
        RequestError,
        "x is ndarray of shape (3,), float32: expected a floating-point tensor, one input without a batch dimension; "
        "use torch.from_numpy(x)",
    ),
    "sparse input": (lambda: make().smooth(X.to_sparse()), RequestError, "x is a sparse tensor (torch.sparse_coo)"),
    "nested input": (
        lambda: make().smooth(torch.nested.nested_tensor([X, X], layout=torch.jagged)),
        RequestError,
        "x is a nested tensor: expected a floating-point tensor",
    ),
    "complex input": (lambda: make().smooth(X * 1j), RequestError, "x is a tensor of torch.complex64"),
    "8-bit floats as input": (lambda: make().smooth(X.to(torch.float8_e5m2)), RequestError, "use x.float()"),
    "one infinite number in the input": (
        lambda: make().smooth(X.flatten().index_fill(0, torch.tensor([0]), math.inf).view_as(X)),
        RequestError,
        "NaN or infinite entries",
    ),
    "NaN as input": (lambda: make().smooth(X * math.nan), RequestError, "NaN or infinite entries"),
    "wrong input shape": (lambda: make().smooth(torch.zeros(4)), RequestError, "the model failed on a batch of shape"),
    "bare function as metric": (lambda: make(metric=torch.dist), RequestError, "DistanceFunction"),
    "class as metric": (lambda: make(metric=L2), RequestError, "an instance such as"),
    "unknown rule": (
        lambda: make(rule="tight"),
        RequestError,
        "rule is 'tight': expected one of 'paper', 'exact', 'measured', 'enumerated' for center",
    ),
    "unknown kind": (lambda: make(kind="near"), RequestError, "kind is 'near': expected one of 'sample', 'free'"),
    "paper's rule of free centers": (
        lambda: make(kind="free", rule="paper"),
        RequestError,
        "rule is 'paper': expected one of 'measured' for center_free",
    ),
    "a rule of means": (lambda: make(rule="local"), RequestError, "rule is 'local': expected one of 'paper'"),
    "batch of 0": (lambda: make(batch_size=0), RequestError, "batch_size is 0"),
    "vectors under TV": (lambda: make(metric=TotalVariation()).smooth(X), RequestError, "expected images"),
    "vectors under Jaccard": (lambda: make(metric=Jaccard()).smooth(X), RequestError, "expected boxes"),
    "range violated": (lambda: make(output_range=(0.0, 0.1)).smooth(X), ModelError, "outside the declared"),
    "dropout": (lambda: make(torch.nn.functional.dropout).smooth(X), ModelError, "two outputs"),
    "batch statistics": (lambda: make(lambda x: x - x.mean(0)).certify(X, 0.1), ModelError, "depends on the other"),
    "NaN outputs": (lambda: make(lambda x: x * math.nan).smooth(X), ModelError, "NaN or infinity"),
    "delta 0": (lambda: Budget(delta=0.0), RequestError, "delta is 0.0"),
    "delta 1/2": (lambda: Budget(delta=0.5), RequestError, "delta is 0.5"),
    "NaN delta": (lambda: Budget(delta=math.nan), RequestError, "delta is nan"),
    "tiny delta": (lambda: make(budget=Budget(delta=1e-7)).smooth(X), InfeasibleError, "n = 10000 draws are too few"),
    "n 0": (lambda: Budget(n=0), RequestError, "n is 0"),
    "n a float": (lambda: Budget(n=1e4), RequestError, "n is 10000.0"),
    "m True": (lambda: Budget(m=True), RequestError, "m is True"),
    "n0 negative": (lambda: Budget(n0=-1), RequestError, "n0 is -1"),
    "alpha1 1": (lambda: Budget(alpha1=1.0), RequestError, "alpha1 is 1.0"),
    "alpha2 NaN": (lambda: Budget(alpha2=math.nan), RequestError, "alpha2 is nan"),
    "a number as noise": (lambda: make(noise=0.25), RequestError, "noise is 0.25: expected a law"),
    "a dict as budget": (lambda: make(budget={"n": 9}), RequestError, "budget is {'n': 9}: expected counts"),
    "a word as model": (lambda: make("resnet"), RequestError, "model is 'resnet': expected an nn.Module"),
    "rule in a list": (lambda: make(rule=["exact"]), RequestError, "rule is ['exact']: expected one of 'paper'"),
    "kind in a list": (lambda: make(kind=["free"]), RequestError, "kind is ['free']: expected one of 'sample'"),
    "batch a word": (lambda: make(batch_size="3"), RequestError, "batch_size is '3': expected an integer"),
    "half a block": (lambda: make(forward_block=12.5), RequestError, "forward_block is 12.5: expected an integer"),
    "NaN range": (lambda: make(output_range=(0.0, math.nan)), RequestError, "expected two numbers"),
    "complex outputs": (lambda: make(lambda x: x * 1j).smooth(X), RequestError, "complex64: expected real numbers"),
    "means of integers": (lambda: make(torch.Tensor.long, kind="free").smooth(X), ModelError, "takes means"),
    "delta a word": (lambda: Budget(delta="0.1"), RequestError, "delta is '0.1': expected a number"),
    "alpha1 None": (lambda: Budget(alpha1=None), RequestError, "alpha1 is None: expected a probability"),
    "sigma a word": (lambda: GaussianNoise("0.25"), RequestError, "sigma is '0.25': expected a positive number"),
    "sigma NaN": (lambda: GaussianNoise(math.nan), RequestError, "sigma is nan"),
    "half a step": (lambda: Attack(steps=2.5), RequestError, "steps of the attack is 2.5: expected an integer"),
    "distance a word": (lambda: DistanceFunction("l2"), RequestError, "distance is 'l2': expected a function"),
    "power a word": (lambda: DistanceFunction(torch.dist, power="2"), RequestError, "power is '2'"),
    "diameter 0": (lambda: DistanceFunction(torch.dist, diameter=0), RequestError, "diameter is 0"),
    "complex distance": (
        lambda: make(metric=DistanceFunction(lambda a, b: (a - b)[:, 0] * 1j)).smooth(X),
        RequestError,
        "returned torch.complex64: expected real numbers",
    ),
    "batch an array": (
        lambda: make(batch_size=np.zeros((2, 2))),
        RequestError,
        "batch_size is <ndarray (2, 2), float64>: expected an integer",
    ),
    "rule an array": (lambda: make(rule=np.zeros(2)), RequestError, "rule is <ndarray (2,), float64>: expected one of"),
    "kind an array": (lambda: make(kind=np.zeros(2)), RequestError, "kind is <ndarray (2,), float64>: expected one of"),
    "attack an array": (lambda: Attack(np.zeros(2)), RequestError, "attack is <ndarray (2,), float64>: expected one"),
    "norm an array": (lambda: UniformNoise(1.0, np.zeros(2)), RequestError, "p is <ndarray (2,), float64>: expected 1"),
    "eps beyond all floats": (lambda: make().certify(X, 10**400), RequestError, "eps is 1000"),
    "sigma beyond all floats": (lambda: GaussianNoise(10**400), RequestError, "sigma is 1000"),
    "range beyond all floats": (lambda: make(output_range=(0, 10**400)), RequestError, "expected two numbers"),
    "progress a range": (
        lambda: make().certify(X, 0.1, progress=range(3)),
        RequestError,
        "progress is range(0, 3): expected a function",
    ),
    "an input of no numbers": (
        lambda: make().certify(torch.zeros(1, 0, 8), 0.1),
        RequestError,
        "x has the shape (1, 0, 8), without a number: expected an input",
    ),
    "stream a number": (lambda: make().certify(X, 0.1, stream=0), RequestError, "stream is 0: expected RandomStream"),
}


@pytest.mark.parametrize("fault", BAD_CALLS)
def test_user_errors_are_one_line(fault: str) -> None:
    """What came, what was expected; an error of this library's own kind."""
    call, error, message = BAD_CALLS[fault]
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert isinstance(caught.value, CenterSmoothError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("noise", [GaussianNoise(0.5), EnumeratedSplitting(0.5)], ids=str)
def test_the_gradient_of_an_input_changes_nothing(noise: Noise) -> None:
    """Neither a warning of PyTorch, nor an answer that holds on to it."""
    x, smoother = torch.full((3,), 51 / 255), make(noise=noise)
    found = smoother.certify(x.clone().requires_grad_(), 0.01, stream=STREAM)
    assert content(found) == content(smoother.certify(x, 0.01, stream=STREAM))
    assert not found.answer.requires_grad


@pytest.mark.parametrize(
    "eps", [np.float32(0.25), np.float64(0.25), torch.tensor(0.25)], ids=["float32", "float64", "tensor"]
)
def test_eps_may_be_any_number(eps: object) -> None:
    """One number of numpy or torch is one eps, and has one certificate."""
    certificate = make().certify(X, eps, stream=STREAM)
    assert (certificate.eps, certificate.outcome) == (0.25, Outcome.CERTIFIED)


def test_a_metric_that_gives_nan_is_named() -> None:
    """Wherever it turns up: among the candidates or for a fresh draw."""

    class Hole(L2):
        """NaN for far away pairs."""

        def of_l2(self, distance: Tensor) -> Tensor:
            return torch.where(distance > 2, torch.nan, distance)

    with pytest.raises(ModelError, match="Hole: a distance is NaN") as caught:
        make(metric=Hole()).smooth(X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -1e-9])
def test_one_impossible_distance_among_candidates_is_refused(wrong: float) -> None:
    """Of all pairs of the sample, for whichever way a center is chosen."""
    distances = torch.rand(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances[4, 7] = wrong
    metric, outputs = DistanceFunction(lambda a, b: distances[a[:, 0], b[:, 0]]), torch.arange(9)[:, None]
    with pytest.raises(ModelError, match="a distance that is NaN, infinite or negative"):
        least_median_center(metric, outputs, outputs)
    with pytest.raises(ModelError, match="a distance that is NaN, infinite or negative"):
        best_candidate(metric, outputs, outputs, distances)


def test_a_center_has_features_of_its_own() -> None:
    """One row, those of its output."""
    outputs = torch.rand(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    center = least_median_center(L2(), outputs, outputs)
    assert torch.equal(center.features, center.output[None])


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_sentence(outcome: Outcome) -> None:
    """For people, in one line, that says what to change."""
    assert len(outcome.message) > 20
    assert "\n" not in outcome.message


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (lambda a, b: (a - b).sum(1), "negative"),
        (lambda a, b: (b - a).clamp(min=0).sum(1), "symmetric"),
        (lambda a, b: (a - b).abs().sum(1) + 1, "itself"),
        (lambda a, b: (a - b).square().sum(1), "triangle"),
    ],
)
def test_an_own_distance_that_is_none_is_refused(distance, expected) -> None:
    """Certificates rest on symmetry and the triangle inequality: a look at real outputs costs nothing."""
    smoother = CenterSmoother(
        lambda x: x, DistanceFunction(distance), GaussianNoise(1.0), Budget(n=1000, m=1000, delta=0.1)
    )
    with pytest.raises(ModelError, match=expected):
        smoother.certify(torch.zeros(3), 0.5)


def test_nan_between_far_pairs_is_not_sorted_away() -> None:
    """A NaN sorts behind every number, so the median would not show it."""

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        gap = (a - b).abs().sum(1)
        return torch.where(gap > 4, torch.nan, gap)

    smoother = CenterSmoother(
        lambda x: x, DistanceFunction(distance), GaussianNoise(1.0), Budget(n=1000, m=1000, delta=0.1)
    )
    with pytest.raises(ModelError, match="NaN"):
        smoother.certify(torch.zeros(1), 0.5, stream=STREAM)


def test_a_model_that_changes_its_input_in_place_is_judged_by_its_answers() -> None:
    """Normalising in place is common and harmless: every block is fresh."""
    smoother = CenterSmoother(
        lambda x: x.sub_(0.5).mul_(2), L2(), GaussianNoise(0.5), Budget(n=1000, m=1000, delta=0.1)
    )
    assert smoother.certify(torch.zeros(2), 0.5, stream=RandomStream(0)).outcome is Outcome.CERTIFIED


def test_a_budget_exactly_at_its_margin_is_served() -> None:
    margin = PAPER.center_margin(BUDGET.n, BUDGET.alpha1 / 2)
    assert center_problem(dataclasses.replace(BUDGET, delta=margin), PAPER) == ""
    assert center_problem(dataclasses.replace(BUDGET, delta=margin * (1 - 1e-9)), PAPER)


@pytest.mark.parametrize("rule", BOUNDS_OF)
def test_a_certificate_without_radius_still_names_its_rule(rule: str) -> None:
    feasible, infeasible = make(rule=rule).certify(X, [0.1, 5.0], stream=STREAM)
    assert (infeasible.outcome, infeasible.r_center) == (Outcome.INFEASIBLE, None)
    assert {(c.certifier, c.rule, c.about) for c in (feasible, infeasible)} == {("center", rule, "run")}


@pytest.mark.parametrize("n0", [0, 8])
def test_a_smoothed_output_costs_no_draw_for_radii(n0: int) -> None:
    passes: list[int] = []
    budget = dataclasses.replace(BUDGET, n0=n0)
    make(budget=budget).smooth(X, stream=STREAM, progress=passes.append)
    assert 1 + sum(passes) == budget.passes_of_smooth


def test_a_module_without_parameters() -> None:
    assert make(nn.Tanh()).smooth(X, stream=STREAM).output.shape == X.shape


def test_a_model_elsewhere_is_named() -> None:
    with pytest.raises(RequestError, match="x is on cpu and the model on meta: move one to the other"):
        make(nn.Linear(3, 2, device="meta")).smooth(X)


@pytest.mark.parametrize("certifier", [Center(L2()), Center(L2(), "free"), Mean(L2())], ids=lambda c: c.name)
def test_an_unknown_rule_is_answered_with_those_there_are(certifier: Certifier) -> None:
    there_are = ", ".join(f"'{rule}'" for rule in (*certifier.rules, *certifier.siblings))
    with pytest.raises(RequestError, match=rf"^rule is 'best': expected one of {there_are} for {certifier.name}$"):
        Smoother(linear, NOISE, certifier, BUDGET, rule="best", output_range=(-9.0, 9.0))


class BrokenLater(L2):
    """Right among a sample, NaN to a single output."""

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return super().pairwise(a, b) * math.nan


def test_every_look_at_a_distance_names_the_metric() -> None:
    features = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="BrokenLater gave a median distance of nan: expected a finite number"):
        least_median_center(BrokenLater(), features, features)
    with pytest.raises(ModelError, match="BrokenLater gave a distance that is NaN"):
        best_candidate(BrokenLater(), features, features, BrokenLater().pairwise(features, features))


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_a_power_is_doubled_as_its_root_is(power: float) -> None:
    """The root at most doubles, so the distance grows 2**power times; 2 * power is that for 1 and 2 only."""
    metric = DistanceFunction(lambda a, b: (a - b).norm(dim=1) ** power, power=power)
    for rule, gamma in (("paper", 2 ** (power - 1)), ("exact", None)):
        certificate = make(metric=metric, rule=rule).certify(X, 0.1, stream=STREAM)
        assert certificate.beta == 2**power
        assert certificate.r_far == pytest.approx(2**power * certificate.r_hat)
        factor = gamma * (1 + 2**power) if gamma else 3**power * (1 + ROUNDING)
        assert certificate.radius == pytest.approx(factor * certificate.r_hat)


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, [0.1, -0.1], "0.1", []])
def test_an_impossible_eps_costs_no_forward_pass(eps: object) -> None:
    model = Counting()
    mean = MeanSmoother(model, L2(), GaussianNoise(SIGMA), BUDGET, output_range=(-9.0, 9.0))
    for smoother in (make(model), mean):
        with pytest.raises(RequestError, match="eps"):
            smoother.certify(X, eps)
    assert model.calls == 0


def test_numbers_of_any_type_are_taken() -> None:
    """numpy's, in places where a plain one is expected."""
    budget = Budget(n=np.int64(200), m=np.int32(600), delta=np.float32(0.25), alpha1=0.1, alpha2=0.1)
    limits = (np.float32(-9), 9)
    certificate = make(budget=budget, output_range=limits).certify(X, np.float64(0.1), stream=STREAM)
    assert content(certificate) == content(make(output_range=(-9.0, 9.0)).certify(X, 0.1, stream=STREAM))
    assert GaussianNoise(np.float32(0.25)) == GaussianNoise(0.25)
    assert (type(budget.n), type(GaussianNoise(np.float32(0.25)).sigma)) == (int, float)


def test_integer_outputs_have_centers() -> None:
    """Though no means."""
    certificate = make(lambda x: linear(x).round().long()).certify(X, 0.1, stream=STREAM)
    assert (certificate.outcome, certificate.answer.dtype) == (Outcome.CERTIFIED, torch.int64)


@pytest.mark.parametrize("kind", ["sample", "free"])
def test_an_attack_is_judged_by_runs_of_the_smoothed_model_it_is_about(kind: str) -> None:
    """As anybody would who ran `smooth` on the streams of the runs."""
    smoother = make(kind=kind)
    certificate = smoother.certify(X, 0.1, stream=STREAM)
    attacked = smoother.attack(X, certificate, runs=3, stream=STREAM)
    runs = [smoother.smooth(attacked.perturbed, stream=STREAM.named(f"run {run}")) for run in range(3)]
    expected = [smoother.distance(run.answer, certificate.answer) for run in runs if not run.abstained]
    assert list(attacked.movements) == pytest.approx(expected)
    assert smoother.attack(X, certificate, Attack(), runs=3, stream=STREAM).movements == attacked.movements


def test_only_certificates_of_the_same_smoothed_model_are_attacked() -> None:
    smoothers = {
        "center": make(lambda x: linear(x).tanh()),
        "center_free": make(lambda x: linear(x).tanh(), kind="free"),
        "mean": MeanSmoother(
            lambda x: linear(x).tanh(), L2(), GaussianNoise(SIGMA), BUDGET, output_range=(-1.0, 1.0), forward_block=64
        ),
    }
    certificates = {name: smoother.certify(X, 0.1, stream=STREAM) for name, smoother in smoothers.items()}
    for name, smoother in smoothers.items():
        for other, certificate in certificates.items():
            if other == name:
                assert smoother.attack(X, certificate, Attack(steps=1), runs=1).perturbed.shape == X.shape
            else:
                with pytest.raises(RequestError, match=f"is of '{other}': expected one of this smoother, '{name}'"):
                    smoother.attack(X, certificate)
        with pytest.raises(RequestError, match="certificate is a float"):
            smoother.attack(X, 0.5)
        with pytest.raises(RequestError, match="attack is 'search': expected an Attack"):
            smoother.attack(X, certificates[name], "search")
        with pytest.raises(RequestError, match="runs is 0"):
            smoother.attack(X, certificates[name], runs=0)


# --- audits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [L1(), L2(), TotalVariation(), Cosine()], ids=lambda metric: metric.name)
def test_a_center_is_compared_with_an_output_of_another_type(metric: Metric) -> None:
    """That of a mean is float64."""
    image = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(0))
    smoother = make(metric=metric)
    mixed = smoother.distance(image.double(), 1 - image)
    assert mixed == smoother.distance(image.double(), (1 - image).double()) > 0


@pytest.mark.parametrize("other", [torch.zeros(4), np.zeros(3), None])
def test_no_distance_between_what_does_not_match(other: object) -> None:
    with pytest.raises(RequestError, match=r"no distance between \(3,\) and .*: expected two outputs of one shape"):
        make().distance(X, other)


def test_an_own_distance_of_half_precision_outputs_is_computed_in_single() -> None:
    """Where it sums 1,000 numbers, half precision would lose a thousandth; certificates allow for a tenth of that."""
    smoother = make(metric=DistanceFunction(lambda a, b: (a - b).abs().sum(1)))
    a, b = torch.rand(2, 1_000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert smoother.distance(a, b) == pytest.approx(float((a.double() - b.double()).abs().sum()), rel=1e-6)


def test_an_own_distance_that_only_tells_equal_from_other() -> None:
    """Its values are bools."""
    smoother = make(lambda x: linear(x).round(), metric=DistanceFunction(lambda a, b: (a != b).any(1), diameter=1.0))
    assert (smoother.distance(X, X), smoother.distance(X, -X)) == (0.0, 1.0)
    assert smoother.certify(X, 0.1, stream=STREAM).outcome is Outcome.CERTIFIED


def test_a_smoother_is_called_like_a_model() -> None:
    """With fresh randomness; None where it abstains."""
    smoother = make()
    assert smoother(X).shape == smoother.smooth(X, stream=STREAM).answer.shape
    torn = CenterSmoother(
        torch.sign, L1(), GaussianNoise(SIGMA), Budget(n=48, m=48, delta=0.13, alpha1=0.1, alpha2=0.1)
    )
    assert None in {None if torn(torch.zeros(1)) is None else 0 for _ in range(40)}


@pytest.mark.parametrize("many", [[0.25], (0.25, 0.1), np.array([0.25, 0.1]), torch.tensor([0.25])], ids=str)
def test_several_eps_have_a_list_of_certificates_in_their_order(many: Iterable[float]) -> None:
    """Also where they are only one."""
    certificates = make().certify(X, many, stream=STREAM)
    assert isinstance(certificates, list)
    assert [certificate.eps for certificate in certificates] == [float(eps) for eps in many]
    assert content(certificates[0])["radius"] == make().certify(X, 0.25, stream=STREAM).radius


def test_an_iterator_of_eps_serves_every_input() -> None:
    certificates = make().certify_all([X, X], iter([0.25, 0.1]), stream=STREAM)
    assert [[one.eps for one in row] for row in certificates] == [[0.25, 0.1], [0.25, 0.1]]


@pytest.mark.parametrize("eps", [0.1, [0.1, 0.2]], ids=["one", "several"])
def test_several_inputs_are_certified_in_order_each_with_its_own_stream(eps: float | list[float]) -> None:
    smoother, inputs = make(), torch.stack([X, X + 1, X - 1])
    together = list(smoother.certify_all(inputs, eps, stream=RandomStream(3, point=5)))
    alone = [smoother.certify(x, eps, stream=RandomStream(3, point=5 + i)) for i, x in enumerate(inputs)]
    contents = [[content(one) for one in (c if isinstance(c, list) else [c])] for c in (*together, *alone)]
    assert contents[:3] == contents[3:]
    assert all(isinstance(one, list) == isinstance(eps, list) for one in together)


def test_several_inputs_are_certified_as_soon_as_each_is_asked_for() -> None:
    """An endless supply of inputs will do, and progress is counted over all of them."""
    seen: list[int] = []
    certificates = make().certify_all(itertools.repeat(X), 0.1, stream=STREAM, progress=seen.append)
    assert seen == []
    for done in (1, 2, 3):
        assert next(certificates).outcome is Outcome.CERTIFIED
        assert sum(seen) == done * (BUDGET.passes - 1)


@pytest.mark.parametrize(
    ("xs", "eps", "stream", "message"),
    [
        (0.5, 0.1, None, "xs is float: expected several inputs"),
        (torch.tensor(0.5), 0.1, None, "xs is a tensor of torch.float32: expected several inputs"),
        ([X], -0.1, None, "eps is -0.1"),
        ([X], 0.1, 0, "stream is 0"),
    ],
)
def test_a_bad_request_for_several_inputs_is_refused_at_the_call(
    xs: object, eps: float, stream: object, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        make().certify_all(xs, eps, stream=stream)


# --- a batch in place of one input -----------------------------------------------------------------------------------


def seeded(make_model: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_model()


MLP = seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)))
CONV = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1)))
GRAY_CONV = seeded(lambda: nn.Conv2d(1, 1, 3, padding=1))
DEPTHWISE = seeded(lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3))
FLAT = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(40, 5)))
ATTENTION = seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
RECURRENT = seeded(lambda: nn.LSTM(8, 4, batch_first=True))

BATCHES = {
    "vectors": (MLP, (5, 8)),
    "two vectors": (MLP, (2, 8)),
    "their classes": (lambda x: MLP(x).argmax(-1), (5, 8)),
    "sequences": (MLP, (4, 5, 8)),
    "images, coordinate by coordinate": (torch.sigmoid, (4, 3, 8, 8)),
}

SINGLE_INPUTS = {
    "a vector": (MLP, (8,)),
    "a vector, coordinate by coordinate": (torch.sigmoid, (8,)),
    "one row": (MLP, (1, 8)),
    "a gray image, coordinate by coordinate": (torch.sigmoid, (1, 8, 8)),
    "a gray image": (GRAY_CONV, (1, 8, 8)),
    "a colour image": (CONV, (3, 8, 8)),
    "a colour image, channel by channel": (DEPTHWISE, (3, 8, 8)),
    "a matrix, flattened": (FLAT, (5, 8)),
    "a sequence under attention": (ATTENTION, (5, 8)),
    "a sequence, recurrently": (lambda x: RECURRENT(x)[0], (5, 8)),
    "running sums": (lambda x: x.cumsum(dim=-2) if x.ndim > 2 else x, (5, 8)),
    "rows that are not the model's": (lambda x: x.flatten(1)[:, :5], (5, 8)),
}


def smooth_of_zeros(model: Callable, shape: tuple[int, ...], forward_block: int) -> None:
    make(model, forward_block=forward_block).smooth(torch.zeros(shape), stream=STREAM)


@pytest.mark.parametrize("forward_block", [1, 3, 64])
@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_in_place_of_one_input_is_noticed(name: str, forward_block: int) -> None:
    model, shape = BATCHES[name]
    expected = f"x is accepted as one input of shape {shape}, and so is x[0]"
    with pytest.warns(UserWarning, match=re.escape(expected)) as caught:
        smooth_of_zeros(model, shape, forward_block)
    assert "use certify_all(x, eps)" in str(caught[0].message)
    assert "\n" not in str(caught[0].message)


def test_one_input_in_place_of_a_batch_is_noticed() -> None:
    with pytest.raises(RequestError, match=r"^the model failed .*; the model takes xs as one input: use certify\(xs, "):
        list(make(GRAY_CONV).certify_all(torch.zeros(1, 8, 8), 0.1))


@pytest.mark.parametrize("xs", [[torch.zeros(8, 8)], torch.zeros(8, 8)], ids=["a list", "no input either"])
def test_what_is_no_input_is_not_said_to_be_one(xs: torch.Tensor | list[torch.Tensor]) -> None:
    with pytest.raises(RequestError, match=r"^the model failed") as error:
        list(make(GRAY_CONV).certify_all(xs, 0.1))
    assert "one input" not in str(error.value)


@pytest.mark.parametrize("forward_block", [1, 3, 5, 64])
@pytest.mark.parametrize("name", SINGLE_INPUTS)
def test_single_inputs_raise_no_alarm(name: str, forward_block: int) -> None:
    """Also where PyTorch's layers take a block of ``x[0]`` for one input without a batch; warnings are errors here."""
    smooth_of_zeros(*SINGLE_INPUTS[name], forward_block)


def test_a_batch_is_warned_of_once_a_shape_in_the_line_of_the_caller() -> None:
    smoother, five, four = make(MLP), torch.zeros(5, 8), torch.zeros(4, 8)
    with pytest.warns(UserWarning, match=r"shape \(5, 8\), and so is x") as of_five:
        certificate = smoother.certify(five, 0.1, stream=STREAM)
    smoother.smooth(five)
    smoother.attack(five, certificate, Attack(steps=1), runs=1)
    with pytest.warns(UserWarning, match=r"shape \(4, 8\), and so is x") as of_four:
        smoother.smooth(four)
    assert [w.filename for w in (*of_five, *of_four)] == [__file__, __file__]


class WithMask(GaussianNoise):
    """A law whose noisy inputs have one row more than the input."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        noisy = super().sample(x, count, draws)
        return torch.cat([noisy, noisy[:, :1]], dim=1)


def test_rows_of_noisy_inputs_that_are_not_those_of_the_input_are_no_batch() -> None:
    sampler, x = Sampler(MLP, WithMask(SIGMA), 64, 64), torch.zeros(5, 8)
    with torch.no_grad():
        assert not sampler.answers_rows(x, sampler.check_model(x))
        assert not sampler.answers_rows(torch.zeros(5, 8), torch.zeros(64, 5, 3))


@pytest.mark.parametrize(("shape", "calls"), [((5, 8), 1), ((4, 5), 0), ((8,), 0)])
def test_looking_for_a_batch_costs_one_call_at_most_and_only_once(shape: tuple[int, ...], calls: int) -> None:
    """None where the output has no row for each of ``x``, so that it cannot be a batch."""
    model = Counting(lambda x: x.flatten(1)[:, :5])
    sampler, x = Sampler(model, NOISE, 64, 64), torch.zeros(shape)
    outputs = sampler.check_model(x)
    before = model.calls
    sampler.answers_rows(x, outputs)
    assert model.calls - before == calls
    smoother = make(model)
    smoother.smooth(x, stream=STREAM)
    model.calls = 0
    smoother.smooth(x, stream=STREAM)
    assert model.calls == 1 + 2 * -(-BUDGET.n // 64)


def test_a_certificate_is_a_sentence() -> None:
    smoother = make()
    certificate = smoother.certify(X, 0.1, stream=STREAM)
    assert str(certificate) == (
        f"for every input within eps = 0.1 (l2) a fresh smoothed answer stays within {certificate.radius:.4g} of the "
        f"answer here, except with probability {certificate.alpha:.3g}"
    )
    assert "(l2) the smoothed function stays within" in str(dataclasses.replace(certificate, about="map"))
    bounded = dataclasses.replace(certificate, vacuous=True)
    assert ", which is the whole output space, except" in str(bounded)
    abstained = dataclasses.replace(certificate, radius=None, outcome=Outcome.BAD_CENTER, reason="")
    assert str(abstained).startswith("no certificate at eps = 0.1: abstained")


def test_details_are_what_only_certificates_of_its_kind_have() -> None:
    certificate = make().certify(X, 0.1, stream=STREAM)
    ratio = {"r_center": certificate.r_center, "r_hat": certificate.r_hat, "r_far": certificate.r_far, "beta": None}
    assert certificate.details == ratio
    mean = Smoother(lambda x: linear(x).tanh(), NOISE, Mean(L2()), BUDGET, output_range=(-1.0, 1.0))
    assert mean.certify(X, 0.1, stream=STREAM).details == {}


class Appended(GaussianNoise):
    """Gives the model one coordinate more than the input has: 0 without noise, 1 in each draw."""

    def clean(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(1)])

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return torch.cat([super().sample(x, count, draws), x.new_ones(count, 1)], dim=1)


def test_the_base_output_is_that_of_an_input_without_noise() -> None:
    """As the law puts it to the model; for most laws the input itself."""
    smoothed = make(lambda x: x[:, 2:], noise=Appended(SIGMA)).smooth(X, stream=STREAM)
    assert smoothed.base.tolist() == [X[2], 0.0]
    assert smoothed.answer[1] == 1.0


def test_a_run_is_judged_by_every_rule_at_once() -> None:
    """As `smooth` answers under each: the paper's test of a center is passed by fewer runs than the exact one."""
    budget = Budget(n=48, m=48, delta=0.18, alpha1=0.1, alpha2=0.1)
    smoothers = {rule: make(torch.sign, L1(), budget, rule=rule) for rule in BOUNDS_OF}
    sampler, x, answer, seen = Sampler(torch.sign, NOISE, 64, 64), torch.zeros(1), torch.ones(1), set()
    for stream in map(RandomStream, range(30)):
        judged = judge(sampler, Center(L1()), budget, x, answer, stream)
        runs = {rule: smoother.smooth(x, stream=stream) for rule, smoother in smoothers.items()}
        assert judged.answers == tuple(rule for rule, run in runs.items() if not run.abstained)
        assert judged.movement == float((runs["measured"].answer - answer).abs())
        seen.add(judged.answers)
    assert seen >= {("exact", "measured"), ("paper", "exact", "measured")}


def test_without_a_budget_it_is_the_quick_one() -> None:
    assert Smoother(linear, GaussianNoise(SIGMA), Center(L2())).budget == Budget.quick()
    assert Budget.paper() == Budget(10_000, 1_000_000, 0.05, 0.005, 0.005)
