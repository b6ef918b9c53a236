"""``make bench``: measure, print, and write ``bench/results/<device>.csv`` and its plot.

Usage: python bench/run.py [CASE ...], with the cases memory, centers, answers, sets, means, draws, models, faces,
perceptual, overheads and ray; all of them by default.
Rows of cases that are not run stay in the table.
"""

from __future__ import annotations

import csv
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import cases
import cluster
import torch
from draw import draw
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from csrun.config import Config, register_schema, resolve
from csrun.help import config_folder
from csrun.system.memory import keep_freed_memory
from csrun.system.provenance import provenance

FOLDER = Path(__file__).resolve().parent / "results"
NEEDS = {"faces": ["celeba_test.zip"], "perceptual": ["vgg16_features.pth"]}


def compose(*overrides: str) -> Config:
    """The configuration a command line gives."""
    register_schema()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return resolve(hydra_compose("config", list(overrides)), cuda=False)


CASES: dict[str, Callable[[], Iterable[cases.Row]]] = {
    "memory": partial(cases.memory, compose),
    "centers": cases.centers,
    "answers": cases.answers,
    "sets": cases.sets,
    "means": cases.means,
    "draws": cases.draws,
    "models": cases.models,
    "faces": cases.faces,
    "perceptual": cases.perceptual,
    "overheads": partial(cases.overheads, compose),
    "ray": partial(cluster.executors, compose),
}
"""In this order: the peak of memory is that of the process, so it comes first."""


def machine() -> dict[str, object]:
    """Hardware and versions, a column each."""
    facts = provenance("cpu")
    versions, hardware = facts["versions"], facts["hardware"]
    return {
        "device": "cpu",
        "processor": _processor(),
        "cores": hardware["cores"],
        "threads": hardware["threads"],
        "python": versions["python"],
        "torch": versions["torch"],
        "commit": facts["commit"][:12],
    }


def _processor() -> str:
    """Its name and the widest vectors PyTorch uses on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {torch.backends.cpu.get_cpu_capability()}"


def measure(names: Iterable[str]) -> Iterator[dict[str, object]]:
    """Rows of the cases whose data are there; says which are not."""
    for name in names:
        absent = [file for file in NEEDS.get(name, []) if not (cases.DATA / file).is_file()]
        if absent:
            print(f"{name}: left out, no {', '.join(absent)} in $CENTERSMOOTH_DATA")
            continue
        for row in CASES[name]():
            print({key: value for key, value in row.items() if value is not None}, flush=True)
            yield {"group": name, **row, **machine()}


def main(arguments: list[str]) -> None:
    if unknown := set(arguments) - set(CASES):
        sys.exit(f"bench: no case {', '.join(sorted(unknown))}: expected some of {', '.join(CASES)}")
    names = [name for name in CASES if name in arguments or not arguments]
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run does
    path = FOLDER / "cpu.csv"
    kept = list(csv.DictReader(path.open())) if path.is_file() else []
    rows: list[dict[str, object]] = list(measure(names))
    measured = {row["group"] for row in rows}
    rows += [row for row in kept if row["group"] not in measured]
    rows.sort(key=lambda row: list(CASES).index(str(row["group"])))
    FOLDER.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(path.name, draw(path).name)


if __name__ == "__main__":
    main(sys.argv[1:])
