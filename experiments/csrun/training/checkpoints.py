"""Noise-augmented training, and the checkpoints it leaves.

Adam at 1e-3 on the mean squared error between the output for a noisy input and the clean image (section 5 of the
paper). A checkpoint is found again by the digest of everything that shaped it, so the same request never trains twice
and another request never gets the wrong weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from centersmooth import RandomStream
from centersmooth.draws import Draws
from csrun.config import TrainConfig, at_least
from csrun.data import DataSet
from csrun.errors import RunError
from csrun.models import ModelSpec
from csrun.models.base import BaseModel, channels_last
from csrun.system.files import digest_of, write_atomically
from csrun.system.locks import held

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Training:
    """Everything that shapes the weights of a model."""

    model: str
    dataset: str
    data_digest: str
    epochs: int
    images: int
    batch_size: int
    train_sigma: float
    seed: int
    device: str
    learning_rate: float = LEARNING_RATE
    version: int = 2

    @property
    def digest(self) -> str:
        return digest_of(vars(self))

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.epochs * -(-self.images // self.batch_size)

    def path(self, out: Path) -> Path:
        """The checkpoint, ``<out>/checkpoints/<model>-<dataset>-s<train_sigma>-<digest>.safetensors``."""
        name = f"{self.model}-{self.dataset}-s{self.train_sigma:.4g}-{self.digest}.safetensors"
        return out / "checkpoints" / name


def training_of(
    model: str, data: DataSet, schedule: TrainConfig, train_sigma: float, seed: int, device: str
) -> Training:
    """The training a configuration asks for; never more images than there are."""
    keys = ("epochs", "images", "batch_size")
    epochs, images, batch_size = (at_least(1, f"train.{key}", getattr(schedule, key)) for key in keys)
    images = min(images, len(data.training_split))
    digest = data.training_split.digest(images)
    return Training(model, data.name, digest, epochs, images, batch_size, train_sigma, seed, device)


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
    model = _fresh_model(training, spec, data)
    with held(path.with_suffix(".lock"), f"the checkpoint {path.name}", say):
        if not path.is_file():
            keep_checkpoint(path, *train_checkpoint(training, spec, data, step_done))
    _load(model, path)
    # A fifth less time on a CPU. Only now: in training it would move the last digits of the weights.
    return channels_last(model).eval().requires_grad_(False), hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def train(model: BaseModel, training: Training, data: DataSet, step_done: Callable[[int], None]) -> float:
    """Train in place; returns the mean loss of the last epoch.

    The order of the images and their noise come from streams keyed by (seed, epoch, step).
    """
    device = torch.device(training.device)
    images = data.images(data.training_split, range(training.images)).to(device)
    inputs = torch.cat([model.inputs(part) for part in images.split(1000)])
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    model.train()
    losses: list[Tensor] = []
    for epoch in range(training.epochs):
        stream = RandomStream(training.seed, point=epoch)
        order = stream.draws("order", 0, images.cpu()).permutation(len(images)).to(device)
        losses = []
        for step, batch in enumerate(order.split(training.batch_size)):
            noisy = _with_noise(inputs[batch], training.train_sigma, stream.draws("training noise", step, inputs))
            loss = nn.functional.mse_loss(model(noisy), images[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step_done(len(batch))
    final = float(torch.stack(losses).mean())
    if not final < float("inf"):
        raise RunError(f"training {training.model} at sigma {training.train_sigma:g} diverged (loss {final})")
    return final


def _with_noise(inputs: Tensor, sigma: float, draws: Draws) -> Tensor:
    return inputs + sigma * draws.normal(tuple(inputs.shape)) if sigma else inputs


def _fresh_model(training: Training, spec: ModelSpec, data: DataSet) -> BaseModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return spec.build(data, {}).to(training.device)


def train_checkpoint(
    training: Training, spec: ModelSpec, data: DataSet, step_done: Callable[[int], None]
) -> tuple[bytes, bytes]:
    """Train a model; the bytes of its checkpoint, and those of the record that lies beside it."""
    model, started = _fresh_model(training, spec, data), time.perf_counter()
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
