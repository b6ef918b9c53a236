"""Every experiment file composes under every budget, is feasible, and runs at ``smoke`` where its data is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from support import compose

from centersmooth import Budget, GaussianNoise
from centersmooth.bounds import EXACT
from centersmooth.rules import center_problem, radius_problem
from centersmooth_experiments.cli import experiments
from centersmooth_experiments.config import grid_pairs
from centersmooth_experiments.progress import Display
from centersmooth_experiments.runner import run
from centersmooth_experiments.tables import read_rows


@pytest.mark.parametrize("budget", ["paper", "cpu", "smoke"])
@pytest.mark.parametrize("name", experiments())
def test_composes_and_is_feasible_under_exact_bounds(name, budget):
    own = ["model=package.module:factory"] if name == "custom" else []
    config = compose(f"experiment={name}", f"budget={budget}", *own)
    assert config.name == name
    counts = Budget(config.n, config.m, config.delta, config.alpha1, config.alpha2, config.n0)
    assert not center_problem(counts, EXACT)
    for pair in grid_pairs(config.grid):
        assert not radius_problem(counts, GaussianNoise(pair.sigma), pair.eps, EXACT)


def test_the_command_line_wins_over_the_budget():
    config = compose("budget=smoke", "n=500", "train.epochs=7")
    assert (config.n, config.train.epochs, config.points.count) == (500, 7, 3)


@pytest.mark.slow
def test_tv_mnist_at_smoke_on_the_real_files(tmp_path, data_folder):
    config = compose(
        "experiment=tv_mnist", "budget=smoke", "grid.eps=[0.4]", f"data.path={data_folder}", f"out={tmp_path}"
    )
    result = run(config, Display(Console(file=io.StringIO())), "cs-run (test)")
    rows = read_rows(result.folder)
    assert set(rows["model"]) == {"autoencoder", "reconstructor"}
    assert result.failed == 0
    assert len(rows) == 2 * 2 * 2 * 2  # models, noise levels, points, bounds
    certified = rows[rows["outcome"] == "certified"]
    assert len(certified) >= len(rows) // 2
    assert (certified["certified"] > certified["error"]).mean() > 0.9


def run_real(name: str, data_folder, out, *overrides: str):
    """One point of an experiment at ``smoke``, at one noise level; its rows."""
    places = [f"data.path={data_folder}"] if name != "lpips_dcgan" else []
    config = compose(f"experiment={name}", "budget=smoke", "grid.h=[1]", f"out={out}", *places, *overrides)
    result = run(config, Display(Console(file=io.StringIO())), "cs-run (test)")
    assert result.failed == 0
    return read_rows(result.folder)


@pytest.mark.slow
def test_jaccard_celeba_at_smoke_on_a_real_face(tmp_path, data_folder):
    pytest.importorskip("facenet_pytorch", reason="pip install 'centersmooth[faces]'")
    rows = run_real("jaccard_celeba", data_folder, tmp_path, "grid.eps=[0.1]", "m=700")
    assert set(rows["metric"]) == {"jaccard"}
    assert set(rows["outcome"]) == {"certified"}
    assert rows["certified"].between(0, 1).all()
    assert rows["source"].str.endswith(".jpg").all()


@pytest.mark.slow
def test_lpips_dcgan_at_smoke_with_the_real_weights(tmp_path, data_folder):
    pytest.importorskip("lpips", reason="pip install 'centersmooth[lpips]'")
    rows = run_real("lpips_dcgan", data_folder, tmp_path, "grid.eps=[0.03]")
    assert set(rows["outcome"]) == {"certified"}
    paper, exact = (rows[rows["bounds"] == bounds].iloc[0] for bounds in ("paper", "exact"))
    assert paper["certified"] == pytest.approx(10 * paper["r_hat"])
    assert exact["certified"] == pytest.approx(9 * exact["r_hat"])
    assert exact["alpha"] > 0.01  # what missing all candidates may cost comes on top


@pytest.mark.slow
def test_tv_cifar10_at_smoke_on_the_real_files(tmp_path, data_folder):
    rows = run_real("tv_cifar10", data_folder, tmp_path, "grid.eps=[0.4]", "models=[reconstructor]")
    assert (rows["outcome"] == "certified").any()
