"""Paths as people have them: blanks, brackets, commas, other letters, in every setting that takes one."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from support import ask, compose_raw

from csrun.cli import _with_path_as_text, _without_paths

ODD = "Bilder (1), =#ü"
TEXTS = [ODD, "a'b", 'a"b', 'it\'s "1"', "a\\b", "a\\", "a\\'", " a ", "[a]", "{a: 1}", "a:b", "1", "1e5", "true"]
TEXTS += ["$x", "%", "~/a", "choice(a,b)", "'a' b", "日本", "\udcff"]
REQUEST = ["experiment=custom", "budget=smoke", "points.count=1", "n=500", "m=600", "delta=0.17", "grid.eps=[0.1]"]
MODEL = ["model=torch.nn:Identity", "metric=l2"]


@pytest.mark.parametrize("keys", [["out", "data.path", "weights.vgg"], ["++data.path"]])
@pytest.mark.parametrize("path", TEXTS)
def test_a_path_is_text(keys, path):
    raw = compose_raw(*(_with_path_as_text(f"{key}={path}") for key in keys))
    assert [OmegaConf.select(raw, key.lstrip("+")) for key in keys] == [path] * len(keys)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("null", None),
        ("", ""),
        ("'null'", "null"),
        ("'a, b'", "a, b"),
        ('"a (1)"', "a (1)"),
        ("runs (${seed})", "runs (0)"),
        ("${data.name}", "digits"),
        ("it's ${seed}", "it's 0"),
        ("a/${oc.env:NOT_THERE,'b c'}", "a/b c"),
    ],
)
def test_null_quotes_and_interpolations_mean_what_they_do_elsewhere(value, path):
    assert compose_raw(_with_path_as_text(f"data.path={value}")).data.path == path


@pytest.mark.parametrize(
    "setting", ["experiment=tv_mnist", "metrics=[tv,l2]", "n=3", "--multirun", "~data.path", "out"]
)
def test_other_settings_stay(setting):
    assert _with_path_as_text(setting) == setting


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3)).astype(np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def test_a_run_from_and_to_such_folders(pictures, tmp_path):
    out = f"aus {ODD}"
    done = ask(*REQUEST, *MODEL, f"data.path={pictures}", f"out={out}", "weights.vgg=w (1), =#ü", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / out / "custom"
    assert "certified" in (folder / "certificates.csv").read_text()
    assert f"{out}/custom/certificates.csv" in done.stdout
    command = json.loads((folder / "manifest.json").read_text())["command"]
    assert shlex.split(command) == ["cs-run", *REQUEST, *MODEL]


def test_the_recorded_command_can_be_pasted_and_names_no_place():
    given = ["cs-run", "grid.eps=[0.1]", f"++out={ODD}", "data.path=a b", "weights.vgg=v", "name=weights", "model=a:b"]
    assert _without_paths(shlex.join(given)) == "cs-run 'grid.eps=[0.1]' name=weights model=a:b"


def test_a_sweep_over_paths_is_one_of_quoted_values(pictures, tmp_path):
    (tmp_path / "b, c").symlink_to(pictures)
    sweep = ["--multirun", "--dry-run", *REQUEST, *MODEL]
    done = ask(*sweep, f"data.path='{ODD}','b, c'", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 cells, ") == 2
    done = ask(*sweep, f"data.path={ODD},b, c", cwd=tmp_path)
    assert done.returncode == 2
    assert f"{ODD},b, c cannot be read" in done.stderr
    assert len(done.stderr.splitlines()) == 1
