"""`cs-plot`: draw an experiment's figures again from its rows, without running anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from csrun.report.published import is_published

_FILES = ("certificates.csv", "manifest.json")
PUBLISHED = "results"
ROOTS = ("runs", PUBLISHED)

_DESCRIPTION = """\
Draw the figures of experiments: median certified radius and smoothing error
against the size of the input perturbation. Reads certificates.csv (or published
cells) and manifest.json of each folder and writes radius_<metric>.pdf and .png beside them;
its panels (outputs beside smoothed outputs), panel_<model>.pdf and .png; and for
segmentations beside a truth segmentation.pdf and .png. Without a folder it also draws
the figures of the paper from all that is under results/, into results/figures/.
Nothing is computed anew; unchanged rows give unchanged files."""

_EPILOG = """\
examples:
  cs-plot                          every experiment under runs/ and results/
  cs-plot runs/tv_digits           one experiment
  cs-plot results/tv_mnist/*       all published versions of one

exit codes: 0 done, 2 nothing drawn for at least one folder (one line says why)"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The command line of `cs-plot`."""
    made = Parser(
        prog="cs-plot",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="an experiment's folder, as cs-run writes it (default: every one under runs/ and results/)",
    )
    made.add_argument("--version", action="version", version=f"cs-plot {version('centersmooth')}")
    return made


def find_experiments(roots: Sequence[str | Path] = ROOTS) -> list[Path]:
    """Every folder below the roots that holds rows and a manifest, sorted."""
    found = {path.parent for root in roots for path in Path(root).glob(f"*/**/{_FILES[1]}")}
    return sorted(folder for folder in found if not _missing(folder))


def _missing(folder: Path) -> list[str]:
    """Files of an experiment that a folder lacks; published cells stand for the table of rows."""
    there = [_FILES[0]] if is_published(folder) else []
    return [name for name in _FILES if name not in there and not (folder / name).is_file()]


def complaint_about(folder: Path) -> str | None:
    """The reason why a folder cannot be drawn, and what to do; None where it can."""
    if not folder.is_dir():
        return f"{folder}: no such folder; give one that cs-run wrote, such as runs/tv_digits"
    missing = _missing(folder)
    if not missing:
        return None
    inside = find_experiments([folder])
    advice = f"did you mean {inside[0]}?" if inside else "give one that cs-run wrote, such as runs/tv_digits"
    return f"{folder}: not an experiment's folder, it holds no {' and no '.join(missing)}; {advice}"


def _draw(folder: Path) -> str | None:
    """Draw one folder and print what was written; the complaint where that failed."""
    complaint = complaint_about(folder)
    if complaint:
        return complaint
    from csrun.report.panels import draw_panels
    from csrun.report.plots import draw
    from csrun.report.segmentation import draw_segmentation

    return _printed(lambda: [*draw(folder), *draw_segmentation(folder), *draw_panels(folder)])


def _draw_the_papers(results: Path) -> str | None:
    """Draw the figures of the paper from published results; the complaint where that failed."""
    from csrun.report.figures import draw_figures

    return _printed(lambda: draw_figures(results))


def _printed(draw: Callable[[], list[Path]]) -> str | None:
    try:
        for path in draw():
            print(path)
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
    return None


def main(argv: Sequence[str] | None = None) -> None:
    """Run `cs-plot`.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Raises
    ------
    SystemExit
        With code 2 where some folder could not be drawn; the others are drawn all the same.
    """
    named = parser().parse_args(argv).folders
    folders = named or find_experiments()
    if not folders:
        sys.exit(
            say(
                "cs-plot", "nothing to draw under runs/ or results/; run cs-run first, or name a folder: cs-plot FOLDER"
            )
        )
    complaints = [complaint for complaint in map(_draw, folders) if complaint]
    if not named and (complaint := _draw_the_papers(Path(PUBLISHED))):
        complaints.append(complaint)
    if complaints:
        sys.exit(max(say("cs-plot", complaint) for complaint in complaints))


def say(program: str, complaint: str) -> int:
    """Print one line to stderr; returns the exit code of a request that cannot be served."""
    print(f"{program}: {complaint}", file=sys.stderr)
    return 2
