"""Classes: logs as the field keeps them, certified accuracy against radius, and what else is said of a classifier.

A log has a line a test point, tab-separated, with the header ``idx label predict radius correct time``, as the code of
Cohen, Rosenfeld and Kolter (2019) and most after it write: the point, its true class, the class certified (-1 where the
smoothed classifier abstains), the largest ``eps`` certified to three digits, and 1 where both classes are the same.

An experiment with the certifier ``label`` has a log of each cell and `classes.csv`, with a line each. The average
certified radius is its last column: easy points dominate it, and that of a constant classifier grows without bound with
the number of draws (Sun et al., *Average Certified Radius is a Poor Metric for Randomized Smoothing*, 2024).
"""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csrun.registry import CERTIFIERS
from csrun.report.published import SETTING
from csrun.report.tables import number, training_kind

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

CLASSIFIER = "label"
"""The certifier of classes, and what stands for the metric of its rows."""

LOG_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
CLASSES_FILE = "classes.csv"
WEAKNESS = (
    "ACR, the average certified radius, comes last: easy points dominate it, and a constant classifier's grows without "
    "bound with the number of draws"
)

_DOWN = decimal.Context(prec=3, rounding=decimal.ROUND_DOWN)
"""Three significant digits."""

CLASSIFIERS = {CLASSIFIER: ("counts",), "prototypes": CERTIFIERS["prototypes"].rules}
"""Certifiers of classes, and their rules that state for each point the largest ``eps`` certified."""


def read_log(path: str | Path) -> pd.DataFrame:
    """A log, a line a test point.

    Raises
    ------
    ValueError
        The file is not such a log; one line.
    """
    import pandas as pd

    try:
        log = pd.read_csv(path, sep="\t", dtype={"time": str})
        if tuple(log.columns) != LOG_COLUMNS:
            raise ValueError(f"expected the columns {' '.join(LOG_COLUMNS)}, got {' '.join(map(str, log.columns))}")
        for name in ("idx", "label", "predict", "correct"):
            log[name] = log[name].astype("int64")
        log["radius"] = log["radius"].astype("float64")
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    wrong = log[(log["correct"] != (log["label"] == log["predict"])) | ~(log["radius"] >= 0)]
    if len(wrong):
        raise ValueError(
            f"{path}: expected correct to be 1 where predict is label, else 0, and radii of at least 0, got "
            f"{' '.join(map(str, wrong.iloc[0]))}"
        )
    return log


def write_log(log: pd.DataFrame, path: str | Path) -> None:
    """Write a log, as `read_log` reads it; radii with three digits, as they are customary, rounded down."""
    lines = ["\t".join(LOG_COLUMNS)]
    for one in log[list(LOG_COLUMNS)].itertuples(index=False):
        lines.append(f"{one.idx}\t{one.label}\t{one.predict}\t{three_digits(one.radius)}\t{one.correct}\t{one.time}")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def three_digits(radius: float) -> str:
    """A radius with three digits, none above it.

    >>> three_digits(1.4999), three_digits(2.1), three_digits(0.0)
    ('1.49', '2.1', '0.0')
    """
    return f"{float(_DOWN.create_decimal(repr(float(radius)))):.3}"


def certified_accuracy(log: pd.DataFrame, radii: Sequence[float]) -> NDArray[np.float64]:
    """The share of all points that are of the class certified, with a radius of at least each of these.

    Abstentions and errors are in the denominator.
    """
    certified = _certified(log)
    return np.array([(certified >= max(radius, 0.0)).mean() for radius in radii])


def median_radius(log: pd.DataFrame) -> float:
    """The largest radius at which the certified accuracy is at least one half; 0 where the accuracy is below."""
    certified = np.sort(_certified(log))[::-1]
    return max(0.0, float(certified[math.ceil(len(certified) / 2) - 1]))


def average_certified_radius(log: pd.DataFrame) -> float:
    """The mean of the radii, 0 for abstentions and errors."""
    return float((log["radius"] * log["correct"]).mean())


def _certified(log: pd.DataFrame) -> NDArray[np.float64]:
    """Radii; -1 for abstentions and errors, which are not certified at radius 0 either."""
    return np.where(log["correct"] == 1, log["radius"], -1.0)


class Classified(NamedTuple):
    """The points of one cell as a log, with exact radii, and what tells the cell from others.

    Attributes
    ----------
    certifier, rule : str
        By which classes were certified.
    p_low : array, shape ``(points,)``
        Lower limits of the masses of the classes certified; 0 where they are not the true ones; NaN where the rule
        knows of none.
    eps : list of float
        The grid of the experiment.
    """

    certifier: str
    rule: str
    model: str
    dataset: str
    train: str
    noise: str
    scale: float
    log: pd.DataFrame
    p_low: NDArray[np.float64]
    eps: list[float]

    @property
    def name(self) -> str:
        """The file of its log."""
        parts = filter(None, (self.model, self.dataset, self.train, self.noise, f"s{self.scale:.4g}"))
        return re.sub(r"[^\w.@-]+", "_", f"log_{'-'.join(parts)}.tsv")

    @property
    def training(self) -> str:
        return training_kind(self.train, self.scale)

    def numbers(self) -> dict[str, Any]:
        """Its line of `CLASSES_FILE`."""
        return {
            **{name: getattr(self, name) for name in SETTING},
            "points": len(self.log),
            "abstained": int((self.log["predict"] == -1).sum()),
            "accuracy": certified_accuracy(self.log, [0.0])[0],
            **{
                f"at {eps:g}": share
                for eps, share in zip(self.eps, certified_accuracy(self.log, self.eps), strict=True)
            },
            "median_radius": median_radius(self.log),
            "average_certified_radius": average_certified_radius(self.log),
        }


def classified(rows: pd.DataFrame, certifier: str = CLASSIFIER) -> list[Classified]:
    """Every cell of a table of rows in which classes were certified, by each rule, of points of known class.

    Parameters
    ----------
    certifier : str
        One of `CLASSIFIERS`.
    """
    if "target" not in rows:
        return []
    mine = rows[(rows["certifier"] == certifier) & rows["target"].notna()]
    eps, found = sorted(set(mine["eps"])), []
    for key, setting in mine.groupby(list(SETTING), sort=True):
        for rule in CLASSIFIERS[certifier]:
            cell = setting[setting["rule"] == rule]
            if len(cell):
                found.append(Classified(certifier, rule, *key, *_log_of(cell), eps))  # type: ignore[call-arg]
    return found


def _log_of(cell: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """The log of a cell, and the masses; a point that failed counts as an abstention."""
    import pandas as pd

    points = cell.sort_values(["point", "p_low"], na_position="last", kind="stable").drop_duplicates("point")
    certified = points["outcome"] == "certified"
    predict = points["label"].where(certified, -1).astype("int64")
    correct = (predict == points["target"]).astype("int64")
    log = pd.DataFrame(
        {
            "idx": points["point"].astype("int64"),
            "label": points["target"].astype("int64"),
            "predict": predict,
            "radius": points["reach"].where(certified, 0.0),
            "correct": correct,
            "time": [str(timedelta(seconds=seconds)) for seconds in points["seconds"].fillna(0.0)],
        }
    ).reset_index(drop=True)
    return log, np.where(correct == 1, points["p_low"], 0.0)


def write_classes(folder: Path, rows: pd.DataFrame) -> list[Path]:
    """Write the log of each cell of an experiment and `CLASSES_FILE`; nothing where no class was certified."""
    import pandas as pd

    for stale in (*folder.glob("log_*.tsv"), *folder.glob(CLASSES_FILE)):
        stale.unlink()
    cells = classified(rows)
    if not cells:
        return []
    for cell in cells:
        write_log(cell.log, folder / cell.name)
    table = folder / CLASSES_FILE
    pd.DataFrame([cell.numbers() for cell in cells]).to_csv(table, index=False, lineterminator="\n", encoding="utf-8")
    return [table, *(folder / cell.name for cell in cells)]


def classes_table(rows: pd.DataFrame, title: str) -> Table:
    """The table printed at the end of a run: certified accuracy at each ``eps``, median radius, the average last."""
    from rich import box
    from rich.table import Table

    cells = classified(rows)
    table = Table(title=title, caption=f"certified accuracy in percent of all points, rule {cells[0].rule}\n{WEAKNESS}")
    table.box, table.pad_edge, table.show_edge, table.padding = box.SIMPLE, False, False, (0, 1, 0, 0)
    table.add_column("model")
    table.add_column("trained")
    grid = (header.replace(" ", "\n") for header in _grid_headers(cells))
    for header in ("scale", "points", "ab-\nstained", "accu-\nracy", *grid, "median\nradius", "ACR"):
        table.add_column(header, justify="right")
    for cell in cells:
        table.add_row(f"{cell.model} {cell.dataset}", cell.training, *_cells_of(cell))
    return table


def _grid_headers(cells: Sequence[Classified]) -> Iterator[str]:
    return (f"at {eps:g}" for eps in cells[0].eps)


def _cells_of(cell: Classified) -> list[str]:
    numbers = cell.numbers()
    shares = [f"{100 * numbers[name]:.1f}" for name in ("accuracy", *_grid_headers([cell]))]
    radii = [number(numbers[name]) for name in ("median_radius", "average_certified_radius")]
    return [number(cell.scale), str(numbers["points"]), str(numbers["abstained"]), *shares, *radii]
