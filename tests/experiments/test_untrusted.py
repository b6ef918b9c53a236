"""No file that is handed in runs code, and none is written outside the folder it belongs to."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from running import run_in
from support import small_biggan

from csrun.data import load_data
from csrun.errors import RunError
from csrun.models.generators import load_biggan, load_face_generator
from csrun.report import panels, plot_cli
from csrun.report.tables import read_manifest
from csrun.training.state import StateFile

ROOT = Path(__file__).parents[2]


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """The file that the payload would create; checked at the end of each test."""
    path = tmp_path / "code was run"
    yield path
    assert not path.exists()


def plain_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


def object_array(path: Path, content: object) -> None:
    with open(path, "wb") as file:
        np.save(file, np.array([[content]], dtype=object), allow_pickle=True)


def object_archive(path: Path, content: object) -> None:
    with open(path, "wb") as file:
        np.savez(file, points=np.array([content], dtype=object), seconds=np.array([content], dtype=object))


def pytorch_file(path: Path, content: object) -> None:
    torch.save({"weight": content}, path)


PICKLES = [plain_pickle, pytorch_file]


@pytest.mark.parametrize("write", [*PICKLES, object_array, object_archive])
def test_the_payload_works_where_pickles_are_trusted(tmp_path, write):
    path, marker = tmp_path / "file", tmp_path / "code was run"
    write(path, Payload(marker))
    if write is pytorch_file:
        torch.load(path, weights_only=False)
    elif write is plain_pickle:
        pickle.loads(path.read_bytes())
    else:
        loaded = np.load(path, allow_pickle=True)
        _ = loaded["points"] if write is object_archive else loaded
    assert marker.exists()


@pytest.mark.parametrize("write", PICKLES)
def test_weights_of_the_face_generator(tmp_path, marker, write):
    write(tmp_path / "generator.pth", Payload(marker))
    with pytest.raises(RunError, match=r"no complete file of PyTorch weights.*weights\.dcgan=PATH"):
        load_face_generator(tmp_path / "generator.pth")


@pytest.mark.parametrize("write", PICKLES)
def test_weights_of_biggan(tmp_path, marker, write):
    pytest.importorskip("pytorch_pretrained_biggan", reason="needs pip install 'centersmooth[gan]'")
    write(small_biggan(tmp_path, 8) / "pytorch_model.bin", Payload(marker))
    with pytest.raises(RunError, match=r"no complete file of PyTorch weights.*weights\.biggan=FOLDER"):
        load_biggan(tmp_path)


@pytest.mark.parametrize("write", PICKLES)
def test_weights_of_lpips(tmp_path, marker, write):
    pytest.importorskip("lpips", reason="needs pip install 'centersmooth[lpips]'")
    from csrun.metrics.perceptual import LPIPS

    write(tmp_path / "vgg.pth", Payload(marker))
    with pytest.raises(RunError, match=r"no complete file of PyTorch weights"):
        LPIPS(tmp_path / "vgg.pth")


@pytest.mark.parametrize("write", [plain_pickle, object_array, object_archive])
def test_arrays_of_inputs(tmp_path, marker, write):
    write(tmp_path / "x.npy", Payload(marker))
    with pytest.raises(RunError, match=r"x\.npy is (no readable array|an archive of arrays)"):
        load_data("files", str(tmp_path / "x.npy"))


def test_batches_of_cifar10(tmp_path, marker):
    """They are pickles; torchvision opens none whose checksum is not the published one."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        plain_pickle(folder / name, Payload(marker))
    with pytest.raises(RunError, match="incomplete or damaged"):
        load_data("cifar10", str(tmp_path))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of runs with one small run."""
    return run_in(tmp_path_factory.mktemp("made"), figures=False).folder.parent


@pytest.fixture
def folder(made, tmp_path):
    """That run's folder, among a copy of the runs, where `run_small` finds it done."""
    return shutil.copytree(made, tmp_path / "runs") / "tv_digits"


@pytest.mark.parametrize("write", PICKLES)
def test_a_checkpoint(folder, run_small, tmp_path, marker, write):
    (checkpoint,) = (tmp_path / "runs" / "checkpoints").glob("*.safetensors")
    write(checkpoint, Payload(marker))
    with pytest.raises(RunError, match=r"does not fit .*: delete it to train again"):
        run_small()


@pytest.mark.parametrize("write", PICKLES)
def test_the_state_of_a_training(tmp_path, marker, write):
    """With the digest that its content has."""
    path, lines = tmp_path / "x.state", []
    write(path, Payload(marker))
    path.write_bytes(hashlib.sha256(path.read_bytes()).digest() + path.read_bytes())
    model = torch.nn.Linear(1, 1)
    assert StateFile(path, "x", lines.append).resume(model, torch.optim.Adam(model.parameters())) == (0, 0.0)
    (line,) = lines
    assert line.startswith("x.state is ignored, for it is damaged (")


@pytest.mark.parametrize("write", [plain_pickle, object_archive])
def test_the_evidence_of_a_cell(folder, run_small, tmp_path, marker, write):
    table = folder / "certificates.csv"
    rows = table.read_text().count("\n")
    for path in (tmp_path / "runs").glob("*/evidence/center.tv-v1/*.npz"):
        write(path, Payload(marker))
    run_small()
    assert table.read_text().count("\n") == rows


@pytest.mark.parametrize("grid", [[{"_target_": "pathlib.Path.touch", "_args_": ["MARKER"]}], "x", [3], 3])
def test_the_record_of_a_cell(folder, run_small, tmp_path, marker, grid):
    (record,) = (tmp_path / "runs").glob("*/run.json")
    content = json.loads(record.read_text()) | {"grid": grid, "_target_": "pathlib.Path.touch", "_args_": [str(marker)]}
    record.write_text(json.dumps(content).replace("MARKER", str(marker)))
    assert run_small().failed == 0


@pytest.mark.parametrize("write", [plain_pickle, object_archive])
def test_a_panel_that_is_drawn_again(folder, marker, capsys, write):
    (panel,) = folder.glob("panel_*.npz")
    write(panel, Payload(marker))
    with pytest.raises(SystemExit) as ending:
        plot_cli.main([str(folder)])
    assert ending.value.code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("key", ["file", "data"])
@pytest.mark.parametrize("name", ["../outside.png", "/outside.png", "a/outside.png"])
def test_a_manifest_that_names_files_elsewhere(folder, key, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["panels"][0][key] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json: expected names of files beside it, got '.*outside\.png'"):
        read_manifest(folder)
    with pytest.raises(ValueError, match="beside it"):
        panels.draw_panels(folder)
    assert not list(folder.parent.rglob("outside*"))


def test_a_manifest_whose_metrics_are_paths(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": ["../x"]}))
    with pytest.raises(ValueError, match=r"beside it, got '\.\./x'"):
        read_manifest(path.parent)


REQUIRED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
FORBIDDEN = {"pickle.load", "pickle.loads", "yaml.load", "hydra.utils.instantiate", "instantiate", "eval", "exec"}


def unsafe_calls(source: str) -> list[str]:
    """Calls that run what a file holds, or unpack archives to disk."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if is_unsafe(call)]


def is_unsafe(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name in FORBIDDEN or name.endswith(("extractall", "unpack_archive")):
        return True
    option, value = REQUIRED.get(name, ("", True))
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return bool(option) and given.get(option) != str(value)


MESSAGES = {
    "experiments/csrun/executors/tasks.py": ["torch.load(io.BytesIO(packed), map_location=device, weights_only=False)"],
    "experiments/csrun/executors/on_cores.py": ["pickle.loads(task.kept.read_bytes())"],
    "centersmooth/contracts/certifiers.py": ["pickle.loads(pickle.dumps(certifier))"],
}
"""What the processes of one run send each other, through Ray, which runs what it is sent anyway, or through a folder
that is theirs alone; and a copy of an object in memory. No file of anybody else's."""


@pytest.mark.parametrize("folder", ["centersmooth", "experiments", "scripts", "bench"])
def test_no_source_reads_files_as_code(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert unsafe_calls(path.read_text()) == MESSAGES.get(path.relative_to(ROOT).as_posix(), []), path


@pytest.mark.parametrize(
    "call", ["torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)", "pickle.load(f)", "z.extractall(p)"]
)
def test_an_unsafe_call_is_found(call):
    assert unsafe_calls(call) == [call]
    assert unsafe_calls("np.load(p, allow_pickle=False), torch.load(p, weights_only=True), model.eval()") == []
