"""`cs-report`: one self-contained HTML page from cached results, and the table of claims it opens with.

Reads folders of experiments as `cs-run` and `make publish` leave them; computes and downloads nothing.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from csrun.report.claims import Claim, Finding, Sharpening, Study, current, judge, sharpenings
from csrun.report.figures import figures_in
from csrun.report.plot_cli import ROOTS, Parser, complaint_about, find_experiments, say
from csrun.report.reproduced import Reproduction, overall, reproductions
from csrun.report.tables import PAPER_RULE, number
from csrun.system.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

_DESCRIPTION = """\
Write one self-contained HTML page: every claim of the paper beside our numbers,
every figure and table, and how each was made. Reads the folders of experiments
that cs-run wrote or make publish copied."""

_EPILOG = """\
examples:
  cs-report                        every experiment under runs/ and results/
  cs-report results --out page.html

exit codes: 0 done, 2 no page (one line says why)"""


class Grid(NamedTuple):
    """A table as plain text: what stands above it, header and rows, and what stands under it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    caption: str


class Picture(NamedTuple):
    """An image inside the page."""

    source: str
    caption: str


def parser() -> argparse.ArgumentParser:
    """The command line of `cs-report`."""
    made = Parser(
        prog="cs-report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("roots", nargs="*", type=Path, metavar="FOLDER", help="an experiment, or a folder of experiments")
    made.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    made.add_argument("--version", action="version", version=f"cs-report {version('centersmooth')}")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run `cs-report`.

    Raises
    ------
    SystemExit
        With code 2 and one line where there is nothing to report on, or a file is not one of ours.
    """
    arguments = parser().parse_args(argv)
    try:
        studies = current([Study.read(folder) for folder in _folders(arguments.roots)])
        figures = [path for root in arguments.roots or map(Path, ROOTS) for path in figures_in(root)]
        write_atomically(arguments.out, page(studies, figures).encode())
    except (OSError, ValueError) as error:
        sys.exit(say("cs-report", " ".join(str(error).split())))
    print(arguments.out)


def _folders(roots: Sequence[Path]) -> list[Path]:
    """The experiments at or below the folders given, or of the working folder; ValueError where there is none."""
    if not roots:
        found = find_experiments()
        if not found:
            raise ValueError("nothing to report on under runs/ or results/; run cs-run first, or name a folder")
        return found
    found = []
    for root in roots:
        below = [root] if complaint_about(root) is None else find_experiments([root])
        if not below:
            raise ValueError(complaint_about(root))
        found += below
    return found


def page(studies: Sequence[Study], figures: Sequence[Path] = ()) -> str:
    """The report on these studies as one HTML document without any outside reference.

    Parameters
    ----------
    studies : sequence of Study
    figures : sequence of Path
        Pictures of the paper's figures, as `csrun.report.figures` draws them.

    Raises
    ------
    FileNotFoundError
        A study has no figure yet; the line names the command that draws it.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("csrun.report").joinpath("report.html.j2").read_text("utf-8"))
    made = reproductions(studies)
    return template.render(
        overall=overall(made),
        reproduced=[(one, claims_text(one)) for one in made],
        figures=[_picture(path, f"Figure {path.stem.removeprefix('figure')} of the paper") for path in figures],
        claims=judge(studies),
        sharpenings=[(one, ratio_text(one)) for one in sharpenings(studies)],
        sections=[_section(study) for study in studies],
        older=any(study.older for study in studies),
        version=version("centersmooth"),
    )


def _section(study: Study) -> dict[str, Any]:
    return {
        "study": study,
        "pictures": _figures(study) + _panels(study),
        "tables": _grids(study),
        "made": made_with(study.manifest),
    }


def _figures(study: Study) -> list[Picture]:
    from csrun.report.plots import figure_path

    paths = [figure_path(study.folder, metric) for metric in study.manifest["metrics"]]
    there = [path for path in paths if path.is_file()]
    if not there:
        raise FileNotFoundError(f"{paths[0]}: no such figure; cs-plot {study.folder} draws it")
    return [_picture(path, "") for path in there]


def _panels(study: Study) -> list[Picture]:
    there = [panel for panel in study.manifest.get("panels", []) if (study.folder / panel["file"]).is_file()]
    return [_picture(study.folder / panel["file"], panel["caption"]) for panel in there]


def _picture(path: Path, caption: str) -> Picture:
    return Picture("data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(), caption)


def _grids(study: Study) -> list[Grid]:
    """The tables of a run's end, read off their columns: the page and the terminal say the same."""
    from csrun.report.attacked import attacks_table
    from csrun.report.tables import render

    attacked = attacks_table(study.folder, study.manifest)
    return [_grid(table) for table in (*render(study.summary, study.manifest), *([attacked] if attacked else []))]


def _grid(table: Table) -> Grid:
    header = [str(column.header).replace("-\n", "").replace("\n", " ") for column in table.columns]
    rows = [list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]
    return Grid(str(table.title or ""), header, rows, str(table.caption))


def made_with(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Provenance of a result, in lines of name and value."""
    hardware = manifest.get("hardware", {})
    known = {
        "command": _command(manifest),
        "commit": manifest.get("commit"),
        "device": hardware.get("device"),
        "cores, threads": f"{hardware['cores']}, {hardware['threads']}" if hardware else None,
        "seed": manifest.get("seed"),
        "draws": _pairs(manifest.get("counts")),
        "points": manifest.get("points"),
        "data": _pairs(manifest.get("data")),
        "training": _pairs(_schedule(manifest.get("cells", []))),
        "versions": _pairs(manifest.get("versions")),
        "method": _methods(manifest),
        "cells": ", ".join(run["folder"] for cell in manifest.get("cells", []) for run in cell.get("runs", [cell])),
    }
    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]


def _command(manifest: Mapping[str, Any]) -> str:
    """The command of the newest run, and how many others made published cells; ``cell.json`` has them."""
    newest = str(manifest.get("command") or "")
    others = {run["command"] for cell in manifest.get("cells", []) for run in cell.get("runs", [])} - {newest}
    return f"{newest} (and {len(others)} more, in cells/*/cell.json)" if others else newest


def _methods(manifest: Mapping[str, Any]) -> str:
    """The versions of the method its cells were computed by."""
    return ", ".join(sorted({f"version {cell['method']}" for cell in manifest.get("cells", []) if "method" in cell}))


def _schedule(cells: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Settings all trainings of a study have in common."""
    trainings = [cell["training"] for cell in cells if cell.get("training")]
    common = [item for item in trainings[0].items() if all(item in t.items() for t in trainings)] if trainings else []
    return dict(common)


def _pairs(values: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items())


def markdown(claims: Sequence[Claim]) -> str:
    """The claims as a Markdown table, for results/README.md."""
    lines = ["| the paper | ours | |", "|---|---|---|"]
    for claim in claims:
        ours = "<br>".join(_finding_line(claim, finding) for finding in claim.findings) or "–"
        verdict = ", ".join([f"**{claim.verdict}**", *claim.conditions])
        lines.append(f"| {claim.text} ({claim.source}) | {ours} | {verdict} |")
    return "\n".join(lines) + "\n"


def figures_markdown(made: Sequence[Reproduction], results: Path) -> str:
    """A table of what was reproduced of the paper's figures as Markdown, for the page in the folder of results."""
    lines = [
        overall(made),
        "",
        "| figure | computed by | counts | of the paper's grid | the paper's claims, on these rows |",
    ]
    lines.append("|---|---|---|---|---|")
    for one in made:
        panel, study = one.panel, one.study
        figure = f"[{panel.figure}{panel.letter}](figures/figure{panel.figure}.png) {one.subject}"
        if study is None:
            lines.append(f"| {figure} | `{panel.command}` | not computed here | {one.extent} | – |")
            continue
        rows = f"[`{study.name}`]({study.folder.relative_to(results).as_posix()})"
        counts = f"{rows}: {one.counts}" + "".join(f", {condition}" for condition in one.conditions)
        rule = study.manifest["rule"]
        by = "" if rule == PAPER_RULE else f"by the rule {rule['rule']}: "
        lines.append(f"| {figure} | `{panel.command}` | {counts} | {one.extent} | {by}{claims_text(one, '**')} |")
    return "\n".join(lines) + "\n"


def claims_text(made: Reproduction, mark: str = "") -> str:
    """The verdict on each claim of the paper on the rows of one panel, with marks around it."""
    return "; ".join(f"{claim.short}: {mark}{claim.verdict}{mark}" for claim in made.claims()) or "–"


def sharper_markdown(found: Sequence[Sharpening]) -> str:
    """Markdown table of how much smaller certificates get."""
    lines = ["| experiment | rule | metric | eps | median radius, ours / paper's |", "|---|---|---|---|---|"]
    for _, group in groupby(found, lambda one: (one.study.folder, one.rule, one.metric)):
        at = list(group)
        study, rule, metric = at[0].study, at[0].rule, at[0].metric
        eps = ", ".join(map(number, sorted({eps for one in at for eps in one.eps})))
        ratios = "<br>".join(f"h = {number(one.h)}: {ratio_text(one)}" for one in at)
        lines.append(
            f"| `{study.name}` ({', '.join(study.conditions_of_all_rules)}) | {rule} | {metric} | {eps} | {ratios} |"
        )
    return "\n".join(lines) + "\n"


def ratio_text(one: Sharpening) -> str:
    """The ratios of a comparison in words, and at how many settings the paper's rule has nothing to compare with."""
    parts = []
    if one.ratios:
        low, high = number(min(one.ratios), 3), number(max(one.ratios), 3)
        parts.append(low if low == high else f"{low} to {high}")
    for count, what in ((one.paper_abstains, "abstains"), (one.paper_infeasible, "needs more draws")):
        if count:
            parts.append(f"the paper's rule {what} at {count} setting{'s' * (count > 1)} that ours certifies")
    return "; ".join(parts)


def _finding_line(claim: Claim, finding: Finding) -> str:
    conditions = f" ({', '.join(finding.study.conditions)})" if finding.sampled else ""
    return f"`{finding.study.name}`{conditions}: {'; '.join(filter(None, [finding.text, claim.extent_of(finding)]))}"


if __name__ == "__main__":
    main()
