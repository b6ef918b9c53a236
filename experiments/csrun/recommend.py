"""Recommendation of noise level, counts and slack, from a small pilot on points that are then not certified.

The pilot draws a few thousand outputs at each noise level of the grid. What a budget would certify is read off their
distances: an order statistic of ``m`` draws at rank ``j`` is about the pilot's at the same share ``j/m``, and the same
for the ranks behind the measured far radius. These are estimates, and no certificate rests on them: the budget is
fixed before any point is drawn that it certifies, as the guarantee asks, for the pilot's points are others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from rich.table import Table
from scipy.special import bdtrc

from centersmooth import Budget, Center, Metric, Noise, RandomStream
from centersmooth.bounds import EXACT
from centersmooth.certifiers.center import CenterEvidence
from centersmooth.certifiers.center.measured import far_ranks
from centersmooth.certifiers.center.rules import Radii, center_problem
from centersmooth.gathering import gather
from centersmooth.sampling import Sampler, evaluating
from csrun.cells.run import obtain_model
from csrun.config import Config, GridPoint
from csrun.errors import RunError
from csrun.plan import TRAINING_WEIGHT, CellPlan, Plan, make_plan
from csrun.report.tables import number, titled
from csrun.system.progress import Display, duration

PILOT_POINTS = 5
PILOT_DRAWS, PILOT_FRESH_DRAWS = 1_000, 4_000
"""At most; never more than the request has for the center and for the radius."""

SIZES = (1_000, 2_000, 4_000, 10_000, 20_000, 50_000, 100_000)
DELTAS = (0.02, 0.03, 0.05, 0.08, 0.1, 0.15)
"""Counts that are tried: draws for the center up to 10,000, for the radius, and slack."""

WITHIN = 1.05
"""The cheapest budget is recommended whose radius is at most this many times the smallest one."""

ANSWERS = 0.99
"""Least share of runs that is expected not to abstain."""

_BEYOND = 5
"""Ranks so near to the largest of the pilot's distances that they say nothing of a larger sample's."""


@dataclass(frozen=True)
class Pilot:
    """Evidence of the pilot at one noise level, for each metric and pilot point.

    Attributes
    ----------
    cell : CellPlan
    budget : Budget
        Of the pilot.
    metrics : dict of str to Metric
    laws : list of Noise
        Bound to the inputs of the pilot points.
    evidence : list of dict of str to CenterEvidence
    seconds : float
        For one pass, everything included.
    """

    cell: CellPlan
    budget: Budget
    metrics: dict[str, Metric]
    laws: list[Noise]
    evidence: list[dict[str, CenterEvidence]]
    seconds: float


@dataclass(frozen=True)
class Option:
    """One budget at one noise level, with what it is expected to give.

    Attributes
    ----------
    pair : GridPoint
    budget : Budget
    radius, error : float
        Medians over the pilot's points.
    answers : float
        Share of runs whose center passes its test.
    seconds : float
        For one point.
    """

    pair: GridPoint
    budget: Budget
    radius: float
    error: float
    answers: float
    seconds: float


def recommend(config: Config, display: Display) -> None:
    """Draw the pilot and print what it recommends for each model, metric and eps.

    Raises
    ------
    RunError
        The test split has no points left for a pilot, or nothing tried is feasible.
    """
    plan = make_plan(config)
    points = pilot_points(plan)
    budget = pilot_budget(plan.budget)
    training = sum(TRAINING_WEIGHT * one.epochs * one.images for one in plan.to_train())
    with display.running(len(plan.cells) * len(points) * budget.passes + training):
        pilots = [_draw(plan, cell, budget, points, display) for cell in plan.cells]
    chosen = list(_choices(plan, pilots))
    if not chosen:
        raise RunError(f"no budget tried certifies any eps at h = {_several(plan.config.grid.h)}: lower grid.h")
    display.console.print(_table(plan, chosen))
    named = ", ".join(str(point) for point in points)
    display.console.print(
        f"from a pilot of {budget.n:,} + {budget.fresh_draws:,} draws at each of the test points {named}, which are "
        "not among those to be certified; rule: measured. Estimates, no certificates.",
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
    return Budget(min(asked.n, PILOT_DRAWS), min(asked.m, PILOT_FRESH_DRAWS), 0.49, 0.4, 0.4, asked.n0)


def _draw(plan: Plan, cell: CellPlan, budget: Budget, points: Sequence[int], display: Display) -> Pilot:
    model, _ = obtain_model(plan, cell, display)
    config = plan.config
    metrics = {name: plan.metrics[name] for name in config.metrics}
    display.stage(f"pilot of {cell.model}, scale {cell.scale:.3g}", len(points) * budget.passes)
    sampler = Sampler(model, cell.noise, config.forward_block, config.batch_size, model.output_range)
    started = time.perf_counter()
    with evaluating(model):
        evidence = [
            gather(
                sampler,
                {name: Center(metric) for name, metric in metrics.items()},
                budget,
                plan.input(model, point),
                RandomStream(config.seed, point).named("pilot"),
                progress=display.advance,
            )
            for point in points
        ]
    seconds = (time.perf_counter() - started) / (len(points) * budget.passes)
    return Pilot(cell, budget, metrics, list(map(plan.laws(cell, model), points)), evidence, seconds)


def _choices(plan: Plan, pilots: Iterable[Pilot]) -> Iterator[tuple[str, str, Option]]:
    """The best budget of each model, metric, eps and noise level."""
    for pilot in pilots:
        for name in plan.config.metrics:
            for pair in pilot.cell.pairs:
                if (option := best(options(pilot, name, pair, plan.budget))) is not None:
                    yield pilot.cell.model, name, option


def options(pilot: Pilot, name: str, pair: GridPoint, asked: Budget) -> Iterator[Option]:
    """Expected result of each budget tried at one noise level; those that certify nothing are left out."""
    for n in (size for size in SIZES if size <= 10_000):
        for m in SIZES:
            for delta in DELTAS:
                budget = Budget(n, m, delta, asked.alpha1, asked.alpha2, asked.n0)
                if not center_problem(budget, EXACT) and (option := _expected(pilot, name, pair, budget)) is not None:
                    yield option


def best(tried: Iterable[Option]) -> Option | None:
    """The cheapest that is nearly as sharp as any, among those that answer often enough, if some do."""
    tried = list(tried)
    if not tried:
        return None
    most = max(option.answers for option in tried)
    usable = [option for option in tried if option.answers >= min(ANSWERS, most)]
    least = min(option.radius for option in usable)
    near = [option for option in usable if option.radius <= WITHIN * least]
    return min(near, key=lambda option: (option.budget.passes, option.radius))


def _expected(pilot: Pilot, name: str, pair: GridPoint, budget: Budget) -> Option | None:
    metric, evidence = pilot.metrics[name], [found[name] for found in pilot.evidence]
    radii = [
        expected_radius(one, metric, law, pair.eps, budget, pilot.budget)
        for one, law in zip(evidence, pilot.laws, strict=True)
    ]
    known = [radius for radius in radii if radius is not None]
    if len(known) < len(radii):
        return None
    return Option(
        pair,
        budget,
        median(known),
        median(one.error for one in evidence),
        fmean(expected_answers(one.inside / pilot.budget.n, budget) for one in evidence),
        pilot.seconds * budget.passes,
    )


def expected_radius(
    evidence: CenterEvidence, metric: Metric, noise: Noise, eps: float, budget: Budget, pilot: Budget
) -> float | None:
    """Radius that the rule ``measured`` would certify, estimated; None where it would not, or the pilot cannot say."""
    ranks = far_ranks(budget, noise, eps)
    doubled = EXACT.upper_rank(budget.m, noise.required_mass(0.5 + budget.delta, eps), budget.alpha2)
    if doubled is None or evidence.far is None:
        return None
    rank = _scaled(ranks.radius if ranks else doubled, budget.m, pilot.m)
    if rank is None:
        return None
    r_hat, beta = evidence.far.at_rank(rank), 2**metric.power
    far = beta * r_hat
    if ranks is not None:
        seen = evidence.candidates
        near = _scaled(ranks.near, budget.n if budget.n0 else budget.n - 1, seen.others)
        place = math.ceil(ranks.place / (budget.n0 or budget.n) * seen.candidates)
        if near is None:
            return None
        far = min(far, seen.at(near, place))
    return Radii(r_hat, far, None).total(metric, EXACT)


def _scaled(rank: int, count: int, pilot: int) -> int | None:
    """The pilot's rank at the same share; None for the few largest, which depend on the size of the sample."""
    scaled = math.ceil(rank / count * pilot)
    return scaled if scaled <= pilot - _BEYOND else None


def expected_answers(share: float, budget: Budget) -> float:
    """Probability that a center passes its test whose ball holds this share of the mass."""
    low, high = 0, budget.n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if budget.accepts_center(middle, EXACT) else (middle + 1, high)
    return 1.0 if low == 0 else float(bdtrc(low - 1, budget.n, share))


def _table(plan: Plan, chosen: Sequence[tuple[str, str, Option]]) -> Table:
    """A row a choice; a star at the noise level of least radius for each model, metric and eps."""
    least: dict[tuple[str, str, float], float] = {}
    for model, metric, option in chosen:
        key = (model, metric, option.pair.eps)
        least[key] = min(option.radius, least.get(key, math.inf))
    columns = ("", "model", "metric", "eps", "scale", "h", "n", "m", "delta")
    outcome = ("radius", "error", "answers", "a point", f"{len(plan.points)} points")
    table = Table(*columns, *outcome, title=titled(f"Recommended for {plan.config.name}", plan.threat, plan.units))
    for model, metric, option in sorted(chosen, key=lambda one: (*one[:2], one[2].pair.eps, one[2].pair.h)):
        pair, budget = option.pair, option.budget
        table.add_row(
            "*" if option.radius == least[model, metric, pair.eps] else "",
            model,
            metric,
            *(f"{value:.4g}" for value in (pair.eps, pair.scale, pair.h)),
            *(str(value) for value in (budget.n, budget.m, budget.delta)),
            number(option.radius),
            number(option.error),
            f"{100 * option.answers:.0f}%",
            duration(option.seconds),
            duration(option.seconds * len(plan.points)),
        )
    return table


def _several(values: Sequence[float] | None) -> str:
    return ", ".join(f"{value:g}" for value in values or []) or "these noise levels"
