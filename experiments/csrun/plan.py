"""From a configuration to cells: what will be computed, whether it can be, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from centersmooth import Attack, Budget, Center, GaussianNoise, Metric, RequestError
from centersmooth.attack import AttackName
from centersmooth.bounds import BOUNDS, EXACT, Bounds
from centersmooth.certifiers.center.rules import center_problem, free_problem, radius_problem
from centersmooth.certifiers.center.search import require_means
from centersmooth.certifiers.expectation import mean_problem
from centersmooth.contracts import check_own_metric, check_seminorm
from centersmooth.sampling import Sampler, evaluating
from csrun.cells.cell import Cell
from csrun.config import Config, GridPoint, at_least, filled, grid_pairs
from csrun.data import DataSet, load_data
from csrun.data.sources import ArraySource
from csrun.errors import RunError
from csrun.metrics import build_metrics
from csrun.models import ModelSpec, in_type_of, model_spec
from csrun.models.base import BaseModel
from csrun.training.checkpoints import Training, training_of

TRAINING_WEIGHT = 3
"""A training step on an image counts as this many forward passes."""

_POINTS_AT_ONCE = 256

_ATTACKS: dict[str, AttackName] = {name: name for name in get_args(AttackName)}


@dataclass(frozen=True)
class CellPlan:
    """One cell to be: known up to the digest of the weights, which training gives."""

    model: str
    spec: ModelSpec
    sigma: float
    pairs: tuple[GridPoint, ...]
    training: Training | None

    def metric_names(self, config: Config) -> tuple[str, ...]:
        """All metrics of a registered model, and the user's own."""
        own = tuple(name for name in config.metrics if ":" in name)
        return (*self.spec.metrics, *own) if self.spec.metrics else tuple(config.metrics)

    def cell(self, config: Config, budget: Budget, data_digest: str, weights: str, metric_weights: str) -> Cell:
        """The cell, once the weights are known."""
        return Cell(
            model=self.model,
            dataset=config.data.name,
            train_sigma=self.training.train_sigma if self.training else None,
            sigma=self.sigma,
            weights=weights,
            metric_weights=metric_weights,
            data=data_digest,
            budget=budget,
            seed=config.seed,
            forward_block=config.forward_block,
            device=config.device,
            precision=config.precision,
        )


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes
    ----------
    cells : tuple of CellPlan
    points : range
        Test points.
    budget : Budget
    skipped : tuple of str
        A line for each noise level at which no rule can certify anything; nothing is computed there.
    """

    config: Config
    data: DataSet
    budget: Budget
    cells: tuple[CellPlan, ...]
    points: range
    skipped: tuple[str, ...] = ()

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def workers(self) -> int:
        """Processes of this machine that share the work: no more than there are points; with Ray, the driver's one."""
        return 1 if self.config.executor == "ray" else min(int(self.config.workers), len(self.cells) * len(self.points))

    @property
    def units(self) -> dict[str, str]:
        """The unit of ``eps`` and ``sigma``, for each model."""
        return {cell.model: cell.spec.unit.format(self.data.unit) for cell in self.cells}

    @property
    def attack(self) -> Attack | None:
        """How certificates are attacked, if they are."""
        effort = self.config.attacker
        kind = _ATTACKS.get(self.config.attack)
        return None if kind is None else Attack(kind, effort.steps, effort.restarts, effort.draws)

    @property
    def attacked(self) -> range:
        """The points under attack, as far as they get a certificate."""
        return self.points[: self.config.attacker.points]

    @property
    def passes_of_attack(self) -> int:
        """Forward passes of attacking and judging one certificate; 0 without an attack."""
        judged = self.config.attacker.runs * self.budget.passes_of_smooth
        return self.attack.passes + judged if self.attack else 0

    @property
    def passes_of_point(self) -> int:
        """Forward passes of certifying one point: those of its centers, which all other certifiers share."""
        return self.budget.passes

    @property
    def certifiers(self) -> tuple[str, ...]:
        """Names of the certifiers asked for."""
        return (*self.config.smoothing, *["center_free"] * (self.config.center == "free"))

    def input(self, model: BaseModel, point: int) -> Tensor:
        """What a model is given for a test point, before noise."""
        return self.inputs(model, [point])[0]

    def inputs(self, model: BaseModel, points: Sequence[int]) -> Tensor:
        """Inputs of several test points, ``(len(points), *in)``."""
        images = self.data.images(self.data.test, points).to(self.config.device)
        with torch.no_grad():
            return model.inputs(in_type_of(model, images))

    def attack_passes(self, cell: CellPlan) -> int:
        """Forward passes of all attacks on a cell, if every point gets its certificates, of each kind asked for."""
        settings = len(cell.pairs) * len(self.config.metrics) * len(self.certifiers)
        return self.passes_of_attack * len(self.attacked) * settings

    def to_train(self) -> list[Training]:
        """Trainings whose checkpoint is not there yet, each once, in the order of their cells."""
        trainings = dict.fromkeys(cell.training for cell in self.cells if cell.training)
        return [training for training in trainings if not training.path(self.out).is_file()]


def make_plan(config: Config) -> Plan:
    """Check a configuration and lay out its cells, before any work.

    Raises
    ------
    RunError
        One line: an unknown name, more points than there are, counts that no certificate can come from.
    """
    specs = {name: model_spec(name) for name in config.models}
    budget = _budget(config)
    _require_centers(config, budget)
    pairs = grid_pairs(config.grid)
    _require_feasible(config, budget, pairs)
    data = load_data(config.data.name, config.data.path, config.seed)
    points = range(config.points.start, config.points.start + at_least(1, "points.count", config.points.count))
    if points.stop > len(data.test):
        raise RunError(
            f"points {points.start} to {points.stop - 1} were asked for, but the test split of {data.name} has "
            f"{len(data.test)}: lower points.count or points.start"
        )
    _require_readable(data, points)
    cells = []
    for name, spec in specs.items():
        for sigma in sorted({pair.sigma for pair in pairs}):
            own = tuple(pair for pair in pairs if pair.sigma == sigma)
            for training in _trainings(config, name, spec, data, sigma):
                cells.append(CellPlan(name, spec, sigma, own, training))
    feasible = [cell for cell in cells if not _infeasible(cell, budget)]
    skipped = dict.fromkeys(
        f"sigma {c.sigma:.4g} left out: {_infeasible(c, budget)}" for c in cells if c not in feasible
    )
    return Plan(config, data, budget, tuple(feasible), points, tuple(skipped))


def _require_readable(data: DataSet, points: range) -> None:
    """Look at every test point before any work, some hundred at a time."""
    for start in range(0, len(points), _POINTS_AT_ONCE):
        data.test.take(points[start : start + _POINTS_AT_ONCE])


def _trainings(config: Config, name: str, spec: ModelSpec, data: DataSet, sigma: float) -> list[Training | None]:
    if not spec.trained:
        return [None]
    if data.train is None:
        raise RunError(f"models has '{name}', which is trained, but {data.name} has no training split")
    methods = ["augment" if noise == "matched" else "none" for noise in dict.fromkeys(config.train.noise)]
    return [training_of(name, data, config.train, method, sigma, config.seed, config.device) for method in methods]


def _infeasible(cell: CellPlan, budget: Budget) -> str:
    """Why no rule can certify any pair of a cell; empty if one can. Exact bounds never need more than others."""
    problems = _problems(budget, cell.pairs, EXACT)
    return problems[0] if all(problems) else ""


def _problems(budget: Budget, pairs: Sequence[GridPoint], bounds: Bounds) -> list[str]:
    """For each pair, why nothing can be certified there; empty if something can."""
    center = center_problem(budget, bounds)
    return [center or radius_problem(budget, GaussianNoise(pair.sigma), pair.eps, bounds) for pair in pairs]


def _budget(config: Config) -> Budget:
    try:
        n, m, delta = at_least(1, "n", config.n), at_least(1, "m", config.m), filled("delta", config.delta)
        return Budget(n, m, delta, config.alpha1, config.alpha2, config.n0)
    except RequestError as error:
        raise RunError(str(error)) from error


def _require_centers(config: Config, budget: Budget) -> None:
    """Refuse free centers for metrics or counts that have none."""
    metrics = build_metrics(config.metrics, config.weights, config.device) if config.center == "free" else {}
    for metric in metrics.values():
        if problem := free_problem(budget, metric):
            raise RunError(problem)


def _require_feasible(config: Config, budget: Budget, pairs: list[GridPoint]) -> None:
    problems = _problems(budget, pairs, BOUNDS[config.bounds])
    if all(problems):
        other = "" if config.bounds == "exact" else " (bounds=exact needs fewer)"
        raise RunError(f"no certificate is possible: {problems[0]}{other}")


def check(plan: Plan, cell_plan: CellPlan, model: BaseModel, metrics: Mapping[str, Metric]) -> None:
    """Refuse a model or a metric that cannot be certified as asked for, from a few draws at the first point.

    Raises
    ------
    RunError, CenterSmoothError
    """
    config, limits = plan.config, model.output_range
    sampler = Sampler(model, GaussianNoise(cell_plan.sigma), config.forward_block, config.batch_size, limits)
    _require_inputs(plan, model)
    x = plan.input(model, plan.points[0])
    with evaluating(model):
        outputs = _checked_outputs(plan, sampler, x)
        for metric in metrics.values():
            check_own_metric(metric, outputs)
        if config.center == "free":
            require_means(outputs)
        if (attack := plan.attack) is not None:
            for name in config.metrics:
                attack.check(sampler, Center(metrics[name]), x)
        if "mean" in config.smoothing:
            _require_mean(plan, cell_plan, model, metrics, outputs)


def _require_inputs(plan: Plan, model: BaseModel) -> None:
    """Refuse numbers of an array that the type of the model's parameters cannot hold, at any point."""
    if isinstance(plan.data.test, ArraySource):
        for start in range(0, len(plan.points), _POINTS_AT_ONCE):
            plan.inputs(model, plan.points[start : start + _POINTS_AT_ONCE])


def _checked_outputs(plan: Plan, sampler: Sampler, x: Tensor) -> Tensor:
    """Noisy outputs of a model that is a fixed function of one input; with the data's advice where it fails."""
    try:
        return sampler.check_model(x)
    except RequestError as error:
        if not plan.data.advice:
            raise
        raise RequestError(f"{error}; {plan.data.advice}") from error


def _require_mean(
    plan: Plan, cell_plan: CellPlan, model: BaseModel, metrics: Mapping[str, Metric], outputs: Tensor
) -> None:
    """Refuse smoothing by expectation where no metric asked for has a certificate for it, or one only claims to."""
    noise, limits = GaussianNoise(cell_plan.sigma), model.output_range
    problems = {name: mean_problem(metric, noise, plan.budget, limits) for name, metric in metrics.items()}
    asked = [problems[name] for name in plan.config.metrics]
    if all(asked):
        raise RunError(f"smoothing has mean, which {cell_plan.model} cannot serve: {asked[0]}")
    for name in (name for name, problem in problems.items() if not problem):
        assert limits is not None  # else each has a problem
        check_seminorm(metrics[name], outputs, limits)
