"""Training by one of the methods, and the checkpoints it leaves.

Adam at 1e-3 on the loss of the method. A checkpoint is found again by the digest of everything that shaped it, so the
same request never trains twice and another request never gets the wrong weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from centersmooth import Noise, RandomStream
from csrun.config import TrainConfig, at_least
from csrun.data import DataSet
from csrun.errors import RunError
from csrun.models import ModelSpec
from csrun.models.base import BaseModel, channels_last
from csrun.noise import noise_of
from csrun.registry import METHODS
from csrun.system.files import digest_of, write_atomically
from csrun.system.locks import held
from csrun.training.methods import Method

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Training:
    """Everything that shapes the weights of a model.

    Attributes
    ----------
    model, dataset : str
    data_digest : str
        Identity of the training examples, and of their labels where the method uses them.
    method : str
        A name of `csrun.registry.METHODS`.
    epochs, images, batch_size : int
    noise : tuple of pairs
        The smoothing law, its ``name`` and what it has beside its scale, where the method is noisy or the law changes
        the shape of inputs; else empty.
    scale : float
        Of that law; 0 without.
    seed : int
    device : str
    learning_rate : float
    version : int
        Raised where the same request gives other weights.
    """

    model: str
    dataset: str
    data_digest: str
    method: str
    epochs: int
    images: int
    batch_size: int
    noise: tuple[tuple[str, Any], ...]
    scale: float
    seed: int
    device: str
    learning_rate: float = LEARNING_RATE
    version: int = 2

    @property
    def digest(self) -> str:
        return digest_of(vars(self))

    @property
    def label(self) -> str:
        """``<method>@<scale>``, or the method alone where it trains without noise: what rows say."""
        return f"{self.method}@{self.scale!r}" if build_method(self.method).noisy else self.method

    @property
    def law(self) -> Noise | None:
        """The smoothing law itself; None where the model does not depend on it."""
        return noise_of(dict(self.noise), self.scale) if self.noise else None

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.epochs * -(-self.images // self.batch_size)

    def path(self, out: Path) -> Path:
        """The checkpoint, ``<out>/checkpoints/<model>-<dataset>-<method>-s<scale>-<digest>.safetensors``."""
        name = f"{self.model}-{self.dataset}-{self.method}-s{self.scale:.4g}-{self.digest}.safetensors"
        return out / "checkpoints" / name


def training_of(
    model: str,
    data: DataSet,
    schedule: TrainConfig,
    method: str,
    noise: Mapping[str, Any],
    scale: float,
    seed: int,
    device: str,
) -> Training:
    """The training a configuration asks for; never more images than there are.

    Parameters
    ----------
    noise : mapping
        The smoothing law, its ``name`` and what it has beside its scale; used by a noisy method, or for its shape.
    scale : float
        Of that law.

    Raises
    ------
    RunError
        The method learns from labels, and the data set has none or damaged ones.
    """
    keys = ("epochs", "images", "batch_size")
    epochs, images, batch_size = (at_least(1, f"train.{key}", getattr(schedule, key)) for key in keys)
    images = min(images, len(data.training_split))
    digest, kind = data.training_split.digest(images), build_method(method)
    if kind.target == "labels":
        labels = data.targets(data.training_split, range(images))
        content = hashlib.sha256(labels.numpy().tobytes()).hexdigest() if data.pixelwise else labels.tolist()
        digest = digest_of({"examples": digest, "labels": content})
    example = torch.zeros(data.shape)
    shaped = noise_of(noise, scale).clean(example).shape != example.shape
    law, scale = (tuple(sorted(noise.items())), scale) if kind.noisy or shaped else ((), 0.0)
    return Training(model, data.name, digest, method, epochs, images, batch_size, law, scale, seed, device)


def build_method(name: str) -> Method:
    """The training method of a registered name."""
    method: Method = METHODS[name].build()
    return method


def obtain(
    training: Training,
    spec: ModelSpec,
    data: DataSet,
    out: Path,
    step_done: Callable[[int], None],
    say: Callable[[str], None] | None = None,
) -> tuple[BaseModel, str]:
    """The model with the weights of exactly this training, trained and saved if need be, and their digest.

    Parameters
    ----------
    step_done : callable
        Called with the number of images of each step.
    say : callable, optional
        Where to say that another process trains it, which is then waited for; without it that is a `RunError`.
    """
    path = training.path(out)
    model = fresh_model(training, spec, data)
    with held(path.with_suffix(".lock"), f"the checkpoint {path.name}", say):
        if not path.is_file():
            keep_checkpoint(path, *train_checkpoint(training, spec, data, step_done))
    _load(model, path)
    # A fifth less time on a CPU. Only now: in training it would move the last digits of the weights.
    return channels_last(model).eval().requires_grad_(False), weights_of(path)


def weights_of(checkpoint: Path) -> str:
    """The digest of the weights in a checkpoint, as cells have it."""
    return hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]


def train(model: BaseModel, training: Training, data: DataSet, step_done: Callable[[int], None]) -> float:
    """Train in place; returns the mean loss of the last epoch.

    The order of the images and their noise come from streams keyed by (seed, epoch, step).
    """
    device, method, used = torch.device(training.device), build_method(training.method), range(training.images)
    noise = training.law if method.noisy else None
    images = data.images(data.training_split, used).to(device)
    targets = data.targets(data.training_split, used).to(device) if method.target == "labels" else images
    inputs = torch.cat([model.inputs(part) for part in images.split(1000)])
    if noise is None and training.law is not None:
        inputs = torch.stack(list(map(training.law.clean, inputs)))
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    model.train()
    losses: list[Tensor] = []
    for epoch in range(training.epochs):
        stream = RandomStream(training.seed, point=epoch)
        order = stream.draws("order", 0, images.cpu()).permutation(len(images)).to(device)
        losses = []
        for step, batch in enumerate(order.split(training.batch_size)):
            draws = stream.draws("training noise", step, inputs)
            loss = method.loss(model, inputs[batch], targets[batch], noise, draws, epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step_done(len(batch))
    final = float(torch.stack(losses).mean())
    if not final < float("inf"):
        raise RunError(f"training {training.model} at scale {training.scale:g} diverged (loss {final})")
    return final


def fresh_model(training: Training, spec: ModelSpec, data: DataSet) -> BaseModel:
    """The model before its training, with its first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return spec.build(data, {}, training.law).to(training.device)


def train_checkpoint(
    training: Training, spec: ModelSpec, data: DataSet, step_done: Callable[[int], None]
) -> tuple[bytes, bytes]:
    """Train a model; the bytes of its checkpoint, and those of the record that lies beside it."""
    model, started = fresh_model(training, spec, data), time.perf_counter()
    loss = train(model, training, data, step_done)
    seconds = round(time.perf_counter() - started, 3)
    state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    record: dict[str, Any] = {**vars(training), "final_loss": loss, "seconds": seconds}
    return save(state), json.dumps(record, indent=2).encode() + b"\n"


def keep_checkpoint(path: Path, state: bytes, record: bytes) -> None:
    """Write a checkpoint and its record."""
    write_atomically(path.with_suffix(".json"), record)
    write_atomically(path, state)


def _load(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the checkpoint {os.fspath(path)} does not fit ({reason}): delete it to train again") from error
