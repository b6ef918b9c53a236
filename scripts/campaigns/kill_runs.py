"""Kill `cs-run` at random moments, over and over; what is continued equals what was never interrupted.

Usage: python scripts/campaigns/kill_runs.py [KILLS [OVERRIDE ...]]

Each round starts the same small run in an empty folder, kills it with SIGKILL (every fourth time with SIGTERM) at a
moment drawn anew each time from all of its duration, training and the writing of tables included, and starts it again
until it ends. Then its rows have to be those of an uninterrupted run, none missing, none twice, and no unfinished file
may be left. Processes are forked from one that has imported everything, so that moments fall into the run and not into
imports. The summary goes to `docs/campaigns/kills.json`, but for a request changed by overrides.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import matplotlib.backends.backend_pdf  # noqa: F401  imported before the fork: a run would import it as it goes
import sklearn.datasets  # noqa: F401  the same
import torch
import torch._dynamo  # by an optimiser

from csrun import runner  # noqa: F401
from csrun.cli import main as cs_run
from csrun.report import plots, tables  # noqa: F401

REQUEST = ["budget=smoke", "points.count=4", "grid.eps=[0.4,0.6]", "grid.h=[1]", "n=1000", "m=1100", "train.epochs=2"]
REQUEST += ["train.images=300", "workers=1"]
MOST_ATTEMPTS = 60


def start(out: Path, request: list[str]) -> int:
    """Fork a run into ``out``; returns the child's process number."""
    child = os.fork()
    if child:
        return child
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    sys.stderr = open(out.with_suffix(".log"), "a", buffering=1)  # noqa: SIM115  the process ends with it
    os.dup2(sys.stderr.fileno(), 2)
    try:
        cs_run([*request, f"out={out}"])
    except SystemExit as ending:
        os._exit(ending.code if isinstance(ending.code, int) else 70)
    os._exit(70)


def end(child: int, after: float | None, number: int) -> int | None:
    """Send a signal after some seconds, or wait; the exit code, or None where the signal came first."""
    deadline = time.monotonic() + (3600 if after is None else after)
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    return None if os.waitstatus_to_exitcode(status) in (-number, 128 + number) else os.waitstatus_to_exitcode(status)


def rows(out: Path) -> list[dict[str, str]]:
    """The experiment's rows without their timings, and those of every cell."""
    found = []
    for table in sorted(out.glob("*/certificates.csv")):
        with open(table, newline="") as file:
            found += [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return found


def round_of_kills(out: Path, request: list[str], duration: float, dice: random.Random, counts: Counter[str]) -> None:
    """One run, killed again and again until it ends by itself."""
    for _ in range(MOST_ATTEMPTS):
        number = signal.SIGTERM if dice.random() < 0.25 else signal.SIGKILL
        code = end(start(out, request), dice.uniform(0, duration), number)
        if code == 0:
            return
        if code is not None:
            sys.exit(f"a continued run ended with exit code {code}: {out.with_suffix('.log').read_text()}")
        counts[number.name] += 1
    sys.exit(f"no end after {MOST_ATTEMPTS} attempts")


def main(kills: int, request: list[str], seed: int = 0) -> dict[str, object]:
    """Run the campaign; exits with a line where anything differs."""
    torch.set_num_threads(1)
    dice, counts, rounds = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        started = time.monotonic()
        if code := end(start(whole, request), None, signal.SIGKILL):
            sys.exit(f"the uninterrupted run ended with exit code {code}: {whole.with_suffix('.log').read_text()}")
        duration, expected = time.monotonic() - started, rows(whole)
        while counts.total() < kills:
            out = Path(folder) / f"killed-{rounds}"
            round_of_kills(out, request, duration, dice, counts)
            rounds += 1
            if rows(out) != expected:
                sys.exit(f"round {rounds} (seed {seed}): the rows differ from those of the uninterrupted run")
            if left := list(out.rglob("*.unfinished")):
                sys.exit(f"round {rounds} (seed {seed}): left behind {left[0]}")
    command = shlex.join(["python", "scripts/campaigns/kill_runs.py", str(kills), *request[len(REQUEST) :]])
    summary = {"kills": counts.total(), **counts, "runs continued to their end": rounds, "rows each": len(expected)}
    summary |= {"rows that differ": 0, "seed": seed, "command": command}
    print(json.dumps(summary))
    return summary


if __name__ == "__main__":
    overrides = sys.argv[2:]
    summary = main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, [*REQUEST, *overrides])
    if not overrides:
        target = Path(__file__).parents[2] / "docs" / "campaigns" / "kills.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(summary, indent=2) + "\n")
