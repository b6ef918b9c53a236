"""The executor on Ray against the local one: the same cell, its model trained before, on the cores of this machine.

Compared in CPU seconds of all processes, as neighbours take from the clock of two workers more than from that of one.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cases import Row, row
from rich.console import Console

from csrun.cells.run import CellRun
from csrun.config import Config
from csrun.executors import executor_of, run_locally
from csrun.plan import make_plan
from csrun.system.progress import Display

WORKERS = 2
LONG = ("points.count=16", "n=2000", "m=10000")
SHORT = ("points.count=48", "n=800", "m=900", "delta=0.15")
ROUNDS = 3


@dataclass(frozen=True)
class _Timed:
    """Of certifying a cell: seconds on the clock, CPU seconds of this process and of all, seconds inside the points."""

    wall: float
    driver: float
    cpu: float
    inside: float


def executors(compose: Callable[..., Config]) -> Iterator[Row]:
    """Two workers against this process, on points of seconds; and what a task costs, from short ones."""
    with TemporaryDirectory() as folder:
        on_ray = (f"out={folder}/first", "executor=ray", f"ray.in_flight={2 * WORKERS}", "workers=1")
        on_ray += ("grid.eps=[0.4]", "grid.h=[1]")
        config = compose("experiment=tv_digits", "budget=smoke", *on_ray, "points.count=1")
        executor_of(config)  # prepares what Ray reads when it is imported
        from csrun.executors.on_ray import Cluster, connected
        from csrun.executors.tasks import Tasks

        def remotely(cells: list[CellRun], display: Display) -> None:
            Tasks(cells, display, Cluster(cells[0].plan.config.ray, display)).carry_out()

        started = time.perf_counter()
        with connected(config.ray):
            up = time.perf_counter() - started
            _certify(config, remotely)
            first = time.perf_counter() - started
            yield from _rows(lambda *more: compose("experiment=tv_digits", "budget=smoke", *on_ray, *more), remotely)
        note = "to a cluster of this machine's own; to the first point, its model trained: workers import PyTorch"
        yield row("ray start", "tv_digits, smoke", "wall s", up, first, None, note)


def _rows(compose: Callable[..., Config], remotely: Callable[..., None]) -> Iterator[Row]:
    local, ray = _in_turns(compose(*LONG), remotely)
    points = compose(*LONG).points.count
    busy = ray.inside / ray.wall / WORKERS
    note = (
        f"all processes; workers inside a point {100 * busy:.0f}% of the time; on the clock {ray.wall:.3g} and "
        f"{local.wall:.3g} s at load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    yield row(f"ray {WORKERS} workers", f"points={points}", "CPU s", ray.cpu, local.cpu, None, note)
    local, ray = _in_turns(compose(*SHORT), remotely)
    points = compose(*SHORT).points.count
    around = 1e3 * (WORKERS * ray.wall - ray.inside) / points
    note = f"of the driver, beside {around:.3g} ms in which a worker waits; points of {ray.inside / points:.2g} s"
    yield row("ray a task", f"points={points}", "CPU ms", 1e3 * ray.driver / points, None, None, note)


def _in_turns(config: Config, remotely: Callable[..., None]) -> tuple[_Timed, _Timed]:
    """Medians of both, round by round."""
    rounds = [(_certify(config, run_locally), _certify(config, remotely)) for _ in range(ROUNDS)]
    local, ray = zip(*rounds, strict=True)
    return _median(local), _median(ray)


def _median(timed: tuple[_Timed, ...]) -> _Timed:
    return _Timed(*(statistics.median(values) for values in zip(*map(astuple, timed), strict=True)))


def _certify(config: Config, execute: Callable[..., None]) -> _Timed:
    """Carry out the cell anew, whatever was certified before; the checkpoint stays."""
    plan, display = make_plan(config), Display(Console(file=io.StringIO()))
    for folder in Path(config.out).glob("autoencoder-*"):
        shutil.rmtree(folder)
    cells = [CellRun(plan, cell, display, {}) for cell in plan.cells]
    before = (time.perf_counter(), time.process_time(), _cpu_of_all())
    execute(cells, display)
    after = (time.perf_counter(), time.process_time(), _cpu_of_all())
    seconds = {(row["point"], row["seconds"]) for cell in cells for row in cell.done.rows}
    spent = (late - early for early, late in zip(before, after, strict=True))
    return _Timed(*spent, sum(float(value) for _, value in seconds))


def _cpu_of_all() -> float:
    """CPU seconds of this process and all that descend from it; those of a process that ended are lost."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)], ticks[int(stat.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    own = {os.getpid()}
    while more := {process for process, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(ticks[process] for process in own) / os.sysconf("SC_CLK_TCK")
