"""The figures of the paper: median certified radius and smoothing error against the perturbation's size.

Drawn from an experiment's folder alone (`certificates.csv`, `manifest.json`), without torch and without pyplot's
global state. The same rows give the same bytes, so that a redrawn figure shows up in git only when it changed.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csrun.registry import CERTIFIERS, METRICS, NOISES, default_rules, entry_of
from csrun.report.labels import CLASSIFIERS, Classified, classified
from csrun.report.tables import (
    KEYS,
    MEAN_RULE,
    RULE,
    SLIP_NUMBER,
    leading_rule,
    number,
    of_rule,
    quantile,
    read_attacks,
    read_manifest,
    read_rows,
    read_truth,
    read_unit_slip,
    rules_in,
    summarise,
    trainings_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

METRIC_LABELS = {name: metric.help for name, metric in METRICS.items()}
METRIC_LABELS |= {name: one.distance for name, one in CERTIFIERS.items() if one.distance}
NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "celeba": "CelebA", "mtcnn": "MTCNN", "biggan": "BigGAN"}
NAMES |= {"mtcnn_landmarks": "MTCNN, landmarks"}
NAMES |= {"dcgan": "DCGAN", "unet": "U-Net", "mnist_striped": "MNIST on stripes"}
NAMES |= {"lenet": "LeNet", "resnet20": "ResNet-20", "lenet_probabilities": "LeNet", "protonet": "LeNet, embeddings"}
NAMES |= {"lenet_dncnn": "DnCNN and LeNet", "lenet_ddpm": "one-step diffusion and LeNet"}
NAMES |= {"mtcnn_dncnn": "DnCNN and MTCNN", "mtcnn_dncnn_small": "small DnCNN and MTCNN"}
NAMES |= dict.fromkeys(("text_recogniser", "text_detector"), "PP-OCRv6") | {"page": "lines", "page_blocks": "blocks"}

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers can tell apart; without yellow, too pale for a line."""

DOTTED: dict[str, Any] = {"linestyle": (0, (1, 1.3)), "linewidth": 1.0, "marker": ".", "markersize": 4}
_DASHED = {"linestyle": (0, (3, 1, 1, 1)), "linewidth": 1.1, "marker": "x", "markersize": 4}
_OTHERS: tuple[dict[str, Any], ...] = (
    {"linestyle": (0, (4, 1.2)), "linewidth": 1.0, "marker": "s", "markersize": 3, "markerfacecolor": "white"},
    {"linestyle": (0, (6, 1.5, 1, 1.5)), "linewidth": 1.0, "marker": "d", "markersize": 3.5},
    {"linestyle": (0, (2, 1, 1, 1)), "linewidth": 1.0, "marker": "v", "markersize": 3.5, "markerfacecolor": "white"},
    {"linestyle": (0, (5, 1, 1, 1, 1, 1)), "linewidth": 1.0, "marker": "^", "markersize": 3.5},
    {"linestyle": (0, (1, 2, 4, 2)), "linewidth": 1.0, "marker": ">", "markersize": 3.5, "markerfacecolor": "white"},
    {"linestyle": (0, (3, 1, 3, 2.5)), "linewidth": 1.0, "marker": "<", "markersize": 3.5},
)
_ATTACKED: dict[str, Any] = {"marker": "+", "markersize": 6, "markeredgewidth": 1.2, "zorder": 4}
_OTHERS_ATTACKED = "1234x*"


class Beside(NamedTuple):
    """Another rule whose medians stand beside those of the rule drawn, and how they and its attacks look."""

    rule: Mapping[str, str]
    label: str
    style: Mapping[str, Any]
    marker: str = ""
    """Marker of what an attack moved, where that is another smoothed model than the one drawn."""

    @property
    def column(self) -> str:
        """The column of medians."""
        return "beside " + "/".join(self.rule.values())

    @property
    def attacked(self) -> str:
        """The column of movements."""
        return f"{self.column} attacked"


def beside(rule: Mapping[str, str], present: Iterable[tuple[str, str]] = ()) -> list[Beside]:
    """Rules to draw beside a rule: the sharpest of the same smoothed model, and of each other smoothed model.

    Parameters
    ----------
    present : iterable of (str, str)
        Certifiers and rules of the rows, in their order: a user's own are known by these alone.
    """
    present = list(present)
    found, others = [], 0
    for certifier, sharpest in default_rules(present).items():
        one = {"certifier": certifier, "rule": sharpest}
        for apart in entry_of(certifier).apart:
            if certifier == rule["certifier"] and apart != rule["rule"] and (certifier, apart) in present:
                found.append(Beside(one | {"rule": apart}, f"no draws ({apart})", _DASHED))
        if certifier != rule["certifier"]:
            if entry_of(certifier).distance:  # of its own, in which no other is measured
                continue
            look = others % len(_OTHERS)
            label = f"{entry_of(certifier).label} ({sharpest})"
            found.append(Beside(one, label, _OTHERS[look], _OTHERS_ATTACKED[look]))
            others += 1
        elif sharpest != rule["rule"]:
            how = "from draws" if rule["rule"] in entry_of(certifier).apart else "sharper"
            found.append(Beside(one, f"{how} ({sharpest})", DOTTED))
    return sorted(found, key=lambda one: bool(one.marker))


_GLOBAL_RULE = MEAN_RULE | {"rule": "global"}

_MARKERS = "osD^vPX"
INK = "#333333"
PANEL_WIDTH, PANEL_HEIGHT = 3.3, 2.45  # inches: one column of a paper
LEGEND_LINE, FOOTER = 0.135, 0.115
_PANELS_A_ROW = 4
_LABEL_LETTERS = 32  # of a line beside a panel
_DPI = 200
_STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}


class Curve(NamedTuple):
    """Curve of one colour: a value of `h`, `scale` or `eps`; training and noise where the panels hold several."""

    value: float
    training: str
    noise: str
    label: str


class Layout(NamedTuple):
    """Layout of a figure: the columns of the rows on its axis and in its curves, and how they are written."""

    across: str
    xlabel: str
    curves: str
    symbol: str
    by_training: bool = False


_BY_H = Layout("eps", "perturbation ε", "h", "h")
LAYOUTS = {
    "h": _BY_H,
    "training": _BY_H._replace(by_training=True),
    "tradeoff": _BY_H._replace(by_training=True),
    "scale": _BY_H._replace(curves="scale", symbol="scale"),
    "eps": Layout("h", "h, perturbation over noise", "eps", "ε"),
}
"""By the manifest's ``curve``."""


def layout_of(manifest: Mapping[str, Any], threat: str) -> Layout:
    """The layout of an experiment's figures, in the symbols of its noise and the unit of its threat."""
    noise, layout = NOISES[manifest["noise"]["name"]], LAYOUTS[manifest["curve"]]
    if layout.across == "h":
        return layout._replace(xlabel=f"h = ε/{noise.symbol}, perturbation ({threat}) over noise")
    symbol = noise.symbol if layout.symbol == "scale" else layout.symbol
    return layout._replace(xlabel=f"perturbation ε ({threat})", symbol=symbol)


def draw(folder: str | Path) -> list[Path]:
    """Draw an experiment's figures into its folder.

    Parameters
    ----------
    folder : path
        Holds `certificates.csv` and `manifest.json`.

    Returns
    -------
    list of Path
        `radius_<metric>.pdf` and `.png` for each metric of the manifest that has rows, in the manifest's order: by the
        manifest's rule, or the sharpest of another certifier where that has no rows in the metric.

    Raises
    ------
    FileNotFoundError, ValueError
        The folder holds no experiment, or no row in the metrics to be drawn; one line.
    """
    import pandas as pd

    folder = Path(folder)
    manifest, rows = read_manifest(folder), read_rows(folder)
    of_metric = {metric: own for metric in manifest["metrics"] if len(own := rows[rows["metric"] == metric])}
    if not of_metric:
        metrics = ", ".join(manifest["metrics"]) or "none"
        raise ValueError(f"{folder}: expected rows of the metrics to be drawn ({metrics}), found none")
    attacks, slip = read_attacks(folder), read_unit_slip(folder)
    rules = {metric: leading_rule(own, manifest["rule"]) for metric, own in of_metric.items()}
    others = {metric: beside(rules[metric], rules_in(own)) for metric, own in of_metric.items()}
    medians = [
        _medians(own, attacks[attacks["metric"] == metric], rules[metric], others[metric])
        for metric, own in of_metric.items()
    ]
    layout = layout_of(manifest, str(rows["threat"].iloc[0]))
    summary, curves = _with_curves(pd.concat(medians, ignore_index=True), layout)
    slip = slip.assign(x=slip[layout.across], curve=slip[layout.curves])
    written = []
    for metric, own in of_metric.items():
        if manifest["curve"] == "tradeoff":
            written += _draw_tradeoff(folder, own, metric, manifest)
            continue
        if metric in CLASSIFIERS and (cells := classified(own, metric)):
            written += _draw_classes(folder, cells, own, manifest)
            continue
        baselines = [line for line in manifest["baselines"] if line["metric"] == metric]
        footer = footer_lines(of_rule(own, rules[metric]), manifest, rules[metric])
        footer += [] if baselines else _global_bound(of_rule(own, _GLOBAL_RULE))
        with style():
            lines, unit_slip = summary[summary["metric"] == metric], slip[slip["metric"] == metric]
            figure = _figure(
                lines, metric, curves, layout, footer, others[metric], baselines, unit_slip, manifest["units"]
            )
            written += save(figure, figure_path(folder, metric), manifest["title"])
    return written


def _medians(
    rows: pd.DataFrame, attacks: pd.DataFrame, rule: Mapping[str, str], others: Sequence[Beside]
) -> pd.DataFrame:
    """The summary of the rule that leads in the rows of one metric, with columns for the rules beside it."""
    summary = _with_attacks(summarise(of_rule(rows, rule)), of_rule(attacks, rule), "attacked")
    for one in others:
        summary = _with_medians(summary, summarise(of_rule(rows, one.rule)), one.column)
        summary = _with_attacks(summary, of_rule(attacks, one.rule), one.attacked)
    return summary


def _draw_classes(
    folder: Path, cells: Sequence[Classified], rows: pd.DataFrame, manifest: Mapping[str, Any]
) -> list[Path]:
    from csrun.report.label_figure import figure_of_classes

    symbol, xlabel = NOISES[manifest["noise"]["name"]].symbol, f"radius ({rows['threat'].iloc[0]})"
    drawn = {"certifier": cells[0].certifier, "rule": " or ".join(dict.fromkeys(cell.rule for cell in cells))}
    with style():
        figure = figure_of_classes(cells, symbol, xlabel, footer_lines(rows, manifest, drawn))
        return save(figure, figure_path(folder, cells[0].certifier), manifest["title"])


def _draw_tradeoff(folder: Path, rows: pd.DataFrame, metric: str, manifest: Mapping[str, Any]) -> list[Path]:
    """The figure of one metric, by the rule drawn and, of other certifiers, their sharpest."""
    from csrun.report.tradeoff import figure_of_tradeoff

    sharpest = default_rules(rules_in(rows)) | {manifest["rule"]["certifier"]: manifest["rule"]["rule"]}
    rows = rows[[sharpest[certifier] == rule for certifier, rule in zip(rows["certifier"], rows["rule"], strict=True)]]
    if rows.empty:
        return []
    lines = _with_truth(summarise(rows), read_truth(folder))
    with style():
        figure = figure_of_tradeoff(lines, metric, footer_lines(rows, manifest, manifest["rule"]))
        return save(figure, figure_path(folder, metric), manifest["title"])


def _global_bound(rows: pd.DataFrame) -> list[str]:
    """The mean's bound for every model alike as a line of text: it would flatten whatever else is drawn."""
    medians = summarise(rows).query("status == 'ok'").groupby("h")["radius_median"]
    at = [f"{number(values.min())} at h = {number(h)}" for h, values in medians]
    return [f"mean (global), not drawn: {', '.join(at)}"] if at else []


def _with_medians(summary: pd.DataFrame, other: pd.DataFrame, name: str) -> pd.DataFrame:
    """Each line's median radius under another rule as a column, NaN where there is none."""
    medians = dict(zip(_places(other), other["radius_median"], strict=True))
    return summary.assign(**{name: [medians.get(place, math.nan) for place in _places(summary)]})


def _with_attacks(summary: pd.DataFrame, attacks: pd.DataFrame, name: str) -> pd.DataFrame:
    """The median over points of the largest movement found, as a column; NaN where there is none."""
    found: dict[tuple[str, ...], list[float]] = {}
    for place, movement in zip(_places(attacks), attacks["movement"], strict=True):
        found.setdefault(place, []).append(movement)
    return summary.assign(**{name: [quantile(found.get(place, []), 0.5) for place in _places(summary)]})


def _with_truth(summary: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """The median distance of smoothed outputs to the truth as the column ``truth``; NaN where there is none."""
    keys = [*map(tuple, truth[list(KEYS)].astype(str).to_numpy())]
    found: dict[tuple[str, ...], list[float]] = {}
    for key, distance in zip(keys, truth["distance"], strict=True):
        found.setdefault(key, []).append(distance)
    own = map(tuple, summary[list(KEYS)].astype(str).to_numpy())
    return summary.assign(truth=[quantile(found.get(key, []), 0.5) for key in own])


def _places(summary: pd.DataFrame) -> list[tuple[str, ...]]:
    """Keys of the lines of a summary, the rule left out."""
    keys = [key for key in KEYS if key not in RULE]
    return list(summary[keys].astype(str).itertuples(index=False, name=None))


def figure_path(folder: Path, metric: str) -> Path:
    """Path of the figure of a metric in an experiment's folder, as PNG."""
    name = re.sub(r"[^\w.-]+", "_", metric)
    return folder / f"radius_{name}.png"


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's matplotlibrc says; restored afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def save(figure: Figure, path: Path, title: str) -> list[Path]:
    """Write both files; neither holds a date."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    _lay_out(figure)
    kinds = {"pdf": {"CreationDate": None, "Title": title}, "png": {"Software": None}}
    paths = []
    for kind, metadata in kinds.items():
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=_DPI, metadata=metadata)
        paths.append(path.with_suffix(f".{kind}"))
        paths[-1].write_bytes(content.getvalue())
    return paths


def _lay_out(figure: Figure) -> None:
    """Lay a figure out once, at rounded positions.

    The last digits of the layout's solver depend on addresses in memory, and pixels at the edges of pictures on them.
    """
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        ax.set_position(np.round(ax.get_position(original=True).bounds, 6).tolist())


def _with_curves(summary: pd.DataFrame, layout: Layout) -> tuple[pd.DataFrame, list[Curve]]:
    """Give every line its x and its curve; a curve has the same place, and so the same colour, in every figure."""
    summary = summary.assign(x=summary[layout.across])
    trainings, noises = trainings_of(summary), list(summary["noise"])
    several = len(set(noises)) > 1
    values = [float(f"{value:.9g}") for value in summary[layout.curves]]
    by_training = layout.by_training or _collide(summary, values)
    by_value = not layout.by_training or len(set(values)) > 1
    keys = [
        (value if by_value else math.nan, training if by_training else "", noise if several else "")
        for value, training, noise in zip(values, trainings, noises, strict=True)
    ]
    names = {key: _curve_label(layout, *key) for key in keys}
    curves = sorted({names[key]: Curve(*key, names[key]) for key in keys}.values(), key=_curve_order)
    place = {curve.label: index for index, curve in enumerate(curves)}
    return summary.assign(curve=[place[names[key]] for key in keys]), curves


def _collide(summary: pd.DataFrame, values: Sequence[float]) -> bool:
    """True if two lines of one panel would be one point of one curve: then the curves differ in training as well."""
    points = summary[["model", "dataset", "metric", "noise", "x"]].assign(value=values)
    return bool(points.duplicated().any())


def _curve_label(layout: Layout, value: float, training: str, noise: str) -> str:
    entry = NOISES.get(noise.partition("[")[0])
    symbol = entry.symbol if entry and layout.curves == "scale" else layout.symbol
    parts = [noise] if noise else []
    parts += [] if math.isnan(value) else [f"{symbol} = {number(value)}"]
    parts += [f"trained {training}"] if training else []
    return ", ".join(parts) or "one curve"


def _curve_order(curve: Curve) -> tuple[str, float, int, str]:
    trainings = ("with noise", "without noise")
    place = trainings.index(curve.training) if curve.training in trainings else len(trainings)
    return (curve.noise, 0.0 if math.isnan(curve.value) else curve.value, place, curve.training)


def _figure(
    lines: pd.DataFrame,
    metric: str,
    curves: Sequence[Curve],
    layout: Layout,
    footer: Sequence[str],
    others: Sequence[Beside] = (),
    baselines: Sequence[Mapping[str, Any]] = (),
    slip: pd.DataFrame | None = None,
    units: Mapping[str, str] | None = None,
) -> Figure:
    """All panels of one metric, the legend and the footer below them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = list(lines.groupby(["model", "dataset"], sort=True))
    across = min(len(panels), _PANELS_A_ROW)
    down = math.ceil(len(panels) / across)
    width = across * PANEL_WIDTH
    handles = _legend_handles(lines, curves, others) + _baseline_handles(baselines, layout) + _slip_handles(slip)
    legend_columns = columns_that_fit(handles, 2 * across, width)
    legend_rows = math.ceil(len(handles) / legend_columns)
    footer = [part for line in footer for part in textwrap.wrap(line, int(width * 22))]
    below = legend_rows * LEGEND_LINE + len(footer) * FOOTER + 0.1
    height = down * PANEL_HEIGHT + below

    layout_engine = ConstrainedLayoutEngine(rect=(0, below / height, 1, 1 - below / height), w_pad=0.05, h_pad=0.04)
    figure = Figure(figsize=(width, height), layout=layout_engine)
    axes = figure.subplots(down, across, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for index, ((model, dataset), panel) in enumerate(panels):
        ax = axes.flat[index]
        _panel(ax, panel, others)
        _baselines(ax, baselines, layout)
        _unit_slip(ax, slip, model, dataset)
        ax.set_title(f"{NAMES.get(model, model)}, {NAMES.get(dataset, dataset)}")
        unit = (units or {}).get(model, "")
        ax.set_xlabel(layout.xlabel if unit in layout.xlabel else f"{layout.xlabel}\nunit of ε: {unit}")
        if index % across == 0:
            ax.set_ylabel(textwrap.fill(METRIC_LABELS.get(metric, metric), _LABEL_LETTERS))
    anchor: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, below / height)}
    figure.legend(handles=row_wise(handles, legend_columns), ncols=legend_columns, **anchor, **LEGEND)
    bottom = 0.04 / height
    figure.text(0.5, bottom, "\n".join(footer), ha="center", va="bottom", fontsize=6, color="#666666", linespacing=1.3)
    return figure


LEGEND: dict[str, Any] = {
    "frameon": False,
    "borderaxespad": 0.2,
    "labelspacing": 0.3,
    "columnspacing": 1.5,
    "handlelength": 2.2,
}


def columns_that_fit(handles: Sequence[Artist], most: int, width: float) -> int:
    """Number of columns, at most ``most``, in which a legend of these is no wider than ``width`` inches; measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(handles) / most)
    for columns in range(math.ceil(len(handles) / rows), 1, -1):
        figure = Figure(figsize=(width, width), dpi=_DPI)
        legend = figure.legend(handles=row_wise(handles, columns), ncols=columns, **LEGEND)
        padding = 2 * legend.borderpad * legend.prop.get_size_in_points() / 72  # of a frame that is not drawn
        if legend.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width <= (width + padding) * figure.dpi:
            return columns
    return 1


def row_wise(handles: Sequence[Artist], columns: int) -> list[Artist]:
    """Matplotlib fills a legend column by column; reorder so that it reads row by row."""
    rows = math.ceil(len(handles) / columns)
    full = len(handles) - (rows - 1) * columns
    heights = [rows if column < full else rows - 1 for column in range(columns)]
    return [handles[row * columns + column] for column in range(columns) for row in range(heights[column])]


def _panel(ax: Axes, panel: pd.DataFrame, others: Sequence[Beside]) -> None:
    """One model on one data set: every curve with its band, and marks where a median is missing."""
    further = [column for one in others for column in (one.column, one.attacked)]
    columns = panel.columns.intersection(
        ["radius_median", "radius_q75", "error_median", "error_q75", "attacked", *further]
    )
    drawn = panel[columns].to_numpy(dtype=float)
    highest = float(np.max(drawn, initial=0, where=np.isfinite(drawn)))
    gaps = bool((panel["status"] != "ok").any())
    ax.set_ylim(0, (highest or 1.0) * (1.2 if gaps else 1.06))
    if not np.isfinite(drawn).any():
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no median to draw", transform=ax.transAxes, ha="center", va="center", color="#666666")
    x = np.unique(panel["x"].to_numpy(dtype=float))
    step = np.diff(x).min() if len(x) > 1 else x[0] or 1.0
    ax.set_xlim(x[0] - 0.4 * step, x[-1] + 0.4 * step)
    if len(x) <= 6:
        ax.set_xticks(x, [number(value) for value in x])
    for place, (index, lines) in enumerate(panel.groupby("curve", sort=True)):
        _curve(ax, lines.sort_values("x"), int(index), others)
        gap_marks(ax, lines, int(index), 0.97 - 0.055 * place)


_BASELINE_DASHES = ((0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 4)), (0, (8, 3)))


def baseline_look(index: int) -> dict[str, Any]:
    return {"color": "#666666", "linewidth": 1, "linestyle": _BASELINE_DASHES[index % len(_BASELINE_DASHES)]}


def _of_label(baselines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Values of each kind of baseline, as pairs ``(h, value)``."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for line in baselines:
        kinds.setdefault(line["label"], []).append((line["h"], line["value"]))
    return kinds


def _baselines(ax: Axes, baselines: Sequence[Mapping[str, Any]], layout: Layout) -> None:
    """Bounds that are the same for every input; the axis makes room for them.

    Curves where h goes across the figure, horizontal lines where it does not.
    """
    if layout.across == "h":
        for index, pairs in enumerate(_of_label(baselines).values()):
            ax.plot(*zip(*pairs, strict=True), marker=".", markersize=4, **baseline_look(index), zorder=1)
    else:
        for index, line in enumerate(baselines):
            ax.axhline(line["value"], **baseline_look(index), zorder=1)
    for line in baselines:
        ax.set_ylim(0, max(ax.get_ylim()[1], 1.06 * line["value"]))


def _baseline_handles(baselines: Sequence[Mapping[str, Any]], layout: Layout) -> list[Artist]:
    from matplotlib.lines import Line2D

    several = len({line["h"] for line in baselines}) > 1
    labels = [f"{line['label']}{', h = ' + number(line['h']) if several else ''}" for line in baselines]
    labels = list(_of_label(baselines)) if layout.across == "h" else labels
    return [Line2D([], [], **baseline_look(index), label=label) for index, label in enumerate(labels)]


_SLIP_LOOK: dict[str, Any] = {
    "color": "#8a8a8a",
    "linewidth": 1.1,
    "linestyle": (0, (4, 2)),
    "marker": ".",
    "zorder": 2,
}


def _unit_slip(ax: Axes, slip: pd.DataFrame | None, model: str, dataset: str) -> None:
    """A grey line for each curve: medians of what the released code's unit slip would give."""
    if slip is None:
        return
    own = slip[(slip["model"] == model) & (slip["dataset"] == dataset)]
    for _, lines in own.groupby("curve"):
        medians = lines.groupby("x")[SLIP_NUMBER].agg(lambda values: quantile(values, 0.5))
        ax.plot(medians.index.to_numpy(dtype=float), finite(medians), **_SLIP_LOOK)


def _slip_handles(slip: pd.DataFrame | None) -> list[Artist]:
    from matplotlib.lines import Line2D

    if slip is None or slip.empty:
        return []
    return [Line2D([], [], **_SLIP_LOOK, label="unit slip: NOT a certificate")]


def curve_look(index: int) -> dict[str, Any]:
    return {"color": PALETTE[index % len(PALETTE)], "marker": _MARKERS[index % len(_MARKERS)]}


def _curve(ax: Axes, lines: pd.DataFrame, index: int, others: Sequence[Beside]) -> None:
    """Radius and error of one curve; a missing median is NaN and leaves a gap."""
    look = curve_look(index)
    x = lines["x"].to_numpy(dtype=float)
    radius, error = finite(lines["radius_median"]), finite(lines["error_median"])
    _band(ax, x, radius, lines["radius_q25"], lines["radius_q75"], look["color"])
    _band(ax, x, error, lines["error_q25"], lines["error_q75"], look["color"])
    ax.plot(x, error, color=look["color"], linestyle=(0, (3.5, 1.8)), linewidth=1.1)
    ax.plot(x, radius, **look, zorder=3)
    if _has(lines, "attacked"):
        marks(ax, x, finite(lines["attacked"]), color=look["color"], **_ATTACKED)
    for one in others:
        if _has(lines, one.column):
            ax.plot(x, finite(lines[one.column]), color=look["color"], **one.style, zorder=2)
        if one.marker and _has(lines, one.attacked):
            marks(ax, x, finite(lines[one.attacked]), color=look["color"], **_ATTACKED | {"marker": one.marker})
    hollow = (lines["vacuous"] > 0).to_numpy() & np.isfinite(radius)
    marks(ax, x[hollow], radius[hollow], **look, markerfacecolor="white", zorder=4)
    marks(ax, x[isolated(error)], error[isolated(error)], color=look["color"], marker="_", markersize=6)


def _has(lines: pd.DataFrame, name: str) -> bool:
    return name in lines and bool(np.isfinite(lines[name]).any())


def marks(ax: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """Markers without a line; none where there are none, for an empty one would count in the layout."""
    if len(x):
        ax.plot(x, y, linestyle="none", **style)


def finite(values: pd.Series) -> np.ndarray:
    array = values.to_numpy(dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def isolated(values: np.ndarray) -> np.ndarray:
    """Mask of values with a gap on both sides, which no line would show."""
    there = np.pad(np.isfinite(values), 1)
    alone: np.ndarray = there[1:-1] & ~there[:-2] & ~there[2:]
    return alone


def _band(ax: Axes, x: np.ndarray, median: np.ndarray, low: pd.Series, high: pd.Series, color: str) -> None:
    """The interquartile range; an upper quartile of +infinity reaches the top edge."""
    top = ax.get_ylim()[1]
    bottom = np.where(np.isfinite(median), low.to_numpy(dtype=float), np.nan)
    above = np.where(np.isfinite(median), np.minimum(high.to_numpy(dtype=float), top), np.nan)
    ax.fill_between(x, bottom, above, color=color, alpha=0.13, linewidth=0)
    alone = isolated(median)
    ax.vlines(x[alone], bottom[alone], above[alone], color=color, alpha=0.3, linewidth=2.5)


def gap_marks(ax: Axes, lines: pd.DataFrame, index: int, height: float) -> None:
    """Marks along the top edge, one row a curve."""
    for status, marker in GAPS.items():
        x = lines.loc[lines["status"] == status, "x"].to_numpy(dtype=float)
        style = {"marker": marker, "color": curve_look(index)["color"], "markersize": 4.5, "markeredgewidth": 1.2}
        marks(ax, x, np.full(len(x), height), **style, transform=ax.get_xaxis_transform())


GAPS = {"abstains": "x", "infeasible": "|"}


def _legend_handles(lines: pd.DataFrame, curves: Sequence[Curve], others: Sequence[Beside]) -> list[Artist]:
    """Colours first, then what the kinds of line and mark mean; only what occurs."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def line(label: str, **style: Any) -> Line2D:
        return Line2D([], [], **{"color": INK, "label": label, **style})

    handles: list[Artist] = [line(curves[index].label, **curve_look(index)) for index in sorted(set(lines["curve"]))]
    handles.append(line("certified radius (median)", marker="o" if len(handles) == 1 else None))
    handles += [line(one.label, **one.style) for one in others if _has(lines, one.column)]
    handles.append(line("smoothing error (median)", linestyle=(0, (3.5, 1.8)), linewidth=1.1))
    if _has(lines, "attacked"):
        handles.append(line("attacked (median)", linestyle="none", **_ATTACKED))
    for one in others:
        if one.marker and _has(lines, one.attacked):
            label = f"{one.label.split(' (')[0]}, attacked"
            handles.append(line(label, linestyle="none", **_ATTACKED | {"marker": one.marker}))
    handles.append(Patch(facecolor=INK, alpha=0.2, linewidth=0, label="interquartile range"))
    for status, marker in GAPS.items():
        if (lines["status"] == status).any():
            handles.append(line(status, marker=marker, markersize=4.5, markeredgewidth=1.2, linestyle="none"))
    if ((lines["vacuous"] > 0) & (lines["status"] == "ok")).any():
        handles.append(line("vacuous for some points", marker="o", markerfacecolor="white", linestyle="none"))
    return handles


def footer_lines(rows: pd.DataFrame, manifest: Mapping[str, Any], rule: Mapping[str, str]) -> list[str]:
    """The small print: counts, points and rule of the rows drawn, then the manifest's notes.

    Parameters
    ----------
    rows : DataFrame
        The rows of one figure, as `read_rows` returns them.
    manifest : mapping
        As `read_manifest` returns it.
    rule : mapping
        Certifier and rule of the rows.

    Returns
    -------
    list of str
        One sentence a line, without a final stop.
    """
    named = (("n", "n"), ("m", "m"), ("Δ", "delta"))
    counts = [
        f"{symbol} = {_values(rows[name])}" for symbol, name in named if name in rows and rows[name].notna().any()
    ]
    if "n0" in rows and (rows["n0"] > 0).any():
        counts.insert(0, f"n0 = {_values(rows['n0'])}")
    points = int(rows["point"].nunique()) or int(manifest.get("points", 0))
    parts = [*counts, f"{points} point{'s' * (points != 1)}"]
    parts.append(f"{entry_of(rule['certifier']).label} by the rule {rule['rule']}")
    kind = "reduced counts: " if manifest.get("reduced") else ""
    return [kind + ", ".join(parts), *map(str, manifest.get("notes") or [])]


def _values(column: pd.Series) -> str:
    values = sorted({float(value) for value in column.dropna()})
    return " or ".join(f"{value:,.0f}" if value >= 1000 else f"{value:g}" for value in values) or "–"
