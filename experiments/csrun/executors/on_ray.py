"""Cells carried out on a Ray cluster: trainings and points become tasks, the driver alone reads and writes.

A training is a task that the points of its cell wait for, as a cell is known by the digest of its weights. Its points
are tasks of ``ray.points_a_task`` points, of all cells in turn, at most ``ray.in_flight`` at once. What certifying a
cell takes goes to the object store once and is unpacked once a worker process; inputs travel with the task, so workers
need no data. A task whose worker is lost is given to another, `RETRIES` times.

A point's evidence is a function of the cell and the point alone, so which worker computes it, how many there are and
in which order they finish changes no row. The number of threads does, in last digits: each task has ``ray.cpus``.
"""

from __future__ import annotations

import io
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import ray
import torch
from ray import ObjectRef, cloudpickle
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from csrun.cells.certify import Certifier, Point
from csrun.cells.run import CellRun
from csrun.config import Config, RayConfig
from csrun.data import ArraySource, DataSet
from csrun.errors import RunError, first_line
from csrun.models import ModelSpec
from csrun.models.precision import require_float32
from csrun.plan import TRAINING_WEIGHT
from csrun.system.locks import held
from csrun.system.memory import keep_freed_memory
from csrun.system.progress import Display
from csrun.training.checkpoints import Training, keep_checkpoint, train_checkpoint

RETRIES = 3
"""How often a task is begun again on another worker before its points count as failed."""

LOST = (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)

ANSWER = 10.0
"""Seconds within which a cluster's machine has to accept a connection."""

PATIENCE = 15.0
"""Seconds without the end of any task after which a look is taken at whether a node is left to run one."""

CELLS_A_WORKER = 2
"""Unpacked cells a worker process keeps: the one that ends and the one that begins."""


def run_on_ray(cells: Sequence[CellRun], display: Display) -> None:
    """Certify the points of all cells on a cluster, then close the cells in order."""
    config = cells[0].plan.config
    with _threads(config.ray.cpus), connected(config.ray):
        Tasks(cells, display, config).carry_out()
        for cell in cells:
            cell.close()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads in the driver as in a task: what it computes of a cell's identity depends on them too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def connected(settings: RayConfig, show_workers: bool = False) -> Iterator[None]:
    """Be a driver of the cluster, and show what its workers print if asked; a cluster of this process ends with it."""
    own = {"include_dashboard": False} if settings.address == "local" else {}
    before = signal.getsignal(signal.SIGTERM)
    _require_answer(settings.address)
    try:
        ray.init(settings.address, log_to_driver=show_workers, logging_level="error", **own)
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise RunError(_no_cluster(settings.address, error)) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray put its own there
        if own and ray.util.get_node_ip_address() != "127.0.0.1":
            raise RunError("ray was imported before the run and would open ports to others: use ray.address=auto")
        yield
    except RayError as error:
        raise RunError(
            f"the Ray cluster went away ({first_line(error)}); what is finished is kept: the same command continues"
        ) from error
    except SystemError as error:  # what a signal's handler raised while Ray waited is the cause of one
        raise error.__cause__ or error from None
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Ray itself goes on for a quarter of an hour where nothing listens."""
    if address == "local":
        return
    try:
        found = get_ray_address_from_environment("auto", None) if address == "auto" else address
        if "://" not in found:
            host, _, port = found.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except (OSError, OverflowError, ValueError) as error:
        raise RunError(_no_cluster(address, error)) from error


def _no_cluster(address: str, error: Exception) -> str:
    if address == "local":
        return f"a Ray cluster of this machine's own could not be started ({first_line(error)})"
    return (
        f"no Ray cluster could be joined at ray.address={address} ({first_line(error)}): start one, see that "
        "RAY_AUTH_MODE and the token are those it was started with, or use ray.address=local"
    )


def slots(cpus: int, gpus: float) -> int:
    """How many tasks the nodes of the cluster can run at once."""
    return sum(_fitting(node["Resources"], cpus, gpus) for node in ray.nodes() if node["Alive"])


def require_room(settings: RayConfig) -> None:
    """Refuse a task that fits no node.

    Raises
    ------
    RunError
    """
    gpus = settings.gpus or 0
    if not slots(settings.cpus, gpus):
        asked = f"ray.cpus={settings.cpus}" + (f" and ray.gpus={gpus:g}" if gpus else "")
        raise RunError(f"no node of the Ray cluster has {asked}: ask for less, or start a node that has")


def _fitting(resources: dict[str, float], cpus: int, gpus: float) -> int:
    fitting = resources.get("CPU", 0) // cpus
    return int(min(fitting, resources.get("GPU", 0) // gpus) if gpus else fitting)


class Tasks:
    """What is to be done, and what is under way.

    Parameters
    ----------
    cells : sequence of CellRun
        None of them opened.
    """

    def __init__(self, cells: Sequence[CellRun], display: Display, config: Config) -> None:
        self._cells, self._display, self._config = cells, display, config
        self._settings, self._gpus = config.ray, config.ray.gpus or 0
        self._waiting = list(cells)
        self._batches: deque[tuple[CellRun, ObjectRef, list[int]]] = deque()
        self._trainings: dict[ObjectRef, CellRun] = {}
        self._points: dict[ObjectRef, tuple[CellRun, list[int]]] = {}
        task = ray.remote(num_cpus=self._settings.cpus, num_gpus=self._gpus, max_retries=RETRIES)
        self._train, self._certify = task(_train), task(_certify)

    def carry_out(self) -> None:
        """Everything, until each cell is open and misses no point."""
        require_room(self._settings)
        self._ship_own_modules()
        self._start_trainings()
        while self._waiting or self._batches or self._points:
            self._fill()
            for ref in self._ended():
                if ref in self._trainings:
                    self._keep_checkpoint(ref)
                else:
                    self._take(ref)

    def _ended(self) -> list[ObjectRef]:
        """The next task to end; says so where it waits because no node is left."""
        under_way = [*self._trainings, *self._points]
        done: list[ObjectRef] = []
        said = False
        while under_way and not done:
            done, _ = ray.wait(under_way, timeout=PATIENCE)
            if not done and not said and not slots(self._settings.cpus, self._gpus):
                self._display.say("no node of the Ray cluster is left that could go on: waiting for one to join")
                said = True
        return done

    def _ship_own_modules(self) -> None:
        """Users' modules go to the workers with what they made."""
        for name in (*self._config.models, *self._config.metrics):
            if ":" in name:
                cloudpickle.register_pickle_by_value(sys.modules[name.partition(":")[0]])

    def _start_trainings(self) -> None:
        """One task for each checkpoint that is missing, in the order of the cells."""
        plan = self._cells[0].plan
        missing = {cell.training: cell for cell in reversed(plan.to_train())}
        first = [cell for cell in self._cells if missing.get(cell.cell_plan.training) is cell.cell_plan]
        if not first:
            return
        data = ray.put(_for_training(plan.data, first[0].cell_plan.training))
        for cell in first:
            training, spec = cell.cell_plan.training, cell.cell_plan.spec
            self._trainings[self._train.remote(training, spec, data, self._settings.cpus)] = cell
        self._display.stage(f"{len(first)} trainings on Ray", sum(_units(c.cell_plan.training) for c in first))

    def _keep_checkpoint(self, ref: ObjectRef) -> None:
        cell = self._trainings.pop(ref)
        training = cell.cell_plan.training
        try:
            state, record = _value(ref)
        except LOST as error:
            raise RunError(f"training {training.model} failed: {_reason(error)}") from error
        path = training.path(cell.plan.out)
        with held(path.with_suffix(".lock"), f"the checkpoint {path.name}"):
            keep_checkpoint(path, state, record)
        self._display.advance(_units(training))

    def _fill(self) -> None:
        """Keep as many tasks in flight as the cluster has room for, twice; a node that joined counts."""
        most = self._settings.in_flight or 2 * slots(self._settings.cpus, self._gpus)
        while len(self._points) < max(1, most) and (batch := self._next_batch()) is not None:
            cell, packed, indices = batch
            points = _pack([cell.point(index) for index in indices])
            ref = self._certify.remote([packed], points, self._config.device, self._settings.cpus)
            self._points[ref] = (cell, indices)

    def _next_batch(self) -> tuple[CellRun, ObjectRef, list[int]] | None:
        """Of the cells that are open, else of the next one whose checkpoint is there."""
        while not self._batches:
            training = {cell.cell_plan.training for cell in self._trainings.values()}
            cell = next((cell for cell in self._waiting if cell.cell_plan.training not in training), None)
            if cell is None:
                return None
            self._waiting.remove(cell)
            self._open(cell)
        return self._batches.popleft()

    def _open(self, cell: CellRun) -> None:
        cell.open()
        if not cell.missing:
            return
        packed, size = ray.put(_pack(cell.certifier)), self._settings.points_a_task
        chunks = (cell.missing[start : start + size] for start in range(0, len(cell.missing), size))
        self._batches.extend((cell, packed, chunk) for chunk in chunks)
        under_way = sum(owner.passes(index) for owner, indices in self._points.values() for index in indices)
        self._display.stage(f"{cell.label}, on Ray", under_way + sum(map(cell.passes, cell.missing)))

    def _take(self, ref: ObjectRef) -> None:
        cell, indices = self._points.pop(ref)
        try:
            results, lines = _unpack(_value(ref), "cpu")
        except LOST as error:
            results, lines = [cell.point(index).failed(_reason(error)) for index in indices], []
        for line in lines:
            self._display.say(line)
        for index, result in zip(indices, results, strict=True):
            cell.take(result)
            self._display.advance(cell.passes(index))


def _units(training: Training) -> float:
    return TRAINING_WEIGHT * training.epochs * training.images


def _value(ref: ObjectRef) -> Any:
    """A task's result; an error of its own as it was raised there."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from None


def _reason(error: Exception) -> str:
    """Why a task was given up."""
    return f"its worker was lost {RETRIES + 1} times, the last time by {type(error).__name__}: out of memory or a crash"


def _for_training(data: DataSet, training: Training) -> DataSet:
    """The images of a run's trainings and one for the shape: in memory, so that workers need no files."""
    images = ArraySource("train", data.train.take(range(training.images)))
    return replace(data, train=images, test=ArraySource("test", data.test.take([0])))


def _pack(content: object) -> bytes:
    """As bytes that may be read on another device.

    Raises
    ------
    RunError
        Something in the user's own model or metric cannot leave its process.
    """
    packed = io.BytesIO()
    try:
        torch.save(content, packed, pickle_module=cloudpickle)
    except Exception as error:  # pickling calls what users wrote
        raise RunError(
            f"the model or a metric cannot be sent to a worker ({first_line(error)}): use executor=local"
        ) from error
    return packed.getvalue()


def _unpack(packed: bytes, device: str) -> Any:
    """What was packed, its tensors on ``device``. The bytes come from the same run, whose code is run here anyway."""
    return torch.load(io.BytesIO(packed), map_location=device, weights_only=False)


def _train(training: Training, spec: ModelSpec, data: DataSet, cpus: int) -> tuple[bytes, bytes]:
    """On a worker: a checkpoint and its record."""
    _begin(cpus)
    return train_checkpoint(training, spec, data, lambda images: None)


def _certify(cell: list[ObjectRef], packed_points: bytes, device: str, cpus: int) -> bytes:
    """On a worker: the results of some points, and what there is to say about them."""
    _begin(cpus)
    certifier, lines = _certifier(cell[0], device), []
    points: list[Point] = _unpack(packed_points, device)
    return _pack(([certifier.certify(point, lambda passes: None, lines.append) for point in points], lines))


def _begin(cpus: int) -> None:
    keep_freed_memory()
    require_float32()
    torch.set_num_threads(cpus)


@lru_cache(maxsize=CELLS_A_WORKER)
def _certifier(cell: ObjectRef, device: str) -> Certifier:
    """Made once a worker process."""
    certifier: Certifier = _unpack(ray.get(cell), device)
    return certifier
