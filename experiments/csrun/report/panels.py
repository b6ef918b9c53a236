"""Panels: what a model answers beside what its smoothed version answers (figures 3b and 4b of the paper).

A panel shows at most six test points at one (eps, h). Its pictures and boxes are kept in ``panel_<model>.npz`` in the
experiment's own folder, its radii come from the experiment's rows, so that it can be drawn again from that folder
alone, without torch and without the data. The same files give the same bytes.

Outputs that are images stand as two rows, the base model's above the smoothed ones. Boxes and landmarks are drawn on
the photograph they were found on: the base model's green, the smoothed ones blue, and the limits that a certificate
sets red. Segmentations stand in rows: the images, the base model's maps, the smoothed ones, those with the pixels that
abstain in white, and the truth where it is known. Of texts each image stands beside a noisy copy, with the base model's
text below the one and the smoothed text below the other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from csrun.registry import NOISES, key_of, measures_texts, names_of
from csrun.report.plots import METRIC_LABELS, PALETTE, footer_lines, save, style
from csrun.report.tables import number, of_rule, read_manifest, read_rows
from csrun.system.files import archive_of, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 6
BASE_COLOR, SMOOTHED_COLOR, BOUND_COLOR = PALETTE[2], PALETTE[0], PALETTE[1]
_GREY = "#666666"
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class PanelSource:
    """A cell as a panel needs it.

    Attributes
    ----------
    model, digest : str
    answers : Path
        The cell's ``answers.npz``.
    output_range : tuple of float, optional
        Black and white of outputs that are images; None where they are none.
    maps : callable, optional
        The maps of rows of a segmentation, as `cells.maps.panel_maps` gives them.
    noisy : callable, optional
        A noisy copy of each of some points, from the points and their inputs.
    landmarks : bool
        Whether outputs are points of the image that is the input, ``x, y`` in pixels.
    """

    model: str
    digest: str
    answers: Path
    output_range: tuple[float, float] | None
    maps: Callable[[Sequence[Mapping[str, str]]], Mapping[str, NDArray[Any]]] | None = None
    noisy: Callable[[Sequence[int], NDArray[np.float32]], NDArray[np.float32]] | None = None
    landmarks: bool = False


def save_panels(
    folder: Path,
    sources: Iterable[PanelSource],
    rows: Sequence[Mapping[str, str]],
    examples: Callable[[list[int]], NDArray[np.float32]],
) -> list[dict[str, Any]]:
    """Keep what the panels of an experiment show, one a model whose outputs can be shown.

    Parameters
    ----------
    folder : Path
        The experiment's; panels of an earlier run are removed.
    rows : sequence of mappings
        The rows to show, as `rows.rows_of_point` makes them: of one metric and one rule.
    examples : callable
        Test points by index, ``(count, C, H, W)`` in [0, 1] where they are images.

    Returns
    -------
    list of dict
        What the manifest says of each panel: ``file`` (to be drawn by `draw_panels`), ``data``, ``caption``, and which
        rows it shows.
    """
    for stale in folder.glob("panel_*"):
        stale.unlink()
    by_cell = {source.digest: source for source in sources}
    panels = [_save_panel(folder, by_cell, _of_model(rows, model), examples) for model in _models(rows)]
    return [panel for panel in panels if panel]


def _models(rows: Iterable[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows))


def _of_model(rows: Iterable[Mapping[str, str]], model: str) -> list[Mapping[str, str]]:
    return [row for row in rows if row["model"] == model]


def _save_panel(
    folder: Path,
    sources: Mapping[str, PanelSource],
    rows: Sequence[Mapping[str, str]],
    examples: Callable[[list[int]], NDArray[np.float32]],
) -> dict[str, Any]:
    """One panel's file and its entry of the manifest; empty where nothing was certified or can be shown."""
    shown = rows_to_show(rows)
    if not shown:
        return {}
    source = sources[shown[0]["cell"]]
    name = key_of(shown[0]["certifier"], shown[0]["metric"], shown[0]["rule"])
    maps = source.maps(shown) if source.maps is not None else {}
    points = [int(row["point"]) for row in shown]
    if maps:
        inputs = examples(points)
        pictures = {"points": np.array(points), "inputs": as_bytes(inputs, (0.0, 1.0)), **maps}
        arrays = pictures if _are_images(inputs) else {}
    else:
        arrays = _arrays(source, name, points, examples)
    if not arrays:
        return {}
    stem = f"panel_{source.model.replace(':', '.')}"
    write_atomically(folder / f"{stem}.npz", archive_of(arrays))
    identity = {key: shown[0][key] for key in ("cell", "model")}
    identity["metric"] = shown[0]["metric"] or shown[0]["certifier"]  # as `read_rows` says
    pair = {key: float(shown[0][key]) for key in ("eps", "h")}
    return {"file": f"{stem}.png", "data": f"{stem}.npz", **identity, **pair, "caption": caption(shown, arrays)}


def rows_to_show(rows: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The rows of the strongest statement at least half of whose points are certified: largest eps, then largest h.

    Where a model was trained with and without noise, the one trained with it.
    """
    groups: dict[tuple[float, float, float, str], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        groups[float(row["eps"]), float(row["h"]), float(row["train"].partition("@")[2] or 0), row["cell"]].append(row)
    good = [key for key, group in groups.items() if 2 * sum(map(_certified, group)) >= len(group)]
    return sorted(groups[max(good)], key=lambda row: int(row["point"]))[:MOST_POINTS] if good else []


def _certified(row: Mapping[str, str]) -> bool:
    return row["outcome"] == "certified"


def _arrays(
    source: PanelSource, name: str, points: list[int], examples: Callable[[list[int]], NDArray[np.float32]]
) -> dict[str, NDArray[Any]]:
    """The content of a panel's file, answers by that name; empty where outputs are neither images nor found on some."""
    with np.load(source.answers, allow_pickle=False) as kept:
        answered = kept[f"{name}.points"].tolist()
        shown = [point for point in points if point in answered]
        places = [answered.index(point) for point in shown]
        smoothed, base = kept[name][places], kept[f"{name}.base"][places]
    named = {"points": np.array(shown), "base": base, "smoothed": smoothed}
    if measures_texts(name.partition(".")[2]) and source.noisy is not None:
        inputs = examples(shown)
        pictures = {"inputs": inputs, "noisy": source.noisy(shown, inputs)} if _are_images(inputs) else {}
        shows = bool(pictures) and _are_images(pictures["noisy"])
        return named | {key: as_bytes(each, (0.0, 1.0)) for key, each in pictures.items()} if shows else {}
    if source.landmarks or names_of(name)[1] in ("jaccard", "boxes"):
        inputs = examples(shown)
        return named | {"inputs": as_bytes(inputs, (0.0, 1.0))} if _are_images(inputs) else {}
    if source.output_range is None or not _are_images(base):
        return {}
    return {"points": named["points"]} | {
        key: as_bytes(named[key], source.output_range) for key in ("base", "smoothed")
    }


def _are_images(values: NDArray[Any]) -> bool:
    return values.ndim == 4 and values.shape[1] in _CHANNELS


def as_bytes(values: NDArray[Any], value_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Pixels as bytes, black and white at the ends of the range.

    >>> as_bytes(np.array([-1.0, 0.0, 1.0]), (-1.0, 1.0)).tolist()
    [0, 128, 255]
    """
    low, high = value_range
    return np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)


def caption(rows: Sequence[Mapping[str, str]], arrays: Mapping[str, NDArray[Any]]) -> str:
    """Caption of a panel: what it shows, and what its radii promise."""
    row, what = rows[0], _what(rows, arrays)
    if "certified" in arrays:
        return (
            f"{what} {row['noise']} noise of scale {number(float(row['scale']))}. At every input within eps = "
            f"{number(float(row['eps']))} ({row['threat']}) of the one shown, all pixels that do not abstain keep "
            f"their class by the rule {row['rule']}, except with probability {row['alpha']} of the draws. The radius "
            "under each is the share of the others. Nothing is promised about the base model's outputs."
        )
    metric = METRIC_LABELS.get(row["metric"] or row["certifier"], row["metric"])
    return (
        f"{what} {row['noise']} noise of scale {number(float(row['scale']))}. The radius under each is its "
        f"certificate: for every input within eps = {number(float(row['eps']))} ({row['threat']}) of the one shown, a "
        f"fresh smoothed answer differs from the one shown by more than the radius ({metric}) with probability at most "
        f"{number(_at_others(row), 2)}; the radius itself was drawn, and is too small with probability at most "
        f"{row['alpha2']}. Nothing is promised about the base model's outputs."
    )


def _what(rows: Sequence[Mapping[str, str]], arrays: Mapping[str, NDArray[Any]]) -> str:
    """A sentence on what a panel shows where."""
    if "certified" in arrays:
        base = "the base model's segmentation, " if "base" in arrays else ""
        truth = ", the truth" if "truth" in arrays else ""
        return (
            f"From above: the image, {base}the smoothed segmentation, the same with the pixels that abstain in white"
            f"{truth}."
        )
    if "noisy" in arrays:
        return "Left: the image, below it the base model's text. Right: a noisy copy, below it the smoothed text."
    if "inputs" in arrays:
        named, by_point = _named(arrays["smoothed"]), {int(row["point"]): row for row in rows}
        pairs = zip(arrays["points"].tolist(), arrays["smoothed"], strict=True)
        limits = any(_limits(by_point[point], answer) for point, answer in pairs)
        return f"Green: the base model's {named}. Blue: the smoothed {named}. {_LIMITS[named] * limits}".rstrip()
    return "Above: the base model's outputs. Below: the smoothed outputs at the same inputs."


def _at_others(row: Mapping[str, str]) -> float:
    """The failure probability of a run elsewhere; with separate candidates that of missing with all of them too."""
    return float(row["alpha"]) - float(row["alpha2"])


def draw_panels(folder: str | Path) -> list[Path]:
    """Draw the panels of an experiment's folder, those its manifest lists.

    Returns
    -------
    list of Path
        ``panel_<model>.pdf`` and ``.png`` for each.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    return [path for panel in manifest.get("panels", []) for path in _draw_panel(folder, panel, manifest)]


def can_be_drawn(folder: Path, panel: Mapping[str, Any], rows: pd.DataFrame, rule: Mapping[str, str]) -> bool:
    """Whether the rows that a panel shows are there, at each of its points."""
    with np.load(folder / panel["data"], allow_pickle=False) as kept:
        return set(kept["points"].tolist()) <= set(_rows_of(rows, panel, rule).index)


def _draw_panel(folder: Path, panel: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[Path]:
    rows = _rows_of(read_rows(folder), panel, manifest["rule"])
    with np.load(folder / panel["data"], allow_pickle=False) as kept:
        arrays = dict(kept)
    small_print = footer(rows, {**manifest, "notes": panel["notes"]})
    with style():
        figure = _drawing_of(arrays)(arrays, rows, small_print)
        return save(figure, folder / panel["file"], f"{manifest['title']}: panel")


def _drawing_of(
    arrays: Mapping[str, NDArray[Any]],
) -> Callable[[Mapping[str, NDArray[Any]], pd.DataFrame, Sequence[str]], Figure]:
    if "certified" in arrays:
        return _maps
    return _texts if "noisy" in arrays else _on_pictures if "inputs" in arrays else _images


def _rows_of(rows: pd.DataFrame, panel: Mapping[str, Any], rule: Mapping[str, str]) -> pd.DataFrame:
    """The rows a panel shows, by point."""
    keep = np.ones(len(rows), dtype=bool)
    for key in ("cell", "metric", "eps", "h"):
        keep &= (rows[key] == panel[key]).to_numpy(dtype=bool)
    return of_rule(rows[keep], rule).set_index("point", drop=False)


def footer(rows: pd.DataFrame, manifest: Mapping[str, Any]) -> list[str]:
    """The small print of a panel: eps, scale, h and what radius and error are measured in, then that of the figures."""
    row = rows.iloc[0]
    metric = METRIC_LABELS.get(row["metric"], row["metric"])
    symbol = NOISES[manifest["noise"]["name"]].symbol
    pair = ", ".join(f"{sign} = {number(row[key])}" for sign, key in (("ε", "eps"), (symbol, "scale"), ("h", "h")))
    return [f"{pair} ({row['threat']})", f"radius and error: {metric}", *footer_lines(rows, manifest, manifest["rule"])]


def _images(arrays: Mapping[str, NDArray[Any]], rows: pd.DataFrame, small_print: Sequence[str]) -> Figure:
    """Two rows of pictures, a column a point."""
    points = arrays["points"].tolist()
    figure, axes = _grid(2, len(points), 1.0, 1.0, small_print)
    for column, point in enumerate(points):
        row = rows.loc[point]
        axes[0, column].set_title(row["source"], fontsize=6.5)
        _show(axes[0, column], arrays["base"][column])
        if _certified(row):
            _show(axes[1, column], arrays["smoothed"][column])
        axes[1, column].set_xlabel(result(row), fontsize=6.5)
    for ax, label in zip(axes[:, 0], ("base", "smoothed"), strict=True):
        ax.set_ylabel(label)
    return figure


def _maps(arrays: Mapping[str, NDArray[Any]], rows: pd.DataFrame, small_print: Sequence[str]) -> Figure:
    """A column a point: image, segmentations of base and smoothed model, the latter where certified, and the truth.

    Panels saved without the base model's maps are drawn without that row, as are those whose truth is not known.
    """
    from matplotlib.patches import Patch

    points = arrays["points"].tolist()
    maps = {"base": arrays["base"]} if "base" in arrays else {}
    maps |= {"smoothed": arrays["classes"], "certified": np.where(arrays["certified"], arrays["classes"], -1)}
    maps |= {"truth": arrays["truth"]} if "truth" in arrays else {}
    abstains = not arrays["certified"].all()
    height, width = arrays["inputs"].shape[2:]
    wide = min(2.0, max(1.0, width / height))
    figure, axes = _grid(
        1 + len(maps), len(points), wide, wide * height / width, small_print, legend_lines=int(abstains)
    )
    for column, point in enumerate(points):
        axes[0, column].set_title(rows.loc[point]["source"], fontsize=6.5)
        _show(axes[0, column], arrays["inputs"][column])
        for ax, several in zip(axes[1:, column], maps.values(), strict=True):
            ax.imshow(_in_colors(several[column]))
        axes[-1, column].set_xlabel(result(rows.loc[point]), fontsize=6.5)
    for ax, label in zip(axes[:, 0], ("image", *maps), strict=True):
        ax.set_ylabel(label)
    if abstains:
        white = Patch(facecolor="white", edgecolor=_GREY, linewidth=0.5, label="pixels that may change within ε")
        figure.legend(handles=[white], loc="upper center", frameon=False, borderaxespad=0.2)
    return figure


def _in_colors(classes: NDArray[np.int32]) -> NDArray[np.float64]:
    """Class 0 in dark grey, the others in colours in turn, pixels that abstain (-1) in white."""
    from matplotlib import colormaps

    colors = np.vstack([[1.0, 1.0, 1.0], [0.2, 0.2, 0.2], colormaps["tab20"](np.arange(20))[:, :3]])
    places: NDArray[np.float64] = colors[np.where(classes <= 0, classes + 1, 2 + (classes - 1) % 20)]
    return places


def _texts(arrays: Mapping[str, NDArray[Any]], rows: pd.DataFrame, small_print: Sequence[str]) -> Figure:
    """A row a point: the image with the base model's text, a noisy copy with the smoothed text and its radius."""
    points = arrays["points"].tolist()
    height, width = arrays["inputs"].shape[2:]
    figure, axes = _grid(len(points), 2, 3.2, min(1.6, 3.2 * height / width) + 0.2, small_print)
    for (left, right), point, *shown in zip(axes, points, *(arrays[key] for key in _OF_TEXTS), strict=True):
        image, noisy, base, smoothed = shown
        row = rows.loc[point]
        _show(left, image)
        _show(right, noisy)
        left.set_xlabel(f"base: {_printable(base)}\n{row['source']}", fontsize=6.5, parse_math=False)
        answer = f"smoothed: {_printable(smoothed)}\n" if _certified(row) else ""
        right.set_xlabel(answer + _edits(row), fontsize=6.5, parse_math=False)
    for ax, label in zip(axes[0], ("image", "with noise"), strict=True):
        ax.set_title(label)
    return figure


_OF_TEXTS = ("inputs", "noisy", "base", "smoothed")


def _printable(codes: NDArray[np.int32]) -> str:
    """The text of code points padded with zeros; in place of what the font lacks the sign for it.

    >>> _printable(np.array([65, 0x10FFFD, 98, 0, 0])), _printable(np.array([0]))
    ('A�b', '(nothing)')
    """
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    letters = [chr(code) if font.get_char_index(code) else "\ufffd" for code in codes.tolist() if code]
    return "".join(letters) or "(nothing)"


def _edits(row: Mapping[str, Any]) -> str:
    """The certificate of a text in a few words.

    >>> _edits({"outcome": "certified", "metric": "edit", "radius": 3.0})
    'within 3 edits of it'
    >>> _edits({"outcome": "certified", "metric": "edit_normalised", "radius": 0.25, "error": 0.0, "vacuous": False})
    'radius 0.25, error 0'
    """
    if _certified(row) and row["metric"] == "edit":
        return f"within {row['radius']:.0f} edit{'' if row['radius'] == 1 else 's'} of it"
    return result(row).replace("\n", ", ")


def _on_pictures(arrays: Mapping[str, NDArray[Any]], rows: pd.DataFrame, small_print: Sequence[str]) -> Figure:
    """A photograph a point, with both answers, boxes or landmarks, and the limits that the certificate sets."""
    from matplotlib.lines import Line2D

    points, answers = arrays["points"].tolist(), arrays["smoothed"]
    height, width = arrays["inputs"].shape[2:]
    named = _named(answers)
    drawn = [(BASE_COLOR, 3.2, f"base model's {named}"), (SMOOTHED_COLOR, 1.2, f"smoothed {named}")]
    marks: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgewidth": 0} if named == "landmarks" else {}
    handles = [
        Line2D([], [], color=color, linewidth=width, markersize=1.6 * width, label=label, **marks)
        for color, width, label in drawn
    ]
    limits = {point: _limits(rows.loc[point], answer) for point, answer in zip(points, answers, strict=True)}
    if any(limits.values()):
        handles.append(Line2D([], [], color=BOUND_COLOR, linewidth=0.8, linestyle="--", label=_LIMIT_LABELS[named]))
    lines = 1 if len(handles) == 2 or len(points) > 1 else 2
    shorter = min(width, height)
    size = 1.65 * width / shorter, 1.65 * height / shorter
    figure, axes = _grid(1, len(points), *size, small_print, legend_lines=lines)
    for column, point in enumerate(points):
        row, ax = rows.loc[point], axes[0, column]
        ax.set_title(row["source"], fontsize=6.5)
        _show(ax, arrays["inputs"][column])
        _answer(ax, arrays["base"][column], BASE_COLOR, 3.2)
        if _certified(row):
            _answer(ax, answers[column], SMOOTHED_COLOR, 1.2)
            for limit in limits[point]:
                _box(ax, limit, edgecolor=BOUND_COLOR, linewidth=0.8, linestyle="--", zorder=3)
        ax.set_xlabel(result(row) + _counted(row, answers[column]), fontsize=6.5)
    figure.legend(
        handles=handles, loc="upper center", ncols=2 if lines > 1 else len(handles), frameon=False, borderaxespad=0.2
    )
    return figure


_LIMIT_LABELS = {
    "box": "largest and smallest within ε",
    "boxes": "outer and inner limit within ε",
    "landmarks": "intervals within ε",
}
_LIMITS = {
    "box": "Red: the largest and the smallest box that the certificate allows.",
    "boxes": "Red: the counterpart of each box lies in the outer frame and contains the inner one.",
    "landmarks": "Red: the intervals of each landmark.",
}
"""Sentences on limits, for captions."""


def _named(answers: NDArray[np.floating]) -> str:
    """The word for an answer: ``(n, 4)`` are boxes, ``(n, N, 4)`` lists of them, ``(n, N, 2)`` lists of points."""
    if answers.ndim == 2:
        return "box"
    return "boxes" if answers.shape[-1] == 4 else "landmarks"


def _answer(ax: Axes, answer: NDArray[np.floating], color: str, width: float) -> None:
    """A box, a list of boxes, or a list of points; the wide one first, so that both are seen where they meet."""
    if answer.shape[-1] == 2:
        ax.plot(*answer.T, "o", color=color, markersize=0.8 * width, markeredgewidth=0)
    for corners in answer.reshape(-1, 4) if answer.shape[-1] == 4 else ():
        _box(ax, corners, edgecolor=color, linewidth=width)


def _limits(row: Mapping[str, Any], answer: NDArray[np.floating]) -> list[NDArray[np.float64]]:
    """Frames that a certificate draws around an answer; empty where it has none.

    Of one box the largest and the smallest whose corners are within the bounds of the row; of points the bounds of
    each. Of a list of boxes two around each: its counterpart lies in the outer one and contains the inner one.

    >>> [box.tolist() for box in _limits({"lower": "0 0 6 6", "upper": "2 2 8 8"}, np.zeros(4))]
    [[0.0, 0.0, 8.0, 8.0], [2.0, 2.0, 6.0, 6.0]]
    >>> [box.tolist() for box in _limits({"lower": "0 1 6 6", "upper": "2 2 8 8"}, np.zeros((2, 2)))]
    [[0.0, 1.0, 2.0, 2.0], [6.0, 6.0, 8.0, 8.0]]
    """
    lower, upper = (np.array(str(row.get(name, "")).split(), dtype=float) for name in ("lower", "upper"))
    if len(lower) == answer.size and answer.shape == (4,):
        return [np.concatenate([lower[:2], upper[2:]]), np.concatenate([upper[:2], lower[2:]])]
    if len(lower) == answer.size and answer.shape[-1] == 2:
        return list(np.concatenate([lower.reshape(-1, 2), upper.reshape(-1, 2)], axis=1))
    if row.get("metric") != "boxes" or not _certified(row):
        return []
    boxes = _present(answer)
    return [frame for box in boxes for frame in _frames(box, len(boxes) * float(row["radius"]))]


def _present(boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    """The boxes of a list that are not empty, ``(N, 4) -> (k, 4)``."""
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]


def _frames(box: NDArray[np.floating], distance: float) -> list[NDArray[np.float64]]:
    """The frame around all boxes within a Jaccard distance of one, and the one that all contain; none from 1 on.

    Let ``t = 1 - distance`` be the least intersection over union with a box of sides ``w`` and ``h``. A box that sticks
    out by ``s`` on the left and shares a height ``k`` with it has at most ``w k`` in common with it, of a union of at
    least ``(w + s) k``: ``s <= w (1/t - 1)``. One that begins ``s`` inside shares at most ``(w - s) h``: ``s <= w (1 -
    t)``. The other sides are alike.

    >>> [frame.round(3).tolist() for frame in _frames(np.array([0.0, 0, 4, 8]), 0.2)], _frames(np.zeros(4), 1.0)
    ([[-1.0, -2.0, 5.0, 10.0], [0.8, 1.6, 3.2, 6.4]], [])
    """
    if distance >= 1:
        return []
    out = np.tile(box[2:] - box[:2], 2) * [-1, -1, 1, 1]
    return [box + out * (1 / (1 - distance) - 1), box - out * distance]


def _counted(row: Mapping[str, Any], answer: NDArray[np.floating]) -> str:
    """A line on how many boxes the other list may have, for the radius of a list of boxes.

    >>> _counted({"metric": "boxes", "outcome": "certified", "radius": 0.2}, np.array([[0.0, 0, 1, 1]] * 4))
    '\\n4 or 5 boxes'
    """
    if row.get("metric") != "boxes" or not _certified(row):
        return ""
    count, kept = len(_present(answer)), 1 - float(row["radius"])
    if kept <= 0:
        return "\nany number of boxes"
    least, most = math.ceil(count * kept - 1e-9), math.floor(count / kept + 1e-9)
    numbers = str(least) if least == most else f"{least} {'or' if most == least + 1 else 'to'} {most}"
    return f"\n{numbers} box{'es' * (most != 1)}"


def result(row: Mapping[str, Any]) -> str:
    """Text under a point of a panel.

    >>> result({"outcome": "certified", "radius": 0.31, "error": 0.02, "vacuous": False})
    'radius 0.31\\nerror 0.02'
    >>> result({"outcome": "bad_center"})
    'abstains'
    """
    if not _certified(row):
        return "abstains" if row["outcome"] in ("bad_center", "ratio_exceeded") else str(row["outcome"])
    vacuous = " (vacuous)" if row["vacuous"] else ""
    return f"radius {number(row['radius'], 3)}{vacuous}\nerror {number(row['error'], 3)}"


def _grid(
    down: int, across: int, width: float, height: float, small_print: Sequence[str], *, legend_lines: int = 0
) -> tuple[Figure, NDArray[Any]]:
    """Axes of one size for pictures, with room for titles, results and small print; in inches."""
    import textwrap

    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    total = max(3.3, across * (width + 0.1) + 0.3)
    lines = [part for line in small_print for part in textwrap.wrap(line, int(total * 22))]
    below, above = 0.11 * len(lines) + 0.08, 0.13 * legend_lines + 0.07 * bool(legend_lines)
    whole = down * height + 0.65 + below + above
    room = (0, below / whole, 1, 1 - (below + above) / whole)
    figure = Figure(figsize=(total, whole), layout=ConstrainedLayoutEngine(rect=room, w_pad=0.03, h_pad=0.03))
    figure.text(0.5, 0.04 / whole, "\n".join(lines), ha="center", va="bottom", fontsize=6, color=_GREY, linespacing=1.3)
    axes = figure.subplots(down, across, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    return figure, axes


def _show(ax: Axes, picture: NDArray[np.uint8]) -> None:
    """``(C, H, W)``, grey for one channel."""
    ax.imshow(picture.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)


def _box(ax: Axes, corners: NDArray[np.floating], **look: Any) -> None:
    """A frame, the wide one first, so that both are seen where they meet; nothing for the empty box."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = corners.tolist()
    if right > left and bottom > top:
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **look))
