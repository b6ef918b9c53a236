"""Run every experiment of the paper at one budget; resumable, and one failure stops nothing else.

Usage: python scripts/reproduce_all.py BUDGET [KEY=VALUE ...]

First each experiment says what it would cost (``cs-run --dry-run``), then each runs; done cells are skipped. A table at
the end says what did not run and why. Exit code 0 if everything ran, 2 if there is no such budget, 130 if it was
interrupted, else 1; the same command then continues.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from csrun.help import described, experiments
from csrun.system.progress import duration

CS_RUN = [sys.executable, "-c", "from csrun.cli import main; main()"]
NOT_STARTED = -1
ENDINGS = {
    NOT_STARTED: "not started",
    0: "done",
    1: "done, some points failed",
    2: "not run",
    130: "interrupted",
    143: "interrupted",
}


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


def run_all(names: list[str], settings: list[str]) -> list[Result]:
    """Every experiment in turn; those after an interruption are named as not started."""
    results: list[Result] = []
    try:
        for name in names:
            results.append(run(name, settings))
            if results[-1].code in (130, 143):
                break
    except KeyboardInterrupt:
        results.append(Result(names[len(results)], 130, 0.0, ""))
    return results + [Result(name, NOT_STARTED, 0.0, "") for name in names[len(results) :]]


def main(arguments: list[str]) -> int:
    console = Console(markup=False)
    budget, *further = arguments or ["auto"]
    settings, names = [f"budget={budget}", *further], [name for name in experiments() if name != "custom"]
    budgets = dict.fromkeys(["auto", *(one for name in names for one in described(name)["budgets"])])
    if budget not in budgets:
        print(f"reproduce_all: BUDGET is {budget!r}: expected one of {', '.join(budgets)}", file=sys.stderr)
        return 2
    try:
        for name in names:
            console.print(f"{name}: {estimate(name, settings)}", highlight=False)
    except KeyboardInterrupt:
        console.print("stopped before any experiment was started")
        return 130
    results = run_all(names, settings)
    table = Table("experiment", "ended", "time", "why not", title="reproduce-all")
    for result in results:
        ending = ENDINGS.get(result.code, f"exit code {result.code}")
        table.add_row(result.name, ending, duration(result.seconds), result.reason)
    console.print(table)
    codes = {result.code for result in results}
    return 130 if NOT_STARTED in codes or 130 in codes else 0 if codes == {0} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
