"""The base models, by the names configurations use; ``package.module:factory`` names your own.

A model that is trained here is built for a data set; a pre-trained one is loaded from its weights. Either way it maps
``(b, *in)`` to ``(b, *out)``, has ``inputs(images)`` (clean examples to the space the noise lives in) and an
``output_range`` (hard limits of its outputs, or None).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from centersmooth import Noise
from centersmooth.adapters import Adapted, Key
from centersmooth.errors import is_out_of_memory
from csrun import registry
from csrun.adapters import build_adapter
from csrun.data import DataSet
from csrun.errors import RunError, first_line
from csrun.models.base import BaseModel
from csrun.models.weights import weights_digest

Weights = Mapping[str, str | None]
"""Paths of pre-trained weights by the names of ``weights.<name>``."""


@dataclass(frozen=True)
class ModelSpec:
    """A base model the runner can build.

    Attributes
    ----------
    build : callable
        The model for a data set, the paths of weights and the smoothing law, or None for one that leaves inputs in
        their shape; a trained one draws its weights from torch's global generator.
    metrics : tuple of str
        The metrics its outputs are measured in; one pass over a cell writes rows for all of them. Empty: those the
        configuration asks for.
    trained : bool
        Whether it is trained here; else it comes with its weights.
    unit : str
        What ``eps`` and ``sigma`` are measured in, where ``{}`` stands for the unit of the examples.
    target : str
        What it can be trained to do, as `csrun.training.methods.Method.target` says.
    """

    build: Callable[[DataSet, Weights, Noise | None], BaseModel]
    metrics: tuple[str, ...]
    trained: bool = True
    unit: str = "{}"
    target: str = "examples"


MODELS = {
    name: ModelSpec(entry.build, entry.metrics, entry.trained, entry.unit, entry.target)
    for name, entry in registry.MODELS.items()
}


def weights_path(weights: Weights, name: str, file: str) -> str | None:
    """``weights.<name>`` if it is set, else the file of that name in ``$CENTERSMOOTH_DATA``, else None."""
    folder = os.environ.get("CENTERSMOOTH_DATA")
    beside_data = Path(folder) / file if folder else None
    if weights.get(name):
        return weights[name]
    return str(beside_data) if beside_data is not None and beside_data.exists() else None


class Custom(BaseModel):
    """A user's model as the runner needs it: its inputs are the examples as they come.

    Parameters
    ----------
    adapters : sequence of str
        Of what it returns, as a configuration names them. Its range and its prototypes are about what it returns, so
        that they hold behind an adapter that takes one of its outputs, and behind no other.
    """

    def __init__(self, function: Callable[[Tensor], Any], adapters: Sequence[str] = ()) -> None:
        super().__init__()
        built = [build_adapter(one) for one in adapters]
        self.function = Adapted(function, *built) if built else function
        if all(isinstance(one, Key) for one in built):
            self.output_range = getattr(function, "output_range", None)
            self.prototypes = getattr(function, "prototypes", None)

    def forward(self, inputs: Tensor) -> Any:
        outputs = self.function(inputs)
        # To the digit the same, and NumPy, which keeps them, has no bfloat16.
        bfloat16 = isinstance(outputs, Tensor) and outputs.dtype == torch.bfloat16
        return outputs.float() if bfloat16 else outputs


def build_model(spec: ModelSpec, data: DataSet, weights: Weights, noise: Noise | None, device: str) -> BaseModel:
    """A model that comes with its weights, on a device; `evaluating` takes care of its mode."""
    model = spec.build(data, weights, noise)
    try:
        return model.to(device).requires_grad_(False)
    except Exception as error:  # what users bring may be built for one device, or have parameters of its own kind
        if is_out_of_memory(error):
            raise
        raise RunError(f"the model cannot be used on {device}: {type(error).__name__}: {first_line(error)}") from error


def in_type_of(model: nn.Module, examples: Tensor) -> Tensor:
    """Examples in the type in which a model computes, float32 or float64: that of its first parameter or buffer.

    What has no state, such as a user's function, takes them as they come. So does a model in half precision, which has
    to convert them itself: the input that is certified is not rounded to three digits.

    Raises
    ------
    RunError
        A number is beyond that type.
    """
    types = [state.dtype for state in (*model.parameters(), *model.buffers()) if state.is_floating_point()]
    if types[:1] not in ([torch.float32], [torch.float64]):
        return examples
    converted = examples.to(types[0])
    if not bool(torch.isfinite(converted).all()):
        raise RunError(f"the inputs hold numbers beyond {types[0]}, the type of the model's parameters: scale them")
    return converted


def model_spec(name: str, adapters: Sequence[str] = ()) -> ModelSpec:
    """Look a model up by name, or import ``package.module:factory``, which adapters may follow."""
    if ":" in name:
        factory = import_factory(name, "models")
        return ModelSpec(lambda data, weights, noise: Custom(call_factory(factory, name), adapters), (), trained=False)
    registry.require_known("models has", name, MODELS, more=", or package.module:factory")
    return MODELS[name]


def import_own(name: str, key: str) -> object:
    """The object ``package.module:factory`` names; the working folder is searched too."""
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # a module of a user's may do anything when it is imported
        said = first_line(error)
        reason = said if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: {said}"
        raise RunError(f"{key} has '{name}', which cannot be imported ({reason}): expected module:factory") from error


def import_factory(name: str, key: str) -> Callable[[], Any]:
    """The function without arguments that ``package.module:factory`` names."""
    factory = import_own(name, key)
    if not callable(factory):
        raise RunError(f"{key} has '{name}', which is {type(factory).__name__}: expected a function without arguments")
    return factory


def call_factory(
    factory: Callable[..., Any],
    name: str,
    *arguments: object,
    expected: str = "a model or function on a batch",
    kinds: tuple[Any, ...] = (Callable,),
) -> Any:
    """Call a user's factory; its own error becomes one line."""
    try:
        made = factory(*arguments)
    except (Exception, SystemExit) as error:
        raise RunError(f"the factory {name} failed: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(made, kinds):
        raise RunError(f"the factory {name} returned {type(made).__name__}: expected {expected}")
    return made


def model_digest(model: nn.Module, name: str) -> str:
    """Identity of a model that was not trained here: its state and its name."""
    return f"{weights_digest(model)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
