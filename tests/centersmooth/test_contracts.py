"""Every noise, certifier and metric keeps its contract, row by row; plug-ins that do not are caught.

``make test-noise NOISE=gaussian``, ``make test-certifier CERTIFIER=mean`` and ``make test-metric METRIC=l2`` run the
rows of one name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plugins import (
    CERTIFIERS,
    METRICS,
    NOISES,
    PROTOTYPES,
    UNIT,
    VECTORS,
    fit_for,
    mixed,
    outputs_for,
    random_outputs,
    shape_for,
)
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    Budget,
    Center,
    Certificate,
    Direction,
    DistanceFunction,
    GaussianNoise,
    InfeasibleError,
    Label,
    Mean,
    ModelError,
    Nearest,
    Outcome,
    Percentile,
    Prototypes,
    RandomStream,
    RequestError,
    Score,
    Segmentation,
    Smoothed,
    Smoother,
)
from centersmooth.certifiers import Certifier
from centersmooth.certifiers.mean import MeanCollector
from centersmooth.contracts import TwoOutputs, check_certifier, check_metric, check_noise
from centersmooth.contracts.certifiers import COUNTS
from centersmooth.contracts.metrics import _require
from centersmooth.draws import Draws
from centersmooth.gathering import Setting, Shared, gather
from centersmooth.metrics import Metric
from centersmooth.sampling import Sampler

# --- Noises ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
def test_a_noise_keeps_its_contract(noise: str) -> None:
    for row in NOISES[noise]:
        check_noise(row.noise, row.eps, x=row.x, moments=row.moments, draws=row.draws)


class Understated(GaussianNoise):
    """Draws noise 30% smaller than it states."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return GaussianNoise(0.7 * self.sigma).sample(x, count, draws)


class Overstated(GaussianNoise):
    """Draws noise larger than it states, which is sound, and another law."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return GaussianNoise(1.02 * self.sigma).sample(x, count, draws)


class OffCenter(GaussianNoise):
    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return super().sample(x, count, draws) + 0.01


class OnAGrid(GaussianNoise):
    """Noise in steps of 1/32: half-lines lose what they may, and sets between the steps everything."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return x + (super().sample(x, count, draws) - x).mul(32).round() / 32


class Correlated(GaussianNoise):
    """Its draws come in threes, so that together they move no less than one: their bound is that of one, or less."""

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        return self.required_mass(mass, eps)


class Mirrored(GaussianNoise):
    """Takes for the inverse what is one for symmetric threats only; harmless here, so made asymmetric."""

    def required_mass(self, mass: float, eps: float) -> float:
        return 1 - (1 - mass) ** math.exp(eps)

    def kept_mass(self, mass: float, eps: float) -> float:
        return 1 - self.required_mass(1 - mass, eps)


class Concave(GaussianNoise):
    """A law that says it keeps less of a score than of sets, in a way that is not convex."""

    def kept_mean(self, mean: float, eps: float) -> float:
        return self.kept_mass(mean, eps) - 0.3 * abs(mean - 0.5)


class Promising(GaussianNoise):
    def kept_mean(self, mean: float, eps: float) -> float:
        return 1.01 * self.kept_mass(mean, eps)


class Shrinking(GaussianNoise):
    def required_mass(self, mass: float, eps: float) -> float:
        return mass * math.exp(-eps)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Understated(0.5), "a half-line has mass"),
        (OnAGrid(0.5), "a set of small likelihood ratio has mass"),
        (Correlated(0.5), "a half-line of 3 draws has mass"),
        (Overstated(0.5), "its draws have the standard deviation 0.50.., and 0.5 is stated"),
        (OffCenter(0.5), "its draws have the mean 0.01.*, and 0 is stated"),
        (Mirrored(0.5), "kept_mass"),
        (Promising(0.5), "kept_mean.* above kept_mass"),
        (Concave(0.5), "kept_mean is not convex"),
        (Shrinking(0.5), "falls with eps"),
    ],
)
def test_a_noise_that_does_not_is_caught(broken: GaussianNoise, words: str) -> None:
    """The grid at an eps between its steps; each fault in one line that names the law."""
    stated = None if words.startswith("a ") else (0.0, broken.sigma)
    with pytest.raises(ModelError, match=words) as caught:
        check_noise(broken, 0.5 + 1 / 64, moments=stated)
    assert type(broken).__name__ in str(caught.value)
    assert "\n" not in str(caught.value)


# --- Certifiers -----------------------------------------------------------------------------------------------------

OF_VECTORS = {
    f"{name} {i}": row.certifier
    for name, rows in CERTIFIERS.items()
    for i, row in enumerate(rows)
    if row.outputs[0].shape == (2,)
}


RUNS = {"direction": 60}
"""Pairs of runs, where 30 do not suffice: half of the answers of unsound directions are beyond, 23 of 60 may be."""


@pytest.mark.parametrize("certifier", CERTIFIERS)
def test_a_certifier_keeps_its_contract(certifier: str) -> None:
    """Each in one pass with all others that can take its outputs."""
    for row in CERTIFIERS[certifier]:
        beside, runs = OF_VECTORS if row.outputs[0].shape == (2,) else {}, RUNS.get(certifier, 30)
        check_certifier(row.certifier, row.outputs, GaussianNoise(1.0), 1.5, beside=beside, runs=runs, **row.details)


@pytest.mark.parametrize("certifier", CERTIFIERS)
def test_certificates_of_too_few_draws_are_infeasible_and_say_why(certifier: str) -> None:
    for row in CERTIFIERS[certifier]:
        setting = Setting(GaussianNoise(1.0), COUNTS, row.details.get("output_range"), forward_block=128)
        sampler = Sampler(TwoOutputs(*row.outputs, threshold=0.0), setting.noise, 128, 128, setting.output_range)
        every = {"": row.certifier}
        evidence = gather(sampler, every, COUNTS, torch.zeros(1), RandomStream(0), radius=True)[""]
        few = dataclasses.replace(setting, budget=dataclasses.replace(COUNTS, n=1, m=1))
        for rule in row.certifier.rules:
            if row.certifier.problem(few, rule, 1.5):
                certificate = row.certifier.certificate(evidence, 1.5, rule, few)
                assert (certificate.outcome, certificate.radius) == (Outcome.INFEASIBLE, None)
                assert (certificate.vacuous, certificate.answer) == (False, None)
                assert certificate.reason


class OfHalfEps:
    """Certificates of half the eps."""

    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        return super().certificate(evidence, eps / 2, rule, setting)


class OfHalfEpsCenter(OfHalfEps, Center): ...


class OfHalfEpsMean(OfHalfEps, Mean): ...


class OfHalfEpsDirection(OfHalfEps, Direction): ...


class OfHalfEpsLabel(OfHalfEps, Label): ...


class OfHalfEpsRunLabel(OfHalfEpsLabel):
    """Of the rule about a run alone."""

    rules = ("counts_run",)


class OfHalfEpsSegmentation(OfHalfEps, Segmentation): ...


class OfHalfEpsRunSegmentation(OfHalfEpsSegmentation):
    """Of the rule about a run alone."""

    rules = ("holm_run",)


class OfHalfEpsScore(OfHalfEps, Score): ...


class OfHalfEpsPrototypes(OfHalfEps, Prototypes): ...


class OfHalfEpsPercentile(OfHalfEps, Percentile): ...


class OfHalfEpsRunPercentile(OfHalfEpsPercentile):
    """Of the rule about a run alone."""

    rules = ("order_run",)


class SmallRadius:
    """Radii of a fraction of what is certified: a third for centers and directions, half for means."""

    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        certificate = super().certificate(evidence, eps, rule, setting)
        factor = 0.5 if isinstance(self, Mean) else 0.32
        return dataclasses.replace(certificate, radius=factor * certificate.radius)


class SmallRadiusCenter(SmallRadius, Center): ...


class SmallRadiusMean(SmallRadius, Mean): ...


class SmallRadiusDirection(SmallRadius, Direction): ...


UNSOUND = {
    "center, half eps": (OfHalfEpsCenter(L2()), GaussianNoise(1.0)),
    "center, small radius": (SmallRadiusCenter(L2()), GaussianNoise(1.0)),
    "center, less noise": (Center(L2()), Understated(1.0)),
    "center_free, half eps": (OfHalfEpsCenter(L2(), "free"), GaussianNoise(1.0)),
    "center_free, small radius": (SmallRadiusCenter(L2(), "free"), GaussianNoise(1.0)),
    "center_free, less noise": (Center(L2(), "free"), Understated(1.0)),
    "mean, half eps": (OfHalfEpsMean(L2()), GaussianNoise(1.0)),
    "mean, small radius": (SmallRadiusMean(L2()), GaussianNoise(1.0)),
    "mean, less noise": (Mean(L2()), Understated(1.0)),
    "direction, half eps": (OfHalfEpsDirection(Angular()), GaussianNoise(1.0)),
    "direction, small radius": (SmallRadiusDirection(Angular()), GaussianNoise(1.0)),
    "direction, less noise": (Direction(Angular()), Understated(1.0)),
    "label, half eps": (OfHalfEpsLabel(), GaussianNoise(1.0)),
    "label, half eps of a run": (OfHalfEpsRunLabel(), GaussianNoise(1.0)),
    "label, less noise": (Label(), Understated(1.0)),
    "segmentation, half eps": (OfHalfEpsSegmentation(), GaussianNoise(1.0)),
    "segmentation, half eps of a run": (OfHalfEpsRunSegmentation(), GaussianNoise(1.0)),
    "segmentation, less noise": (Segmentation(), Understated(1.0)),
    "score, half eps": (OfHalfEpsScore(), GaussianNoise(1.0)),
    "score, less noise": (Score(), Understated(1.0)),
    "prototypes, half eps": (OfHalfEpsPrototypes(PROTOTYPES.centers), GaussianNoise(1.0)),
    "prototypes, less noise": (PROTOTYPES, Understated(1.0)),
    "percentile, half eps": (OfHalfEpsPercentile(), GaussianNoise(1.0)),
    "percentile, half eps of a run": (OfHalfEpsRunPercentile(), GaussianNoise(1.0)),
    "percentile, less noise": (Percentile(), Understated(1.0)),
}


@pytest.mark.parametrize("fault", UNSOUND)
def test_certificates_that_do_not_cover_are_caught(fault: str) -> None:
    """Of 30 answers, 16 may be beyond a radius with alpha = 0.1; but for directions, at least 80% of these are."""
    (broken, noise), name = UNSOUND[fault], fault.split(",")[0]
    row, runs = CERTIFIERS[name][0], RUNS.get(name, 30)
    words = rf"of {runs} answers at x' are beyond the radius of the rule \w+, where \d+ may be"
    with pytest.raises(ModelError, match=words):
        check_certifier(broken, row.outputs, noise, 1.5, runs=runs, **row.details)


class ExactMean(Mean):
    """A mean whose certificates are about the map; those of the library hold for it too."""

    def about(self, rule: str) -> str:
        return "map"

    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        return dataclasses.replace(super().certificate(evidence, eps, rule, setting), about="map")


class OfHalfEpsExactMean(OfHalfEps, ExactMean): ...


def test_certificates_about_the_map_are_compared_with_the_exact_answer() -> None:
    """And not with runs, of which these certificates do not speak."""
    check = partial(check_certifier, outputs=VECTORS, noise=GaussianNoise(1.0), eps=1.5, runs=50, **UNIT)
    check(ExactMean(L2()), exact=mixed)
    with pytest.raises(ModelError, match=r"50 of 50 answers at x' are beyond"):
        check(ExactMean(L2()), exact=lambda mass: mixed(mass) + 1)
    with pytest.raises(ModelError, match=r"answers at x' are beyond"):
        check(OfHalfEpsExactMean(L2()), exact=mixed)
    with pytest.raises(RequestError, match="exact is None: expected the exact smoothed answer"):
        check(ExactMean(L2()))


class TwoLines(Mean):
    def unsuited(self, setting: Setting) -> str:
        return super().unsuited(setting) and "first line\nsecond line"


class SaidTooLate(Mean):
    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        certificate = super().certificate(evidence, eps, rule, setting)
        return dataclasses.replace(certificate, outcome=Outcome.INFEASIBLE, radius=None)


class Misnamed(Mean):
    """Certificates that claim to be about the exact mean."""

    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        return dataclasses.replace(super().certificate(evidence, eps, rule, setting), about="map")


class Falling(Mean):
    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        return super().certificate(evidence, 2.0 - eps, rule, setting)


class Silent(Mean):
    """Abstains and certifies."""

    def answer(self, evidence: Any, setting: Setting, rule: str) -> Smoothed:
        return dataclasses.replace(super().answer(evidence, setting, rule), abstained=True)


class NeverCertifies(Mean):
    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        certificate = super().certificate(evidence, eps, rule, setting)
        return dataclasses.replace(certificate, outcome=Outcome.BAD_CENTER, radius=None)


class WithoutOutcome(Mean):
    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        return dataclasses.replace(super().certificate(evidence, eps, rule, setting), outcome=None)


class WithoutVacuous(Mean):
    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        return dataclasses.replace(super().certificate(evidence, eps, rule, setting), vacuous=None)


class MoreForAnswers(Mean):
    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> MeanCollector:
        fewer = dataclasses.replace(setting.budget, n=setting.budget.n // 2) if radius else setting.budget
        return super().collector(dataclasses.replace(setting, budget=fewer), shared, radius=True)


class Wanting(MeanCollector):
    """Wants one draw too many once it has all."""

    def wants(self, stage: str) -> int:
        return super().wants(stage) or (1 if stage in self._sums else 0)


class Owing(MeanCollector):
    def wants(self, stage: str) -> int:
        return super().wants(stage) or -1


class InPlace(MeanCollector):
    """Changes what it shares with others."""

    def update(self, stage: str, outputs: Tensor) -> None:
        super().update(stage, outputs)
        self._shared.once(("sum", len(outputs)), lambda: outputs.double().sum(0)).mul_(2)


class Lucky(MeanCollector):
    """Adds randomness that is not the stream's."""

    def compute(self, base: Tensor) -> Any:
        return dataclasses.replace(super().compute(base), error=float(torch.rand(())))


class Losing(MeanCollector):
    """Takes a single draw for 0."""

    def update(self, stage: str, outputs: Tensor) -> None:
        super().update(stage, outputs if len(outputs) > 1 else torch.zeros_like(outputs))


class WithWanting(Mean):
    collects: Callable[..., MeanCollector] = Wanting

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> MeanCollector:
        return self.collects(self.metric, setting.budget.n, setting, shared, radius)


class WithOwing(WithWanting):
    collects = Owing


class WithInPlace(WithWanting):
    collects = InPlace


class WithLuck(WithWanting):
    collects = Lucky


class WithLosing(WithWanting):
    collects = Losing


class Unpicklable(Mean):
    def __reduce__(self) -> str:
        raise TypeError("no way to pickle this")


class OfAnswersAlone(Mean):
    def distance(self, a: Tensor, b: Tensor) -> float:
        return float(a != b)


BROKEN_CERTIFIERS = {
    "says 'first line\\\\nsecond line' of a request: expected one line": TwoLines,
    "infeasible at eps = 0, where problem": SaidTooLate,
    r"certificates call themselves .*'map'.*expected \('mean', 'global', 'run'\)": Misnamed,
    "a certificate is None, with the radius .*: expected a radius where it is certified": WithoutOutcome,
    "a certificate is vacuous: None, with the radius .*: expected True or False": WithoutVacuous,
    "radii fall as eps grows": Falling,
    "a radius is certified under the rule global where the model abstains": Silent,
    "no run has a radius under the rule global": NeverCertifies,
    "wants 2400 draws for an answer and 2200 for a radius": MoreForAnswers,
    "wants 1 draws of center, where it wanted 16": WithWanting,
    "wants -1 draws of candidates": WithOwing,
    "evidence before other certifiers of a pass is not the same: ": WithInPlace,
    "evidence with a batch size of 1 is not the same: error": WithLuck,
    "evidence of 1 and 7 draws at a time is another: ": WithLosing,
    "cannot be pickled, as workers need it to be: no way": Unpicklable,
    "the distance of two outputs, which it is given as well as answers, ended in .*Error: ": OfAnswersAlone,
}


@pytest.mark.parametrize("words", BROKEN_CERTIFIERS)
def test_check_certifier_catches(words: str) -> None:
    """Each fault by its own message of one line, which names the certifier."""
    broken = BROKEN_CERTIFIERS[words]
    with pytest.raises(ModelError, match=words) as caught:
        check_certifier(broken(L2()), VECTORS, GaussianNoise(1.0), 1.5, beside={"mean": Mean(L1())}, **UNIT)
    assert broken.__name__ in str(caught.value)
    assert "\n" not in str(caught.value)


def test_counts_that_serve_no_rule_are_refused_before_any_run() -> None:
    few = Budget(n=100, m=900, delta=0.1, alpha1=0.05, alpha2=0.05)
    with pytest.raises(InfeasibleError, match="n >= 185 would do"):
        check_certifier(Center(L2()), VECTORS, GaussianNoise(1.0), 1.5, budget=few)


def test_outputs_that_a_certifier_takes_for_one_are_refused() -> None:
    """No certificate could then be wrong."""
    with pytest.raises(RequestError, match=r"outputs are at distance 0 for Label\(\)"):
        check_certifier(Label(), VECTORS, GaussianNoise(1.0), 1.5, **CERTIFIERS["label"][0].details)


@pytest.mark.parametrize(("width", "expected"), [(0.0, [0, 0, 0, 1]), (1.0, [0, 0.25, 1, 1])])
def test_a_model_of_two_outputs(width: float, expected: list[float]) -> None:
    """A step at the threshold, or a line that ends there."""
    model = TwoOutputs(torch.zeros(2, 3), torch.ones(2, 3), threshold=0.5, width=width)
    outputs = model(torch.tensor([[-1.0], [-0.25], [0.5], [0.75]]))
    assert outputs.shape == (4, 2, 3)
    assert outputs[:, 1, 2].tolist() == expected


# --- Metrics --------------------------------------------------------------------------------------------------------

EACH = pytest.mark.parametrize("metric", METRICS)

DEGENERATE = {
    "zeros": lambda shape: torch.zeros(4, *shape),
    "one zero": lambda shape: torch.cat([torch.zeros(1, *shape), torch.ones(1, *shape), torch.rand(3, *shape)]),
    "equal constants": lambda shape: torch.full((5, *shape), 0.1),
    "constants": lambda shape: torch.linspace(-1, 1, 7).reshape(7, *[1] * len(shape)).expand(7, *shape),
    "duplicates": lambda shape: random_outputs(L1(), 3 * math.prod(shape)).flatten()[: 3 * math.prod(shape)]
    .reshape(3, *shape)
    .repeat(3, *[1] * len(shape)),
    "one output": lambda shape: torch.ones(1, *shape),
    "float16": lambda shape: torch.linspace(-1, 1, 5 * math.prod(shape)).reshape(5, *shape).half(),
    "integers": lambda shape: torch.arange(5 * math.prod(shape)).reshape(5, *shape) % 7,
}  # fmt: skip


@EACH
@given(data=st.data())
def test_contract_on_coarse_outputs(metric: str, data: st.DataObject) -> None:
    """Self-distance, symmetry, triangle, finite, batch equals loop, on values that collide."""
    check_metric(METRICS[metric], data.draw(outputs_for(METRICS[metric])))


@EACH
def test_contract_on_random_outputs(metric: str) -> None:
    """The same on continuous outputs."""
    check_metric(METRICS[metric], random_outputs(METRICS[metric]))


@EACH
@pytest.mark.parametrize("case", DEGENERATE)
def test_contract_on_degenerate_outputs(metric: str, case: str) -> None:
    """Zeros, constants, duplicates, a single output, other types."""
    check_metric(METRICS[metric], fit_for(METRICS[metric], DEGENERATE[case](shape_for(METRICS[metric]))))


@EACH
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_contract_on_huge_and_tiny_outputs(metric: str, scale: float) -> None:
    """No overflow and no loss of digits within the range of float32."""
    check_metric(METRICS[metric], fit_for(METRICS[metric], random_outputs(METRICS[metric]) * scale))


@EACH
def test_contract_in_float64_near_a_point(metric: str) -> None:
    """A stable model: outputs differ in the tenth digit only, and check_metric has to see the same distances."""
    near = torch.tensor([0.1, 0.2, 0.5, 0.9, 0.3] * 5, dtype=torch.float64)[: math.prod(shape_for(METRICS[metric]))]
    outputs = near.reshape(shape_for(METRICS[metric])) + 1e-10 * random_outputs(METRICS[metric]).double()
    check_metric(METRICS[metric], fit_for(METRICS[metric], outputs))


def absolute(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(1)


BROKEN = {
    "not symmetric": DistanceFunction(lambda a, b: (2 * (a - b)).clamp(min=0).sum(1) + (b - a).clamp(min=0).sum(1)),
    "NaN": DistanceFunction(lambda a, b: absolute(a, b) / absolute(a, b)),
    "negative": DistanceFunction(lambda a, b: -absolute(a, b)),
    "itself is not 0": DistanceFunction(lambda a, b: absolute(a, b) + 1),
    "triangle": DistanceFunction(lambda a, b: (a - b).square().sum(1)),
    "a batch differs": DistanceFunction(lambda a, b: absolute(a, b) / (1 + a.abs().mean())),
}


class WrongRows(L2):
    """Its two ways of computing the matrix disagree."""

    def self_rows(self, features: Tensor):
        yield 1.1 * self.pairwise(features, features)


class BatchFeatures(L2):
    """Normalises by the batch."""

    def features(self, outputs: Tensor) -> Tensor:
        return super().features(outputs) / outputs.std(dim=0, correction=0).clamp(min=0.1)


BROKEN["self_rows"] = WrongRows()
BROKEN["one output at a time"] = BatchFeatures()


@pytest.mark.parametrize("fault", BROKEN)
def test_check_metric_catches(fault: str) -> None:
    """Each fault by its own message, which names the metric."""
    metric = BROKEN[fault]
    with pytest.raises(ModelError, match=fault) as caught:
        check_metric(metric, random_outputs(L1(), 12))
    assert metric.name in str(caught.value)
    assert "\n" not in str(caught.value)


class Tenfold(L2):
    """A metric that inherits the diameter of one with a tenth of its distances."""

    def features(self, outputs: Tensor) -> Tensor:
        return 10 * super().features(outputs)


@pytest.mark.parametrize("certifier", [Center, Nearest])
def test_distances_beyond_the_declared_diameter_are_refused(certifier: Callable[[Metric], Certifier]) -> None:
    """By corners of the range where outputs drawn at first are close, or by what is drawn later."""
    words = "^Tenfold: two outputs are .* apart, beyond the diameter 1 that it declares$"
    smoother = Smoother(torch.sigmoid, GaussianNoise(1.0), certifier(Tenfold()), COUNTS, output_range=(0.0, 1.0))
    with pytest.raises(ModelError, match=words):
        smoother.certify(torch.zeros(1), 0.3, stream=RandomStream(0))


def test_a_distance_beyond_the_declared_diameter_is_refused_when_it_is_drawn() -> None:
    """Not among the few outputs that a model is looked at with."""
    step = lambda inputs: torch.where(inputs > 2.2, 9.0, 0.0)  # noqa: E731
    metric = DistanceFunction(lambda a, b: (a - b).abs().sum(1), diameter=5.0)
    smoother = Smoother(step, GaussianNoise(1.0), Center(metric), COUNTS)
    with pytest.raises(ModelError, match=r"two outputs are 9 apart, beyond the diameter 5 that it declares$"):
        smoother.certify(torch.zeros(1), 0.1, stream=RandomStream(0))


def test_a_comparison_that_gives_nan_is_a_failure() -> None:
    with pytest.raises(ModelError, match=r"^L2: features are too far, by nan of the largest distance$"):
        _require(L2(), "features are too far", math.nan, 0.1)


@given(power=st.sampled_from([1.0, 1.5, 2.0]))
def test_declared_power_is_what_the_triangle_is_checked_for(power: float) -> None:
    """The square of a metric passes as power 2 and as nothing less."""
    squared = DistanceFunction(lambda a, b: (a - b).square().sum(1), power=power)
    line = torch.arange(4.0)[:, None]
    if power == 2:
        check_metric(squared, line)
    else:
        with pytest.raises(ModelError, match="triangle"):
            check_metric(squared, line)
