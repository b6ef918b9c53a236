"""Models in ONNX files, text recognition and detection with rapidocr's networks, and texts in cs-run."""

from __future__ import annotations

import csv
import importlib.machinery
import json
import pickle
import re
import runpy
import shlex
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import DOUBLE, INT64, write_outside, write_squares
from running import run_in
from support import ask
from torch import Tensor

from centersmooth import GaussianNoise, Levenshtein, MaskJaccard, ModelError
from centersmooth.metrics import decode_texts
from centersmooth.sampling import Sampler
from csrun.data import load_data
from csrun.errors import RunError
from csrun.models import model_digest, ocr
from csrun.models.onnx import OnnxModel
from csrun.publishing import publish
from csrun.report.panels import draw_panels
from csrun.report.tables import read_manifest, read_rows

for package in ("rapidocr", "onnxruntime", "rapidfuzz", "skimage"):
    pytest.importorskip(package, reason="pip install 'centersmooth[ocr]'")

ROOT = Path(__file__).parent.parent.parent

# --- ONNX files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [("b", 2), (3, 2), (1, 2)])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_graph_answers_any_number_of_inputs_in_calls_of_its_own_size(tmp_path, shape, count) -> None:
    model = OnnxModel(write_squares(tmp_path / "model.onnx", shape), batch=4)
    assert model.batch == (4 if shape[0] == "b" else shape[0])
    inputs = torch.arange(2.0 * count).view(count, 2)
    assert torch.equal(model(inputs), inputs**2)


def test_another_output_is_chosen_by_name(tmp_path) -> None:
    path, inputs = write_squares(tmp_path / "model.onnx", ("b", 2)), torch.tensor([[1.0, -3.0]])
    assert torch.equal(OnnxModel(path, output="sum")(inputs), inputs)
    assert OnnxModel(path).metadata == {"kind": "squares"}


def test_inputs_are_converted_to_the_type_of_the_graph(tmp_path) -> None:
    wide = OnnxModel(write_squares(tmp_path / "wide.onnx", ("b", 1), element=DOUBLE))
    narrow = OnnxModel(write_squares(tmp_path / "narrow.onnx", ("b", 1)))
    x = torch.tensor([[1 + 1e-12]], dtype=torch.float64)
    assert wide(x).item() == x.item() ** 2
    assert (narrow(x).dtype, narrow(x).item()) == (torch.float32, 1.0)
    assert narrow(x.float().requires_grad_()).item() == 1.0


def test_a_graph_goes_to_other_processes_with_its_weights_and_is_told_by_them(tmp_path) -> None:
    path = write_squares(tmp_path / "model.onnx", ("b", 2))
    model, digest = OnnxModel(path), model_digest(OnnxModel(path), "mine")
    sent = pickle.dumps(model)
    write_squares(path, ("b", 2), inputs=("y",))
    inputs = torch.ones(2, 2)
    assert torch.equal(pickle.loads(sent)(inputs), model(inputs))
    assert model_digest(OnnxModel(path), "mine") != digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"shape": ("b", 2), "inputs": ("image", "size")}, "has the inputs image, size: expected one"),
        ({"shape": ("b", 2), "element": INT64}, r"takes tensor\(int64\): expected floating-point .* after their embed"),
        (
            {"shape": ("b", 2), "element": INT64, "inputs": ("input_ids", "attention_mask")},
            r"takes tensor\(int64\): expected floating-point .* after their embed",
        ),
    ],
)
def test_a_graph_that_cannot_be_certified_is_refused(tmp_path, content, words) -> None:
    with pytest.raises(RunError, match=words) as caught:
        OnnxModel(write_squares(tmp_path / "model.onnx", **content))
    assert "\n" not in str(caught.value)


def test_what_is_no_graph_is_refused_in_one_line(tmp_path) -> None:
    (tmp_path / "no.onnx").write_text("<html>")
    path = write_squares(tmp_path / "model.onnx", ("b", 2))
    for call, words in (
        (lambda: OnnxModel(tmp_path / "no.onnx"), "no.onnx is no ONNX graph that onnxruntime reads"),
        (lambda: OnnxModel(tmp_path / "none.onnx"), "none.onnx cannot be read .*: expected an ONNX file"),
        (lambda: OnnxModel(path, output="boxes"), "has no output 'boxes': expected one of square, sum"),
    ):
        with pytest.raises(RunError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["weights", "../weights", "{folder}/weights"])
def test_no_other_file_is_read(tmp_path, monkeypatch, capfd, location) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (tmp_path, tmp_path / "here"):
        np.array([3.0, 4.0], dtype=np.float32).tofile(folder / "weights")
    path = write_outside(Path("model.onnx"), location.format(folder=tmp_path))
    with pytest.raises(RunError, match=r"model\.onnx is no ONNX graph that onnxruntime reads") as caught:
        OnnxModel(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_graph_from_a_wheel_is_certified_as_the_page_says(tmp_path) -> None:
    page = (ROOT / "docs/custom.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, flags=re.S) if "class Direction" in block]
    (commands,) = re.findall(r"```\n(python direction.py\n.*?)```", page, flags=re.S)
    (tmp_path / "direction.py").write_text(code)
    with chdir(tmp_path):
        runpy.run_path("direction.py", run_name="__main__")
    asked = shlex.split(commands.replace("\\\n", " ").splitlines()[1])[1:]
    done = ask(*asked, "points.count=1", "workers=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "runs" / "custom").set_index(["metric", "rule", "eps"])
    assert rows.loc[("label", "counts", 0.1), "radius"] == 0
    assert 0 < rows.loc[("l2", "measured", 0.1), "radius"] < 0.5
    assert "radius of label: 1 where the class can change, else 0" in done.stdout


def test_a_graph_of_ones_own_is_certified_from_the_command_line(tmp_path) -> None:
    write_squares(tmp_path / "model.onnx", (16, 3))
    np.save(tmp_path / "inputs.npy", np.ones((2, 3), dtype=np.float32))
    own = "from csrun.models.onnx import OnnxModel\n\ndef model():\n    return OnnxModel('model.onnx')\n"
    (tmp_path / "graphs.py").write_text(own)
    request = ("experiment=custom", "model=graphs:model", "budget=smoke", "n=100", "m=200", "delta=0.25")
    more = ("data.path=inputs.npy", "grid.eps=[0.1]", "workers=1")
    done = ask(*request, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "runs" / "custom")
    measured = rows[rows["rule"] == "measured"]
    assert (measured["outcome"] == "certified").all()
    assert (measured["radius"] > 0.2).all()  # of (1 + 0.1/sqrt(3))^2 - 1 in each of three coordinates
    refused = ask(*request, *more, "attack=pgd", cwd=tmp_path)
    assert refused.returncode == 2
    assert "an attack by pgd needs gradients" in refused.stderr
    assert ask(*request, *more, "attack=search", "attacker.steps=2", "attacker.runs=1", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("package", "words"),
    [("onnxruntime", "ONNX files need onnxruntime"), ("rapidocr", "text models come with rapidocr")],
)
def test_without_a_package_the_extra_is_named(monkeypatch, package, words) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=rf"{words}, which is not installed: pip install 'centersmooth\[ocr\]'"):
        ocr.TextRecogniser()


def test_another_version_of_the_package_is_told(monkeypatch, tmp_path) -> None:
    found = importlib.machinery.ModuleSpec("rapidocr", None, is_package=True)
    found.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(ocr, "find_spec", lambda name: found)
    with pytest.raises(RunError, match=r"rapidocr has no file models/PP-OCRv6_rec_small.onnx: expected version 3.10"):
        ocr.TextRecogniser()


# --- Text -----------------------------------------------------------------------------------------------------------

LINES = [
    "Region-based segmentation",
    "Let us first determine markers of the coins and the",
    "background. These markers are pixels that we can label",
    "unambiguously as either object or background. Here,",
    "the markers are found at the two extreme parts of the",
    "histogram of grey values:",
    ">>> markers = np.zeros_like(coins)",
]


@pytest.fixture(scope="module")
def recogniser():
    return ocr.TextRecogniser()


@pytest.fixture(scope="module")
def lines() -> Tensor:
    """The lines of the page, ``(7, 1, 22, 384)``."""
    data = load_data("page", None)
    assert data.publishable
    return data.images(data.test, range(len(data.test)))


def test_the_lines_of_the_page_are_read(recogniser, lines) -> None:
    assert lines.shape == (7, 1, 22, 384)
    codes = recogniser(lines)
    assert (codes.dtype, codes.shape) == (torch.int32, (7, 64))
    assert decode_texts(codes) == LINES


def test_the_packages_own_recogniser_reads_the_same_under_noise(recogniser, lines) -> None:
    """On bytes, as it takes no other pixels: rounded, and clipped, which noise of 0.05 hardly is."""
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.use_det": False, "Global.use_cls": False, "Global.log_level": "critical"})
    noise = torch.randn((2, *lines[:4].shape), generator=torch.Generator().manual_seed(0))
    for image in (lines[:4] + 0.05 * noise).flatten(0, 1):
        pixels = (255 * image).round().clamp(0, 255)
        own = engine(pixels.to(torch.uint8).permute(1, 2, 0).repeat(1, 1, 3).numpy(), use_det=False, use_cls=False)
        assert list(own.txts) == decode_texts(recogniser(pixels[None] / 255))


def test_colour_is_read_as_grey_is_and_blank_paper_as_nothing(recogniser, lines) -> None:
    assert torch.equal(recogniser(lines[:1].expand(-1, 3, -1, -1)), recogniser(lines[:1]))
    assert decode_texts(recogniser(torch.full((1, 1, 22, 100), 0.8))) == [""]


def test_a_text_is_a_function_of_its_image_alone(recogniser, lines) -> None:
    short = lines[5, :, :, :192]  # the right half is blank
    outputs = Sampler(recogniser, GaussianNoise(0.1), 4, 4).check_model(short, [Levenshtein()])
    assert outputs.shape == (16, 64)


def test_a_longer_text_is_an_error(recogniser, lines) -> None:
    with pytest.raises(ModelError, match=r"a text has 1\d\d letters .*: expected 64 at most"):
        recogniser(torch.cat([lines[1:2], lines[2:3]], dim=3))


def test_images_of_another_shape_are_refused(recogniser) -> None:
    with pytest.raises(RunError, match=r"a text model got images of shape \(2, 4, 22, 50\): expected"):
        recogniser(torch.zeros(2, 4, 22, 50))


def test_text_is_told_from_blank_paper() -> None:
    data = load_data("page_blocks", None)
    images = data.images(data.test, range(3))
    masks = ocr.TextDetector()(images)
    assert (masks.dtype, masks.shape) == (torch.uint8, (3, 96, 192))
    assert masks[0, 20, 10:180].float().mean() > 0.95  # the heading
    assert not masks[0, 36:46].any()  # the rule below it
    assert not masks[2, 50:70, :100].any()  # blank paper
    MaskJaccard().features(masks)


# --- Text as input --------------------------------------------------------------------------------------------------

TOKENS = """
import torch

NETWORK = torch.nn.Sequential(torch.nn.Embedding(50, 4), torch.nn.Flatten())


def whole():
    return NETWORK


def after_embedding():
    return NETWORK[1]
"""


def test_tokens_are_refused_with_the_reason_and_their_embeddings_are_certified(tmp_path) -> None:
    (tmp_path / "tokens.py").write_text(TOKENS)
    np.save(tmp_path / "tokens.npy", np.arange(12).reshape(2, 6))
    np.save(tmp_path / "one_text.npy", np.arange(6))
    np.save(tmp_path / "embeddings.npy", np.ones((2, 6, 4), dtype=np.float32))
    request = ("experiment=custom", "metric=l2", "budget=smoke", "n=100", "m=200", "delta=0.25", "grid.eps=[0.1]")
    refused = ask(*request, "model=tokens:whole", "data.path=tokens.npy", "workers=1", cwd=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    reason = (
        "cs-run: the array holds integers, to which noise is added as to all numbers: save embeddings for a model of "
    )
    assert line.startswith(reason + "tokens; the model failed on a batch of shape")
    one_text = ask(*request, "model=tokens:whole", "data.path=one_text.npy", "workers=1", cwd=tmp_path)
    assert (one_text.returncode, one_text.stderr.count("\n")) == (2, 1)
    assert one_text.stderr.endswith("an input a row; of tokens save the embeddings\n")
    done = ask(*request, "model=tokens:after_embedding", "data.path=embeddings.npy", "workers=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# --- Runs -----------------------------------------------------------------------------------------------------------

OWN = """
import torch


class Reader(torch.nn.Module):
    def forward(self, images):
        letters = (ord("a") + (25 * images[:, 0].mean(dim=1)).round().clamp(0, 25)).int()
        return torch.cat([torch.where(letters == ord("a"), ord("字"), letters), torch.zeros_like(letters)], dim=1)


class Mask(torch.nn.Module):
    def forward(self, images):
        return images[:, 0] > 0.5


def reader():
    return Reader()


def mask():
    return Mask()
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder with models and images, the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_texts", raising=False)
    (tmp_path / "own_texts.py").write_text(OWN)
    columns = torch.linspace(0, 1, 12).expand(3, 1, 8, 12)
    np.save(tmp_path / "images.npy", columns.numpy())
    return tmp_path


CUSTOM = ("experiment=custom", "data.path=images.npy", "grid.eps=[0.05,0.1]", "grid.h=null", "grid.scale=[0.1]")
CUSTOM += ("n=75", "m=125", "delta=0.15", "alpha1=0.2", "alpha2=0.2")


@pytest.mark.usefixtures("figures")
def test_texts_stand_in_a_table_and_on_a_panel(own) -> None:
    metrics = "metrics=[edit,edit_normalised]"
    result = run_in(own / "runs", *CUSTOM, "model=own_texts:reader", metrics, "attack=search", "attacker.steps=3")
    with (result.folder / "texts.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = read_rows(result.folder)
    certified = rows[rows["outcome"] == "certified"]
    assert len(table) == len(certified) == 2 * 2 * 2 * 3  # points, eps, metrics, rules
    assert {line["base"] for line in table} == {"字cfhjloqsuxz"}
    assert {len(line["smoothed"]) for line in table} == {12}
    edits = certified[certified["metric"] == "edit"]["radius"]
    assert (edits == edits.round()).all()
    assert edits.max() > 0
    (panel,) = read_manifest(result.folder)["panels"]
    with np.load(result.folder / panel["data"]) as kept:
        assert kept["inputs"].shape == kept["noisy"].shape == (2, 1, 8, 12)
        difference = kept["noisy"].astype(float) - kept["inputs"]
        assert 10 < np.abs(difference).mean() < 25  # of noise of 25.5, clipped at the ends
        assert kept["base"].shape == (2, 24)
    drawing = result.folder / "panel_own_texts.reader.png"
    before = drawing.read_bytes()
    draw_panels(result.folder)
    assert drawing.read_bytes() == before
    assert "below it the smoothed text" in panel["caption"]
    target = publish("custom", own / "runs", own / "results")
    (published,) = target.glob("cells/*/texts.csv")
    assert published.read_bytes() == (result.folder / "texts.csv").read_bytes()
    assert list(target.glob("panel_*")) == []  # of a user's own files


def test_the_reader_of_the_page_is_certified(own) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/outputs.md").read_text(), flags=re.S)
    (code,) = [block for block in blocks if "def reader()" in block]
    (own / "reading.py").write_text(code)
    folder = run_in(own / "runs", *CUSTOM, "model=reading:reader", "metric=edit").folder
    with (folder / "texts.csv").open(newline="") as file:
        assert {line["smoothed"] for line in csv.DictReader(file)} <= {"dark", "bright"}


def test_a_run_without_texts_leaves_no_table_of_an_earlier_one(own) -> None:
    folder = run_in(own / "runs", *CUSTOM, "model=own_texts:reader", "metric=edit").folder
    assert (folder / "texts.csv").is_file()
    run_in(own / "runs", *CUSTOM, "model=own_texts:reader", "metric=l1")
    assert not (folder / "texts.csv").exists()


@pytest.mark.usefixtures("figures")
def test_masks_without_a_truth_have_a_panel_of_the_pixels_that_may_change(own) -> None:
    asked = ("model=own_texts:mask", "metrics=[mask_jaccard,hamming]", "certifiers=[segmentation,center]")
    folder = run_in(own / "runs", *CUSTOM, *asked).folder
    rows = read_rows(folder)
    assert set(rows["metric"]) == {"segmentation", "mask_jaccard", "hamming"}
    (panel,) = read_manifest(folder)["panels"]
    with np.load(folder / panel["data"]) as kept:
        assert sorted(kept) == ["base", "certified", "classes", "inputs", "points"]
        assert np.array_equal(kept["base"], kept["inputs"][:, 0] > 127)
        sure = kept["certified"]
        assert kept["classes"][sure].reshape(-1).tolist() == (kept["inputs"][:, 0][sure] > 127).astype(int).tolist()
        assert not sure[:, :, 5:7].all()  # on both sides of 1/2
        assert sure[:, :, [0, 11]].all()
    assert "From above: the image, the base model's segmentation, the smoothed segmentation, " in panel["caption"]
    assert "the same with the pixels that abstain in white. " in panel["caption"]
    assert not (folder / "iou.csv").exists()
    assert (folder / "panel_own_texts.mask.png").is_file()


FEW = ("grid.h=null", "grid.eps=[0.02]", "points.count=1", "forward_block=5", "n0=10", "n=20", "m=30")
FEW += ("delta=0.25", "alpha1=0.2", "alpha2=0.2")
"""About the fewest draws that serve every rule at a fifth of the noise."""


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
def test_edit_ocr_certifies_a_heading_and_says_what_it_reads(tmp_path) -> None:
    folder = run_in(tmp_path, "experiment=edit_ocr", *FEW).folder
    with (folder / "texts.csv").open(newline="") as file:
        assert {(line["base"], line["smoothed"]) for line in csv.DictReader(file)} == {(LINES[0], LINES[0])}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"rapidocr", "onnxruntime", "rapidfuzz", "scikit-image"} <= set(manifest["versions"])
    assert manifest["panels"][0]["publish"]


@pytest.mark.slow
def test_segment_text_certifies_most_pixels_of_a_block(tmp_path) -> None:
    folder = run_in(tmp_path, "experiment=segment_text", *FEW, "n=40", "m=100", "alpha1=0.05", "alpha2=0.05").folder
    rows = read_rows(folder).set_index("metric")
    assert rows.loc["segmentation", "radius"].max() < 0.2
    assert set(rows.index) == {"segmentation", "hamming", "mask_jaccard"}
