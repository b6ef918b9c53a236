"""The folder of a cell: evidence of each point, the rows derived from it, how it was made.

::

    runs/<model>-<dataset>-s<scale>-<digest>/
      evidence/<certifier>.<metric>-v<version>/00007.npz
                           of one point, written whole or not at all: what resuming rests on
      certificates.csv     rows, appended as points finish, in canonical order when a run ends
      answers.npz          answers of every certifier and what each has of the base output, for panels and audits
      run.json             identity of the cell, its grid, one block for each run

Rows are a function of the evidence. A run first rebuilds the table from it, so a torn line, a hand edit or another
grid is repaired by running the same command, and no forward pass is done twice. Each certifier has a version of its
own, so that a new one, or a change of one, throws nothing else away.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from centersmooth import Noise
from centersmooth.certifiers import Certifier, pack, unpack
from centersmooth.gathering import Setting
from csrun.cells.cell import Cell
from csrun.cells.certify import PointResult
from csrun.cells.rows import Row, csv_lines, rows_of
from csrun.config import GridPoint
from csrun.registry import key_of
from csrun.system.files import archive_of, remove_unfinished, write_atomically

_RECORD_FILE = "run.json"

UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a cell's folder: its identity, grid and runs; empty where it cannot be read."""
    try:
        record = json.loads((folder / _RECORD_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


@dataclass
class CellStore:
    """Reads and writes the folder of one cell.

    Parameters
    ----------
    out : Path
        The folder that holds the cells.
    certifiers : mapping of str to Certifier
        All that the cell can have, by key.
    pairs : list of GridPoint
        The grid of the present run; what earlier runs asked for is kept besides.
    law_at : callable
        The smoothing law bound to the input of a point.
    target_at : callable
        The true class of a point, or None; called for certifiers whose rows say it.

    Attributes
    ----------
    repaired : list of str
        A line for each file that was found damaged.
    """

    out: Path
    cell: Cell
    certifiers: Mapping[str, Certifier]
    pairs: list[GridPoint]
    output_range: tuple[float, float] | None
    law_at: Callable[[int], Noise]
    target_at: Callable[[int], int | None]

    def __post_init__(self) -> None:
        self.folder = self.out / self.cell.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.repaired: list[str] = []
        remove_unfinished(self.folder)
        self.pairs = sorted({*self.pairs, *self._earlier_pairs()})

    def done(self, key: str) -> set[int]:
        """Points whose evidence for this certifier is there."""
        return {int(path.stem) for path in self._folder(key).glob("[0-9]*.npz")}

    def load(self, key: str, point: int) -> Any | None:
        """The evidence of a point for a certifier; None, and the file removed, where it is unreadable."""
        kept = self._read(key, point)
        return None if kept is None else kept.evidence[key]

    def save(self, result: PointResult) -> None:
        """Keep the evidence of a point, then append its rows."""
        for key, evidence in result.evidence.items():
            self._folder(key).mkdir(parents=True, exist_ok=True)
            facts = {"seconds": np.array(result.seconds), "source": np.array(result.source)}
            write_atomically(self._path(key, result.point), archive_of({**pack(evidence), **facts}))
        with open(self._table, "ab") as table:
            table.write(csv_lines(self._rows_of(result), header=False))
            table.flush()
            os.fsync(table.fileno())

    def rebuild(self, failed: Iterable[PointResult] = ()) -> list[Row]:
        """Write the whole table in canonical order from the evidence (and the run's failures); returns its rows."""
        failures = {result.point: replace(result, evidence={}) for result in failed}  # evidence there is has been saved
        kept = {key: self._read_all(key) for key in self.certifiers}
        results = []
        for point in sorted({*failures, *(point for found in kept.values() for point in found)}):
            own = [found[point] for found in kept.values() if point in found]
            results += [*own, failures[point]] if point in failures else own
        order = list(self.certifiers)
        rows = sorted((row for result in results for row in self._rows_of(result)), key=lambda row: _place(row, order))
        self._write_table(csv_lines(rows, header=True))
        self._write_answers(kept)
        return rows

    def record(self, block: Mapping[str, Any] | None = None) -> None:
        """Keep the grid in ``run.json``, and a block on the present run where it computes something."""
        record = read_record(self.folder)
        record["cell"] = asdict(self.cell)
        record["grid"] = [asdict(pair) for pair in self.pairs]
        record.setdefault("runs", []).extend([dict(block)] if block else [])
        write_atomically(self.folder / _RECORD_FILE, json.dumps(record, indent=2).encode() + b"\n")

    def _read_all(self, key: str) -> dict[int, PointResult]:
        """All that is readable for one certifier, by point."""
        found = {point: self._read(key, point) for point in sorted(self.done(key))}
        return {point: result for point, result in found.items() if result is not None}

    def _read(self, key: str, point: int) -> PointResult | None:
        path = self._path(key, point)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = dict(file)
            evidence = unpack(self.certifiers[key].evidence, arrays)
            return PointResult(point, str(arrays["source"]), float(arrays["seconds"]), {key: evidence}, {})
        except UNREADABLE:
            path.unlink(missing_ok=True)
            self.repaired.append(f"{path}: unreadable, removed; the point is certified again")
            return None

    def _rows_of(self, result: PointResult) -> list[Row]:
        """The rows of one point for the whole grid of the cell."""
        setting = self.setting(result.point)
        return rows_of(result, self.cell, self.certifiers, self.pairs, setting, self.target_at)

    def setting(self, point: int) -> Setting:
        """The setting in which a point is certified."""
        return Setting(self.law_at(point), self.cell.budget, self.output_range, self.cell.forward_block)

    def _write_table(self, content: bytes) -> None:
        """Replace the table; a line of it that no evidence bears out, unless it says of a failure, is reported."""
        header, *lines = content.splitlines()
        before = self._table.read_bytes().splitlines() if self._table.is_file() else []
        strange = {line for line in before[1:] if b",failed," not in line} - set(lines)
        if before[:1] == [header] and strange:
            self.repaired.append(f"{self._table}: {len(strange)} lines that no evidence bears out, written anew")
        write_atomically(self._table, content)

    @property
    def _table(self) -> Path:
        return self.folder / "certificates.csv"

    def _folder(self, key: str) -> Path:
        return self.folder / "evidence" / f"{key.replace(':', '.')}-v{self.certifiers[key].version}"

    def _path(self, key: str, point: int) -> Path:
        return self._folder(key) / f"{point:05d}.npz"

    def _earlier_pairs(self) -> list[GridPoint]:
        """The grid that earlier runs asked for; none where the record is not one of ours."""
        try:
            return [
                GridPoint(*(float(pair[key]) for key in ("eps", "h", "scale")))
                for pair in read_record(self.folder)["grid"]
            ]
        except (KeyError, TypeError, ValueError):
            return []

    def _write_answers(self, kept: Mapping[str, Mapping[int, PointResult]]) -> None:
        """Answers by the keys of the certifiers, each with its ``<key>.points`` and ``<key>.base``."""
        arrays: dict[str, np.ndarray] = {}
        for key, found in kept.items():
            certifier = self.certifiers[key]
            answers = {
                point: certifier.answer(result.evidence[key], self.setting(point), certifier.rules[-1])
                for point, result in found.items()
            }
            if answers:
                arrays[f"{key}.points"] = np.array(list(answers), dtype=np.int64)
                arrays[key] = torch.stack([one.answer for one in answers.values()]).numpy()
                arrays[f"{key}.base"] = torch.stack([one.base for one in answers.values()]).numpy()
        write_atomically(self.folder / "answers.npz", archive_of(arrays, compressed=False))


def _place(row: Row, order: Sequence[str]) -> tuple[object, ...]:
    """Sort key of a row: rows of one pass are in order already."""
    return (int(row["point"]), order.index(key_of(row["certifier"], row["metric"], row["rule"])))
