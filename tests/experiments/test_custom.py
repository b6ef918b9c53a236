"""The worked example of docs/custom.md, and what a user's mistakes lead to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from centersmooth_experiments.tables import read_rows

PAGE = (Path(__file__).parents[2] / "docs" / "custom.md").read_text()
CODE = "from centersmooth_experiments.cli import main; main()"
SMOKE = ["budget=smoke", "grid.eps=[0.25]"]


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
        done = cs_run(folder, "model=mine:model", f"metric={metric}", "data.path=inputs.npy")
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
