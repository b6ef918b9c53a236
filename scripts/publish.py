"""Add the cells of an experiment's last run to ``results/<experiment>/<budget>-<device>/``.

Cells that are there stay, and rows of one cell join, newer ones in place of older ones; `csrun.publishing` says how.
The paper's figures in results/figures/, and the tables of results/README.md (figures, claims, how much smaller
certificates get), are made anew from all that is published.

Usage: python scripts/publish.py EXPERIMENT [RUNS_FOLDER]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from csrun.errors import RunError
from csrun.publishing import publish
from csrun.report.claims import Study, current, judge, sharpenings
from csrun.report.figures import draw_figures
from csrun.report.page import figures_markdown, markdown, sharper_markdown
from csrun.report.plot_cli import find_experiments
from csrun.report.reproduced import reproductions

ROOT = Path(__file__).resolve().parent.parent


def tables_of(results: Path) -> dict[str, str]:
    """The tables of ``results/README.md``, by name, as the published results have them."""
    studies = current([Study.read(folder) for folder in find_experiments([results])])
    return {
        "figures": figures_markdown(reproductions(studies), results),
        "claims": markdown(judge(studies)),
        "sharper": sharper_markdown(sharpenings(studies)),
    }


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with these tables in place of its own."""
    for name, table in tables.items():
        block = re.compile(rf"(<!-- {name}: made by `make publish` -->\n).*?(<!-- end of {name} -->)", flags=re.S)
        page = block.sub(lambda found, table=table: found[1] + table + found[2], page)
    return page


def refresh_page() -> None:
    """Make the paper's figures and the tables of ``results/README.md`` anew."""
    draw_figures(ROOT / "results")
    page = ROOT / "results" / "README.md"
    page.write_text(with_tables(page.read_text(), tables_of(ROOT / "results")))


def main(arguments: list[str]) -> None:
    if not 1 <= len(arguments) <= 2:
        sys.exit("publish: name the experiment: make publish EXPERIMENT=tv_digits")
    runs = Path(arguments[1] if len(arguments) > 1 else "runs")
    try:
        print(publish(arguments[0], runs, ROOT / "results"))
    except FileNotFoundError as error:
        sys.exit(f"publish: {error.filename} is not there: run cs-run experiment={arguments[0]} first")
    except (RunError, ValueError) as error:
        sys.exit(f"publish: {error}")
    refresh_page()


if __name__ == "__main__":
    main(sys.argv[1:])
