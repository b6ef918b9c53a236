"""What tests of runs share: rows to be compared, requests with everything in them, a model that fails, processes."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from loky import ProcessPoolExecutor
from rich.console import Console
from support import SMALL, compose, warn_as_a_process

from csrun.cli import main
from csrun.executors import on_cores
from csrun.executors.on_cores import Workers
from csrun.runner import RunResult, run
from csrun.system.progress import Display


class Watched(Display):
    """A display without a screen that calls a function whenever work was done."""

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.look = look

    def advance(self, units: float) -> None:
        super().advance(units)
        self.look()


EVERYTHING = ("metrics=[tv,l2]", "certifiers=[center_free,center,mean]")
"""Every kind of smoothed model, and more than one metric."""

TWO_CELLS = ("grid.eps=[0.4,0.6]", "points.count=4", *EVERYTHING)

FRAGILE = """
import os
import torch

DRIVER = os.getpid()


class Fragile(torch.nn.Module):
    driver = DRIVER

    def forward(self, inputs):
        marks = inputs.mean(dim=1, keepdim=True).round()
        if os.getpid() != self.driver and bool((marks == 2).all()):
            os._exit(1)
        if bool((marks == 4).all()):
            raise KeyError("no such gene")
        return torch.where(marks == 1, torch.nan, inputs.tanh())


def model():
    return Fragile()
"""
"""A module with a model: NaN on inputs around 1; a worker that meets inputs around 2 dies; an exception around 4."""


def run_in(out: Path, *overrides: str, display: Display | None = None, figures: bool = True) -> RunResult:
    """A small run in this process, which may leave out summary and figures; later overrides win."""
    silent = Display(Console(file=io.StringIO()))
    return run(compose(*SMALL, *overrides, f"out={out}"), display or silent, "cs-run (test)", figures=figures)


def start_forked(*arguments: str, cwd: Path, said: Path) -> BaseProcess:
    """Start `cs-run` in a session of its own, without the seconds of imports: forked from this process.

    What it writes to stderr is in the file ``said``.
    """
    return forked(_run_forked, arguments, cwd, said)


def forked(function: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process that calls a function, with all that was imported here."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on where there are other threads
        process.start()
    return process


def _run_forked(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    """In the new process: undo what pytest does to streams, signals and warnings, then run."""
    os.setsid()
    os.chdir(cwd)
    sys.stdout, sys.stderr = open(os.devnull, "w"), open(said, "w", buffering=1)  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    warn_as_a_process()
    main(list(arguments))


def fork_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the workers of pools that start from now on forked from this process, which has all that they import."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(on_cores, "ProcessPoolExecutor", partial(ProcessPoolExecutor, context=context))
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)  # from Python 3.12 on


def finish(workers: Workers, *tasks: Any) -> None:
    """Wait for the end of tasks of workers, one by one."""
    left = list(tasks)
    while left:
        for task in workers.ended(left):
            left.remove(task)


def rows_without_seconds(folder: Path) -> list[dict[str, str]]:
    """The rows of a cell or an experiment, without what no two runs share."""
    with open(folder / "certificates.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def is_alive(process: int) -> bool:
    """Whether it runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
