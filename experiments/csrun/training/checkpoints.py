"""Training by one of the methods, and the checkpoints it leaves.

Adam at 1e-3, or Adam or SGD with the field's schedules, on the loss of the method. A checkpoint is found again by the
digest of everything that shaped it, so the same request never trains twice and another request never gets the wrong
weights. A training that is killed goes on from its last state (`csrun.training.state`).
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
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from centersmooth import Noise, RandomStream
from csrun.config import TrainConfig, at_least
from csrun.data import DataSet
from csrun.errors import RunError
from csrun.models import ModelSpec
from csrun.models.base import BaseModel, channels_last
from csrun.models.denoisers import Denoised
from csrun.noise import noise_of
from csrun.registry import METHODS, MODELS
from csrun.system.files import digest_of, write_atomically
from csrun.system.locks import held
from csrun.training.gradients import Gradients
from csrun.training.methods import Method
from csrun.training.names import Parameters, complete, labelled, method_named
from csrun.training.state import SUFFIX, StateFile

LEARNING_RATES = {"adam": 1e-3, "adam_stages": 1e-3, "sgd": 1e-2}
MOMENTUM, WEIGHT_DECAY, DECAY, STAGES = 0.9, 1e-4, 0.1, 3
"""Settings of SGD, as in the code of SmoothMix (Jeong et al. 2021), whose 90 epochs have three stages of rates.

The decays are also those of Adam in stages, as in the code of denoised smoothing (Salman et al. 2020).
"""

_LATER: Mapping[str, object] = {"parameters": (), "optimizer": "adam", "start": None}
"""Fields that a request says only where they are not these: those from before there were any keep their digests."""


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
        At first.
    version : int
        Raised where the same request gives other weights.
    parameters : tuple of pairs
        Every parameter of the method with its value.
    optimizer : str
        ``adam``, or ``adam_stages`` or ``sgd``, whose learning rates fall in stages.
    start : Training, optional
        The training from whose weights this one goes on: of the same model, or of the fixed one behind its denoiser.
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
    learning_rate: float = LEARNING_RATES["adam"]
    version: int = 2
    parameters: Parameters = ()
    optimizer: str = "adam"
    start: Training | None = None

    @property
    def request(self) -> dict[str, Any]:
        """All of it, as plain values."""
        said = {name: value for name, value in vars(self).items() if value != _LATER.get(name, ...)}
        return said if self.start is None else said | {"start": self.start.request}

    @property
    def chain(self) -> tuple[Training, ...]:
        """The training with those before it, in their order."""
        return (*(self.start.chain if self.start else ()), self)

    @property
    def digest(self) -> str:
        return digest_of(self.request)

    @property
    def label(self) -> str:
        """``<method>@<scale>``, or the method alone where it trains without noise: what rows say.

        Parameters that are not the defaults stand in brackets, as `csrun.training.names` has it.
        """
        name = labelled(self.method, self.parameters, self.scale)
        return f"{name}@{self.scale!r}" if kind_of(self.method).noisy else name

    @property
    def objective(self) -> Method:
        """The method itself."""
        method: Method = kind_of(self.method)(**dict(self.parameters))
        return method

    @property
    def learns(self) -> str:
        """The kind of targets that its model learns."""
        return kind_of(self.method).target or MODELS[self.model].target

    @property
    def law(self) -> Noise | None:
        """The smoothing law itself; None where the model does not depend on it."""
        return noise_of(dict(self.noise), self.scale) if self.noise else None

    @property
    def passes(self) -> int:
        """Work in forward passes."""
        return self.objective.passes * self.epochs * self.images

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
    method : str
        As a request names it, ``consistency`` or ``consistency[weight=5]``.
    noise : mapping
        The smoothing law, its ``name`` and what it has beside its scale; used by a noisy method, or for its shape.
    scale : float
        Of that law.

    Raises
    ------
    RunError
        The method learns from labels, and the data set has none or damaged ones; or it cannot train with the noise.
    """
    keys = ("epochs", "images", "batch_size")
    epochs, images, batch_size = (at_least(1, f"train.{key}", getattr(schedule, key)) for key in keys)
    images = min(images, len(data.training_split))
    name, given = method_named(method)
    kind, digest = kind_of(name), data.training_split.digest(images)
    if (kind.target or MODELS[model].target) == "labels":
        labels = data.targets(data.training_split, range(images))
        content = hashlib.sha256(labels.numpy().tobytes()).hexdigest() if data.pixelwise else labels.tolist()
        digest = digest_of({"examples": digest, "labels": content})
    before = _before(model, kind)
    start = training_of(before[0], data, schedule, before[1], noise, scale, seed, device) if before else None
    example, law = torch.zeros(data.shape), noise_of(noise, scale)
    asked, parameters = tuple(sorted(noise.items())), complete(name, given, scale)
    objective: Method = kind(**dict(parameters))
    try:
        objective.require_suited(law, example)
    except RunError as error:
        raise RunError(f"train.method has '{method}': {error}; choose another method or noise") from error
    if epochs <= objective.deferred:
        raise RunError(
            f"train.epochs is {epochs}: expected more than the first {objective.deferred}, in which a part of the loss "
            f"of '{method}' does not count, or a smaller deferred"
        )
    if not kind.noisy and law.clean(example).shape == example.shape:
        asked, scale = (), 0.0
    return Training(
        model,
        data.name,
        digest,
        name,
        epochs,
        images,
        batch_size,
        asked,
        scale,
        seed,
        device,
        LEARNING_RATES[schedule.optimizer],
        parameters=parameters,
        optimizer=schedule.optimizer,
        start=start,
    )


def _before(model: str, kind: type[Method]) -> tuple[str, str] | None:
    """The model and the method of the training that one starts from; None where it starts from first weights."""
    if kind.after:
        return model, kind.after
    if kind.target in ("denoising", "diffusion") and MODELS[model].fixed:
        return MODELS[model].fixed, "none"
    return None


def kind_of(name: str) -> type[Method]:
    """The class of a registered training method."""
    kind: type[Method] = METHODS[name].load()
    return kind


def obtain(
    training: Training,
    spec: ModelSpec,
    data: DataSet,
    out: Path,
    step_done: Callable[[int], None],
    say: Callable[[str], None] | None = None,
    report: Report | None = None,
) -> tuple[BaseModel, str]:
    """The model with the weights of exactly this training, trained and saved if need be, and their digest.

    The checkpoint of the training that it starts from has to be there.

    Parameters
    ----------
    step_done : callable
        Called with the number of images of each step.
    say : callable, optional
        Where to say that another process trains it, which is then waited for; without it that is a `RunError`.
    report : Report, optional
        Where to say how the training goes.
    """
    path = training.path(out)
    model = fresh_model(training, spec, data)
    with held(path.with_suffix(".lock"), f"the checkpoint {path.name}", say):
        if not path.is_file():
            start = training.start.path(out).read_bytes() if training.start else None
            keep_checkpoint(path, *train_checkpoint(training, spec, data, step_done, path, report, start))
    _load(model, path)
    # A fifth less time on a CPU. Only now: in training it would move the last digits of the weights.
    return channels_last(model).eval().requires_grad_(False), weights_of(path)


def weights_of(checkpoint: Path) -> str:
    """The digest of the weights in a checkpoint, as cells have it."""
    return hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Report:
    """How a training goes, for people.

    Attributes
    ----------
    line : callable
        Takes a line that is to stay.
    epoch : callable
        Takes the number of epochs done, that of all, and the mean loss of the last one.
    resumed : callable
        Takes the number of images of the epochs that an earlier run has done.
    """

    line: Callable[[str], None] = lambda line: None
    epoch: Callable[[int, int, float], None] = lambda done, epochs, loss: None
    resumed: Callable[[int], None] = lambda images: None


def train(
    model: BaseModel,
    training: Training,
    data: DataSet,
    step_done: Callable[[int], None],
    state: StateFile | None = None,
    report: Report | None = None,
) -> tuple[float, float]:
    """Train in place; returns the mean loss of the last epoch, and the seconds it took, interruptions left out.

    The order of the images and their noise come from streams keyed by (seed, epoch, step), so that a training that goes
    on after an epoch ends with the same weights.
    """
    started, report = time.perf_counter(), report or Report()
    device, method, used = torch.device(training.device), training.objective, range(training.images)
    noise = training.law if method.noisy else None
    images = data.images(data.training_split, used).to(device)
    targets = data.targets(data.training_split, used).to(device) if training.learns == "labels" else images
    inputs = torch.cat([model.inputs(part) for part in images.split(1000)])
    if noise is None and training.law is not None:
        inputs = torch.stack(list(map(training.law.clean, inputs)))
    optimizer = _optimizer(model, training)
    gradients = Gradients(model, method, noise, graphs=_captures(inputs, noise))
    done, before = state.resume(model, optimizer) if state else (0, 0.0)
    report.resumed(done * training.images)
    model.train()
    final = float("nan")
    for epoch in range(done, training.epochs):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(training, epoch)
        stream, losses = RandomStream(training.seed, point=epoch), []
        order = stream.draws("order", 0, torch.empty(0)).permutation(len(images)).to(device)
        steps = (chunk for batch in order.split(training.batch_size) for chunk in batch.chunk(method.chunks))
        for step, chosen in enumerate(steps):
            draws = stream.draws("training noise", step, inputs)
            losses.append(gradients(inputs[chosen], targets[chosen], draws, epoch))
            optimizer.step()
            step_done(len(chosen))
        final = float(torch.stack(losses).mean())  # the one time in an epoch that the host waits for the device
        if not final < float("inf"):
            raise RunError(f"training {training.model} at scale {training.scale:g} diverged (loss {final})")
        if state and epoch + 1 < training.epochs:
            state.keep(model, optimizer, epoch + 1, before + time.perf_counter() - started)
        report.epoch(epoch + 1, training.epochs, final)
    return final, before + time.perf_counter() - started


def _captures(inputs: Tensor, noise: Noise | None) -> bool:
    """Whether steps are captured as graphs: on CUDA, unless the law draws for each input from the host."""
    return inputs.is_cuda and torch.cuda.is_available() and (noise is None or noise.coordinatewise)


def _optimizer(model: BaseModel, training: Training) -> torch.optim.Optimizer:
    rate, parameters = training.learning_rate, [one for one in model.parameters() if one.requires_grad]
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    decay = WEIGHT_DECAY if training.optimizer == "adam_stages" else 0.0
    return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)


def _learning_rate(training: Training, epoch: int) -> float:
    """The learning rate of an epoch, from 0: in stages a tenth in the second third of them, a hundredth in the last."""
    if training.optimizer == "adam":
        return training.learning_rate
    return training.learning_rate * DECAY ** (epoch // -(-training.epochs // STAGES))


def fresh_model(training: Training, spec: ModelSpec, data: DataSet) -> BaseModel:
    """The model before its training, with its first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return spec.build(data, {}, training.law).to(training.device)


def train_checkpoint(
    training: Training,
    spec: ModelSpec,
    data: DataSet,
    step_done: Callable[[int], None],
    path: Path | None = None,
    report: Report | None = None,
    start: bytes | None = None,
) -> tuple[bytes, bytes]:
    """Train a model; the bytes of its checkpoint, and those of the record that lies beside it.

    Parameters
    ----------
    path : Path, optional
        The checkpoint's: beside it lies the state of a training that was killed, from which this one goes on. Only
        under the checkpoint's lock; without it nothing is read or written.
    start : bytes, optional
        The checkpoint of ``training.start``, where there is one.
    """
    report = report or Report()
    model = fresh_model(training, spec, data)
    if training.start is not None:
        assert start is not None  # whoever trains has it
        _start_from(model, training, load(start))
    state = StateFile(path.with_suffix(SUFFIX), training.digest, report.line) if path else None
    loss, seconds = train(model, training, data, step_done, state, report)
    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    record: dict[str, Any] = {**training.request, "final_loss": loss, "seconds": round(seconds, 3)}
    return save(weights), json.dumps(record, indent=2).encode() + b"\n"


def _start_from(model: BaseModel, training: Training, weights: Mapping[str, Tensor]) -> None:
    """Give a model the weights of the training before, which may be those of the fixed model behind its denoiser."""
    assert training.start is not None
    part: nn.Module = model
    if training.start.model != training.model:
        assert isinstance(model, Denoised)
        part = model.model
    part.load_state_dict(weights, strict=True)


def keep_checkpoint(path: Path, state: bytes, record: bytes) -> None:
    """Write a checkpoint and its record; the state of its training goes."""
    write_atomically(path.with_suffix(".json"), record)
    write_atomically(path, state)
    path.with_suffix(SUFFIX).unlink(missing_ok=True)


def _load(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the checkpoint {os.fspath(path)} does not fit ({reason}): delete it to train again") from error
