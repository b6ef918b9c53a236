"""Break the library in small ways, one at a time; a test has to fail each time.

Usage: pip install 'centersmooth[campaigns]' && python scripts/campaigns/mutants.py [STEP [SEED]]

mutmut changes one operator, number, name or default in the modules that `[tool.mutmut]` in pyproject.toml names, all of
the library, and runs the tests of the library that reach the function. Only every STEP-th mutant is tried, from a
start drawn with SEED; 1 tries all. Verdicts are kept in `mutants/`: another call adds its sample to them, and tries
again what survived before. The summary of all goes to `docs/campaigns/mutants.json`; survivors, with the changed lines,
are explained in `docs/campaigns/mutants.md` or killed by a test.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).parents[2]
CAUGHT = ("killed", "timeout", "segfault", "suspicious")
"""A mutant that never ends, or brings the process down, is noticed as surely as a failing test."""


def mutmut(*arguments: str) -> str:
    """Run mutmut in the repository, one test process at a time; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"mutmut {arguments[0]} failed: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def verdicts() -> dict[str, int | None]:
    """Every mutant's name with mutmut's exit code; None where it has not been tried."""
    found: dict[str, int | None] = {}
    for path in sorted((ROOT / "mutants").rglob("*.meta")):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


def caught(code: int | None) -> bool:
    return status_by_exit_code[code] in CAUGHT


def to_try(codes: dict[str, int | None], step: int, seed: int) -> list[str]:
    """Every ``step``-th name in order, so that each function has its share, and what was tried; unless caught."""
    names = sorted(codes)
    sample = set(names[random.Random(seed).randrange(step) :: step])
    return [name for name in names if (name in sample or codes[name] is not None) and not caught(codes[name])]


def changed_lines(name: str) -> list[str]:
    """The lines a mutant takes away and puts in."""
    lines = mutmut("show", name).splitlines()
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def summarise(codes: dict[str, int | None]) -> dict[str, Any]:
    tried = {name: code for name, code in codes.items() if code is not None}
    modules = Counter((name.rpartition(".x")[0], caught(code)) for name, code in tried.items())
    return {
        "mutants": len(codes),
        "tried": len(tried),
        "by ending": dict(sorted(Counter(status_by_exit_code[code] for code in tried.values()).items())),
        "caught of tried, by module": {
            name: f"{modules[name, True]} of {modules[name, True] + modules[name, False]}"
            for name in sorted({name for name, _ in modules})
        },
        "survivors": {name: changed_lines(name) for name, code in sorted(tried.items()) if not caught(code)},
    }


def main(step: int, seed: int) -> None:
    """Run the campaign: the first call of mutmut makes all mutants and times the tests, the second tries a sample."""
    started = time.monotonic()
    mutmut("run", "--max-children", "1", "centersmooth.bounds.x_half_count__mutmut_1")
    if names := to_try(verdicts(), step, seed):
        mutmut("run", "--max-children", "1", *names)
    summary = summarise(verdicts())
    content = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    (ROOT / "docs" / "campaigns" / "mutants.json").write_text(content, encoding="utf-8")
    print(json.dumps(summary["by ending"]), f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*given, *(1, 0)[len(given) :])
