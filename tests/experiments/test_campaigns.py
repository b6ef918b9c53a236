"""Short versions of the campaigns in scripts/campaigns/: runs killed at random moments, and odd requests."""

from __future__ import annotations

import importlib
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from support import SMALL

from csrun.registry import CERTIFIERS

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
    counts = kill_runs.campaign(2, [kill_runs.Scenario("centers", "one process")], bench)
    assert counts.total() >= 2
    assert {key[:2] for key in counts} == {("centers", "one process")}
    assert f"| all | | {counts['centers', 'one process', 'driver, SIGKILL']} |" in kill_runs.page(counts, 60.0)


def test_what_a_kill_must_not_do_ends_the_campaign(kill_runs, tmp_path):
    """A lost row, an unfinished file, a traceback."""
    scenario, out = kill_runs.Scenario("texts", "Ray"), tmp_path / "killed"
    (out / "0" / "custom").mkdir(parents=True)
    (out / "0" / "custom" / "certificates.csv").write_text("point,radius,seconds\n0,1.5,3\n")
    out.with_suffix(".log").write_text("done\n")
    expected = ([{"point": "0", "radius": "1.5"}], {})
    kill_runs.check(scenario, out, expected)
    with pytest.raises(SystemExit, match="rows or weights differ"):
        kill_runs.check(scenario, out, ([*expected[0], {"point": "1", "radius": "2"}], {}))
    out.with_suffix(".log").write_text("Traceback (most recent call last):\n")
    with pytest.raises(SystemExit, match="a traceback"):
        kill_runs.check(scenario, out, expected)
    (out / ".run.json.x2.unfinished").touch()
    with pytest.raises(SystemExit, match="left behind"):
        kill_runs.check(scenario, out, expected)


SHORT = settings(
    max_examples=4, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.mark.slow
def test_right_requests_end_in_the_rows_that_were_asked_for(fuzz):
    """Of one noise level each, at the smaller counts: the campaign itself asks for more."""

    @SHORT
    @given(fuzz.right_requests())
    def campaign(request):
        small = replace(request, sizes=request.sizes[:1], n=400, m=500)
        fuzz.judge(small, bit_by_bit=len(request.points) > 1)

    campaign()


@pytest.mark.slow
def test_odd_requests_end_in_a_result_or_in_one_line(fuzz):
    @SHORT
    @given(fuzz.right_requests(), fuzz.odd_requests)
    def campaign(request, odd):
        fuzz.judge_odd(request, odd)

    campaign()


@pytest.fixture(scope="module")
def served(fuzz, tmp_path_factory):
    """A request, and the table it left."""
    request = fuzz.Request(
        noise="gaussian",
        metrics=("tv", "cosine"),
        certifiers=("mean", "center"),
        rule=None,
        eps=(0.2,),
        sizes=(1.0,),
        in_h=True,
        points=range(3, 5),
        seed=1,
        n=400,
        m=500,
        train="none",
        attack="none",
    )
    out = tmp_path_factory.mktemp("served")
    assert fuzz.ask(request.arguments, out).code == 0
    return request, (out / "tv_digits" / "certificates.csv").read_text()


def changed(line, header, **values):
    """A line of the table with other values."""
    columns, row = header.split(","), line.split(",")
    return ",".join(str(values.get(name, value)) for name, value in zip(columns, row, strict=True))


WRONG_TABLES = {
    "1 rows are missing, 0 were": lambda head, row, *rows: [head, *rows],
    "0 rows are missing, 1 were": lambda head, row, *rows: [head, row, changed(row, head, rule="other"), *rows],
    "expected a radius in every certified row": lambda head, row, *rows: [head, changed(row, head, radius=""), *rows],
    "a certified radius is not a number": lambda head, row, *rows: [head, changed(row, head, radius="inf"), *rows],
    "n is [4, 400]": lambda head, row, *rows: [head, changed(row, head, n=4), *rows],
    "a point failed: at random": lambda head, row, *rows: [
        head,
        changed(row, head, outcome="failed", radius="", vacuous="False", reason="at random"),
        *rows,
    ],
}


@pytest.mark.parametrize("words", WRONG_TABLES)
def test_a_wrong_table_is_told_from_a_right_one(fuzz, served, tmp_path, words):
    request, table = served
    path = tmp_path / "certificates.csv"
    head, *rows = table.splitlines()
    path.write_text(table)
    assert fuzz.inconsistency(tmp_path, request) == ""
    assert len(rows) == 2 * (3 + 3 + 3)  # points; rules of the mean of tv, of centers of both
    rows.sort(key=lambda row: ",certified," not in row)
    path.write_text("\n".join(WRONG_TABLES[words](head, *rows)) + "\n")
    assert words in fuzz.inconsistency(tmp_path, request)


def test_the_campaign_asks_for_every_certifier(fuzz):
    assert set(fuzz._SUITS) == set(CERTIFIERS)


def test_the_published_campaign_was_mostly_of_requests_that_are_served():
    summary = json.loads((CAMPAIGNS.parents[1] / "docs" / "campaigns" / "requests.json").read_text())
    assert summary["by exit code"]["0"] >= 2 / 3 * summary["requests"]
    assert summary["wrong endings"] == 0


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
