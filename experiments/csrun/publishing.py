"""Publishing: an experiment's cells join those in ``results/<experiment>/<budget>-<device>/``, and none is removed.

`csrun.report.published` says what lies there. Rows of one cell join by what tells them apart, newer ones in place of
older ones, so that runs on other points or with other ``eps`` add up. What is made from all cells (summary, figures,
notes) is made anew.

Panels show pictures. Only those whose data may be handed on are published: none of CelebA, none of a user's own files.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csrun.cells.attacks import COLUMNS as ATTACK_COLUMNS
from csrun.cells.attacks import attack_note
from csrun.cells.maps import COLUMNS as IOU_COLUMNS
from csrun.cells.rows import Row, csv_lines, rows_of_rule
from csrun.cells.store import read_record
from csrun.cells.texts import COLUMNS as TEXT_COLUMNS
from csrun.cells.truth import COLUMNS as TRUTH_COLUMNS
from csrun.errors import RunError
from csrun.papers.unit_slip import COLUMNS as SLIP_COLUMNS
from csrun.papers.unit_slip import slip_note
from csrun.report.labels import write_classes
from csrun.report.panels import can_be_drawn, draw_panels
from csrun.report.plots import draw
from csrun.report.published import (
    CELL_FILE,
    CELLS_FOLDER,
    REQUEST,
    CellEntry,
    current_cells,
    is_reduced,
    key_of,
    read_cells,
    setting_of,
    tables,
    version_of,
)
from csrun.report.segmentation import draw_segmentation
from csrun.report.tables import (
    ATTACK_FILE,
    IDENTITY,
    IOU_FILE,
    MANIFEST_FILE,
    ROW_COLUMNS,
    ROWS_FILE,
    SLIP_FILE,
    TEXTS_FILE,
    TRUTH_FILE,
    read_rows,
    summarise,
    write_summary,
)
from csrun.system.files import write_atomically

SUMMARY_FILE = "summary.csv"

_MADE_BY = ("command", "versions", "hardware", "commit")
"""Entries on how a run was made: in the manifest, in the record of a cell and in ``cell.json``."""

_OF_TRAININGS = ("tradeoff", "training")
"""Kinds of curves that tell trainings apart, which a later run of one training does not take back."""

_ROW = tuple(name for name in IDENTITY if name != "cell")
"""The columns that tell rows of one published cell apart, whatever the digest of its weights."""


@dataclass(frozen=True)
class _Table:
    """A table of a cell: its file, its columns, and those that tell its rows apart."""

    file: str
    columns: tuple[str, ...]
    identity: tuple[str, ...]


_ROWS = _Table(ROWS_FILE, ROW_COLUMNS, _ROW)
_ATTACKS = _Table(ATTACK_FILE, ATTACK_COLUMNS, _ROW)
_SLIPS = _Table(SLIP_FILE, SLIP_COLUMNS, ("point", "metric", "eps"))
_IOUS = _Table(IOU_FILE, IOU_COLUMNS, _ROW)
_TEXTS = _Table(TEXTS_FILE, TEXT_COLUMNS, _ROW)
_TRUTHS = _Table(TRUTH_FILE, TRUTH_COLUMNS, _ROW)
_TABLES = (_ROWS, _ATTACKS, _SLIPS, _IOUS, _TEXTS, _TRUTHS)
"""The rows; and what is said about them, which goes where they are replaced by those of other weights."""


def publish(experiment: str, runs: Path, results: Path) -> Path:
    """Add the cells of an experiment's last run to what is published of it, and make summary and figures anew.

    Returns
    -------
    Path
        The published folder, named by what the manifest says of budget and device.

    Raises
    ------
    FileNotFoundError
        There is no such run.
    RunError
        A cell of other counts, data or seed is published there, and its lines could not be told from the new ones.
    """
    target = add(experiment, runs, results)
    refresh(target)
    return target


def add(experiment: str, runs: Path, results: Path) -> Path:
    """Add the cells of an experiment's last run, with their panels; summary and figures are left to `refresh`."""
    source = runs / experiment
    manifest = json.loads((source / MANIFEST_FILE).read_text())
    target = results / experiment / f"{manifest['budget']}-{manifest['device']}"
    _require_one_cell_a_setting(target, manifest["cells"])
    whole = {table: _read(source / table.file) for table in _TABLES}
    for cell in manifest["cells"]:
        digest = cell["folder"].rpartition("-")[2]
        own = {table: [row for row in rows if row["cell"] == digest] for table, rows in whole.items()}
        _add_cell(target, cell, own, manifest, runs / cell["folder"])
    for panel in filter(_may_be_handed_on, manifest["panels"]):
        shutil.copyfile(source / panel["data"], target / panel["data"])
    _write_json(target / MANIFEST_FILE, _joined(manifest, target))
    return target


def refresh(target: Path) -> None:
    """Make anew what rests on all cells of a published folder: notes and counts, summary, figures, panels."""
    manifest, cells, rows = json.loads((target / MANIFEST_FILE).read_text()), current_cells(target), read_rows(target)
    attacks, slips = ([row for path in tables(target, one.file) for row in _read(path)] for one in (_ATTACKS, _SLIPS))
    summary = summarise(rows)
    fewest = int(summary["points"].min())
    notes = [note for cell in cells.values() for note in cell["notes"]]
    notes += [slip_note(slips), attack_note(rows_of_rule(attacks, manifest["rule"]))]
    manifest["notes"] = list(dict.fromkeys(filter(None, notes)))
    manifest["points"] = fewest
    manifest["reduced"] = is_reduced(manifest["paper"], cells.values(), fewest)
    manifest["panels"] = [panel for panel in manifest["panels"] if can_be_drawn(target, panel, rows, manifest["rule"])]
    _write_json(target / MANIFEST_FILE, manifest)
    write_summary(summary, target / SUMMARY_FILE)
    write_classes(target, rows)
    drawn = {path.name for path in (*draw(target), *draw_segmentation(target), *draw_panels(target))}
    drawn |= {panel["data"] for panel in manifest["panels"]}
    for path in (*target.glob("radius_*"), *target.glob("segmentation.p*"), *target.glob("panel_*")):
        if path.name not in drawn:
            path.unlink()


def _require_one_cell_a_setting(target: Path, cells: Sequence[CellEntry]) -> None:
    """Refuse a cell whose lines in a summary would be those of another: medians would be over points of both.

    One of another data set is refused too, as baselines and notes are of an experiment's own.
    """
    for other in read_cells(target).values():
        for cell in cells:
            if other["dataset"] != cell["dataset"]:
                raise RunError(
                    f"{target} has cells of {other['dataset']}, and the run is of {cell['dataset']}: give it a name of "
                    "its own (name=...)"
                )
            same = setting_of(other) == setting_of(cell) and version_of(other) == version_of(cell)
            if same and key_of(other) != key_of(cell):
                asked = json.loads(json.dumps(cell))
                differing = ", ".join(name for name in REQUEST if other[name] != asked[name])
                raise RunError(
                    f"{target} has {cell['model']} at scale {cell['scale']:.4g} with other {differing}: give the run a "
                    f"name of its own (name=...), or delete {target / CELLS_FOLDER / key_of(other)}"
                )


def _add_cell(
    target: Path, cell: CellEntry, new: Mapping[_Table, list[Row]], manifest: Mapping[str, Any], source: Path
) -> None:
    """Join the rows of a cell with those published, and say how they were made; ``cell.json`` comes last."""
    folder = target / CELLS_FOLDER / key_of(cell)
    before = read_cells(target).get(folder)
    if before is not None and not _is_same_model(before, cell):
        before = None
    folder.mkdir(parents=True, exist_ok=True)
    joined = {table: _join(table, _read(folder / table.file) if before else [], rows) for table, rows in new.items()}
    for table, rows in joined.items():
        stated = {_values(row, ("cell", *table.identity)) for row in joined[_ROWS]}
        _write(folder, table, [row for row in rows if _values(row, ("cell", *table.identity)) in stated])
    run = _run_of(cell, new[_ROWS], manifest, source)
    entry = {name: value for name, value in cell.items() if name not in run}
    if before is None:
        before = {"metrics": {}, "notes": [], "runs": []}
    entry["metrics"] = before["metrics"] | cell["metrics"]
    entry["notes"] = list(dict.fromkeys([*before["notes"], *cell["notes"]]))
    again = [_values(run, ("command", "points"))]
    entry["runs"] = [*(one for one in before["runs"] if _values(one, ("command", "points")) not in again), run]
    _write_json(folder / CELL_FILE, entry)


def _is_same_model(before: CellEntry, cell: CellEntry) -> bool:
    """Whether rows join: the same training gives the same model but for last digits; others are told by weights."""
    names = ("metric_weights",) if cell["training"] else ("metric_weights", "weights")
    return all(before["runs"][-1][name] == cell[name] for name in names)


def _run_of(cell: CellEntry, rows: Sequence[Row], manifest: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """How a run made rows of a cell; its request says the rest."""
    points = sorted({int(row["point"]) for row in rows})
    made_by = {name: manifest[name] for name in _MADE_BY}
    continued = _continued(read_record(source).get("runs", []), points, made_by)
    return {
        "points": {"start": points[0], "count": len(points)},
        **{name: cell[name] for name in ("folder", "weights", "metric_weights")},
        **made_by,
        **({"continued": continued} if continued else {}),
    }


def _continued(records: Sequence[dict[str, Any]], points: Sequence[int], made_by: Mapping[str, Any]) -> list[Any]:
    """Earlier runs whose evidence a run went on with, by other versions or on another machine, with their points.

    A point is of the last run that began without it: an earlier one that began without it as well did not finish it.
    """
    last = {point: place for place, record in enumerate(records) for point in record["points"]}
    found = []
    for place, record in enumerate(records):
        own = [point for point in points if last.get(point) == place]
        if own and any(record[name] != made_by[name] for name in ("versions", "hardware")):
            found.append({"points": own, **{name: record[name] for name in _MADE_BY}})
    return found


def _join(table: _Table, old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Rows of both by point, the newer where both have one."""
    rows = {_values(row, table.identity): row for row in (*old, *new)}
    return sorted(rows.values(), key=lambda row: int(row["point"]))


def _values(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def _joined(manifest: Mapping[str, Any], target: Path) -> dict[str, Any]:
    """The experiment's manifest: of the newest run, with what only earlier ones had."""
    path = target / MANIFEST_FILE
    before = json.loads(path.read_text()) if path.is_file() else {**manifest, "panels": []}
    panels = {panel["file"]: panel for panel in (*before["panels"], *manifest["panels"])}
    lines = {_values(line, ("metric", "h", "label")): line for line in (*before["baselines"], *manifest["baselines"])}
    return {
        **{name: value for name, value in manifest.items() if name != "cells"},
        "metrics": list(dict.fromkeys([*before["metrics"], *manifest["metrics"]])),
        "curve": next(
            (kind for kind in _OF_TRAININGS if kind in (before["curve"], manifest["curve"])), manifest["curve"]
        ),
        "units": before["units"] | manifest["units"],
        "baselines": list(lines.values()),
        "panels": list(filter(_may_be_handed_on, panels.values())),
    }


def _may_be_handed_on(panel: Mapping[str, Any]) -> bool:
    return bool(panel["publish"])


def _read(path: Path) -> list[Row]:
    """The rows of a table, as text; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(folder: Path, table: _Table, rows: Sequence[Row]) -> None:
    if rows:
        write_atomically(folder / table.file, csv_lines(rows, header=True, columns=table.columns))
    else:
        (folder / table.file).unlink(missing_ok=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2).encode() + b"\n")
