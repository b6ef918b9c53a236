"""Cells carried out as tasks of worker processes: trainings and points become tasks, the driver alone reads and writes.

A training is a task that the points of its cell wait for, as a cell is known by the digest of its weights. What
certifying a cell takes is packed once a cell and unpacked once a worker; inputs travel with the task, so workers need
no data. Users' own modules are shipped by value.

A point's evidence is a function of the cell and the point alone, so which worker computes it, how many there are and
in which order they finish changes no row.
"""

from __future__ import annotations

import copyreg
import dataclasses
import io
import sys
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import torch

from csrun.cells.certify import Point, PointCertifier
from csrun.cells.run import CellRun, waiting
from csrun.data import DataSet
from csrun.data.sources import ArraySource
from csrun.errors import RunError, first_line
from csrun.models import ModelSpec, model_spec
from csrun.models.precision import require_float32
from csrun.system.locks import held
from csrun.system.memory import keep_freed_memory
from csrun.system.progress import Display
from csrun.training.checkpoints import Report, Training, keep_checkpoint, train_checkpoint

RETRIES = 3
"""How often a task is begun again after its worker was lost, before its points count as failed."""

CELLS_A_WORKER = 2
"""Unpacked cells a worker process keeps: the one that ends and the one that begins."""


# Dataclasses tell kinds of fields by the identity of these objects. A class shipped by value would have copies, and
# `dataclasses.fields` would find none of its fields; by name they are the same everywhere.
copyreg.pickle(type(dataclasses._FIELD), lambda kind: kind.name)  # type: ignore[attr-defined]


class WorkerLostError(Exception):
    """A task that was given up because its worker was lost again and again."""

    def __init__(self, losses: int, last: BaseException) -> None:
        super().__init__(
            f"its worker was lost {losses} times, the last time by {type(last).__name__}: out of memory or a crash"
        )


class Package(Hashable, Protocol):
    """Bytes that the driver stored once and workers fetch; hashable, and sent to them in their stead."""

    def fetch(self) -> bytes: ...


class BackEnd(Protocol):
    """Back end that runs tasks.

    Attributes
    ----------
    name : str
        For the progress display, as in "on Ray".
    points_a_task : int
    has_files : bool
        Whether its workers have the files of this machine, so that a training can leave its state there.
    """

    name: str
    points_a_task: int
    has_files: bool

    def in_flight(self) -> int:
        """Number of tasks to have under way at once."""
        ...

    def store(self, packed: bytes) -> Package: ...

    def discard(self, package: Package) -> None:
        """Free what no task asks for any more."""
        ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Hashable:
        """Have a function called on a worker, which `begin` has prepared; returns the task."""
        ...

    def ended(self, under_way: Sequence[Any]) -> Sequence[Any]:
        """Wait until tasks have ended; returns those."""
        ...

    def result(self, task: Any) -> Any:
        """The value of an ended task; its own error as it was raised there.

        Raises
        ------
        WorkerLostError
        """
        ...


class Tasks:
    """The work of a run that is to be done, and what is under way.

    Parameters
    ----------
    cells : sequence of CellRun
        None of them opened. Each is closed as soon as it misses no point.
    """

    def __init__(self, cells: Sequence[CellRun], display: Display, back_end: BackEnd) -> None:
        self._cells, self._display, self._back_end = cells, display, back_end
        self._plan, self._config = cells[0].plan, cells[0].plan.config
        self._waiting = list(cells)
        self._open: dict[CellRun, tuple[Package, int]] = {}  # with the number of points it still misses
        self._batches: deque[tuple[CellRun, list[int]]] = deque()
        self._to_train: dict[Training, ExitStack] = {}  # not begun yet, with the locks of their checkpoints
        self._trainings: dict[Hashable, tuple[Training, ExitStack]] = {}
        self._points: dict[Hashable, tuple[CellRun, list[int]]] = {}

    def carry_out(self) -> None:
        """Train, certify and close every cell."""
        self._ship_own_modules()
        with ExitStack() as locks:
            self._prepare_trainings(locks)
            while self._waiting or self._batches or self._points:
                self._fill()
                for task in self._back_end.ended([*self._trainings, *self._points]):
                    if task in self._trainings:
                        self._keep_checkpoint(task)
                    else:
                        self._take(task)

    def _ship_own_modules(self) -> None:
        """Users' modules go to the workers with what they made."""
        for name in (*self._config.models, *self._config.metrics, *self._config.certifiers):
            if ":" in name:
                cloudpickle.register_pickle_by_value(sys.modules[name.partition(":")[0]])

    def _prepare_trainings(self, locks: ExitStack) -> None:
        """Hold each checkpoint that is missing, until it is kept, and begin to train.

        Locks are taken in the order of their names, and before any cell's, so that two runs that wait for each other's
        (``wait=true``) cannot both wait for ever.
        """
        missing = self._plan.to_train()
        paths = {training: training.path(self._plan.out) for training in missing}
        holding: dict[Training, ExitStack] = {}
        for training, path in sorted(paths.items(), key=lambda item: item[1]):
            holding[training] = locks.enter_context(ExitStack())
            what, say = f"the checkpoint {path.name}", waiting(self._plan, self._display)
            holding[training].enter_context(held(path.with_suffix(".lock"), what, say))
            if path.is_file():  # another run was faster
                holding.pop(training).close()
        if not holding:
            return
        self._to_train = {training: holding[training] for training in missing if training in holding}
        self._training_data = self._back_end.store(pack(_for_training(self._plan.data, list(self._to_train))))
        label = f"{len(holding)} training{'s' * (len(holding) != 1)} {self._back_end.name}"
        self._display.stage(label, sum(training.passes for training in self._to_train))
        self._begin_trainings()

    def _begin_trainings(self) -> None:
        """One task for each training whose start is there, in the order of the cells."""
        specs = {cell.training: cell.spec for cell in self._plan.cells}
        for training in list(self._to_train):
            before = training.start.path(self._plan.out) if training.start else None
            if before is not None and not before.is_file():
                continue
            spec = specs.get(training) or model_spec(training.model)
            beside = training.path(self._plan.out).absolute() if self._back_end.has_files else None
            start = before.read_bytes() if before else None
            task = self._back_end.submit(train, training, spec, self._training_data, beside, start)
            self._trainings[task] = training, self._to_train.pop(training)

    def _keep_checkpoint(self, task: Hashable) -> None:
        training, lock = self._trainings.pop(task)
        try:
            state, record, lines = self._back_end.result(task)
        except WorkerLostError as error:
            raise RunError(f"training {training.model} failed: {error}") from error
        for line in lines:
            self._display.say(line)
        keep_checkpoint(training.path(self._plan.out), state, record)
        lock.close()
        self._display.advance(training.passes)
        self._begin_trainings()

    def _fill(self) -> None:
        """Keep as many tasks under way as the back end asks for."""
        while len(self._points) < self._back_end.in_flight() and (batch := self._next_batch()) is not None:
            cell, indices = batch
            points, (certifier, _) = pack([cell.point(index) for index in indices]), self._open[cell]
            task = self._back_end.submit(certify, certifier, points, self._config.device)
            self._points[task] = batch

    def _next_batch(self) -> tuple[CellRun, list[int]] | None:
        """Next points of an open cell, else of the next cell whose checkpoint is there."""
        while not self._batches:
            training = {*self._to_train, *(training for training, _ in self._trainings.values())}
            cell = next((cell for cell in self._waiting if cell.cell_plan.training not in training), None)
            # Who waits for a cell must hold no other, or two runs could wait for each other for ever.
            if cell is None or (self._config.wait and self._open):
                return None
            self._waiting.remove(cell)
            self._begin_cell(cell)
        return self._batches.popleft()

    def _begin_cell(self, cell: CellRun) -> None:
        cell.open()
        if not cell.missing:
            cell.close()
            return
        self._open[cell] = self._back_end.store(pack(cell.certifier)), len(cell.missing)
        size = self._back_end.points_a_task
        chunks = (cell.missing[start : start + size] for start in range(0, len(cell.missing), size))
        self._batches.extend((cell, chunk) for chunk in chunks)
        under_way = sum(owner.passes(index) for owner, indices in self._points.values() for index in indices)
        self._display.stage(f"{cell.label}, {self._back_end.name}", under_way + sum(map(cell.passes, cell.missing)))

    def _take(self, task: Hashable) -> None:
        cell, indices = self._points.pop(task)
        try:
            results, lines, batch_size = unpack(self._back_end.result(task), "cpu")
        except WorkerLostError as error:
            results, lines = [cell.point(index).failed(str(error)) for index in indices], []
        else:
            cell.certifier.batch_size = min(cell.certifier.batch_size, batch_size)
        for line in lines:
            self._display.say(line)
        for index, result in zip(indices, results, strict=True):
            cell.take(result)
            self._display.advance(cell.passes(index))
        certifier, left = self._open[cell]
        self._open[cell] = certifier, left - len(indices)
        if left == len(indices):
            del self._open[cell]
            self._back_end.discard(certifier)
            cell.close()


def _for_training(data: DataSet, trainings: Sequence[Training]) -> DataSet:
    """The examples of a run's trainings and one for the shape: in memory, so that workers need no files."""
    used, split = range(trainings[0].images), data.training_split
    labelled = any(training.learns == "labels" for training in trainings)
    train = ArraySource("train", split.take(used), data.targets(split, used).clone if labelled else None)
    return replace(data, train=train, test=ArraySource("test", data.test.take([0])))


def pack(content: object) -> bytes:
    """Serialise to bytes that may be read on another device.

    Raises
    ------
    RunError
        Something in the user's own model, metric or certifier cannot leave its process.
    """
    packed = io.BytesIO()
    try:
        torch.save(content, packed, pickle_module=cloudpickle)
    except Exception as error:  # pickling calls what users wrote
        raise RunError(
            f"the model, a metric or a certifier cannot be sent to a worker ({first_line(error)}): "
            "use executor=local workers=1"
        ) from error
    return packed.getvalue()


def unpack(packed: bytes, device: str) -> Any:
    """The content that was packed, its tensors on ``device``.

    The bytes come from the same run, whose code is run here anyway.
    """
    return torch.load(io.BytesIO(packed), map_location=device, weights_only=False)


def begin(threads: int) -> None:
    """On a worker, before its tasks: what `csrun.runner.run` does in its own process."""
    keep_freed_memory()
    require_float32()
    torch.set_num_threads(threads)


def train(
    training: Training, spec: ModelSpec, data: Package, path: Path | None, start: bytes | None = None
) -> tuple[bytes, bytes, list[str]]:
    """On a worker: a checkpoint, its record, and what there is to say.

    Parameters
    ----------
    path : Path or None
        Where the driver will keep the checkpoint, beside which the state of the training lies; None without its files.
    start : bytes, optional
        The checkpoint of the training that it starts from.
    """
    lines: list[str] = []
    report, examples = Report(lines.append), unpack(data.fetch(), "cpu")
    return *train_checkpoint(training, spec, examples, lambda images: None, path, report, start), lines


def certify(cell: Package, packed_points: bytes, device: str) -> bytes:
    """On a worker: the results of some points, what there is to say about them, and the batch that fits."""
    certifier = _certifier(cell, device)
    lines: list[str] = []
    points: list[Point] = unpack(packed_points, device)
    results = [certifier.certify(point, lambda passes: None, lines.append) for point in points]
    return pack((results, lines, certifier.batch_size))


@lru_cache(maxsize=CELLS_A_WORKER)
def _certifier(cell: Package, device: str) -> PointCertifier:
    """Made once a worker process."""
    certifier: PointCertifier = unpack(cell.fetch(), device)
    return certifier
