"""Published results from the old names of rules and noise to the new ones. Run once; no number changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from csrun.report.panels import draw_panels
from csrun.report.plots import draw
from csrun.report.tables import ROW_COLUMNS, read_rows, summarise, write_summary

RULES = {
    ("paper", "doubled", "sample", "center"): ("center", "paper"),
    ("exact", "doubled", "sample", "center"): ("center", "exact"),
    ("exact", "measured", "sample", "center"): ("center", "measured"),
    ("exact", "measured", "free", "center"): ("center_free", "measured"),
    ("exact", "local", "mean", "mean"): ("mean", "local"),
    ("exact", "global", "mean", "mean"): ("mean", "global"),
}
OLD = ["bounds", "far", "center", "smoothing"]


def trained(sigma: object) -> str:
    return "" if sigma in ("", None) else "none" if float(str(sigma)) == 0 else f"augment@{float(str(sigma))!r}"


def table(path: Path) -> pd.DataFrame:
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "bounds" in rows:
        rows[["certifier", "rule"]] = [RULES[key] for key in rows[OLD].itertuples(index=False, name=None)]
    if "train_sigma" in rows:
        rows["train"] = [trained(sigma) for sigma in rows["train_sigma"]]
    rows = rows.rename(columns={"sigma": "scale", "certified": "radius"})
    rows = rows.assign(noise="gaussian", threat="l2", about="run")
    if "delta" in rows:
        rows.loc[rows["certifier"] == "mean", ["delta", "n0"]] = ""
    return rows


def columns_of(path: Path) -> list[str]:
    from csrun.cells.attacks import COLUMNS
    from csrun.papers.unit_slip import COLUMNS as SLIP

    return list({"certificates.csv": ROW_COLUMNS, "attack.csv": COLUMNS, "unit_slip.csv": SLIP}[path.name])


def manifest(content: dict[str, Any]) -> dict[str, Any]:
    certifier, rule = RULES[tuple(content["rule"][part] for part in OLD)]
    content["rule"] = {"certifier": certifier, "rule": rule}
    content["curve"] = "scale" if content["curve"] == "sigma" else content["curve"]
    content["noise"] = {"name": "gaussian"}
    for cell in content["cells"]:
        cell |= {"noise": {"name": "gaussian"}, "scale": cell.pop("sigma"), "train": trained(cell.pop("train_sigma"))}
    for one in content["training"]:
        sigma = one.pop("train_sigma")
        one |= {"method": "augment" if sigma else "none", "scale": sigma}
        one["noise"] = [["name", "gaussian"]] if sigma else []
    return content


for folder in sorted(path.parent for path in Path("results").glob("*/*/manifest.json")):
    for path in (folder / name for name in ("certificates.csv", "attack.csv", "unit_slip.csv")):
        if path.is_file():
            table(path).reindex(columns=columns_of(path), fill_value="").to_csv(path, index=False, lineterminator="\n")
    file = folder / "manifest.json"
    file.write_text(json.dumps(manifest(json.loads(file.read_text())), indent=2) + "\n")
    write_summary(summarise(read_rows(folder)), folder / "summary.csv")
    draw(folder)
    draw_panels(folder)
    print(folder)
