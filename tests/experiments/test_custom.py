"""The worked example of docs/custom.md, and what a user's mistakes lead to."""

from __future__ import annotations

import csv
import importlib
import os
import re
import runpy
import shlex
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import SMALL, Answer, ask

from centersmooth import L2, Budget, CenterSmoother, GaussianNoise, RandomStream
from csrun.report.tables import read_rows

PAGE = (Path(__file__).parents[2] / "docs" / "custom.md").read_text()
MINE, VISION, *_ = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
SMOKE = ["budget=smoke", "grid.eps=[0.25]", "workers=1"]
FEW = ["n=75", "m=125", "delta=0.15", "alpha1=0.2", "alpha2=0.2"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    with chdir(tmp_path):
        runpy.run_path("mine.py", run_name="__main__")
    return tmp_path


def cs_run(folder: Path, *overrides: str) -> Answer:
    return ask("experiment=custom", *SMOKE, *overrides, cwd=folder)


def test_the_worked_example(folder, one_worker):
    """The metric and the model of one's own are sent to workers too."""
    for metric, workers in (("l2", 1), ("mine:largest_difference", 2)):
        done = cs_run(folder, "model=mine:model", f"metric={metric}", "data.path=inputs.npy", f"workers={workers}")
        assert done.returncode == 0, done.stderr
        rows = read_rows(folder / "runs" / "custom")
        assert set(rows["outcome"]) <= {"certified", "bad_center"}
        assert (rows["outcome"] == "certified").any()
        assert set(rows["metric"]) == {metric}


def test_a_run_that_replaces_the_table_of_another_says_how_to_have_both(folder):
    first = ("model=mine:model", "metric=l2", "data.path=inputs.npy")
    other = ("model=mine:model", "metric=l1", "data.path=inputs.npy")
    assert "replace the table" not in cs_run(folder, *first).stdout
    assert "replace the table" not in cs_run(folder, *first).stdout  # by the same rows
    table = (folder / "runs" / "custom" / "certificates.csv").read_bytes()
    told = cs_run(folder, *other).stdout
    command = shlex.join(["cs-run", "experiment=custom", *SMOKE, *first[:2]])
    assert f"an earlier run, {command}: to have both" in told
    assert cs_run(folder, *first, "name=first").returncode == 0
    assert (folder / "runs" / "first" / "certificates.csv").read_bytes() == table
    assert set(read_rows(folder / "runs" / "custom")["metric"]) == {"l1"}
    (folder / "runs" / "custom" / "manifest.json").write_text("damaged")
    done = cs_run(folder, *first)
    assert done.returncode == 0
    assert "replace the table" not in done.stdout


def test_a_changed_model_is_another_cell(folder):
    for source in (None, "torch.manual_seed(1)"):
        if source:
            path = folder / "mine.py"
            path.write_text(path.read_text().replace("torch.manual_seed(0)", source))
        assert cs_run(folder, "model=mine:model", "data.path=inputs.npy").returncode == 0
    assert len(list((folder / "runs").glob("mine.model-files-*"))) == 2


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    """All that does not name the cell or its file, or tell the time."""
    with open(folder / "runs" / name / "certificates.csv", newline="") as file:
        return [
            {key: row[key] for key in row if key not in ("cell", "source", "seconds")} for row in csv.DictReader(file)
        ]


NETWORKS = """
import torch


def network(channels=1, dtype=torch.float32):
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(channels, 2, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(2 * 36, 3)
    return torch.nn.Sequential(*layers).to(dtype)


def colour():
    return network(3)


def linear(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 3), torch.nn.Tanh()).to(dtype)


def linear64():
    return linear(torch.float64)


def function():
    weights = linear()[0].weight.detach()
    return lambda x: x @ weights.T
"""


@pytest.fixture
def networks(tmp_path):
    (tmp_path / "own.py").write_text(NETWORKS)
    return tmp_path


def save_images(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_the_same_input_as_a_file_and_as_bytes_of_an_array(networks, channels):
    """The one of a grey folder with a model of one channel."""
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, channels)).astype(np.uint8)
    save_images(networks / "images", images.squeeze(3) if channels == 1 else images)
    np.save(networks / "images.npy", images.transpose(0, 3, 1, 2))
    np.save(networks / "floats.npy", images.transpose(0, 3, 1, 2) / np.float32(255))
    for name in ("images", "images.npy", "floats.npy"):
        model = "own:network" if channels == 1 else "own:colour"
        done = cs_run(networks, f"model={model}", f"data.path={name}", f"name={name.replace('.', '_')}")
        assert done.returncode == 0, done.stderr
        unit = "numbers as they stand in the file" if name == "floats.npy" else "pixels in [0, 1]"
        assert f"unit of eps and scale: {unit}\n" in re.sub(" *\n", "\n", done.stdout)
    assert rows_of(networks, "images") == rows_of(networks, "images_npy") == rows_of(networks, "floats_npy")


@pytest.mark.parametrize(
    ("model", "image", "words"),
    [
        ("own:colour", (8, 8), "all stored grey and read as one channel: for a model of three, store them as RGB"),
        ("own:network", (8, 8, 3), "read as three channels: for a model of one, store all of them grey"),
    ],
)
def test_another_number_of_channels_is_one_line_that_says_how_to_store_them(networks, model, image, words):
    save_images(networks / "images", np.zeros((2, *image), dtype=np.uint8))
    done = cs_run(networks, f"model={model}", "data.path=images")
    assert done.returncode == 2
    assert done.stderr.startswith("cs-run: the images are ")
    assert f"{words}; the model failed on a batch of shape" in done.stderr
    assert done.stderr.count("\n") == 1


def test_channels_are_not_blamed_for_what_the_model_returned(networks):
    save_images(networks / "images", np.zeros((2, 8, 8, 3), dtype=np.uint8))
    done = cs_run(networks, "model=own:colour", "adapter=key:logits", "data.path=images")
    assert done.returncode == 2
    assert "channels" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("model", ["linear", "linear64"])
@pytest.mark.parametrize("array", [np.float32, np.float64])
def test_the_numbers_are_the_librarys_in_the_type_of_the_model(networks, monkeypatch, model, array):
    inputs = np.random.default_rng(0).normal(size=(2, 8)).astype(array)
    np.save(networks / "INPUTS.NPY.npy", inputs)
    (networks / "INPUTS.NPY.npy").rename(networks / "INPUTS.NPY")
    done = cs_run(networks, f"model=own:{model}", "data.path=INPUTS.NPY")
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(networks)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    network = getattr(importlib.import_module("own"), model)()
    dtype = torch.float64 if model == "linear64" else torch.float32
    smoother = CenterSmoother(network, L2(), GaussianNoise(0.25), Budget(1200, 1700, 0.1), forward_block=128)
    rows = [row for row in rows_of(networks, "custom") if row["rule"] == "measured"]
    (answers,) = (networks / "runs").glob("own.*/answers.npz")
    kept = np.load(answers, allow_pickle=False)["center.l2"]
    assert len(rows) == 2
    for point, row in enumerate(rows):
        x = torch.from_numpy(inputs[point]).to(dtype)
        certificate = smoother.certify(x, eps=0.25, stream=RandomStream(0, point))
        assert row["radius"] == repr(certificate.radius)
        assert certificate.answer.dtype == dtype
        assert np.array_equal(kept[point], certificate.answer.numpy())
        assert kept.dtype == certificate.answer.numpy().dtype


def test_numbers_beyond_the_type_of_the_model_are_refused_before_any_work(networks):
    np.save(networks / "x.npy", np.array([[0.5] * 8, [1e300] * 8]))
    done = cs_run(networks, "model=own:linear", "data.path=x.npy")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "beyond torch.float32, the type of the model's parameters" in done.stderr
    assert not list((networks / "runs").rglob("*.npz"))


def test_a_function_that_computes_in_float32_is_told_of_a_float64_array(networks):
    np.save(networks / "x.npy", np.ones((2, 8)))
    done = cs_run(networks, "model=own:function", "data.path=x.npy")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "float64: save it as float32 for a function that computes in that; the model failed" in done.stderr
    np.save(networks / "x.npy", np.ones((2, 8), dtype=int))
    assert cs_run(networks, "model=own:function", "data.path=x.npy").returncode == 0


MODULES_THAT_FAIL = {
    "broken": "def model(:\n",
    "raising": "raise RuntimeError('of a module\\nin two lines')\n",
    "leaving": "raise SystemExit(3)\n",
}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "models is empty"),
        (["model=mine:nothing"], "cannot be imported"),
        (["model=nothing:model"], "cannot be imported"),
        (["model=..mine:model"], "cannot be imported (TypeError: the 'package' argument is required"),
        (["model=broken:model"], "cannot be imported (SyntaxError: invalid syntax (broken.py, line 1))"),
        (
            ["model=mine:model", "metric=raising:metric", "data.path=inputs.npy"],
            "cannot be imported (RuntimeError: of a module)",
        ),
        (
            ["model=mine:model", "certifier=leaving:certifier", "data.path=inputs.npy"],
            "cannot be imported (SystemExit: 3)",
        ),
        (["model=mine:model"], "data.path is not set"),
        (["model=mine:model", "data.path=mine.py"], "cannot be read"),
        (["model=mine:model", "metric=tv", "data.path=inputs.npy"], "expected images"),
        (["model=mine:model", "metric=nope", "data.path=inputs.npy"], "expected one of"),
        (["model=mine:model", "data.path=inputs.npy", "points.count=11"], "has 10"),
    ],
)
def test_a_mistake_is_one_line(folder, overrides, expected):
    for name, content in MODULES_THAT_FAIL.items():
        (folder / f"{name}.py").write_text(content)
    environment = os.environ.pop("CENTERSMOOTH_DATA", None)
    try:
        done = cs_run(folder, *overrides)
    finally:
        if environment is not None:
            os.environ["CENTERSMOOTH_DATA"] = environment
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_change_that_the_first_point_does_not_show_is_another_cell(folder):
    """A limit that only other points reach."""
    np.save(folder / "growing.npy", np.linspace(0, 9, 3, dtype=np.float32)[:, None] * np.ones((3, 4), dtype=np.float32))
    request = ["model=limited:model", "metric=l2", "data.path=growing.npy", "points.count=3"]
    radii = []
    for limit in ("1e6", "8.0"):
        (folder / "limited.py").write_text(f"def model():\n    return lambda x: x.clamp(max={limit})\n")
        assert cs_run(folder, *request).returncode == 0
        radii.append(read_rows(folder / "runs" / "custom").groupby("point")["r_center"].max().tolist())
    assert radii[1][0] == radii[0][0]
    assert radii[1][2] < radii[0][2] / 2


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
    request += ["certifiers=[center,center_free,mean]"]
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
    done = cs_run(folder, "model=ranged:Model", "data.path=inputs.npy", "certifiers=[center,mean]")
    assert done.returncode == 2
    assert "outside the declared output_range (0.0, 0.1)" in done.stderr


def test_an_own_metric_beside_those_of_a_registered_model(folder):
    (folder / "own.py").write_text("def largest():\n    return lambda a, b: (a - b).abs().flatten(1).amax(1)\n")
    done = ask("metrics=[tv,own:largest]", *SMALL, cwd=folder)
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
        ("certifier=center_free", "expected floating-point ones"),
        ("certifiers=[center,mean]", "a mean needs hard limits"),
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


# --- adapters of what a model returns ------------------------------------------------------------------------------

SEVERAL = """
import torch
from torch import nn


class Several(nn.Module):
    # Two classes of each of two numbers, in a dict; `second` swaps them.
    output_range = (-9.0, 9.0)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(4, 8))

    def forward(self, x):
        scores = self.linear(x).tanh().reshape(-1, 2, 2)
        return {"aux": None, "logits": scores, "second": scores.flip(1)}


def boxes(images):
    corner = images[:, :2].abs()
    found = [torch.stack([torch.cat([c, c + 3]), torch.cat([c + 9, c + 10])]) for c in corner]
    return [{"boxes": one, "scores": torch.tensor([0.6, 0.7]), "labels": torch.ones(2)} for one in found]


def detector():
    return boxes


class Fixed(nn.Module):
    # The higher of the two classes, as a tensor.
    def forward(self, x):
        return x[:, :4].reshape(-1, 2, 2).argmax(1)


def answered():
    return Fixed()
"""


@pytest.fixture
def several(folder):
    (folder / "several.py").write_text(SEVERAL)
    return folder


def answers_of(folder, pattern):
    """The answers of the one cell of a model, by certifier."""
    (path,) = (folder / "runs").glob(f"{pattern}-files-*/answers.npz")
    with np.load(path, allow_pickle=False) as kept:
        return dict(kept)


def test_adapters_make_a_tensor_of_what_a_model_returns(several):
    """In their order; the model's name in rows and cells has them."""
    adapters = ["adapters=[key:logits,argmax]", "metrics=[l1]", "data.path=inputs.npy", "points.count=2"]
    done = cs_run(several, "model=several:Several", *adapters)
    assert done.returncode == 0, done.stderr
    assert set(read_rows(several / "runs" / "custom")["model"]) == {"several:Several+key:logits+argmax"}
    plain = cs_run(several, "model=several:answered", "metrics=[l1]", "data.path=inputs.npy", "points.count=2")
    assert plain.returncode == 0, plain.stderr
    adapted = answers_of(several, "several.Several+key.logits+argmax")
    expected = answers_of(several, "several.answered")
    assert np.array_equal(adapted["center.l1.base"], expected["center.l1.base"])


def test_another_adapter_is_another_cell_and_the_same_one_spelt_out_is_not(several):
    request = ["data.path=inputs.npy", "points.count=1", "n=500", "m=600", "delta=0.17"]
    for adapter in ("key:logits", "key:second"):
        assert cs_run(several, "model=several:Several", f"adapter={adapter}", *request).returncode == 0
    names = {path.name.partition("-files")[0] for path in (several / "runs").glob("several*")}
    assert names == {"several.Several+key.logits", "several.Several+key.second"}
    for adapter in ("boxes", "boxes:0.50:8"):
        done = cs_run(several, "model=several:detector", f"adapter={adapter}", "metric=boxes", *request)
        assert done.returncode == 0, done.stderr
    assert answers_of(several, "several.detector+boxes.0.5.8")["center.boxes"].shape == (1, 8, 4)


def test_the_range_of_an_output_is_not_that_of_its_classes(several):
    """A mean needs a range: of the scores it is known, of what an adapter makes of them it is not."""
    request = ["model=several:Several", "metric=l2", "certifiers=[center,mean]", "data.path=inputs.npy", "--dry-run"]
    assert cs_run(several, "adapter=key:logits", *request).returncode == 0
    refused = cs_run(several, "adapters=[key:logits,argmax]", *request)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_adapters_reach_other_processes(several, one_worker):
    request = ["model=several:Several", "adapter=key:logits", "data.path=inputs.npy", "points.count=2", "workers=2"]
    done = cs_run(several, *request)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ("adapter=key:scores", "dict with keys 'aux', 'logits', 'second': expected an output of the name 'scores'"),
        ("adapter=key:aux", "the model returned NoneType"),
        ("adapter=key", "adapters has 'key': expected key:NAME"),
        ("adapter=argmax:3", "adapters has 'argmax:3': expected argmax"),
        ("adapter=boxes:0.5", "adapters has 'boxes:0.5': expected boxes:SCORE:COUNT"),
        ("adapter=boxes:half:3", "adapters has 'boxes:half:3': expected boxes:SCORE:COUNT"),
        ("adapter=boxes:0.5:0", "count is 0: expected an integer of at least 1"),
        ("adapter='key:a/b'", "adapters has 'key:a/b': expected key:NAME in letters, digits, _ . and -"),
        ("adapter=argmaks", "adapters has 'argmaks': expected key, argmax or boxes; did you mean argmax?"),
        ("adapter=boxes", "expected a list with a dict for each image"),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_line(several, adapter, expected):
    done = cs_run(several, "model=several:Several", adapter, "data.path=inputs.npy")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert expected in done.stderr


def test_a_registered_model_takes_no_adapter(several):
    done = ask("adapter=argmax", *SMALL, cwd=several)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "models has 'autoencoder', which returns one tensor: expected package.module:factory" in done.stderr


# --- models of other libraries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "metric", "options"),
    [
        ("segmenter", "hamming", ["adapters=[key:out,argmax]", "points.count=1", "forward_block=25", *FEW]),
        ("probabilities", "l1", ["--dry-run", "forward_block=8"]),
        ("detector", "boxes", ["adapter=boxes:0.5:8", "--dry-run", "forward_block=2"]),
    ],
)
def test_the_examples_with_torchvision(tmp_path, factory, metric, options):
    """As they stand, with random weights; one is certified, the others get as far as their first draws."""
    (tmp_path / "vision.py").write_text(VISION)
    np.save(tmp_path / "photographs.npy", np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32))
    done = cs_run(
        tmp_path, f"model=vision:{factory}", f"metric={metric}", "data.path=photographs.npy", "grid.h=[1]", *options
    )
    assert done.returncode == 0, done.stderr
    if "--dry-run" not in options:
        assert (read_rows(tmp_path / "runs" / "custom")["outcome"] == "certified").any()


KINDS = """
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4))


def plain():
    return network()


def exported():
    return torch.export.export(network().eval(), (torch.zeros(128, 8),)).module()


def exported_in_train_mode():
    return torch.export.export(network().train(), (torch.zeros(128, 8),)).module()


def frozen():
    return torch.jit.freeze(torch.jit.script(network().eval()))


def scripted():
    return torch.jit.script(network())


def compiled():
    return torch.compile(network(), backend="eager")


def parallel():
    return nn.DataParallel(network())


def quantised():
    tools = torch.ao.quantization
    model = nn.Sequential(tools.QuantStub(), nn.Linear(8, 3), tools.DeQuantStub()).eval()
    model.qconfig = tools.default_qconfig
    prepared = tools.prepare(model)
    prepared(torch.randn(99, 8))
    return tools.convert(prepared)


class Bfloat16(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network().bfloat16()

    def forward(self, x):
        return self.network(x.bfloat16())


def engine():
    bound = torch.zeros(128, 4)
    kept = network().eval()

    def call(x):
        if len(x) != len(bound):
            raise ValueError("built for 128 inputs")
        return bound.copy_(kept(x))

    return call


def dictionary():
    return lambda x: {"out": x}


def boxes_by_size():
    return lambda x: torch.cat([60 + x[:, :2], 20 + 0 * x[:, :2]], 1)


def one_inverted_box():
    return lambda x: torch.stack([x[:, 0], x[:, 1], x[:, 0] + 1 - 2 * (x[:, 7] > 50), x[:, 1] + 1], 1)


class Unmovable(nn.Module):
    def _apply(self, function, recurse=True):
        raise RuntimeError("bound to\\nits device")

    def forward(self, x):
        return x
"""


@pytest.fixture
def kinds(folder):
    (folder / "kinds.py").write_text(KINDS)
    return folder


def test_modules_of_other_kinds_are_certified_as_the_plain_one(kinds):
    """Exported, frozen and compiled ones, and an engine of one batch size that answers in one buffer."""
    names = ["plain", "exported", "frozen", "scripted", "compiled", "parallel", "engine", "Bfloat16", "quantised"]
    models = ",".join(f"kinds:{name}" for name in names)
    done = cs_run(kinds, f"models=[{models}]", "data.path=inputs.npy", "points.count=2")
    assert done.returncode == 0, done.stderr
    rows = read_rows(kinds / "runs" / "custom").sort_values(["point", "eps"]).groupby("model")["r_center"].apply(list)
    assert set(rows.index) == {f"kinds:{name}" for name in names}
    for name in names[:-1]:
        assert rows[f"kinds:{name}"] == pytest.approx(rows["kinds:plain"], rel=0.1 if name == "Bfloat16" else 1e-3)
    assert min(rows["kinds:quantised"]) > 0


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("exported_in_train_mode", [], "two outputs for one input"),
        ("dictionary", [], "dict with keys 'out'"),
        ("dictionary", ["precision=bfloat16"], "adapter=key:out in cs-run"),
        ("boxes_by_size", ["metric=jaccard"], "torchvision.ops.box_convert"),
        ("Unmovable", [], "cannot be used on cpu: RuntimeError: bound to"),
        ("engine", ["attack=search", "--dry-run"], "a multiple of forward_block, 128"),
    ],
)
def test_a_model_of_another_library_is_refused_in_one_line(kinds, name, options, expected):
    done = cs_run(kinds, f"model=kinds:{name}", "data.path=inputs.npy", *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert expected in done.stderr


def test_an_engine_of_one_batch_size_is_attacked_in_blocks(kinds):
    options = ["attack=search", "attacker.draws=128", "attacker.steps=2", "points.count=1"]
    done = cs_run(kinds, "model=kinds:engine", "data.path=inputs.npy", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert (kinds / "runs" / "custom" / "attack.csv").is_file()


def test_an_inverted_box_at_one_point_is_the_failure_of_that_point(kinds):
    inputs = np.load(kinds / "inputs.npy")
    inputs[1, 7] = 99
    np.save(kinds / "inputs.npy", inputs)
    done = cs_run(kinds, "model=kinds:one_inverted_box", "metric=jaccard", "data.path=inputs.npy", "points.count=3")
    assert done.returncode == 1
    assert "point 1 failed: Jaccard distance came to an inverted box" in done.stdout.replace("\n", " ")
    rows = read_rows(kinds / "runs" / "custom")
    assert set(rows.loc[rows["outcome"] == "certified", "point"]) == {0, 2}
