"""What the local bound of the mean would be with more draws: an estimate from kept distances, no certificate.

Usage: python scripts/more_draws.py EXPERIMENT [RUNS]

Of a run with `certifiers=[center,mean]`, the distances of its draws are taken for those of as many draws as asked for:
none larger than the largest seen, so that what is left is the price of not having seen more. Prints the rows of
docs/which-certifier.md: medians over the points, at n = 10,000.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from centersmooth import Budget, Mean, Metric
from centersmooth.certifiers import unpack
from centersmooth.certifiers.distances import DistanceSample
from centersmooth.certifiers.expectation import band_ranks
from centersmooth.certifiers.mean import MeanEvidence
from centersmooth.gathering import Setting
from csrun.metrics import build_metrics
from csrun.noise import noise_of
from csrun.report.tables import PAPER_RULE, number, of_rule

Cell = dict[str, Any]
"""As a cell's run.json records it."""

N = 10_000
SHOWN = (100_000, 400_000, 1_000_000, 4_000_000, 10_000_000)
TRIED = sorted({*SHOWN, *(first * 10**power for power in (4, 5, 6) for first in (1, 2, 4, 7))})


def with_draws(evidence: MeanEvidence, m: int) -> MeanEvidence:
    """The same law from ``m`` draws: each kept rank's distance is that of the same share of the draws seen."""
    seen, ranks = evidence.distances, band_ranks(m)
    same_share = np.ceil(ranks * (seen.count / m)).astype(np.int64)
    values = seen.values[np.searchsorted(seen.ranks, same_share)]
    return MeanEvidence(
        evidence.center, evidence.base, evidence.error, DistanceSample(m, ranks, values), evidence.reach
    )


def bound(evidence: MeanEvidence, eps: float, metric: Metric, cell: Cell, limits: tuple[float, float]) -> float:
    """The local bound of the mean under a cell's failure probabilities."""
    alphas = {name: cell["budget"][name] for name in ("alpha1", "alpha2")}
    budget = Budget(n=N, m=evidence.distances.count, **alphas)
    setting = Setting(noise_of(cell["noise"], cell["scale"]), budget, limits, cell["forward_block"])
    radius = Mean(metric).certificate(evidence, eps, "local", setting).radius
    assert radius is not None
    return radius


def evidence_of(folder: Path, metric: str) -> Iterator[MeanEvidence]:
    """Evidence about the mean at each point of a cell."""
    for path in sorted((folder / "evidence" / f"mean.{metric}-v{Mean.version}").glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            yield unpack(MeanEvidence, arrays)


def rows(experiment: Path) -> Iterator[str]:
    """A line for each metric and grid point of the experiment."""
    manifest = json.loads((experiment / "manifest.json").read_text())
    papers = of_rule(pd.read_csv(experiment / "summary.csv"), PAPER_RULE)
    for written in manifest["cells"]:
        folder = experiment.parent / written["folder"]
        cell = json.loads((folder / "run.json").read_text())["cell"]
        for name, metric in build_metrics(manifest["metrics"], {}, "cpu").items():
            found = list(evidence_of(folder, name))
            lines = papers[(papers["metric"] == name) & np.isclose(papers["scale"], cell["scale"])]
            for h, eps, radius in lines[["h", "eps", "radius_median"]].itertuples(index=False):
                half, limits = radius / 2, tuple(written["output_range"])
                medians = {
                    m: float(np.median([bound(with_draws(one, m), eps, metric, cell, limits) for one in found]))
                    for m in TRIED
                }
                enough = next((f"{m:,} ({number(medians[m])})" for m in TRIED if medians[m] < half), "more")
                cells = [f"{name}_{cell['dataset']}", number(h), number(half), *(number(medians[m]) for m in SHOWN)]
                yield f"| {' | '.join(cells)} | {enough} |"


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("more_draws: name the experiment: python scripts/more_draws.py mean_mnist")
    runs = Path(sys.argv[2] if len(sys.argv) == 3 else "runs")
    header = ["", "h", "half of the paper's", *(f"m = {m:,}" for m in SHOWN), "below half from"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows(runs / sys.argv[1]):
        print(row)
