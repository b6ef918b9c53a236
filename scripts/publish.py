"""Copy an experiment's table, summary, manifest and figures to ``results/<experiment>/<budget>-<device>/``.

Usage: python scripts/publish.py EXPERIMENT [RUNS_FOLDER]
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

PUBLISHED = ("*.csv", "*.json", "*.pdf", "*.png")


def publish(experiment: str, runs: Path, results: Path) -> Path:
    """Copy the files; the folder is named by what the manifest says of budget and device."""
    source = runs / experiment
    manifest = json.loads((source / "manifest.json").read_text())
    target = results / experiment / f"{manifest['budget']}-{manifest['device']}"
    target.mkdir(parents=True, exist_ok=True)
    for pattern in PUBLISHED:
        for path in source.glob(pattern):
            shutil.copyfile(path, target / path.name)
    return target


def main(arguments: list[str]) -> None:
    if not 1 <= len(arguments) <= 2:
        sys.exit("publish: name the experiment: make publish EXPERIMENT=tv_digits")
    runs = Path(arguments[1] if len(arguments) > 1 else "runs")
    try:
        print(publish(arguments[0], runs, Path(__file__).resolve().parent.parent / "results"))
    except FileNotFoundError as error:
        sys.exit(f"publish: {error.filename} is not there: run cs-run experiment={arguments[0]} first")


if __name__ == "__main__":
    main(sys.argv[1:])
