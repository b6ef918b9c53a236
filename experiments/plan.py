"""From a configuration to cells: what will be computed, whether it can be, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from centersmooth import Attack, Budget, GaussianNoise, Metric, RandomStream, RequestError
from centersmooth.bounds import BOUNDS, EXACT, Bounds
from centersmooth.centers import BLOCK, require_means
from centersmooth.evidence import kept_ranks
from centersmooth.expectation import mean_problem
from centersmooth.metrics.base import TILE_ENTRIES
from centersmooth.quantiles import near_ranks, place_ranks
from centersmooth.rules import center_problem, free_problem, radius_problem
from centersmooth.sampling import Sampler, evaluating
from centersmooth.testing import check_own_metric, check_seminorm
from centersmooth_experiments.cells import Cell
from centersmooth_experiments.certify import passes_of_mean
from centersmooth_experiments.config import Config, GridPoint, grid_pairs
from centersmooth_experiments.data import DataSet, load_data
from centersmooth_experiments.errors import RunError
from centersmooth_experiments.metrics import build_metrics, check_metric_names
from centersmooth_experiments.models import ModelSpec, model_spec
from centersmooth_experiments.precision import in_precision
from centersmooth_experiments.training import Training, training_of

TRAINING_WEIGHT = 3
"""A training step on an image counts as this many forward passes."""

_POINTS_AT_ONCE = 256

_PROBE_BLOCKS, _PROBE_SECONDS = 9, 1.0
"""How long a model is timed for an estimate."""


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
            center="free" if config.center == "free" else "sample",
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
    def attack(self) -> Attack | None:
        """How certificates are attacked, if they are."""
        effort = self.config.attacker
        kind = self.config.attack
        return None if kind == "none" else Attack(kind, effort.steps, effort.restarts, effort.draws)

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
        """Forward passes of certifying one point, smoothed in every way asked for."""
        mean = passes_of_mean(self.budget) if "mean" in self.config.smoothing else 0
        return self.budget.passes + mean

    def input(self, model: nn.Module, point: int) -> Tensor:
        """What a model is given for a test point, before noise."""
        image = self.data.images(self.data.test, [point]).to(self.config.device)
        with torch.no_grad():
            inputs: Tensor = model.inputs(image)
        return inputs[0]

    def attack_passes(self, cell: CellPlan) -> int:
        """Forward passes of all attacks on a cell, if every point gets its certificates, of each kind asked for."""
        kinds = len(self.config.smoothing) + (self.config.center == "free")
        settings = len(cell.pairs) * len(self.config.metrics) * kinds
        return self.passes_of_attack * len(self.attacked) * settings

    def to_train(self) -> list[CellPlan]:
        """Cells whose checkpoint is not there yet."""
        return [cell for cell in self.cells if cell.training and not cell.training.path(self.out).is_file()]


def make_plan(config: Config) -> Plan:
    """Check a configuration and lay out its cells, before any work.

    Raises
    ------
    RunError
        One line: an unknown name, more points than there are, counts that no certificate can come from.
    """
    specs = {name: model_spec(name) for name in config.models}
    for name, spec in specs.items():
        check_metric_names(config.metrics, spec.metrics, name)
    budget = _budget(config)
    _require_centers(config, budget)
    pairs = grid_pairs(config.grid)
    _require_feasible(config, budget, pairs)
    data = load_data(config.data.name, config.data.path, config.seed)
    points = range(config.points.start, config.points.start + config.points.count)
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
    train_sigmas = [sigma if noise == "matched" else 0.0 for noise in dict.fromkeys(config.train.noise)]
    return [training_of(name, data, config.train, s, config.seed, config.device) for s in train_sigmas]


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
        return Budget(config.n, config.m, config.delta, config.alpha1, config.alpha2, config.n0)
    except (RequestError, TypeError) as error:
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


def check(plan: Plan, cell_plan: CellPlan, model: nn.Module, metrics: Mapping[str, Metric]) -> None:
    """Refuse a model or a metric that cannot be certified as asked for, from a few draws at the first point.

    Raises
    ------
    RunError, CenterSmoothError
    """
    config, limits = plan.config, model.output_range
    sampler = Sampler(model, GaussianNoise(cell_plan.sigma), config.forward_block, config.batch_size, limits)
    x = plan.input(model, plan.points[0])
    with evaluating(model):
        outputs = sampler.check_model(x)
        for metric in metrics.values():
            check_own_metric(metric, outputs)
        if config.center == "free":
            require_means(outputs)
        for name in config.metrics if plan.attack else ():
            plan.attack.check(sampler, metrics[name], x)
        if "mean" in config.smoothing:
            _require_mean(plan, cell_plan, model, metrics, outputs)


def _require_mean(
    plan: Plan, cell_plan: CellPlan, model: nn.Module, metrics: Mapping[str, Metric], outputs: Tensor
) -> None:
    """Refuse smoothing by expectation where no metric asked for has a certificate for it, or one only claims to."""
    noise, limits = GaussianNoise(cell_plan.sigma), model.output_range
    problems = {name: mean_problem(metric, noise, plan.budget, limits) for name, metric in metrics.items()}
    asked = [problems[name] for name in plan.config.metrics]
    if all(asked):
        raise RunError(f"smoothing has mean, which {cell_plan.model} cannot serve: {asked[0]}")
    for name in (name for name, problem in problems.items() if not problem):
        check_seminorm(metrics[name], outputs, limits)


@dataclass(frozen=True)
class Cost:
    """What a cell would take.

    Attributes
    ----------
    passes : int
        Forward passes of all its points.
    training_images : int
        Images pushed through training; 0 where the checkpoint is there.
    seconds : float
        From a short measurement on this machine.
    disk : int
        Bytes of its evidence and checkpoint.
    memory : int
        Bytes held at the peak of one point, the process itself included.
    """

    passes: int
    training_images: int
    seconds: float
    disk: int
    memory: int


class _Probe(NamedTuple):
    """What a moment with a model tells: its speed, and bytes of an input, an output, its features, the parameters."""

    passes_per_second: float
    input_bytes: int
    output_bytes: int
    feature_bytes: int
    model_bytes: int


def estimate(plan: Plan) -> list[Cost]:
    """Cost of each cell as if no point of it were done, from timing each model for a moment."""
    first = {cell.model: cell for cell in reversed(plan.cells)}
    probes = {name: _probe(plan, cell) for name, cell in first.items()}
    missing = {cell.training for cell in plan.to_train()}
    costs = []
    for cell in plan.cells:
        training = cell.training.epochs * cell.training.images if cell.training and cell.training in missing else 0
        missing.discard(cell.training)
        passes = plan.passes_of_point * len(plan.points) + plan.attack_passes(cell)
        probe = probes[cell.model]
        seconds = (passes + TRAINING_WEIGHT * training) / probe.passes_per_second
        disk = _evidence_bytes(plan, cell, probe) + (probe.model_bytes if training else 0)
        costs.append(Cost(passes, training, seconds, disk, _memory_bytes(plan, probe)))
    return costs


def _evidence_bytes(plan: Plan, cell: CellPlan, probe: _Probe) -> int:
    """Of all points: kept distances and a center for each metric, a base output; centers.npz repeats the outputs."""
    metrics, budget = len(cell.spec.metrics) or len(plan.config.metrics), plan.budget
    table = len(near_ranks(budget.n)) * len(place_ranks(budget.n0 or budget.n)) * 4
    centers = metrics * (2 if plan.config.center == "free" else 1)
    distances = centers * (len(kept_ranks(budget.m)) * 8 + table)
    return len(plan.points) * (distances + 2 * (centers + 1) * probe.output_bytes)


def _memory_bytes(plan: Plan, probe: _Probe) -> int:
    """Outputs kept with their features, twice; distances of all pairs, two tiles of them; a batch; the process.

    The process with PyTorch alone holds about 600 MiB.
    """
    budget, config = plan.budget, plan.config
    candidates = budget.n0 or budget.n
    if config.center == "free":
        candidates += budget.n // BLOCK
    kept = candidates * (probe.output_bytes + 2 * probe.feature_bytes)
    pairs = candidates * (2 * budget.n if budget.n0 else candidates) * 4 + 2 * TILE_ENTRIES * 8
    batch = config.batch_size * (2 * probe.input_bytes + probe.output_bytes)
    block = 3 * config.forward_block * probe.feature_bytes
    return 600 * 2**20 + probe.model_bytes + kept + pairs + batch + block + 8 * 8 * budget.m


def _probe(plan: Plan, cell: CellPlan) -> _Probe:
    config = plan.config
    model = in_precision(cell.spec.build(plan.data, config.weights).to(config.device), config.precision)
    metrics = build_metrics(cell.metric_names(config), config.weights, config.device)
    check(plan, cell, model, metrics)
    sources = list(dict.fromkeys(metric.source for metric in metrics.values()))
    sampler = Sampler(model, GaussianNoise(cell.sigma), config.forward_block, config.forward_block)
    x = plan.input(model, 0)
    with evaluating(model):
        output = sampler.base_output(x)
        features = [metric.features(output[None]) for metric in sources]
        rate = _passes_per_second(sampler, x, sources, features)
    model_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    return _Probe(rate, x.nbytes, output.nbytes, max(part.nbytes for part in features), model_bytes)


def _passes_per_second(sampler: Sampler, x: Tensor, metrics: Sequence[Metric], references: Sequence[Tensor]) -> float:
    """Draws with their distances to one output, in about a second; the first block does not count."""
    done, started = 0, time.perf_counter()
    for block, outputs in enumerate(sampler.draw(x, _PROBE_BLOCKS * sampler.forward_block, RandomStream(0), "timing")):
        for metric, reference in zip(metrics, references, strict=True):
            float(metric.pairwise(metric.features(outputs), reference).sum())
        if block == 0:
            started = time.perf_counter()
            continue
        done += len(outputs)
        if time.perf_counter() - started > _PROBE_SECONDS:
            break
    return done / (time.perf_counter() - started)
