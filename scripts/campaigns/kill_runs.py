"""Kill `cs-run` and its workers at random moments, over and over; what is continued equals what was never interrupted.

Usage: python scripts/campaigns/kill_runs.py [KILLS [MINUTES]], until as many kills or minutes have passed

Each round runs one of `OUTPUTS` by one of `EXECUTORS` in an empty folder. The driver is killed with SIGKILL (every
fourth time with SIGTERM) at a moment drawn anew from all of the run, training and the writing of tables included, or
writes to a disk that fills up, or has little memory left, one to six times, and is started again until it ends by
itself; or workers are killed, at most as often as a task is begun again, and the run has to end without being started
again. Then tables and checkpoints have to be those of an uninterrupted run in one process: no row lost, doubled or
changed, no unfinished file, and never a traceback. Processes are forked from one that has imported everything, so that
moments fall into the run and not into imports; runs on Ray are those of a user, with a process of their own. The
summary goes to `docs/campaigns/kills.md`.
"""

from __future__ import annotations

import csv
import errno
import math
import os
import platform
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import matplotlib.backends.backend_pdf  # noqa: F401  imported before the fork: a run would import it as it goes
import numpy as np
import sklearn.datasets  # noqa: F401  the same
import torch
import torch._dynamo  # by an optimiser

import centersmooth
from csrun import runner  # noqa: F401
from csrun.cli import main as cs_run
from csrun.executors import on_cores  # noqa: F401
from csrun.executors.tasks import RETRIES
from csrun.report import plots, tables  # noqa: F401
from csrun.system import files

SMALL = ["budget=smoke", "n=500", "m=600", "delta=0.17", "grid.h=[1]", "points.count=6"]
_TRAINED = ["train.images=300", "train.epochs=2"]
_OWN = ["experiment=custom", "data.path=inputs.npy", "grid.eps=[0.2,0.4]"]

OUTPUTS = {
    "centers": [*SMALL, *_TRAINED, "grid.eps=[0.4,0.6]", "metrics=[tv,l2]", "certifiers=[center,center_free]"],
    "means": [*SMALL, *_TRAINED, "grid.eps=[0.4]", "metrics=[tv,l2]", "certifiers=[mean]"],
    "trainings": [*SMALL, "train.images=300", "train.epochs=12", "points.count=1", "grid.eps=[0.4]"],
    "classes": ["experiment=label_digits", "budget=smoke", "train.epochs=2", "points.count=10", "grid.scale=[0.5]"],
    "pixels": [*SMALL, *_OWN, "model=own:ink", "certifiers=[segmentation]", "metric=hamming"],
    "texts": [*SMALL, *_OWN, "model=own:reader", "metric=edit"],
}
"""Requests of a second or two, by what is certified."""

OWN = """
import torch
from centersmooth.metrics import encode_texts


def ink():
    return lambda images: (images > 0.5).int()


def reader():
    return lambda images: encode_texts(["ab" * int(row.mean().clamp(0, 1) * 16) for row in images], length=40)
"""

EXECUTORS = {
    "one process": ["workers=1"],
    "two workers": ["workers=2"],
    "sweep": ["workers=1", "--multirun", "seed=0,1"],
    "Ray": ["executor=ray"],
}
_TURNS = ("one process", "two workers", "two workers", "sweep", "two workers", "Ray")
"""How often each has its turn."""

MOST_OF_DRIVER = 6
"""Interruptions of a driver in one round: with more, workers would have a small share of all."""

CUT_SHORT = ("disk", "memory")

CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS)
"""How a process ends if memory runs out in native code that does not look whether it got any."""


class Scenario(NamedTuple):
    """Kind of outputs certified, and executor."""

    output: str
    executor: str

    def arguments(self, out: Path, address: str) -> list[str]:
        """The command line, with results in ``out``."""
        joined = [f"ray.address={address}"] if self.executor == "Ray" else []
        folder = f"out={out}/${{seed}}" if self.executor == "sweep" else f"out={out}/0"
        return [*OUTPUTS[self.output], *EXECUTORS[self.executor], *joined, folder]


@dataclass
class Bench:
    """Where runs take place: a folder with a module and inputs of its own, and the address of a Ray cluster."""

    folder: Path
    address: str
    raylets: Callable[[], list[int]]

    def start(self, scenario: Scenario, out: Path, before: Callable[[], None] = lambda: None) -> int:
        """Fork a run, which begins by calling ``before``; the child's process number."""
        child = os.fork()
        if child:
            return child
        os.chdir(self.folder)
        os.setpgid(0, 0)
        sys.stdout = sys.stderr = open(out.with_suffix(".log"), "a", buffering=1)  # noqa: SIM115  for the whole process
        os.dup2(sys.stderr.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        try:
            before()
            cs_run(scenario.arguments(out, self.address))
        except SystemExit as ending:
            os._exit(ending.code if isinstance(ending.code, int) else 70)
        os._exit(70)

    def workers(self, scenario: Scenario, driver: int) -> list[int]:
        """Workers of a run: those of loky are its children; a raylet's other children, agents, bring a node down."""
        if scenario.executor == "Ray":
            every = [one for raylet in self.raylets() for one in children(raylet)]
            return [one for one in every if b"ray::_on_worker" in command_of(one)]
        return [one for one in children(driver) if b"popen_loky" in command_of(one)]


def children(process: int) -> list[int]:
    """Processes that a process has started; none if it has ended."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        return [int(one) for task in tasks for one in (task / "children").read_text().split()]
    except OSError:
        return []


def command_of(process: int) -> bytes:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def end_of(child: int, until: float = float("inf")) -> int | None:
    """The exit code of a child, or None if it goes on beyond a moment."""
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def results(out: Path) -> tuple[list[dict[str, str]], dict[str, bytes]]:
    """The rows of all tables without their timings, and the weights of all checkpoints."""
    rows = []
    for table in sorted(out.glob("**/certificates.csv")):
        with open(table, newline="") as file:
            rows += [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return rows, {path.name: path.read_bytes() for path in out.glob("*/checkpoints/*.safetensors")}


def fill_disk(after: int) -> Callable[[], None]:
    """From the call of a number on, nothing more can be written to the disk."""

    def of_this_process() -> None:
        fsync, left = os.fsync, [after]

        def full(handle: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(handle)

        files.os.fsync = full  # type: ignore[attr-defined]

    return of_this_process


def leave_memory(room: int) -> Callable[[], None]:
    """So many bytes may be asked for beyond what the process has."""

    def of_this_process() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return of_this_process


class Fault(Exception):
    """A round that did not end as it has to: what was wrong."""


def fail(said: str, out: Path) -> NoReturn:
    log = out.with_suffix(".log")
    print(f"{said}\n{log.read_text()[-4000:] if log.is_file() else ''}", flush=True)
    raise Fault(said)


class Whole(NamedTuple):
    """A run that was not interrupted."""

    out: Path
    seconds: float
    results: object


class Round:
    """One run that is interrupted until it ends by itself."""

    def __init__(self, bench: Bench, scenario: Scenario, out: Path, duration: float, dice: random.Random) -> None:
        self.bench, self.scenario, self.out, self.duration, self.dice = bench, scenario, out, duration, dice
        self.counts: Counter[str] = Counter()

    def of_driver(self) -> None:
        """Kill it and start it again, or cut disk or memory short, a few times; then let it end."""
        most = self.dice.randint(1, MOST_OF_DRIVER)
        while self.counts.total() < most:
            short = self.dice.choice((None, *CUT_SHORT))
            alone = self.scenario.executor == "one process"
            if (self._cut_short(short) if short and alone else self._killed()) == 0:
                return
        if code := end_of(self.bench.start(self.scenario, self.out)):
            fail(f"{self.scenario}: a continued run ended with exit code {code}", self.out)

    def _killed(self) -> int | None:
        number = signal.SIGTERM if self.dice.random() < 0.25 else signal.SIGKILL
        child = self.bench.start(self.scenario, self.out)
        code = end_of(child, time.monotonic() + self.dice.uniform(0, self.duration))
        if code is None:
            os.kill(child, number)
            code = end_of(child)
            if code in (-number, 128 + number):
                self.counts[f"driver, {number.name}"] += 1
                return None
        if code != 0:
            fail(f"{self.scenario}: a continued run ended with exit code {code}", self.out)
        return code

    def _cut_short(self, what: str) -> int | None:
        """The exit code, None if the shortage ended the run or left a point out."""
        if what == "disk":
            before = fill_disk(self.dice.randrange(60))
        else:
            before = leave_memory(self.dice.randrange(2**19, 2**26))
        code = end_of(self.bench.start(self.scenario, self.out, before))
        if code == 0:
            return 0
        if what == "memory" and code in CRASHES:
            self.counts["crash"] += 1
            return None
        self.counts[what] += 1
        if code not in (1, 2):
            fail(f"{self.scenario}: short of {what} it ended with exit code {code}", self.out)
        return None

    def of_workers(self) -> None:
        """Kill a worker now and then, as often as a task is begun again: they live for a part of the run only."""
        child = self.bench.start(self.scenario, self.out)
        code = None
        for _ in range(RETRIES):
            while code is None and not self.bench.workers(self.scenario, child):
                code = end_of(child, time.monotonic() + 0.02)
            if code is None:
                code = end_of(child, time.monotonic() + self.dice.uniform(0, self.duration / 4))
            if code is None and (workers := self.bench.workers(self.scenario, child)):
                with suppress(ProcessLookupError):  # it may end by itself just before
                    os.kill(self.dice.choice(workers), signal.SIGKILL)
                    self.counts["worker, SIGKILL"] += 1
        if (code := end_of(child) if code is None else code) != 0:
            fail(f"{self.scenario}: with workers killed it ended with exit code {code}", self.out)


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """A Ray cluster of two cores on the loopback: its address, and its raylets' process numbers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={folder}"]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    subprocess.run(
        [*command, "--object-store-memory=100000000"], env=os.environ | quiet, capture_output=True, check=True
    )

    def raylets() -> list[int]:
        numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [one for one in numbers if b"raylet/raylet" in command_of(one) and bytes(folder) in command_of(one)]

    try:
        yield f"127.0.0.1:{port}", raylets
    finally:
        ours = [one for one in Path("/proc").iterdir() if one.name.isdigit() and bytes(folder) in command_of(one.name)]
        for process in ours:
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)


class Found(NamedTuple):
    """Interruptions by output, executor and victim, and what was wrong."""

    counts: Counter[tuple[str, str, str]]
    faults: list[str]


def campaign(
    kills: int, scenarios: Sequence[Scenario], bench: Bench, minutes: float = math.inf, seed: int = 0
) -> Found:
    """Interrupt run after run, until as many interruptions or minutes have passed."""
    dice, found, rounds = random.Random(seed), Found(Counter(), []), 0
    whole: dict[Scenario, Whole] = {}
    deadline = time.monotonic() + 60 * minutes
    while found.counts.total() < kills and time.monotonic() < deadline:
        scenario = scenarios[rounds % len(scenarios)]
        if scenario not in whole:
            alone = Scenario(scenario.output, "sweep" if scenario.executor == "sweep" else "one process")
            for one in (scenario, alone):
                if one not in whole:
                    whole[one] = uninterrupted(bench, one, bench.folder / f"whole-{len(whole)}")
            check(scenario, whole[scenario].out, whole[alone].results)
        out = bench.folder / f"killed-{rounds}"
        one = Round(bench, scenario, out, whole[scenario].seconds, dice)
        of_workers = scenario.executor in ("two workers", "Ray") and dice.random() < 0.8
        try:
            one.of_workers() if of_workers else one.of_driver()
            check(scenario, out, whole[scenario].results)
        except Fault as fault:
            found.faults.append(str(fault))
        shutil.rmtree(out, ignore_errors=True)
        for victim, number in one.counts.items():
            found.counts[scenario.output, scenario.executor, victim] += number
        rounds += 1
        print(f"{rounds} rounds, {found.counts.total()} interruptions, {len(found.faults)} faults", flush=True)
    return found


def uninterrupted(bench: Bench, scenario: Scenario, out: Path) -> Whole:
    """Run it to its end."""
    started = time.monotonic()
    if code := end_of(bench.start(scenario, out)):
        fail(f"{scenario}: the uninterrupted run ended with exit code {code}", out)
    return Whole(out, time.monotonic() - started, results(out))


def check(scenario: Scenario, out: Path, expected: object) -> None:
    """See that nothing is lost, doubled, changed, unfinished or told as a traceback."""
    if results(out) != expected:
        fail(f"{scenario}: rows or weights differ from those of the uninterrupted run, in {out}", out)
    if left := list(out.rglob("*.unfinished")):
        fail(f"{scenario}: left behind {left[0]}", out)
    if "Traceback" in out.with_suffix(".log").read_text():
        fail(f"{scenario}: a traceback", out)


def page(found: Found, seconds: float) -> str:
    """`docs/campaigns/kills.md`."""
    counts, faults = found
    victims = ["driver, SIGKILL", "driver, SIGTERM", "disk", "memory", "crash", "worker, SIGKILL"]
    lines = ["# Kills", "", "Runs of `cs-run` interrupted at random moments and continued, by"]
    lines += ["`python scripts/campaigns/kill_runs.py`, whose text says how. Seed 0; Python"]
    lines += [f"{platform.python_version()}, centersmooth {centersmooth.__version__}, torch {torch.__version__};"]
    lines += [f"{seconds / 60:.0f} minutes on {os.cpu_count()} cores.", ""]
    lines += [f"**Result.** {counts.total()} interruptions, {sum(_of(counts, victims[-1]))} of them of workers."]
    if faults:
        lines += [f"{len(faults)} ended otherwise than they have to:", "", *(f"- {fault}" for fault in faults), ""]
    else:
        lines += ["0 rows lost, doubled or changed, every checkpoint as an uninterrupted training leaves it.", ""]
    lines += [f"| certified | run by | {' | '.join(victims)} |", f"|---|---|{'---|' * len(victims)}"]
    for output, executor in sorted({key[:2] for key in counts}):
        row = [str(counts[output, executor, victim] or "") for victim in victims]
        lines += [f"| {output} | {executor} | {' | '.join(row)} |"]
    lines += [f"| all | | {' | '.join(str(sum(_of(counts, victim))) for victim in victims)} |", ""]
    lines += ["*Disk*: nothing more can be written from some moment on. *Memory*: 0.5 to 64 MiB are left to the"]
    lines += [
        "process; runs that need no more are not counted. Both end in one line, or in points that are tried again.",
        "*Crash*: memory ran out in native code that does not look whether it got any, which ends the process.",
    ]
    return "\n".join(lines) + "\n"


def _of(counts: Counter[tuple[str, str, str]], victim: str) -> list[int]:
    return [number for key, number in counts.items() if key[2] == victim]


def prepare(folder: Path) -> None:
    """Write the module and the inputs of the user's own into a folder."""
    (folder / "own.py").write_text(OWN)
    np.save(folder / "inputs.npy", np.random.default_rng(0).uniform(size=(6, 64)).astype(np.float32))


def main(kills: int = 60, minutes: float = math.inf) -> None:
    """Run the campaign and write its page."""
    torch.set_num_threads(1)
    started = time.monotonic()
    scenarios = [Scenario(output, executor) for executor in _TURNS for output in OUTPUTS]
    random.Random(0).shuffle(scenarios)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(prefix="r") as own:
        prepare(Path(name))
        with cluster(Path(own)) as (address, raylets):
            found = campaign(kills, scenarios, Bench(Path(name), address, raylets), minutes)
    target = Path(__file__).parents[2] / "docs" / "campaigns" / "kills.md"
    target.write_text(page(found, time.monotonic() - started))
    sys.exit(1 if found.faults else 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
