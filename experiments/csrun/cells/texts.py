"""Certified texts: the table that says them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from centersmooth.metrics import decode_texts
from csrun.cells.rows import Row, csv_lines
from csrun.cells.store import CellStore
from csrun.registry import key_of, measures_texts
from csrun.report.tables import KEYS

COLUMNS = ("cell", *KEYS, "about", "point", "source", "radius", "base", "smoothed")


def text_lines(store: CellStore, rows: Iterable[Row]) -> list[Row]:
    """The lines of `tables.TEXTS_FILE` for the certified texts among the rows of one cell.

    ``base`` is the text of the base model at the unperturbed input, ``smoothed`` the text that is certified.
    """
    lines = []
    for row in rows:
        if measures_texts(row["metric"]) and row["outcome"] == "certified":
            key, point = key_of(row["certifier"], row["metric"], row["rule"]), int(row["point"])
            found = store.certifiers[key].answer(store.load(key, point), store.setting(point), row["rule"])
            base, smoothed = decode_texts(torch.stack([found.base, found.answer]))
            lines.append({name: row[name] for name in COLUMNS if name in row} | {"base": base, "smoothed": smoothed})
    return lines


def text_table(lines: Iterable[Row]) -> bytes:
    """`tables.TEXTS_FILE` as bytes."""
    return csv_lines(lines, header=True, columns=COLUMNS)
