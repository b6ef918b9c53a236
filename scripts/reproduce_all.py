"""Run every experiment of the paper at one budget; resumable, and one failure stops nothing else.

Usage: python scripts/reproduce_all.py BUDGET [KEY=VALUE ...]

First each experiment says what it would cost (``cs-run --dry-run``), then each runs; done cells are skipped. A table at
the end says what did not run and why. Exit code 0 if everything ran, else 1.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from centersmooth_experiments.cli import experiments
from centersmooth_experiments.progress import duration

CS_RUN = [sys.executable, "-c", "from centersmooth_experiments.cli import main; main()"]
ENDINGS = {0: "done", 1: "done, some points failed", 2: "not run", 130: "interrupted", 143: "interrupted"}


@dataclass(frozen=True)
class Result:
    """How one experiment ended."""

    name: str
    code: int
    seconds: float
    reason: str


def estimate(name: str, settings: list[str]) -> str:
    """The last sentence of a dry run, or why there is none."""
    done = subprocess.run([*CS_RUN, "--dry-run", f"experiment={name}", *settings], capture_output=True, text=True)
    lines = done.stdout.split("┘")[-1].split() if done.returncode == 0 else done.stderr.split()
    return " ".join(lines)


def run(name: str, settings: list[str]) -> Result:
    """One experiment, its output passed through."""
    started = time.monotonic()
    done = subprocess.run([*CS_RUN, f"experiment={name}", *settings], stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    reason = done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr.strip() else ""
    return Result(name, done.returncode, time.monotonic() - started, reason)


def main(arguments: list[str]) -> int:
    console = Console()
    settings = [f"budget={arguments[0] if arguments else 'auto'}", *arguments[1:]]
    names = [name for name in experiments() if name != "custom"]
    for name in names:
        console.print(f"[bold]{name}[/]: {estimate(name, settings)}", highlight=False)
    results = []
    for name in names:
        results.append(run(name, settings))
        if results[-1].code in (130, 143):
            break
    table = Table("experiment", "ended", "time", "why not", title="reproduce-all")
    for result in results:
        ending = ENDINGS.get(result.code, f"exit code {result.code}")
        table.add_row(result.name, ending, duration(result.seconds), result.reason)
    console.print(table)
    return 0 if all(result.code == 0 for result in results) and len(results) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
