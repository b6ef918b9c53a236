"""The rows of ``certificates.csv``: pure functions of a point's evidence.

Every metric of the model, every rule and every (eps, h) of the cell's noise level gets a row, so that an experiment
is a selection of rows and a new rule costs no forward pass.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from centersmooth import Center, Certificate, GaussianNoise, Outcome
from centersmooth.certifiers import Certifier
from centersmooth.certifiers.center import RULES
from centersmooth.gathering import Setting
from csrun.cells.cell import Cell
from csrun.cells.certify import PointResult, metric_of
from csrun.config import GridPoint

COLUMNS = (
    "cell model dataset train_sigma metric eps h sigma point source outcome r_center r_hat r_far beta certified "
    "vacuous error n0 n m delta alpha1 alpha2 alpha bounds far center smoothing seed device seconds reason"
).split()

Row = dict[str, str]


def rows_of(
    result: PointResult,
    cell: Cell,
    certifiers: Mapping[str, Certifier],
    pairs: Iterable[GridPoint],
    output_range: tuple[float, float] | None,
) -> list[Row]:
    """All rows of one point, in canonical order: certifier, eps, h, rule.

    Parameters
    ----------
    certifiers : mapping
        Of the cell, by the keys of `certify.certifiers_of`.
    """
    setting = Setting(GaussianNoise(cell.sigma), cell.budget, output_range, cell.forward_block)
    rows = []
    for key, certifier in certifiers.items():
        evidence, failure = result.evidence.get(key), result.failures.get(key)
        if evidence is None and failure is None:
            continue
        for pair in sorted(pairs):
            for rule in certifier.rules:
                row = _common(result, cell, metric_of(key), pair) | _rule(certifier, rule)
                if evidence is None:
                    rows.append(row | {"outcome": Outcome.FAILED.value, "reason": str(failure)})
                else:
                    certificate = certifier.certificate(evidence, pair.eps, rule, setting)
                    rows.append(row | _numbers(certificate, evidence.error))
    return rows


def _rule(certifier: Certifier, rule: str) -> Row:
    """The columns that say which smoothed model and which rule a row is of."""
    if isinstance(certifier, Center):
        bounds, far = RULES[rule]
        return {"bounds": bounds.name, "far": far, "center": certifier.kind, "smoothing": "center"}
    return {"bounds": "exact", "far": rule, "center": "mean", "smoothing": "mean"}


def key_of(row: Row) -> str:
    """The key of the certifier that a row is of."""
    names = {"sample": "center", "free": "center_free", "mean": "mean"}
    return f"{names[row['center']]}.{row['metric']}"


def _common(result: PointResult, cell: Cell, metric: str, pair: GridPoint) -> Row:
    budget = cell.budget
    values = {
        "cell": cell.digest,
        "model": cell.model,
        "dataset": cell.dataset,
        "train_sigma": cell.train_sigma,
        "metric": metric,
        "eps": pair.eps,
        "h": pair.h,
        "sigma": cell.sigma,
        "point": result.point,
        "source": result.source,
        "n0": budget.n0,
        "n": budget.n,
        "m": budget.m,
        "delta": budget.delta,
        "alpha1": budget.alpha1,
        "alpha2": budget.alpha2,
        "seed": cell.seed,
        "device": cell.device,
        "seconds": result.seconds,
    }
    return {key: text(value) for key, value in values.items()}


def _numbers(certificate: Certificate, error: float) -> Row:
    values = {
        "outcome": certificate.outcome.value,
        "r_center": certificate.r_center,
        "r_hat": certificate.r_hat,
        "r_far": certificate.r_far,
        "beta": certificate.beta,
        "certified": certificate.radius,
        "vacuous": certificate.vacuous,
        "error": None if certificate.center is None else error,
        "alpha": certificate.alpha,
        "reason": certificate.reason,
    }
    return {key: text(value) for key, value in values.items()}


def text(value: object) -> str:
    """How a value stands in a table: shortest round-trip floats, empty for None.

    >>> text(0.1), text(None), text(True), text(3)
    ('0.1', '', 'True', '3')
    """
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def rows_of_rule(rows: Iterable[Row], rule: Mapping[str, str]) -> list[Row]:
    """Those of one rule, of a table of certificates or of attacks."""
    return [row for row in rows if all(row[part] == value for part, value in rule.items())]


def csv_lines(rows: Iterable[Row], *, header: bool, columns: Sequence[str] = COLUMNS) -> bytes:
    """Rows as CSV; a column a row does not have is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()
