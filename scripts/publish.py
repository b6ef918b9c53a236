"""Copy an experiment's table, summary, manifest and figures to ``results/<experiment>/<budget>-<device>/``.

Usage: python scripts/publish.py EXPERIMENT [RUNS_FOLDER]

The README's table of the paper's claims is made anew from all that is published.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from centersmooth_experiments.claims import Study, judge
from centersmooth_experiments.plot_cli import find_experiments
from centersmooth_experiments.report import markdown

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = re.compile(r"(<!-- claims: made by `make publish` -->\n).*?(<!-- end of claims -->)", flags=re.S)

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


def refresh_claims(readme: str, results: Path) -> str:
    """The README with its table of claims as the published results have it."""
    table = markdown(judge([Study.read(folder) for folder in find_experiments([results])]))
    return CLAIMS.sub(lambda found: found[1] + table + found[2], readme)


def main(arguments: list[str]) -> None:
    if not 1 <= len(arguments) <= 2:
        sys.exit("publish: name the experiment: make publish EXPERIMENT=tv_digits")
    runs = Path(arguments[1] if len(arguments) > 1 else "runs")
    try:
        print(publish(arguments[0], runs, ROOT / "results"))
    except FileNotFoundError as error:
        sys.exit(f"publish: {error.filename} is not there: run cs-run experiment={arguments[0]} first")
    readme = ROOT / "README.md"
    readme.write_text(refresh_claims(readme.read_text(), ROOT / "results"))


if __name__ == "__main__":
    main(sys.argv[1:])
