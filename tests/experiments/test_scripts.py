"""`make reproduce-all`, estimates: what they leave, and what they say when they are stopped."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from csrun.report.tables import MEAN_RULE, of_rule

pytestmark = pytest.mark.usefixtures("figures")

SCRIPTS = str(Path(__file__).parents[2] / "scripts")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    yield importlib.import_module
    for name in ("reproduce_all", "more_draws"):
        sys.modules.pop(name, None)


def test_an_estimate_at_the_draws_there_were_is_the_certificate(run_small, tmp_path, script, monkeypatch):
    """With the counts of the run itself nothing is estimated; with more draws the bound falls."""
    more_draws = script("more_draws")
    run_small("metrics=[l2]", "certifiers=[center,mean]", "grid.h=[1]")
    table = pd.read_csv(tmp_path / "runs" / "tv_digits" / "summary.csv")
    (radius,) = of_rule(table, MEAN_RULE | {"rule": "local"})["radius_median"]
    counts = json.loads((tmp_path / "runs" / "tv_digits" / "manifest.json").read_text())["counts"]
    monkeypatch.setattr(more_draws, "N", counts["n"])
    monkeypatch.setattr(more_draws, "TRIED", (counts["m"], 10**6))
    monkeypatch.setattr(more_draws, "SHOWN", (counts["m"], 10**6))
    (row,) = more_draws.rows(tmp_path / "runs" / "tv_digits")
    same, more = (float(cell.replace(",", "")) for cell in row.split(" | ")[3:5])
    assert same == pytest.approx(radius, rel=1e-3)
    assert more < same


def ended(script, monkeypatch, endings):
    """Codes of a run of all experiments in which each ends as given: an exit code, or an exception."""
    reproduce_all = script("reproduce_all")
    left = list(endings)

    def run(name, settings):
        ending = left.pop(0)
        if isinstance(ending, type):
            raise ending
        return reproduce_all.Result(name, ending, 1.0, "")

    monkeypatch.setattr(reproduce_all, "run", run)
    results = reproduce_all.run_all(["a", "b", "c"], [])
    assert [result.name for result in results] == ["a", "b", "c"]
    return [result.code for result in results], reproduce_all.NOT_STARTED


def test_one_failure_stops_nothing_else(script, monkeypatch):
    codes, _ = ended(script, monkeypatch, [2, 0, 1])
    assert codes == [2, 0, 1]


@pytest.mark.parametrize("ending", [130, 143, KeyboardInterrupt])
def test_an_interruption_names_what_was_not_started(script, monkeypatch, ending):
    codes, not_started = ended(script, monkeypatch, [0, ending])
    assert codes == [0, 143 if ending == 143 else 130, not_started]
