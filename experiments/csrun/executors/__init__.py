"""Who carries out the cells of a run: this process, workers on its cores, or a Ray cluster."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from csrun.config import Config
from csrun.errors import RunError
from csrun.system.progress import Display

if TYPE_CHECKING:
    from csrun.cells.run import CellRun

Executor = Callable[[Sequence["CellRun"], Display], None]
"""Opens every cell, hands it the result of each point it misses, in any order, and closes it."""


def executor_of(config: Config) -> Executor:
    """The executor a configuration asks for.

    Raises
    ------
    RunError
        Ray is asked for and not installed.
    """
    if config.executor == "local":
        return run_locally
    confine_ray(config.ray.address)
    try:
        from csrun.executors.on_ray import run_on_ray
    except ImportError as error:
        raise RunError(
            f"executor is 'ray', which cannot be imported ({error}): pip install 'centersmooth[ray]', or executor=local"
        ) from error
    return run_on_ray


def run_locally(cells: Sequence[CellRun], display: Display) -> None:
    """By workers, or one cell after the other, one point after the other, in this process."""
    if cells[0].plan.workers > 1:
        from csrun.executors.on_cores import run_on_cores

        run_on_cores(cells, display)
        return
    for cell in cells:
        cell.open()
        if cell.missing:
            display.stage(cell.label, sum(map(cell.passes, cell.missing)))
        for index in cell.missing:
            cell.take(cell.certifier.certify(cell.point(index), display.advance, display.say))
        cell.close()


def confine_ray(address: str) -> None:
    """Set what Ray reads on import: no usage report; a local cluster on the loopback only, with a token.

    On Linux Ray takes the machine's own address for 127.0.0.1, and listens there, unless clusters are off as on macOS.
    Without a token any user of the machine could have tasks run there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
