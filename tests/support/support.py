"""Composing configurations as the command line does; a run of a second."""

from __future__ import annotations

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from centersmooth_experiments.cli import config_folder
from centersmooth_experiments.config import Config, register_schema, resolve

SMALL = [
    "budget=smoke",
    "points.count=2",
    "grid.eps=[0.4]",
    "grid.h=[1]",
    "n=1000",
    "m=1100",
    "train.epochs=1",
    "train.images=100",
]
"""A run of a second: one cell, two points."""


def compose(*overrides: str) -> Config:
    """The configuration a command line gives."""
    register_schema()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return resolve(hydra_compose("config", list(overrides)), cuda=False)
