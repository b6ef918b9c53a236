"""The table of attacks printed at the end of a run: for every certifier, how far they went and what is certified."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csrun.registry import default_rules
from csrun.report.tables import by_metric, number, quantile, read_attacks, rules_in, training_kind

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def attacks_table(folder: Path, manifest: Mapping[str, Any]) -> Table | None:
    """Medians over the attacked points of the radius and the largest movement, by each certifier's sharpest rule.

    Returns
    -------
    rich.table.Table or None
        None where nothing was attacked.
    """
    from rich import box
    from rich.table import Table

    found = by_metric(read_attacks(folder), manifest["metrics"])
    if found.empty:
        return None
    sharpest = default_rules(rules_in(found))
    found = found[found["certifier"].map(sharpest) == found["rule"]]
    swept = "scale" if manifest["curve"] == "scale" else "h"
    runs, beyond = int(found["runs"].sum()), int(found["beyond"].sum())
    caption = f"medians over the attacked points; {beyond} of {runs} runs at attacked inputs were beyond their radius"
    table = Table(title="certified, and found by attacks", caption=caption, box=box.SIMPLE)
    table.pad_edge, table.show_edge, table.padding = False, False, (0, 1, 0, 0)
    table.add_column("model, metric, certifier and rule", overflow="fold")
    for name in (swept, "eps", "points", "radius", "moved", "radius\nover moved"):
        table.add_column(name, justify="right")
    found, before = found.assign(answer=[_answer(line) for line in found.to_dict("records")]), ""
    for (answer, at, eps), points in found.groupby(["answer", swept, "eps"], dropna=False, sort=True):
        if before and answer != before:
            table.add_section()
        table.add_row("" if answer == before else answer, number(at), number(eps), *_medians(points))
        before = answer
    return table


def _answer(line: Mapping[str, Any]) -> str:
    """An attacked answer in words; a certifier that brings its own distance stands for its metric."""
    training = training_kind(line["train"], line["scale"])
    measured = [line["metric"]] * (line["metric"] != line["certifier"])
    model, rule = f"{line['model']} {line['dataset']}", f"{line['certifier']} {line['rule']}"
    return ", ".join([model, *[training] * bool(training), *measured, rule])


def _medians(points: pd.DataFrame) -> list[str]:
    radii, movements = points["radius"].to_numpy(), points["movement"].to_numpy()
    ratios = [radius / moved if moved else math.nan for radius, moved in zip(radii, movements, strict=True)]
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    return [str(len(points)), *(number(quantile(values, 0.5)) for values in (radii, movements, known))]
