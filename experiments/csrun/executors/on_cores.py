"""Cells carried out by processes of this machine, each on one thread: a worker a core, by loky.

Networks and batches of this size gain nothing from PyTorch's threads, which split each operation of a point; workers
split the points.

A worker that is killed takes loky's pool with it, so that what was under way begins again in a new pool. Which task
was to blame is not known: one that was under way twice when a worker was lost goes on alone.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loky import BrokenProcessPool, ProcessPoolExecutor, process_executor

from csrun.cells.run import CellRun
from csrun.executors.tasks import RETRIES, Package, Tasks, WorkerLostError, begin
from csrun.system.progress import Display

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Read by libraries when they are loaded."""

_ALONE = 2
"""Losses after which a task is run alone: the next one is its own."""

_PARENT_DEATH_SIGNAL = 1
"""``prctl``'s option, from Linux's prctl.h."""


def run_on_cores(cells: Sequence[CellRun], display: Display) -> None:
    """Certify the points of all cells in ``workers`` processes."""
    with Workers.started(cells[0].plan.workers) as workers:
        Tasks(cells, display, workers).carry_out()


@dataclass(frozen=True)
class StoredFile:
    """A package as a file of this machine."""

    path: Path

    def fetch(self) -> bytes:
        return self.path.read_bytes()


@dataclass(eq=False)
class _Task:
    """A call on a worker; ``losses`` counts how often a worker was lost while it was under way."""

    kept: Path
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    losses: int = 0
    future: Future[Any] = field(default_factory=Future)


class Workers:
    """The back end of `Tasks` on this machine's cores.

    Parameters
    ----------
    count : int
        Worker processes; they start with the first task.
    folder : Path
        Where packages lie.
    """

    points_a_task = 1
    has_files = True

    def __init__(self, count: int, folder: Path) -> None:
        self.name = f"on {count} workers"
        self._count, self._folder, self._stored, self._submitted = count, folder, 0, 0
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: list[_Task] = []
        self._running: list[_Task] = []

    @classmethod
    @contextmanager
    def started(cls, count: int) -> Iterator[Workers]:
        """Workers for the block; however it is left, none goes on."""
        with tempfile.TemporaryDirectory(prefix="centersmooth-", ignore_cleanup_errors=True) as folder:
            workers = cls(count, Path(folder))
            with warnings.catch_warnings():
                # Without pgrep loky kills workers, but not what they may have started, and says so.
                warnings.filterwarnings("ignore", "Failed to kill subprocesses")
                try:
                    yield workers
                finally:
                    workers._end_pool()

    def in_flight(self) -> int:
        """The next task of each worker is there when it ends one."""
        return 2 * self._count

    def store(self, packed: bytes) -> StoredFile:
        self._stored += 1
        stored = StoredFile(self._folder / str(self._stored))
        stored.path.write_bytes(packed)
        return stored

    def discard(self, package: Package) -> None:
        assert isinstance(package, StoredFile)
        package.path.unlink()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> _Task:
        self._submitted += 1
        task = _Task(self._folder / f"result-{self._submitted}", function, arguments)
        self._waiting.append(task)
        self._hand_over()
        return task

    def ended(self, under_way: Sequence[_Task]) -> list[_Task]:
        self._hand_over()
        while self._running:
            wait([task.future for task in self._running], return_when=FIRST_COMPLETED)
            if any(_loss(task) for task in self._running):
                self._begin_again()
            ended = [task for task in under_way if task.future.done()]
            self._running = [task for task in self._running if not task.future.done()]
            self._hand_over()
            if ended:
                return ended
        return []

    def result(self, task: _Task) -> Any:
        if (loss := _loss(task)) is not None:
            raise WorkerLostError(task.losses, loss)
        task.future.result()
        value = pickle.loads(task.kept.read_bytes())
        task.kept.unlink()
        return value

    def _hand_over(self) -> None:
        """Give waiting tasks to the pool: one that may be to blame for lost workers alone, others all at once.

        None while a loss has not been looked at: `ended` will end the pool for it, whichever that is by then.
        """
        if any(_loss(task) for task in self._running):
            return
        suspects = [task for task in (*self._running, *self._waiting) if task.losses >= _ALONE]
        if suspects and self._running:
            return
        for task in suspects[:1] or list(self._waiting):
            try:
                with _deaf_to_interrupts():
                    self._pool = self._pool or ProcessPoolExecutor(
                        self._count, initializer=_start, initargs=(os.getpid(),), env=_ONE_THREAD
                    )
                    task.future = self._pool.submit(_keep, task.kept, task.function, *task.arguments)
            except BrokenProcessPool:  # since the last look: `ended` sees what was under way and hands over again
                self._end_pool()
                return
            self._waiting.remove(task)
            self._running.append(task)

    def _begin_again(self) -> None:
        """Put what was lost with the pool back, ahead of what waits; a task lost too often stays as it ended."""
        self._end_pool()
        lost = [task for task in self._running if _loss(task)]
        for task in lost:
            task.losses += 1
        again = [task for task in lost if task.losses <= RETRIES]
        for task in again:
            task.future = Future()
        self._running = [task for task in self._running if task not in again]
        self._waiting = again + self._waiting

    def _end_pool(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            with _deaf_to_interrupts():  # nor do the helpers by which loky finds the workers' own children
                pool.shutdown(wait=True, kill_workers=True)


def _loss(task: _Task) -> BrokenProcessPool | None:
    """Errors of a task whose worker was lost."""
    error = task.future.exception() if task.future.done() else None
    return error if isinstance(error, BrokenProcessPool) else None


def _keep(path: Path, function: Callable[..., Any], *arguments: Any) -> None:
    """On a worker: leave the value in a file, whatever its size.

    Values go through one pipe, which loky reads to the end of each: where a worker is killed in the middle of one, that
    end never comes, and the run would wait for ever.
    """
    path.write_bytes(pickle.dumps(function(*arguments)))


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Workers started in the block do not hear Ctrl-C, which goes to all processes of a terminal: the driver does."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(driver: int) -> None:
    """On a worker, once: see to it that it ends with the driver and only with it, on one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != driver:  # it died while this process was starting: no signal will come any more
            os._exit(1)
    # Where psutil is installed, loky would take memory that is kept for the next point for a leak, and start anew.
    process_executor._USE_PSUTIL = False
    begin(threads=1)
    # Else loky's collection, once a second, goes through all that was imported: a tenth of a second each time.
    gc.freeze()
