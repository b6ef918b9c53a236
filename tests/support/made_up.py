"""Made-up results: rows of certificates and the folder of an experiment, to draw and to judge."""

from __future__ import annotations

import json

import pandas as pd

from csrun.report.tables import COLUMNS

MANIFEST = {
    "experiment": "tv_digits",
    "title": "Total variation on digits",
    "metrics": ["tv"],
    "curve": "h",
    "rule": {"certifier": "center", "rule": "paper"},
    "budget": "cpu",
    "reduced": True,
    "notes": ["stand-in data: digits"],
    "points": 3,
}


def rows_of(grid, **fixed):
    """Rows of `{(h, eps): radii}`; None abstains, a word is another outcome."""
    made = []
    for (h, eps), radii in grid.items():
        for point, radius in enumerate(radii):
            row = dict.fromkeys(COLUMNS)
            row |= {"model": "autoencoder", "dataset": "digits"}
            row |= {"train": f"augment@{eps / h}", "noise": "gaussian", "threat": "l2", "about": "run"}
            row |= {"metric": "tv", "eps": eps, "h": h, "scale": eps / h, "point": point, "source": "test", "n0": 0}
            row |= {"n": 1200, "m": 2500, "delta": 0.1, "alpha": 0.01, "seed": 0, "device": "cpu", "vacuous": False}
            row |= MANIFEST["rule"]
            if isinstance(radius, str):
                row |= {"outcome": radius}
            elif radius is None:
                row |= {"outcome": "bad_center", "error": 0.5}
            else:
                row |= {"outcome": "certified", "radius": radius, "error": radius / 4, "vacuous": radius > 90}
            made.append(row | fixed)
            made[-1]["cell"] = "-".join(str(made[-1][key]) for key in ("model", "dataset", "train", "noise", "scale"))
    return pd.DataFrame(made)


def write(folder, rows, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "certificates.csv", index=False)
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, **changes}), encoding="utf-8")
    return folder
