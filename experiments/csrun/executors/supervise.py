"""A run on Ray in a process of its own, as Ray ends the process of a driver that has lost its cluster, without a word.

The process the user started stays outside: it hands on signals, and says what happened where the other one could not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

_REPORT = "CENTERSMOOTH_REPORT"
"""Environment variable: the pipe into which the run writes its exit code, once it has come to one."""

_PROGRAM = "from csrun.cli import main; main()"
_HANDED_ON = (signal.SIGINT, signal.SIGTERM)
"""Signals that the process outside hands on."""

_PARENT_DEATH_SIGNAL = 1
"""``prctl``'s option, from Linux's prctl.h."""


def needed(arguments: Sequence[str]) -> bool:
    """Test for arguments of ``cs-run`` that ask for Ray, outside such a process."""
    asked = {"executor=ray", "hydra/launcher=ray"} & {argument.lstrip("+") for argument in arguments}
    return os.name == "posix" and _REPORT not in os.environ and bool(asked)


def supervised(arguments: Sequence[str]) -> int | None:
    """The exit code of ``cs-run`` with these arguments, run in a process of its own; None where that was ended.

    Where the process was ended by a signal that was handed on, as Ray's own handlers let happen, minus its number.
    """
    reading, writing = os.pipe()
    run = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        env=os.environ | {_REPORT: str(writing)},
        pass_fds=[writing],
        process_group=0,  # else Ctrl-C would reach it twice
        preexec_fn=_before_it_runs,
    )

    handed_on: set[int] = set()

    def hand_on(number: int, frame: FrameType | None) -> None:
        handed_on.add(number)
        run.send_signal(number)

    for number in _HANDED_ON:
        signal.signal(number, hand_on)
    run.wait()
    os.close(writing)
    os.set_blocking(reading, False)  # should a process that outlives the run hold the other end
    with open(reading, "rb") as pipe:
        said = pipe.read()
    if said:
        return int(said)
    return run.returncode if -run.returncode in handed_on else None


def report(code: int) -> None:
    """Tell the process outside, where there is one, how this one ends; what happens after that is of no interest."""
    if (pipe := os.environ.pop(_REPORT, None)) is not None:
        os.write(int(pipe), str(code).encode())


def hear_signals() -> None:
    """Let signals through to this process, if it is the one inside: those that came while it was starting as well."""
    if _REPORT in os.environ:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)


def _before_it_runs() -> None:
    """Killed with the process that the user sees (on Linux, elsewhere it finishes); deaf until `hear_signals`.

    A signal that met it while it was starting would end it without a word.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
