"""The rows of ``certificates.csv``: pure functions of a point's evidence.

Every metric of the model, every rule and every (eps, h) of the cell's noise level gets a row, so that an experiment
is a selection of rows and a new rule costs no forward pass.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from centersmooth import Certificate, GaussianNoise, Metric, Outcome
from centersmooth.evidence import Evidence
from centersmooth.expectation import MEAN_RULES, MeanEvidence, mean_certificate
from centersmooth.rules import RULES, certificate_from
from csrun.cells.cell import Cell
from csrun.config import GridPoint

COLUMNS = (
    "cell model dataset train_sigma metric eps h sigma point source outcome r_center r_hat r_far beta certified "
    "vacuous error n0 n m delta alpha1 alpha2 alpha bounds far center smoothing seed device seconds reason"
).split()

Row = dict[str, str]


@dataclass(frozen=True)
class PointResult:
    """What one pass over one point left: evidence for each metric, or the reason it failed."""

    point: int
    source: str
    seconds: float
    evidence: Mapping[str, Evidence]
    failure: str = ""


@dataclass(frozen=True)
class MeanResult:
    """What one pass over one point left for smoothing by expectation: evidence for each seminorm."""

    point: int
    source: str
    seconds: float
    evidence: Mapping[str, MeanEvidence]


def rows_of_mean(
    result: MeanResult,
    cell: Cell,
    metrics: Mapping[str, Metric],
    pairs: Iterable[GridPoint],
    output_range: tuple[float, float],
) -> list[Row]:
    """The rows of one point under the rules of `MEAN_RULES`, in the order of `rows_of_point`."""
    noise, rows = GaussianNoise(cell.sigma), []
    for name, evidence in result.evidence.items():
        for pair in sorted(pairs):
            for far in MEAN_RULES:
                certificate = mean_certificate(
                    evidence,
                    pair.eps,
                    metric=metrics[name],
                    noise=noise,
                    budget=cell.budget,
                    far=far,
                    output_range=output_range,
                )
                rule = {
                    "bounds": certificate.bounds,
                    "far": far,
                    "center": certificate.center_name,
                    "smoothing": "mean",
                }
                rows.append(_common(result, cell, name, pair) | rule | _numbers(certificate, evidence))
    return rows


def rows_of_point(
    result: PointResult,
    cell: Cell,
    metrics: Mapping[str, Metric],
    pairs: Iterable[GridPoint],
    output_range: tuple[float, float] | None,
) -> list[Row]:
    """All rows of one point, in canonical order: metric, eps, h, rule."""
    noise = GaussianNoise(cell.sigma)
    rows = []
    for name, metric in metrics.items():
        for pair in sorted(pairs):
            for bounds, far, center in RULES:
                if center == "free" and not (cell.center == "free" and metric.source.has_means):
                    continue
                common = _common(result, cell, name, pair) | {"bounds": bounds.name, "far": far, "center": center}
                if result.failure:
                    rows.append(common | {"outcome": Outcome.FAILED.value, "reason": result.failure})
                    continue
                evidence = result.evidence[name]
                certificate = certificate_from(
                    evidence,
                    pair.eps,
                    metric=metric,
                    noise=noise,
                    budget=cell.budget,
                    bounds=bounds,
                    far=far,
                    center=center,
                    output_range=output_range,
                )
                rows.append(common | _numbers(certificate, evidence.about(center)))
    return rows


def _common(result: PointResult | MeanResult, cell: Cell, metric: str, pair: GridPoint) -> Row:
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
        "smoothing": "center",
        "seed": cell.seed,
        "device": cell.device,
        "seconds": result.seconds,
    }
    return {key: text(value) for key, value in values.items()}


def _numbers(certificate: Certificate, evidence: Evidence | MeanEvidence) -> Row:
    values = {
        "outcome": certificate.outcome.value,
        "r_center": certificate.r_center,
        "r_hat": certificate.r_hat,
        "r_far": certificate.r_far,
        "beta": certificate.beta,
        "certified": certificate.radius,
        "vacuous": certificate.vacuous,
        "error": None if certificate.center is None else evidence.error,
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
