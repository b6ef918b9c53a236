"""Ablation and splitting noise in `cs-run`: models that take the mask, rows of the rule ``enumerated``."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from support import SMALL, ask, compose

from centersmooth import L1, Budget, Center, PatchNoise, Smoother, SplittingNoise, TotalVariation
from csrun.cells.certify import Point, PointCertifier
from csrun.cells.run import obtain_model
from csrun.errors import RunError
from csrun.models import Custom
from csrun.plan import make_plan
from csrun.report.tables import read_rows
from csrun.system.progress import Display

PATCH = ("noise=patch", "grid.scale=[2]", "grid.eps=[1]", "train.images=50")


@pytest.fixture
def patch_rows(run_small):
    return read_rows(run_small(*PATCH).folder)


def test_rows_of_the_rule_enumerated_stand_beside_those_of_draws(run_small, patch_rows):
    """They have no counts and no alpha, and other counts give the same radii; those of draws are others then."""
    assert set(patch_rows["rule"]) == {"paper", "exact", "measured", "enumerated"}
    assert set(patch_rows["threat"]) == {"patch side"}
    assert set(patch_rows["train"]) == {"augment@2.0"}
    rows = patch_rows[patch_rows["rule"] == "enumerated"]
    assert set(rows["certifier"]) == {"center"}
    assert set(rows["outcome"]) == {"certified"}
    assert rows[["n", "m", "delta"]].isna().all().all()
    assert (rows[["alpha", "alpha1", "alpha2"]] == 0).all().all()
    other = read_rows(run_small(*PATCH, "n=1100", "m=1200", "rule=enumerated").folder)
    for rule, same in (("enumerated", True), ("exact", False)):
        radii = [table[table["rule"] == rule]["radius"].tolist() for table in (patch_rows, other)]
        assert (radii[0] == radii[1]) is same


def test_the_rule_enumerated_leads_where_it_is_asked_for(tmp_path):
    request = (*SMALL, *PATCH, "rule=enumerated", "points.count=1", "attack=search", "attacker.steps=2")
    said = ask(*request, "attacker.restarts=1", "attacker.runs=1", f"out={tmp_path}", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "enumerated" in said.stdout
    assert "unit of eps and scale: patch side" in said.stdout
    attacks = (tmp_path / "tv_digits" / "attack.csv").read_text().splitlines()
    header, *lines = (line.split(",") for line in attacks)
    attacked = [dict(zip(header, line, strict=True)) for line in lines]
    assert {row["rule"] for row in attacked} >= {"enumerated", "exact"}
    assert all(float(row["alpha1"]) == 0 for row in attacked if row["rule"] == "enumerated")
    assert sum(int(row["beyond"]) for row in attacked) == 0


def test_rows_are_certificates_of_the_library(run_small, patch_rows):
    """By the cell's model, with its blocks."""
    plan = make_plan(compose(*SMALL, *PATCH, f"out={run_small(*PATCH).folder.parent}"))
    model, _ = obtain_model(plan, plan.cells[0], Display(Console(file=io.StringIO())))
    smoother = Smoother(model, PatchNoise(2), Center(TotalVariation()), rule="enumerated", output_range=(0.0, 1.0))
    radii = [smoother.certify(plan.input(model, point), 1).radius for point in plan.points]
    rows = patch_rows[patch_rows["rule"] == "enumerated"]
    assert rows["radius"].tolist() == radii


def test_an_input_that_the_law_does_not_take_fails_its_point_alone():
    certifiers = {"center.l1": Center(L1())}
    cell = PointCertifier(Custom(torch.tanh), certifiers, Budget.quick(), SplittingNoise(0.5), 0, 8, 8, None)
    fine, off = (
        cell.certify(Point(i, "", torch.full((2,), value), tuple(certifiers)), lambda done: None, print)
        for i, value in enumerate((1.0, 2.0))
    )
    assert (set(fine.evidence), fine.failures) == ({"center.l1"}, {})
    assert off.failures == {"center.l1": "x has numbers from 2 to 2: expected [0, 1], as splitting noise does"}


@pytest.mark.parametrize(
    "request_",
    [
        ("noise=ablation", "grid.scale=[10]", "grid.eps=[1]", "train=none"),
        ("noise=splitting", "grid.h=null", "grid.scale=[0.5]", "grid.eps=[0.1]"),
    ],
    ids=lambda request_: request_[0],
)
def test_other_laws_have_rows_of_draws_only(run_small, request_):
    """A model trained without noise takes the mask of ablation as well."""
    rows = read_rows(run_small(*request_, "train.images=50", "points.count=1").folder)
    assert set(rows["rule"]) == {"paper", "exact", "measured"}
    assert set(rows[rows["rule"] == "measured"]["outcome"]) == {"certified"}
    assert set(rows["train"]) == {"none" if "train=none" in request_ else "augment@0.5"}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (("rule=enumerated",), r"rule is 'enumerated', but GaussianNoise\(sigma=0.4\) has no list of all noisy inputs"),
        (("noise=patch", "grid.h=[1]"), r"grid\.h is set, and patch noise has no ratio"),
        (("noise=ablation", "grid.scale=[2.5]"), r"keep is 2.5: expected a whole number of pixels"),
        (("noise=patch", "grid.scale=[2]", "models=[reconstructor]"), r"x has shape \(256,\): expected an image"),
        (
            ("noise=splitting_8bit", "grid.scale=[0.5]", "grid.eps=[0.05]"),
            r"x has a number 0.0\d+ away from every k/255: expected an 8-bit image",
        ),
        (
            ("noise=patch", "grid.scale=[4]", "grid.eps=[6,7]"),
            r"no certificate is possible: m = .* are too few for eps = 6",
        ),
        (
            ("noise=patch", "grid.scale=[4]", "grid.eps=[6]", "rule=enumerated"),
            r"no certificate is possible: eps = 6 changes 64 of 64 noisy inputs",
        ),
        (
            ("noise=gaussian", "noise.p=inf", "grid.h=null", "grid.scale=[0.1]", "grid.eps=[0.2]"),
            r"no certificate is possible: m = .* are too few for eps = 0.2",
        ),
        (
            ("noise=translation", "grid.h=null", "grid.scale=[2]", "grid.eps=[1]", "attack=pgd"),
            r"attack is 'pgd', and Transformed\(Translation\(\), .* passes no gradient .*: use attack=search",
        ),
    ],
)
def test_what_a_law_cannot_serve_is_refused_in_a_line(request_, words, tmp_path):
    said = ask(*SMALL, "train.images=50", *request_, f"out={tmp_path}", cwd=tmp_path)
    assert said.returncode == 2
    assert len(said.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.safetensors"))  # before any training
    with pytest.raises(RunError, match=words):
        raise RunError(said.stderr)


def test_scales_at_which_the_size_of_the_input_allows_no_certificate_are_left_out():
    """Of 64 pixels a block of side 6 meets a patch of side 3 in every position, one of side 2 in 16."""
    plan = make_plan(compose(*SMALL, "noise=patch", "grid.scale=[2,6]", "grid.eps=[3]"))
    assert [cell.scale for cell in plan.cells] == [2.0]
    assert len(plan.skipped) == 1
    assert plan.skipped[0].startswith("scale 6 left out: eps = 3 changes 64 of 64 noisy inputs")
