"""Cells carried out on a Ray cluster, as tasks of ``ray.points_a_task`` points, at most ``ray.in_flight`` at once.

What certifying a cell takes goes to the object store. A task whose worker is lost is given to another by Ray, `RETRIES`
times. The number of threads changes rows in their last digits: each task has ``ray.cpus``.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from csrun.cells.run import CellRun
from csrun.config import RayConfig
from csrun.errors import RunError, first_line
from csrun.executors.tasks import RETRIES, Package, Tasks, WorkerLostError, begin
from csrun.system.progress import Display

LOST = (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)

ANSWER = 10.0
"""Seconds within which a cluster's machine has to accept a connection."""

PATIENCE = 15.0
"""Seconds without the end of any task after which a look is taken at whether a node is left to run one."""


def run_on_ray(cells: Sequence[CellRun], display: Display) -> None:
    """Certify the points of all cells on a cluster."""
    settings = cells[0].plan.config.ray
    with connected(settings):
        Tasks(cells, display, Cluster(settings, display)).carry_out()


@contextmanager
def connected(settings: RayConfig, show_workers: bool = False) -> Iterator[None]:
    """Be a driver of the cluster, and show what its workers print if asked; a cluster of this process ends with it."""
    own = settings.address == "local"
    dashboard = False if own else None
    before = signal.getsignal(signal.SIGTERM)
    _require_answer(settings.address)
    try:
        ray.init(settings.address, include_dashboard=dashboard, log_to_driver=show_workers, logging_level=logging.ERROR)
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise RunError(_no_cluster(settings.address, error)) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray put its own there
        if own and ray.util.get_node_ip_address() != "127.0.0.1":
            raise RunError("ray was imported before the run and would open ports to others: use ray.address=auto")
        yield
    except (RayError, OSError) as error:
        if isinstance(error, OSError) and not _is_of_connection(error):
            raise
        raise RunError(
            f"the Ray cluster went away ({first_line(error)}); what is finished is kept: the same command continues"
        ) from error
    except SystemError as error:  # what a signal's handler raised while Ray waited is the cause of one
        raise error.__cause__ or error from None
    finally:
        ray.shutdown()


def _is_of_connection(error: OSError) -> bool:
    """Test for a broken connection to the cluster; an error that Ray raises itself has no number, unlike a file's."""
    return isinstance(error, ConnectionError) or error.errno is None


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
    """Number of tasks the nodes of the cluster can run at once."""
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


@dataclass(frozen=True)
class StoredObject:
    """A package in Ray's object store."""

    ref: ObjectRef[bytes]

    def fetch(self) -> bytes:
        packed: bytes = ray.get(self.ref)
        return packed


class Cluster:
    """The back end of `Tasks` on the cluster this process is connected to.

    Raises
    ------
    RunError
        No node has room for a task.
    """

    name = "on Ray"
    has_files = False

    def __init__(self, settings: RayConfig, display: Display) -> None:
        require_room(settings)
        self._settings, self._gpus, self._display = settings, settings.gpus or 0, display
        self.points_a_task = settings.points_a_task
        self._task = ray.remote(num_cpus=settings.cpus, num_gpus=self._gpus, max_retries=RETRIES)(_on_worker)

    def in_flight(self) -> int:
        """Twice the number of tasks the cluster can run at once; a node that joined counts."""
        return max(1, self._settings.in_flight or 2 * slots(self._settings.cpus, self._gpus))

    def store(self, packed: bytes) -> StoredObject:
        return StoredObject(ray.put(packed))

    def discard(self, package: Package) -> None:
        """Left to Ray, which counts references."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> ObjectRef[Any]:
        task: ObjectRef[Any] = self._task.remote(self._settings.cpus, function, *arguments)
        return task

    def ended(self, under_way: Sequence[ObjectRef[Any]]) -> list[ObjectRef[Any]]:
        """The next task to end; says so where it waits because no node is left."""
        done: list[ObjectRef[Any]] = []
        said = False
        while under_way and not done:
            done, _ = ray.wait(list(under_way), timeout=PATIENCE)
            if not done and not said and not slots(self._settings.cpus, self._gpus):
                self._display.say("no node of the Ray cluster is left that could go on: waiting for one to join")
                said = True
        return done

    def result(self, task: ObjectRef[Any]) -> Any:
        try:
            return ray.get(task)
        except RayTaskError as error:
            raise error.cause from None
        except LOST as error:
            raise WorkerLostError(RETRIES + 1, error) from error


def _on_worker(cpus: int, function: Callable[..., Any], *arguments: Any) -> Any:
    begin(threads=cpus)
    return function(*arguments)
