"""The run: train what is missing, certify what is missing, write the experiment's table and figures."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from centersmooth import GaussianNoise, Metric, ModelError, RandomStream
from centersmooth.sampling import Sampler, evaluating
from centersmooth_experiments.attacks import CellAttack, attack_note, attack_table, broken
from centersmooth_experiments.baselines import l2_baselines
from centersmooth_experiments.certify import Certified, Certifier, Point, passes_of_mean
from centersmooth_experiments.config import Config, leading_rule
from centersmooth_experiments.errors import RunError
from centersmooth_experiments.executors import executor_of
from centersmooth_experiments.files import write_atomically
from centersmooth_experiments.locks import held
from centersmooth_experiments.memory import keep_freed_memory
from centersmooth_experiments.metrics import build_metrics, fingerprint, metric_facts, metric_weights_digest
from centersmooth_experiments.models import model_digest
from centersmooth_experiments.panels import PanelSource, draw_panels, save_panels
from centersmooth_experiments.plan import TRAINING_WEIGHT, CellPlan, Plan, check, estimate, make_plan
from centersmooth_experiments.precision import in_precision, require_float32
from centersmooth_experiments.progress import Display, duration
from centersmooth_experiments.provenance import provenance
from centersmooth_experiments.rows import PointResult, Row, csv_lines, rows_of_rule
from centersmooth_experiments.store import CellStore
from centersmooth_experiments.tables import ATTACK_FILE, SLIP_FILE
from centersmooth_experiments.training import obtain
from centersmooth_experiments.unit_slip import slip_lines, slip_note, slip_table


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
    attacks : list of Row
        What attacks on the certificates of `rows` found.
    failed : int
        Points and attacks that failed.
    """

    store: CellStore
    rows: list[Row]
    note: str
    attacks: list[Row]
    failed: int


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: its folder and files, how many points failed, a line for each broken certificate."""

    folder: Path
    files: list[Path]
    failed: int
    broken: list[str]


def run(config: Config, display: Display, command: str) -> RunResult:
    """Carry out a resolved configuration; resumes where an earlier run ended.

    Raises
    ------
    RunError
        For a request that cannot be served; nothing done so far is lost.
    """
    keep_freed_memory()
    require_float32()
    execute = executor_of(config)
    plan = make_plan(config)
    _require_writable(plan.out)
    for line in plan.skipped:
        display.console.print(line, highlight=False, soft_wrap=True)
    facts = provenance(config.device, (*config.models, *config.metrics, config.data.name))
    if config.executor == "ray":
        facts["hardware"] |= {"executor": "ray", "threads": config.ray.cpus}
    cells = [CellRun(plan, cell_plan, display, {"command": command, **facts}) for cell_plan in plan.cells]
    with display.running(_units(plan)), ExitStack() as locks:
        for cell in cells:
            locks.callback(cell.release)
        execute(cells, display)
    done = [cell.done for cell in cells]
    wrong = broken([row for cell in done for row in cell.attacks], len(plan.attacked))
    # Tables and figures of one run, should others write there as well.
    with held(plan.out / config.name / ".lock", f"the folder {config.name}", display.say):
        folder = _write_experiment(plan, done, command, facts)
        return RunResult(folder, _report(folder, display), sum(cell.failed for cell in done), wrong)


class CellRun:
    """A cell in the course of a run: an executor opens it, hands it the result of each point it misses, closes it.

    Only here, in the process of the run, is anything of a cell read or written.

    Parameters
    ----------
    record : dict
        What ``run.json`` says of the run.

    Attributes
    ----------
    certifier : Certifier
        From `open` on, as the next two.
    store : CellStore
    missing : list of int
        Points without all of their evidence, in order.
    done : DoneCell
        Once it is closed.
    """

    certifier: Certifier
    store: CellStore
    missing: list[int]
    done: DoneCell

    def __init__(self, plan: Plan, cell_plan: CellPlan, display: Display, record: dict[str, Any]) -> None:
        self.plan, self.cell_plan, self.display = plan, cell_plan, display
        self._record, self._lock = record, ExitStack()
        self._failures: list[PointResult] = []
        self._failed_means = 0

    @property
    def label(self) -> str:
        cell = self.store.cell
        return f"certify {cell.model} on {cell.dataset}, sigma {cell.sigma:.3g}"

    def open(self) -> None:
        """Obtain and check the model, hold the cell's folder, find out which points are missing."""
        plan, cell_plan, config = self.plan, self.cell_plan, self.plan.config
        model, weights = _obtain(plan, cell_plan, self.display)
        metrics = build_metrics(cell_plan.metric_names(config), config.weights, config.device)
        check(plan, cell_plan, model, metrics)
        identity = _identity(plan, cell_plan, model, metrics)
        cell = cell_plan.cell(config, plan.budget, plan.data.digest, weights, identity)
        lock, say = plan.out / cell.name / ".lock", _waiting(plan, self.display)
        self._lock.enter_context(held(lock, f"the cell {cell.name}", say))
        self.store = CellStore(plan.out, cell, metrics, list(cell_plan.pairs), model.output_range)
        self.certifier = Certifier(
            model,
            metrics,
            budget=plan.budget,
            sigma=cell.sigma,
            seed=cell.seed,
            forward_block=cell.forward_block,
            batch_size=config.batch_size,
            output_range=model.output_range,
            free=cell.center == "free",
        )
        self.missing = self._find_missing()

    def point(self, index: int) -> Point:
        """One of the missing points, with what is missing of it."""
        x = self.plan.input(self.certifier.model, index)
        missing = (index in self._missing_centers, index in self._missing_means)
        return Point(index, self.plan.data.test.name(index), x, *missing)

    def passes(self, index: int) -> int:
        """Forward passes that one of the missing points takes."""
        mean = passes_of_mean(self.plan.budget) if index in self._missing_means else 0
        return mean + (self.plan.budget.passes if index in self._missing_centers else 0)

    def take(self, certified: Certified) -> None:
        """Keep what certifying a point gave."""
        if certified.center is not None:
            self.store.save(certified.center)
            if certified.center.failure:
                self._failures.append(certified.center)
                self.display.say(f"point {certified.center.point} failed: {certified.center.failure}")
        if certified.mean is not None:
            self.store.save_mean(certified.mean)
        if certified.mean_failure:
            self._failed_means += 1
            self.display.say(certified.mean_failure)

    def close(self) -> None:
        """Attack what was certified, put the rows in order, let go of the folder."""
        plan, cell_plan, model = self.plan, self.cell_plan, self.certifier.model
        plan.config.batch_size = min(plan.config.batch_size, self.certifier.batch_size)
        rows = _select(self.store.rebuild(self._failures), plan, cell_plan)
        attacks, fallen = _attack_cell(plan, cell_plan, model, self.store, rows, self.display)
        note = getattr(model, "note", "")
        failed = len(self._failures) + self._failed_means + fallen
        self.done = DoneCell(self.store, rows, note, attacks, failed)
        self.release()

    def release(self) -> None:
        """Let go of the folder, whatever is done."""
        self._lock.close()

    def _find_missing(self) -> list[int]:
        plan, store = self.plan, self.store
        store.rebuild()
        for line in store.repaired:
            self.display.say(line)
        self._missing_centers = set(plan.points) - store.done()
        self._missing_means = set(plan.points) - store.done_means() if "mean" in plan.config.smoothing else set()
        missing = sorted(self._missing_centers | self._missing_means)
        self.display.skip(plan.passes_of_point * len(plan.points) - sum(map(self.passes, missing)))
        if missing:
            store.record({"points": missing, "batch_size": plan.config.batch_size, **self._record})
        return missing


def _identity(plan: Plan, cell_plan: CellPlan, model: nn.Module, metrics: Mapping[str, Metric]) -> str:
    """What a cell's numbers depend on besides the model's weights and the library."""
    identity = metric_weights_digest(metrics)
    if ":" in "".join((cell_plan.model, *metrics)):
        block = plan.config.forward_block
        sampler = Sampler(model, GaussianNoise(cell_plan.sigma), block, plan.config.batch_size, model.output_range)
        with evaluating(model):
            outputs = torch.cat(list(sampler.draw(plan.input(model, 0), block, RandomStream(0), "fingerprint")))
            identity += fingerprint(metrics, outputs, model.output_range)
    return identity


def _waiting(plan: Plan, display: Display) -> Callable[[str], None] | None:
    """Where to say that another run is waited for, if one is to be."""
    return display.say if plan.config.wait else None


def _require_writable(out: Path) -> None:
    """Find out before hours of work, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RunError(f"out is '{out}' and cannot be written ({error.strerror}): set out=FOLDER") from error


def _units(plan: Plan) -> float:
    """Work of the run in forward passes, whatever may be done already."""
    training = {cell.training for cell in plan.to_train()}
    passes = len(plan.cells) * len(plan.points) * plan.passes_of_point
    passes += sum(plan.attack_passes(cell) for cell in plan.cells)
    return passes + TRAINING_WEIGHT * sum(t.epochs * t.images for t in training)


def _obtain(plan: Plan, cell_plan: CellPlan, display: Display) -> tuple[nn.Module, str]:
    """The model of a cell, in eval mode, and the digest of its weights."""
    training = cell_plan.training
    if training is None:
        model = cell_plan.spec.build(plan.data, plan.config.weights).to(plan.config.device).eval()
        weights = model_digest(model, cell_plan.model)
        return in_precision(model.requires_grad_(False), plan.config.precision), weights
    if cell_plan in plan.to_train():
        label = f"train {training.model} on {training.dataset}, sigma {training.train_sigma:.3g}"
        display.stage(label, TRAINING_WEIGHT * training.epochs * training.images)
    model, weights = obtain(
        training,
        cell_plan.spec,
        plan.data,
        plan.out,
        lambda images: display.advance(TRAINING_WEIGHT * images),
        _waiting(plan, display),
    )
    return in_precision(model, plan.config.precision), weights


def _attack_cell(
    plan: Plan, cell_plan: CellPlan, model: nn.Module, store: CellStore, rows: list[Row], display: Display
) -> tuple[list[Row], int]:
    """Attack the certificates that have not been; what all attacks found, and how many failed."""
    if plan.attack is None:
        return [], 0
    cell, batch_size = store.cell, plan.config.batch_size
    sampler = Sampler(model, GaussianNoise(cell.sigma), cell.forward_block, batch_size, store.output_range)
    runs, inputs = plan.config.attacker.runs, lambda point: plan.input(model, point)
    own = CellAttack(store, sampler, plan.attack, runs, inputs)
    rows = [row for row in rows if int(row["point"]) in plan.attacked]
    missing = own.missing(rows)
    display.skip(plan.attack_passes(cell_plan) - plan.passes_of_attack * len(missing))
    if missing:
        name = f"attack {cell.model} on {cell.dataset}, sigma {cell.sigma:.3g}"
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
    """The experiment's own rows: its metrics, its grid, its points, its kinds of smoothing."""
    points = {str(point) for point in plan.points}
    kinds = plan.config.smoothing
    pairs = {(repr(pair.eps), repr(pair.h)) for pair in cell_plan.pairs}
    return [
        row
        for row in rows
        if row["metric"] in plan.config.metrics
        and row["point"] in points
        and (row["eps"], row["h"]) in pairs
        and row["smoothing"] in kinds
    ]


def _write_experiment(plan: Plan, done: list[DoneCell], command: str, facts: dict[str, Any]) -> Path:
    config = plan.config
    folder = plan.out / config.name
    folder.mkdir(parents=True, exist_ok=True)
    rule = leading_rule(config)
    leading = [replace(cell, rows=rows_of_rule(cell.rows, rule)) for cell in done]
    notes = list(dict.fromkeys(filter(None, (plan.data.note, *(cell.note for cell in done)))))
    tables = (_write_unit_slip(plan, folder, leading), _write_attacks(folder, done, rule))
    manifest = {
        "experiment": config.name,
        "title": config.title,
        "metrics": list(config.metrics),
        "curve": _curve(config),
        "rule": rule,
        "budget": config.budget,
        "reduced": _reduced(config),
        "notes": [*notes, *filter(None, tables)],
        "points": len(plan.points),
        "baselines": _baselines(plan),
        "command": command,
        "seed": config.seed,
        "device": config.device,
        "counts": asdict(plan.budget),
        "data": {"name": plan.data.name, "test_digest": plan.data.digest, "unit": plan.data.unit},
        "training": [vars(cell.training) for cell in plan.cells if cell.training],
        "cells": [_cell_entry(cell.store) for cell in done],
        "panels": [{**panel, "notes": notes} for panel in _save_panels(plan, folder, leading)],
        **facts,
    }
    rows = [row for cell in done for row in cell.rows]
    write_atomically(folder / "certificates.csv", csv_lines(rows, header=True))
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=2).encode() + b"\n")
    return folder


def _curve(config: Config) -> str:
    """What the curves of the figures stand for; several h at one eps are drawn against h."""
    if len(config.train.noise) > 1:
        return "training"
    if config.grid.h is None:
        return "sigma"
    return "eps" if len(config.grid.h) > 1 and len(config.grid.eps or []) == 1 else "h"


def _cell_entry(store: CellStore) -> dict[str, Any]:
    """A cell in the manifest: what its numbers rest on."""
    cell = store.cell
    return {
        "folder": cell.name,
        "model": cell.model,
        "weights": cell.weights,
        "metrics": {name: metric_facts(metric) for name, metric in store.metrics.items()},
        "metric_weights": cell.metric_weights,
        "data": cell.data,
        "sigma": cell.sigma,
        "train_sigma": cell.train_sigma,
        "output_range": store.output_range,
        "precision": cell.precision,
        "method": cell.method,
    }


def _write_unit_slip(plan: Plan, folder: Path, leading: list[DoneCell]) -> str:
    """The table of what is no certificate, where the experiment asks for it; its note."""
    if not plan.config.unit_slip:
        (folder / SLIP_FILE).unlink(missing_ok=True)
        return ""
    lines = [line for cell in leading for line in slip_lines(cell.store, cell.rows)]
    write_atomically(folder / SLIP_FILE, slip_table(lines))
    return slip_note(lines)


def _write_attacks(folder: Path, done: list[DoneCell], rule: Mapping[str, str]) -> str:
    """The table of attacks, where there were any; its note on the leading rule."""
    rows = [row for cell in done for row in cell.attacks]
    if not rows:
        (folder / ATTACK_FILE).unlink(missing_ok=True)
        return ""
    write_atomically(folder / ATTACK_FILE, attack_table(rows))
    return attack_note(rows_of_rule(rows, rule))


def _save_panels(plan: Plan, folder: Path, leading: list[DoneCell]) -> list[dict[str, Any]]:
    """Panels of the experiment's first metric; whether they may be published is for their data to say."""
    rows = [row for cell in leading for row in cell.rows if row["metric"] == plan.config.metrics[0]]
    stores = [cell.store for cell in leading]
    sources = [PanelSource(s.cell.model, s.cell.digest, s.folder / "centers.npz", s.output_range) for s in stores]
    panels = save_panels(folder, sources, rows, lambda points: plan.data.images(plan.data.test, points).numpy())
    return [{**panel, "publish": plan.data.publishable} for panel in panels]


def _baselines(plan: Plan) -> list[dict[str, Any]]:
    """Figure 6's lines, for models with outputs in [0, 1]; they output images of the size of the data."""
    if "l2" not in plan.config.metrics or not all(cell.spec.trained for cell in plan.cells):
        return []
    return l2_baselines(math.prod(plan.data.shape), (pair.h for cell in plan.cells for pair in cell.pairs))


def _reduced(config: Config) -> bool:
    """Whether anything is below the paper's counts: draws, points or training."""
    paper = config.budgets["paper"]
    asked = [config.n, config.m, config.points.count]
    counts = [paper["n"], paper["m"], paper["points"]["count"]]
    if "train" in paper:
        asked += [config.train.epochs, config.train.images]
        counts += [paper["train"]["epochs"], paper["train"]["images"]]
    return any(ours < theirs for ours, theirs in zip(asked, counts, strict=True))


def _report(folder: Path, display: Display) -> list[Path]:
    """Write the summary and the figures, print the table; returns the files of the experiment."""
    from centersmooth_experiments.plots import draw
    from centersmooth_experiments.tables import read_rows, render, summarise, write_summary

    manifest = json.loads((folder / "manifest.json").read_text())
    summary = summarise(read_rows(folder))
    write_summary(summary, folder / "summary.csv")
    for stale in folder.glob("radius_*"):
        stale.unlink()
    figures = [*draw(folder), *draw_panels(folder)]
    display.console.print(render(summary, manifest))
    extra = [folder / name for name in (SLIP_FILE, ATTACK_FILE) if (folder / name).is_file()]
    return [folder / "certificates.csv", folder / "summary.csv", folder / "manifest.json", *extra, *figures]


def dry_run(config: Config, display: Display) -> None:
    """Say what a run would do and cost, from a short measurement, and do nothing."""
    plan = make_plan(config)
    for line in plan.skipped:
        display.console.print(line, highlight=False, soft_wrap=True)
    costs = estimate(plan)
    missing = {cell.training for cell in plan.to_train()}
    table = Table("cell", "sigma", "eps", "checkpoint", "forward passes", "time", title=config.title)
    for cell, cost in zip(plan.cells, costs, strict=True):
        eps = ", ".join(f"{pair.eps:g} (h {pair.h:g})" for pair in cell.pairs)
        state = "to be trained" if cell.training in missing else "there"
        table.add_row(
            f"{cell.model}-{plan.data.name}",
            f"{cell.sigma:.4g}",
            eps,
            state,
            f"{cost.passes:,}",
            duration(cost.seconds),
        )
    display.console.print(table)
    total = sum(cost.seconds for cost in costs)
    passes = sum(cost.passes for cost in costs)
    memory, disk = max(cost.memory for cost in costs) / 2**20, sum(cost.disk for cost in costs) / 2**20
    display.console.print(
        f"{len(costs)} cells, {passes:,} forward passes over {len(plan.points)} points, about {duration(total)} "
        f"on {config.device} if nothing is done yet (timed just now), about {memory:,.0f} MiB of memory and "
        f"{disk:,.0f} MiB of disk; results under {plan.out.resolve()}",
        highlight=False,
    )
