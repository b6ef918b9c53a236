"""The trade-off of trainings: radius against error, a curve for each method, a point for each of its parameters.

Above, the error is the distance of the smoothed output to the example or map that a model is to give back; below, it is
that to the base model's output, as in the paper: a model with one answer to everything has no error and no radius.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from csrun.registry import entry_of
from csrun.report.plots import FOOTER, METRIC_LABELS, NAMES, PALETTE, PANEL_HEIGHT, PANEL_WIDTH
from csrun.report.tables import number
from csrun.training.names import Parameters, complete, method_named

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX"
_READING = "Further down and further left is better. Numbers: {}. Medians over points."


def figure_of_tradeoff(lines: pd.DataFrame, metric: str, footer: Sequence[str]) -> Figure:
    """A panel for each model, data set, certifier and grid point; a curve for each training method.

    Parameters
    ----------
    lines : DataFrame
        Of a summary, in one metric, by one rule of each certifier.
    footer : sequence of str
        Lines on how all was computed.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = list(lines.groupby(["model", "dataset", "certifier", "rule", "eps", "scale"], sort=False))
    distance = METRIC_LABELS.get(metric, metric)
    across = {"error_median": f"smoothing error,\n{distance}"}
    if lines["truth"].notna().any():
        across = {"truth": f"smoothed output to the truth,\n{distance}"} | across
    trained = [_trained(train) for train in sorted(set(lines["train"]))]
    methods = list(dict.fromkeys(name for name, _ in trained))
    varied = {name: _varied([parameters for other, parameters in trained if other == name]) for name in methods}
    told = ", ".join(dict.fromkeys(key for keys in varied.values() for key in keys))
    width = len(panels) * PANEL_WIDTH
    reading = (_READING.format(told), *_without_median(lines), *footer)
    small = [part for line in reading for part in textwrap.wrap(line, int(width * 22))]
    below = len(small) * FOOTER + 0.1
    height = len(across) * PANEL_HEIGHT * 1.25 + below
    engine = ConstrainedLayoutEngine(rect=(0, below / height, 1, 1 - below / height), w_pad=0.05, h_pad=0.04)
    figure = Figure(figsize=(width, height), layout=engine)
    rows = figure.subplots(len(across), len(panels), squeeze=False)
    for row, (column, label) in zip(rows, across.items(), strict=True):
        row[0].set_ylabel("certified radius")
        for ax, ((model, dataset, certifier, rule, eps, _), panel) in zip(row, panels, strict=True):
            _panel(ax, panel, column, varied)
            name = f"{NAMES.get(model, model)}, {NAMES.get(dataset, dataset)}"
            ax.set_title(f"{name}\n{entry_of(certifier).label} ({rule}), ε = {number(eps)}")
            ax.set_xlabel(label)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2 * len(panels), frameon=False)
    text: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 6, "color": "#666666", "linespacing": 1.3}
    figure.text(0.5, 0.04 / height, "\n".join(small), **text)
    return figure


def _without_median(lines: pd.DataFrame) -> list[str]:
    """A line on what is not drawn, as half of the points or more abstain."""
    missing = lines[lines["status"] != "ok"]
    named = [f"{line['train']} ({line['certifier']} {line['rule']})" for line in missing.to_dict("records")]
    return [f"No median radius: {', '.join(named)}"] if named else []


def _trained(train: str) -> tuple[str, Parameters]:
    """Method and all parameters of a training as rows name it."""
    asked, _, scale = train.partition("@")
    name, given = method_named(asked)
    return name, complete(name, given, float(scale or 0))


def _varied(several: Sequence[Parameters]) -> list[str]:
    """Parameters of one method that are not the same in all of its trainings."""
    return [key for key, _ in several[0] if len({dict(one)[key] for one in several}) > 1]


def _panel(ax: Axes, panel: pd.DataFrame, column: str, varied: Mapping[str, Sequence[str]]) -> None:
    """Curves of the methods against a column, as far as they have a median radius; one training is a point."""
    points: dict[str, list[tuple[tuple[float, ...], float, float]]] = {name: [] for name in varied}
    for line in panel.to_dict("records"):
        name, parameters = _trained(line["train"])
        if line["status"] == "ok":
            values = tuple(dict(parameters)[key] for key in varied[name])
            points[name].append((values, line[column], line["radius_median"]))
    for place, (name, own) in enumerate(points.items()):
        own.sort()
        look: dict[str, Any] = {"color": PALETTE[place % len(PALETTE)], "marker": _MARKERS[place % len(_MARKERS)]}
        ax.plot([x for _, x, _ in own], [radius for *_, radius in own], label=name, **look)
        for values, x, radius in own:
            text = ", ".join(map(number, values))
            ax.annotate(text, (x, radius), (3, 3), textcoords="offset points", fontsize=6, color=look["color"])
