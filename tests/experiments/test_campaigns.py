"""Short versions of the campaigns in scripts/campaigns/: runs killed at random moments, and odd requests."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

CAMPAIGNS = Path(__file__).parents[2] / "scripts" / "campaigns"


@pytest.fixture(scope="module")
def fuzz():
    sys.path.insert(0, str(CAMPAIGNS))
    handler = signal.getsignal(signal.SIGTERM)
    yield importlib.import_module("fuzz_requests")
    signal.signal(signal.SIGTERM, handler)
    sys.path.remove(str(CAMPAIGNS))


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_as_others_do(tmp_path):
    """The second argument leaves the published summary alone."""
    done = subprocess.run(
        [sys.executable, str(CAMPAIGNS / "kill_runs.py"), "3", "dry"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["kills"] >= 3
    assert summary["rows that differ"] == 0


@pytest.mark.slow
def test_odd_requests_end_in_a_result_or_in_one_line(fuzz):
    @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(fuzz.requests)
    def campaign(arguments):
        fuzz.judge(arguments)

    campaign()


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
