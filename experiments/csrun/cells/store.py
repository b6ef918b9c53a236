"""The folder of a cell: evidence of each point, the rows derived from it, how it was made.

::

    runs/<model>-<dataset>-s<sigma>-<digest>/
      points/00007.npz     evidence of one point, written whole or not at all: what resuming rests on
      means/00007.npz      the same for smoothing by expectation, where a run asked for it
      certificates.csv     rows, appended as points finish, in canonical order when a run ends
      centers.npz          center and base output of every point, for panels and audits
      run.json             identity of the cell, its grid, one block for each run

Rows are a function of the evidence. A run first rebuilds the table from it, so a torn line, a hand edit or another
grid is repaired by running the same command, and no forward pass is done twice.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from centersmooth import Metric
from centersmooth.evidence import DistanceSample, Evidence, kept_ranks
from centersmooth.expectation import MeanEvidence
from centersmooth.quantiles import QuantileTable
from csrun.cells.cell import Cell
from csrun.cells.rows import MeanResult, PointResult, Row, csv_lines, rows_of_mean, rows_of_point
from csrun.config import GridPoint
from csrun.system.files import remove_unfinished, write_atomically

Kept = TypeVar("Kept")


@dataclass
class CellStore:
    """Reads and writes the folder of one cell.

    Parameters
    ----------
    out : Path
        The folder that holds the cells.
    metrics : mapping of str to Metric
        All metrics of the cell's model.
    pairs : list of GridPoint
        What the present run asks for; what earlier runs asked for is kept besides.

    Attributes
    ----------
    repaired : list of str
        A line for each file that was found damaged.
    """

    out: Path
    cell: Cell
    metrics: Mapping[str, Metric]
    pairs: list[GridPoint]
    output_range: tuple[float, float] | None

    def __post_init__(self) -> None:
        self.folder = self.out / self.cell.name
        self._points = self.folder / "points"
        self._means = self.folder / "means"
        self._points.mkdir(parents=True, exist_ok=True)
        self.repaired: list[str] = []
        remove_unfinished(self.folder)
        self.pairs = sorted({*self.pairs, *self._earlier_pairs()})

    def done(self) -> set[int]:
        """Points whose evidence is complete."""
        return {int(path.stem) for path in self._points.glob("[0-9]*.npz")}

    def done_means(self) -> set[int]:
        """Points whose evidence on the mean is complete."""
        return {int(path.stem) for path in self._means.glob("[0-9]*.npz")}

    def load(self, point: int) -> PointResult | None:
        """The evidence of a point; None, and the file removed, where it is unreadable."""
        return self._read(self._path(point), lambda arrays: self._unpack(point, arrays))

    def load_mean(self, point: int) -> MeanResult | None:
        """The same on the mean."""
        return self._read(self._mean_path(point), lambda arrays: self._unpack_mean(point, arrays))

    def _read(self, path: Path, unpack: Callable[[dict[str, np.ndarray]], Kept]) -> Kept | None:
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return unpack(dict(arrays))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
            path.unlink(missing_ok=True)
            self.repaired.append(f"{path}: unreadable, removed; the point is certified again")
            return None

    def save(self, result: PointResult) -> None:
        """Keep the evidence of a point, then append its rows."""
        if not result.failure:
            buffer = io.BytesIO()
            np.savez(buffer, **self._pack(result))
            write_atomically(self._path(result.point), buffer.getvalue())
        with open(self._table, "ab") as table:
            table.write(csv_lines(self.rows_of(result), header=False))
            table.flush()
            os.fsync(table.fileno())

    def save_mean(self, result: MeanResult) -> None:
        """Keep the evidence of a point on the mean; its rows are there after the next `rebuild`."""
        self._means.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **_pack_mean(result))
        write_atomically(self._mean_path(result.point), buffer.getvalue())

    def rebuild(self, failed: Iterable[PointResult] = ()) -> list[Row]:
        """Write the whole table in canonical order from the evidence (and the run's failures); returns its rows."""
        results = {point: self.load(point) for point in self.done()} | {result.point: result for result in failed}
        kept = [results[point] for point in sorted(results)]
        means = self.done_means()
        rows = []
        for result in kept:
            if result is not None:
                rows += self.rows_of(result)
                rows += self.rows_of_mean(result.point) if result.point in means else []
        self._write_table(csv_lines(rows, header=True))
        self._write_centers([result for result in kept if result is not None and not result.failure])
        return rows

    def _write_table(self, content: bytes) -> None:
        """Replace the table; a line of it that no evidence bears out, unless it says of a failure, is reported."""
        header, *lines = content.splitlines()
        before = self._table.read_bytes().splitlines() if self._table.is_file() else []
        strange = {line for line in before[1:] if b",failed," not in line} - set(lines)
        if before[:1] == [header] and strange:
            self.repaired.append(f"{self._table}: {len(strange)} lines that no evidence bears out, written anew")
        write_atomically(self._table, content)

    def rows_of(self, result: PointResult) -> list[Row]:
        """The rows of one point for the whole grid of the cell."""
        return rows_of_point(result, self.cell, self.metrics, self.pairs, self.output_range)

    def rows_of_mean(self, point: int) -> list[Row]:
        """The rows of the mean at one point; none where its evidence is unreadable."""
        result = self.load_mean(point)
        if result is None or self.output_range is None:
            return []
        return rows_of_mean(result, self.cell, self.metrics, self.pairs, self.output_range)

    def record(self, block: Mapping[str, Any]) -> None:
        """Add a block on the present run to ``run.json``."""
        record = self._read_record()
        record["cell"] = asdict(self.cell)
        record["grid"] = [asdict(pair) for pair in self.pairs]
        record.setdefault("runs", []).append(dict(block))
        write_atomically(self.folder / "run.json", json.dumps(record, indent=2).encode() + b"\n")

    @property
    def _table(self) -> Path:
        return self.folder / "certificates.csv"

    def _path(self, point: int) -> Path:
        return self._points / f"{point:05d}.npz"

    def _mean_path(self, point: int) -> Path:
        return self._means / f"{point:05d}.npz"

    def _read_record(self) -> dict[str, Any]:
        try:
            record = json.loads((self.folder / "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _earlier_pairs(self) -> list[GridPoint]:
        """The grid that earlier runs asked for; none where the record is not one of ours."""
        try:
            return [
                GridPoint(*(float(pair[key]) for key in ("eps", "h", "sigma"))) for pair in self._read_record()["grid"]
            ]
        except (KeyError, TypeError, ValueError):
            return []

    def _write_centers(self, results: list[PointResult]) -> None:
        arrays: dict[str, np.ndarray] = {"points": np.array([result.point for result in results], dtype=np.int64)}
        if results:
            for name in self.metrics:
                own = [result.evidence[name] for result in results]
                arrays[f"center.{name}"] = torch.stack([evidence.center for evidence in own]).numpy()
                free = [evidence.free.center for evidence in own if evidence.free is not None]
                if free:
                    arrays[f"free.{name}"] = torch.stack(free).numpy()
            arrays["base"] = torch.stack([next(iter(r.evidence.values())).base for r in results]).numpy()
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(self.folder / "centers.npz", buffer.getvalue())

    def _pack(self, result: PointResult) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {
            "seconds": np.array(result.seconds),
            "source": np.array(result.source),
            "base": next(iter(result.evidence.values())).base.cpu().numpy(),
        }
        for name, evidence in result.evidence.items():
            arrays |= _pack_evidence(name, evidence) | _pack_table(f"{name}.spread", evidence.spread)
            if (free := evidence.free) is not None:
                arrays |= _pack_evidence(f"{name}.free", free) | _pack_table(f"{name}.free.blocks", free.blocks)
        return arrays

    def _unpack(self, point: int, arrays: dict[str, np.ndarray]) -> PointResult:
        evidence = {}
        for name, metric in self.metrics.items():
            spread = _unpack_table(f"{name}.spread", arrays)
            evidence[name] = self._unpack_evidence(name, arrays, spread)
            if self.cell.center == "free" and metric.source.has_means:
                free = self._unpack_evidence(f"{name}.free", arrays, spread)
                blocks = _unpack_table(f"{name}.free.blocks", arrays)
                evidence[name] = replace(evidence[name], free=replace(free, blocks=blocks))
        return PointResult(point, str(arrays["source"]), float(arrays["seconds"]), evidence)

    def _unpack_evidence(self, name: str, arrays: dict[str, np.ndarray], spread: QuantileTable) -> Evidence:
        m, far = self.cell.budget.m, arrays[f"{name}.far"].astype(np.float64)
        error, r_center = arrays[f"{name}.numbers"].tolist()
        return Evidence(
            center=torch.from_numpy(arrays[f"{name}.center"]),
            base=torch.from_numpy(arrays["base"]),
            error=error,
            r_center=r_center,
            inside=int(arrays[f"{name}.inside"]),
            far=DistanceSample(m, kept_ranks(m), far) if len(far) else None,
            spread=spread,
        )

    def _unpack_mean(self, point: int, arrays: dict[str, np.ndarray]) -> MeanResult:
        evidence = unpack_means(arrays, self.metrics, self.cell.budget.m)
        return MeanResult(point, str(arrays["source"]), float(arrays["seconds"]), evidence)


def unpack_means(arrays: Mapping[str, np.ndarray], metrics: Iterable[str], m: int) -> dict[str, MeanEvidence]:
    """Of a file below ``means/`` what ``m`` draws said about the mean, under those of the metrics that have one."""
    center, base = torch.from_numpy(arrays["center"]), torch.from_numpy(arrays["base"])
    evidence = {}
    for name in metrics:
        if f"{name}.distances" in arrays:
            distances = DistanceSample(m, arrays["ranks"], arrays[f"{name}.distances"])
            error, reach = arrays[f"{name}.numbers"].tolist()
            evidence[name] = MeanEvidence(center, base, error, distances, reach)
    return evidence


def _pack_evidence(name: str, evidence: Evidence) -> dict[str, np.ndarray]:
    """All that is said about one center."""
    return {
        f"{name}.center": evidence.center.cpu().numpy(),
        f"{name}.numbers": np.array([evidence.error, evidence.r_center]),
        f"{name}.inside": np.array(evidence.inside),
        f"{name}.far": _shortest(evidence.far.values) if evidence.far is not None else np.zeros(0),
    }


def _pack_table(name: str, table: QuantileTable) -> dict[str, np.ndarray]:
    return {name: table.values, f"{name}_counts": np.array([table.candidates, table.others])}


def _unpack_table(name: str, arrays: dict[str, np.ndarray]) -> QuantileTable:
    candidates, others = arrays[f"{name}_counts"].tolist()
    return QuantileTable(candidates, others, arrays[name])


def _pack_mean(result: MeanResult) -> dict[str, np.ndarray]:
    first = next(iter(result.evidence.values()))
    arrays: dict[str, np.ndarray] = {
        "seconds": np.array(result.seconds),
        "source": np.array(result.source),
        "center": first.center.cpu().numpy(),
        "base": first.base.cpu().numpy(),
        "ranks": first.distances.ranks,
    }
    for name, evidence in result.evidence.items():
        arrays[f"{name}.numbers"] = np.array([evidence.error, evidence.reach])
        arrays[f"{name}.distances"] = evidence.distances.values
    return arrays


def _shortest(values: np.ndarray) -> np.ndarray:
    """In float32 where that loses nothing."""
    single = values.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), values) else values
