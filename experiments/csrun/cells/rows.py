"""The rows of ``certificates.csv``: pure functions of a point's evidence.

Every metric of the model, every rule and every (eps, h) of the cell's noise level gets a row, so that an experiment
is a selection of rows and a new rule costs no forward pass.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from torch import Tensor

from centersmooth import Budget, Certificate, Outcome
from centersmooth.certifiers import Certifier
from centersmooth.gathering import Setting
from csrun.cells.cell import Cell
from csrun.cells.certify import PointResult
from csrun.config import GridPoint
from csrun.noise import noise_label
from csrun.registry import CertifierEntry, entry_of, names_of
from csrun.report.tables import ROW_COLUMNS

Row = dict[str, str]

_LONGEST_LIST = 16
"""Numbers of a coordinate each: corners and landmarks, not pixels."""


def rows_of(
    result: PointResult,
    cell: Cell,
    certifiers: Mapping[str, Certifier],
    pairs: Iterable[GridPoint],
    setting: Setting,
    target_at: Callable[[int], int | None],
) -> list[Row]:
    """All rows of one point, in canonical order: certifier, eps, h, rule.

    Parameters
    ----------
    certifiers : mapping
        Of the cell, by the keys of `certify.certifiers_of`.
    setting : Setting
        Of the cell, with its law bound to the input of the point.
    target_at : callable
        The true class of a point, or None; called for certifiers whose rows say it.
    """
    rows = []
    for key, certifier in certifiers.items():
        evidence, failure = result.evidence.get(key), result.failures.get(key)
        if evidence is None and failure is None:
            continue
        entry = entry_of(names_of(key)[0])
        facts = {"target": text(target_at(result.point))} if "target" in entry.details else {}
        for pair in sorted(pairs):
            for rule in certifier.rules:
                row = _common(result, cell, setting, key, pair)
                row |= (
                    {"rule": rule, "about": certifier.about(rule)}
                    | _counts(cell.budget, certifier, entry.details)
                    | facts
                )
                if evidence is None:
                    rows.append(row | {"outcome": Outcome.FAILED.value, "reason": str(failure)})
                else:
                    certificate = certifier.certificate(evidence, pair.eps, rule, setting)
                    rows.append(row | _numbers(certificate, evidence.error, entry))
    return rows


def _common(result: PointResult, cell: Cell, setting: Setting, key: str, pair: GridPoint) -> Row:
    certifier, metric = names_of(key)
    values = {
        "cell": cell.digest,
        "model": cell.model,
        "dataset": cell.dataset,
        "train": cell.train,
        "noise": noise_label(cell.noise),
        "scale": cell.scale,
        "threat": setting.noise.threat.unit,
        "certifier": certifier,
        "metric": metric,
        "eps": pair.eps,
        "h": pair.h,
        "point": result.point,
        "source": result.source,
        "seed": cell.seed,
        "device": cell.device,
        "seconds": result.seconds,
    }
    return {key: text(value) for key, value in values.items()}


def _counts(budget: Budget, certifier: Certifier, details: Collection[str]) -> Row:
    """Counts and failure probabilities of a certifier's draws; zeros and nothing where it draws nothing."""
    if not certifier.sampled:
        return {"alpha1": text(0.0), "alpha2": text(0.0)}
    values = {name: getattr(budget, name) for name in ("n", "m", "alpha1", "alpha2")}
    values |= {name: getattr(budget, name) for name in ("delta", "n0") if name in details}
    return {key: text(value) for key, value in values.items()}


def _numbers(certificate: Certificate, error: float, entry: CertifierEntry) -> Row:
    values = {
        "outcome": certificate.outcome.value,
        "radius": certificate.radius,
        "vacuous": certificate.vacuous,
        "error": None if certificate.answer is None else error,
        "alpha": certificate.alpha,
        "reason": certificate.reason,
        **{name: value for name, value in certificate.details.items() if name in entry.details},
        **{name: getattr(certificate, name) for name in entry.lists},
    }
    return {key: text(value) for key, value in values.items()}


def text(value: object) -> str:
    """A value as text: shortest round-trip floats, empty for None; numbers of a list apart by spaces, if not too many.

    Equal texts are one string, as most are those of many rows.

    >>> import torch
    >>> text(0.1), text(None), text(True), text(3), text(torch.tensor([0.1, 2.0])), text(torch.zeros(99))
    ('0.1', '', 'True', '3', '0.1 2.0', '')
    """
    if isinstance(value, Tensor):
        return " ".join(map(str, value.flatten().numpy())) if value.numel() <= _LONGEST_LIST else ""
    return sys.intern("" if value is None else repr(value) if isinstance(value, float) else str(value))


def rows_of_rule(rows: Iterable[Row], rule: Mapping[str, str]) -> list[Row]:
    """Rows of one rule, of a table of certificates or of attacks."""
    return [row for row in rows if all(row[part] == value for part, value in rule.items())]


def csv_lines(rows: Iterable[Row], *, header: bool, columns: Sequence[str] = ROW_COLUMNS) -> bytes:
    """Rows as CSV; a column a row does not have is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()
