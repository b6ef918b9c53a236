"""Memory kept by the C library changes no number."""

from __future__ import annotations

import sys

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
