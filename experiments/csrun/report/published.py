"""Published cells: what `make publish` leaves in ``results/<experiment>/<budget>-<device>/``, and which of it is read.

::

    manifest.json              the experiment: title, metrics, curves, rule, notes
    summary.csv  radius_*      made from all cells
    segmentation.*  panel_*
    cells/<key>/cell.json      what the cell's numbers depend on, and the runs that made them
    cells/<key>/certificates.csv
    cells/<key>/attack.csv  unit_slip.csv  iou.csv  truth.csv  texts.csv

A cell's key is its request: all that a run can say of it before a model is trained. The digest of the weights is not
in it, because the same training gives other last digits on another machine; ``cell.json`` has it for each run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csrun.system.files import digest_of

CELLS_FOLDER = "cells"
CELL_FILE = "cell.json"

REQUEST: tuple[str, ...] = ("model", "dataset", "data", "training", "noise", "scale", "counts", "seed", "forward_block")
REQUEST += ("precision", "device", "method")
"""Keys of a cell in a manifest that make its request."""

SETTING = ("model", "dataset", "train", "noise", "scale")
"""Keys of a cell in a manifest, and columns of a table, by which a summary tells one cell's lines from another's."""

CellEntry = Mapping[str, Any]
"""An entry of a cell in a manifest."""


def key_of(cell: CellEntry) -> str:
    """The name of a cell's published folder, ``<model>-<dataset>-s<scale>-<digest of the request>``."""
    digest = digest_of({name: cell[name] for name in REQUEST})
    return f"{cell['model'].replace(':', '.')}-{cell['dataset']}-s{cell['scale']:.4g}-{digest}"


def request_at_any_version(cell: CellEntry) -> str:
    """Digest of the request without the versions of the method and of training."""
    training = _at_any_version(cell["training"] or {})
    request = {name: cell[name] for name in REQUEST if name != "method"}
    return digest_of(request | {"training": training})


def _at_any_version(training: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a training, and of the one that it starts from, without the version."""
    request = {name: value for name, value in training.items() if name != "version"}
    return request | {"start": _at_any_version(request["start"])} if "start" in request else request


def version_of(cell: CellEntry) -> tuple[int, int]:
    """The versions of the method and of training, in this order of weight."""
    return int(cell["method"]), int((cell["training"] or {}).get("version", 0))


def setting_of(cell: CellEntry) -> str:
    """Digest of what tells a cell's lines of a summary from another's."""
    return digest_of({name: cell[name] for name in SETTING})


def read_cells(folder: Path) -> dict[Path, dict[str, Any]]:
    """Every cell below an experiment's published folder, by its own folder; those of older methods included.

    Raises
    ------
    ValueError
        A ``cell.json`` is not one of ours; one line.
    """
    return {path.parent: _read_cell(path) for path in sorted((folder / CELLS_FOLDER).glob(f"*/{CELL_FILE}"))}


def _read_cell(path: Path) -> dict[str, Any]:
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
        if key_of(cell) != path.parent.name:
            raise ValueError(f"expected the cell {path.parent.name}, got {key_of(cell)}")
        setting_of(cell)
    except KeyError as error:
        raise ValueError(f"{path}: expected a cell with {error}, got none") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    return dict(cell)


def current_cells(folder: Path) -> dict[Path, dict[str, Any]]:
    """The cells to be read, by model, scale and training: of each setting those of the newest version there."""
    cells = read_cells(folder)
    newest = _newest((setting_of(cell), version_of(cell)) for cell in cells.values())
    current = [(path, cell) for path, cell in cells.items() if version_of(cell) == newest[setting_of(cell)]]
    return dict(sorted(current, key=lambda item: (item[1]["model"], item[1]["scale"], item[1]["train"], item[0])))


def is_published(folder: Path) -> bool:
    """Whether a folder holds published cells, rather than the tables of one run."""
    return (folder / CELLS_FOLDER).is_dir()


def tables(folder: Path, name: str) -> list[Path]:
    """The files that make one table of an experiment: the run's own, or those of the published cells."""
    folders = current_cells(folder) if is_published(folder) else [folder]
    return [path for path in (one / name for one in folders) if path.is_file()]


def is_reduced(paper: Mapping[str, int], cells: Iterable[CellEntry], points: int) -> bool:
    """Whether anything is below the paper's counts: draws, points or training."""
    reached = [{**cell["counts"], **(cell["training"] or {}), "points": points} for cell in cells]
    return any(count < paper[name] for one in reached for name, count in one.items() if name in paper)


def superseded(cells: Sequence[CellEntry], others: Iterable[CellEntry]) -> bool:
    """Whether each of the cells, of which there are some, has its request among the others by a newer version."""
    if not all(map(_has_request, cells)):
        return False
    newest = _newest((request_at_any_version(cell), version_of(cell)) for cell in others if _has_request(cell))
    versions = [(version_of(cell), newest.get(request_at_any_version(cell))) for cell in cells]
    return bool(cells) and all(other is not None and own < other for own, other in versions)


def _has_request(cell: CellEntry) -> bool:
    """Whether a manifest says all of a cell's request; earlier ones did not."""
    return all(name in cell for name in REQUEST)


def _newest(versions: Iterable[tuple[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    newest: dict[str, tuple[int, int]] = {}
    for name, version in versions:
        newest[name] = max(version, newest.get(name, version))
    return newest
