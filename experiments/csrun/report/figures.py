"""One picture for each figure of the paper, from published results, and an overview of all.

Panels, curves and ticks are the paper's, whatever is computed of them, so that a gap shows. As the paper draws them:
medians over the points, radius by the paper's rule, smoothing error dashed; the library's sharpest rule beside.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csrun.report.claims import Study, current
from csrun.report.paper import EXPERIMENTS, PANELS, Panel
from csrun.report.plot_cli import find_experiments
from csrun.report.plots import (
    DOTTED,
    GAPS,
    INK,
    LEGEND,
    LEGEND_LINE,
    METRIC_LABELS,
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

_NUMBERS = tuple(dict.fromkeys(panel.figure for panel in PANELS))
_WITHOUT_NOISE = 3
_COLOURS = {1: 0, 1.5: 1, 2: 2}
"""Places in the palette: a value of `h` has one colour in all figures."""

_ERROR: dict[str, Any] = {"linestyle": (0, (3.5, 1.8)), "linewidth": 1.1}
_SMALL: dict[str, Any] = {"color": "#666666", "linespacing": 1.25}
_NOTE = (
    "medians over points; a curve breaks where a setting of the paper's grid is not computed here; steps: of training"
)


class _Sheet(NamedTuple):
    """Sizes of a picture in inches."""

    down: int
    across: int
    axes: tuple[float, float]
    gaps: tuple[float, float]
    left: float
    below: float

    def figure(self) -> tuple[Figure, np.ndarray]:
        """An empty figure with its axes; the sizes are fixed, so that text of no panel moves another."""
        from matplotlib.figure import Figure

        (wide, high), (between, above) = self.axes, self.gaps
        width = self.left + self.across * wide + (self.across - 1) * between + 0.12
        height = self.below + self.down * (high + above)
        figure = Figure(figsize=(width, height))
        place = {"left": self.left / width, "right": 1 - 0.12 / width, "bottom": self.below / height}
        spaces = {"wspace": between / wide, "hspace": above / high, "top": 1 - (above - 0.4) / height}
        figure.subplots_adjust(**place, **spaces)
        return figure, figure.subplots(self.down, self.across, squeeze=False)


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
    made, written = reproductions(studies), []
    with style():
        for which in _NUMBERS:
            own = [one for one in made if one.panel.figure == which]
            written += save(figure_of(own), folder / f"figure{which}.png", f"Figure {which} of the paper")
        written += save(overview_of(made), folder / f"{OVERVIEW}.png", "The figures of the paper")
    return written


def figures_in(results: Path) -> list[Path]:
    """The drawn figures of the paper, as PNG, without the overview."""
    return sorted((results / FOLDER).glob("figure*.png"))


def figure_of(made: Sequence[Reproduction]) -> Figure:
    """One figure of the paper: two panels a row, the legend below."""
    across = min(len(made), 2)
    handles, width = _handles(made), 6.6 if across == 2 else 5.0
    columns = columns_that_fit(handles, 3, width)
    legend = math.ceil(len(handles) / columns) * LEGEND_LINE
    single = (4.3, 2.2) if across == 1 else (2.65, 1.75)
    sheet = _Sheet(len(made) // across, across, single, (0.55, 1.0), 0.58, below=legend + 0.68)
    figure, axes = sheet.figure()
    for ax, one in zip(axes.flat, made, strict=True):
        _draw_panel(
            ax, one, first=ax in axes[:, 0], small=_small_print(one, one.panel.command, 66 if across == 2 else 104)
        )
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.16 / figure.get_figheight())}
    figure.legend(handles=row_wise(handles, columns), ncols=columns, **place, **LEGEND)
    _write_note(figure)
    return figure


def overview_of(made: Sequence[Reproduction]) -> Figure:
    """All panels: figures 3 and 4 beside the legend, then a row for each figure."""
    figure, axes = _Sheet(len(_NUMBERS) - 1, 4, (1.8, 1.15), (0.5, 1.0), 0.58, below=0.62).figure()
    first, *rows = axes
    for ax in first[2:]:
        ax.set_axis_off()
    places = [*first[:2], *(ax for row in rows for ax in row)]
    for ax, one in zip(places, made, strict=True):
        _draw_panel(ax, one, first=ax in axes[:, 0] or ax is first[1], small=_small_print(one, "", 50))
    corner = first[2].get_position()
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (corner.x0, corner.y1 + 0.03)}
    figure.legend(handles=_handles(made), **place, **LEGEND)
    _write_note(figure)
    return figure


def _write_note(figure: Figure) -> None:
    figure.text(0.5, 0.05 / figure.get_figheight(), _NOTE, ha="center", va="bottom", fontsize=5.5, **_SMALL)


def _draw_panel(ax: Axes, made: Reproduction, *, first: bool, small: str) -> None:
    """One panel of the paper; ``small`` says above it what its rows rest on, in up to four lines."""
    panel = made.panel
    step = panel.eps[1] - panel.eps[0]
    ax.set_xlim(panel.eps[0] - 0.4 * step, panel.eps[-1] + 0.4 * step)
    ax.set_xticks(panel.eps, [number(eps) for eps in panel.eps])
    ax.set_xlabel("perturbation ε (l2)", labelpad=2)
    if first:
        ax.set_ylabel(METRIC_LABELS[panel.metric].partition(" (")[0])
    ax.set_title(f"{panel.figure}{panel.letter}  {made.subject}", loc="left", pad=33, fontweight="bold")
    ax.annotate(small, (0, 1), (0, 31), "axes fraction", textcoords="offset points", va="top", fontsize=5.8, **_SMALL)
    if made.lines is None:
        _not_computed(ax, panel)
        return
    ax.set_ylim(0, _top(made, made.lines))
    for index, (training, h) in enumerate(panel.curves):
        own = made.lines[(made.lines["training"] == training) & (made.lines["h"] == h)]
        _draw_curve(ax, panel, own, _place(training, h), 0.97 - 0.05 * index)
    for index, baseline in enumerate(_baselines(made)):
        ax.axhline(baseline["value"], **baseline_look(index), zorder=1)


def _small_print(made: Reproduction, command: str, width: int) -> str:
    """Counts, conditions, how much of the grid is computed; curves of which nothing is, with the command for them."""
    if made.lines is None:
        return ""
    parts = [made.counts, ", ".join(made.conditions), made.extent]
    if made.lacking:
        names = ", ".join(_curve_name(made.panel, *curve) for curve in made.lacking)
        parts.append(f"{names}: not computed here" + (f" ({command})" if command else ""))
    return "\n".join(textwrap.wrap("; ".join(filter(None, parts)), width))


def _not_computed(ax: Axes, panel: Panel) -> None:
    ax.set_yticks([])
    text = "not computed here\n\n" + panel.command.replace(" budget", "\nbudget")
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=6, **_SMALL)


def _top(made: Reproduction, lines: pd.DataFrame) -> float:
    """The upper end of the axis: above all that is drawn, with room for the marks of gaps."""
    both = [of_rule(lines, rule) for rule in (PAPER_RULE, SHARPER_RULE)]
    values = [value for one in both for name in ("radius_median", "error_median") for value in one[name]]
    values += [line["value"] for line in _baselines(made)]
    highest = max((value for value in values if math.isfinite(value)), default=0.0) or 1.0
    return highest * (1.25 if (both[0]["status"] != "ok").any() else 1.08)


def _draw_curve(ax: Axes, panel: Panel, lines: pd.DataFrame, place: int, height: float) -> None:
    """Radius by both rules and error; NaN, and so a gap, at each setting of the grid without a median."""
    colour = curve_look(place)["color"]
    papers, sharper = (of_rule(lines, rule).set_index("eps") for rule in (PAPER_RULE, SHARPER_RULE))
    eps = sorted({*panel.eps, *lines["eps"]})
    x = np.array(eps)
    radius, ours = (finite(one["radius_median"].reindex(eps)) for one in (papers, sharper))
    # Both rules have the same error, but no line has one where its rule needs more draws.
    error = finite(papers["error_median"].combine_first(sharper["error_median"]).reindex(eps))
    ax.plot(x, ours, color=colour, **DOTTED, zorder=2)
    ax.plot(x, error, color=colour, **_ERROR)
    marks(ax, x[isolated(error)], error[isolated(error)], color=colour, marker="_", markersize=7, markeredgewidth=1.1)
    ax.plot(x, radius, **curve_look(place), zorder=3)
    for one, values, look in ((sharper, ours, {"marker": "o", "markersize": 3}), (papers, radius, curve_look(place))):
        hollow = (one["vacuous"].reindex(eps) > 0).to_numpy() & np.isfinite(values)
        marks(ax, x[hollow], values[hollow], **{**look, "color": colour}, markerfacecolor="white", zorder=4)
    gap_marks(ax, papers.reset_index().rename(columns={"eps": "x"}), place, height)


def _place(training: str, h: float) -> int:
    return _WITHOUT_NOISE if training == "without noise" else _COLOURS[h]


def _curve_name(panel: Panel, training: str, h: float) -> str:
    return f"trained {training}" if len(panel.trainings) > 1 else f"h = {number(h)}"


def _baselines(made: Reproduction) -> list[dict[str, Any]]:
    """The lines that an experiment has beside l2, at the figure's `h`."""
    if made.study is None:
        return []
    every = made.study.manifest["baselines"]
    return [line for line in every if line["metric"] == made.panel.metric and line["h"] in made.panel.h]


def _handles(made: Sequence[Reproduction]) -> list[Artist]:
    """The paper's curves, computed or not; then what lines and marks mean, where they occur."""
    from matplotlib.lines import Line2D

    def line(label: str, **look: Any) -> Line2D:
        return Line2D([], [], **{"color": INK, "label": label, **look})

    names: dict[int, dict[str, None]] = {}
    for panel in (one.panel for one in made):
        for training, h in panel.curves:  # where figures share a colour, the name of each
            names.setdefault(_place(training, h), {})[_curve_name(panel, training, h)] = None
    handles: list[Artist] = [line("; ".join(names[place]), **curve_look(place)) for place in sorted(names)]
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
    drawn = [of_rule(one.lines, rule) for one in made if one.lines is not None for rule in (PAPER_RULE, SHARPER_RULE)]
    if any(((lines["vacuous"] > 0) & (lines["status"] == "ok")).any() for lines in drawn):
        handles.append(line("vacuous for some points", marker="o", markerfacecolor="white", linestyle="none"))
    return handles
