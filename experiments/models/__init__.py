"""The registered base models, by the names configurations use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from centersmooth_experiments.data import DataSet
from centersmooth_experiments.errors import RunError
from centersmooth_experiments.models.autoencoder import Autoencoder, Reconstructor

IMAGE_METRICS = ("tv", "l1", "l2", "sql2", "cosine", "angular")


@dataclass(frozen=True)
class ModelSpec:
    """A base model the runner can build.

    Attributes
    ----------
    build : callable
        A fresh model for a data set; draws its weights from torch's global generator.
    metrics : tuple of str
        The metrics its outputs are measured in; one pass over a cell writes rows for all of them.
    """

    build: Callable[[DataSet], nn.Module]
    metrics: tuple[str, ...]


def _autoencoder(data: DataSet) -> nn.Module:
    channels, side, _ = data.shape
    return Autoencoder(channels, side, width=data.model_width)


def _reconstructor(data: DataSet) -> nn.Module:
    channels, side, _ = data.shape
    return Reconstructor(channels, side, width=data.model_width)


MODELS: dict[str, ModelSpec] = {
    "autoencoder": ModelSpec(_autoencoder, IMAGE_METRICS),
    "reconstructor": ModelSpec(_reconstructor, IMAGE_METRICS),
}


def model_spec(name: str) -> ModelSpec:
    """Look a model up by name."""
    if name not in MODELS:
        raise RunError(f"models has '{name}': expected one of {', '.join(MODELS)}")
    return MODELS[name]
