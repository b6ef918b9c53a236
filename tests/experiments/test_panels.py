"""Panels: what is kept, what is drawn, and that pictures which may not be handed on are not published."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from running import run_in
from support import compose

from centersmooth import Jaccard
from csrun.data import DATA, load_data
from csrun.errors import RunError
from csrun.report import panels
from csrun.report.panels import PanelSource, as_bytes, draw_panels, rows_to_show, save_panels
from csrun.report.tables import read_manifest, read_rows
from csrun.runner import run
from csrun.system.progress import Display

pytestmark = pytest.mark.usefixtures("figures")

ROOT = Path(__file__).parent.parent.parent


def load_publish():
    spec = importlib.util.spec_from_file_location("publish", ROOT / "scripts" / "publish.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(point, outcome="certified", **changes):
    made = {
        "cell": "c0",
        "model": "net",
        "train": "augment@0.5",
        "noise": "gaussian",
        "scale": "0.5",
        "threat": "l2",
        "certifier": "center",
        "metric": "tv",
        "rule": "paper",
        "eps": "0.5",
        "h": "1.0",
    }
    made |= {"point": str(point), "outcome": outcome, "alpha": "0.01", "alpha2": "0.005"}
    return made | changes


def write_answers(path, base, smoothed, points=None):
    """Base outputs and answers of center smoothing at points 0, 1, ..., or at the points given."""
    points = np.arange(len(base)) if points is None else np.array(points)
    np.savez(path, **{"center.tv": smoothed, "center.tv.points": points, "center.tv.base": base[points]})
    return path


# What is kept


def test_the_strongest_statement_that_holds_for_half_of_the_points_is_shown():
    weak = [row(point, eps="0.1") for point in range(4)]
    strong = [row(point, outcome, cell="c1") for point, outcome in enumerate(["certified", "bad_center"] * 2)]
    stronger = [row(point, outcome, eps="0.9") for point, outcome in enumerate(["certified", *["bad_center"] * 3])]
    assert rows_to_show([*weak, *strong, *stronger]) == strong
    assert rows_to_show([*weak, *strong[::-1]]) == strong
    less_noise = [row(0, h="1.5"), row(0, h="1.0")]
    assert rows_to_show(less_noise) == less_noise[:1]
    trained = [row(0, train="none", cell="b"), row(0, train="augment@0.5", cell="a")]
    assert rows_to_show(trained) == trained[1:]
    assert len(rows_to_show([row(point) for point in range(50)])) == panels.MOST_POINTS
    assert rows_to_show([row(0, "infeasible"), row(1, "failed")]) == []


def test_pictures_are_kept_as_bytes_of_the_right_points(tmp_path):
    base = np.linspace(-1, 1, 4 * 3 * 8 * 8, dtype=np.float32).reshape(4, 3, 8, 8)
    answers = write_answers(tmp_path / "answers.npz", base, -base)
    source = PanelSource("net", "c0", answers, (-1.0, 1.0))
    (panel,) = save_panels(tmp_path, [source], [row(3), row(1)], lambda points: np.zeros((2, 3, 8, 8)))
    with np.load(tmp_path / panel["data"]) as kept:
        assert kept["points"].tolist() == [1, 3]
        assert kept["base"].dtype == np.uint8
        np.testing.assert_array_equal(kept["base"], np.rint((base[[1, 3]] + 1) / 2 * 255))
        np.testing.assert_array_equal(kept["smoothed"], np.rint((1 - base[[1, 3]]) / 2 * 255))
    assert (panel["eps"], panel["h"], panel["cell"]) == (0.5, 1.0, "c0")
    assert "with probability at most 0.005" in panel["caption"]
    assert "gaussian noise of scale 0.5" in panel["caption"]
    assert "within eps = 0.5 (l2) of the one shown" in panel["caption"]


def test_a_panel_shows_the_answers_of_the_rows_certifier_where_it_has_one(tmp_path):
    """Another certifier of the cell may have answers at further points."""
    base = np.stack([np.full((1, 4, 4), point / 10) for point in range(4)])
    answers = write_answers(tmp_path / "answers.npz", base, base[[3, 1]] + 0.5, points=[3, 1])
    source = PanelSource("net", "c0", answers, (0.0, 1.0))
    rows = [row(1), row(2, "failed"), row(3)]
    (panel,) = save_panels(tmp_path, [source], rows, lambda points: np.zeros((2, 1, 4, 4)))
    with np.load(tmp_path / panel["data"]) as kept:
        assert kept["points"].tolist() == [1, 3]
        np.testing.assert_array_equal(kept["base"], as_bytes(base[[1, 3]], (0.0, 1.0)))
        np.testing.assert_array_equal(kept["smoothed"], as_bytes(base[[1, 3]] + 0.5, (0.0, 1.0)))


def test_bytes_are_clipped_not_wrapped():
    assert as_bytes(np.array([-0.5, 0.0, 1.0, 1.7]), (0.0, 1.0)).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(
    ("shape", "output_range"), [((2, 5), None), ((2, 3, 8, 8), None), ((2, 7, 8, 8), (0.0, 1.0)), ((2, 4), (0.0, 1.0))]
)
def test_outputs_that_are_no_pictures_have_no_panel_and_an_old_one_goes(tmp_path, shape, output_range):
    (tmp_path / "panel_net.png").write_text("of an earlier run")
    answers = write_answers(tmp_path / "answers.npz", np.zeros(shape), np.zeros(shape))
    source = PanelSource("net", "c0", answers, output_range)
    assert save_panels(tmp_path, [source], [row(0), row(1)], lambda points: np.zeros((2, 9))) == []
    assert list(tmp_path.glob("panel_*")) == []


# What is drawn


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of runs with one at three points, figures and panel drawn."""
    return run_in(tmp_path_factory.mktemp("drawn"), "points.count=3").folder.parent


@pytest.fixture
def finished(drawn, tmp_path):
    """The folder of that run, among a copy of the runs."""
    return shutil.copytree(drawn, tmp_path / "runs") / "tv_digits"


def test_a_run_draws_its_panel_and_redrawing_it_changes_no_byte_and_needs_no_torch(finished):
    (panel,) = read_manifest(finished)["panels"]
    files = [finished / panel["file"], (finished / panel["file"]).with_suffix(".pdf")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    script = "import sys; from csrun.report import plot_cli; plot_cli.main(sys.argv[1:])"
    script += "; assert not {'torch', 'centersmooth', 'matplotlib.pyplot'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, str(finished)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(files[0]) in done.stdout
    assert [file.read_bytes() for file in files] == before
    with Image.open(files[0]) as picture:
        assert picture.width >= 600


def test_a_panel_shows_the_cells_outputs_and_its_rows(finished):
    manifest = read_manifest(finished)
    (panel,) = manifest["panels"]
    with np.load(finished / panel["data"]) as kept:
        arrays = dict(kept)
    (folder,) = [finished.parent / cell["folder"] for cell in manifest["cells"]]
    with np.load(folder / "answers.npz") as cell:
        np.testing.assert_array_equal(arrays["smoothed"], as_bytes(cell["center.tv"], (0.0, 1.0)))
    rows = panels._rows_of(read_rows(finished), panel, manifest["rule"])
    assert rows.index.tolist() == arrays["points"].tolist() == [0, 1, 2]
    figure = panels._images(arrays, rows, ["small print"])
    written = [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()]
    assert written == [panels.result(rows.loc[point]) for point in range(3)]
    assert [len(ax.images) for ax in figure.axes] == [1] * 3 + [int(r == "certified") for r in rows["outcome"]]


def test_an_abstention_shows_no_smoothed_picture(finished):
    manifest = read_manifest(finished)
    (panel,) = manifest["panels"]
    with np.load(finished / panel["data"]) as kept:
        arrays = dict(kept)
    rows = panels._rows_of(read_rows(finished), panel, manifest["rule"])
    rows.loc[1, "outcome"] = "bad_center"
    figure = panels._images(arrays, rows, [])
    assert figure.axes[4].get_xlabel() == "abstains"
    assert len(figure.axes[4].images) == 0


def test_boxes_are_drawn_where_they_are_and_empty_ones_are_not():
    ax = Figure().subplots()
    panels._box(ax, np.array([10.0, 20.0, 40.0, 60.0]), edgecolor="green")
    panels._box(ax, np.zeros(4), edgecolor="blue")
    (frame,) = ax.patches
    assert frame.get_bbox().bounds == (10, 20, 30, 40)


def test_the_largest_and_the_smallest_box_that_medians_allow_are_drawn():
    of_row = {"source": "a", "outcome": "certified", "radius": 0.4, "error": 0.1, "vacuous": False}
    rows = pd.DataFrame([of_row | {"point": 0, "lower": "1 2 7 8", "upper": "3.5 4 9 9"}]).set_index("point")
    box = np.array([[2.0, 3.0, 8.0, 8.5]])
    arrays = {"points": np.array([0]), "base": box, "smoothed": box, "inputs": np.zeros((1, 3, 12, 12), np.uint8)}
    figure = panels._on_pictures(arrays, rows, [])
    drawn = [frame.get_bbox().extents.tolist() for frame in figure.axes[0].patches]
    assert drawn[2:] == [[1, 2, 9, 9], [3.5, 4, 7, 8]]
    assert len(figure.legends[0].get_texts()) == 3
    without = panels._on_pictures(arrays, rows.assign(lower="", upper=""), [])
    assert (len(without.axes[0].patches), len(without.legends[0].get_texts())) == (2, 2)


CERTIFIED = {"source": "a", "outcome": "certified", "radius": 0.2, "error": 0.1, "vacuous": False, "point": 0}


def extents(figure):
    """The frames drawn on the first picture."""
    return [frame.get_bbox().extents.tolist() for frame in figure.axes[0].patches]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_list_of_boxes_is_drawn_with_the_limits_of_each():
    lists = np.array([[[2.0, 2, 6, 6], [8.0, 2, 10, 4], [0.0, 0, 0, 0]]])
    arrays = {
        "points": np.array([0]),
        "base": lists + 1,
        "smoothed": lists,
        "inputs": np.zeros((1, 3, 12, 14), np.uint8),
    }
    rows = pd.DataFrame([CERTIFIED | {"metric": "boxes", "radius": 0.2}]).set_index("point", drop=False)
    figure = panels._on_pictures(arrays, rows, [])
    drawn = extents(figure)
    assert len(drawn) == 2 + 2 + 4  # the empty box is none
    assert drawn[2:4] == lists[0, :2].tolist()
    # Twice the radius for each of two boxes, an intersection over union of 0.6.
    assert drawn[4] == pytest.approx([2 - 8 / 3, 2 - 8 / 3, 6 + 8 / 3, 6 + 8 / 3])
    assert drawn[5] == pytest.approx([3.6, 3.6, 4.4, 4.4])
    assert figure.axes[0].get_xlabel().endswith("2 boxes")
    assert legend(figure) == ["base model's boxes", "smoothed boxes", "outer and inner limit within ε"]
    wide = panels._on_pictures(arrays, rows.assign(radius=0.5), [])
    assert len(extents(wide)) == 4  # half of the boxes may be any
    assert wide.axes[0].get_xlabel().endswith("1 to 4 boxes")
    abstains = panels._on_pictures(arrays, rows.assign(outcome="bad_center"), [])
    assert (len(extents(abstains)), abstains.axes[0].get_xlabel()) == (2, "abstains")


def test_no_box_within_a_distance_leaves_its_frames():
    """Random boxes, kept where they are near enough; some come close to the frames."""
    generator = torch.Generator().manual_seed(0)
    box, distance = torch.tensor([[10.0, 20.0, 50.0, 40.0]]), 0.3
    moves = (
        torch.randn(200_000, 4, generator=generator)
        * torch.tensor([8.0, 4, 8, 4])
        * torch.rand(200_000, 4, generator=generator).round()
    )
    near = box + moves
    near = near[(near[:, 2:] > near[:, :2]).all(1)]
    jaccard = Jaccard()
    near = near[jaccard.pairwise(jaccard.features(near), jaccard.features(box))[:, 0] <= distance].numpy()
    outer, inner = panels._frames(box[0].double().numpy(), distance)
    assert (near[:, :2] >= outer[:2] - 1e-4).all()
    assert (near[:, 2:] <= outer[2:] + 1e-4).all()
    assert (near[:, :2] <= inner[:2] + 1e-4).all()
    assert (near[:, 2:] >= inner[2:] - 1e-4).all()
    np.testing.assert_allclose(near.min(0)[:2], outer[:2], atol=0.5)
    np.testing.assert_allclose(near.max(0)[:2], inner[:2], atol=0.5)


def test_landmarks_are_drawn_with_their_intervals():
    marks = np.array([[[2.0, 3.0], [7.0, 8.0]]])
    arrays = {
        "points": np.array([0]),
        "base": marks + 1,
        "smoothed": marks,
        "inputs": np.zeros((1, 3, 12, 12), np.uint8),
    }
    rows = pd.DataFrame([CERTIFIED | {"metric": "percentile", "lower": "1 2 6 7", "upper": "3 5 8 9"}])
    figure = panels._on_pictures(arrays, rows.set_index("point", drop=False), [])
    assert [line.get_xydata().tolist() for line in figure.axes[0].lines] == [(marks[0] + 1).tolist(), marks[0].tolist()]
    assert extents(figure) == [[1, 2, 3, 5], [6, 7, 8, 9]]
    assert legend(figure) == ["base model's landmarks", "smoothed landmarks", "intervals within ε"]
    assert [handle.get_marker() for handle in figure.legends[0].legend_handles] == ["o", "o", "None"]


@pytest.mark.parametrize(
    ("key", "landmarks", "answer", "words"),
    [
        ("center.boxes", False, np.ones((3, 8, 4)), "Green: the base model's boxes"),
        ("center.l2", True, np.ones((3, 5, 2)), "Green: the base model's landmarks"),
        ("center.l2", False, np.ones((3, 5, 2)), None),
    ],
)
def test_boxes_and_landmarks_are_kept_with_the_picture(tmp_path, key, landmarks, answer, words):
    """Landmarks are told by their model, as nothing in a list of pairs of numbers says that they are places."""
    certifier, metric = key.split(".")
    np.savez(tmp_path / "answers.npz", **{key: answer, f"{key}.points": np.arange(3), f"{key}.base": answer})
    source = PanelSource("net", "c0", tmp_path / "answers.npz", None, landmarks=landmarks)
    rows = [row(point, certifier=certifier, metric=metric, radius="0.1") for point in range(3)]
    saved = save_panels(tmp_path, [source], rows, lambda points: np.ones((len(points), 3, 8, 8)))
    assert len(saved) == (words is not None)
    for panel in saved:
        assert words in panel["caption"]
        with np.load(tmp_path / panel["data"]) as kept:
            assert kept["inputs"].shape == (3, 3, 8, 8)
            assert kept["smoothed"].shape == answer.shape


def test_segmentations_stand_in_rows_with_a_legend_for_the_white_pixels():
    classes = np.array([[[0, 1, 1], [0, 0, 2]]], dtype=np.int32)
    arrays = {"points": np.array([0]), "inputs": np.zeros((1, 1, 2, 3), np.uint8), "base": classes[:, ::-1]}
    arrays |= {"classes": classes, "certified": np.array([[[True, True, False], [True, True, True]]])}
    rows = pd.DataFrame([CERTIFIED | {"metric": "segmentation"}]).set_index("point", drop=False)
    figure = panels._maps(arrays, rows, [])
    assert [ax.get_ylabel() for ax in figure.axes] == ["image", "base", "smoothed", "certified"]
    of_base, _, certified = (ax.images[0].get_array() for ax in figure.axes[1:])
    assert np.array_equal(of_base, panels._in_colors(classes[0, ::-1]))
    assert np.argwhere((certified == 1).all(axis=2)).tolist() == [[0, 2]]
    assert legend(figure) == ["pixels that may change within ε"]
    whole = panels._maps(arrays | {"certified": np.ones((1, 2, 3), bool), "truth": classes}, rows, [])
    assert [ax.get_ylabel() for ax in whole.axes][-1] == "truth"
    assert not whole.legends


# What is published


@pytest.fixture
def publish(tmp_path):
    module = load_publish()
    return lambda folder: module.publish(folder.name, folder.parent, tmp_path / "results")


def test_a_panel_is_published_with_what_redraws_it_and_goes_once_it_may_not_be_handed_on(finished, publish):
    target = publish(finished)
    assert {path.name for path in target.glob("panel_*")} == {f"panel_autoencoder.{e}" for e in ("npz", "pdf", "png")}
    drawing = (target / "panel_autoencoder.png").read_bytes()
    (target / "panel_autoencoder.png").unlink()
    draw_panels(target)
    assert (target / "panel_autoencoder.png").read_bytes() == drawing
    manifest = json.loads((finished / "manifest.json").read_text())
    manifest["panels"][0]["publish"] = False
    (finished / "manifest.json").write_text(json.dumps(manifest))
    assert publish(finished) == target
    assert list(target.glob("panel_*")) == []  # nor does an earlier one stay
    assert json.loads((target / "manifest.json").read_text())["panels"] == []
    (table,) = target.glob("cells/*/certificates.csv")
    assert table.read_bytes() == (finished / "certificates.csv").read_bytes()
    assert list((target).glob("radius_tv.*"))
    assert draw_panels(target) == []


def test_neither_celeba_nor_a_users_own_files_may_be_handed_on(tmp_path):
    Image.new("RGB", (30, 40)).save(tmp_path / "1.jpg")
    np.save(tmp_path / "inputs.npy", np.zeros((2, 3)))
    assert not load_data("celeba", str(tmp_path)).publishable
    assert not load_data("files", str(tmp_path)).publishable
    assert not load_data("files", str(tmp_path / "inputs.npy")).publishable
    whole = tmp_path / "root" / "celeba" / "img_align_celeba"
    whole.mkdir(parents=True)
    Image.new("RGB", (30, 40)).save(whole / "190000.jpg")
    assert not load_data("celeba", str(tmp_path / "root")).publishable
    (tmp_path / "root2" / "celeba_test").mkdir(parents=True)
    Image.new("RGB", (30, 40)).save(tmp_path / "root2" / "celeba_test" / "190000.jpg")
    assert not load_data("celeba", str(tmp_path / "root2")).publishable
    assert load_data("digits", None).publishable
    assert {"celeba", "files", "digits"} < set(DATA)


def test_no_published_result_shows_a_picture_of_celeba():
    for manifest in (ROOT / "results").rglob("manifest.json"):
        content = json.loads(manifest.read_text())
        if content["data"]["name"] in ("celeba", "files"):
            assert list(manifest.parent.glob("panel_*")) == []


# The astronaut

FEW = ("n=48", "m=48", "delta=0.25", "alpha1=0.1", "alpha2=0.1")
"""Whole blocks of draws, which suffice for the rules that are drawn."""


def test_the_astronaut_is_one_photograph_of_celebas_size():
    pytest.importorskip("skimage", reason="pip install 'centersmooth[faces]'")
    data = load_data("astronaut", None)
    assert data.shape == (3, 218, 178)
    assert len(data.test) == 1
    assert data.publishable
    assert data.test.name(0) == "astronaut/0"


def test_the_astronauts_are_the_photograph_and_itself_at_half_of_its_size():
    """As the note of every result says."""
    pytest.importorskip("skimage", reason="pip install 'centersmooth[faces]'")
    (face,), data = (load_data("astronaut", None).test.take([0])), load_data("astronauts", None)
    (picture,) = data.test.take([0])
    assert picture.shape == (3, 218, 267)
    assert picture[..., :178].equal(face)
    assert picture[1, 54 + 20, 178 + 30] == face[1, 40:42, 60:62].float().mean().round()
    assert set(picture[:, :54, 178:].unique().tolist()) == {128}
    assert data.publishable
    assert "made up" in data.note


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "skimage"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(RunError, match=r"pip install 'centersmooth\[faces\]'") as caught:
        load_data("astronaut", None)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_astronauts_face_is_certified_and_drawn_without_any_data(tmp_path, monkeypatch):
    pytest.importorskip("skimage", reason="pip install 'centersmooth[faces]'")
    pytest.importorskip("facenet_pytorch", reason="pip install 'centersmooth[faces]'")
    monkeypatch.delenv("CENTERSMOOTH_DATA", raising=False)
    config = compose("experiment=jaccard_astronaut", "budget=smoke", "grid.eps=[0.05]", *FEW, f"out={tmp_path}")
    folder = run(config, Display(Console(file=io.StringIO())), "cs-run (test)").folder
    manifest, rows = read_manifest(folder), read_rows(folder)
    exact = rows[rows["rule"] == "exact"].iloc[0]
    assert 0 < exact["error"] < exact["radius"] < 1
    (panel,) = manifest["panels"]
    assert panel["publish"]
    with np.load(folder / panel["data"]) as kept:
        base, smoothed, picture = kept["base"][0], kept["smoothed"][0], kept["inputs"][0]
    assert picture.shape == (3, 218, 178)
    for box in (base, smoothed):
        assert 30 < box[0] < 60 < 120 < box[2] < 145  # where her face is
        assert 40 < box[1] < 75 < 160 < box[3] < 190
    assert {"facenet-pytorch", "scikit-image"} <= set(manifest["versions"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "eps"), [("boxes_astronaut", (8, 4), "0.05"), ("landmarks_astronaut", (5, 2), "0.05")]
)
def test_all_faces_and_landmarks_are_certified_and_drawn_without_any_data(tmp_path, monkeypatch, name, shape, eps):
    pytest.importorskip("skimage", reason="pip install 'centersmooth[faces]'")
    pytest.importorskip("facenet_pytorch", reason="pip install 'centersmooth[faces]'")
    monkeypatch.delenv("CENTERSMOOTH_DATA", raising=False)
    config = compose(f"experiment={name}", "budget=smoke", f"grid.eps=[{eps}]", *FEW, f"out={tmp_path}")
    folder = run(config, Display(Console(file=io.StringIO())), "cs-run (test)").folder
    (panel,) = read_manifest(folder)["panels"]
    assert "Red: " in panel["caption"]
    with np.load(folder / panel["data"]) as kept:
        base, smoothed = kept["base"][0], kept["smoothed"][0]
    assert base.shape == smoothed.shape == shape
    assert np.abs(base - smoothed).max() < 10  # pixels
    assert ((base != 0).any(axis=1).sum()) == (2 if shape == (8, 4) else 5)
