"""Time and memory of `cs-run` at the paper's counts, beside what `--dry-run` says of them.

Usage: python scripts/campaigns/load.py [NAME...]    the names of `REQUESTS`; all of them without

Each request certifies one or more points by one certifier in one metric, in a process of its own, with its models
trained before. Its time is that of the process, less that of the same command again, which finds everything done; its
memory the largest sum over its processes of what they hold (what several share counts once). The estimate is made in
the same minute. Timings mean something on an idle machine only. The table goes to `docs/campaigns/load.md`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from centersmooth import version
from csrun.config import resolved
from csrun.cost import estimate
from csrun.plan import make_plan
from csrun.runner import threads_of
from csrun.system.threads import threads

PAGE = Path(__file__).parents[2] / "docs" / "campaigns" / "load.md"

_DIGITS = ["experiment=tv_digits", "budget=paper", "grid.eps=[0.4]", "grid.h=[1]", "train.epochs=1", "points.count=1"]
_LABELS = ["experiment=label_digits", "budget=paper", "grid.eps=[0.5]", "grid.scale=[0.5]", "train.epochs=1"]
_MILLION = ["n=10000", "m=1000000", "points.count=1"]
_MNIST = ["budget=paper", "grid.eps=[0.4]", "train.epochs=1", "train.images=1000", "points.count=1"]
_ALL_POINTS = "points.count=10000"
_FACES = ["experiment=jaccard_astronaut", "budget=paper", "grid.eps=[0.1]", "points.count=1"]


def _digits(certifier: str, metric: str) -> list[str]:
    return [*_DIGITS, f"certifiers=[{certifier}]", f"metrics=[{metric}]"]


REQUESTS = {
    **{f"center, {metric}": _digits("center", metric) for metric in ("tv", "l1", "l2", "sql2", "cosine", "angular")},
    "center_free, l2": _digits("center_free", "l2"),
    "center_nearest, l2": _digits("center_nearest", "l2"),
    "mean, tv": _digits("mean", "tv"),
    "mean, l2": _digits("mean", "l2"),
    "direction, angular": _digits("direction", "angular"),
    "label": [*_LABELS, *_MILLION],
    "score": [*_LABELS, *_MILLION, "models=[lenet_probabilities]", "certifiers=[score]"],
    "percentile": [*_LABELS, *_MILLION, "models=[lenet_probabilities]", "certifiers=[percentile]"],
    "all of images at once": _digits("center,center_free,center_nearest,mean", "l2"),
    "center, jaccard": [*_FACES, "certifiers=[center]"],
    "percentile_box": [*_FACES, "certifiers=[percentile_box]"],
    "center, boxes": ["experiment=boxes_astronaut", "budget=paper", "grid.eps=[0.1]", "points.count=1"],
    "center, tv, on MNIST": ["experiment=tv_mnist", *_MNIST, "grid.h=[1]", "models=[autoencoder]", "m=100000"],
    "segmentation, on MNIST": ["experiment=segment_mnist", *_MNIST, "certifiers=[segmentation]", "m=20000"],
    "center, hamming, on MNIST": ["experiment=segment_mnist", *_MNIST, "certifiers=[center]", "m=20000"],
    "prototypes, on MNIST": ["experiment=prototypes_mnist", *_MNIST, "m=100000"],
    "16 workers": [*_LABELS, "points.count=160", "m=10000", "workers=16"],
    "10,000 points": ["experiment=label_mnist", *_MNIST[2:4], "n=50", "m=200", "grid.scale=[0.5]", _ALL_POINTS],
}
"""Settings of `cs-run` by what they put under load."""


class Measured(NamedTuple):
    """Seconds and bytes."""

    seconds: float
    memory: int


def predicted(settings: Sequence[str]) -> tuple[int, Measured]:
    """Forward passes of a request, and what `--dry-run` says of its time and memory, for models that are trained."""
    plan = make_plan(resolved(settings))
    with threads(threads_of(plan.config)):
        costs = estimate(plan)
    seconds = sum(cost.seconds - cost.training_seconds for cost in costs)
    return sum(cost.passes for cost in costs), Measured(seconds, max(cost.memory for cost in costs))


def run(settings: Sequence[str]) -> Measured:
    """Run a request: its seconds and the most memory that its processes held together."""
    started, most = time.perf_counter(), 0
    command = [sys.executable, "-c", "from csrun.cli import main; main()", *settings]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        held = 0
        with suppress(psutil.NoSuchProcess):
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    held += one.memory_full_info().pss
        most = max(most, held)
        time.sleep(0.05)
    ended = time.perf_counter()
    if process.returncode:
        sys.exit(f"cs-run {' '.join(settings)}: {process.stderr.read().decode()}")
    return Measured(ended - started, most)


def row(name: str, settings: Sequence[str], out: str) -> str:
    """A row of the table: a request, its passes, and time and memory as estimated, as measured, and in proportion."""
    asked = [*([] if any("workers" in one for one in settings) else ["workers=1"]), *settings, f"out={out}"]
    run([*asked, "n=400", "m=1000", "delta=0.2", "points.count=1"])  # trains
    passes, said = predicted(asked)
    measured, again = run(asked), run(asked)
    seconds = measured.seconds - again.seconds
    numbers = f"{said.seconds:.1f} | {seconds:.1f} | {said.seconds / seconds:.2f}"
    memory = f"{said.memory / 2**20:,.0f} | {measured.memory / 2**20:,.0f} | {said.memory / measured.memory:.2f}"
    command = " ".join(f'"{one}"' if "[" in one else one for one in settings)
    return f"| {name} | {passes:,} | {numbers} | {memory} | `cs-run {command}` |"


def main(names: Sequence[str]) -> None:
    """Measure requests and write the page."""
    if unknown := sorted(set(names) - set(REQUESTS)):
        sys.exit(f"no request is called {', '.join(unknown)}: {'; '.join(REQUESTS)}")
    head = (
        "| | forward passes | seconds, estimated | taken | ratio | MiB, estimated | held | ratio | command |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    print(head)
    rows = []
    with tempfile.TemporaryDirectory() as out:
        for name in names or REQUESTS:
            rows.append(row(name, REQUESTS[name], out))
            print(rows[-1], flush=True)
    cores = os.cpu_count()
    made = f"centersmooth {version.__version__}, torch {torch.__version__.partition('+')[0]}, {cores} cores"
    table = "\n".join([head, *rows])
    PAGE.write_text(f"{_TEXT.format(made=made)}\n{table}\n", encoding="utf-8")


_TEXT = """# Load

Time and memory at the paper's counts (`n` = 10,000 and `m` = 1,000,000; 5,000 and 10,000 for faces) or those of the
command, beside what `cs-run --dry-run` estimates, by `python scripts/campaigns/load.py`, whose text says how. {made}.
"""

if __name__ == "__main__":
    main(sys.argv[1:])
