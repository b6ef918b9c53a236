"""Short versions of the campaigns in scripts/campaigns/: runs killed at random moments, and odd requests."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import SMALL

from centersmooth import L2, Center, Certificate, GaussianNoise, Outcome, Smoother
from csrun.registry import CERTIFIERS, NOISES

CAMPAIGNS = Path(__file__).parents[2] / "scripts" / "campaigns"


@pytest.fixture(scope="module")
def fuzz():
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CAMPAIGNS)
        yield importlib.import_module("fuzz_requests")
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def kill_runs(monkeypatch):
    monkeypatch.syspath_prepend(CAMPAIGNS)
    return importlib.import_module("kill_runs")


@pytest.fixture
def bench(kill_runs, tmp_path):
    kill_runs.prepare(tmp_path)
    return kill_runs.Bench(tmp_path, "", list)


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_as_others_do(kill_runs, bench, figures, monkeypatch):
    """A shorter run than the campaign's, of one cell, forked from this process."""
    monkeypatch.setitem(kill_runs.OUTPUTS, "centers", list(SMALL))
    found = kill_runs.campaign(2, [kill_runs.Scenario("centers", "one process")], bench)
    assert found.faults == []
    assert found.counts.total() >= 2
    assert {key[:2] for key in found.counts} == {("centers", "one process")}
    page = kill_runs.page(found, 60.0)
    assert f"| all | | {found.counts['centers', 'one process', 'driver, SIGKILL']} |" in page
    assert "0 rows lost" in page


def test_a_fault_is_told_and_the_campaign_goes_on(kill_runs, bench, monkeypatch):
    """Rounds of runs without rows."""

    def start(bench, scenario, out):
        out.with_suffix(".log").touch()
        return os.posix_spawn("/bin/true", ["true"], {})

    def of_driver(one):
        one.counts["disk"] += 1
        kill_runs.fail("odd", one.out)

    monkeypatch.setattr(kill_runs.Bench, "start", start)
    monkeypatch.setattr(kill_runs.Round, "of_driver", of_driver)
    found = kill_runs.campaign(2, [kill_runs.Scenario("centers", "one process")], bench)
    assert found.faults == ["odd", "odd"]
    page = kill_runs.page(found, 60.0)
    assert "2 ended otherwise than they have to:\n\n- odd\n- odd\n" in page
    assert "0 rows lost" not in page


def test_what_a_kill_must_not_do_is_a_fault(kill_runs, tmp_path):
    """A lost row, an unfinished file, a traceback."""
    scenario, out = kill_runs.Scenario("texts", "Ray"), tmp_path / "killed"
    (out / "0" / "custom").mkdir(parents=True)
    (out / "0" / "custom" / "certificates.csv").write_text("point,radius,seconds\n0,1.5,3\n")
    out.with_suffix(".log").write_text("done\n")
    expected = ([{"point": "0", "radius": "1.5"}], {})
    kill_runs.check(scenario, out, expected)
    with pytest.raises(kill_runs.Fault, match="rows or weights differ"):
        kill_runs.check(scenario, out, ([*expected[0], {"point": "1", "radius": "2"}], {}))
    out.with_suffix(".log").write_text("Traceback (most recent call last):\n")
    with pytest.raises(kill_runs.Fault, match="a traceback"):
        kill_runs.check(scenario, out, expected)
    (out / ".run.json.x2.unfinished").touch()
    with pytest.raises(kill_runs.Fault, match="left behind"):
        kill_runs.check(scenario, out, expected)


SHORT = settings(
    max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.mark.slow
def test_right_requests_end_in_the_rows_that_were_asked_for(fuzz):
    """Of one noise level each: the campaign itself asks for more."""

    @SHORT
    @given(fuzz.right_requests())
    def campaign(request):
        fuzz.judge(replace(request, sizes=request.sizes[:1]), bit_by_bit=len(request.points) > 1)

    campaign()


@pytest.mark.slow
def test_odd_requests_end_in_a_result_or_in_one_line(fuzz):
    @SHORT
    @given(fuzz.right_requests(), fuzz.odd_requests)
    def campaign(request, odd):
        fuzz.judge_odd(request, odd)

    campaign()


def test_calls_of_the_library_end_in_certificates_or_in_one_line(fuzz):
    """As in the campaign, a seed of its own."""
    counts = fuzz.Counts()

    @settings(SHORT, max_examples=60)
    @given(st.data())
    def campaign(data):
        fuzz.one_request("python", data, counts)

    campaign()
    assert counts.served.total() > counts.asked.total() / 2


@pytest.mark.parametrize(
    ("out", "data", "code"), [("link", "archive", 0), ("trailing slash", "bytes", 0), ("loop", "bytes", 2)]
)
def test_results_and_inputs_lie_wherever_a_request_says(fuzz, out, data, code):
    assert fuzz.judge_paths(out, data, ("a=b,c", "ümläut [x]")).code == code


@pytest.fixture(scope="module")
def served(fuzz, tmp_path_factory):
    """A request, and the table it left."""
    request = replace(
        fuzz.SIMPLE, model=fuzz.MODELS_ASKED[0], metrics=("l1", "cosine"), certifiers=("mean", "center"), rule=None
    )
    out = tmp_path_factory.mktemp("served")
    assert fuzz.ask(request.arguments, out).code == 0
    return request, (out / "custom" / "certificates.csv").read_text()


def changed(line, header, **values):
    """A line of the table with other values."""
    columns, row = header.split(","), line.split(",")
    return ",".join(str(values.get(name, value)) for name, value in zip(columns, row, strict=True))


WRONG_TABLES = {
    "1 rows are missing, 0 were": lambda head, row, *rows: [head, *rows],
    "0 rows are missing, 1 were": lambda head, row, *rows: [head, row, changed(row, head, rule="other"), *rows],
    "expected a radius in every certified row": lambda head, row, *rows: [head, changed(row, head, radius=""), *rows],
    "a certified radius is not a number": lambda head, row, *rows: [head, changed(row, head, radius="inf"), *rows],
    "n is [4, 40]": lambda head, row, *rows: [head, changed(row, head, n=4), *rows],
    "a point failed: at random": lambda head, row, *rows: [
        head,
        changed(row, head, outcome="failed", radius="", vacuous="False", reason="at random"),
        *rows,
    ],
}


@pytest.mark.parametrize("words", WRONG_TABLES)
def test_a_wrong_table_is_told_from_a_right_one(fuzz, served, tmp_path, words):
    request, table = served
    wanted = Counter(fuzz.served(request).rows)
    path = tmp_path / "certificates.csv"
    head, *rows = table.splitlines()
    path.write_text(table)
    assert fuzz.inconsistency(tmp_path, request, wanted) == ""
    assert len(rows) == 2 * (3 + 3 + 3)  # points; rules of the mean of l1, of centers of both
    rows.sort(key=lambda row: (",center," not in row, ",certified," not in row))
    path.write_text("\n".join(WRONG_TABLES[words](head, *rows)) + "\n")
    assert words in fuzz.inconsistency(tmp_path, request, wanted)


def test_every_certifier_and_noise_is_served_with_some_model(fuzz):
    """Of a new one that no model of the campaign suits nothing would be learnt."""
    right, budget = sys.modules["requests_right"], fuzz.BUDGETS[0]
    gaussian = (("name", "gaussian"),)

    def fits(model, noise, scale, certifier):
        path = right.inputs_in_files("bytes") if model.own else ""
        return right._fits(model, noise, scale, model.metrics, certifier, budget, path)

    for certifier in CERTIFIERS:
        assert any(fits(model, gaussian, 0.5, certifier) for model in fuzz.MODELS_ASKED), certifier
    for noise in NOISES:
        assert right.takes((("name", noise),), right._SCALES.get(noise, (0.5,))[0], "bytes"), noise


def test_a_request_that_the_library_serves_and_the_runner_does_not_is_found(fuzz, monkeypatch):
    monkeypatch.setattr(fuzz, "served", lambda request: "reason")
    with pytest.raises(AssertionError, match="exit code 0, though reason"):
        fuzz.judge(fuzz.SIMPLE)
    monkeypatch.setattr(fuzz, "ask", lambda *arguments: fuzz.Ending(2, "cs-run: no"))
    assert fuzz.judge(fuzz.SIMPLE)[0].code == 2
    monkeypatch.setattr(fuzz, "served", lambda request: fuzz.Served(()))
    with pytest.raises(AssertionError, match="cs-run: no"):
        fuzz.judge(fuzz.SIMPLE)


WRONG_CERTIFICATES = {
    "radius inf": {"radius": math.inf},
    "radius None where the outcome is certified": {"radius": None},
    "radius 0.5 where the outcome is failed": {"outcome": Outcome.FAILED},
    "eps 0.2 instead of 0.1": {"eps": 0.2},
    "about map": {"about": "map"},
    "of center by exact": {"rule": "exact"},
    "threat l1": {"threat": "l1"},
    "alpha 1.5": {"alpha": 1.5},
    "answer None": {"answer": None},
    "2 lines": {"reason": "a\nb", "radius": None, "outcome": Outcome.FAILED},
}


@pytest.mark.parametrize("words", WRONG_CERTIFICATES)
def test_a_certificate_that_contradicts_itself_is_found(fuzz, words):
    smoother = Smoother(torch.sigmoid, GaussianNoise(0.5), Center(L2()))
    right = Certificate(0.1, Outcome.CERTIFIED, 0.5, False, torch.zeros(1), 0.01, "center", "measured", "run", "l2")
    contradiction = sys.modules["requests_python"].contradiction
    assert contradiction(right, 0.1, smoother) == ""
    assert words in contradiction(replace(right, **WRONG_CERTIFICATES[words]), 0.1, smoother)


def test_the_published_campaign_was_mostly_of_requests_that_are_served(fuzz):
    pages = sys.modules["requests_page"]
    summary = json.loads((pages.DOCS / "requests.json").read_text())
    assert summary["requests"] >= 10_000
    assert summary["served"] >= 0.7 * summary["requests"]
    assert summary["wrong endings"] == 0
    assert (pages.DOCS / "requests.md").read_text() == pages.page(summary)
    for kind, names in (("noise", NOISES), ("certifier", CERTIFIERS)):
        assert all(summary[f"by {kind}"][name][0] for name in names)


@pytest.mark.parametrize(
    ("code", "stderr", "words"),
    [(70, "Traceback", "exit code 70"), (2, "a\nb", "2 lines instead of one"), (None, "", "exit code None")],
)
def test_a_wrong_ending_is_told_from_a_right_one(fuzz, tmp_path, code, stderr, words):
    assert words in fuzz.complaint(fuzz.Ending(code, stderr), tmp_path)
    assert fuzz.complaint(fuzz.Ending(2, "cs-run: no"), tmp_path) == ""
    (tmp_path / "tv_digits").mkdir()
    (tmp_path / "tv_digits" / "manifest.json").write_text("{}")
    assert "folder is there" in fuzz.complaint(fuzz.Ending(2, "cs-run: no"), tmp_path)
