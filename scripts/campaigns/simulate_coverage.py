"""Simulate every rule of every certifier under every law it takes, and count the certificates that fail.

Usage: python scripts/campaigns/simulate_coverage.py [RUNS]

Each model is a step at a known mass, the worst case of the shift bound, put where the statement of a rule is just
false: a certificate that makes it there fails. A rule that uses up its failure probability then fails in about that
share of the runs, and one that does not cover fails in more. Variants broken on purpose show that the counts see it.
Every row goes to `docs/campaigns/coverage.csv`, the summary to `docs/campaigns/coverage.md`.
"""

from __future__ import annotations

import csv
import os
import platform
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from known_cases import (
    ALPHA,
    CASES,
    CENTER,
    ENUMERATED,
    FURTHER,
    Case,
    atom,
    beyond_radius,
    independent,
)
from known_worlds import BROKEN_WORLD, WORLDS, NoiseWorld, understated_patch
from scipy.stats import binom
from torch import Tensor

from centersmooth import Budget, Certificate, Mean, RandomStream
from centersmooth.bounds import ExactBounds
from centersmooth.certifiers import Certifier, pack
from centersmooth.gathering import Setting, gather_one
from centersmooth.sampling import Sampler

FAMILY = 0.01
"""Probability that a sound library has any row above its allowed count, divided among all rows (Bonferroni)."""

RUN_LEVEL = 1e-6
"""Probability that a certificate which holds is taken for one that too many runs at ``x'`` leave."""

Answers = list[Tensor | None]
"""Outputs of runs; None where one abstains."""

DOCS = Path(__file__).parents[2] / "docs" / "campaigns"


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


def _no_sides() -> AbstractContextManager[Any]:
    return patch.object(Mean, "_sides", lambda self, evidence, setting: None)


SOUND = Variant("sound")


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
        values = {_rounded(answer): answer for answer in answers if answer is not None}
        counts = Counter(_rounded(answer) for answer in answers if answer is not None)
        leaving: dict[Hashable, int] = {}
        failed = 0
        for one in certificates:
            if one.radius is None or one.answer is None:
                continue
            key = (_rounded(one.answer), round(one.radius, 9)) if fails is beyond_radius else id(one)
            if key not in leaving:
                leaving[key] = sum(counts[value] for value in values if fails(certifier, one, values[value]))
            failed += leaving[key] > most
        yield f"{statement}, all runs", failed, alpha2
    if case.ball:  # it has less than 1/2 + delta at x' wherever its radius is less than the largest distance
        yield "ball", sum(one.r_hat is not None and one.r_hat < 1 for one in certificates), alpha2


def _rounded(answer: Tensor) -> bytes:
    """A key that answers share which differ by the rounding of sums alone: else there were as many as runs."""
    return answer.double().round(decimals=9).numpy().tobytes()


def sweep(
    name: str, certifier: Certifier, noise: str, world: NoiseWorld, variant: Variant = SOUND
) -> Iterator[Row | Refusal]:
    """Count what fails of certificates without draws, over all masses that a set of noisy inputs can have."""
    setting = Setting(world.noise, CENTER)
    (rule,) = certifier.rules
    if reason := refusal(certifier, rule, setting, world.eps):
        yield Refusal(name, certifier.name, rule, noise, reason)
        return
    size = world.noise.support_size()  # type: ignore[attr-defined]
    certificates: list[Certificate] = []
    answers: Answers = []
    for count in range(1, size + 1):
        sampler = Sampler(atom(world, count / size), world.noise, size, size)
        evidence, there = (gather_one(sampler, certifier, CENTER, x, RandomStream(0)) for x in (world.x, world.x_prime))
        certificates.append(certifier.certificate(evidence, world.eps, rule, setting))
        answers.append(certifier.answer(there, setting, rule).output)
    pairs = zip(certificates, answers, strict=True)
    yield Row(
        variant=variant.name,
        case=name,
        certifier=certifier.name,
        rule=rule,
        noise=noise,
        eps=world.eps,
        statement="radius",
        mass=None,
        trials=size,
        violations=sum(answer is not None and beyond_radius(certifier, one, answer) for one, answer in pairs),
        alpha=0.0,
        informative=sum(one.radius == 0 for one in certificates),
        closest=_closest(certifier, certificates, answers),
    )


def _closest(certifier: Certifier, certificates: list[Certificate], answers: Answers) -> float | None:
    ratios = [
        certifier.distance(one.answer, answer) / one.radius
        for one, answer in zip(certificates, answers, strict=True)
        if one.radius and one.answer is not None and answer is not None
    ]
    return max(ratios, default=None)


# --- Variants that do not cover -------------------------------------------------------------------------------------

_FEW = Budget(n=101, m=18, alpha1=ALPHA, alpha2=ALPHA)
"""Few draws, of which one counts for much."""

LESS_NOISE = Variant("noise 30% smaller")
FEWER_CHANGED = Variant("one changed noisy input too few")
LOW_RANK = Variant("rank one too low", patched=_rank_too_low)
ONE_HIT_MORE = Variant("one hit too many", patched=_hits_one_more)
BALL_FOR_SIDES = Variant("a ball's reach for the sides of the range", patched=_no_sides)

BROKEN: list[tuple[Variant, str, Case, Callable[[], NoiseWorld]]] = [
    *((LESS_NOISE, name, case, lambda: BROKEN_WORLD) for name, case in CASES.items()),
    (Variant("alpha not split", 16.0), "percentile, 8 numbers", FURTHER["percentile, 8 numbers"][0], independent),
    (Variant("alpha not split", 8.0), "segmentation, 8 pixels", FURTHER["segmentation, 8 pixels"][0], independent),
    (LOW_RANK, "center", replace(FURTHER["center, ball"][0], budget=replace(CENTER, m=25)), WORLDS["gaussian"]),
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
    (BALL_FOR_SIDES, "mean, l1, in a ball", FURTHER["mean, l1, in a ball"][0], independent),
    (ONE_HIT_MORE, "label", replace(CASES["label"], masses={"counts": 0.5}, budget=_FEW), WORLDS["gaussian"]),
]
"""Broken variants, and the cases in which they show."""


def of_noise(noise: str, runs: int) -> list[Row | Refusal]:
    """All cases under one law."""
    torch.set_num_threads(1)
    world = WORLDS[noise]()
    found = [one for name, case in CASES.items() for one in simulate(name, case, noise, world, runs)]
    return found + list(sweep(*ENUMERATED, noise, world))


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


def of_broken_sweep() -> list[Row | Refusal]:
    """The rule `enumerated` under a law that states one changed noisy input too few."""
    name, certifier = ENUMERATED
    return list(sweep(name, certifier, "patch", understated_patch(), FEWER_CHANGED))


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
        parts.append(pool.submit(of_broken_sweep))
        found = [one for part in parts for one in part.result()]
    rows = with_allowed([one for one in found if isinstance(one, Row)])
    return rows, [one for one in found if isinstance(one, Refusal)]


def complaints(rows: Iterable[Row]) -> list[str]:
    """Lines on rows of the library above their count, and on broken variants of which no row is above its own."""
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


_SOUND = "| certifier | rule | statement | laws | trials | violations | alpha | most, of one law | allowed | closest |"
_BROKEN = "| fault | certifier | rule | statement | trials | violations | allowed | seen |"


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
    above, trials = sum(not row.covers for row in sound), sum(row.trials for row in sound)
    wrong = complaints(rows)
    return f"""# Coverage

Every rule of every certifier under every law it takes, in simulated runs of models of which the truth is known, by
`{command}`. [coverage.csv](coverage.csv) has all {len(rows):,} rows. Seeds 0 to {max(row.trials for row in rows) - 1};
Python {platform.python_version()}, {versions}; {seconds / 60:.0f} minutes on {os.cpu_count()} cores.

**Result.** {above} of {len(sound):,} rows of the library are above their allowed count, of {trials:,} counted trials.
{"Every broken variant is caught." if not wrong else "Wrong: " + "; ".join(wrong) + "."}

**Worlds.** A model is a step in a number of the noisy input whose law is known at `x` and at the worst `x'`: in the
likelihood ratio of the two, wherever the bound of the law is attained. The first output has just less mass at `x'`
than the statement needs, so that a certificate that makes it there is false. Masses under rotation and scaling are
those of 100,000 draws, less six standard errors.

**Alpha.** `alpha1 = alpha2 = {ALPHA:g}`, and 0.03 where eight statements are made at once: so large that a thousand
runs tell a failure rate above it from chance. A rate of alpha is seen to be exceeded where it is about half as much
again; where it is twice alpha, almost surely.

**Allowed.** A row may fail in `binom.isf({FAMILY:g}/{len(rows)}, trials, alpha)` runs (Bonferroni over all rows): a
sound library has any row above that with probability at most {FAMILY:g}. Runs without a certificate count as trials.

**Statements.** Of rules about the smoothed map: the exact answer at `x'` leaves the radius, the interval, or the
classes of certified pixels. Of rules about a run: *one run* at `x'` leaves it, with probability at most
`alpha1 + alpha2`; *all runs*: more than `binom.isf({RUN_LEVEL:g}, runs, alpha1)` of them do, which may be so of a
certificate with probability `alpha2`. *Ball*: the ball around a center has less than `1/2 + delta` at `x'`, with
probability at most `alpha2`. The rule `enumerated` has no alpha, and one trial for each mass there is.

## The library

"Closest" is the largest movement over the radius certified for it. Counts are below alpha for reasons of the rules: the
inequalities of `paper`; a run with another center has to pass its own test, so that the ball is what shows most of
centers; errors of estimation of means and directions, whose movement comes close to the radius all the same;
Chernoff's bound, and bands of masses, of scores and prototypes; the share of alpha for the side at which nothing
happens; ranks, which are whole numbers. The laws whose bound is not attained, rotation and scaling above all, have more
slack than the others.

{_table(_SOUND, _sound_lines(rows))}

## Broken on purpose

For each rule the statement that shows most. Where it is not seen, slack of the rule covers the fault, and another rule
of the same certifier shows it.

{_table(_BROKEN, _broken_lines(rows))}

## Refused

The library's reason, given the first of the laws.

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
