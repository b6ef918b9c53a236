"""An experiment's rows, one line a grid point: medians in which an abstention counts as +infinity.

Reads `certificates.csv` and `manifest.json` of an experiment's folder, or the cells published there. Needs neither
torch nor the library, so that tables and figures can be made again anywhere, and fast. Workers need the columns alone:
pandas, which costs each of them a third of a second, is imported where a table is read.

Every quantile is an order statistic, never an interpolation: of ``N`` values the ``ceil(q N)``-th smallest. Where the
``q``-quantile is not unique (``q N`` an integer) and the next value is an abstention, it counts as an abstention: with
half of the points abstaining there is no median, as an interpolating median would also say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csrun.registry import CERTIFIERS, default_rules
from csrun.report.published import current_cells, is_published, tables

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table

ROWS_FILE = "certificates.csv"
MANIFEST_FILE = "manifest.json"
ATTACK_FILE = "attack.csv"
SLIP_FILE = "unit_slip.csv"
IOU_FILE = "iou.csv"
TEXTS_FILE = "texts.csv"
TRUTH_FILE = "truth.csv"
SLIP_NUMBER = "with_unit_slip_not_a_certificate"

RULE = ("certifier", "rule")
"""The columns that name the rule by which a row was certified."""

PAPER_RULE = {"certifier": "center", "rule": "paper"}
SHARPER_RULE = {"certifier": "center", "rule": "measured"}
"""The paper's rule, and the sharpest of the library for the same smoothed model."""

FREE_RULE = {"certifier": "center_free", "rule": "measured"}
"""The sharpest rule of another smoothed model, whose centers may be means of outputs."""

MEAN_RULE = {"certifier": "mean", "rule": "spectral"}
"""The sharpest bound for another smoothed model: the mean of the same outputs."""

KEYS = ("model", "dataset", "train", "noise", "metric", *RULE, "h", "scale", "eps")
"""The columns that name one line of a summary."""

OUTCOMES = ("certified", "bad_center", "ratio_exceeded", "infeasible", "failed")

_TEXT: tuple[str, ...] = ("cell", "model", "dataset", "train", "noise", "threat", "metric", *RULE, "about")
_TEXT += ("source", "outcome", "device", "reason")
_INTEGERS = ("point", "n", "m", "seed")
_FLOATS = ("scale", "eps", "h", "radius", "error", "alpha1", "alpha2", "alpha", "seconds")
COLUMNS = (
    *("cell", "model", "dataset", "train", "noise", "scale", "threat", *("certifier", "metric", "rule", "about")),
    *("eps", "h", "point", "source", "outcome", "radius", "vacuous", "error", "n", "m"),
    *("alpha1", "alpha2", "alpha", "seed", "device", "seconds", "reason"),
)
"""The columns of every row; `read_rows` requires them, in no order, and keeps further ones."""

DETAILS = tuple(dict.fromkeys(name for entry in CERTIFIERS.values() for name in entry.details))
"""Columns of some certifiers only: numbers, or empty."""

LISTS = tuple(dict.fromkeys(name for entry in CERTIFIERS.values() for name in entry.lists))
"""Columns of some certifiers only: numbers apart by spaces, or empty."""

ROW_COLUMNS = (*COLUMNS, *DETAILS, *LISTS)

SUMMARY_COLUMNS: tuple[str, ...] = (*KEYS, "points", "certified", "abstained", "infeasible", "failed", "vacuous")
SUMMARY_COLUMNS += ("radius_median", "radius_q25", "radius_q75", "error_median", "error_q25", "error_q75")
SUMMARY_COLUMNS += ("error_points", "seconds_median", "status")

IDENTITY = ("cell", "point", "certifier", "metric", "rule", "eps")
"""The columns that tell rows apart."""

_KIND_NAMES: dict[Callable[[str], Any], str] = {float: "a number", int: "an integer"}
_MANIFEST_TYPES = {"experiment": str, "title": str, "metrics": list, "curve": str, "rule": dict}
_CURVES = ("h", "scale", "training", "tradeoff", "eps")
_MOST_RULES = 4

_WITH_NOISE_ALONE = ("augment", "cross_entropy")
"""Training methods that add nothing to the loss of noisy inputs."""


def read_rows(folder: str | Path) -> pd.DataFrame:
    """The rows of an experiment, typed.

    Parameters
    ----------
    folder : path
        Holds `certificates.csv`, or published cells.

    Returns
    -------
    DataFrame
        `COLUMNS` and whatever else the file has; an empty field is a missing value.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not one of ours (a column, an outcome or a number is missing or wrong, a point occurs twice); one
        line that names the file, what was expected and what came.
    """
    import pandas as pd

    paths = tables(Path(folder), ROWS_FILE)
    if not paths:
        raise FileNotFoundError(f"{Path(folder) / ROWS_FILE}: no such file; cs-run writes it")
    return pd.concat([_read_rows(path) for path in paths], ignore_index=True)


def _read_rows(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        fields = pd.read_csv(path, dtype=object, na_filter=False)
        missing = [name for name in COLUMNS if name not in fields]
        if missing:
            raise ValueError(f"expected the columns of a certificates table, missing: {', '.join(missing)}")
        rows = _parse(fields)
        _check(rows)
    except ValueError as error:
        raise ValueError(f"{path}: {_one_line(error)}") from error
    return rows


def _parse(fields: pd.DataFrame) -> pd.DataFrame:
    """The rows with the type of each column, from the text of their fields; a column at a time, which is fast."""
    import pandas as pd

    columns: dict[str, Any] = {name: values.to_list() for name, values in fields.items()}
    for name in filter(columns.__contains__, (*_FLOATS, *DETAILS)):
        columns[name] = np.array([_parsed(name, text, float, math.nan) for text in columns[name]], dtype=float)
    for name in _INTEGERS:
        values = [_parsed(name, text.removesuffix(".0"), int, pd.NA) for text in columns[name]]
        columns[name] = pd.array(values, dtype="Int64")
    odd = sorted({*columns["vacuous"]} - {"True", "False", ""})
    if odd:
        raise ValueError(f"expected vacuous to be True, False or empty, got {odd[0]!r}")
    columns["vacuous"] = [text == "True" for text in columns["vacuous"]]
    return _with_measure(pd.DataFrame(columns))


def _with_measure(rows: pd.DataFrame) -> pd.DataFrame:
    """Fill in the certifier as the metric of rows whose certifier brings its own distance."""
    return rows.assign(metric=rows["metric"].mask(rows["metric"] == "", rows["certifier"]))


def _parsed(name: str, text: str, kind: Callable[[str], Any], empty: Any) -> Any:
    """A field as a number; Python's own conversion, which returns exactly the float that was written."""
    try:
        return kind(text) if text else empty
    except ValueError:
        raise ValueError(f"expected {name} to be {_KIND_NAMES[kind]} or empty, got {text!r}") from None


def _check(rows: pd.DataFrame) -> None:
    odd = sorted(set(rows["outcome"]) - set(OUTCOMES))
    if odd:
        raise ValueError(f"expected an outcome among {', '.join(OUTCOMES)}, got {odd[0]!r}")
    without = rows.loc[(rows["outcome"] == "certified") & rows["radius"].isna(), "point"]
    if len(without):
        raise ValueError(f"expected a radius in every certified row, point {without.iloc[0]} has none")
    worked = rows.loc[rows["outcome"] != "infeasible", list(IDENTITY)]
    twice = worked[worked.duplicated()]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"expected every point once, got point {row['point']} twice (cell {row['cell']}, {row['metric']}, "
            f"eps {row['eps']:g}, {', '.join(row[list(RULE)])})"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read `manifest.json` and check it; optional keys get their defaults.

    Published cells are put together as its ``cells``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is not a manifest of ours; one line that names the file and what was expected.
    """
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; cs-run writes it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError(f"expected an object, got {type(manifest).__name__}")
        for key, kind in _MANIFEST_TYPES.items():
            if not isinstance(manifest.get(key), kind):
                raise ValueError(f"expected {key!r} to be a {kind.__name__}, got {manifest.get(key)!r}")
        if manifest["curve"] not in _CURVES:
            raise ValueError(f"expected 'curve' to be one of {', '.join(_CURVES)}, got {manifest['curve']!r}")
        if sorted(manifest["rule"]) != sorted(RULE):
            raise ValueError(f"expected 'rule' to have {', '.join(RULE)}, got {', '.join(manifest['rule']) or 'none'}")
        panels = [panel.get(key, "") for panel in manifest.get("panels", []) for key in ("file", "data")]
        for name in (*panels, *manifest["metrics"]):
            if Path(name).name != name:
                raise ValueError(f"expected names of files beside it, got {name!r}")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {_one_line(error)}") from error
    return {
        "budget": "",
        "reduced": False,
        "notes": [],
        "baselines": [],
        "units": {},
        "noise": {"name": "gaussian"},
        "threat": "l2",
        **manifest,
        **({"cells": list(current_cells(Path(folder)).values())} if is_published(Path(folder)) else {}),
    }


def read_unit_slip(folder: str | Path) -> pd.DataFrame:
    """Read what the released code's unit slip would give, which is not a certificate; empty without `SLIP_FILE`.

    Returns
    -------
    DataFrame
        ``model, dataset, metric, point, h, scale, eps`` and `SLIP_NUMBER`: +infinity where the paper's rule abstains,
        so that medians count it as they do elsewhere.
    """
    import pandas as pd

    columns = ["model", "dataset", "metric", "point", "h", "scale", "eps", SLIP_NUMBER]
    found = [pd.read_csv(path, usecols=columns) for path in tables(Path(folder), SLIP_FILE)]
    if not found:
        return pd.DataFrame(columns=columns)
    return pd.concat(found, ignore_index=True).fillna({SLIP_NUMBER: math.inf})


def read_iou(folder: str | Path) -> pd.DataFrame:
    """Read intersections over union of certified segmentations; empty without `IOU_FILE`.

    Returns
    -------
    DataFrame
        `KEYS`, ``point``, ``iou`` of the answer and ``certified_iou``, the least that it can have.
    """
    import pandas as pd

    columns = [*KEYS, "point", "iou", "certified_iou"]
    found = [pd.read_csv(path, usecols=columns) for path in tables(Path(folder), IOU_FILE)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def read_truth(folder: str | Path) -> pd.DataFrame:
    """Read distances of smoothed outputs to the examples or maps they are to give back; empty without `TRUTH_FILE`.

    Returns
    -------
    DataFrame
        `KEYS`, ``point`` and ``distance``.
    """
    import pandas as pd

    columns = [*KEYS, "point", "distance"]
    found = [pd.read_csv(path, usecols=columns) for path in tables(Path(folder), TRUTH_FILE)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def read_attacks(folder: str | Path) -> pd.DataFrame:
    """Read how far attacks moved the smoothed output; empty without `ATTACK_FILE`.

    Returns
    -------
    DataFrame
        `KEYS`, ``point``, the certified ``radius``, ``movement``, the largest of the runs at one attacked input that
        answered, ``runs`` and how many of them were ``beyond`` the radius.
    """
    import pandas as pd

    columns = [*KEYS, "point", "radius", "movement", "runs", "beyond"]
    empty = {"radius": "", "movement": "", "h": ""}
    paths = tables(Path(folder), ATTACK_FILE)
    if not paths:
        return pd.DataFrame(columns=columns)
    found = [pd.read_csv(path, usecols=columns, keep_default_na=False, na_values=empty) for path in paths]
    return _with_measure(pd.concat(found, ignore_index=True)).dropna(subset="movement")


def quantile(values: Sequence[float] | np.ndarray, q: float) -> float:
    """The ``q``-quantile as an order statistic; +infinity where it touches one; NaN of nothing.

    Examples
    --------
    >>> quantile([3.0, 1.0, 2.0, 4.0], 0.5)
    2.0
    >>> quantile([1.0, 2.0, math.inf, math.inf], 0.5)
    inf
    >>> quantile([1.0, 2.0, 3.0, math.inf], 0.5)
    2.0
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    if not len(ordered):
        return math.nan
    lower = max(math.ceil(q * len(ordered)), 1) - 1
    upper = min(math.floor(q * len(ordered)), len(ordered) - 1)
    return math.inf if math.isinf(ordered[upper]) else float(ordered[lower])


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each model, data set, training, metric, rule and grid point.

    Parameters
    ----------
    rows : DataFrame
        As `read_rows` returns them.

    Returns
    -------
    DataFrame
        `SUMMARY_COLUMNS`, ordered by `KEYS`. The radius quantiles are over all points, an abstention or a failure
        counting as +infinity; the error's over the `error_points` points that have a center. `status` is "ok",
        "abstains" (the median radius is +infinity) or "infeasible" (all rows are; then there are no medians).
    """
    import pandas as pd

    groups = rows.groupby(list(KEYS), dropna=False, sort=True)
    of_group = groups.ngroup().to_numpy()
    order = np.argsort(of_group, kind="stable")
    ends = np.cumsum(np.bincount(of_group, minlength=groups.ngroups))
    # Arrays: a DataFrame of each group would take several times as long.
    columns = {name: rows[name].to_numpy()[order] for name in ("outcome", "vacuous", "radius", "error", "seconds")}
    lines = [
        _summary_of(**{name: values[start:end] for name, values in columns.items()})
        for start, end in pairwise([0, *ends])
    ]
    keys = rows[list(KEYS)].iloc[order[ends - 1]].reset_index(drop=True)
    return pd.concat([keys, pd.DataFrame(lines, columns=list(SUMMARY_COLUMNS[len(KEYS) :]))], axis=1)


def _summary_of(
    outcome: NDArray[Any],
    vacuous: NDArray[np.bool_],
    radius: NDArray[np.float64],
    error: NDArray[np.float64],
    seconds: NDArray[np.float64],
) -> dict[str, Any]:
    """A line of a summary without its keys, from the columns of its rows."""
    count = {name: int((outcome == name).sum()) for name in OUTCOMES}
    infeasible = count["infeasible"] == len(outcome)
    radii = np.where((outcome == "certified") & ~np.isnan(radius), radius, math.inf)
    errors = error[~np.isnan(error)]
    if infeasible:
        radii, errors = radii[:0], errors[:0]
    median = quantile(radii, 0.5)
    return {
        "points": len(outcome),
        "certified": count["certified"],
        "abstained": count["bad_center"] + count["ratio_exceeded"],
        "infeasible": count["infeasible"],
        "failed": count["failed"],
        "vacuous": int(vacuous.sum()),
        "radius_median": median,
        "radius_q25": quantile(radii, 0.25),
        "radius_q75": quantile(radii, 0.75),
        "error_median": quantile(errors, 0.5),
        "error_q25": quantile(errors, 0.25),
        "error_q75": quantile(errors, 0.75),
        "error_points": len(errors),
        "seconds_median": quantile(seconds[~np.isnan(seconds)], 0.5),
        "status": "infeasible" if infeasible else "ok" if math.isfinite(median) else "abstains",
    }


def write_summary(summary: pd.DataFrame, path: str | Path) -> None:
    """Write a summary as CSV: shortest round-trip floats; empty where there is no number or an abstention."""
    summary.replace([math.inf, -math.inf], math.nan).to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def of_rule(lines: pd.DataFrame, rule: Mapping[str, str]) -> pd.DataFrame:
    """The lines of one rule, of a table of rows or a summary."""
    certifier, name = (lines[part] == rule[part] for part in RULE)
    return lines[certifier & name]


def leading_rule(lines: pd.DataFrame, rule: Mapping[str, str]) -> Mapping[str, str]:
    """The rule that leads in the lines of one metric: this one, or where they have none of it their first certifier's.

    Certifiers are in the registry's order, and lead by their sharpest rule.
    """
    present = rules_in(lines)
    if not present or tuple(rule[part] for part in RULE) in present:
        return rule
    certifiers = [certifier for certifier, _ in present]
    first = next(name for name in (*CERTIFIERS, *certifiers) if name in certifiers)
    return dict(zip(RULE, (first, default_rules(present)[first]), strict=True))


def rules_in(lines: pd.DataFrame) -> list[tuple[str, str]]:
    """Certifiers and rules of a table of rows or a summary, in their order there."""
    return list(lines[list(RULE)].drop_duplicates().itertuples(index=False, name=None))


def by_metric(summary: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The lines of these metrics only, in their order."""
    place = {metric: index for index, metric in enumerate(metrics)}
    kept = summary[summary["metric"].isin(place)]
    order = np.argsort(kept["metric"].map(place).to_numpy(dtype=int), kind="stable")
    return kept.iloc[order]


def training_kind(train: str, scale: float) -> str:
    """Words for a legend on how a model smoothed at `scale` was trained; empty if it was not trained here.

    Examples
    --------
    >>> training_kind("augment@0.5", 0.5), training_kind("none", 0.5), training_kind("augment@0.25", 0.5)
    ('with noise', 'without noise', 'with noise 0.25')
    >>> training_kind("denoise_mse@0.5", 0.5), training_kind("diffusion", 0.5)
    ('by denoise_mse', 'by diffusion')
    >>> training_kind("spectral[weight=3]@0.5", 0.5), training_kind("spectral@0.25", 0.5)
    ('by spectral[weight=3]', 'by spectral, with noise 0.25')
    """
    method, _, trained = train.partition("@")
    if not trained:
        return f"by {method}" if method not in ("", "none") else "without noise" if method else ""
    same = math.isclose(float(trained), scale, rel_tol=1e-6)
    if method in _WITH_NOISE_ALONE:
        return "with noise" if same else f"with noise {number(float(trained))}"
    return f"by {method}" if same else f"by {method}, with noise {number(float(trained))}"


def trainings_of(lines: pd.DataFrame) -> list[str]:
    """`training_kind` of each line."""
    return [training_kind(train, scale) for train, scale in zip(lines["train"], lines["scale"], strict=True)]


def render(summary: pd.DataFrame, manifest: Mapping[str, Any]) -> list[Table]:
    """The tables printed at the end of a run: the medians of a leading rule, other rules' radii beside them.

    Parameters
    ----------
    summary : DataFrame
        As `summarise` returns it.
    manifest : mapping
        As `read_manifest` returns it.

    Returns
    -------
    list of rich.table.Table
        One for the metrics that each rule leads, in the manifest's order; the first has the title, the last the notes.
        Each fits 100 columns with up to four rules, 103 where a method of training has a long name; its caption counts
        the rules left to the summary file.
    """
    led: dict[tuple[str, ...], list[str]] = {}
    for metric in manifest["metrics"]:
        rule = leading_rule(summary[summary["metric"] == metric], manifest["rule"])
        led.setdefault(tuple(rule[part] for part in RULE), []).append(metric)
    led = led or {tuple(manifest["rule"][part] for part in RULE): []}
    tables = [_table(by_metric(summary, metrics), rule, manifest) for rule, metrics in led.items()]
    tables[0].title = titled(manifest["title"], manifest["threat"], manifest["units"])
    tables[-1].caption = "\n".join([str(tables[-1].caption), *map(str, manifest.get("notes") or [])])
    return tables


def _table(lines: pd.DataFrame, drawn: tuple[str, ...], manifest: Mapping[str, Any]) -> Table:
    """The table of the metrics that one rule leads."""
    from rich import box
    from rich.table import Table

    rules = _rules(lines, drawn)
    shown = _most_telling(rules)
    swept = "scale" if manifest["curve"] == "scale" else "h"
    trainings = trainings_of(lines)
    with_training = manifest["curve"] == "training" or (len(set(trainings)) > 1 and "" not in trainings)
    with_failed = bool(lines["failed"].sum())

    table = Table(caption=_caption(lines, drawn, manifest, len(rules) - len(shown)), box=box.SIMPLE)
    compact = len(shown) > 2 or with_training
    table.padding, table.pad_edge, table.show_edge = (0, 0 if compact else 1, 0, 0), False, False
    table.add_column("model", max_width=13 if compact else 21, overflow="fold")
    table.add_column("metric")
    if with_training:
        table.add_column("trained", max_width=18 if max(map(len, trainings)) > 20 else 11, overflow="fold")
    counts = ("ab-\nstained", "vac-\nuous") if compact else ("abstained", "vacuous")
    for name in (swept, "eps", *_rule_headers(shown), "error", *counts):
        table.add_column(name, justify="right", overflow="fold")
    if with_failed:
        table.add_column("failed", justify="right")
    table.add_column("s per\npoint", justify="right")

    before: tuple[str, ...] = ()
    metrics = list(dict.fromkeys(lines["metric"]))
    lines = lines.assign(training=trainings if with_training else "")
    lines = lines.sort_values(["model", "dataset", "training", swept, "eps"], kind="stable")
    lines = by_metric(lines, metrics).sort_values(["model", "dataset"], kind="stable")
    keys = ["model", "dataset", "metric", "training", swept, "eps", "train"]
    for key, group in lines.groupby(keys, dropna=False, sort=False):
        cells = _line_cells(group, drawn, shown, swept, with_failed)
        trained = (key[3].removeprefix("by ").replace("[", "\n["),) if with_training else ()
        block = (f"{key[0]} {key[1]}", key[2], *trained)
        if before and block != before:
            table.add_section()
        changed = [index for index, name in enumerate(block) if before[index : index + 1] != (name,)]
        first = changed[0] if changed else len(block)
        table.add_row(*(name if index >= first else "" for index, name in enumerate(block)), *cells)
        before = block
    return table


def titled(title: str, threat: str, units: Mapping[str, str]) -> str:
    """A table's title with what ``eps`` measures, its unit and that of the noise's scale, by model where it differs.

    Examples
    --------
    >>> print(titled("Faces", "l2", {"mtcnn": "pixels in [0, 1]"}))
    Faces
    eps in l2; unit of eps and scale: pixels in [0, 1]
    >>> print(titled("Digits", "brightness", {"autoencoder": "brightness"}))
    Digits
    unit of eps and scale: brightness
    """
    if not units:
        return f"{title}\neps in {threat}"
    one = len(set(units.values())) == 1
    names = dict.fromkeys(unit if one else f"{unit} ({model})" for model, unit in units.items())
    measure = "" if list(names) == [threat] else f"eps in {threat}; "
    return f"{title}\n{measure}unit of eps and scale: " + ";\n".join(names)


def _rules(lines: pd.DataFrame, drawn: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The drawn rule, then the others present: those of the same smoothed model first, the registry's before users'."""
    present = rules_in(lines)
    known = [*((name, rule) for name, entry in CERTIFIERS.items() for rule in entry.every_rule), *present]
    return [drawn, *sorted({*present} - {drawn}, key=lambda one: (one[0] != drawn[0], known.index(one)))]


def _most_telling(rules: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rules the table has room for, in their order: the drawn one, then the sharpest of each smoothed model."""
    sharpest = default_rules((certifier, rule) for certifier, rule in rules)
    others = sorted(rules[1:], key=lambda one: sharpest[one[0]] != one[1])
    return [rules[0], *(rule for rule in rules[1:] if rule in others[: _MOST_RULES - 1])]


def _rule_headers(rules: Sequence[tuple[str, ...]]) -> list[str]:
    """A header for each rule: its name, and its certifier's where they differ."""
    if len(rules) == 1:
        return ["radius"]
    several = len({certifier for certifier, _ in rules}) > 1
    return ["\n".join(("radius", *[certifier] * several, rule)) for certifier, rule in rules]


def _line_cells(
    group: pd.DataFrame, drawn: tuple[str, ...], shown: Sequence[tuple[str, ...]], swept: str, with_failed: bool
) -> list[str]:
    by_rule = {tuple(line[part] for part in RULE): line for line in group.to_dict("records")}
    main = by_rule.get(drawn)
    first = main or next(iter(by_rule.values()))
    cells = [number(first[swept]), number(first["eps"]), *(_radius(by_rule.get(rule)) for rule in shown)]
    if main is None:
        return [*cells, *["–"] * (4 + with_failed)]
    if main["status"] == "infeasible":
        cells += ["–", "–", "–"]
    else:
        cells += [number(main["error_median"]), f"{main['abstained']}/{main['points']}", str(main["vacuous"])]
    return [*cells, *([str(main["failed"])] if with_failed else []), number(main["seconds_median"], 3)]


def _radius(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return "–"
    return number(line["radius_median"]) if line["status"] == "ok" else str(line["status"])


def _caption(lines: pd.DataFrame, drawn: tuple[str, ...], manifest: Mapping[str, Any], left_out: int) -> str:
    counts = sorted(set(lines["points"]))
    parts = [f"medians over {_span(counts)} points" if counts else "no rows"]
    if manifest.get("budget"):
        parts.append(f"budget {manifest['budget']}" + (" (reduced counts)" if manifest.get("reduced") else ""))
    second = [f"error, abstained, vacuous: {', '.join(drawn)}"]
    if left_out > 0:
        second.append(f"{left_out} more rule{'s' * (left_out > 1)} in the summary file")
    own = [(name, CERTIFIERS[name].distance) for name in dict.fromkeys(lines["metric"]) if name in CERTIFIERS]
    radii = [f"radius of {name}: {distance}" for name, distance in own if distance]
    return "\n".join(["; ".join(parts), "; ".join(second), *radii])


def _span(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def number(value: float, digits: int = 4) -> str:
    """A number for people: some significant digits, plain below a million, a dash for none.

    Examples
    --------
    >>> number(0.123456), number(12345.6), number(2.0), number(math.nan), number(8.25e-7, 3)
    ('0.1235', '12346', '2', '–', '8.25e-07')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if 10**digits - 0.5 <= abs(value) < 1e6 else f"{value:.{digits}g}"
