"""The arithmetic of the base model: a declared property of the function that is certified.

``float32`` is to the letter: no TensorFloat-32 on CUDA, where PyTorch would use it for convolutions. ``tf32`` and
``bfloat16`` compute the model, and nothing else, with fewer digits on hardware that is several times faster at it. The
model in another precision is another function ``f``, with cells of its own; a certificate holds for the function as it
was computed, so what is deployed has to compute it in the same way. Noise, distances and the networks of metrics stay
as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from csrun.models.base import BaseModel


def require_float32() -> None:
    """Switch TensorFloat-32 off for this process; `in_precision` switches it on around a model that declares it."""
    _allow_tf32(False)


def in_precision(model: BaseModel, precision: str) -> BaseModel:
    """The model, computed in this precision from now on; its outputs stay float32.

    Parameters
    ----------
    precision : str
        One of `registry.PRECISIONS`. ``tf32`` is float32 where there is no CUDA device; ``bfloat16`` is autocast:
        matrix products and convolutions, not what needs more digits.
    """
    if precision == "float32":
        return model
    forward = model.forward

    def computed(inputs: Tensor) -> Tensor:
        with _tf32() if precision == "tf32" else torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = forward(inputs)
        return outputs.float() if isinstance(outputs, Tensor) else outputs  # what is no tensor is refused by name

    model.forward = computed
    return model


@contextmanager
def _tf32() -> Iterator[None]:
    _allow_tf32(True)
    try:
        yield
    finally:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed
