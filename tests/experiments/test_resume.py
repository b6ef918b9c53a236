"""Rows do not depend on how a run was cut into pieces: batches, interruptions, order, extensions."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from running import rows_without_seconds, start_forked
from support import SMALL

from csrun.cells.store import CellStore
from csrun.errors import RunError


def only_cell(out: Path) -> Path:
    (cell,) = out.glob("autoencoder-digits-*")
    return cell


def test_batch_size_changes_no_row(run_small, done, tmp_path):
    folder = run_small("batch_size=7", f"out={tmp_path / '7'}").folder
    assert rows_without_seconds(folder) == rows_without_seconds(done)
    assert only_cell(tmp_path / "7").name == only_cell(tmp_path / "runs").name


def test_forward_block_and_counts_make_another_cell(run_small, done, tmp_path):
    run_small("forward_block=128")
    run_small("m=700")
    assert len(list((tmp_path / "runs").glob("autoencoder-digits-*"))) == 3


def test_nothing_is_computed_twice(run_small, done, tmp_path):
    kept = (tmp_path / "runs").glob("*/evidence/center.tv-v1/*.npz")
    evidence = {path: path.stat().st_mtime_ns for path in kept}
    before = (done / "certificates.csv").read_bytes()
    run_small()
    assert (done / "certificates.csv").read_bytes() == before
    assert evidence == {path: path.stat().st_mtime_ns for path in evidence}
    assert len(evidence) == 2


def test_where_nothing_is_missing_evidence_is_read_once(run_small, done, monkeypatch):
    read, reading = [], CellStore._read
    monkeypatch.setattr(CellStore, "_read", lambda store, *which: read.append(which) or reading(store, *which))
    run_small()
    assert len(read) == len(set(read)) > 0


def test_more_points_and_more_eps_extend_a_cell(run_small, done, tmp_path):
    short = rows_without_seconds(done)
    longer = rows_without_seconds(run_small("points.count=3").folder)
    assert [row for row in longer if row["point"] != "2"] == short
    wider = rows_without_seconds(run_small("grid.eps=[0.4,0.2]", "grid.h=null", "grid.scale=[0.4]").folder)
    assert [row for row in wider if row["eps"] == "0.4"] == short
    assert {row["h"] for row in wider} == {"0.5", "1.0"}
    runs = [path for path in (tmp_path / "runs").iterdir() if path.name.startswith("autoencoder")]
    assert len(runs) == 1  # the same cell throughout


def test_a_wider_grid_equals_one_asked_for_at_once(run_small, done, tmp_path):
    grid = ("grid.eps=[0.2,0.4]", "grid.h=null", "grid.scale=[0.4]")
    at_once = rows_without_seconds(run_small(*grid, f"out={tmp_path / 'at-once'}").folder)
    assert rows_without_seconds(run_small(*grid).folder) == at_once


def test_another_experiment_of_the_same_model_finds_its_cells_done(run_small, done, tmp_path):
    folder = run_small("metrics=[l2,angular]", "name=l2_digits").folder
    assert {row["metric"] for row in rows_without_seconds(folder)} == {"l2", "angular"}
    assert len(list((tmp_path / "runs").glob("*/evidence/center.tv-v1/*.npz"))) == 2


@pytest.mark.parametrize("damage", ["torn table", "edited table", "cut evidence", "no evidence"])
def test_damage_is_repaired_by_the_same_command(run_small, done, tmp_path, damage):
    expected = rows_without_seconds(done)
    cell = only_cell(tmp_path / "runs")
    table, evidence = cell / "certificates.csv", cell / "evidence" / "center.tv-v1" / "00001.npz"
    if damage == "torn table":
        table.write_bytes(table.read_bytes()[:-37])
    elif damage == "edited table":
        table.write_text(table.read_text().replace("certified", "forged"))
    elif damage == "cut evidence":
        evidence.write_bytes(evidence.read_bytes()[:500])
    else:
        evidence.unlink()
    result = run_small()
    assert rows_without_seconds(result.folder) == expected
    assert (result.kept, result.points) == (2 if "table" in damage else 1, 2)
    assert len(list((cell / "evidence" / "center.tv-v1").glob("*.npz"))) == 2


def test_sigkill_in_the_middle_then_the_same_command(run_small, tmp_path, checkpoints):
    shutil.copytree(checkpoints, tmp_path / "killed" / "checkpoints")
    overrides = [*SMALL, "points.count=6", f"out={tmp_path / 'killed'}"]
    process = start_forked(*overrides, cwd=tmp_path, said=tmp_path / "said")
    deadline = time.monotonic() + 90
    while len(list((tmp_path / "killed").glob("*/evidence/center.tv-v1/[0-9]*.npz"))) < 2:
        assert process.is_alive(), (tmp_path / "said").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.join()
    finished = len(list((tmp_path / "killed").glob("*/evidence/center.tv-v1/[0-9]*.npz")))
    assert finished < 6, "the run was over before it could be killed"

    killed = rows_without_seconds(run_small("points.count=6", f"out={tmp_path / 'killed'}").folder)
    whole = rows_without_seconds(run_small("points.count=6", f"out={tmp_path / 'whole'}").folder)
    assert killed == whole
    assert sorted({int(row["point"]) for row in killed}) == list(range(6))


def test_answers_are_kept_for_audits(done, tmp_path):
    with np.load(only_cell(tmp_path / "runs") / "answers.npz") as arrays:
        assert arrays["center.tv.points"].tolist() == [0, 1]
        assert arrays["center.tv"].shape == arrays["center.tv.base"].shape == (2, 1, 8, 8)


def test_a_point_that_fails_is_a_row_and_is_tried_again(run_small, tmp_path, monkeypatch, figures):
    from centersmooth import ModelError
    from csrun.cells import certify

    gather = certify.gather

    def failing(sampler, metrics, budget, x, stream, **options):
        if stream.point == 1:
            raise ModelError("the model returned NaN")
        return gather(sampler, metrics, budget, x, stream, **options)

    monkeypatch.setattr(certify, "gather", failing)
    result = run_small()
    rows = rows_without_seconds(result.folder)
    assert result.failed == 1
    assert [row["outcome"] for row in rows if row["point"] == "1"] == ["failed"] * 3
    assert all(row["reason"] == "the model returned NaN" for row in rows if row["point"] == "1")
    monkeypatch.setattr(certify, "gather", gather)
    assert run_small().failed == 0
    assert "failed" not in {row["outcome"] for row in rows_without_seconds(result.folder)}


def test_a_point_that_fails_for_one_certifier_has_the_rows_of_the_others_once(run_small, monkeypatch):
    from csrun.cells.certify import PointCertifier, PointResult

    certify = PointCertifier.certify

    def failing(self, point, *rest) -> PointResult:
        result = certify(self, point, *rest)
        if point.index != 1:
            return result
        kept = {key: evidence for key, evidence in result.evidence.items() if key != "center.l2"}
        return replace(result, evidence=kept, failures={"center.l2": "a distance is NaN"})

    monkeypatch.setattr(PointCertifier, "certify", failing)
    result = run_small("metrics=[tv,l2]")
    rows = [row for row in rows_without_seconds(result.folder) if row["point"] == "1"]
    assert sorted((row["metric"], row["outcome"]) for row in rows) == [("l2", "failed")] * 3 + [("tv", "certified")] * 3
    monkeypatch.undo()
    assert run_small("metrics=[tv,l2]").failed == 0


def test_rows_of_another_grid_stay_where_nothing_is_computed(run_small, done, tmp_path):
    wide, narrow = ("grid.eps=[0.4,0.5]", "grid.h=null", "grid.scale=[0.4]"), ("grid.eps=[0.4]", "grid.h=[1]")
    run_small(*wide)
    table = only_cell(tmp_path / "runs") / "certificates.csv"
    both = table.read_bytes()
    run_small(*narrow)
    assert table.read_bytes() == both


def test_a_noise_level_no_rule_can_serve_is_left_out_before_any_work(run_small, tmp_path):
    folder = run_small("grid.eps=[0.2]", "grid.h=[1,3]").folder
    assert {row["h"] for row in rows_without_seconds(folder)} == {"1.0"}
    assert len(list((tmp_path / "runs").glob("autoencoder-digits-*"))) == 1


def test_evidence_survives_the_store_to_the_last_digit(run_small, tmp_path):
    """Rows are derived from what was read back: the three rules of each point, and nothing is rounded on the way."""
    first = rows_without_seconds(run_small("metrics=[tv,l2]").folder)
    again = rows_without_seconds(run_small("metrics=[tv,l2]").folder)
    assert first == again
    rules = [row["rule"] for row in first if row["point"] == "0" and row["metric"] == "l2"]
    assert rules == ["paper", "exact", "measured"]
    with np.load(only_cell(tmp_path / "runs") / "evidence" / "center.tv-v1" / "00000.npz") as arrays:
        assert arrays["candidates.values"].dtype == np.float32
        assert arrays["candidates.values"].nbytes <= 50_000
        assert (np.diff(arrays["candidates.values"], axis=0) >= 0).all()
        assert (np.diff(arrays["candidates.values"], axis=1) >= 0).all()


def test_a_measured_rule_can_lead(run_small, done):
    """``rule=measured``: the same cells, the same rows, another rule drawn."""
    before = rows_without_seconds(done)
    ours = run_small("rule=measured").folder
    assert rows_without_seconds(ours) == before
    assert json.loads((ours / "manifest.json").read_text())["rule"] == {"certifier": "center", "rule": "measured"}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            ["rule=measurd"],
            "rule is 'measurd': expected one of paper, exact, measured, enumerated for the certifier center, or null;",
        ),
        (["certifiers=[center_free,center]", "rule=exact"], "rule is 'exact': expected measured for the certifier"),
    ],
)
def test_a_rule_that_the_first_certifier_does_not_have_is_refused(run_small, tmp_path, request_, said):
    with pytest.raises(RunError, match=f"^{said}"):
        run_small(*request_)
    assert not (tmp_path / "runs").exists()
