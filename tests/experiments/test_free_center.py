"""Free centers in a run: beside the rules of the sample, from one pass, and never in their way."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from running import run_in
from support import compose

from centersmooth import DistanceFunction
from csrun import plan
from csrun.errors import RunError
from csrun.plan import make_plan
from csrun.report.tables import FREE_RULE, PAPER_RULE, RULE, read_attacks, read_manifest, read_rows
from csrun.runner import _units

FREE = ("certifiers=[center_free,center]", "metrics=[tv,l2]")
QUICK = ("attack=pgd", "attacker.steps=3", "attacker.restarts=1", "attacker.draws=8", "attacker.runs=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of runs with both kinds of centers of each point."""
    return run_in(tmp_path_factory.mktemp("made"), *FREE, figures=False).folder.parent


@pytest.fixture
def kept(made, tmp_path):
    """A copy of these runs, where `run_small` finds them done."""
    shutil.copytree(made, tmp_path / "runs")


def rows_of(folder):
    return read_rows(folder).drop(columns=["seconds", "cell"])


def test_rows_stand_beside_those_of_the_sample_which_do_not_change(run_small, tmp_path):
    plain = rows_of(run_small("metrics=[tv,l2]").folder)
    result = run_small(*FREE)
    both = rows_of(result.folder)
    free = both[both["certifier"] == "center_free"]
    assert both[both["certifier"] == "center"].reset_index(drop=True).equals(plain)
    assert set(free[list(RULE)].itertuples(index=False, name=None)) == {("center_free", "measured")}
    assert len(free) == len(plain) / 3
    assert read_manifest(result.folder)["rule"] == FREE_RULE
    measured = plain[plain["rule"] == "measured"]
    assert (free["r_center"].to_numpy() < measured["r_center"].to_numpy()).all()
    assert len(list((tmp_path / "runs").glob("autoencoder-digits-*"))) == 1
    assert rows_of(run_small("metrics=[tv,l2]").folder).equals(plain)


def test_what_is_kept_gives_the_same_rows_again(kept, run_small, tmp_path):
    first = rows_of(run_small(*FREE).folder)
    table = next((tmp_path / "runs").glob("autoencoder-*/certificates.csv"))
    before = table.read_bytes()
    assert rows_of(run_small(*FREE, "batch_size=7").folder).equals(first)
    assert table.read_bytes() == before


def test_the_first_certifier_leads(run_small):
    folder = run_small("certifiers=[center,center_free]").folder
    assert read_manifest(folder)["rule"] == PAPER_RULE
    assert set(read_rows(folder)["certifier"]) == {"center", "center_free"}


def test_free_centers_may_be_asked_for_alone(kept, run_small, tmp_path):
    free = rows_of(run_small(*FREE).folder)
    alone = run_small("certifier=center_free", "metrics=[tv,l2]", f"out={tmp_path / 'alone'}").folder
    assert rows_of(alone).equals(free[free["certifier"] == "center_free"].reset_index(drop=True))
    assert read_manifest(alone)["rule"] == FREE_RULE


def test_panels_and_audits_have_the_free_center(kept, run_small, tmp_path, figures):
    folder = run_small(*FREE).folder
    with np.load(next((tmp_path / "runs").glob("autoencoder-*/answers.npz"))) as answers:
        free, sample = answers["center_free.tv"], answers["center.tv"]
    assert free.shape == sample.shape
    assert not np.array_equal(free, sample)
    with np.load(folder / "panel_autoencoder.npz") as panel:
        shown = panel["smoothed"].astype(float) / 255
    assert np.abs(shown - free.reshape(shown.shape)).max() < 0.01


def test_each_kind_of_center_is_attacked_by_itself(kept, run_small):
    config = [*FREE, *QUICK, "attacker.points=1"]
    found = read_attacks(run_small(*config).folder)
    attacked = found.drop_duplicates(["metric", "certifier", "movement"])
    assert set(attacked["certifier"]) == {"center", "center_free"}
    assert len(attacked) == 4
    plain = read_attacks(run_small(*QUICK, "attacker.points=1", "metrics=[tv,l2]").folder)
    centers = found[found["certifier"] == "center"]
    assert sorted(centers["movement"]) == sorted(plain["movement"])


def test_estimates_count_attacks_on_both_kinds():
    small = ["budget=smoke", "points.count=3", *QUICK, "metrics=[tv]", "rule=measured"]
    asked = ("center", "center_free,center", "center,center")
    sample, both, twice = (make_plan(compose(*small, f"certifiers=[{names}]")) for names in asked)
    assert both.attack_passes(both.cells[0]) == 2 * sample.attack_passes(sample.cells[0])
    assert _units(both) > _units(sample) == _units(twice)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["certifiers=[center_fre]"], "did you mean center_free?"),
        (
            ["certifiers=[center_free]", "rule=paper"],
            "rule is 'paper': expected measured for the certifier center_free",
        ),
        ([*FREE, "n0=30"], "certifiers has center_free, which cannot be served: .* expected n0=0"),
    ],
)
def test_what_has_no_free_centers_is_refused(overrides, expected):
    with pytest.raises(RunError, match=expected) as error:
        make_plan(compose(*overrides))
    assert "\n" not in str(error.value)


def test_a_distance_of_the_users_own_has_no_means(monkeypatch):
    own = DistanceFunction(lambda a, b: (a - b).abs().flatten(1).sum(dim=1))
    monkeypatch.setattr(plan, "build_metrics", lambda names, weights, device: dict.fromkeys(names, own))
    with pytest.raises(RunError, match="has no means of outputs"):
        make_plan(compose(*FREE))
