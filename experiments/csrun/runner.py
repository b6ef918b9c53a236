"""The run: train what is missing, certify what is missing, write the experiment's table and figures."""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Column, Table
from torch.nn.functional import one_hot

from centersmooth import RandomStream
from csrun.cells.attacks import attack_note, attack_table, broken
from csrun.cells.maps import TruthAt, iou_lines, iou_table, panel_maps
from csrun.cells.rows import Row, csv_lines, rows_of_rule
from csrun.cells.run import CellRun, DoneCell
from csrun.cells.store import CellStore
from csrun.cells.texts import text_lines, text_table
from csrun.cells.truth import truth_lines, truth_table
from csrun.config import Config
from csrun.cost import estimate
from csrun.errors import RunError
from csrun.executors import executor_of
from csrun.metrics import metric_facts
from csrun.models.precision import require_float32
from csrun.papers.baselines import l2_baselines
from csrun.papers.unit_slip import slip_lines, slip_note, slip_table
from csrun.plan import CellPlan, Plan, make_plan
from csrun.registry import LANDMARK_MODELS
from csrun.report.panels import PanelSource, draw_panels, save_panels
from csrun.report.published import is_reduced, key_of
from csrun.report.tables import (
    ATTACK_FILE,
    IDENTITY,
    IOU_FILE,
    MANIFEST_FILE,
    ROWS_FILE,
    SLIP_FILE,
    TEXTS_FILE,
    TRUTH_FILE,
    titled,
)
from csrun.system.files import remove_unfinished, write_atomically
from csrun.system.locks import held
from csrun.system.memory import keep_freed_memory
from csrun.system.progress import Display, duration
from csrun.system.provenance import provenance
from csrun.system.threads import threads
from csrun.training.names import method_named


@dataclass(frozen=True)
class RunResult:
    """Result of a run: its folder and files, the number of failed points, a line for each broken certificate.

    Of ``points``, over all cells, ``kept`` had their evidence from earlier runs. ``replaced`` is the command of an
    earlier run whose table had rows that the new one has not; empty if there is none.
    """

    folder: Path
    files: list[Path]
    points: int
    kept: int
    failed: int
    broken: list[str]
    replaced: str


def run(config: Config, display: Display, command: str, *, figures: bool = True) -> RunResult:
    """Carry out a resolved configuration; resumes where an earlier run ended.

    Parameters
    ----------
    figures : bool
        Whether to draw figures, write the summary and print the table, beside writing rows and manifest.

    Raises
    ------
    RunError
        For a request that cannot be served; nothing done so far is lost.
    """
    with threads(threads_of(config)):
        return _run(config, display, command, figures)


def threads_of(config: Config) -> int:
    """Threads of this process: one, as in a worker, or those of a task on Ray. Digits of a cell depend on them."""
    return config.ray.cpus if config.executor == "ray" else 1


def _run(config: Config, display: Display, command: str, figures: bool) -> RunResult:
    keep_freed_memory()
    require_float32()
    execute = executor_of(config)
    plan = make_plan(config)
    _require_writable(plan.out)
    for line in plan.skipped:
        display.console.print(line, highlight=False, soft_wrap=True)
    facts = provenance(config.device, (*config.models, *config.metrics, config.data.name))
    if config.executor == "ray":
        facts["hardware"]["executor"] = "ray"
    cells = [CellRun(plan, cell_plan, display, {"command": command, **facts}) for cell_plan in plan.cells]
    with display.running(_units(plan)), ExitStack() as locks:
        for cell in cells:
            locks.callback(cell.release)
        execute(cells, display)
    done = [cell.done for cell in cells]
    wrong = broken([row for cell in done for row in cell.attacks], len(plan.attacked))
    # Tables and figures of one run, should others write there as well.
    with held(plan.out / config.name / ".lock", f"the folder {config.name}", display.say):
        remove_unfinished(plan.out / config.name)
        replaced = _replaced(plan.out / config.name, [row for cell in done for row in cell.rows])
        folder = _write_experiment(plan, done, command, facts)
        files = _report(folder, display) if figures else []
        points = len(cells) * len(plan.points)
        kept = points - sum(len(cell.missing) for cell in cells)
        return RunResult(folder, files, points, kept, sum(cell.failed for cell in done), wrong, replaced)


def _replaced(folder: Path, rows: Iterable[Row]) -> str:
    """The command of the run whose table lies there, if that has rows that are not among these; else nothing."""
    try:
        command = str(json.loads((folder / MANIFEST_FILE).read_text())["command"])
        with (folder / ROWS_FILE).open(newline="", encoding="utf-8") as file:
            before = {tuple(row[name] for name in IDENTITY) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # none, or what only looks like a table of ours
        return ""
    return "" if before <= {tuple(row[name] for name in IDENTITY) for row in rows} else command


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
    passes = len(plan.cells) * len(plan.points) * plan.passes_of_point
    passes += sum(plan.attack_passes(cell) for cell in plan.cells)
    return passes + sum(training.passes for training in plan.to_train())


def _write_experiment(plan: Plan, done: list[DoneCell], command: str, facts: dict[str, Any]) -> Path:
    config = plan.config
    folder = plan.out / config.name
    folder.mkdir(parents=True, exist_ok=True)
    rule = plan.leading
    leading = [replace(cell, rows=rows_of_rule(cell.rows, rule)) for cell in done]
    notes = list(dict.fromkeys(filter(None, (plan.data.note, *(cell.note for cell in done)))))
    tables = (_write_unit_slip(plan, folder, leading), _write_attacks(folder, done, rule))
    _write_iou(plan, folder, done)
    _write_texts(folder, done)
    _write_truth(plan, folder, done)
    paper, cells = _paper_counts(config), [_cell_entry(plan, *pair) for pair in zip(plan.cells, done, strict=True)]
    manifest = {
        "experiment": config.name,
        "title": config.title,
        "metrics": plan.measures,
        "curve": _curve(config),
        "rule": rule,
        "noise": config.noise,
        "threat": plan.threat,
        "budget": config.budget,
        "reduced": is_reduced(paper, cells, len(plan.points)),
        "paper": paper,
        "notes": [*notes, *filter(None, tables)],
        "points": len(plan.points),
        "baselines": _baselines(plan),
        "command": command,
        "seed": config.seed,
        "device": config.device,
        "counts": asdict(plan.budget),
        "data": {"name": plan.data.name, "test_digest": plan.data.digest, "unit": plan.data.unit},
        "units": plan.units,
        "cells": cells,
        "panels": [{**panel, "notes": notes} for panel in _save_panels(plan, folder, leading)],
        **facts,
    }
    rows = [row for cell in done for row in cell.rows]
    write_atomically(folder / "certificates.csv", csv_lines(rows, header=True))
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=2).encode() + b"\n")
    return folder


def _curve(config: Config) -> str:
    """Kind of the figures' curves: several h at one eps go across, parameters of one training method trade off."""
    methods = [method_named(asked)[0] for asked in config.train.method]
    if len(set(methods)) < len(methods):
        return "tradeoff"
    if len(methods) > 1:
        return "training"
    if config.grid.h is None:
        return "scale"
    return "eps" if len(config.grid.h) > 1 and len(config.grid.eps or []) == 1 else "h"


def _cell_entry(plan: Plan, cell_plan: CellPlan, done: DoneCell) -> dict[str, Any]:
    """A cell in the manifest: its request, and what else its numbers rest on."""
    cell = done.store.cell
    return {
        "folder": cell.name,
        **plan.request(cell_plan),
        "train": cell.train,
        "weights": cell.weights,
        "metrics": {name: metric_facts(metric) for name, metric in done.metrics.items()},
        "metric_weights": cell.metric_weights,
        "output_range": done.store.output_range,
        "notes": list(filter(None, (plan.data.note, done.note))),
    }


def _write_unit_slip(plan: Plan, folder: Path, leading: list[DoneCell]) -> str:
    """The table of what is no certificate, where the experiment asks for it; its note."""
    if not (plan.config.unit_slip and plan.has_noise_of_the_paper):
        (folder / SLIP_FILE).unlink(missing_ok=True)
        return ""
    lines = [line for cell in leading for line in slip_lines(cell.store, cell.metrics, cell.rows)]
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


def _write_iou(plan: Plan, folder: Path, done: list[DoneCell]) -> None:
    """The table of certified intersections over union, where there are segmentations and a truth to compare with."""
    truth = _truth(plan)
    lines = [line for cell in done for line in iou_lines(cell.store, cell.rows, truth)] if truth else []
    if lines:
        write_atomically(folder / IOU_FILE, iou_table(lines))
    else:
        (folder / IOU_FILE).unlink(missing_ok=True)


def _write_texts(folder: Path, done: list[DoneCell]) -> None:
    """The table of certified texts, where outputs are texts."""
    lines = [line for cell in done for line in text_lines(cell.store, cell.rows)]
    if lines:
        write_atomically(folder / TEXTS_FILE, text_table(lines))
    else:
        (folder / TEXTS_FILE).unlink(missing_ok=True)


def _write_truth(plan: Plan, folder: Path, done: list[DoneCell]) -> None:
    """The table of distances to the truth, where trainings are compared of models that give back examples or maps."""
    (folder / TRUTH_FILE).unlink(missing_ok=True)
    if _curve(plan.config) != "tradeoff":
        return
    truths = {"examples": plan.example, "labels": _true_scores(plan)}
    lines = [
        line
        for cell, one in zip(done, plan.cells, strict=True)
        if one.training and (truth := truths.get(one.training.learns))
        for line in truth_lines(cell.store, cell.metrics, cell.rows, truth)
    ]
    if lines:
        write_atomically(folder / TRUTH_FILE, truth_table(lines))


def _truth(plan: Plan) -> TruthAt | None:
    """The classes of the pixels of test points; None where the data set has none."""
    data = plan.data
    return (lambda point: data.targets(data.test, [point])[0]) if data.pixelwise else None


def _true_scores(plan: Plan) -> TruthAt | None:
    """Scores of the classes of test points' pixels, 1 for the true one; None where the data set has no such classes."""
    truth, classes = _truth(plan), len(plan.data.classes)
    return (lambda point: one_hot(truth(point), classes).movedim(-1, 0)) if truth else None


def _save_panels(plan: Plan, folder: Path, leading: list[DoneCell]) -> list[dict[str, Any]]:
    """Panels of the experiment's first metric; whether they may be published is for their data to say."""
    rows = [row for cell in leading for row in cell.rows if row["metric"] in ("", plan.config.metrics[0])]
    truth = _truth(plan)
    sources = [
        PanelSource(
            store.cell.model,
            store.cell.digest,
            store.folder / "answers.npz",
            store.output_range,
            partial(panel_maps, store, truth),
            partial(_noisy, store),
            store.cell.model in LANDMARK_MODELS,
        )
        for store in (cell.store for cell in leading)
    ]
    panels = save_panels(folder, sources, rows, lambda points: plan.data.images(plan.data.test, points).numpy())
    return [{**panel, "publish": plan.data.publishable} for panel in panels]


def _noisy(store: CellStore, points: Sequence[int], inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """One noisy copy of the input of each point, for a panel."""
    noisy = [
        store.law_at(point).sample(x, 1, RandomStream(store.cell.seed, point).draws("panel", 0, x))
        for point, x in zip(points, torch.from_numpy(inputs).to(store.cell.device), strict=True)
    ]
    return torch.cat(noisy).cpu().numpy()


def _baselines(plan: Plan) -> list[dict[str, Any]]:
    """Figure 6's lines, for models that are trained to give back the data, whose numbers lie in [0, 1]."""
    specs = [cell.spec for cell in plan.cells]
    served = plan.has_noise_of_the_paper and all(spec.trained and spec.target == "examples" for spec in specs)
    if "l2" not in plan.config.metrics or not served:
        return []
    return l2_baselines(math.prod(plan.data.shape), (pair.h for cell in plan.cells for pair in cell.pairs))


def _paper_counts(config: Config) -> dict[str, int]:
    """Counts of draws, points and training in the paper, as far as the experiment has them."""
    paper = config.budgets["paper"]
    counts = {"n": paper["n"], "m": paper["m"], "points": paper["points"]["count"]}
    return counts | {key: value for key, value in paper.get("train", {}).items() if key in ("epochs", "images")}


def _report(folder: Path, display: Display) -> list[Path]:
    """Write the summary and the figures, print the table; returns the files of the experiment."""
    from csrun.report.attacked import attacks_table
    from csrun.report.labels import CLASSIFIER, classes_table, write_classes
    from csrun.report.plots import draw
    from csrun.report.segmentation import draw_segmentation
    from csrun.report.tables import read_rows, render, summarise, write_summary
    from csrun.report.texts import texts_table

    manifest, rows = json.loads((folder / "manifest.json").read_text()), read_rows(folder)
    summary = summarise(rows)
    write_summary(summary, folder / "summary.csv")
    for stale in (*folder.glob("radius_*"), *folder.glob("segmentation.p*")):
        stale.unlink()
    figures = [*draw(folder), *draw_segmentation(folder), *draw_panels(folder)]
    classes = write_classes(folder, rows)
    if classes:
        title = titled(manifest["title"], manifest["threat"], manifest["units"])
        display.console.print(classes_table(rows, title))
    if not classes or manifest["metrics"] != [CLASSIFIER]:
        display.console.print(*render(summary, manifest), sep="\n")
    for table in (texts_table(folder, manifest), attacks_table(folder, manifest)):
        if table is not None:
            display.console.print(table)
    tables = (SLIP_FILE, ATTACK_FILE, IOU_FILE, TEXTS_FILE, TRUTH_FILE)
    extra = [folder / name for name in tables if (folder / name).is_file()]
    return [folder / "certificates.csv", folder / "summary.csv", folder / "manifest.json", *classes, *extra, *figures]


def dry_run(config: Config, display: Display) -> None:
    """Say what a run would do and cost, from a short measurement, and do nothing."""
    plan = make_plan(config)
    for line in plan.skipped:
        display.console.print(line, highlight=False, soft_wrap=True)
    with threads(threads_of(config)):
        costs = estimate(plan)
    missing = plan.to_train()
    title = titled(config.title, plan.threat, plan.units)
    table = Table(Column("cell", no_wrap=True), "scale", "eps", "checkpoint", "forward passes", "time", title=title)
    for cell, cost in zip(plan.cells, costs, strict=True):
        eps = ", ".join(f"{pair.eps:g} (h {pair.h:g})" for pair in cell.pairs)
        state = "to be trained" if cell.training in missing else "there"
        table.add_row(
            key_of(plan.request(cell)),
            f"{cell.scale:.4g}",
            eps,
            state,
            f"{cost.passes:,}",
            duration(cost.seconds),
        )
    display.console.print(table)
    total = sum(cost.seconds for cost in costs)
    passes = sum(cost.passes for cost in costs)
    by = f" by {plan.workers} workers" if plan.workers > 1 else ""
    memory, disk = max(cost.memory for cost in costs) / 2**20, sum(cost.disk for cost in costs) / 2**20
    display.console.print(
        f"{len(costs)} cells, {passes:,} forward passes over {len(plan.points)} points, about {duration(total)} "
        f"on {config.device}{by} if nothing is done yet (timed just now), about {memory:,.0f} MiB of memory and "
        f"{disk:,.0f} MiB of disk; results under {plan.out.resolve()}",
        highlight=False,
    )
