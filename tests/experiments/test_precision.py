"""The precision of the model's arithmetic: a part of the cell, and of nothing but the model."""

from __future__ import annotations

import json

import pytest
import torch
from support import compose
from torch import nn

from csrun.errors import RunError
from csrun.models.precision import in_precision, require_float32


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval().requires_grad_(False)


def test_float32_is_the_model_itself(network):
    assert in_precision(network, "float32") is network
    assert "forward" not in vars(network)


def test_bfloat16_has_fewer_digits_and_float32_outputs(network):
    images = torch.rand(4, 1, 8, 8)
    exact = network(images)
    rounded = in_precision(network, "bfloat16")(images)
    assert rounded.dtype == torch.float32
    assert 1e-5 < (rounded - exact).abs().max() / exact.abs().max() < 3e-2
    assert torch.equal(rounded, network(images))


def test_tf32_is_on_inside_the_model_and_nowhere_else():
    """Also where the model fails. On a CPU there is only the switch to be seen."""

    class Seen(nn.Module):
        def forward(self, inputs):
            self.allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
            return inputs / self.divisor

    require_float32()
    model = in_precision(Seen(), "tf32")
    model.divisor = 1.0
    model(torch.ones(1))
    assert model.allowed == (True, True)
    model.divisor = None
    with pytest.raises(TypeError):
        model(torch.ones(1))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_run_in_bfloat16_has_cells_of_its_own(run_small):
    runs = [run_small(), run_small("precision=bfloat16")]
    cells = [json.loads((runs[0].folder / "manifest.json").read_text())["cells"] for _ in runs]
    folders = {path.name for path in runs[0].folder.parent.glob("autoencoder-*")}
    assert len(folders) == 2
    assert cells[1][0]["precision"] == "bfloat16"
    assert runs[1].failed == 0


def test_another_precision_is_refused():
    with pytest.raises(RunError, match="precision is 'float16': expected float32, tf32 or bfloat16"):
        compose("precision=float16")
    with pytest.raises(RunError, match="precision is 'tf32' with device=cpu, which has none"):
        compose("precision=tf32")
