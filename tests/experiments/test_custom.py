"""The worked example of docs/custom.md, and what a user's mistakes lead to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import CODE, SMALL

from csrun.report.tables import read_rows

PAGE = (Path(__file__).parents[2] / "docs" / "custom.md").read_text()
SMOKE = ["budget=smoke", "grid.eps=[0.25]", "workers=1"]


@pytest.fixture
def folder(tmp_path):
    (module,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    (tmp_path / "mine.py").write_text(module)
    subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, check=True)
    return tmp_path


def cs_run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, "experiment=custom", *SMOKE, *overrides]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_worked_example(folder):
    for metric in ("l2", "mine:largest_difference"):
        done = cs_run(folder, "model=mine:model", f"metric={metric}", "data.path=inputs.npy", "workers=2")
        assert done.returncode == 0, done.stderr
        rows = read_rows(folder / "runs" / "custom")
        assert set(rows["outcome"]) <= {"certified", "bad_center"}
        assert (rows["outcome"] == "certified").any()
        assert set(rows["metric"]) == {metric}


def test_a_changed_model_is_another_cell(folder):
    for source in (None, "torch.manual_seed(1)"):
        if source:
            path = folder / "mine.py"
            path.write_text(path.read_text().replace("torch.manual_seed(0)", source))
        assert cs_run(folder, "model=mine:model", "data.path=inputs.npy").returncode == 0
    assert len(list((folder / "runs").glob("mine.model-files-*"))) == 2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "models is empty"),
        (["model=mine:nothing"], "cannot be imported"),
        (["model=nothing:model"], "cannot be imported"),
        (["model=mine:model"], "data.path is not set"),
        (["model=mine:model", "data.path=mine.py"], "cannot be read"),
        (["model=mine:model", "metric=tv", "data.path=inputs.npy"], "expected images"),
        (["model=mine:model", "metric=nope", "data.path=inputs.npy"], "expected one of"),
        (["model=mine:model", "data.path=inputs.npy", "points.count=11"], "has 10"),
    ],
)
def test_a_mistake_is_one_line(folder, overrides, expected):
    environment = os.environ.pop("CENTERSMOOTH_DATA", None)
    try:
        done = cs_run(folder, *overrides)
    finally:
        if environment is not None:
            os.environ["CENTERSMOOTH_DATA"] = environment
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("what", ["metric", "state in an array"])
def test_no_old_result_for_a_changed_metric_or_for_state_outside_a_module(folder, what):
    (folder / "own.py").write_text(
        "import numpy as np, torch\n"
        "def model():\n"
        "    w = torch.from_numpy(np.load('w.npy'))\n"
        "    return lambda x: x @ w\n"
    )
    (folder / "dist.py").write_text("def d():\n    return lambda a, b: (a - b).abs().sum(1)\n")
    np.save(folder / "w.npy", np.ones((8, 2), dtype=np.float32))
    request = ["model=own:model", "metric=dist:d", "data.path=inputs.npy"]
    radii = []
    for change in (False, True):
        if change and what == "metric":
            (folder / "dist.py").write_text("def d():\n    return lambda a, b: 100 * (a - b).abs().sum(1)\n")
        elif change:
            np.save(folder / "w.npy", 100 * np.ones((8, 2), dtype=np.float32))
        assert cs_run(folder, *request).returncode == 0
        radii.append(read_rows(folder / "runs" / "custom")["r_center"].max())
    assert radii[1] == pytest.approx(100 * radii[0], rel=1e-4)


RANGED = """
import torch
from centersmooth import L1


class Model(torch.nn.Module):
    output_range = (0.0, 1.0)

    def forward(self, x):
        return torch.sigmoid(x[:, :3])


class Metric(L1):
    def means(self, groups):
        return super().means(groups)
"""


@pytest.mark.parametrize("change", [("(0.0, 1.0)", "(-9.0, 10.0)"), ("super().means(groups)", "groups.amax(1)")])
def test_no_old_evidence_for_a_changed_range_or_mean(folder, change):
    """What is kept of a mean rests on the declared range, and a free center on what a mean is."""
    request = ["model=ranged:Model", "metric=ranged:Metric", "data.path=inputs.npy", "points.count=1"]
    request += ["smoothing=[center,mean]", "center=free"]
    for source in (RANGED, RANGED.replace(*change)):
        (folder / "ranged.py").write_text(source)
        done = cs_run(folder, *request)
        assert done.returncode == 0, done.stderr
    cells = list((folder / "runs").glob("ranged.Model-files-*"))
    assert len(cells) == 2


@pytest.mark.parametrize("limits", ["'0..1'", "(0.0,)", "(1.0, 0.0)", "(float('nan'), 1.0)"])
def test_a_range_that_is_none_is_one_line(folder, limits):
    (folder / "ranged.py").write_text(RANGED.replace("(0.0, 1.0)", limits))
    done = cs_run(folder, "model=ranged:Model", "data.path=inputs.npy")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "expected two numbers (low, high), or None" in done.stderr


def test_a_model_outside_its_range_is_to_blame_and_not_the_metric(folder):
    (folder / "ranged.py").write_text(RANGED.replace("(0.0, 1.0)", "(0.0, 0.1)"))
    done = cs_run(folder, "model=ranged:Model", "data.path=inputs.npy", "smoothing=[center,mean]")
    assert done.returncode == 2
    assert "outside the declared output_range (0.0, 0.1)" in done.stderr


def test_an_own_metric_beside_those_of_a_registered_model(folder):
    (folder / "own.py").write_text("def largest():\n    return lambda a, b: (a - b).abs().flatten(1).amax(1)\n")
    command = [sys.executable, "-c", CODE, "metrics=[tv,own:largest]", *SMALL]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(read_rows(folder / "runs" / "tv_digits")["metric"]) == {"tv", "own:largest"}


def test_a_metric_that_is_none_is_refused_before_any_work(folder):
    (folder / "own.py").write_text("def squared():\n    return lambda a, b: (a - b).square().sum(1)\n")
    done = cs_run(folder, "model=mine:model", "metric=own:squared", "data.path=inputs.npy")
    assert done.returncode == 2
    assert "the triangle inequality fails" in done.stderr
    assert not list((folder / "runs").rglob("*.npz"))


INTEGERS = """
class Whole(torch.nn.Module):
    def forward(self, x):
        return (x.flatten(1) > 0).long()


def whole():
    return Whole()
"""


@pytest.mark.parametrize("flags", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("center=free", "expected floating-point ones"),
        ("smoothing=[center,mean]", "a mean needs hard limits"),
        ("attack=pgd", "needs gradients of the model"),
    ],
)
def test_what_a_run_would_refuse_a_dry_run_refuses(folder, flags, override, expected):
    path = folder / "mine.py"
    path.write_text(path.read_text() + INTEGERS)
    done = cs_run(folder, "model=mine:whole", "metric=l1", "data.path=inputs.npy", override, *flags)
    assert done.returncode == 2, done.stdout
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not [path for path in (folder / "runs").rglob("*") if path.is_file()]
