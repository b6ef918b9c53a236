"""The unit slip's number is what plain arithmetic gives, moves a counterexample, and never stands as a certificate."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from gathering_support import gather_centers
from matplotlib.figure import Figure
from rich.console import Console
from running import run_in
from scipy.stats import norm

from centersmooth import L2, Budget, CenterSmoother, GaussianNoise, RandomStream
from centersmooth.sampling import Sampler
from csrun.papers.unit_slip import slip_note, slipped_radius
from csrun.report import plots
from csrun.report.tables import SLIP_FILE, SLIP_NUMBER, read_manifest, read_rows, read_unit_slip, render
from csrun.report.tables import summarise as summary_of

pytestmark = pytest.mark.usefixtures("figures")

BUDGET = Budget(n=1_000, m=2_000, delta=0.08)
SIGMA = 0.15


def sampled(model, x):
    """Evidence of one input, and the distances it was made from, drawn again."""
    sampler = Sampler(model, GaussianNoise(SIGMA), 100, 100, None)
    stream = RandomStream(0, 0)
    evidence = gather_centers(sampler, {"l2": L2()}, BUDGET, x, stream)["l2"]
    fresh = torch.cat(list(sampler.draw(x, BUDGET.m, stream, "fresh")))
    return evidence, np.sort(torch.linalg.vector_norm(fresh - evidence.center, dim=1).numpy())


@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_it_is_what_the_released_arithmetic_gives(eps):
    evidence, distances = sampled(torch.nn.Identity(), torch.zeros(3))
    shift = eps / (255 * SIGMA)  # noise in pixels from 0 to 255, eps left alone
    mass = norm.cdf(norm.ppf(0.5 + BUDGET.delta) + shift)
    share = mass + math.sqrt(math.log(1 / BUDGET.alpha2) / (2 * BUDGET.m))
    expected = 3 * distances[math.ceil(share * BUDGET.m) - 1]
    assert slipped_radius(evidence, eps, SIGMA, L2(), BUDGET) == pytest.approx(expected, rel=1e-6)


class Step(torch.nn.Module):
    """The step of the module's argument."""

    def forward(self, x):
        return (x > 0.75 * SIGMA).float()


def test_a_step_breaks_it():
    evidence, _ = sampled(Step(), torch.zeros(1))
    assert slipped_radius(evidence, 2 * SIGMA, SIGMA, L2(), BUDGET) == 0.0
    smoother = CenterSmoother(Step(), metric=L2(), noise=GaussianNoise(SIGMA), budget=BUDGET)
    moved = smoother.smooth(torch.tensor([2 * SIGMA]), stream=RandomStream(1))
    assert float(smoother.distance(evidence.center, moved.output)) == 1.0


def test_there_is_none_where_the_center_is_not_trusted_or_no_rank_exists():
    evidence, _ = sampled(torch.nn.Identity(), torch.zeros(3))
    few = Budget(n=1_000, m=10, delta=0.08)
    assert slipped_radius(evidence, 0.3, SIGMA, L2(), few) is None
    beside = evidence.__class__(**{**vars(evidence), "inside": 250})
    assert slipped_radius(beside, 0.3, SIGMA, L2(), BUDGET) is None


def test_the_tables_and_the_figure_say_what_it_is_and_no_certificate_changes(run_small, tmp_path):
    finished = run_small("unit_slip=true", "rule=exact", "metrics=[tv]").folder
    with (finished / SLIP_FILE).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert SLIP_NUMBER == "with_unit_slip_not_a_certificate"
    rows = read_rows(finished)
    lead = rows[rows["rule"] == "exact"].set_index("point")
    for line in lines:
        certified = lead.loc[int(line["point"]), "radius"]
        assert (float(line["radius"]) if line["radius"] else math.nan) == pytest.approx(certified, nan_ok=True)
        assert not line[SLIP_NUMBER] or float(line[SLIP_NUMBER]) < certified
    assert len(lines) == len(lead) == 2

    manifest = read_manifest(finished)
    (note,) = manifest["notes"]
    assert note.startswith("NOT a certificate: ")
    screen = io.StringIO()
    Console(file=screen, width=200).print(*render(summary_of(rows), manifest))
    assert "NOT a certificate" in screen.getvalue()
    slip = read_unit_slip(finished)
    assert len(slip) > 0
    assert "NOT a certificate" in plots._slip_handles(slip)[0].get_label()

    before = (finished / "certificates.csv").read_bytes()
    assert SLIP_NUMBER.encode() not in before
    again = run_in(tmp_path / "runs", "rule=exact", "metrics=[tv]", figures=False).folder
    assert again == finished
    assert (again / "certificates.csv").read_bytes() == before
    assert not (again / SLIP_FILE).exists()  # a run that does not ask for it leaves none behind
    assert json.loads((again / "manifest.json").read_text())["notes"] == []


def test_the_figures_line_is_the_median_of_its_points():
    ax = Figure().subplots()
    slip = pd.DataFrame({"model": "net", "dataset": "d", "metric": "tv", "curve": 2.0, "x": [0.1] * 3 + [0.3] * 2})
    plots._unit_slip(ax, slip.assign(**{SLIP_NUMBER: [1.0, 5.0, 2.0, 7.0, 8.0]}), "net", "d")
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[0.1, 2.0], [0.3, 7.0]]
    plots._unit_slip(ax, slip.assign(**{SLIP_NUMBER: 1.0}), "another", "d")
    assert len(ax.lines) == 1


def test_the_note_counts_only_numbers():
    def line(value):
        return {SLIP_NUMBER: value}

    assert slip_note([line(""), line("")]) == ""
    said = slip_note([line("0.25"), line("")])
    assert said.endswith("would give 0.25 (none for 1 of 2, where the paper's bounds refuse the center)")
    assert slip_note([line("0.25"), line("0.5"), line("0.125")]).endswith("would give 0.12 to 0.5")
