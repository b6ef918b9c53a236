"""Certified segmentations: what their table of intersections over union and their panels show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.certifiers import certified_iou
from centersmooth.certifiers.segmentation import SegmentationCertificate, SegmentationEvidence
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
    for row, _, answer, certified in _segmentations(store, rows):
        truth = truth_at(int(row["point"]))
        if answer.shape != truth.shape:
            continue
        means = {"iou": torch.ones_like(certified), "certified_iou": certified}
        numbers = {name: _mean(certified_iou(answer, sure, truth)) for name, sure in means.items()}
        lines.append({key: row[key] for key in COLUMNS if key in row} | numbers)
    return lines


def iou_table(lines: Iterable[Row]) -> bytes:
    """`tables.IOU_FILE` as bytes."""
    return csv_lines(lines, header=True, columns=COLUMNS)


def panel_maps(
    store: CellStore, truth_at: TruthAt | None, rows: Sequence[Mapping[str, str]]
) -> dict[str, NDArray[Any]]:
    """Maps of a panel, one for each of the rows.

    ``base`` has the classes of the base model, ``classes`` those of the smoothed one, ``certified`` which of these are
    certified, ``truth`` the true ones if they are known.

    Empty where the rows are of another certifier, or an answer is no map of pixels, or none of the truth's shape.
    """
    maps = [maps_of_row for _, *maps_of_row in _segmentations(store, rows)]
    truths = [truth_at(int(row["point"])) for row in rows] if truth_at is not None and maps else []
    shapes = {one.shape for one in (*truths, *(answer for _, answer, _ in maps))}
    if not maps or len(maps) < len(rows) or len(shapes) > 1 or maps[0][0].ndim != 2:
        return {}
    stacked = dict(zip(("base", "classes", "certified"), zip(*maps, strict=True), strict=True)) | {"truth": truths}
    types = {"base": np.int32, "classes": np.int32, "certified": np.bool_, "truth": np.int32}
    return {name: torch.stack(list(each)).numpy().astype(types[name]) for name, each in stacked.items() if each}


def _segmentations(
    store: CellStore, rows: Iterable[Mapping[str, str]]
) -> Iterable[tuple[Mapping[str, str], Tensor, Tensor, Tensor]]:
    """Classes of the base model, answer and certified pixels of each row that certifies a segmentation."""
    for row in rows:
        if row["certifier"] != "segmentation" or row["outcome"] != "certified":
            continue
        key, point = key_of(row["certifier"], row["metric"], row["rule"]), int(row["point"])
        evidence = store.load(key, point)
        found = store.certifiers[key].certificate(evidence, float(row["eps"]), row["rule"], store.setting(point))
        assert isinstance(evidence, SegmentationEvidence)
        assert isinstance(found, SegmentationCertificate)
        if found.answer is not None and found.certified is not None:
            yield row, evidence.base, found.answer, found.certified


def _mean(by_class: Mapping[int, float]) -> str:
    return text(sum(by_class.values()) / len(by_class))
