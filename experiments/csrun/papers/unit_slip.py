"""Numbers the released face experiment would report from the same draws. They are not certificates, nor kept as any.

The paper's code multiplies the noise by 255, as its images have pixels from 0 to 255, but hands ``eps`` to the
certificate as it stands. The noise is the same as here; the shift bound is taken at ``eps / (255 sigma) = h / 255``
instead of ``h``, so that the radius is read at a mass of about ``1/2 + delta`` instead of ``S_h(1/2 + delta)``.

Why that is no certificate for ``eps``: the proof (`centersmooth.certifiers.center.rules`) needs a ball around the
center that still has a mass of ``1/2 + delta`` at every ``x'`` within ``eps``. A ball of mass ``S_{h/255}(1/2 +
delta)`` at ``x`` keeps it only within ``eps / 255``; at distance ``eps`` its mass may be down to ``S_{-h}`` of that,
3% for ``h = 2, delta = 0.05``.
Nothing else saves it, as a step shows: let ``f`` be 1 beyond ``x + 0.75 sigma`` and 0 before. At ``x`` the outputs are
0 with probability 0.77, so the slipped radius is 0; two ``sigma`` on, they are 1 with probability 0.89.

The number is a read of the evidence kept for a point, under the paper's own bounds and factor, as the released code
has it apart from its interpolated quantile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from centersmooth import Budget, GaussianNoise, Metric
from centersmooth.bounds import PAPER
from centersmooth.certifiers.center.evidence import CenterEvidence
from centersmooth.certifiers.center.rules import doubled_radii, radius_problem
from csrun.cells.rows import Row, csv_lines, text
from csrun.cells.store import CellStore
from csrun.report.tables import SLIP_NUMBER, number

WHITE = 255
"""Pixels a unit: how far the released code's noise and its eps are apart."""

COLUMNS = ("cell", "model", "dataset", "metric", "point", "source", "eps", "h", "scale", "radius", SLIP_NUMBER)


def slipped_radius(
    evidence: CenterEvidence,
    eps: float,
    sigma: float,
    metric: Metric,
    budget: Budget,
    output_range: tuple[float, float] | None = None,
) -> float | None:
    """The paper's rule with ``sigma`` in units of 1/255 of that of ``eps``; None where it gives nothing.

    Parameters
    ----------
    eps, sigma : float
        In one unit, that of the input.
    """
    noise = GaussianNoise(WHITE * sigma)
    if evidence.far is None or not budget.accepts_center(evidence.inside, PAPER):
        return None
    if radius_problem(budget, noise, eps, PAPER):
        return None
    radius = doubled_radii(evidence, eps, metric, noise, budget, PAPER).total(metric, PAPER)
    return min(radius, metric.diameter(tuple(evidence.center.shape), output_range))


def slip_lines(store: CellStore, metrics: Mapping[str, Metric], rows: Iterable[Row]) -> list[Row]:
    """The lines of `tables.SLIP_FILE` for rows of one cell, of the rule an experiment leads with.

    ``radius`` is the valid one, empty where there is none.
    """
    rows = list(rows)
    wanted = {(f"center.{row['metric']}", int(row["point"])) for row in rows}
    kept = {(key, point): store.load(key, point) for key, point in wanted if point in store.done(key)}
    return [
        {key: row[key] for key in COLUMNS if row.get(key)} | {SLIP_NUMBER: _number(store, metrics, row, kept)}
        for row in rows
    ]


def _number(
    store: CellStore, metrics: Mapping[str, Metric], row: Row, kept: Mapping[tuple[str, int], CenterEvidence | None]
) -> str:
    name = row["metric"]
    evidence = kept.get((f"center.{name}", int(row["point"])))
    if evidence is None:
        return ""
    return text(
        slipped_radius(
            evidence,
            float(row["eps"]),
            float(row["scale"]),
            metrics[name],
            store.cell.budget,
            store.output_range,
        )
    )


def slip_table(lines: Iterable[Row]) -> bytes:
    """`tables.SLIP_FILE` as bytes."""
    return csv_lines(lines, header=True, columns=COLUMNS)


def slip_note(lines: Sequence[Row]) -> str:
    """One sentence for the table and the figure; empty where there is no number."""
    found = sorted(float(line[SLIP_NUMBER]) for line in lines if line[SLIP_NUMBER])
    if not found:
        return ""
    low, high = number(found[0], 2), number(found[-1], 2)
    values = low if low == high else f"{low} to {high}"
    missing = len(lines) - len(found)
    refused = f" (none for {missing} of {len(lines)}, where the paper's bounds refuse the center)" if missing else ""
    return (
        f"NOT a certificate: with the released code's unit slip (noise in 1/{WHITE} of the unit of eps) the same draws "
        f"would give {values}{refused}"
    )
