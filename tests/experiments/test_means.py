"""Smoothing by expectation in a run: rows beside the center's, kept, resumed, attacked; nothing else changes by it."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
from rich.console import Console
from running import run_in
from support import SMALL, compose

from centersmooth import ModelError
from centersmooth.certifiers import mean
from csrun.errors import RunError
from csrun.plan import make_plan
from csrun.report.tables import ATTACK_FILE, MEAN_RULE, of_rule, read_manifest, read_rows, render, summarise
from csrun.runner import _units, dry_run
from csrun.system.progress import Display

MEAN = "certifiers=[center,mean]"
QUICK = ("attack=pgd", "attacker.steps=3", "attacker.restarts=1", "attacker.draws=8", "attacker.runs=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of runs with a center and a mean of each point."""
    return run_in(tmp_path_factory.mktemp("made"), MEAN, figures=False).folder.parent


@pytest.fixture
def kept(made, tmp_path):
    """A copy of these runs, where `run_small` finds them done."""
    shutil.copytree(made, tmp_path / "runs")


def of_kind(folder, kind):
    rows = read_rows(folder).drop(columns="seconds")
    return rows[rows["certifier"] == kind].reset_index(drop=True)


def files_of(folder, kind):
    return {path.name: path.read_bytes() for path in folder.glob(f"*-s*/evidence/{kind}/*")}


def test_rows_of_the_mean_stand_beside_those_of_the_center(run_small, tmp_path, figures):
    folder = run_small(MEAN, "metrics=[tv,l2,angular]").folder
    plain = run_in(tmp_path / "plain", "metrics=[tv,l2,angular]", figures=False).folder
    assert of_kind(folder, "center").equals(of_kind(plain, "center"))
    assert of_kind(plain, "mean").empty
    rows = of_kind(folder, "mean")
    assert set(rows["metric"]) == {"tv", "l2"}
    assert set(rows["outcome"]) == {"certified"}
    assert rows[["r_center", "r_hat", "r_far", "beta"]].isna().all(axis=None)
    spectral, local, everywhere = (of_rule(rows, MEAN_RULE | {"rule": r}) for r in ("spectral", "local", "global"))
    assert len(spectral) == len(local) == len(everywhere) == 2 * 2
    assert (local["radius"].to_numpy() <= everywhere["radius"].to_numpy()).all()
    names = [json.loads((path / "manifest.json").read_text())["cells"][0]["folder"] for path in (folder, plain)]
    assert names[0] == names[1]


def test_the_mean_may_be_asked_for_alone(kept, run_small, tmp_path):
    """Then its sharpest rule leads, and no center is looked for."""
    beside, alone = run_small(MEAN).folder, run_small("certifier=mean", f"out={tmp_path / 'alone'}").folder
    rows = of_kind(alone, "mean")
    assert len(rows) == len(read_rows(alone)) == 2 * 3
    assert rows.equals(of_kind(beside, "mean"))
    assert read_manifest(alone)["rule"] == MEAN_RULE
    assert not list((tmp_path / "alone").glob("*-s*/evidence/center*"))
    other = run_small("certifiers=[mean,center]", "rule=global").folder
    assert read_manifest(other)["rule"] == {"certifier": "mean", "rule": "global"}


def test_the_mean_is_added_to_a_cell_and_done_once(run_small, tmp_path, monkeypatch):
    folder = run_small().folder
    centers = files_of(tmp_path / "runs", "center.tv-v1")
    run_small(MEAN)
    means = files_of(tmp_path / "runs", "mean.tv-v2")
    assert len(means) == 2
    assert files_of(tmp_path / "runs", "center.tv-v1") == centers
    with monkeypatch.context() as patch:
        patch.setattr("csrun.cells.certify.gather", None)
        run_small(MEAN)
        assert len(of_kind(folder, "mean")) == 2 * 3
        run_small()
        assert of_kind(folder, "mean").empty
    assert files_of(tmp_path / "runs", "mean.tv-v2") == means


def test_damaged_evidence_is_made_again(kept, run_small, tmp_path):
    folder = run_small(MEAN).folder
    before = of_kind(folder, "mean")
    path = next((tmp_path / "runs").glob("*-s*/evidence/mean.tv-v2/*.npz"))
    path.write_bytes(path.read_bytes()[:200])
    run_small(MEAN)
    run_small(MEAN)
    assert of_kind(folder, "mean").equals(before)


def test_batches_change_no_row(kept, run_small, tmp_path):
    folder = run_small(MEAN).folder
    other = run_small(MEAN, "batch_size=128", f"out={tmp_path / 'other'}").folder
    assert of_kind(other, "mean").equals(of_kind(folder, "mean"))


def test_the_mean_is_attacked_like_the_center(kept, run_small, tmp_path):
    folder = run_small(*QUICK, MEAN).folder
    with (folder / ATTACK_FILE).open(newline="") as file:
        lines = list(csv.DictReader(file))
    means = [line for line in lines if line["certifier"] == "mean"]
    assert len(means) == 2 * 3
    assert all(line["abstained"] == line["beyond"] == "0" and float(line["movement"]) > 0 for line in means)
    plain = run_small(*QUICK, f"out={tmp_path / 'plain'}")
    centers, alone = ({path.name for path in (tmp_path / out).glob("*-s*/attacks/*")} for out in ("runs", "plain"))
    assert alone < centers
    assert plain.broken == []


def test_a_wrong_certificate_of_the_mean_fails_the_run(run_small, monkeypatch):
    monkeypatch.setattr(mean, "estimation_error", lambda *rest: 0.0)
    monkeypatch.setattr(mean, "spectral_movement", lambda *rest: 0.0)
    options = (MEAN, "alpha1=1e-6", "alpha2=1e-6", "n=1600", "m=2000", "delta=0.2")
    broken = run_small(*QUICK, *options).broken
    assert any("certifier mean" in line and "rule spectral" in line for line in broken)
    assert not any("certifier center" in line for line in broken)


def test_the_end_table_and_the_estimate_count_it(kept, run_small):
    folder = run_small(MEAN).folder
    screen = io.StringIO()
    manifest = json.loads((folder / "manifest.json").read_text())
    Console(file=screen, width=200).print(*render(summarise(read_rows(folder)), manifest))
    assert "spectral" in screen.getvalue()
    screen = io.StringIO()
    dry_run(compose(*SMALL, MEAN), Display(Console(file=screen, width=300)))
    assert f"{2 * (1 + 384 + 384):,} forward passes" in screen.getvalue()
    assert _units(make_plan(compose(*SMALL, MEAN))) == _units(make_plan(compose(*SMALL)))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["certifiers=[]"], r"certifiers is empty: expected at least one name, or certifier="),
        (["certifiers=[center,median]"], r"certifiers has 'median': expected one of center, .*; did you mean mean"),
        (["certifier=mean", "rule=paper"], r"rule is 'paper': expected global, local or spectral for"),
        (
            [MEAN, "rule=local"],
            r"rule is 'local': expected one of paper, exact, measured, enumerated for the certifier center",
        ),
    ],
)
def test_a_wrong_request_is_one_line(overrides, expected):
    with pytest.raises(RunError, match=expected) as error:
        compose(*SMALL, *overrides)
    assert "\n" not in str(error.value)


def test_metrics_without_a_mean_are_refused_before_any_point(run_small, tmp_path):
    with pytest.raises(RunError, match="certifiers has mean, which cannot be served: Angular has no mean"):
        run_small(MEAN, "metrics=[angular]")
    assert not list((tmp_path / "runs").glob("*/evidence/center.tv-v1/*"))


def test_a_metric_that_only_claims_to_be_a_seminorm_is_refused(run_small, tmp_path, monkeypatch):
    code = (
        "from centersmooth import L1\n\nclass Bent(L1):\n    def features(self, o): return super().features(o) ** 2\n"
    )
    (tmp_path / "bent_metric.py").write_text(code + "\ndef metric():\n    return Bent()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="not affine in the output"):
        run_small(MEAN, "metrics=[bent_metric:metric]")
    assert not list((tmp_path / "runs").glob("*/evidence/center.tv-v1/*"))
