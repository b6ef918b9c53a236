"""Numbers that moved are named, and have to be declared."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from csrun.cells import METHOD_VERSION
from csrun.registry import CERTIFIERS

TOLERANCE = 1e-5
SCRIPT = Path(__file__).parents[2] / "scripts" / "golden.py"
REMEDY = "if it is meant, declare it in CHANGELOG.md, raise METHOD_VERSION and run python scripts/golden.py"


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("golden", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drift(kept: dict, computed: dict) -> list[str]:
    """A line for each number or word that is not what it was."""
    lines = [f"{case}: only in one of the two" for case in sorted(kept.keys() ^ computed.keys())]
    for case in kept.keys() & computed.keys():
        before, after = kept[case], computed[case]
        for key in sorted(before.keys() | after.keys()):
            if not same(before.get(key), after.get(key)):
                lines.append(f"{case}: {key} was {before.get(key)!r}, is {after.get(key)!r}")
    return lines


def same(before: object, after: object) -> bool:
    if isinstance(before, float) and isinstance(after, float):
        return abs(after - before) <= TOLERANCE * abs(before)
    return before == after


def test_no_certificate_has_drifted(golden):
    kept = json.loads(golden.FILE.read_text())
    lines = drift(kept["certificates"], golden.certificates())
    assert not lines, "\n".join([*lines, REMEDY])
    assert kept["METHOD_VERSION"] == METHOD_VERSION, REMEDY


def test_the_cases_hold_every_outcome_and_rule(golden):
    kept = json.loads(golden.FILE.read_text())["certificates"]
    rules = {tuple(name.split(", ")[2:4]) for name in kept}
    assert rules == {(name, rule) for name, entry in CERTIFIERS.items() if entry.measured for rule in entry.rules}
    assert {name.split(", ")[0] for name in kept} == {metric.name for metric in golden.METRICS}
    assert {"certified", "infeasible"} <= {case["outcome"] for case in kept.values()}
    measured = [case for name, case in kept.items() if "measured" in name and "r_far" in case]
    assert any(case["r_far"] < 1.9 * case["r_hat"] for case in measured)


def test_a_number_that_moved_is_named():
    kept = {"a": {"outcome": "certified", "radius": 1.0}, "b": {"outcome": "infeasible"}}
    assert drift(kept, {**kept, "a": {"outcome": "certified", "radius": 1 + 9e-6}}) == []
    assert drift(kept, {**kept, "a": {"outcome": "certified", "radius": 1 + 2e-5}}) == ["a: radius was 1.0, is 1.00002"]
    assert drift(kept, {**kept, "b": {"outcome": "bad_center"}}) == ["b: outcome was 'infeasible', is 'bad_center'"]
    assert drift(kept, {"a": kept["a"]}) == ["b: only in one of the two"]
