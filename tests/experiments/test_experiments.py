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
