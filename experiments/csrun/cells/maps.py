"""Certified segmentations beside the truth: what their table of intersections over union and their panels show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.certifiers import certified_iou
from centersmooth.certifiers.segmentation import SegmentationCertificate
from csrun.cells.rows import Row, csv_lines, text
from csrun.cells.store import CellStore
from csrun.registry import key_of
from csrun.report.tables import KEYS

COLUMNS = ("cell", *KEYS, "about", "point", "source", "iou", "certified_iou")

TruthAt = Callable[[int], Tensor]
"""The classes of the pixels of a point."""


def iou_lines(store: CellStore, rows: Iterable[Row], truth_at: TruthAt) -> list[Row]:
    """The lines of `tables.IOU_FILE` for the segmentations among the rows of one cell.

    ``iou`` is that of the answer, ``certified_iou`` the least that it has under the perturbations of the row: means
    over the classes of the truth.
    """
    lines = []
    for row, (answer, certified, truth) in _maps(store, rows, truth_at):
        means = {"iou": torch.ones_like(certified), "certified_iou": certified}
        numbers = {name: _mean(certified_iou(answer, sure, truth)) for name, sure in means.items()}
        lines.append({key: row[key] for key in COLUMNS if key in row} | numbers)
    return lines


def iou_table(lines: Iterable[Row]) -> bytes:
    """`tables.IOU_FILE` as bytes."""
    return csv_lines(lines, header=True, columns=COLUMNS)


def panel_maps(store: CellStore, truth_at: TruthAt, rows: Sequence[Mapping[str, str]]) -> dict[str, NDArray[Any]]:
    """Maps of a panel, one for each of the rows: ``classes``, which of them are ``certified``, and the ``truth``.

    Empty where the rows are of another certifier, or one of them has no map.
    """
    maps = [found for _, found in _maps(store, rows, truth_at)]
    if not maps or len(maps) < len(rows):
        return {}
    stacked = (torch.stack(several).numpy() for several in zip(*maps, strict=True))
    types = {"classes": np.int32, "certified": np.bool_, "truth": np.int32}
    return {name: array.astype(kind) for (name, kind), array in zip(types.items(), stacked, strict=True)}


def _maps(
    store: CellStore, rows: Iterable[Mapping[str, str]], truth_at: TruthAt
) -> Iterable[tuple[Mapping[str, str], tuple[Tensor, Tensor, Tensor]]]:
    """Answer, certified pixels and truth of each row that certifies a segmentation of the truth's shape."""
    for row in rows:
        if row["certifier"] != "segmentation" or row["outcome"] != "certified":
            continue
        key, point = key_of(row["certifier"], row["metric"], row["rule"]), int(row["point"])
        evidence, truth = store.load(key, point), truth_at(point)
        found = store.certifiers[key].certificate(evidence, float(row["eps"]), row["rule"], store.setting(point))
        assert isinstance(found, SegmentationCertificate)
        if found.answer is not None and found.certified is not None and found.answer.shape == truth.shape:
            yield row, (found.answer, found.certified, truth)


def _mean(by_class: Mapping[int, float]) -> str:
    return text(sum(by_class.values()) / len(by_class))
