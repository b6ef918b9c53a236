"""Segmentations in cs-run: data with a class for each pixel, the model that learns it, figures beside the truth."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from running import run_in

from centersmooth.certifiers import certified_iou
from csrun.data import load_data
from csrun.data.sources import ArraySource, StripedSource
from csrun.errors import RunError
from csrun.models import MODELS
from csrun.publishing import publish
from csrun.report import plot_cli
from csrun.report.panels import _in_colors
from csrun.report.segmentation import draw_segmentation
from csrun.report.tables import read_manifest, read_rows


def squares(count: int, split: str) -> ArraySource:
    """Digits that are white squares with a grey margin, whose labels are their numbers."""
    images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 8:20, 8:20] = 100
    images[:, :, 10:18, 10:18] = 255
    return ArraySource(split, images, lambda: torch.arange(count) % 10)


# --- Data -----------------------------------------------------------------------------------------------------------


def test_a_pixel_belongs_to_the_digit_where_ink_covers_half_of_it():
    labels = StripedSource(squares(3, "test"), seed=0).labels
    assert labels.shape == (3, 28, 28)
    for index, of_image in enumerate(labels):
        assert (of_image[10:18, 10:18] == 1 + index).all()
        assert int((of_image > 0).sum()) == 64


def test_stripes_are_drawn_from_seed_split_and_index():
    source = StripedSource(squares(4, "test"), seed=0)
    images = source.take([2, 0, 1])
    assert torch.equal(images, StripedSource(squares(3, "test"), seed=0).take([0, 1, 2])[[2, 0, 1]])
    others = [StripedSource(squares(4, "test"), 1), StripedSource(squares(4, "train"), 0)]
    assert all(not torch.equal(images, other.take([2, 0, 1])) for other in others)
    assert len({source.digest(4), source.digest(3), others[0].digest(4)}) == 3
    ground = images[:, 0, :8]
    assert int(ground.max()) <= 153  # 0.6 of white
    assert all(int(one.max()) - int(one.min()) > 100 for one in ground)
    assert (images[:, :, 10:18, 10:18] == 255).all()


def test_striped_mnist_has_the_digits_of_mnist(data_folder):
    data, plain = (load_data(name, str(data_folder)) for name in ("mnist_striped", "mnist"))
    targets, labels = data.targets(data.test, range(5)), plain.targets(plain.test, range(5))
    assert targets.dtype == torch.int64
    assert [set(one.unique().tolist()) for one in targets] == [{0, 1 + label} for label in labels.tolist()]
    assert torch.equal(targets > 0, plain.images(plain.test, range(5))[:, 0] >= 128 / 255)


# --- What fits together ---------------------------------------------------------------------------------------------


def test_a_unet_needs_a_class_for_each_pixel():
    with pytest.raises(RunError, match="needs a class for each pixel: digits has none, mnist_striped has"):
        MODELS["unet"].build(load_data("digits", None), {}, None)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            ("models=[autoencoder]", "train=cross_entropy"),
            "which learns labels: expected one of none, augment, .* for the model autoencoder",
        ),
        (
            ("models=[unet]", "metrics=[hamming]"),
            "which learns examples: expected one of none, cross_entropy, .* for the model unet",
        ),
    ],
)
def test_a_method_that_learns_what_the_model_does_not_is_refused(tmp_path, setting, words):
    with pytest.raises(RunError, match=words):
        run_in(tmp_path, *setting)


# --- A run ----------------------------------------------------------------------------------------------------------

RUN = ("experiment=segment_mnist", "budget=smoke", "n=150", "m=300", "delta=0.2", "alpha1=0.05", "alpha2=0.05")
RUN += (
    "grid.eps=[0.05,0.2]",
    "grid.h=null",
    "points.count=2",
    "train.images=60",
    "train.batch_size=20",
    "train.epochs=6",
)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    monkeypatch.setattr("csrun.data._mnist_splits", lambda path: [squares(60, "train"), squares(6, "test")])
    return tmp_path


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("figures")
def test_a_run_compares_its_segmentations_with_the_truth(mnist, capsys):
    folder = run_in(mnist / "runs", *RUN, figures=False).folder
    rows, table, manifest = read_rows(folder), lines(folder / "iou.csv"), read_manifest(folder)
    segmentations = rows[rows["certifier"] == "segmentation"]
    assert len(table) == len(segmentations) == 2 * 2 * 3  # points, eps, rules
    assert set(rows[rows["certifier"] == "center"]["metric"]) == {"hamming"}
    assert (segmentations["pixels"] == 784).all()
    assert np.allclose(segmentations["radius"], segmentations["abstained"] / 784)
    (panel,) = manifest["panels"]
    with np.load(folder / panel["data"]) as kept:
        maps = {name: torch.from_numpy(kept[name]) for name in ("classes", "certified", "truth")}
        assert kept["inputs"].shape == (2, 1, 28, 28)
    for point in range(2):
        answer, certified, truth = (one[point] for one in maps.values())
        (line,) = (one for one in table if (one["point"], one["rule"], one["eps"]) == (str(point), "holm", "0.2"))
        for name, sure in (("certified_iou", certified), ("iou", torch.ones_like(certified))):
            by_class = certified_iou(answer, sure, truth)
            assert float(line[name]) == sum(by_class.values()) / len(by_class)
        assert set(truth.unique().tolist()) == {0, 1 + point}
    target = publish("segment_mnist", mnist / "runs", mnist / "results")
    drawn = [
        f"{name}.{kind}" for name in ("segmentation", "panel_unet", "radius_segmentation") for kind in ("pdf", "png")
    ]
    assert all((target / name).is_file() for name in drawn)
    before = {name: (target / name).read_bytes() for name in drawn}
    plot_cli.main([str(target)])
    told = capsys.readouterr().out
    assert all(str(target / name) in told for name in drawn)
    assert before == {name: (target / name).read_bytes() for name in drawn}


def test_points_of_different_certifiers_have_answers_side_by_side(mnist):
    """What a center and a segmentation have of the base output differs in shape."""
    few = ("n=60", "m=150", "grid.eps=[0.05]", "train.images=20", "train.epochs=1")
    run_in(mnist, *RUN, *few, "certifiers=[segmentation]")
    folder = run_in(mnist, *RUN, *few, "certifiers=[center]", "points.count=1").folder
    with np.load(next(folder.parent.glob("unet-*/answers.npz"))) as answers:
        assert answers["segmentation.base"].shape == (2, 28, 28)
        assert answers["center.hamming.base"].shape == (1, 11, 28, 28)
        assert np.array_equal(answers["center.hamming.base"][0].argmax(0), answers["segmentation.base"][0])


def test_a_figure_without_a_truth_is_not_drawn(tmp_path):
    assert draw_segmentation(tmp_path) == []


def test_the_ground_is_dark_and_abstentions_are_white():
    colors = _in_colors(np.array([[-1, 0, 1, 20, 21]]))[0]
    assert colors[0].tolist() == [1, 1, 1]
    assert colors[1].tolist() == [0.2, 0.2, 0.2]
    assert np.array_equal(colors[2], colors[4])
    assert not np.array_equal(colors[2], colors[3])
