"""Plan of a run: from a configuration to cells, checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from centersmooth import Attack, Budget, Metric, Noise, RequestError
from centersmooth.attack import AttackName
from centersmooth.certifiers import Certifier
from centersmooth.gathering import Setting
from centersmooth.sampling import Sampler, evaluating
from csrun.adapters import adapted_name
from csrun.cells import METHOD_VERSION
from csrun.cells.cell import Cell
from csrun.cells.certify import certifiers_of
from csrun.certifiers import build_certifiers
from csrun.config import Config, GridPoint, at_least, filled, grid_pairs
from csrun.data import DataSet, load_data
from csrun.data.sources import ArraySource
from csrun.errors import RunError
from csrun.metrics import build_metrics
from csrun.models import ModelSpec, in_type_of, model_spec
from csrun.models.base import BaseModel
from csrun.noise import noise_of
from csrun.registry import METHODS, NOISES, entry_of, leading_rule, listed, names_of, require_known
from csrun.registry import key_of as key_of_certifier
from csrun.report.published import key_of
from csrun.training.checkpoints import Training, fresh_model, kind_of, training_of
from csrun.training.methods import Method
from csrun.training.names import method_named

_POINTS_AT_ONCE = 256

Asked = Mapping[str, Mapping[str, Certifier]]
"""Certifiers by their names, each by metric; see `Plan`."""

_ATTACKS: dict[str, AttackName] = {name: name for name in get_args(AttackName)}


@dataclass(frozen=True)
class CellPlan:
    """One cell to be: known up to the digest of the weights, which training gives."""

    model: str
    spec: ModelSpec
    noise: Noise
    pairs: tuple[GridPoint, ...]
    training: Training | None

    @property
    def scale(self) -> float:
        """Scale of the noise."""
        return self.noise.scale

    def cell(self, config: Config, budget: Budget, data_digest: str, weights: str, metric_weights: str) -> Cell:
        """The cell, once the weights are known."""
        return Cell(
            model=self.model,
            dataset=config.data.name,
            train=self.training.label if self.training else "",
            noise=dict(config.noise),
            scale=self.scale,
            weights=weights,
            metric_weights=metric_weights,
            data=data_digest,
            budget=budget,
            seed=config.seed,
            forward_block=config.forward_block,
            device=config.device,
            precision=config.precision,
        )


def _metric_names(config: Config, spec: ModelSpec) -> tuple[str, ...]:
    """All metrics of a registered model, and the user's own."""
    own = tuple(name for name in config.metrics if ":" in name)
    return (*spec.metrics, *own) if spec.metrics else tuple(config.metrics)


@dataclass(frozen=True)
class Plan:
    """Plan of a run.

    Attributes
    ----------
    metrics : mapping of str to Metric
        Of all models.
    certifiers : mapping of str to mapping of str to Certifier
        Those asked for, each by the metric asked for that it measures in; by the empty name where it brings its own
        distance.
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
    metrics: Mapping[str, Metric]
    certifiers: Asked
    cells: tuple[CellPlan, ...]
    points: range
    skipped: tuple[str, ...] = ()

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def threat(self) -> str:
        """What ``eps`` measures."""
        return self.cells[0].noise.threat.unit

    @property
    def has_noise_of_the_paper(self) -> bool:
        """Whether the noise is Gaussian against l2, which what the paper compares with rests on."""
        return dict(self.config.noise) == {"name": "gaussian"}

    @cached_property
    def _targets(self) -> Tensor | None:
        return None if self.data.pixelwise else self.data.test.labels

    def target(self, point: int) -> int | None:
        """The true class of a test point; None where the data set has none."""
        return None if self._targets is None else int(self._targets[point])

    @property
    def leading(self) -> dict[str, str]:
        """The certifier and rule that table and figures lead with."""
        return _leading(self.config, self.certifiers)

    @property
    def measures(self) -> list[str]:
        """Distances in which radii are measured: metrics, and certifiers that bring their own."""
        own = [name for name, by_metric in self.certifiers.items() if "" in by_metric]
        return [*(self.config.metrics if len(own) < len(self.certifiers) else []), *own]

    @property
    def workers(self) -> int:
        """Processes of this machine that share the work: no more than there are points; with Ray, the driver's one."""
        return 1 if self.config.executor == "ray" else min(int(self.config.workers), len(self.cells) * len(self.points))

    @property
    def units(self) -> dict[str, str]:
        """The unit of ``eps`` and the noise's scale, for each model: the input's, or that of the noise's parameter."""
        if not NOISES[self.config.noise["name"]].additive:
            return {cell.model: cell.noise.threat.unit for cell in self.cells}
        return {cell.model: cell.spec.unit.format(self.data.unit) for cell in self.cells}

    @property
    def attack(self) -> Attack | None:
        """Attack on the certificates, if there is to be one."""
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
        """Forward passes of certifying one point, at most: those of its centers, which all other certifiers share."""
        return self.budget.passes

    def request(self, cell: CellPlan) -> dict[str, Any]:
        """Entry of a cell in a manifest before its weights are known; it is published under its digest."""
        config = self.config
        return {
            "model": cell.model,
            "dataset": config.data.name,
            "data": self.data.digest,
            "training": cell.training.request if cell.training else None,
            "noise": dict(config.noise),
            "scale": cell.scale,
            "counts": asdict(self.budget),
            "seed": config.seed,
            "forward_block": config.forward_block,
            "precision": config.precision,
            "device": config.device,
            "method": METHOD_VERSION,
        }

    def only(self, keys: Sequence[str]) -> Plan:
        """The plan for some of its cells, by the keys of their requests.

        Raises
        ------
        RunError
            It has no such cell.
        """
        cells = {key_of(self.request(cell)): cell for cell in self.cells}
        for key in keys or [""]:
            if key not in cells:
                raise RunError(
                    f"cells has '{key}', which is not part of this request: expected among {', '.join(cells)}"
                )
        return replace(self, cells=tuple(cell for key, cell in cells.items() if key in keys))

    def metrics_of(self, cell: CellPlan) -> dict[str, Metric]:
        """Metrics in which a cell's outputs are measured, by name."""
        return {name: self.metrics[name] for name in _metric_names(self.config, cell.spec)}

    def certifiers_of(self, cell: CellPlan, model: BaseModel) -> dict[str, Certifier]:
        """All certifiers that a cell can have, by key."""
        own = {
            key_of_certifier(name, metric): one
            for name, by_metric in self.certifiers.items()
            for metric, one in by_metric.items()
            if ":" in name
        }
        setting = Setting.of(self.sampler(cell, model), self.budget)
        with evaluating(model):
            prototypes = model.prototypes
        return certifiers_of(self.metrics_of(cell), setting, own, prototypes)

    def sampler(self, cell: CellPlan, model: BaseModel) -> Sampler:
        """The cell's model under its noise; refuses an output range that is none."""
        block, batch = self.config.forward_block, self.config.batch_size
        return Sampler(model, cell.noise, block, batch, model.output_range)

    def laws(self, cell: CellPlan, model: BaseModel) -> Callable[[int], Noise]:
        """The cell's law bound to the input of a point; no input is read for a law with one bound for all."""
        if not cell.noise.local:
            return lambda point: cell.noise
        return cache(lambda point: cell.noise.at(self.input(model, point)))

    def input(self, model: BaseModel, point: int) -> Tensor:
        """Input of a model for a test point, before noise."""
        return self.inputs(model, [point])[0]

    def example(self, point: int) -> Tensor:
        """A test point as it is, before any model."""
        return self.data.images(self.data.test, [point])[0]

    def inputs(self, model: BaseModel, points: Sequence[int]) -> Tensor:
        """Inputs of several test points, ``(len(points), *in)``."""
        images = self.data.images(self.data.test, points).to(self.config.device)
        with torch.no_grad():
            return model.inputs(in_type_of(model, images))

    def attack_passes(self, cell: CellPlan) -> int:
        """Forward passes of all attacks on a cell, if every point gets its certificates, of each kind asked for."""
        answers = sum(map(len, self.certifiers.values()))
        return self.passes_of_attack * len(self.attacked) * len(cell.pairs) * answers

    def to_train(self) -> list[Training]:
        """Trainings whose checkpoint is needed and not there yet, each once, after the one that it starts from."""
        own = dict.fromkeys(cell.training for cell in self.cells if cell.training)
        missing = [training for training in own if not training.path(self.out).is_file()]
        needed = dict.fromkeys(one for training in missing for one in training.chain)
        return [training for training in needed if not training.path(self.out).is_file()]


def make_plan(config: Config) -> Plan:
    """Check a configuration and lay out its cells, before any work.

    Raises
    ------
    RunError
        One line: an unknown name, more points than there are, counts that no certificate can come from.
    """
    specs = {adapted_name(name, config.adapters): model_spec(name, config.adapters) for name in config.models}
    budget = _budget(config)
    pairs = grid_pairs(config.grid)
    noises = {pair.scale: noise_of(config.noise, pair.scale) for pair in pairs}
    names = dict.fromkeys(name for spec in specs.values() for name in _metric_names(config, spec))
    metrics = build_metrics(names, config.weights, config.device)
    certifiers = {
        name: build_certifiers(name, {one: metrics[one] for one in config.metrics}) for name in config.certifiers
    }
    settings = {scale: Setting(noise, budget, (0.0, 1.0), config.forward_block) for scale, noise in noises.items()}
    if not config.recommend:  # which looks for counts that are enough
        known = [(settings[pair.scale], None if noises[pair.scale].local else pair.eps) for pair in pairs]
        _require_feasible(config, certifiers, known)
    _require_suited(certifiers, settings[pairs[0].scale])
    data = load_data(config.data.name, config.data.path, config.seed)
    points = range(config.points.start, config.points.start + at_least(1, "points.count", config.points.count))
    if points.stop > len(data.test):
        raise RunError(
            f"points {points.start} to {points.stop - 1} were asked for, but the test split of {data.name} has "
            f"{len(data.test)}: lower points.count or points.start"
        )
    _require_readable(data, points)
    _require_fitting(config, specs)
    cells = []
    for name, spec in specs.items():
        for scale in sorted(noises):
            own = tuple(pair for pair in pairs if pair.scale == scale)
            for training in _trainings(config, name, spec, data, scale):
                cells.append(CellPlan(name, spec, noises[scale], own, training))
    plan = Plan(config, data, budget, metrics, certifiers, tuple(cells), points)
    laws = _first_laws(plan)
    if not config.recommend:
        bound = [replace(settings[cell.scale], noise=law) for cell, law in zip(cells, laws, strict=True)]
        sizes = [
            [pair.eps if _holds_for_all(law) else None for pair in cell.pairs]
            for cell, law in zip(cells, laws, strict=True)
        ]
        asked = [(setting, eps) for setting, several in zip(bound, sizes, strict=True) for eps in several]
        _require_feasible(config, certifiers, asked)
        problems = [_infeasible(certifiers, *one) for one in zip(bound, sizes, strict=True)]
        feasible = tuple(cell for cell, problem in zip(cells, problems, strict=True) if not problem)
        skipped = [f"scale {c.scale:.4g} left out: {why}" for c, why in zip(cells, problems, strict=True) if why]
        plan = replace(plan, cells=feasible, skipped=tuple(dict.fromkeys(skipped)))
    return plan if config.cells is None else plan.only(config.cells)


def _first_laws(plan: Plan) -> list[Noise]:
    """The law of each cell at the first point; with its bound where that holds for all points, as they share a size.

    Raises
    ------
    RunError
        A law refuses the input, or passes no gradient to an attack that needs one.
    """
    first = {cell.model: cell for cell in reversed(plan.cells)}
    inputs = {name: _first_input(plan, cell) for name, cell in first.items()}
    try:
        laws = [cell.noise.at(inputs[cell.model]) for cell in plan.cells]
        for cell, law in zip(plan.cells, laws, strict=True):
            if plan.attack is not None:
                plan.attack.require_gradients(law, inputs[cell.model])
    except RequestError as error:
        raise RunError(str(error)) from error
    return laws


def _holds_for_all(law: Noise) -> bool:
    """Whether the bound of a law at one point is that of all points."""
    return law.by_size or not law.local


def _first_input(plan: Plan, cell: CellPlan) -> Tensor:
    """The first point as a model's input, before it is trained or loaded; loaded ones take examples as they are."""
    model = fresh_model(cell.training, cell.spec, plan.data) if cell.training else BaseModel()
    return plan.input(model, plan.points[0])


def _require_readable(data: DataSet, points: range) -> None:
    """Look at every test point before any work, some hundred at a time."""
    for start in range(0, len(points), _POINTS_AT_ONCE):
        data.test.take(points[start : start + _POINTS_AT_ONCE])


def _trainings(config: Config, name: str, spec: ModelSpec, data: DataSet, scale: float) -> list[Training | None]:
    if not spec.trained:
        return [None]
    if data.train is None:
        raise RunError(f"models has '{name}', which is trained, but {data.name} has no training split")
    trainings = (
        training_of(name, data, config.train, asked, config.noise, scale, config.seed, config.device)
        for asked in config.train.method
        if _kind(asked).fits(spec.target)
    )
    return list(dict.fromkeys(trainings))


def _require_fitting(config: Config, specs: Mapping[str, ModelSpec]) -> None:
    """Refuse a model that no method trains, and a method that trains none; each model takes the methods that fit."""
    trained = {name: spec for name, spec in specs.items() if spec.trained}
    idle = [asked for asked in config.train.method if not any(_kind(asked).fits(s.target) for s in trained.values())]
    for name, spec in trained.items():
        unfit = [asked for asked in config.train.method if not _kind(asked).fits(spec.target)]
        if idle or len(unfit) == len(config.train.method):
            asked = (idle or unfit)[0]
            learned = _kind(asked).target or "examples or labels"
            fitting = [other for other in METHODS if kind_of(other).fits(spec.target)]
            raise RunError(
                f"train.method has '{method_named(asked)[0]}', which learns {learned}: expected {listed(fitting)} for "
                f"the model {name}, which learns {spec.target}"
            )


def _kind(asked: str) -> type[Method]:
    """The class of a method as a request names it."""
    return kind_of(method_named(asked)[0])


def _infeasible(certifiers: Asked, setting: Setting, sizes: Sequence[float | None]) -> str:
    """The reason why no rule of any certifier asked for certifies an eps at one noise level; empty if one does."""
    kinds = list(map(_any_of, certifiers.values()))
    apart = [_any_of(certifiers[name]).of_rule(rule) for name in certifiers for rule in entry_of(name).apart]
    kinds += [kind for kind in apart if not kind.unsuited(setting)]
    problems = [kind.problem(setting, rule, eps) for kind in kinds for rule in kind.rules for eps in sizes]
    return "" if "" in problems else problems[-1]


def _any_of(by_metric: Mapping[str, Certifier]) -> Certifier:
    """A certifier in one of its metrics: rules, and whether counts suffice, are the same in all."""
    return next(iter(by_metric.values()))


def _leading(config: Config, certifiers: Asked) -> dict[str, str]:
    """The certifier and rule that table and figures lead with: the first certifier's, its paper's rule by default.

    Raises
    ------
    RunError
        A user's own certifier has no such rule.
    """
    name = config.certifiers[0]
    one = _any_of(certifiers[name])
    rules = (*one.rules, *entry_of(name).apart)
    rule = config.rule or config.leading.get(name) or leading_rule(one.rules)
    require_known("rule is", rule, rules, more=f" for the certifier {name}")
    return {"certifier": name, "rule": rule}


def _budget(config: Config) -> Budget:
    try:
        n, m, delta = at_least(1, "n", config.n), at_least(1, "m", config.m), filled("delta", config.delta)
        return Budget(n, m, delta, config.alpha1, config.alpha2, config.n0)
    except RequestError as error:
        raise RunError(str(error)) from error


def _require_feasible(config: Config, certifiers: Asked, asked: Sequence[tuple[Setting, float | None]]) -> None:
    """Refuse counts by which the leading rule certifies nothing; says whether another needs fewer.

    Parameters
    ----------
    asked : sequence of (Setting, float or None)
        Each noise with an eps, or with None where its bound is not known.
    """
    name, rule = _leading(config, certifiers).values()
    one = _any_of(certifiers[name]).of_rule(rule)
    if rule in entry_of(name).apart and (problem := one.unsuited(asked[0][0])):
        raise RunError(problem)
    problems = [one.problem(setting, rule, eps) for setting, eps in asked]
    if all(problems):
        sharpest = one.rules[-1]
        other = f" (rule={sharpest} needs fewer)" if rule != sharpest else ""
        raise RunError(f"no certificate is possible: {problems[0]}{other}")


def _require_suited(certifiers: Asked, setting: Setting) -> None:
    """Refuse a certifier that suits none of the metrics asked for."""
    for name, by_metric in certifiers.items():
        problems = [one.unsuited(setting) for one in by_metric.values()]
        if all(problems):
            raise RunError(f"certifiers has {name}, which cannot be served: {problems[0]}")


def check(plan: Plan, cell_plan: CellPlan, model: BaseModel, certifiers: Mapping[str, Certifier]) -> Tensor:
    """Refuse a model or a metric that cannot be certified as asked for; returns a few noisy outputs at the first point.

    Raises
    ------
    RunError, CenterSmoothError
    """
    config = plan.config
    _require_inputs(plan, model)
    x = plan.input(model, plan.points[0])
    sampler = plan.sampler(cell_plan, model).at(x)
    with evaluating(model):
        outputs, setting = _checked_outputs(plan, sampler, x), Setting.of(sampler, plan.budget)
        _require_suited(plan.certifiers, setting)
        for name in config.certifiers:
            if entry_of(name).of_model and model.prototypes is None:
                raise RunError(f"certifiers has {name}: expected a model with prototypes, such as models=[protonet]")
        for key, certifier in certifiers.items():
            name, metric = names_of(key)
            if name in config.certifiers:
                _check_outputs(name, certifier, setting, outputs)
                if plan.attack is not None and metric in ("", *config.metrics):
                    plan.attack.check(sampler, certifier, x)
    return outputs


def _check_outputs(name: str, certifier: Certifier, setting: Setting, outputs: Tensor) -> None:
    try:
        certifier.check(setting, outputs)
    except RequestError as error:
        raise RunError(f"certifiers has {name}, which cannot certify these outputs: {error}") from error


def _require_inputs(plan: Plan, model: BaseModel) -> None:
    """Refuse numbers of an array that the type of the model's parameters cannot hold, at any point."""
    if isinstance(plan.data.test, ArraySource):
        for start in range(0, len(plan.points), _POINTS_AT_ONCE):
            plan.inputs(model, plan.points[start : start + _POINTS_AT_ONCE])


def _checked_outputs(plan: Plan, sampler: Sampler, x: Tensor) -> Tensor:
    """Noisy outputs of a model that is a fixed function of one input; the data's advice where its call fails."""
    metrics = dict.fromkeys(name for by_metric in plan.certifiers.values() for name in by_metric if name)
    try:
        return sampler.check_model(x, [plan.metrics[name] for name in metrics])
    except RequestError as error:
        if not plan.data.advice or not str(error).startswith("the model failed"):  # else it took its inputs
            raise
        # The advice first: what a model of tokens says of numbers is about types and shapes.
        raise RequestError(f"{plan.data.advice}; {error}") from error
