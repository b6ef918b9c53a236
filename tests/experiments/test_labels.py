"""Classes in cs-run: logs as the field keeps them, numbers of published ones, experiments that certify classifiers."""

from __future__ import annotations

import functools
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from scipy.special import ndtri
from support import ask, compose

from centersmooth import GaussianNoise
from centersmooth.bounds import EXACT
from csrun.data import load_data
from csrun.errors import RunError
from csrun.models import MODELS
from csrun.publishing import publish
from csrun.report import labels, plots
from csrun.report.labels import (
    average_certified_radius,
    certified_accuracy,
    classes_table,
    classified,
    median_radius,
    read_log,
    write_log,
)
from csrun.report.tables import read_rows
from csrun.runner import run
from csrun.system.progress import Display


def log_of(*points: tuple[int, int, float]) -> pd.DataFrame:
    """A log of points given by their class, the class certified and the radius."""
    truth, predict, radius = zip(*points, strict=True)
    correct = [int(a == b) for a, b in zip(truth, predict, strict=True)]
    index = range(len(points))
    return pd.DataFrame(
        {"idx": index, "label": truth, "predict": predict, "radius": radius, "correct": correct, "time": "0:00:01"}
    )


# --- Numbers ---------------------------------------------------------------------------------------------------------

FIVE = log_of((3, 3, 0.5), (1, 1, 0.0), (2, 7, 0.9), (4, -1, 0.0), (5, 5, 0.25))


def test_every_point_counts_whatever_became_of_it():
    """An abstention and an error are certified at no radius, 0 included; a radius counts up to itself."""
    assert certified_accuracy(FIVE, [0.0, 0.25, 0.26, 0.5, 0.51]).tolist() == [0.6, 0.4, 0.2, 0.2, 0.0]
    assert average_certified_radius(FIVE) == pytest.approx(0.75 / 5)


def test_the_median_radius_is_where_half_of_all_points_are_certified():
    assert median_radius(FIVE) == 0.0
    assert median_radius(FIVE[FIVE["idx"] != 2]) == 0.25  # two of four, at 0.25 and 0.5
    assert median_radius(FIVE[FIVE["idx"].isin([0, 2, 4])]) == 0.25
    assert median_radius(FIVE[FIVE["idx"].isin([2, 3, 4])]) == 0.0  # the accuracy is a third


def test_the_average_radius_of_a_constant_classifier_grows_with_the_draws():
    """The weakness that tables state: 0.381 at 100,000 draws and 0.435 at 1,000,000, for ten classes and sigma = 1."""
    for draws, expected in ((10**5, 0.381), (10**6, 0.435)):
        reach = GaussianNoise(1.0).reach(EXACT.mass_floor(draws, draws, 0.001), 0.5)
        constant = log_of(*((label, 0, reach) for label in range(10)))
        assert round(average_certified_radius(constant), 3) == expected


# --- Logs ------------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]

PUBLISHED = {
    "gaussian_0.25": (0.911, [0.992, 0.967]),
    "gaussian_0.50": (1.558, [0.992, 0.969, 0.898, 0.678]),
    "gaussian_1.00": (1.618, [0.963, 0.914, 0.799, 0.595, 0.325, 0.109]),
    "consistency_1.00": (1.738, [0.950, 0.898, 0.797, 0.635, 0.417, 0.202]),
    "smoothadv_1.00": (1.779, [0.958, 0.907, 0.808, 0.644, 0.433, 0.226]),
    "smoothmix_eta5_0.50": (1.693, [0.986, 0.970, 0.926, 0.818]),
    "smoothmix_eta5_1.00": (1.819, [0.937, 0.880, 0.779, 0.628, 0.449, 0.289]),
}
"""Average radius and accuracy at 0, 1/2, ...: means of 5 or 6 trainings, of which the logs are one each."""


@pytest.fixture(scope="module")
def published_logs(tmp_path_factory) -> Path:
    """Published logs of MNIST: 10,000 points each, 100,000 draws, alpha = 0.001."""
    archive = Path(os.environ.get("CENTERSMOOTH_DATA", "")) / "certify_logs.zip"
    if not archive.is_file():
        pytest.skip("no published logs: set CENTERSMOOTH_DATA to a folder with certify_logs.zip")
    folder = tmp_path_factory.mktemp("logs")
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_logs_give_the_published_numbers(published_logs, tmp_path, name):
    path = published_logs / f"mnist_lenet_{name}.tsv"
    log, (average, accuracies) = read_log(path), PUBLISHED[name]
    assert len(log) == 10_000
    assert average_certified_radius(log) == pytest.approx(average, abs=0.002)
    assert certified_accuracy(log, np.arange(len(accuracies)) / 2) == pytest.approx(accuracies, abs=0.004)
    write_log(log, tmp_path / "again.tsv")
    assert (tmp_path / "again.tsv").read_bytes() == path.read_bytes()


@functools.cache
def floors(alpha: float) -> list[float]:
    """Lower limits of the masses of counts from 97,000 of 100,000."""
    return [EXACT.mass_floor(k, 100_000, alpha) for k in range(97_000, 100_001)]


@functools.cache
def printed_radii(sigma: float, alpha: float) -> set[str]:
    """Radii of those masses, as logs print them."""
    return {f"{GaussianNoise(sigma).reach(mass, 0.5):.3}" for mass in floors(alpha)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_large_radii_of_published_logs_are_those_of_counts_by_our_limit(published_logs, name):
    """One-sided at alpha = 0.001: half of it, as of a two-sided interval, or 0.01 leaves misses."""
    log, sigma = read_log(published_logs / f"mnist_lenet_{name}.tsv"), float(name.rsplit("_", 1)[1])
    large = {f"{radius:.3}" for radius in log["radius"] if radius > 3.44 * sigma}
    assert large
    assert large <= printed_radii(sigma, 0.001)
    assert not large <= printed_radii(sigma, 0.0005)
    assert not large <= printed_radii(sigma, 0.01)


def test_the_largest_published_radius_is_that_of_draws_that_all_agree(published_logs):
    for name, sigma in (("gaussian_0.25", 0.25), ("gaussian_0.50", 0.5), ("smoothmix_eta5_1.00", 1.0)):
        largest = read_log(published_logs / f"mnist_lenet_{name}.tsv")["radius"].max()
        assert f"{largest:.3}" == f"{sigma * ndtri(0.001**1e-5):.3}" != f"{sigma * ndtri(0.01**1e-5):.3}"


@pytest.mark.parametrize(
    ("folder", "ours", "theirs", "draws"),
    [
        ("paper-cpu", "0.25-gaussian-s0.25", "gaussian_0.25", 10_000),
        ("paper-cpu", "0.5-gaussian-s0.5", "gaussian_0.50", 10_000),
        ("paper-cuda", "1.0-gaussian-s1", "gaussian_1.00", 100_000),
    ],
)
def test_our_published_logs_agree_with_those_of_others(published_logs, folder, ours, theirs, draws):
    """The paired difference of radius * correct at 500 points is within two standard errors and 0.01."""
    log = ROOT / "results/label_mnist" / folder / f"log_lenet-mnist-cross_entropy@{ours}.tsv"
    compared = [sys.executable, ROOT / "scripts/compare_logs.py", log, published_logs / f"mnist_lenet_{theirs}.tsv"]
    told = subprocess.run([*compared, theirs.split("_")[1], str(draws)], capture_output=True, text=True, check=True)
    points, difference, error = re.search(
        r"(\d+) points, .* ([+-][.\d]+), standard error ([.\d]+)", told.stdout
    ).groups()
    assert points == "500"
    assert abs(float(difference)) <= 2 * float(error) + 0.01


def test_the_log_of_nearest_prototypes_has_the_reach_of_our_law(published_logs):
    """Radii of embeddings by half-spaces, ``sigma Phi^-1(p)`` of the lower limit ``p``, and published accuracies."""
    log = pd.read_csv(published_logs / "fewshot_cifarfs_1shot_1.0.tsv", sep="\t").query("predict >= 0")
    reach = [GaussianNoise(1.0).reach(mass, 0.5) for mass in log["gamma LCB"]]
    assert log["radius"].to_numpy() == pytest.approx(reach, abs=7e-4)  # four digits of the mass are printed
    right = log.query("predict == label")["radius"]
    assert [(right >= radius).sum() / 500 for radius in (0, 0.25, 0.5)] == [0.482, 0.236, 0.068]


def test_a_log_of_other_columns_is_refused(published_logs):
    message = r"few.*tsv: expected the columns idx label predict radius correct time, got label predict gamma"
    with pytest.raises(ValueError, match=message):
        read_log(published_logs / "fewshot_cifarfs_1shot_1.0.tsv")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "1\t7\t7\t0.5\t2\t0:00:01",
            "expected correct to be 1 where predict is label, .* got 1 7 7 0.5 2",
        ),
        ("1\t7\t3\t0.5\t1\t0:00:01", "expected correct to be 1 where predict is label"),
        ("1\t7\t7\t-0.5\t1\t0:00:01", "radii of at least 0, got 1 7 7 -0.5 1"),
        ("1\t7\t7\tnan\t1\t0:00:01", "radii of at least 0, got 1 7 7 nan 1"),
        ("1\t7\tx\t0.5\t0\t0:00:01", "invalid literal"),
    ],
    ids=["running total", "not correct", "negative", "NaN", "no number"],
)
def test_a_log_whose_lines_do_not_fit_is_refused_in_one_line(tmp_path, line, words):
    """Some code writes the number of points that were correct so far into `correct`."""
    path = tmp_path / "log.tsv"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t7\t7\t1.0\t1\t15.4\n" + line + "\n")
    with pytest.raises(ValueError, match=words) as error:
        read_log(path)
    assert "\n" not in str(error.value)


# --- Experiments -----------------------------------------------------------------------------------------------------


def test_the_classifiers_have_the_parameters_of_their_papers():
    count = {}
    for model, data in (("lenet", "mnist"), ("resnet20", "cifar10")):
        channels, side = (1, 28) if data == "mnist" else (3, 32)
        shaped = type(
            "Shaped", (), {"shape": (channels, side, side), "classes": tuple("0123456789"), "pixelwise": False}
        )()
        built = MODELS[model].build(shaped, {}, None).eval()
        assert built(torch.rand(2, channels, side, side)).shape == (2, 10)
        count[model] = sum(parameter.numel() for parameter in built.parameters())
    assert count == {"lenet": 431_080, "resnet20": 269_722}


@pytest.mark.parametrize("model", ["lenet", "resnet20"])
def test_a_classifier_refuses_data_with_a_class_for_each_pixel(model):
    striped = type("Shaped", (), {"name": "striped", "shape": (1, 28, 28), "pixelwise": True})()
    with pytest.raises(
        RunError, match=f"^models has '{model}', which needs a class for each image: striped has one for"
    ):
        MODELS[model].build(striped, {}, None)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of `label_digits` at two scales and twelve points."""
    out = tmp_path_factory.mktemp("labels")
    small = ("budget=smoke", "points.count=12", "train.epochs=4", "workers=1", f"out={out}")
    said = io.StringIO()
    folder = run(compose("experiment=label_digits", *small), Display(Console(file=said, width=120)), "test").folder
    (folder / "said.txt").write_text(said.getvalue())
    return folder


def test_the_log_of_a_cell_says_what_its_certificates_say(digits):
    rows, labels_of_points = read_rows(digits), load_data("digits", None)
    truth = labels_of_points.targets(labels_of_points.test, range(12)).tolist()
    for scale in (0.25, 0.5):
        log = read_log(digits / f"log_lenet-digits-cross_entropy@{scale}-gaussian-s{scale}.tsv")
        assert log["label"].tolist() == truth
        assert log["correct"].mean() > 0.5
        mine = rows[(rows["scale"] == scale) & (rows["rule"] == "counts") & (rows["eps"] == 0.25)].set_index("point")
        for one in log.itertuples():
            row = mine.loc[one.idx]
            assert one.predict == (int(row["label"]) if row["outcome"] == "certified" else -1)
            reach = row["reach"] if one.predict >= 0 else 0.0
            assert one.radius <= reach <= one.radius * 1.01  # three digits, rounded down
            assert (one.radius > 0.2501) <= (row["outcome"] == "certified" and row["radius"] == 0)


def test_classes_are_summed_up_with_the_average_radius_last(digits):
    rows, table = read_rows(digits), pd.read_csv(digits / "classes.csv")
    assert table.columns[-1] == "average_certified_radius"
    for cell, line in zip(classified(rows), table.to_dict("records"), strict=True):
        assert line["scale"] == cell.scale
        assert line["median_radius"] == median_radius(cell.log)
        assert line["average_certified_radius"] == pytest.approx(average_certified_radius(cell.log))
        for eps in (0.25, 0.5):
            assert line[f"at {eps:g}"] == certified_accuracy(cell.log, [eps])[0]
    said = (digits / "said.txt").read_text()
    assert said.index("median") < said.index("ACR")
    assert "easy points dominate it" in " ".join(said.split())
    assert "counts_run" not in said  # one table, not one of radii that are 0 or 1


def test_betting_has_a_row_at_every_eps_and_the_draws_it_took(digits):
    rows = read_rows(digits)
    bets = rows[(rows["rule"] == "betting") & (rows["radius"] == 0)]
    counted = rows[(rows["rule"] == "counts") & (rows["radius"] == 0)]
    assert len(bets) > 3
    assert set(bets["about"]) == {"map"}
    assert bets["stopped"].between(1, 1_000).all()
    assert bets["stopped"].median() < 500  # of m = 1,000
    assert len(bets) <= len(counted)
    assert rows[rows["rule"] != "betting"]["stopped"].isna().all()


@pytest.mark.usefixtures("figures")
def test_the_figure_has_a_curve_of_each_cell_in_both_panels(digits, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path, title: drawn.append(figure) or [path])
    plots.draw(digits)
    (figure,) = drawn
    accuracy, masses = figure.axes
    assert [len(ax.lines) for ax in figure.axes] == [2, 2]
    for line, of_mass, cell in zip(accuracy.lines, masses.lines, classified(read_rows(digits)), strict=True):
        x, y = line.get_data()
        assert y[0] == certified_accuracy(cell.log, [0.0])[0]
        middle = np.searchsorted(x, x[len(x) // 2])  # the first of equal radii
        assert y[middle] == certified_accuracy(cell.log, [x[middle]])[0]
        assert y[-1] == 0
        shares = dict(zip(*of_mass.get_data(), strict=True))
        assert shares[0.5] == pytest.approx(1 - certified_accuracy(cell.log, [0.0])[0])
    text = " ".join(one.get_text() for one in figure.texts).split("ACR")
    assert len(text) == 4  # of each cell, and its weakness
    assert labels.WEAKNESS[4:40] in " ".join("ACR".join(text).split())


@pytest.mark.usefixtures("figures")
def test_a_classifier_that_is_always_wrong_has_a_figure(digits, tmp_path):
    rows = read_rows(digits)
    target = (rows["label"].fillna(0) + 1).astype(int)
    rows.assign(target=target, vacuous=rows["vacuous"].map({True: "True", False: "False"})).to_csv(
        tmp_path / "certificates.csv", index=False
    )
    (tmp_path / "manifest.json").write_bytes((digits / "manifest.json").read_bytes())
    assert [path.name for path in plots.draw(tmp_path)] == ["radius_label.pdf", "radius_label.png"]


@pytest.mark.usefixtures("figures")
def test_published_classes_have_their_logs_and_figures(digits, tmp_path):
    target = publish("label_digits", digits.parent, tmp_path / "results")
    for path in (*digits.glob("log_*.tsv"), digits / "classes.csv"):
        assert (target / path.name).read_bytes() == path.read_bytes()
    assert (target / "radius_label.png").is_file()


def test_a_point_that_failed_is_an_abstention(digits):
    rows = read_rows(digits)
    lost = rows["point"] == 0
    rows.loc[lost, ["outcome", "p_low", "reach", "label", "radius"]] = ["failed", np.nan, np.nan, np.nan, np.nan]
    log = classified(rows)[0].log
    assert log.loc[0, ["predict", "radius", "correct"]].tolist() == [-1, 0.0, 0]
    assert len(log) == 12


def test_classes_without_known_truth_have_no_log(digits, tmp_path):
    rows = read_rows(digits).assign(target=np.nan)
    assert labels.write_classes(tmp_path, rows) == []
    assert list(tmp_path.iterdir()) == []


def test_the_table_names_each_training_and_noise(digits):
    console = Console(file=io.StringIO(), width=120)
    console.print(classes_table(read_rows(digits), "Title"))
    said = console.file.getvalue()
    assert said.count("lenet digits") == 2
    assert "with noise" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["experiment=label_digits", "train=augment"],
            "train.method has 'augment', which learns examples: expected one of none, cross_entropy, .* for the model ",
        ),
        (
            ["train=cross_entropy"],
            "train.method has 'cross_entropy', which learns labels: expected one of none, augment, .* for the model",
        ),
        (["experiment=label_digits", "data=latents100"], "models has 'lenet', which is trained, but latents100 has no"),
    ],
)
def test_a_model_is_trained_on_what_it_learns(tmp_path, arguments, message):
    answer = ask(*arguments, "budget=smoke", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert re.search(message, answer.stderr)
