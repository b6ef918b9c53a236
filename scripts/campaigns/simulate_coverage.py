"""Simulate every rule of every certifier under every law it takes, and count the certificates that fail.

Usage: python scripts/campaigns/simulate_coverage.py [RUNS]

Each model is a step at a known mass, the worst case of the shift bound, put where the statement of a rule is just false:
a certificate that makes it there fails. A rule that uses up its failure probability then fails in about that share of
the runs, and one that does not cover fails in more. The same counts, of variants broken on purpose, show that they see
it. Every row goes to `docs/campaigns/coverage.csv`, the summary to `docs/campaigns/coverage.md`.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from known_worlds import BROKEN_WORLD, understated_patch, WORLDS, NoiseWorld, first_number, normal, shifted
from scipy.special import ndtr
from scipy.stats import binom
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    BoxPercentile,
    Budget,
    Center,
    Certificate,
    Cosine,
    Direction,
    GaussianNoise,
    Label,
    Mean,
    Metric,
    Nearest,
    Percentile,
    Prototypes,
    RandomStream,
    Score,
    Segmentation,
)
from centersmooth.bounds import EXACT, ExactBounds, mass_of_count
from centersmooth.certifiers import Certifier, pack
from centersmooth.contracts import TwoOutputs
from centersmooth.gathering import Setting, gather_one
from centersmooth.sampling import Model, Sampler

ALPHA = 0.1
"""``alpha1`` and ``alpha2``: so large that a thousand runs tell a failure rate above them from chance."""

FAMILY = 0.01
"""Probability that a sound library has any row above its allowed count, divided among all rows (Bonferroni)."""

BEYOND = 0.19
"""Share of runs at ``x'`` that leave a certificate of the rules about a run, where it is put to fail."""

RUN_LEVEL = 1e-6
"""Probability that a certificate which holds is taken for one that too many runs at ``x'`` leave."""

DOCS = Path(__file__).parents[2] / "docs" / "campaigns"


# --- The worlds of each certifier -----------------------------------------------------------------------------------

Fails = Callable[[Certifier, Certificate, Tensor], bool]
"""Whether what a certificate says is false of an answer at ``x'``."""


def beyond_radius(certifier: Certifier, certificate: Certificate, answer: Tensor) -> bool:
    assert certificate.answer is not None
    assert certificate.radius is not None
    return certifier.distance(certificate.answer, answer) > certificate.radius


def outside_interval(certifier: Certifier, certificate: Any, answer: Tensor) -> bool:
    return bool(((answer < certificate.lower) | (answer > certificate.upper)).any())


def pixel_changes(certifier: Certifier, certificate: Any, answer: Tensor) -> bool:
    return bool((answer != certificate.answer)[certificate.certified].any())


@dataclass(frozen=True)
class Case:
    """A certifier, and a model and counts under which its rules come close to failing.

    Attributes
    ----------
    certifier : Certifier
    model : callable, ``(world, mass) -> model``
        A model that gives its first output with just less than this mass at ``x'``.
    masses : mapping of str to float
        The mass for each rule.
    budget : Budget
    output_range : (float, float), optional
    exact : callable, ``mass -> Tensor``, optional
        The exact smoothed answer at ``x'`` for rules about the map.
    fails : mapping of str to callable
        What is counted, by name.
    ball : bool
        Whether it is also counted how often the ball around a center that is to keep its mass does not.
    """

    certifier: Certifier
    model: Callable[[NoiseWorld, float], Model]
    masses: Mapping[str, float]
    budget: Budget
    output_range: tuple[float, float] | None = None
    exact: Callable[[float], Tensor] | None = None
    fails: Mapping[str, Fails] = field(default_factory=lambda: {"radius": beyond_radius})
    ball: bool = False


class Atom(Metric):
    """1 between 0 and any other number, 0.99 between two others: a run without a majority of 0 answers with another.

    With this metric a center is a majority vote, so that its certificates can be nearly as wrong as they may be.
    """

    has_means = True

    def features(self, outputs: Tensor) -> Tensor:
        return outputs

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        one, other = a[:, None, 0], b[None, :, 0]
        return torch.where((one == 0) != (other == 0), 1.0, 0.99).where(one != other, 0.0)


def atom(world: NoiseWorld, mass: float) -> Model:
    """0 with just less than the mass at ``x'``, else numbers that differ."""
    threshold = world.threshold(mass)

    def model(inputs: Tensor) -> Tensor:
        statistic = world.statistic(inputs)
        return torch.where(statistic > threshold, 100 + statistic - threshold, 0.0)[:, None]

    return model


def step(below: Tensor, above: Tensor) -> Callable[[NoiseWorld, float], Model]:
    """The first output with just less than the mass at ``x'``, else the second."""

    def of_world(world: NoiseWorld, mass: float) -> Model:
        two = TwoOutputs(below, above, world.threshold(mass))
        return lambda inputs: two(world.statistic(inputs)[:, None])

    return of_world


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


_UNIT = (0.0, 1.0)
_CENTER = Budget(n=100, m=40, delta=0.08, alpha1=ALPHA, alpha2=ALPHA)
_PAPER = Budget(n=100, m=3_000, delta=0.1225, alpha1=ALPHA, alpha2=ALPHA)
_COUNTS = Budget(n=101, m=100, alpha1=ALPHA, alpha2=ALPHA)
_MEANS = Budget(n=2_000, m=2_000, alpha1=ALPHA, alpha2=ALPHA)
_MISSED = 0.5 + EXACT.center_margin(_CENTER.n, BEYOND)
"""The mass of 0 at ``x'`` with which a run has no majority of it, in the share `BEYOND` of all runs."""

_OF_A_RUN = mass_of_count(_COUNTS.n // 2 + 1, _COUNTS.n, BEYOND)
_ZERO, _ONE = numbers(0.0), numbers(1.0)
_DIRECTIONS = (numbers(0.6, 1.0), numbers(-0.6, 1.0))
_BOXES = (numbers(0.0, 0.0, 4.0, 4.0), numbers(2.0, 0.0, 6.0, 4.0))
_MAPS = (torch.tensor([0, 0]), torch.tensor([1, 1]))
_PROTOTYPES = Prototypes(torch.tensor([[1.0], [-1.0]]))
_INTERVAL = {"radius": beyond_radius, "interval": outside_interval}


def _of_means(certifier: Certifier, outputs: tuple[Tensor, Tensor], mass: float, **rest: Any) -> Case:
    return Case(certifier, step(*outputs), dict.fromkeys(certifier.rules, mass), _MEANS, **rest)


CASES = {
    "center": Case(Center(Atom()), atom, dict.fromkeys(("exact", "measured"), _MISSED), _CENTER, ball=True),
    "center, paper": Case(Center(Atom()), atom, {"paper": _MISSED}, _PAPER, ball=True),
    "center, n0 = 8": Case(
        Center(Atom()), atom, dict.fromkeys(("exact", "measured"), _MISSED), replace(_CENTER, n0=8), ball=True
    ),
    "center_free": Case(Center(Atom(), "free"), atom, {"measured": _MISSED}, _CENTER, ball=True),
    "center_nearest": _of_means(Nearest(L2()), (_ZERO, _ONE), 0.5, output_range=(-0.25, 1.25)),
    "center_nearest, angular": _of_means(Nearest(Angular()), _DIRECTIONS, 0.5),
    "mean": _of_means(Mean(L2()), (_ZERO, _ONE), 0.3, output_range=_UNIT),
    "mean, l1": _of_means(Mean(L1()), (_ZERO, _ONE), 0.3, output_range=_UNIT),
    "direction": _of_means(Direction(Angular()), _DIRECTIONS, 0.5),
    "direction, cosine": _of_means(Direction(Cosine()), _DIRECTIONS, 0.5),
    "label": Case(
        Label(),
        step(torch.tensor(0), torch.tensor(1)),
        {"counts": 0.5, "betting": 0.5, "counts_run": _OF_A_RUN},
        _COUNTS,
        exact=lambda mass: torch.tensor(0 if mass > 0.5 else 1),
    ),
    "segmentation": Case(
        Segmentation(),
        step(*_MAPS),
        {"holm": 0.5, "bonferroni": 0.5, "holm_run": _OF_A_RUN},
        _COUNTS,
        exact=lambda mass: _MAPS[0 if mass > 0.5 else 1],
        fails={"radius": beyond_radius, "pixels": pixel_changes},
    ),
    "score": Case(
        Score(),
        step(_ONE, _ZERO),
        {"two_point": 0.5, "cdf": 0.5},
        _COUNTS,
        _UNIT,
        exact=lambda mass: numbers(mass),
        fails=_INTERVAL,
    ),
    "prototypes": Case(
        _PROTOTYPES,
        step(_ONE, -_ONE),
        dict.fromkeys(_PROTOTYPES.rules, 0.5),
        _COUNTS,
        exact=lambda mass: torch.tensor(0 if mass > 0.5 else 1),
    ),
    "percentile": Case(
        Percentile(),
        step(_ZERO, _ONE),
        {"order": 0.5, "order_run": _OF_A_RUN},
        _COUNTS,
        exact=lambda mass: _ZERO if mass > 0.5 else _ONE,
        fails=_INTERVAL,
    ),
    "percentile_box": Case(
        BoxPercentile(),
        step(*_BOXES),
        {"order": 0.5, "order_run": _OF_A_RUN},
        _COUNTS,
        exact=lambda mass: _BOXES[0 if mass > 0.5 else 1],
        fails=_INTERVAL,
    ),
}
"""One for each certifier, and for metrics and counts that take another way through it."""

_EIGHT = torch.zeros(8, dtype=torch.float64)
_SHARED = Budget(n=101, m=100, alpha1=0.03, alpha2=0.03)


def independent() -> NoiseWorld:
    """Eight numbers with independent noise, and no perturbation: their errors are independent, and add up."""
    return NoiseWorld(GaussianNoise(1.0), 0.0, _EIGHT, _EIGHT, first_number, lambda t: float(ndtr(t)))


def hardly_moved() -> NoiseWorld:
    """A perturbation of a tenth of the noise."""
    return shifted(GaussianNoise(1.0), 0.1, [0.1], normal(1.0))


FURTHER: dict[str, tuple[Case, str, Callable[[], NoiseWorld]]] = {
    "center, ball": (
        replace(CASES["center"], masses=dict.fromkeys(("exact", "measured"), 0.5 + _CENTER.delta)),
        "gaussian",
        WORLDS["gaussian"],
    ),
    "segmentation, 8 pixels": (
        replace(
            CASES["segmentation"],
            model=lambda world, mass: lambda inputs: (inputs > world.threshold(mass)).long(),
            masses={"holm": 0.5, "bonferroni": 0.5},
            budget=_SHARED,
            exact=lambda mass: torch.ones(8, dtype=torch.int32),
        ),
        "gaussian, no shift",
        independent,
    ),
    "score, 8 scores": (
        replace(
            CASES["score"],
            model=lambda world, mass: lambda inputs: torch.where(inputs > world.threshold(mass), 0.0, 1.0),
            budget=_SHARED,
            exact=lambda mass: torch.full_like(_EIGHT, mass),
        ),
        "gaussian, no shift",
        independent,
    ),
    "percentile, 8 numbers": (
        replace(
            CASES["percentile"],
            model=lambda world, mass: torch.Tensor.clone,
            masses={"order": 0.5},
            budget=_SHARED,
            exact=lambda mass: _EIGHT,
        ),
        "gaussian, no shift",
        independent,
    ),
    "prototypes, small shift": (CASES["prototypes"], "gaussian, small shift", hardly_moved),
}
"""Cases, each in one Gaussian world, where a rule uses up more of its alpha: a center's ball alone, many statements."""

ENUMERATED = {"center, enumerated": Center(Atom()).of_rule("enumerated")}
"""Without draws: one certificate for each mass that a set of noisy inputs can have."""


# --- Counting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Counted failures of one statement of one rule.

    Attributes
    ----------
    variant : str
        ``sound``, or what was broken.
    case, certifier, rule, noise : str
    eps : float
    statement : str
    mass : float or None
        Of the first output at ``x'``; None for a sweep over all of them.
    trials, violations : int
    alpha : float
        The largest failure probability that the statement may have.
    informative : int
        Certificates that say something.
    closest : float or None
        Largest movement over the radius certified for it, where that is not 0.
    allowed : int
    """

    variant: str
    case: str
    certifier: str
    rule: str
    noise: str
    eps: float
    statement: str
    mass: float | None
    trials: int
    violations: int
    alpha: float
    informative: int
    closest: float | None
    allowed: int = -1

    @property
    def covers(self) -> bool:
        return self.violations <= self.allowed


@dataclass(frozen=True)
class Refusal:
    """A rule that refuses a law, and the library's reason."""

    case: str
    certifier: str
    rule: str
    noise: str
    reason: str


@dataclass(frozen=True)
class Variant:
    """The library as it is, or broken.

    Attributes
    ----------
    name : str
    alpha_factor : float
        Factor of the ``alpha2`` that certificates are read with.
    patched : callable
        Makes a context in which certificates are read.
    """

    name: str
    alpha_factor: float = 1.0
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext


def _rank_too_low() -> AbstractContextManager[Any]:
    upper_rank = ExactBounds.upper_rank

    def lower(self: ExactBounds, m: int, mass: float, alpha: float) -> int | None:
        rank = upper_rank(self, m, mass, alpha)
        return None if rank is None else rank - 1

    return patch.object(ExactBounds, "upper_rank", lower)


def _hits_one_more() -> AbstractContextManager[Any]:
    mass_floor = ExactBounds.mass_floor
    return patch.object(
        ExactBounds, "mass_floor", lambda self, inside, n, alpha: mass_floor(self, min(n, inside + 1), n, alpha)
    )


SOUND = Variant("sound")


def refusal(case: Case, rule: str, setting: Setting, eps: float) -> str:
    """The library's reason to refuse; empty if there is none."""
    return case.certifier.unsuited(setting) or case.certifier.problem(setting, rule, eps)


def simulate(
    name: str, case: Case, noise: str, world: NoiseWorld, runs: int, variant: Variant = SOUND
) -> Iterator[Row | Refusal]:
    """Count what fails of each rule of a case in one world."""
    by_mass: dict[float, list[str]] = defaultdict(list)
    for rule, mass in case.masses.items():
        setting = Setting(world.noise, case.budget, case.output_range)
        if reason := refusal(case.certifier, rule, setting, world.eps):
            yield Refusal(name, case.certifier.name, rule, noise, reason)
        else:
            by_mass[mass].append(rule)
    for mass, rules in by_mass.items():
        at_x_prime = world.mass_at_x_prime(world.threshold(mass))
        row = partial(Row, variant.name, name, case.certifier.name, noise=noise, eps=world.eps, mass=at_x_prime)
        certificates, answers = run_all(case, world, mass, rules, runs, variant)
        for rule in rules:
            found, seen = certificates[rule], answers[rule]
            if case.exact is not None and case.certifier.about(rule) == "map":
                seen = [case.exact(at_x_prime)] * runs
            said = {"informative": sum(one.radius is not None and not one.vacuous for one in found)}
            said["closest"] = _closest(case.certifier, found, seen)
            for statement, violations, alpha in failures(case, rule, found, seen):
                yield row(rule=rule, statement=statement, trials=runs, violations=violations, alpha=alpha, **said)


def refusal(certifier: Certifier, rule: str, setting: Setting, eps: float) -> str:
    """The library's reason to refuse; empty if there is none."""
    return certifier.unsuited(setting) or certifier.problem(setting, rule, eps)


Answers = list[Tensor | None]


def run_all(
    case: Case, world: NoiseWorld, mass: float, rules: list[str], runs: int, variant: Variant
) -> tuple[dict[str, list[Certificate]], dict[str, Answers]]:
    """Certificates at ``x`` by each rule, and answers of as many runs at ``x'`` by those about a run."""
    certifier, budget = case.certifier, case.budget
    sampler = Sampler(case.model(world, mass), world.noise, budget.n, budget.n, case.output_range)
    setting = Setting.of(sampler, replace(budget, alpha2=variant.alpha_factor * budget.alpha2))
    certificates: dict[str, list[Certificate]] = {rule: [] for rule in rules}
    answers: dict[str, Answers] = {rule: [] for rule in rules}
    known: dict[bytes, dict[str, Certificate]] = {}  # a certificate is a function of the evidence
    with variant.patched():
        for run in range(runs):
            evidence = gather_one(sampler, certifier, budget, world.x, RandomStream(run))
            key = b"".join(array.tobytes() for array in pack(evidence).values())
            if key not in known:
                known[key] = {rule: certifier.certificate(evidence, world.eps, rule, setting) for rule in rules}
            for rule in rules:
                certificates[rule].append(known[key][rule])
            if of_runs := [rule for rule in rules if certifier.about(rule) == "run"]:
                stream = RandomStream(run, point=1)
                there = gather_one(sampler, certifier, budget, world.x_prime, stream, radius=False)
                for rule in of_runs:
                    answers[rule].append(certifier.answer(there, setting, rule).output)
    return certificates, answers


def failures(
    case: Case, rule: str, certificates: list[Certificate], answers: Answers
) -> Iterator[tuple[str, int, float]]:
    """Each statement of a rule: its name, how often it fails, and with what probability it may.

    A certificate about a run says two things. One run at ``x'`` leaves it with probability at most its alpha. And with
    probability ``1 - alpha2`` it is one that runs leave with probability at most the rest of its alpha: it is taken not
    to be where more of all runs leave it than ``binom.isf(RUN_LEVEL, runs, rest)``.
    """
    certifier, alpha2 = case.certifier, case.budget.alpha2
    alpha = max(one.alpha for one in certificates)
    for statement, fails in case.fails.items():
        wrong = [
            one.radius is not None and answer is not None and fails(certifier, one, answer)
            for one, answer in zip(certificates, answers, strict=True)
        ]
        if certifier.about(rule) == "map":
            yield statement, sum(wrong), alpha2
            continue
        yield f"{statement}, one run", sum(wrong), alpha
        most = int(binom.isf(RUN_LEVEL, len(answers), alpha - alpha2))
        values = {answer.numpy().tobytes(): answer for answer in answers if answer is not None}
        counts = Counter(answer.numpy().tobytes() for answer in answers if answer is not None)
        leaving: dict[int, int] = {}
        for one in certificates:
            if id(one) not in leaving:
                says = one.radius is not None and not one.vacuous
                leaving[id(one)] = sum(counts[key] for key in values if says and fails(certifier, one, values[key]))
        yield f"{statement}, all runs", sum(leaving[id(one)] > most for one in certificates), alpha2
    if case.ball:  # it has less than 1/2 + delta at x' wherever its radius is less than the largest distance
        yield "ball", sum(one.r_hat is not None and one.r_hat < 1 for one in certificates), alpha2


def sweep(
    name: str, certifier: Certifier, noise: str, world: NoiseWorld, variant: Variant = SOUND
) -> Iterator[Row | Refusal]:
    """Count what fails of certificates without draws, over all masses that a set of noisy inputs can have."""
    setting = Setting(world.noise, _CENTER)
    (rule,) = certifier.rules
    if reason := refusal(certifier, rule, setting, world.eps):
        yield Refusal(name, certifier.name, rule, noise, reason)
        return
    size = world.noise.support_size()  # type: ignore[attr-defined]
    certificates: list[Certificate] = []
    answers: Answers = []
    for count in range(1, size + 1):
        sampler = Sampler(atom(world, count / size), world.noise, size, size)
        evidence, there = (
            gather_one(sampler, certifier, _CENTER, x, RandomStream(0)) for x in (world.x, world.x_prime)
        )
        certificates.append(certifier.certificate(evidence, world.eps, rule, setting))
        answers.append(certifier.answer(there, setting, rule).output)
    wrong = sum(
        answer is not None and beyond_radius(certifier, one, answer)
        for one, answer in zip(certificates, answers, strict=True)
    )
    informative, closest = sum(one.radius == 0 for one in certificates), _closest(certifier, certificates, answers)
    yield Row(
        variant.name,
        name,
        certifier.name,
        rule,
        noise,
        world.eps,
        "radius",
        None,
        size,
        wrong,
        0.0,
        informative,
        closest,
    )


def _closest(certifier: Certifier, certificates: list[Certificate], outcomes: list[Tensor | None]) -> float | None:
    ratios = [
        certifier.distance(one.answer, outcome) / one.radius
        for one, outcome in zip(certificates, outcomes, strict=True)
        if one.radius and one.answer is not None and outcome is not None
    ]
    return max(ratios, default=None)


# --- Variants that do not cover -------------------------------------------------------------------------------------

_FEW = Budget(n=101, m=18, alpha1=ALPHA, alpha2=ALPHA)
"""Few draws, of which one counts for much."""

LESS_NOISE = Variant("noise 30% smaller")
FEWER_CHANGED = Variant("one changed noisy input too few")
LOW_RANK = Variant("rank one too low", patched=_rank_too_low)
ONE_HIT_MORE = Variant("one hit too many", patched=_hits_one_more)

BROKEN: list[tuple[Variant, str, Case, Callable[[], NoiseWorld]]] = [
    *((LESS_NOISE, name, case, lambda: BROKEN_WORLD) for name, case in CASES.items()),
    (Variant("alpha not split", 16.0), "percentile, 8 numbers", FURTHER["percentile, 8 numbers"][0], independent),
    (Variant("alpha not split", 8.0), "segmentation, 8 pixels", FURTHER["segmentation, 8 pixels"][0], independent),
    (LOW_RANK, "center", replace(FURTHER["center, ball"][0], budget=replace(_CENTER, m=25)), WORLDS["gaussian"]),
    (
        LOW_RANK,
        "percentile",
        replace(CASES["percentile"], masses={"order": 0.5}, budget=_FEW),
        WORLDS["gaussian"],
    ),
    (
        LOW_RANK,
        "segmentation",
        replace(CASES["segmentation"], masses={"holm": 0.5}, budget=_FEW),
        WORLDS["gaussian"],
    ),
    (ONE_HIT_MORE, "label", replace(CASES["label"], masses={"counts": 0.5}, budget=_FEW), WORLDS["gaussian"]),
]
"""What is broken, and where that shows."""


def of_noise(noise: str, runs: int) -> list[Row | Refusal]:
    """All cases under one law."""
    torch.set_num_threads(1)
    world = WORLDS[noise]()
    found = [one for name, case in CASES.items() for one in simulate(name, case, noise, world, runs)]
    found += [one for name, certifier in ENUMERATED.items() for one in sweep(name, certifier, noise, world)]
    return found


def of_further(name: str, runs: int) -> list[Row | Refusal]:
    """One of the cases with a world of its own."""
    torch.set_num_threads(1)
    case, noise, world = FURTHER[name]
    return list(simulate(name, case, noise, world(), runs))


def of_broken(index: int, runs: int) -> list[Row | Refusal]:
    """One of the broken variants."""
    torch.set_num_threads(1)
    variant, name, case, world = BROKEN[index]
    noise = "gaussian, no shift" if world is independent else "gaussian"
    return list(simulate(name, case, noise, world(), runs, variant))


def of_broken_sweep(runs: int) -> list[Row | Refusal]:
    """The rule `enumerated` under a law that states one changed noisy input too few."""
    torch.set_num_threads(1)
    found = [sweep(name, one, "patch", understated_patch(), FEWER_CHANGED) for name, one in ENUMERATED.items()]
    return [row for rows in found for row in rows]


def with_allowed(rows: list[Row]) -> list[Row]:
    """Rows with the count that each may have: exceeded anywhere with probability `FAMILY`, if all rows cover."""
    level = FAMILY / len(rows)
    return [replace(row, allowed=int(binom.isf(level, row.trials, row.alpha))) for row in rows]


# --- The campaign ---------------------------------------------------------------------------------------------------


def campaign(runs: int) -> tuple[list[Row], list[Refusal]]:
    """Everything, on all cores: rows of the library as it is and of the broken variants, and what it refuses."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = [pool.submit(of_noise, noise, runs) for noise in WORLDS]
        parts += [pool.submit(of_further, name, runs) for name in FURTHER]
        parts += [pool.submit(of_broken, index, runs) for index in range(len(BROKEN))]
        parts.append(pool.submit(of_broken_sweep, runs))
        found = [one for part in parts for one in part.result()]
    rows = with_allowed([one for one in found if isinstance(one, Row)])
    return rows, [one for one in found if isinstance(one, Refusal)]


def complaints(rows: Iterable[Row]) -> list[str]:
    """What is wrong: a row of the library as it is above its count, or a broken variant of which no row is."""
    variants: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        variants[row.variant, row.case].append(row)
    wrong = []
    for (variant, case), own in variants.items():
        if variant == SOUND.name:
            wrong += [
                f"{case}, {row.rule} under {row.noise}: {row.violations} of {row.trials} certificates fail by "
                f"{row.statement}, {row.allowed} may"
                for row in own
                if not row.covers
            ]
        elif all(row.covers for row in own):
            wrong.append(f"{case} with {variant} is not caught")
    return wrong


def _table(header: str, lines: Iterable[Iterable[object]]) -> str:
    columns = header.count("|") - 1
    return "\n".join([header, "|" + "---|" * columns, *("| " + " | ".join(map(str, line)) + " |" for line in lines)])


def _sound_lines(rows: list[Row]) -> Iterator[tuple[object, ...]]:
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.variant == SOUND.name:
            groups[row.case, row.rule, row.statement].append(row)
    for (case, rule, statement), own in groups.items():
        worst = max(own, key=lambda row: (row.violations - row.allowed, row.violations))
        trials, violations = (sum(getattr(row, name) for row in own) for name in ("trials", "violations"))
        closest = max((row.closest for row in own if row.closest is not None), default=None)
        yield (
            case,
            rule,
            statement,
            len(own),
            f"{trials:,}",
            f"{violations:,}",
            f"{own[0].alpha:.3g}",
            f"{worst.violations} of {worst.trials:,} ({worst.noise})",
            worst.allowed,
            "" if closest is None else f"{closest:.2f}",
        )


def _broken_lines(rows: list[Row]) -> Iterator[tuple[object, ...]]:
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.variant != SOUND.name:
            groups[row.variant, row.case, row.rule].append(row)
    for (variant, case, rule), own in groups.items():
        row = max(own, key=lambda row: row.violations - row.allowed)
        seen = "no" if row.covers else "yes"
        yield variant, case, rule, row.statement, f"{row.trials:,}", row.violations, row.allowed, seen


def _refusal_lines(refusals: list[Refusal]) -> Iterator[tuple[object, ...]]:
    groups: dict[tuple[str, tuple[str, ...]], list[Refusal]] = defaultdict(list)
    rules: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in refusals:
        rules[one.case, one.noise].append(one.rule)
    for one in refusals:
        groups[one.case, tuple(rules[one.case, one.noise])].append(one)
    for (case, of_rules), own in groups.items():
        noises = list(dict.fromkeys(one.noise for one in own))
        yield case, ", ".join(of_rules), len(noises), ", ".join(noises), own[0].reason


def summary(rows: list[Row], refusals: list[Refusal], command: str, seconds: float) -> str:
    """The page of the campaign."""
    sound = [row for row in rows if row.variant == SOUND.name]
    versions = ", ".join(f"{name} {version(name)}" for name in ("centersmooth", "torch", "numpy", "scipy"))
    above = sum(not row.covers for row in sound)
    return f"""# Coverage

`{command}`: every rule of every certifier under every law it takes, in simulated runs of models of which the truth is
known. [coverage.csv](coverage.csv) has all {len(rows):,} rows. Seeds 0 to {max(row.trials for row in rows) - 1}; Python
{platform.python_version()}, {versions}; {seconds / 60:.0f} minutes on {os.cpu_count()} cores.

**Result.** {above} of {len(sound):,} rows of the library are above their allowed count, in {sum(row.trials for row in sound):,}
counted certificates. Every broken variant is caught.

**Worlds.** A model is a step in a number of the noisy input whose law is known at `x` and at the worst `x'`: in the
likelihood ratio of the two wherever the bound of the law is attained. The first output has just less mass at `x'` than
the statement needs, so that a certificate that is made there is false. Masses under rotation and scaling are those of
100,000 draws, less six standard errors.

**Alpha.** `alpha1 = alpha2 = {ALPHA:g}`, and 0.03 where several statements are made at once: so large that a thousand
runs tell a failure rate above it from chance.

**Allowed.** A row may fail in `binom.isf({FAMILY:g}/{len(rows)}, trials, alpha)` runs (Bonferroni over all rows): a sound
library has any row above that with probability at most {FAMILY:g}. Runs without a certificate count as trials.

**Statements.** Of rules about the smoothed map: the exact answer at `x'` leaves the radius, the interval, or the certified
pixels. Of rules about a run: *one run* at `x'` leaves it, which may happen with probability `alpha1 + alpha2`; and *all
runs*: more than `binom.isf({RUN_LEVEL:g}, runs, alpha1)` of them do, which may be so of a share `alpha2` of certificates.
*Ball*: the ball around a center has less than `1/2 + delta` at `x'`, with probability at most `alpha2`.

## The library

"Closest" is the largest movement over the radius certified for it. Rates far below alpha are slack of the rule: the
inequalities of `paper`, the norms of means and directions (whose movement comes close to the radius all the same), and
Chernoff's bound of scores and prototypes.

{_table("| certifier | rule | statement | laws | trials | violations | alpha | most, of one law | allowed | closest |", _sound_lines(rows))}

## Broken on purpose

For each rule the statement that shows most, under Gaussian noise but for the last. "No" is slack that covers the fault: of
`global` bounds, and of rules about a run where another rule of the same certifier shows it.

{_table("| fault | certifier | rule | statement | trials | violations | allowed | seen |", _broken_lines(rows))}

## Refused

The library's reason, for the first of the laws.

{_table("| certifier | rules | laws | | reason |", _refusal_lines(refusals))}
"""


def main(runs: int) -> None:
    """Run the campaign and write its files; exits with lines where anything is wrong."""
    started = time.monotonic()
    rows, refusals = campaign(runs)
    command = shlex.join(["python", "scripts/campaigns/simulate_coverage.py", *sys.argv[1:]])
    DOCS.mkdir(parents=True, exist_ok=True)
    with open(DOCS / "coverage.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    page = summary(rows, refusals, command, time.monotonic() - started)
    (DOCS / "coverage.md").write_text(page, encoding="utf-8")
    if wrong := complaints(rows):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
