"""The figure of certified segmentations: pixels that can change, and the least intersection over union.

Drawn from an experiment's folder alone, as the figures of `csrun.report.plots`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from csrun.registry import CERTIFIERS, NOISES
from csrun.report.plots import NAMES, PALETTE, footer_lines, save, style
from csrun.report.published import SETTING
from csrun.report.tables import (
    SHARPER_RULE,
    number,
    of_rule,
    quantile,
    read_iou,
    read_manifest,
    read_rows,
    training_kind,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE = "segmentation.png"
_HOLM = {"certifier": "segmentation", "rule": CERTIFIERS["segmentation"].rules[-1]}


class _Curve(NamedTuple):
    """Values of points at each ``eps``, and what the curve is called."""

    label: str
    values: pd.Series
    eps: pd.Series


def draw_segmentation(folder: str | Path) -> list[Path]:
    """Draw ``segmentation.pdf`` and ``.png`` into an experiment's folder, where segmentations have a truth.

    Two panels for each model, data set, training and noise, with medians over points: the share
    of pixels that can change, by each rule and by centers in the Hamming distance; and the certified intersection over
    union.

    Returns
    -------
    list of Path
        Empty where there is no `IOU_FILE`.
    """
    folder = Path(folder)
    overlaps = read_iou(folder)
    if overlaps.empty:
        return []
    manifest, rows = read_manifest(folder), read_rows(folder)
    symbol = NOISES[manifest["noise"]["name"]].symbol
    small_print = footer_lines(of_rule(rows, _HOLM), manifest, _HOLM)
    cells = list(overlaps.groupby(list(SETTING), sort=True))
    several = overlaps["train"].nunique() > 1
    groups = [
        (_title(dict(zip(SETTING, cell, strict=True)), symbol, several), _of_cell(rows, cell), own)
        for cell, own in cells
    ]
    with style():
        xlabel = f"perturbation ε ({rows['threat'].iloc[0]})"
        return save(_figure(groups, xlabel, small_print), folder / FIGURE, f"{manifest['title']}: segmentation")


def _title(cell: Mapping[str, Any], symbol: str, with_training: bool) -> str:
    model, dataset = (NAMES.get(cell[part], cell[part]) for part in ("model", "dataset"))
    training = f", {training_kind(cell['train'], cell['scale'])}" if with_training else ""
    return f"{model}, {dataset}, {symbol} = {number(cell['scale'])}{training}"


def _of_cell(rows: pd.DataFrame, cell: tuple[Any, ...]) -> pd.DataFrame:
    return rows[(rows[list(SETTING)] == list(cell)).all(axis=1)]


def _figure(
    groups: Sequence[tuple[str, pd.DataFrame, pd.DataFrame]], xlabel: str, small_print: Sequence[str]
) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    width, height = 6.6, 2.7 * len(groups)
    footer = [part for line in small_print for part in textwrap.wrap(line, int(width * 22))]
    below = (0.115 * len(footer) + 0.1) / height
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(rect=(0, below, 1, 1 - below)))
    axes = figure.subplots(len(groups), 2, squeeze=False)
    for (shares, overlap), (title, rows, overlaps) in zip(axes, groups, strict=True):
        _draw(shares, _of_shares(rows))
        shares.set(title=title, xlabel=xlabel, ylabel="share of pixels that can change")
        shares.set_ylim(bottom=0)
        _draw(overlap, _of_overlaps(overlaps))
        answer = quantile(overlaps.drop_duplicates("point")["iou"].tolist(), 0.5)
        overlap.axhline(answer, color="#666666", linestyle=(0, (3.5, 1.8)), linewidth=1.1, label="of the answer")
        overlap.set(title=title, xlabel=xlabel, ylabel="mean IoU of the classes present", ylim=(0, 1))
        for ax in (shares, overlap):
            ax.legend(loc="best", frameon=False)
    figure.text(0.5, 0.01, "\n".join(footer), ha="center", va="bottom", fontsize=6, color="#666666", linespacing=1.3)
    return figure


def _of_shares(rows: pd.DataFrame) -> list[_Curve]:
    """Radii, an abstention as infinity: by the rules of segmentations, and by centers."""
    curves = [(f"certified pixel by pixel, {rule}", {**_HOLM, "rule": rule}) for rule in _rules()]
    centers = rows[rows["metric"] == "hamming"]
    parts = [(label, of_rule(rows, rule)) for label, rule in curves]
    parts.append((f"centers, {SHARPER_RULE['rule']}", of_rule(centers, SHARPER_RULE)))
    return [_Curve(label, own["radius"].fillna(float("inf")), own["eps"]) for label, own in parts if len(own)]


def _of_overlaps(overlaps: pd.DataFrame) -> list[_Curve]:
    parts = [(rule, overlaps[overlaps["rule"] == rule]) for rule in _rules()]
    return [_Curve(f"certified, {rule}", own["certified_iou"], own["eps"]) for rule, own in parts if len(own)]


def _rules() -> Iterable[str]:
    """The sharpest first."""
    return reversed(CERTIFIERS["segmentation"].rules)


_LOOKS: Sequence[Mapping[str, Any]] = [
    {"color": color, "marker": marker} for color, marker in zip(PALETTE, "osD^", strict=False)
]


def _draw(ax: Axes, curves: Iterable[_Curve]) -> None:
    """Medians, and the interquartile range of the first curve; those that abstentions make infinite leave gaps."""
    for place, (curve, look) in enumerate(zip(curves, _LOOKS, strict=False)):
        by_eps = [(eps, own.tolist()) for eps, own in curve.values.groupby(curve.eps)]
        x = [eps for eps, _ in by_eps]
        low, median, high = ([quantile(values, q) for _, values in by_eps] for q in (0.25, 0.5, 0.75))
        if place == 0:
            ax.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)
        ax.plot(x, median, label=curve.label, **look)
        ax.set_xticks(x, list(map(number, x)))
