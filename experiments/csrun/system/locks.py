"""One process at a time on a cell, a checkpoint or a folder; whoever comes second learns who holds it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from csrun.errors import RunError
from csrun.system.files import remove_unfinished_beside, write_atomically


@contextmanager
def held(lock: Path, what: str, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock while the block runs.

    The operating system frees it when the process ends, however it ends; a lock file left behind holds nothing.

    Parameters
    ----------
    lock : Path
        The lock's file; ``<lock>.holder`` beside it says who holds it.
    what : str
        How to call what is locked in messages.
    say : callable, optional
        Where to say that another process holds it, which is then waited for.

    Raises
    ------
    RunError
        Another process holds it, and it is not to be waited for; names that process.
    """
    holder = lock.with_name(f"{lock.name}.holder")
    lock.parent.mkdir(parents=True, exist_ok=True)
    own = FileLock(lock)
    try:
        own.acquire(timeout=0)
    except Timeout:
        busy = f"{what} is being worked on by {_describe(holder)}"
        if say is None:
            raise RunError(f"{busy}: wait for it to end, or stop it; the same command then continues") from None
        say(f"{busy}: waiting for it to end")
        own.acquire()
    try:
        remove_unfinished_beside(lock)
        record = {"process": os.getpid(), "machine": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_atomically(holder, json.dumps(record).encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        own.release()


def _describe(holder: Path) -> str:
    try:
        record = json.loads(holder.read_text())
        return f"process {record['process']} on {record['machine']} since {record['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
