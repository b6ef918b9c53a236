"""Smoothed outputs beside the truth, where a model is trained to give back its examples, or maps of their pixels.

The smoothing error compares a smoothed output with the base model's own. A model that answers the same to everything
has none, and a radius of 0: what its answer is worth is the distance to the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from centersmooth import Metric
from centersmooth.metrics.base import between
from csrun.cells.rows import Row, csv_lines, text
from csrun.cells.store import CellStore
from csrun.registry import key_of
from csrun.report.tables import KEYS

COLUMNS = ("cell", *KEYS, "about", "point", "source", "distance")


def truth_lines(
    store: CellStore, metrics: Mapping[str, Metric], rows: Iterable[Row], truth_at: Callable[[int], Tensor]
) -> list[Row]:
    """The lines of `tables.TRUTH_FILE` for the certified rows of one cell, in its metrics; the truth is a point's."""
    lines = []
    for row in rows:
        if row["outcome"] != "certified" or row["metric"] not in metrics:
            continue
        key, point = key_of(row["certifier"], row["metric"], row["rule"]), int(row["point"])
        metric = metrics[row["metric"]]
        answer = store.certifiers[key].answer(store.load(key, point), store.setting(point), row["rule"]).answer
        assert answer is not None  # it was certified
        distance = between(metric, answer.double(), truth_at(point).double())
        lines.append({key: row[key] for key in COLUMNS if key in row} | {"distance": text(distance)})
    return lines


def truth_table(lines: Iterable[Row]) -> bytes:
    """`tables.TRUTH_FILE` as bytes."""
    return csv_lines(lines, header=True, columns=COLUMNS)
