"""Recommendation of certifier, rule, noise level and counts, from a small pilot on points that are then not certified.

The pilot draws a few thousand outputs at each noise level of the grid. From those of its stage ``center`` every
certifier foresees the evidence of other counts, by the mechanism that `centersmooth.tolerance` chooses counts with, and
from that evidence its own rules tell the radius. These are estimates, and no certificate rests on them: certifier, rule
and budget are fixed before any point is drawn that they certify, as the guarantee asks, so the choice costs no alpha.
"""

from __future__ import annotations

import shlex
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from statistics import fmean, median
from typing import Any

from rich.table import Table
from scipy.stats import betabinom
from torch import Tensor

from centersmooth import Budget, Center, RandomStream
from centersmooth.certifiers import Certifier
from centersmooth.certifiers.center.rules import BOUNDS_OF
from centersmooth.gathering import Collector, Setting, Shared, gather, passes
from centersmooth.sampling import Sampler, evaluating
from centersmooth.tolerance import LEAST_PILOT, PilotCollector
from csrun.adapters import model_of
from csrun.cells.certify import OF_THE_POINT
from csrun.cells.run import obtain_model
from csrun.config import Config, GridPoint
from csrun.errors import RunError
from csrun.models.base import BaseModel
from csrun.plan import CellPlan, Plan, check, make_plan
from csrun.registry import names_of
from csrun.report.tables import number, titled
from csrun.system.progress import Display, duration

PILOT_POINTS, PILOT_DRAWS = 5, 2_000
"""At most: points, and draws for the center, after which as many test it. No more than the request has."""

SIZES = (1_000, 2_000, 4_000, 10_000, 20_000, 50_000, 100_000)
DELTAS = (0.02, 0.03, 0.05, 0.08, 0.1, 0.15)
"""Counts that are tried: draws for the answer up to 10,000, for the radius, and, of centers, slack."""

WITHIN = 1.05
"""The cheapest budget is recommended whose radius is at most this many times the smallest one."""

ANSWERS = 0.99
"""Least share of runs that is expected not to abstain."""

CHOSEN = ("recommend", "certifier", "certifiers", "rule", "n", "m", "delta", "grid.eps", "cells")
"""Settings of a request that a recommended command replaces."""


@dataclass(frozen=True)
class Foreseen:
    """What the pilot tells about one point under one certifier.

    Attributes
    ----------
    expected : callable
        From a budget to the evidence expected under it.
    evidence : object
        Of the pilot itself.
    """

    expected: Callable[[Budget], Any]
    evidence: Any


@dataclass(frozen=True)
class Foreseeing:
    """A certifier whose evidence is a `Foreseen` where it comes from draws."""

    certifier: Certifier

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> Collector:
        collector = self.certifier.collector(setting, shared, radius=radius)
        return ForeseeingCollector(collector) if isinstance(collector, PilotCollector) else collector


class ForeseeingCollector:
    """A collector that keeps what the draws of the stage ``center`` foresee."""

    def __init__(self, collector: PilotCollector) -> None:
        self._collector = collector
        self._expected: Callable[[Budget], Any] | None = None

    def wants(self, stage: str) -> int:
        return self._collector.wants(stage)

    def update(self, stage: str, outputs: Tensor) -> None:
        self._collector.update(stage, outputs)
        if stage == "center" and not self.wants("center"):
            self._expected = self._collector.foresee()

    def compute(self, base: Tensor) -> Foreseen:
        if self._expected is None:
            raise ValueError("nothing is foreseen yet: expected all draws of the stage center")
        return Foreseen(self._expected, self._collector.compute(base))


@dataclass(frozen=True)
class Pilot:
    """Evidence of the pilot at one noise level.

    Attributes
    ----------
    cell : CellPlan
    settings : list of Setting
        By pilot point, with the law bound to its input; the counts are those of the pilot.
    certifiers : dict of str to Certifier
        By key.
    points : list of dict of str to Foreseen
        By pilot point and key.
    seconds : float
        For one pass, the work of all certifiers included.
    """

    cell: CellPlan
    settings: list[Setting]
    certifiers: dict[str, Certifier]
    points: list[dict[str, Foreseen]]
    seconds: float


@dataclass(frozen=True)
class Option:
    """One certifier with a rule and a budget at one noise level, and what it is expected to give.

    Attributes
    ----------
    model : str
    key : str
        Of the certifier and its metric.
    rule : str
    pair : GridPoint
    budget : Budget
    radius, error : float
        Medians over the pilot's points.
    answers : float
        Share of runs that do not abstain.
    sampled : bool
        Whether the certificate is of draws, so that the budget's counts matter.
    passes : int
    seconds : float
        For one point.
    """

    model: str
    key: str
    rule: str
    pair: GridPoint
    budget: Budget
    radius: float
    error: float
    answers: float
    sampled: bool
    passes: int
    seconds: float

    @property
    def certifier(self) -> str:
        return names_of(self.key)[0]

    @property
    def metric(self) -> str:
        return names_of(self.key)[1]

    @property
    def has_slack(self) -> bool:
        """True if the budget's ``delta`` matters: centers alone are tested."""
        return self.sampled and self.certifier in ("center", "center_free")


def recommend(config: Config, display: Display, settings: Sequence[str]) -> None:
    """Draw the pilot and print what it recommends for each model, metric and eps.

    Parameters
    ----------
    settings : sequence of str
        Those given on the command line, on which recommended commands are built.

    Raises
    ------
    RunError
        The test split has no points left for a pilot, or nothing tried is feasible.
    """
    plan = make_plan(config)
    points = pilot_points(plan)
    budget = pilot_budget(plan.budget)
    training = sum(one.passes for one in plan.to_train())
    with display.running(len(plan.cells) * len(points) * budget.passes + training):
        pilots = [_draw(plan, cell, budget, points, display) for cell in plan.cells]
    chosen = [option for pilot in pilots for option in choices(pilot, plan.budget)]
    if not chosen:
        remedy = "raise grid.scale" if config.grid.h is None else "lower grid.h"
        raise RunError(f"no budget tried certifies any eps of the grid at its noise levels: {remedy}")
    best = {_question(options[0]): sharpest(options) for options in _grouped(chosen, _question)}
    for options in _grouped(chosen, lambda option: (option.model, option.metric)):
        display.console.print(_table(plan, options, best))
    for command in commands(config, settings, best.values()):
        display.console.print(command, markup=False, highlight=False, soft_wrap=True)
    named = ", ".join(str(point) for point in points)
    display.console.print(
        f"from a pilot of {budget.n:,} + {budget.fresh_draws:,} draws at each of the test points {named}, which are "
        "not among those to be certified. Estimates, no certificates; as certificates make draws of their own, the "
        "choice costs no alpha.",
        highlight=False,
    )


def pilot_points(plan: Plan) -> list[int]:
    """Test points outside the request: those that follow it, or else those before."""
    after = range(plan.points.stop, len(plan.data.test))
    others = [*after, *range(plan.points.start)][:PILOT_POINTS]
    if not others:
        raise RunError(
            f"a pilot needs test points that are not certified, and all {len(plan.data.test)} of {plan.data.name} are: "
            "lower points.count"
        )
    return others


def pilot_budget(asked: Budget) -> Budget:
    """The pilot's own counts; its slack accepts any center, as its test is no matter here."""
    n = max(LEAST_PILOT, min(asked.n, PILOT_DRAWS))
    return Budget(n, n, 0.49, 0.4, 0.4, asked.n0)


def _draw(plan: Plan, cell: CellPlan, budget: Budget, points: Sequence[int], display: Display) -> Pilot:
    model, _ = obtain_model(plan, cell, display)
    config, certifiers = plan.config, _suited(plan, cell, model)
    first = plan.sampler(cell, model).at(plan.input(model, points[0]))
    made = len(points) * passes(certifiers.values(), Setting.of(first, budget))
    display.stage(f"pilot of {cell.model}, scale {cell.scale:.3g}", made)
    found: list[dict[str, Foreseen]] = []
    settings: list[Setting] = []
    started = time.perf_counter()
    with evaluating(model):
        for point in points:
            asked = {key: Foreseeing(one) for key, one in certifiers.items()}
            x, stream = plan.input(model, point), RandomStream(config.seed, point).named("pilot")
            sampler = plan.sampler(cell, model).at(x)
            settings.append(Setting.of(sampler, budget))
            evidence = gather(sampler, asked, budget, x, stream, progress=display.advance)
            found.append({key: _foreseen(key, one) for key, one in evidence.items()})
    return Pilot(cell, settings, certifiers, found, (time.perf_counter() - started) / made)


def _suited(plan: Plan, cell: CellPlan, model: BaseModel) -> dict[str, Certifier]:
    """Certifiers that have a radius in the metrics asked for and can certify these outputs, by key.

    Raises
    ------
    RunError
        Not even centers of the sample can.
    """
    own, x = plan.certifiers_of(cell, model), plan.input(model, plan.points[0])
    certifiers = {key: one for key, one in own.items() if names_of(key)[1] in plan.config.metrics}
    outputs = check(plan, cell, model, certifiers)
    sampler = plan.sampler(cell, model).at(x)
    return {key: one for key, one in certifiers.items() if _certifies(one, sampler, plan.budget, outputs)}


def _certifies(certifier: Certifier, sampler: Sampler, budget: Budget, outputs: Tensor) -> bool:
    """True if these outputs can be certified, and a pilot tells how."""
    setting = Setting.of(sampler, budget)
    try:
        certifier.check(setting, outputs)
    except OF_THE_POINT:
        return False
    return not certifier.sampled or isinstance(certifier.collector(setting, Shared(), radius=True), PilotCollector)


def _foreseen(key: str, found: Any) -> Foreseen:
    """What the pilot tells under one certifier; evidence that is not of draws is the same under every budget."""
    if isinstance(found, Exception):
        raise RunError(f"the pilot of {key} failed: {found}")
    return found if isinstance(found, Foreseen) else Foreseen(lambda _: found, found)


def choices(pilot: Pilot, asked: Budget) -> Iterator[Option]:
    """The best budget of each certifier, rule and pair at one noise level."""
    for key in pilot.certifiers:
        for options in _grouped(tried(pilot, key, asked), lambda option: (option.rule, option.pair)):
            yield cheapest(options)


def tried(pilot: Pilot, key: str, asked: Budget) -> Iterator[Option]:
    """Expected result of each budget tried, under each rule and for each pair; those that certify nothing left out.

    Of centers under all rules, of others under their sharpest.
    """
    certifier = pilot.certifiers[key]
    is_center = isinstance(certifier, Center)
    rules, deltas = (certifier.rules, DELTAS) if is_center else (certifier.rules[-1:], (asked.delta,))
    counts = product((size for size in SIZES if size <= 10_000), SIZES) if certifier.sampled else [(asked.n, asked.m)]
    for n, m in counts:
        budget = replace(asked, n=n, m=m)
        evidence = [point[key].expected(budget) for point in pilot.points]
        for delta, rule, pair in product(deltas, rules, pilot.cell.pairs):
            option = _expected(pilot, key, rule, pair, replace(budget, delta=delta), evidence)
            if option is not None:
                yield option


def cheapest(options: Sequence[Option]) -> Option:
    """The cheapest that is nearly as sharp as any, among those that answer often enough, if some do."""
    usable = _answering(options)
    least = min(option.radius for option in usable)
    near = [option for option in usable if option.radius <= WITHIN * least]
    return min(near, key=lambda option: (option.passes, option.radius))


def sharpest(options: Sequence[Option]) -> Option:
    """That of least radius, among those that answer often enough, if some do."""
    return min(_answering(options), key=lambda option: (option.radius, option.passes))


def _answering(options: Sequence[Option]) -> list[Option]:
    most = max(option.answers for option in options)
    return [option for option in options if option.answers >= min(ANSWERS, most)]


def _expected(
    pilot: Pilot, key: str, rule: str, pair: GridPoint, budget: Budget, evidence: Sequence[Any]
) -> Option | None:
    certifier, settings = pilot.certifiers[key], [replace(one, budget=budget) for one in pilot.settings]
    if any(certifier.problem(setting, rule, pair.eps) for setting in settings):
        return None
    pairs = zip(evidence, settings, strict=True)
    certificates = [certifier.certificate(one, pair.eps, rule, setting) for one, setting in pairs]
    radii = [one.radius for one in certificates if one.radius is not None and not one.vacuous]
    if len(radii) < len(evidence):
        return None
    own = [point[key].evidence for point in pilot.points]
    answers = 1.0
    if isinstance(certifier, Center):
        shares = [one.inside / setting.budget.n for one, setting in zip(own, pilot.settings, strict=True)]
        answers = fmean(expected_answers(share, budget, rule) for share in shares)
    made = passes([certifier], settings[0])
    return Option(
        model=pilot.cell.model,
        key=key,
        rule=rule,
        pair=pair,
        budget=budget,
        radius=median(radii),
        error=median(one.error for one in own),
        answers=answers,
        sampled=certifier.sampled,
        passes=made,
        seconds=pilot.seconds * made,
    )


@lru_cache(maxsize=4096)
def expected_answers(share: float, budget: Budget, rule: str) -> float:
    """Probability that a center passes its test, where the pilot's center had this share of its fresh draws inside.

    The mass of a center's ball varies with the sample about as that of a median's does, and the draws that test it
    around that mass.
    """
    low, high = 0, budget.n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if budget.accepts_center(middle, BOUNDS_OF[rule]) else (middle + 1, high)
    return float(betabinom.sf(low - 1, budget.n, share * budget.n + 1, (1 - share) * budget.n + 1))


def commands(config: Config, settings: Iterable[str], best: Iterable[Option]) -> list[str]:
    """Command lines that certify these options, those together that differ in eps alone."""
    level = "grid.h" if config.grid.h is not None else "grid.scale"
    several = {"models": len(config.models) > 1, "metrics": len(config.metrics) > 1}
    replaced = {*CHOSEN, level, *(name for key, more in several.items() if more for name in (key, key[:-1]))}
    kept = [one for one in settings if one.lstrip("+").partition("=")[0] not in replaced and not one.startswith("-")]

    def chosen(option: Option) -> tuple[str, ...]:
        budget, noise = option.budget, option.pair.h if level == "grid.h" else option.pair.scale
        return (
            *([f"models=[{model_of(option.model)}]"] if several["models"] else []),
            *([f"metrics=[{option.metric}]"] if several["metrics"] else []),
            f"certifiers=[{option.certifier}]",
            f"rule={option.rule}",
            *([f"n={budget.n}", f"m={budget.m}"] if option.sampled else []),
            *([f"delta={budget.delta}"] if option.has_slack else []),
            f"{level}=[{noise!r}]",
        )

    lines = []
    for options in _grouped(best, chosen):
        eps = ",".join(repr(option.pair.eps) for option in options)
        lines.append(shlex.join(["cs-run", *kept, *chosen(options[0]), f"grid.eps=[{eps}]"]))
    return lines


def _grouped(options: Iterable[Option], key: Callable[[Option], Any]) -> list[list[Option]]:
    """Options by a key, in the order in which keys come."""
    groups: dict[Any, list[Option]] = defaultdict(list)
    for option in options:
        groups[key(option)].append(option)
    return list(groups.values())


def _question(option: Option) -> tuple[str, str, float]:
    """What is answered by one choice."""
    return option.model, option.metric, option.pair.eps


def _table(plan: Plan, options: Iterable[Option], best: Mapping[tuple[str, str, float], Option]) -> Table:
    """Choices for one model and metric, a row each, by eps and radius; a star at the best of each eps."""
    options = sorted(options, key=lambda option: (option.pair.eps, option.radius))
    title = f"Recommended for {plan.config.name}: {options[0].model}, {options[0].metric}"
    columns = ("", "eps", "scale", "h", "certifier", "rule", "n", "m", "delta", "radius", "error", "answers")
    table = Table(*columns, f"{len(plan.points)} points", title=titled(title, plan.threat, plan.units))
    for of_eps in _grouped(options, _question):
        for option in of_eps:
            pair, budget = option.pair, option.budget
            table.add_row(
                "*" if option is best[_question(option)] else "",
                *(f"{value:.4g}" for value in (pair.eps, pair.scale, pair.h)),
                option.certifier,
                option.rule,
                *((str(budget.n), str(budget.m)) if option.sampled else ("", "")),
                f"{budget.delta:g}" if option.has_slack else "",
                number(option.radius),
                number(option.error),
                f"{100 * option.answers:.0f}%",
                duration(option.seconds * len(plan.points)),
            )
        table.add_section()
    return table
