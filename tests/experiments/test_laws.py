"""The noise of a request: its law and what the law has are checked before any work, and rows say which it was."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console
from support import SMALL, compose

from centersmooth import GaussianNoise, LaplaceNoise, RequestError, UniformNoise
from csrun import registry
from csrun.errors import RunError
from csrun.noise import noise_label, noise_of
from csrun.plan import make_plan
from csrun.registry import NOISES, NoiseEntry
from csrun.report.plots import layout_of
from csrun.report.tables import read_manifest, read_rows, render, summarise


def test_rows_and_manifest_say_which_noise_it_was(run_small):
    folder = run_small().folder
    rows, manifest = read_rows(folder), read_manifest(folder)
    assert set(rows["noise"]) == {"gaussian"}
    assert set(rows["threat"]) == {"l2"}
    assert set(rows["scale"]) == {0.4}
    assert set(rows["train"]) == {"augment@0.4"}
    assert manifest["noise"] == {"name": "gaussian"}
    (cell,) = manifest["cells"]
    assert (cell["noise"], cell["scale"], cell["train"]) == ({"name": "gaussian"}, 0.4, "augment@0.4")


class Widened(GaussianNoise):
    """Gaussian noise of ``factor`` times the scale: a law with a parameter, whose certificates are known."""

    def __init__(self, scale, factor=1):
        super().__init__(scale * factor)
        object.__setattr__(self, "factor", factor)

    @property
    def scale(self):
        return self.sigma / self.factor


def test_a_law_with_a_parameter_certifies_and_trains_by_it(run_small, monkeypatch, tmp_path):
    """A law is registered by one line; another parameter is another cell and another checkpoint."""
    monkeypatch.setitem(registry.NOISES, "widened", NoiseEntry(f"{__name__}:Widened", "for tests", threat="l2"))
    plain = read_rows(run_small().folder)
    widened = ("noise.name=widened", "~noise.p", "grid.h=null", "grid.scale=[0.2]")
    rows = read_rows(run_small(*widened, "+noise.factor=2").folder)
    assert set(rows["noise"]) == {"widened[factor=2]"}
    assert set(rows["scale"]) == {0.2}
    assert set(rows["h"]) == {2.0}
    assert set(rows["train"]) == {"augment@0.2"}
    assert rows["outcome"].tolist() == plain["outcome"].tolist()
    assert rows["radius"].equals(plain["radius"])
    narrow = read_rows(run_small(*widened, "+noise.factor=2.5").folder)
    assert not narrow["radius"].equals(plain["radius"])
    assert len(list((tmp_path / "runs").glob("autoencoder-digits-s0.2-*"))) == 2
    assert len(list((tmp_path / "runs" / "checkpoints").glob("*-s0.2-*.safetensors"))) == 2


class Uneven(GaussianNoise):
    """Gaussian noise under which a perturbation of a bright input counts twice: a bound for each input."""

    local = True
    by_size = False

    def __init__(self, scale, factor=None):
        super().__init__(scale)
        object.__setattr__(self, "factor", factor)

    def at(self, x):
        return Uneven(self.sigma, 2.0 if float(x.mean()) > 0.282 else 1.0)

    def shift(self, eps):
        if self.factor is None:
            raise RequestError("the bound depends on the input")
        return self.factor * super().shift(eps)


def test_a_bound_that_depends_on_the_input_is_that_of_each_point(run_small, monkeypatch):
    """Rows of bright points at eps are those of Gaussian noise at 2 eps, also when they are built anew."""
    monkeypatch.setitem(registry.NOISES, "uneven", NoiseEntry(f"{__name__}:Uneven", "for tests", threat="l2"))
    scale = ("train=none", "points.count=4", "grid.h=null", "grid.scale=[0.4]", "n=500", "m=600")
    plain = read_rows(run_small(*scale, "grid.eps=[0.2,0.4]").folder)
    radii = plain.set_index(["point", "rule", "eps"])["radius"]
    uneven = (*scale, "noise.name=uneven", "~noise.p", "grid.eps=[0.2]")
    data = make_plan(compose(*SMALL, *uneven)).data
    bright = (data.images(data.test, range(4)).mean(dim=(1, 2, 3)) > 0.282).tolist()
    assert set(bright) == {True, False}
    attacked = (*uneven, "attack=search", "attacker.steps=1", "attacker.restarts=1", "attacker.runs=1")
    for request in (uneven, attacked):
        for row in read_rows(run_small(*request).folder).itertuples():
            assert row.radius == radii[row.point, row.rule, 0.4 if bright[row.point] else 0.2]


def test_a_bound_of_one_image_decides_nothing_for_all_points(monkeypatch):
    """Nor is it computed before any work: that of a rotated face takes seconds."""
    from centersmooth.noise import RotationNoise

    def shift(self, eps):
        raise AssertionError

    monkeypatch.setattr(RotationNoise, "shift", shift)
    plan = make_plan(compose(*SMALL, "noise=rotation", "grid.h=null", "grid.scale=[1]", "grid.eps=[90]"))
    assert [cell.scale for cell in plan.cells] == [1.0]


@pytest.mark.parametrize("name", NOISES)
def test_every_law_is_a_file_of_the_configuration(name):
    config = compose(*SMALL, f"noise={name}", "grid.h=null", "grid.scale=[2]")
    assert config.noise["name"] == name
    assert noise_of(config.noise, 2).scale == 2


def test_a_law_that_does_not_exist_is_refused():
    with pytest.raises(RunError, match=r"noise is 'gausian': expected .*; did you mean gaussian\?"):
        compose(*SMALL, "noise.name=gausian")


@pytest.mark.parametrize(
    ("asked", "law", "label"),
    [
        (["noise=gaussian"], GaussianNoise(0.4), "gaussian"),
        (["noise=gaussian", "noise.p=2.0"], GaussianNoise(0.4), "gaussian"),
        (["noise=gaussian", "noise.p=1"], GaussianNoise(0.4, p=1), "gaussian[p=1]"),
        (["noise=gaussian", "noise.p=inf"], GaussianNoise(0.4, p=math.inf), "gaussian[p=inf]"),
        (["noise=laplace"], LaplaceNoise(0.4), "laplace"),
        (["noise=uniform", "noise.p=1"], UniformNoise(0.4), "uniform"),
        (["noise=uniform", "noise.p=inf"], UniformNoise(0.4, p=math.inf), "uniform[p=inf]"),
    ],
)
def test_a_parameter_that_is_the_default_is_as_if_it_were_not_set(asked, law, label):
    """The same cell, and the same name in rows; infinity is one that JSON has."""
    config = compose(*SMALL, *asked)
    assert noise_of(config.noise, 0.4) == law
    assert noise_label(config.noise) == label
    assert json.loads(json.dumps(config.noise, allow_nan=False)) == config.noise


def test_a_run_under_laplace_noise_says_l1(run_small, figures):
    """From training to figure, with the exact bound of the law; a mean is refused in one line."""
    folder = run_small("noise=laplace", "attack=search", "attacker.steps=5", "attacker.runs=1").folder
    rows, manifest = read_rows(folder), read_manifest(folder)
    assert set(rows["noise"]) == {"laplace"}
    assert set(rows["threat"]) == {manifest["threat"]} == {"l1"}
    assert set(rows["train"]) == {"augment@0.4"}
    assert set(rows["outcome"]) == {"certified"}
    assert manifest["baselines"] == []
    assert layout_of(manifest, "l1").xlabel == "perturbation ε (l1)"
    table = io.StringIO()
    Console(file=table, width=100).print(*render(summarise(rows), manifest))
    assert "eps in l1" in table.getvalue()
    assert list(folder.glob("radius_tv.png"))
    with pytest.raises(
        RunError, match=r"^certifiers has mean, .*: noise is LaplaceNoise\(scale=0.4\): .* needs Gaussian noise$"
    ):
        run_small("noise=laplace", "certifier=mean")


def test_runs_under_rotation_and_scaling_have_a_bound_for_each_image(run_small):
    """From training to attack, on its own unit; means are certified under rotation and refused under scaling."""
    for name, eps, unit in (("rotation", 5, "degrees"), ("scaling", 0.02, "log factor")):
        law = (f"noise={name}", "noise.pixels=1", "grid.h=null", f"grid.scale=[{2 * eps}]", f"grid.eps=[{eps}]")
        rows = read_rows(run_small(*law, "attack=search", "attacker.steps=5", "attacker.runs=1").folder)
        assert set(rows["noise"]) == {f"{name}[pixels=1]"}
        assert set(rows["threat"]) == {unit}
        assert {"certified"} <= set(rows["outcome"]) <= {"certified", "bad_center"}
        if name == "rotation":
            assert set(read_rows(run_small(*law, "metric=l2", "certifier=mean").folder)["outcome"]) == {"certified"}
        else:
            with pytest.raises(RunError, match=r"noise is ScalingNoise\(.*\): .* needs Gaussian noise$"):
                run_small(*law, "metric=l2", "certifier=mean")


def test_the_largest_change_of_a_pixel_is_certified_for_the_size_of_the_image(run_small):
    """l_inf at eps on 64 pixels is l2 at 8 eps; the same once more, from the evidence alone."""
    sizes = ("train=none", "grid.h=null", "grid.scale=[0.4]")
    l2 = read_rows(run_small(*sizes, "grid.eps=[0.4]").folder)
    for _ in range(2):
        l_inf = read_rows(run_small(*sizes, "grid.eps=[0.05]", "noise=gaussian", "noise.p=inf").folder)
        assert set(l_inf["threat"]) == {"l_inf"}
        assert l_inf["outcome"].tolist() == l2["outcome"].tolist()
        assert l_inf["radius"].tolist() == l2["radius"].tolist()


def test_the_lines_of_the_paper_are_drawn_beside_its_own_noise_only(run_small):
    """Figure 6's bounds of a mean are about Gaussian noise against l2."""
    for noise, drawn in (("gaussian", True), ("laplace", False)):
        folder = run_small("metrics=[l2]", "train=none", f"noise={noise}").folder
        assert bool(read_manifest(folder)["baselines"]) == drawn


def test_what_the_law_does_not_have_is_refused():
    with pytest.raises(RunError, match=r"^noise has unknown: gaussian noise has no such parameter$"):
        make_plan(compose(*SMALL, "+noise.unknown=1"))


def test_a_grid_in_h_needs_a_law_whose_certificates_depend_on_h_alone(monkeypatch):
    law = replace(registry.NOISES["gaussian"], ratio=False)
    monkeypatch.setitem(registry.NOISES, "gaussian", law)
    with pytest.raises(RunError, match=r"^grid\.h is set, and gaussian noise has no ratio .*: expected grid\.scale$"):
        compose(*SMALL)
    (cell,) = make_plan(compose(*SMALL, "grid.h=null", "grid.scale=[0.5]")).cells
    assert (cell.scale, [pair.h for pair in cell.pairs]) == (0.5, [0.8])
