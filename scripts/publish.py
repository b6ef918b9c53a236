"""Copy an experiment's tables, manifest, figures and panels to ``results/<experiment>/<budget>-<device>/``.

Panels show pictures. Only those whose data may be handed on are copied and listed in the published manifest: none of
CelebA, none of a user's own files.

Usage: python scripts/publish.py EXPERIMENT [RUNS_FOLDER]

The tables of results/README.md, of the paper's claims and of how much smaller certificates get, are made anew from all
that is published.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from csrun.report.claims import Study, judge, sharpenings
from csrun.report.page import markdown, sharper_markdown
from csrun.report.plot_cli import find_experiments

ROOT = Path(__file__).resolve().parent.parent
TABLES = ("claims", "sharper")

PUBLISHED = ("*.csv", "*.pdf", "*.png")


def publish(experiment: str, runs: Path, results: Path) -> Path:
    """Copy the files; the folder is named by what the manifest says of budget and device."""
    source = runs / experiment
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["panels"] = [panel for panel in manifest.get("panels", []) if panel["publish"]]
    target = results / experiment / f"{manifest['budget']}-{manifest['device']}"
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    for path in _files(source, manifest["panels"]):
        shutil.copyfile(path, target / path.name)
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return target


def refresh_tables(page: str, results: Path) -> str:
    """The page ``results/README.md`` with its tables as the published results have them."""
    studies = [Study.read(folder) for folder in find_experiments([results])]
    for name, table in zip(TABLES, (markdown(judge(studies)), sharper_markdown(sharpenings(studies))), strict=True):
        block = re.compile(rf"(<!-- {name}: made by `make publish` -->\n).*?(<!-- end of {name} -->)", flags=re.S)
        page = block.sub(lambda found, table=table: found[1] + table + found[2], page)
    return page


def _files(source: Path, panels: list[dict[str, Any]]) -> list[Path]:
    """Tables and figures, and of the panels those given."""
    found = [path for pattern in PUBLISHED for path in source.glob(pattern) if not path.name.startswith("panel_")]
    drawings = [Path(panel["file"]) for panel in panels]
    names = [name for path in drawings for name in (path.name, path.with_suffix(".pdf").name)]
    return [*found, *(source / name for name in (*names, *(panel["data"] for panel in panels)))]


def main(arguments: list[str]) -> None:
    if not 1 <= len(arguments) <= 2:
        sys.exit("publish: name the experiment: make publish EXPERIMENT=tv_digits")
    runs = Path(arguments[1] if len(arguments) > 1 else "runs")
    try:
        print(publish(arguments[0], runs, ROOT / "results"))
    except FileNotFoundError as error:
        sys.exit(f"publish: {error.filename} is not there: run cs-run experiment={arguments[0]} first")
    page = ROOT / "results" / "README.md"
    page.write_text(refresh_tables(page.read_text(), ROOT / "results"))


if __name__ == "__main__":
    main(sys.argv[1:])
