"""The experiment that compares trainings: its table of distances to the truth, its figure, and what is published."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from support import SMALL, ask, compose

from csrun.data import load_data
from csrun.plan import make_plan
from csrun.publishing import publish
from csrun.report.tables import read_truth

METHODS = 'train.method=["augment","spectral[weight=2]","spectral[weight=8]"]'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of three trainings, with two certifiers, and its figures."""
    folder = tmp_path_factory.mktemp("tradeoff")
    answer = ask(*SMALL, METHODS, "metrics=[tv,l2]", "certifiers=[mean,center]", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    return folder / "runs"


def test_a_method_at_several_parameters_is_a_trade_off(runs):
    manifest = json.loads((runs / "tv_digits" / "manifest.json").read_text())
    assert manifest["curve"] == "tradeoff"
    assert [cell["train"] for cell in manifest["cells"]] == [
        "augment@0.4",
        "spectral[weight=2]@0.4",
        "spectral[weight=8]@0.4",
    ]
    assert (runs / "tv_digits" / "radius_tv.png").is_file()


def test_the_distance_to_the_truth_is_that_of_the_smoothed_output(runs):
    """In l2, from the answers that each cell keeps."""
    data, lines = load_data("digits", None), pd.read_csv(runs / "tv_digits" / "truth.csv", dtype=str)
    cells = {folder.name.rpartition("-")[2]: folder for folder in runs.glob("autoencoder-*")}
    checked = 0
    for line in lines.to_dict("records"):
        if line["metric"] == "l2":
            kept = np.load(cells[line["cell"]] / "answers.npz")
            key, point = f"{line['certifier']}.l2", int(line["point"])
            answer = kept[key][kept[f"{key}.points"].tolist().index(point)]
            example = data.images(data.test, [point])[0]
            distance = torch.linalg.vector_norm(torch.from_numpy(answer).double() - example.double())
            assert float(line["distance"]) == pytest.approx(float(distance), rel=1e-5)
            checked += 1
    assert checked >= 3 * 2 * 2  # trainings, points, certifiers; some have several rules
    assert len(lines) == 2 * checked


def test_published_cells_have_the_distances_as_well(runs, tmp_path, figures):
    target = publish("tv_digits", runs, tmp_path)
    assert len(read_truth(target)) == len(read_truth(runs / "tv_digits"))
    assert (target / "radius_l2.png").is_file()
    assert json.loads((target / "manifest.json").read_text())["curve"] == "tradeoff"


def test_other_experiments_have_no_such_table(tmp_path):
    assert ask(*SMALL, "train.method=[augment,none]", cwd=tmp_path).returncode == 0
    folder = tmp_path / "runs" / "tv_digits"
    assert not (folder / "truth.csv").exists()
    assert json.loads((folder / "manifest.json").read_text())["curve"] == "training"


def test_the_experiment_compares_methods_for_outputs_with_augmentation(data_folder):
    plan = make_plan(compose("experiment=tradeoff_mnist", "budget=cpu", f"data.path={data_folder}"))
    methods = [cell.training.method for cell in plan.cells]
    assert set(methods) == {"augment", "output_consistency", "spectral", "output_adversary", "output_mix"}
    assert len({cell.training.label for cell in plan.cells}) == len(plan.cells) == 12
    assert len(plan.points) == 10


@pytest.mark.slow
def test_the_distance_to_the_truth_of_a_map_is_the_share_of_pixels_that_have_another_class(tmp_path, data_folder):
    small = ("experiment=tradeoff_segment", "budget=smoke", f"data.path={data_folder}", "workers=1", f"out={tmp_path}")
    methods = "train.method=['spectral[weight=2]','spectral[weight=8]']"
    answer = ask(*small, methods, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    lines = pd.read_csv(tmp_path / "tradeoff_segment" / "truth.csv", dtype=str)
    assert len(lines) == 2 * 2 * 3  # trainings, points, rules
    cells = {folder.name.rpartition("-")[2]: folder for folder in tmp_path.glob("unet-*")}
    data = load_data("mnist_striped", str(data_folder))
    distances = []
    for line in lines.to_dict("records"):
        point = int(line["point"])
        with np.load(cells[line["cell"]] / "answers.npz") as kept:
            answer = kept["center.hamming"][kept["center.hamming.points"].tolist().index(point)]
        truth = data.targets(data.test, [point])[0].numpy()
        distances.append(float(line["distance"]))
        assert distances[-1] == pytest.approx((answer.argmax(axis=0) != truth).mean(), rel=1e-6)
    assert max(distances) > 0
