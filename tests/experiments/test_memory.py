"""Memory kept by the C library changes no number."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from centersmooth_experiments import memory


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

from centersmooth import Budget, GaussianNoise, RandomStream, TotalVariation
from centersmooth.evidence import gather
from centersmooth.sampling import Sampler
from centersmooth_experiments.memory import keep_freed_memory


def model(images):
    return torch.stack([kept.clone() for kept in images])  # tensors made and freed, as in a forward pass


keep_freed_memory()
sampler = Sampler(model, GaussianNoise(0.2), 128, 1024)
x, metrics = torch.rand(1, 28, 28), {"tv": TotalVariation()}
peaks = []
for m in (2_000, 120_000):
    gather(sampler, metrics, Budget(500, m, 0.2, 0.05, 0.05), x, RandomStream(0))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) // 2**10)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux only")
def test_a_draw_costs_eight_bytes_of_memory_and_not_its_output():
    """118,000 outputs are 370 MiB; small tensors kept between them once kept as much from being used again."""
    grown = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 100
