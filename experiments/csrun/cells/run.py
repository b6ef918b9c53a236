"""A cell in the course of a run: opened, given the evidence of each point it misses, attacked, closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from centersmooth import Metric, ModelError, RandomStream
from centersmooth.certifiers import Certifier
from centersmooth.sampling import evaluating
from csrun.cells.attacks import CellAttack
from csrun.cells.certify import Point, PointCertifier, PointResult
from csrun.cells.rows import Row
from csrun.cells.store import CellStore
from csrun.certifiers import source_of, tried
from csrun.metrics import fingerprint, metric_weights_digest
from csrun.models import ModelSpec, build_model, model_digest, model_spec
from csrun.models.base import BaseModel
from csrun.models.precision import in_precision
from csrun.plan import CellPlan, Plan, check
from csrun.registry import names_of
from csrun.system.locks import held
from csrun.system.progress import Display
from csrun.training.checkpoints import Report, Training, obtain


@dataclass(frozen=True)
class DoneCell:
    """A cell after its run.

    Attributes
    ----------
    store : CellStore
    rows : list of Row
        Those the experiment selects.
    note : str
        What a reader has to know about the model's weights; empty if they are what the experiment asks for.
    metrics : mapping of str to Metric
    attacks : list of Row
        What attacks on the certificates of `rows` found.
    failed : int
        Points and attacks that failed.
    """

    store: CellStore
    rows: list[Row]
    note: str
    metrics: Mapping[str, Metric]
    attacks: list[Row]
    failed: int


class CellRun:
    """A cell in the course of a run: an executor opens it, hands it the result of each point it misses, closes it.

    Only here, in the process of the run, is anything of a cell read or written.

    Parameters
    ----------
    record : dict
        What ``run.json`` says of the run.

    Attributes
    ----------
    certifier : PointCertifier
        From `open` on, as the next three.
    store : CellStore
    metrics : dict of str to Metric
    missing : list of int
        Points without all of their evidence, in order.
    done : DoneCell
        Once it is closed.
    """

    certifier: PointCertifier
    store: CellStore
    metrics: dict[str, Metric]
    missing: list[int]
    done: DoneCell

    def __init__(self, plan: Plan, cell_plan: CellPlan, display: Display, record: dict[str, Any]) -> None:
        self.plan, self.cell_plan, self.display = plan, cell_plan, display
        self._record, self._lock = record, ExitStack()
        self._failures: list[PointResult] = []
        self._rows_at_first: list[Row] = []

    @property
    def label(self) -> str:
        cell = self.store.cell
        return f"certify {cell.model} on {cell.dataset}, scale {cell.scale:.3g}"

    def open(self) -> None:
        """Obtain and check the model, hold the cell's folder, find out which points are missing."""
        plan, cell_plan, config = self.plan, self.cell_plan, self.plan.config
        model, weights = obtain_model(plan, cell_plan, self.display)
        self.metrics = metrics = plan.metrics_of(cell_plan)
        certifiers = plan.certifiers_of(cell_plan, model)
        check(plan, cell_plan, model, certifiers)
        identity = _identity(plan, cell_plan, model, metrics, certifiers)
        cell = cell_plan.cell(config, plan.budget, plan.data.digest, weights, identity)
        lock, say = plan.out / cell.name / ".lock", waiting(plan, self.display)
        self._lock.enter_context(held(lock, f"the cell {cell.name}", say))
        law_at = plan.laws(cell_plan, model)
        pairs, limits = list(cell_plan.pairs), model.output_range
        self.store = CellStore(plan.out, cell, certifiers, pairs, limits, law_at, plan.target)
        self.certifier = PointCertifier(
            model,
            certifiers,
            budget=plan.budget,
            noise=cell_plan.noise,
            seed=cell.seed,
            forward_block=cell.forward_block,
            batch_size=config.batch_size,
            output_range=model.output_range,
        )
        self.missing = self._find_missing()

    def point(self, index: int) -> Point:
        """One of the missing points, with the certifiers it misses."""
        x = self.plan.input(self.certifier.model, index)
        return Point(index, self.plan.data.test.name(index), x, self._missing[index])

    def passes(self, index: int) -> int:
        """Forward passes that one of the missing points takes."""
        return self.certifier.passes(self._missing[index], self.store.law_at(index))

    def take(self, result: PointResult) -> None:
        """Keep what certifying a point gave."""
        self.store.save(result)
        if result.failures:
            self._failures.append(result)
        for reason in dict.fromkeys(result.failures.values()):
            own = [".".join(filter(None, names_of(key))) for key, other in result.failures.items() if other == reason]
            which = "" if not result.evidence else f" for {', '.join(own)}"
            self.display.say(f"point {result.point} failed{which}: {reason}")

    def close(self) -> None:
        """Attack what was certified, put the rows in order, let go of the folder."""
        plan, cell_plan, model = self.plan, self.cell_plan, self.certifier.model
        plan.config.batch_size = min(plan.config.batch_size, self.certifier.batch_size)
        rows = self.store.rebuild(self._failures) if self.missing else self._rows_at_first
        rows = _select(rows, plan, cell_plan)
        attacks, fallen = _attack_cell(plan, cell_plan, model, self.store, rows, self.display)
        failed = len(self._failures) + fallen
        self.done = DoneCell(self.store, rows, model.note, self.metrics, attacks, failed)
        self.release()

    def release(self) -> None:
        """Let go of the folder, whatever is done."""
        self._lock.close()

    def _find_missing(self) -> list[int]:
        plan, store = self.plan, self.store
        rows = store.rebuild()
        for line in store.repaired:
            self.display.say(line)
        done = {key: store.done(key) for key in store.certifiers}
        asked = [key for key in store.certifiers if names_of(key)[0] in plan.config.certifiers]
        keys = {point: tuple(key for key in asked if point not in done[key]) for point in plan.points}
        self._missing = {point: missing for point, missing in keys.items() if missing}
        missing = sorted(self._missing)
        self._rows_at_first = [] if missing else rows  # reading them takes a while where points are many
        self.display.skip(plan.passes_of_point * len(plan.points) - sum(map(self.passes, missing)))
        store.record({"points": missing, "batch_size": plan.config.batch_size, **self._record} if missing else None)
        return missing


def _identity(
    plan: Plan,
    cell_plan: CellPlan,
    model: BaseModel,
    metrics: Mapping[str, Metric],
    certifiers: Mapping[str, Certifier],
) -> str:
    """Identity of metrics, and of a user's own model and certifiers, as part of the cell's digest."""
    identity = metric_weights_digest(metrics)
    own = {key: one for key, one in certifiers.items() if ":" in names_of(key)[0]}
    if ":" not in "".join((cell_plan.model, *metrics)) and not own:
        return identity
    block, x = plan.config.forward_block, plan.input(model, 0)
    sampler = plan.sampler(cell_plan, model).at(x)
    with evaluating(model):
        outputs = torch.cat(list(sampler.draw(x, block, RandomStream(0), "fingerprint")))
        sources = b"".join(source_of(name.partition(":")[0]) for name in (cell_plan.model, *metrics) if ":" in name)
        identity += fingerprint(metrics, outputs, model.output_range, sources)
        for key, one in own.items():
            identity += "-" + tried(names_of(key)[0], one, sampler, plan.budget, x, cell_plan.pairs[0].eps)
    return identity


def waiting(plan: Plan, display: Display) -> Callable[[str], None] | None:
    """Callback that says another run is waited for; None where this one does not wait."""
    return display.say if plan.config.wait else None


def obtain_model(plan: Plan, cell_plan: CellPlan, display: Display) -> tuple[BaseModel, str]:
    """The model of a cell and the digest of its weights."""
    training = cell_plan.training
    if training is None:
        model = build_model(cell_plan.spec, plan.data, plan.config.weights, cell_plan.noise, plan.config.device)
        weights = model_digest(model, cell_plan.model)
        return in_precision(model, plan.config.precision), weights
    for one in plan.to_train():
        if one in training.chain[:-1]:
            _obtain(plan, one, model_spec(one.model), display)
    model, weights = _obtain(plan, training, cell_plan.spec, display)
    model.at_noise(cell_plan.noise)
    return in_precision(model, plan.config.precision), weights


def _obtain(plan: Plan, training: Training, spec: ModelSpec, display: Display) -> tuple[BaseModel, str]:
    """The model of a training, which is shown if it has yet to be carried out."""
    if training in plan.to_train():
        label = f"train {training.model} on {training.dataset}, {training.label}"
        display.stage(label, training.passes)
    passes = training.objective.passes
    report = Report(
        display.say,
        epoch=lambda done, epochs, loss: display.detail(f"epoch {done} of {epochs}, loss {loss:.4g}"),
        resumed=lambda images: display.skip_of_stage(passes * images),
    )
    return obtain(
        training,
        spec,
        plan.data,
        plan.out,
        lambda images: display.advance(passes * images),
        waiting(plan, display),
        report,
    )


def _attack_cell(
    plan: Plan, cell_plan: CellPlan, model: BaseModel, store: CellStore, rows: list[Row], display: Display
) -> tuple[list[Row], int]:
    """Attack the certificates that have not been; what all attacks found, and how many failed."""
    if plan.attack is None:
        return [], 0
    cell, sampler = store.cell, plan.sampler(cell_plan, model)
    runs, inputs = plan.config.attacker.runs, lambda point: plan.input(model, point)
    own = CellAttack(store, sampler, plan.attack, runs, inputs)
    rows = [row for row in rows if int(row["point"]) in plan.attacked]
    missing = own.missing(rows)
    display.skip(plan.attack_passes(cell_plan) - plan.passes_of_attack * len(missing))
    if missing:
        name = f"attack {cell.model} on {cell.dataset}, scale {cell.scale:.3g}"
        display.stage(name, plan.passes_of_attack * len(missing))
    failed = 0
    with evaluating(model):
        for target in missing:
            try:
                own.carry_out(target, display.advance)
            except ModelError as error:
                failed += 1
                display.console.print(f"the attack on point {target.point} failed: {error}", highlight=False)
    return list(own.rows(rows)), failed


def _select(rows: Iterable[Row], plan: Plan, cell_plan: CellPlan) -> list[Row]:
    """The experiment's own rows: its certifiers, metrics, grid and points."""
    points = {str(point) for point in plan.points}
    pairs = {(repr(pair.eps), repr(pair.h)) for pair in cell_plan.pairs}
    return [
        row
        for row in rows
        if row["metric"] in ("", *plan.config.metrics)
        and row["point"] in points
        and (row["eps"], row["h"]) in pairs
        and row["certifier"] in plan.config.certifiers
    ]
