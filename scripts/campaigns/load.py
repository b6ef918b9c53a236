"""Time and memory of `cs-run` at the paper's counts, beside what `--dry-run` says of them.

Usage: python scripts/campaigns/load.py [NAME...]    the names of `REQUESTS`; all of them without. Other rows stay.

Each request certifies one or more points by one certifier in one metric, in a process of its own, with its models
trained before. Its time is that of the process, less that of the same command again, which finds everything done; its
memory the largest sum over its processes of what they hold (what several share counts once). The estimate is the lesser
of two, made right before and right after: one that meets a busy second of the machine says too much. A registered model
has every metric of its outputs computed in one pass, whichever are asked for; metrics are compared on a model of one
layer, in `own.py`. Timings mean something on an idle machine only. The table goes to `docs/campaigns/load.md`.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir, suppress
from importlib.metadata import version as installed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from centersmooth import version

PAGE = Path(__file__).parents[2] / "docs" / "campaigns" / "load.md"

_DIGITS = ["experiment=tv_digits", "budget=paper", "grid.eps=[0.4]", "grid.h=[1]", "train.epochs=1", "points.count=1"]
_LABELS = ["experiment=label_digits", "budget=paper", "grid.eps=[0.5]", "grid.scale=[0.5]", "train.epochs=1"]
_MILLION = ["n=10000", "m=1000000", "points.count=1"]
_MNIST = ["budget=paper", "grid.eps=[0.4]", "train.epochs=1", "train.images=1000", "points.count=1"]
_ALL_POINTS = "points.count=10000"
_FACES = ["experiment=jaccard_astronaut", "budget=paper", "grid.eps=[0.1]", "points.count=1"]
_GAN = ["experiment=lpips_dcgan", "budget=paper", "grid.eps=[0.03]", "grid.h=[1]", "points.count=1"]
_OWN = ["experiment=custom", "budget=paper", "data.path=inputs.npy", "grid.eps=[0.4]", "points.count=4"]


def _digits(*certifiers: str, metric: str = "l2") -> list[str]:
    return [*_DIGITS, f"certifiers=[{','.join(certifiers)}]", f"metrics=[{metric}]"]


def _own(model: str, metric: str) -> list[str]:
    return [*_OWN, f"model=own:{model}", f"metric={metric}", "certifiers=[center]"]


OWN = """
import torch
from centersmooth.metrics import encode_texts


def layer():
    torch.manual_seed(0)
    return torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect").eval()


def ink():
    return lambda images: (images > 0.5).int()


def reader():
    return lambda images: encode_texts(["ab" * int(row.mean().clamp(0, 1) * 16) for row in images], length=40)
"""
"""Models of images of 8x8: images, maps of two classes, and texts."""

REQUESTS = {
    "center, every metric of images": _digits("center"),
    "center_free": _digits("center_free"),
    "center_nearest": _digits("center_nearest"),
    "mean": _digits("mean"),
    "direction": _digits("direction", metric="angular"),
    "all of images at once": _digits("center", "center_free", "center_nearest", "mean"),
    **{f"center, {metric}": _own("layer", metric) for metric in ("tv", "l1", "l2", "sql2", "cosine", "angular")},
    "center, hamming": _own("ink", "hamming"),
    "center, mask_jaccard": _own("ink", "mask_jaccard"),
    "center, edit": [*_own("reader", "edit"), "m=100000"],
    "segmentation": [*_OWN, "model=own:ink", "metric=hamming", "certifiers=[segmentation]"],
    "label": [*_LABELS, *_MILLION],
    "score": [*_LABELS, *_MILLION, "models=[lenet_probabilities]", "certifiers=[score]"],
    "percentile": [*_LABELS, *_MILLION, "models=[lenet_probabilities]", "certifiers=[percentile]"],
    "center, jaccard": [*_FACES, "certifiers=[center]"],
    "percentile_box": [*_FACES, "certifiers=[percentile_box]"],
    "center, boxes": ["experiment=boxes_astronaut", "budget=paper", "grid.eps=[0.1]", "points.count=1"],
    "center, tv, on MNIST": ["experiment=tv_mnist", *_MNIST, "grid.h=[1]", "models=[autoencoder]", "m=100000"],
    "segmentation, on MNIST": ["experiment=segment_mnist", *_MNIST, "certifiers=[segmentation]", "m=20000"],
    "center, hamming, on MNIST": [
        "experiment=segment_mnist",
        *_MNIST,
        "certifiers=[center]",
        "m=20000",
        "grid.eps=[0.1]",
    ],
    "prototypes, on MNIST": ["experiment=prototypes_mnist", *_MNIST, "m=100000"],
    "16 workers": [*_LABELS, "points.count=160", "m=10000", "workers=16"],
    "center, lpips": [*_GAN, "n=1000", "n0=10", "m=1000", "delta=0.1"],
    "10,000 points": ["experiment=label_mnist", *_MNIST[2:4], "n=50", "m=200", "grid.scale=[0.5]", _ALL_POINTS],
}
"""Settings of `cs-run` by what they put under load."""


class Measured(NamedTuple):
    """Seconds and bytes."""

    seconds: float
    memory: int


def predicted(settings: Sequence[str]) -> tuple[int, Measured]:
    """Forward passes of a request, and what `--dry-run` says of its time and memory, for models that are trained.

    Called in a process of its own, which ends: what it imports would be shared with the process that is measured.
    """
    from csrun.config import resolved
    from csrun.cost import estimate
    from csrun.plan import make_plan
    from csrun.runner import threads_of
    from csrun.system.threads import threads

    sys.path.insert(0, ".")  # own.py
    plan = make_plan(resolved(settings))
    with threads(threads_of(plan.config)):
        costs = estimate(plan)
    seconds = sum(cost.seconds - cost.training_seconds for cost in costs)
    return sum(cost.passes for cost in costs), Measured(seconds, max(cost.memory for cost in costs))


def _apart(settings: Sequence[str]) -> tuple[int, Measured]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(predicted, (settings,))


def run(settings: Sequence[str]) -> Measured:
    """Run a request: its seconds and the most memory that it held, by all its processes together."""
    started, most = time.perf_counter(), 0
    command = [sys.executable, "-c", "from csrun.cli import main; main()", *settings]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            most = max(most, held(process))
        time.sleep(0.05)
    ended = time.perf_counter()
    if process.returncode:
        sys.exit(f"cs-run {' '.join(settings)}: {process.stderr.read().decode()}")
    return Measured(ended - started, most)


def held(process: psutil.Process) -> int:
    """Bytes: so far the most, as the system keeps it, of a process alone; at the moment, of one with children."""
    family = [process, *process.children(recursive=True)]
    if len(family) > 1:
        return sum(one.memory_full_info().pss for one in family)
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 2**10
    return 0


def row(name: str, settings: Sequence[str]) -> str:
    """A row of the table: a request, its passes, and time and memory as estimated, as measured, and in proportion."""
    with tempfile.TemporaryDirectory() as out:
        asked = [*([] if any("workers" in one for one in settings) else ["workers=1"]), *settings, f"out={out}"]
        run([*asked, "n=400", "m=1000", "delta=0.2", "points.count=1"])  # trains
        before = _apart(asked)
        measured, again = run(asked), run(asked)
        after = _apart(asked)
    passes, said = min(before, after, key=lambda one: one[1].seconds)
    seconds = measured.seconds - again.seconds
    numbers = f"{said.seconds:.1f} | {seconds:.1f} | {said.seconds / seconds:.2f}"
    memory = f"{said.memory / 2**20:,.0f} | {measured.memory / 2**20:,.0f} | {said.memory / measured.memory:.2f}"
    command = " ".join(f'"{one}"' if "[" in one else one for one in settings)
    return f"| {name} | {passes:,} | {numbers} | {memory} | `cs-run {command}` |"


def published() -> dict[str, str]:
    """Rows of the page by their requests."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


def main(names: Sequence[str]) -> None:
    """Measure requests and write the page, a request at a time."""
    if unknown := sorted(set(names) - set(REQUESTS)):
        sys.exit(f"no request is called {', '.join(unknown)}: {'; '.join(REQUESTS)}")
    torch, cores = installed("torch").partition("+")[0], os.cpu_count()
    text = _TEXT.format(made=f"centersmooth {version.__version__}, torch {torch}, {cores} cores")
    rows = published()
    print(_HEAD)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("own.py").write_text(OWN)
        np.save("inputs.npy", np.random.default_rng(0).uniform(size=(4, 1, 8, 8)).astype(np.float32))
        for name in names or REQUESTS:
            rows[name] = row(name, REQUESTS[name])
            print(rows[name], flush=True)
            table = "\n".join([_HEAD, *(rows[one] for one in REQUESTS if one in rows)])
            PAGE.write_text(f"{text}\n{table}\n", encoding="utf-8")


_HEAD = (
    "| | forward passes | seconds, estimated | taken | ratio | MiB, estimated | held | ratio | command |\n"
    "|---|---|---|---|---|---|---|---|---|"
)

_TEXT = """# Load

Time and memory at the paper's counts (`n` = 10,000 and `m` = 1,000,000; 5,000 and 10,000 for faces) or those of the
command, beside what `cs-run --dry-run` estimates, by `python scripts/campaigns/load.py`, whose text says how. {made}.

Estimates are to be within 30% on an idle machine; a ratio below 0.7 or above 1.3 is one that is not.
"""

if __name__ == "__main__":
    main(sys.argv[1:])
