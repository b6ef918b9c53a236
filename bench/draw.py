"""The plot of a table of measurements: cost against n, D and m, and the overhead of each experiment."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Rows = list[dict[str, str]]


def draw(table: Path) -> Path:
    """Write a PNG beside the table."""
    rows = list(csv.DictReader(table.open()))
    figure = Figure(figsize=(14, 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    (by_n, by_width, by_m), (answers, means, overhead) = figure.subplots(2, 3)
    centers = [row for row in rows if row["group"] == "centers"]
    _times(by_n, [row for row in centers if _size(row)["D"] in (784, 1512)], "n")
    _times(by_width, [row for row in centers if _size(row)["n"] == 2_500 and "Total" in row["case"]], "D")
    _times(by_m, [row for row in rows if row["group"] == "draws"], "m")
    beside = [row for row in rows if row["group"] == "answers" and row["case"].startswith("center_")]
    _bars(answers, [row | {"ours": str(float(row["ours"]) / float(row["other"]))} for row in beside])
    answers.set(xscale="log", xlabel="times the search for a center, n = 10,000")
    _bars(means, [row for row in rows if row["group"] == "means"])
    means.set_xlabel("percent above the bare passes, m = 100,000")
    _bars(overhead, [row for row in rows if row["group"] == "overheads"])
    overhead.set_xlabel("percent above the bare passes (mark: the limit)")
    path = table.with_suffix(".png")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _size(row: dict[str, str]) -> dict[str, int]:
    """``n=100 D=20`` as numbers.

    >>> _size({"size": "n=100 D=20"})
    {'n': 100, 'D': 20}
    """
    return {key: int(value) for key, _, value in (part.partition("=") for part in row["size"].split())}


def _times(axes: Axes, rows: Rows, key: str) -> None:
    for case in dict.fromkeys(row["case"] for row in rows):
        own = sorted((_size(row)[key], float(row["ours"]), float(row["other"])) for row in rows if row["case"] == case)
        sizes, ours, loop = zip(*own, strict=True)
        (line,) = axes.loglog(sizes, ours, "o-", label=case)
        axes.loglog(sizes, loop, "x--", color=line.get_color(), label=f"{case}, plain")
    labels = {"n": "draws n for a center", "D": "features D of an output (n = 2,500)", "m": "draws m for a radius"}
    measured = sorted({_size(row)[key] for row in rows})
    axes.set_xticks(measured, [f"{size:,}" for size in measured])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(labels[key])
    axes.set_ylabel("CPU seconds")
    if rows:
        axes.legend(fontsize=6)


def _bars(axes: Axes, rows: Rows) -> None:
    """A bar for each case, with a mark at its target."""
    names = [row["case"].removeprefix("overhead ") for row in rows]
    axes.barh(names, [float(row["ours"]) for row in rows])
    for position, row in enumerate(rows):
        if row["target"]:
            axes.plot([float(row["target"])] * 2, [position - 0.4, position + 0.4], "k", linewidth=1)
    axes.tick_params(axis="y", labelsize=6)
