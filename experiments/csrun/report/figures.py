"""One picture for each figure of the paper, from published results, and an overview of all.

Panels, curves and ticks are the paper's, whatever is computed of them, so that a gap shows. As the paper draws them:
medians over the points, radius by the paper's rule, smoothing error dashed; the library's sharpest rule beside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csrun.report.claims import Study, current
from csrun.report.paper import EXPERIMENTS, PARTS, Part
from csrun.report.plot_cli import find_experiments
from csrun.report.plots import (
    DOTTED,
    FOOTER,
    GAPS,
    INK,
    LEGEND,
    LEGEND_LINE,
    METRIC_LABELS,
    NAMES,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    baseline_look,
    columns_that_fit,
    curve_look,
    finite,
    gap_marks,
    isolated,
    marks,
    row_wise,
    save,
    style,
)
from csrun.report.reproduced import Reproduction, reproductions
from csrun.report.tables import PAPER_RULE, SHARPER_RULE, number, of_rule

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"
OVERVIEW = "overview"

_NUMBERS = tuple(dict.fromkeys(part.figure for part in PARTS))
_WITHOUT_NOISE = 3
_COLOURS = {1: 0, 1.5: 1, 2: 2}
"""Places in the palette: a value of `h` has one colour in all figures."""

_ERROR: dict[str, Any] = {"linestyle": (0, (3.5, 1.8)), "linewidth": 1.1}
_SMALL: dict[str, Any] = {"color": "#666666", "linespacing": 1.25}
_NOTE = "medians over points; a curve breaks where a setting of the paper's grid is not computed here; steps: of training"

Panel = tuple[str, Reproduction]


def draw_figures(results: Path) -> list[Path]:
    """Draw the paper's figures from what is published, into ``results/figures/``.

    Returns
    -------
    list of Path
        Of each figure and the overview, as PDF and PNG; none where no experiment of the paper is published.
    """
    roots = [results / name for name in sorted(EXPERIMENTS)]
    studies = current([Study.read(folder) for folder in find_experiments(roots)])
    if not studies:
        return []
    folder = results / FOLDER
    folder.mkdir(exist_ok=True)
    made = reproductions(studies)
    written = []
    with style():
        for which in _NUMBERS:
            title = f"Figure {which} of the paper"
            written += save(figure_of(which, made), folder / f"figure{which}.png", title)
        written += save(overview_of(made), folder / f"{OVERVIEW}.png", "The figures of the paper")
    return written


def figures_in(results: Path) -> list[Path]:
    """The drawn figures of the paper, as PNG, without the overview."""
    return sorted((results / FOLDER).glob("figure*.png"))


def figure_of(figure: int, made: Sequence[Reproduction]) -> Figure:
    """One figure of the paper: two panels a row, the legend below."""
    from matplotlib.figure import Figure

    panels = _panels(figure, made)
    across = min(len(panels), 2)
    width = 2 * PANEL_WIDTH * (0.7 if across == 1 else 1)
    handles = _handles(made_of for _, made_of in panels)
    columns = columns_that_fit(handles, 4, width)
    below = math.ceil(len(handles) / columns) * LEGEND_LINE + FOOTER + 0.12
    height = (PANEL_HEIGHT + 0.15) * math.ceil(len(panels) / across) + below
    drawn = Figure(figsize=(width, height), layout=_layout(below / height))
    axes = drawn.subplots(math.ceil(len(panels) / across), across, squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=True):
        _draw_panel(ax, panel, first=ax in axes[:, 0])
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, below / height)}
    drawn.legend(handles=row_wise(handles, columns), ncols=columns, **place, **LEGEND)
    drawn.text(0.5, 0.04 / height, _NOTE, ha="center", va="bottom", fontsize=5.5, **_SMALL)
    return drawn


def overview_of(made: Sequence[Reproduction]) -> Figure:
    """All panels: figures 3 and 4 beside the legend, then a row for each figure."""
    from matplotlib.figure import Figure

    rows = [[*_panels(3, made), *_panels(4, made)], *(_panels(figure, made) for figure in _NUMBERS[2:])]
    drawn = Figure(figsize=(9.2, 2.05 * len(rows) + 0.2), layout=_layout(0.2 / (2.05 * len(rows) + 0.2)))
    axes = drawn.subplots(len(rows), 4)
    for row, panels in zip(axes, rows, strict=True):
        for ax in row[len(panels) :]:
            ax.set_axis_off()
        for ax, panel in zip(row, panels, strict=False):
            _draw_panel(ax, panel, first=ax is row[0] or len(panels) == 2)
    anchor = axes[0, 2].get_position()
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (anchor.x0, 0.985)}
    drawn.legend(handles=_handles(made), **place, **LEGEND | {"labelspacing": 0.55})
    drawn.text(0.5, 0.003, _NOTE, ha="center", va="bottom", fontsize=6, **_SMALL)
    return drawn


def _layout(below: float) -> Any:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(rect=(0, below, 1, 1 - below), w_pad=0.05, h_pad=0.05)


def _panels(figure: int, made: Sequence[Reproduction]) -> list[Panel]:
    return [panel for one in made if one.part.figure == figure for panel in one.panels()]


def _draw_panel(ax: Axes, panel: Panel, *, first: bool) -> None:
    """One panel of the paper, with what its rows rest on in small letters above it."""
    letter, made = panel
    part, lines = made.part, made.lines
    step = part.eps[1] - part.eps[0]
    ax.set_xlim(part.eps[0] - 0.4 * step, part.eps[-1] + 0.4 * step)
    ax.set_xticks(part.eps, [number(eps) for eps in part.eps])
    ax.set_xlabel("perturbation ε (l2)")
    if first:
        ax.set_ylabel(METRIC_LABELS[part.metric].partition(" (")[0])
    ax.set_title(_title(letter, made), loc="left", pad=18, fontweight="bold")
    small = [made.counts, ", ".join([*made.conditions, made.extent])]
    ax.text(0, 1.02, "\n".join(small), transform=ax.transAxes, va="bottom", fontsize=5.8, in_layout=False, **_SMALL)
    if lines is None:
        _not_computed(ax, part)
        return
    lacking = []
    top = _top(made, lines)
    ax.set_ylim(0, top)
    for index, curve in enumerate(part.curves):
        own = lines[(lines["training"] == curve[0]) & (lines["h"] == curve[1])]
        if own.empty:
            lacking.append(_curve_name(*curve))
        else:
            _draw_curve(ax, part, own, curve, index)
    for index, line in enumerate(_baselines(made)):
        ax.axhline(line["value"], **baseline_look(index), zorder=1)
    if lacking:
        text = "\n".join(f"{name}: not computed here" for name in lacking)
        ax.text(0.02, 0.9, text, transform=ax.transAxes, va="top", fontsize=6, **_SMALL)


def _title(letter: str, made: Reproduction) -> str:
    part = made.part
    (model,) = part.models
    stand_in = " (stand-in for BigGAN)" if made.stand_in else ""
    dataset = "" if part.dataset.startswith("latents") else f", {NAMES.get(part.dataset, part.dataset)}"
    return f"{part.figure}{letter}  {NAMES.get(model, model)}{dataset}{stand_in}"


def _not_computed(ax: Axes, part: Part) -> None:
    ax.set_yticks([])
    text = "not computed here\n\n" + part.command.replace(" budget", "\nbudget")
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=6, **_SMALL)


def _top(made: Reproduction, lines: pd.DataFrame) -> float:
    """The upper end of the axis: above all that is drawn, with room for the marks of gaps."""
    both = [of_rule(lines, rule) for rule in (PAPER_RULE, SHARPER_RULE)]
    values = [value for one in both for name in ("radius_median", "error_median") for value in one[name]]
    values += [line["value"] for line in _baselines(made)]
    highest = max((value for value in values if math.isfinite(value)), default=0.0) or 1.0
    return highest * (1.2 if (both[0]["status"] != "ok").any() else 1.08)


def _draw_curve(ax: Axes, part: Part, lines: pd.DataFrame, curve: tuple[str, float], index: int) -> None:
    """Radius by both rules and error; NaN, and so a gap, at each setting of the grid without a median."""
    place = _place(*curve)
    colour = curve_look(place)["color"]
    papers, sharper = (of_rule(lines, rule).set_index("eps") for rule in (PAPER_RULE, SHARPER_RULE))
    eps = sorted({*part.eps, *lines["eps"]})
    x = np.array(eps)
    radius, ours = (finite(one["radius_median"].reindex(eps)) for one in (papers, sharper))
    error = finite(papers["error_median"].combine_first(sharper["error_median"]).reindex(eps))
    ax.plot(x, ours, color=colour, **DOTTED, zorder=2)
    ax.plot(x, error, color=colour, **_ERROR)
    marks(ax, x[isolated(error)], error[isolated(error)], color=colour, marker="_", markersize=7, markeredgewidth=1.1)
    ax.plot(x, radius, **curve_look(place), zorder=3)
    gap_marks(ax, papers.reset_index().rename(columns={"eps": "x"}), place, 0.96 - 0.055 * index)


def _place(training: str, h: float) -> int:
    return _WITHOUT_NOISE if training == "without noise" else _COLOURS[h]


def _curve_name(training: str, h: float) -> str:
    return f"h = {number(h)}" + (f", trained {training}" if training == "without noise" else "")


def _baselines(made: Reproduction) -> list[dict[str, Any]]:
    """The lines that an experiment has beside l2, at the figure's `h`."""
    if made.study is None:
        return []
    every = made.study.manifest["baselines"]
    return [line for line in every if line["metric"] == made.part.metric == "l2" and line["h"] in made.part.h]


def _handles(made: Iterable[Reproduction]) -> list[Artist]:
    """The paper's curves, computed or not; then what lines and marks mean, where they occur."""
    from matplotlib.lines import Line2D

    def line(label: str, **look: Any) -> Line2D:
        return Line2D([], [], **{"color": INK, "label": label, **look})

    made = list(made)
    names = {_place(*curve): _curve_name(*curve) for one in made for curve in one.part.curves}
    handles: list[Artist] = [line(names[place], **curve_look(place)) for place in sorted(names)]
    handles.append(line("radius, the paper's rule"))
    handles.append(line(f"radius, sharpest rule ({SHARPER_RULE['rule']})", **DOTTED))
    handles.append(line("smoothing error", **_ERROR))
    labels = dict.fromkeys(line["label"] for one in made for line in _baselines(one))
    handles += [Line2D([], [], **baseline_look(index), label=label) for index, label in enumerate(labels)]
    papers = [of_rule(one.lines, PAPER_RULE) for one in made if one.lines is not None]
    meaning = {"abstains": "the paper's rule abstains", "infeasible": "the paper's rule needs more draws"}
    for status, marker in GAPS.items():
        if any((lines["status"] == status).any() for lines in papers):
            look = {"marker": marker, "markersize": 4.5, "markeredgewidth": 1.2, "linestyle": "none"}
            handles.append(line(meaning[status], **look))
    return handles
