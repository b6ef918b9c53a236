"""Certified texts beside those of the base model: the table printed at the end of a run."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csrun.report.tables import TEXTS_FILE, number

if TYPE_CHECKING:
    from rich.table import Table


def texts_table(folder: Path, manifest: Mapping[str, Any]) -> Table | None:
    """Texts of an experiment's first metric by the drawn rule: base, smoothed, and the radius at each ``eps``.

    Returns
    -------
    rich.table.Table or None
        None where no text is certified.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = _lines(folder, manifest)
    if not lines:
        return None
    grid = sorted({(float(line["scale"]), float(line["eps"])) for line in lines})
    caption = f"radius: {manifest['metrics'][0]}, rule {manifest['rule']['rule']}"
    table = Table(title="base text, and below it the smoothed one", caption=caption, box=box.SIMPLE)
    table.pad_edge, table.show_edge, table.padding = False, False, (0, 1, 0, 0)
    table.add_column("point")
    table.add_column("text")
    several = len({scale for scale, _ in grid}) > 1
    for scale, eps in grid:
        table.add_column(f"radius at\neps {eps:g}" + f"\nscale {number(scale)}" * several, justify="right")
    by_point: dict[tuple[str, str], dict[tuple[float, float], dict[str, str]]] = {}
    for line in lines:
        pair = float(line["scale"]), float(line["eps"])
        by_point.setdefault((line["model"], line["source"]), {})[pair] = line
    for (_, source), own in by_point.items():
        first = next(iter(own.values()))
        radii = [number(float(own[pair]["radius"])) if pair in own else "–" for pair in grid]
        table.add_row(source, Text(f"{first['base']}\n{first['smoothed']}"), *radii)
    return table


def _lines(folder: Path, manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    """Lines of the table of texts by the drawn rule in the first metric; none without a table."""
    path, wanted = folder / TEXTS_FILE, {"metric": manifest["metrics"][0], **manifest["rule"]}
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [line for line in csv.DictReader(file) if wanted.items() <= line.items()]
