"""Memory kept by the C library changes no number, and memory that runs out costs no row."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from support import SMALL, compose
from torch import nn

from centersmooth import GaussianNoise
from centersmooth.errors import ForwardMemoryError
from centersmooth.metrics import TotalVariation
from centersmooth.sampling import Sampler
from csrun.cli import main as cs_run
from csrun.errors import RunError
from csrun.models.autoencoder import Autoencoder
from csrun.runner import run
from csrun.system import memory
from csrun.system.progress import Display


def test_outputs_are_the_same_before_and_after():
    network, images = nn.Conv2d(1, 32, 3).eval(), torch.rand(64, 1, 28, 28)
    before = network(images)
    memory.keep_freed_memory()
    assert torch.equal(network(images), before)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory()


PEAK = """
import resource

import torch

from centersmooth import Budget, Center, GaussianNoise, RandomStream, TotalVariation
from centersmooth.gathering import gather
from centersmooth.sampling import Sampler
from csrun.system.memory import keep_freed_memory


def model(images):
    return torch.stack([kept.clone() for kept in images])  # tensors made and freed, as in a forward pass


torch.set_num_threads(1)
keep_freed_memory()
sampler = Sampler(model, GaussianNoise(0.2), 128, 1024)
x, certifiers = torch.rand(1, 28, 28), {"tv": Center(TotalVariation())}
peaks = []
for m in (2_000, 30_000):
    gather(sampler, certifiers, Budget(500, m, 0.2, 0.05, 0.05), x, RandomStream(0))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) // 2**10)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux only")
def test_a_draw_costs_eight_bytes_of_memory_and_not_its_output():
    """28,000 outputs are 84 MiB; small tensors kept between them once kept as much from being used again."""
    grown = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 25


def rows_and_words(out, *overrides):
    said = io.StringIO()
    folder = run(compose(*SMALL, f"out={out}", *overrides), Display(Console(file=said, width=300)), "test").folder
    with open(folder / "certificates.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)], said.getvalue()


def too_much(kind):
    """What PyTorch or numpy raise where a device, or the host, has no memory left; on the host for real."""
    if kind == "device":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if kind == "host":
        torch.empty(2**60)
    raise MemoryError("Unable to allocate 9 EiB")


KINDS = ["device", "host", "numpy"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return rows_and_words(tmp_path_factory.mktemp("usual"))


@pytest.fixture
def trained(tmp_path, checkpoints):
    """Training is not what runs out of memory."""
    shutil.copytree(checkpoints, tmp_path / "runs" / "checkpoints")


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_too_large_is_halved_and_no_row_changes(tmp_path, monkeypatch, kind, usual, trained):
    expected, quiet = usual
    check_values = Sampler._check_values

    def holding(self, batch, what):
        if sum(map(len, batch)) > 300:
            too_much(kind)
        check_values(self, batch, what)

    monkeypatch.setattr(Sampler, "_check_values", holding)
    rows, said = rows_and_words(tmp_path / "runs", "batch_size=1000")
    assert rows == expected
    assert "memory ran out" not in quiet
    assert [line for line in said.splitlines() if "memory" in line] == [
        f"memory ran out on point 0: again with batch_size={size}, which changes no row" for size in (448, 192)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_too_large_stops_the_run_in_one_line(tmp_path, monkeypatch, capsys, kind, trained):
    forward = Autoencoder.forward
    monkeypatch.setattr(Autoencoder, "forward", lambda s, x: too_much(kind) if len(x) == 96 else forward(s, x))
    assert ended(tmp_path, "forward_block=96") == 2
    assert capsys.readouterr().err.splitlines() == [
        "cs-run: memory ran out in a call of the model on 96 inputs: lower forward_block"
    ]
    assert ended(tmp_path, "forward_block=48") == 0


def test_a_block_that_stops_fitting_says_which_would(tmp_path, monkeypatch):
    calls, forward = [0], Autoencoder.forward

    def failing(self, inputs):
        calls[0] += len(inputs) == 96
        return too_much("device") if calls[0] > 10 else forward(self, inputs)

    monkeypatch.setattr(Autoencoder, "forward", failing)
    with pytest.raises(RunError, match="forward_block=96 inputs, the least batch there is: forward_block=48"):
        rows_and_words(tmp_path, "forward_block=96")


@pytest.mark.parametrize("kind", KINDS)
def test_distances_too_large_are_not_blamed_on_the_batch(tmp_path, monkeypatch, capsys, kind, trained):
    monkeypatch.setattr(TotalVariation, "self_rows", lambda self, features: too_much(kind))
    assert ended(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "outputs of a point and their distances, which do not depend on batch_size: lower n" in line


def test_no_memory_while_training_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Autoencoder, "forward", lambda s, x: too_much("device"))
    assert ended(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lower train.batch_size if it was training" in line


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_tells_memory_from_a_model_that_fails(kind):
    sampler = Sampler(lambda x: too_much(kind), GaussianNoise(1.0), 8, 8)
    with pytest.raises(ForwardMemoryError, match="8 inputs: lower forward_block"):
        sampler.base_output(torch.zeros(3))


def ended(tmp_path, *overrides):
    with pytest.raises(SystemExit) as ending:
        cs_run([*SMALL, f"out={tmp_path / 'runs'}", *overrides])
    return ending.value.code
