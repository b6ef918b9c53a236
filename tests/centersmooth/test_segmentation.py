"""Certified segmentation: the tests of many pixels, against the textbook and known worlds; intersections over union."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import binom
from torch import Tensor

from centersmooth import (
    Attack,
    Budget,
    GaussianNoise,
    InfeasibleError,
    LaplaceNoise,
    Noise,
    Outcome,
    RandomStream,
    RequestError,
    Segmentation,
    Smoother,
    UniformNoise,
)
from centersmooth.bounds import EXACT
from centersmooth.certifiers import certified_iou
from centersmooth.certifiers.label import majority_mass
from centersmooth.certifiers.segmentation import (
    SegmentationCertificate,
    SegmentationCollector,
    SegmentationEvidence,
    holm,
)
from centersmooth.gathering import Setting, Shared
from centersmooth.metrics.labels import class_maps

RUNS, ALPHA = 1_000, 0.1
ALLOWED = int(binom.isf(1e-9, RUNS, ALPHA))
STREAM = RandomStream(0)


# --- Holm's procedure -----------------------------------------------------------------------------------------------


def textbook_holm(hits: np.ndarray, drawn: int, tau: float, alpha: float) -> np.ndarray:
    """From p-values in ascending order, each at its own level, up to the first that fails."""
    p = binom.sf(hits - 1, drawn, tau)
    order = np.argsort(p, kind="stable")
    certified = np.zeros(len(p), dtype=bool)
    for k, place in enumerate(order):
        if p[place] > alpha / (len(p) - k):
            break
        certified[place] = True
    return certified


@given(
    st.lists(st.integers(30, 50), min_size=1, max_size=12),
    st.sampled_from([0.5, 0.6, 0.75]),
    st.sampled_from([0.001, 0.01, 0.1]),
)
def test_the_pixels_certified_are_those_of_the_textbook(hits: list[int], tau: float, alpha: float) -> None:
    expected = textbook_holm(np.array(hits), 50, tau, alpha)
    assert holm(torch.tensor(hits), 50, tau, alpha).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("pixels", "least"),
    [(28 * 28, (48, 129, 265, 1351)), (128 * 128, (58, 158, 324, 1653)), (1024 * 2048, (75, 204, 419, 2136))],
)
def test_pixels_on_which_all_draws_agree_are_certified_from_the_least_number_on(
    pixels: int, least: tuple[int, ...]
) -> None:
    """``ln(alpha/N) / ln(tau)`` draws at alpha = 0.001, for tau of 0.75, 0.9, 0.95 and 0.99."""
    for tau, draws in zip((0.75, 0.9, 0.95, 0.99), least, strict=True):
        agreeing = torch.full((pixels,), draws, dtype=torch.int32)
        assert holm(agreeing, draws, tau, 0.001).all()
        assert not holm(agreeing - 1, draws - 1, tau, 0.001).any()


@pytest.mark.parametrize(("alpha", "limit"), [(1e-4, 0.9238), (1e-3, 0.9309)])
def test_300_draws_certify_up_to_the_limit_of_the_published_plot(alpha: float, limit: float) -> None:
    """Images of Cityscapes; at 1e-4, the published default, the plot has points at 0.92 and none at 0.925."""
    agreeing = torch.full((1024 * 2048,), 300, dtype=torch.int32)
    assert holm(agreeing, 300, limit, alpha).all()
    assert not holm(agreeing, 300, limit + 1e-4, alpha).any()


def tail_against_fewer_trials(hits: int, drawn: int, selection: int, tau: float) -> float:
    """The p-value of published code that tests counts of all draws as if they were of ``drawn - selection``."""
    return float(binom.sf(hits - 1, drawn - selection, tau))


def test_89_of_100_draws_are_not_enough_for_an_image_of_cityscapes() -> None:
    """As published code says that tests them against 90 trials: the level is 4.8e-10, the p-value 3.9e-4."""
    level = 0.001 / (1024 * 2048)
    assert tail_against_fewer_trials(89, 100, 10, 0.75) <= level < binom.sf(88, 100, 0.75)
    for hits, certified in ((89, False), (97, False), (98, True)):
        assert bool(holm(torch.full((1024 * 2048,), hits, dtype=torch.int32), 100, 0.75, 0.001).all()) is certified


# --- Coverage in worlds with known masses ---------------------------------------------------------------------------

Test = Callable[[Tensor], Tensor]
DRAWS, TAU = 400, 0.75


def false_runs(test: Test, *, together: bool = False) -> int:
    """Runs of RUNS in which one of 20 pixels is certified whose mass is ``tau``, and so not above it.

    Beside them are 20 pixels of a larger mass. Those at the limit are independent or, ``together``, all the same.
    """
    generator = np.random.default_rng(0)
    at_the_limit = generator.binomial(DRAWS, TAU, (RUNS, 1 if together else 20))
    sure = generator.binomial(DRAWS, 0.95, (RUNS, 20))
    hits = torch.from_numpy(np.concatenate([np.broadcast_to(at_the_limit, (RUNS, 20)), sure], axis=1))
    certified = torch.stack(list(map(test, hits)))
    assert certified[:, 20:].double().mean() > 0.99
    return int(certified[:, :20].any(dim=1).sum())


@pytest.mark.parametrize("together", [False, True])
def test_certified_pixels_are_above_the_mass_all_at_once(together: bool) -> None:
    assert false_runs(lambda hits: holm(hits, DRAWS, TAU, ALPHA), together=together) <= ALLOWED


BROKEN: dict[str, Test] = {
    "each pixel at the whole alpha": lambda hits: hits >= EXACT.upper_rank(DRAWS, TAU, ALPHA),
    "counts against fewer trials": lambda hits: holm(hits, DRAWS - 10, TAU, ALPHA),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_test_of_pixels_that_is_too_easy_is_caught(fault: str) -> None:
    assert false_runs(BROKEN[fault]) > ALLOWED


def test_classes_chosen_from_the_draws_that_test_them_are_caught() -> None:
    """Forty pixels that are one of two classes with 1/2 each, and so certified by no sound test at eps = 0."""
    drawn = torch.from_numpy(np.random.default_rng(0).binomial(DRAWS, 0.5, (RUNS, 40)))
    fresh = sum(bool(holm(hits, DRAWS, 0.5, ALPHA).any()) for hits in drawn)
    same = sum(bool(holm(torch.maximum(hits, DRAWS - hits), DRAWS, 0.5, ALPHA).any()) for hits in drawn)
    assert fresh <= ALLOWED < same


@pytest.mark.parametrize(("pixels_counted", "holds"), [(50, True), (1, False)])
def test_a_fresh_run_gives_all_certified_pixels_their_class(pixels_counted: int, holds: bool) -> None:
    """Fifty independent pixels of the least mass that they keep at x'; without a union over them runs fail."""
    n = 201
    mass = majority_mass(n, ALPHA / pixels_counted)
    hits = np.random.default_rng(0).binomial(n, mass, (RUNS, 50))
    assert bool((2 * hits <= n).any(axis=1).sum() <= ALLOWED) is holds


# --- The certifier --------------------------------------------------------------------------------------------------


def two_classes(thresholds: Tensor) -> Callable[[Tensor], Tensor]:
    """Pixel ``i`` is 1 where input ``i`` is above a threshold of its own."""
    return lambda batch: (batch > thresholds).int()


def test_one_bad_pixel_of_100_abstains_alone() -> None:
    """The experiment of the paper: n = 100, alpha = 0.001, tau = 0.75; pixels err with 0.05, one with 0.25."""
    error = torch.full((100,), 0.05, dtype=torch.float64)
    error[7] = 0.25
    model, eps = two_classes(torch.from_numpy(ndtri(error.numpy())).float()), float(ndtri(0.75))
    smoother = Smoother(model, GaussianNoise(1.0), Segmentation(), Budget(n=100, m=100, alpha2=0.001))
    certificates = [smoother.certify(torch.zeros(100), eps, stream=RandomStream(seed)) for seed in range(30)]
    for certificate in certificates:
        assert certificate.answer.all()
        assert certificate.tau == pytest.approx(0.75)
        assert certificate.certified.tolist() == textbook_holm(certificate.hits.numpy(), 100, 0.75, 0.001).tolist()
        assert certificate.radius == certificate.abstained / 100 == int((~certificate.certified).sum()) / 100
    certified = torch.stack([certificate.certified for certificate in certificates])
    assert int(certified[:, 7].sum()) <= binom.isf(1e-9, 30, 0.001)
    of_good = int(certified.sum() - certified[:, 7].sum())
    at_least, at_most = (binom.sf(rank - 1, 100, 0.95) for rank in (93, 89))  # Holm's ranks for 100 pixels and for one
    assert binom.ppf(1e-9, 30 * 99, at_least) <= of_good <= binom.isf(1e-9, 30 * 99, at_most)


def thresholded(image: Tensor) -> Tensor:
    """Scores of two classes, ``(b, 1, H, W) -> (b, 2, H, W)``: is a pixel above 1/2?"""
    return torch.cat([0.5 - image, image - 0.5], dim=1)


RAMP = torch.linspace(0, 1, 64).view(1, 8, 8)


def ramp_certificates(rule: str, noise: Noise, radii: list[float]) -> list[SegmentationCertificate]:
    smoother = Smoother(thresholded, noise, Segmentation(), Budget(n=200, m=1_000), rule=rule)
    return smoother.certify(RAMP, radii, stream=STREAM)


@pytest.mark.parametrize("noise", [GaussianNoise(0.2), LaplaceNoise(0.2), UniformNoise(0.5)], ids=repr)
def test_each_pixel_has_a_radius_of_its_own_by_bonferroni(noise: Noise) -> None:
    """Where the answer moves by less than the distance of each pixel to the threshold, as one pixel can."""
    radii = [0.01, 0.1, 0.2, 0.3]
    certificates = ramp_certificates("bonferroni", noise, radii)
    reach = certificates[0].reach(noise)
    assert bool((reach <= (RAMP[0] - 0.5).abs() + 1e-6).all())
    assert reach.max() > 0.2
    for eps, certificate in zip(radii, certificates, strict=True):
        assert certificate.certified.tolist() == (reach > eps).tolist()
        assert 0 < certificate.abstained < 64
    assert reach.dtype == certificates[0].p_low.dtype == torch.float64  # float32 may round a limit up


def test_holm_certifies_more_pixels_than_bonferroni_and_a_run_fewer() -> None:
    """Of 200 pixels, each with one hit more than the one before it."""
    hits = torch.arange(801, 1_001, dtype=torch.int32)
    evidence = SegmentationEvidence(torch.zeros_like(hits), torch.zeros_like(hits), 0.0, hits, 1_000)
    setting = Setting(GaussianNoise(0.2), Budget(n=200, m=1_000))
    certificates = [Segmentation().certificate(evidence, 0.2, rule, setting) for rule in Segmentation.rules]
    run, bonferroni, holm = (certificate.certified for certificate in certificates)
    assert [int(run.sum()), int(bonferroni.sum()), int(holm.sum())] == [53, 114, 116]
    assert bool((run <= bonferroni).all() and (bonferroni <= holm).all())


def test_certified_pixels_keep_their_class_at_the_worst_shift() -> None:
    """The exact map of the thresholds is known: a pixel is above 1/2 where its value is."""
    for rule in ("holm", "bonferroni"):
        (certificate,) = ramp_certificates(rule, GaussianNoise(0.2), [0.1])
        for shift in (-0.1, 0.1):  # of any one pixel
            moved = (RAMP[0] + shift > 0.5).int()
            assert torch.equal(moved[certificate.certified], certificate.answer[certificate.certified])


def test_a_certificate_says_how_many_pixels_keep_their_class() -> None:
    map_, run = (ramp_certificates(rule, GaussianNoise(0.2), [0.1])[0] for rule in ("holm", "holm_run"))
    kept = 64 - map_.abstained
    assert str(map_) == (
        f"for every input within eps = 0.1 (l2) the smoothed model gives {kept} of 64 pixels the class of the answer "
        "here, except with probability 0.005"
    )
    assert "a fresh run gives" in str(run)
    assert (map_.about, map_.alpha, run.about, run.alpha) == ("map", 0.005, "run", 0.01)
    assert map_.details == {"p_low": None, "tau": map_.tau, "pixels": 64, "abstained": map_.abstained}
    with pytest.raises(RequestError, match="the rule holm has not: use bonferroni"):
        map_.reach(GaussianNoise(0.2))


def test_too_few_draws_for_one_pixel_are_refused_before_any_draw() -> None:
    smoother = Smoother(thresholded, GaussianNoise(0.2), Segmentation(), Budget(n=200, m=100))
    with pytest.raises(
        InfeasibleError, match=r"m = 100 draws are too few to certify one pixel at eps = 0\.4.* m = 231"
    ):
        smoother.certify(RAMP, 0.4, stream=STREAM)


def test_too_few_draws_for_many_pixels_abstain_everywhere_and_say_what_would_do() -> None:
    smoother = Smoother(thresholded, GaussianNoise(0.2), Segmentation(), Budget(n=200, m=40))
    certificate = smoother.certify(RAMP, 0.2, stream=STREAM)
    least = int(np.ceil(np.log(0.005 / 64) / np.log(certificate.tau)))
    assert (certificate.outcome, certificate.radius, certificate.vacuous) == (Outcome.CERTIFIED, 1.0, True)
    assert certificate.reason == (
        f"m = 40 draws are too few to certify any of 64 pixels at eps = 0.2 by holm, though all agree: m = {least} "
        "would do"
    )


def test_a_map_of_classes_and_its_scores_give_the_same_certificate() -> None:
    budget = Budget(n=50, m=200)
    maps, scores = (
        Smoother(model, GaussianNoise(0.2), Segmentation(), budget).certify(RAMP, 0.1, stream=STREAM)
        for model in (lambda image: thresholded(image).argmax(dim=1), thresholded)
    )
    assert torch.equal(maps.certified, scores.certified)
    assert torch.equal(maps.answer, scores.answer)


def test_classes_that_come_later_are_counted() -> None:
    """Three maps one at a time; the lowest class wins a tie."""
    shared = Shared()
    collector = SegmentationCollector(Setting(GaussianNoise(1.0), Budget(n=3, m=2)), shared, radius=True)
    maps = {"center": ([[0, 1, 2]], [[0, 5, 1]], [[4, 5, 0]]), "fresh": ([[0, 5, 0]], [[0, 1, 7]])}
    for stage, one in ((stage, one) for stage, several in maps.items() for one in several):
        shared.forget()
        collector.update(stage, torch.tensor([one]))
    evidence = collector.compute(torch.tensor([[0, 1, 1]]))
    assert evidence.classes.tolist() == [[0, 5, 0]]
    assert (evidence.hits.tolist(), evidence.hits.dtype, evidence.drawn) == ([[2, 1, 1]], torch.int32, 2)
    assert evidence.error == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "outputs",
    [
        torch.zeros(2, 8, 8),
        torch.zeros(2, 1, 8, 8),
        torch.zeros(2, 3),
        torch.full((2, 8, 8), -1),
        torch.full((2, 8, 8), 65_536),
    ],
    ids=["a map in floating point", "scores of one class", "scores of no pixel", "class -1", "class 65,536"],
)
def test_outputs_that_are_no_segmentation_are_refused_in_one_line(outputs: Tensor) -> None:
    with pytest.raises(
        RequestError, match=r"an output is torch.* of shape .*: expected integers from 0 to 65,535"
    ) as e:
        class_maps(outputs)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("scores", [True, False])
def test_an_attack_climbs_away_from_the_answer(scores: bool) -> None:
    """The farther pixels are from the answer, the larger."""
    answer = torch.tensor([[0, 1], [1, 1]])
    maps = torch.stack([answer, torch.tensor([[0, 1], [1, 0]]), 1 - answer])
    outputs = torch.nn.functional.one_hot(maps, 2).permute(0, 3, 1, 2).float() if scores else maps
    near, between, far = Segmentation().objective(answer)(outputs).tolist()
    assert near < between < far
    assert Segmentation().distance(answer, outputs[1]) == 0.25


# --- Intersection over union ----------------------------------------------------------------------------------------


def iou(classes: Tensor, truth: Tensor, label: int) -> float:
    both = int(((classes == label) & (truth == label)).sum())
    return both / int(((classes == label) | (truth == label)).sum())


def completions(classes: Tensor, certified: Tensor) -> list[Tensor]:
    """All maps of three classes that have those of the certified pixels."""
    choices = [[int(one)] if sure else [0, 1, 2] for one, sure in zip(classes, certified, strict=True)]
    return list(map(torch.tensor, product(*choices)))


def small_masks() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randint(3, (6,), generator=generator),
            torch.rand(6, generator=generator) > 0.4,
            torch.randint(3, (6,), generator=generator),
        )
        for _ in range(40)
    ]


def test_a_certified_iou_is_the_least_of_all_completions() -> None:
    for classes, certified, truth in small_masks():
        every = completions(classes, certified)
        found = certified_iou(classes, certified, truth)
        assert list(found) == sorted(set(truth.tolist()))
        for label, least in found.items():
            assert least == min(iou(one, truth, label) for one in every)
        mean = min(sum(iou(one, truth, label) for label in found) / len(found) for one in every)
        assert sum(found.values()) / len(found) <= mean + 1e-12


def test_an_iou_that_counts_abstentions_as_a_class_of_their_own_is_too_large() -> None:
    """As published tables have it: no pixel that abstains joins the union of a class it does not belong to."""
    too_large = 0
    for classes, certified, truth in small_masks():
        least = certified_iou(classes, certified, truth)
        marked = classes.where(certified, 3)
        too_large += sum(iou(marked, truth, label) > least[label] for label in least)
    assert too_large > 20


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(RequestError, match=r"have the shapes \(2,\), \(2,\), \(3,\): expected one shape"):
        certified_iou(torch.zeros(2), torch.ones(2), torch.zeros(3))


def test_a_class_is_a_map_of_one_pixel() -> None:
    """Of a model with one class an input: as of one with one pixel, also under attack."""

    def classes(x: Tensor) -> Tensor:
        return (x[:, 0] < 0.05).long()

    x, budget, stream = torch.tensor([0.5]), Budget(n=40, m=300, delta=0.3), RandomStream(0)
    models = (classes, lambda x: classes(x)[:, None])
    one, mapped = (Smoother(model, GaussianNoise(0.25), Segmentation(), budget) for model in models)
    found, expected = one.certify(x, 0.1, stream=stream), mapped.certify(x, 0.1, stream=stream)
    assert found.radius == expected.radius == 0
    assert found.answer.tolist() == expected.answer.tolist()[0] == 0
    assert one.attack(x, found, Attack("search", 2, 1, 8), runs=1, stream=stream).movements == (0.0,)
