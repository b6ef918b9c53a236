"""The figure of classes: certified accuracy against radius, and the distribution of the true classes' masses."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from csrun.report.labels import WEAKNESS, Classified, average_certified_radius, median_radius
from csrun.report.plots import FOOTER, NAMES, PALETTE, PANEL_HEIGHT, PANEL_WIDTH
from csrun.report.tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HIGHEST_MASS = 0.99999


def figure_of_classes(cells: Sequence[Classified], symbol: str, xlabel: str, footer: Sequence[str]) -> Figure:
    """A panel for each model and data set, a curve for each cell; a second one for masses, where a rule knows them.

    Parameters
    ----------
    symbol : str
        Of the noise's scale.
    xlabel : str
        What a radius measures.
    footer : sequence of str
        Lines on how all was computed.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [list(panel) for _, panel in groupby(cells, key=lambda cell: (cell.model, cell.dataset))]
    across = 1 if any(np.isnan(cell.p_low).any() for cell in cells) else 2
    width, numbers = across * PANEL_WIDTH, [_numbers(cell, _label(cell, cells, symbol)) for cell in cells]
    lines = [part for one in (*numbers, WEAKNESS, *footer) for part in textwrap.wrap(one, int(width * 22))]
    below = len(lines) * FOOTER + 0.1
    height = len(panels) * PANEL_HEIGHT + below
    engine = ConstrainedLayoutEngine(rect=(0, below / height, 1, 1 - below / height), w_pad=0.05, h_pad=0.04)
    figure = Figure(figsize=(width, height), layout=engine)
    for axes, panel in zip(figure.subplots(len(panels), across, squeeze=False), panels, strict=True):
        _accuracies(axes[0], panel, cells, symbol)
        title = f"{NAMES.get(panel[0].model, panel[0].model)}, {NAMES.get(panel[0].dataset, panel[0].dataset)}"
        axes[0].set_title(title)
        axes[0].set_xlabel(xlabel)
        for right in axes[1:]:
            _masses(right, panel)
    text: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 6, "color": "#666666", "linespacing": 1.3}
    figure.text(0.5, 0.04 / height, "\n".join(lines), **text)
    return figure


def _label(cell: Classified, cells: Sequence[Classified], symbol: str) -> str:
    several = len({one.training for one in cells}) > 1
    parts = [cell.rule] * (len({one.rule for one in cells}) > 1) + [f"{symbol} = {number(cell.scale)}"]
    return ", ".join(parts + [f"trained {cell.training}"] * bool(several and cell.training))


def _numbers(cell: Classified, label: str) -> str:
    radii = f"median radius {number(median_radius(cell.log))}, ACR {number(average_certified_radius(cell.log))}"
    return f"{cell.model} {cell.dataset}, {label}: {100 * cell.log['correct'].mean():.1f}% certified at 0, {radii}"


def _accuracies(ax: Axes, panel: Sequence[Classified], cells: Sequence[Classified], symbol: str) -> None:
    """Share of points certified at each radius or more: it falls by a step at each point's."""
    for place, cell in enumerate(panel):
        radii = np.sort(cell.log["radius"][cell.log["correct"] == 1].to_numpy())
        shares = np.arange(len(radii), -1, -1) / len(cell.log)
        x = np.concatenate([[0.0], radii, [radii.max(initial=0.0)]])
        y = np.concatenate([shares[:1], shares[:-1], shares[-1:]])
        ax.step(x, y, where="pre", color=PALETTE[place % len(PALETTE)], label=_label(cell, cells, symbol))
    ax.set_xlim(left=0)
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("certified accuracy")
    ax.legend(frameon=False)


def _masses(ax: Axes, panel: Sequence[Classified]) -> None:
    """Distribution function of the lower limits of the true classes' masses; those not certified lie at the left."""
    for place, cell in enumerate(panel):
        masses = np.sort(np.clip(cell.p_low, 0.5, _HIGHEST_MASS))
        shares = np.arange(1, len(masses) + 1) / len(masses)
        x = np.concatenate([[0.5], masses, [_HIGHEST_MASS]])
        ax.step(x, np.concatenate([[0.0], shares, [1.0]]), where="post", color=PALETTE[place % len(PALETTE)])
    ax.set_xscale("logit")
    ax.set_xlim(0.5, _HIGHEST_MASS)
    ax.set_xticks([0.5, 0.9, 0.99, 0.999, 0.9999], ["0.5", "0.9", "0.99", "0.999", "0.9999"])
    ax.set_xticks([], minor=True)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("lower limit of the true class' mass $p_A$")
    ax.set_ylabel("share of points at most so")
