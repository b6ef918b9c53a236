"""The base class of the runner's models."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from centersmooth import Noise

_Module = TypeVar("_Module", bound=nn.Module)


class BaseModel(nn.Module):
    """A model ``(b, *in) -> (b, *out)`` that the runner certifies.

    Attributes
    ----------
    output_range : tuple of float or None
        Hard limits of its outputs; None without any.
    note : str
        What a reader of results has to know about the weights; empty if they are what the experiment asks for.
    prototypes : Tensor or None, shape ``(classes, D)``
        Those that its outputs, embeddings of norm 1, are compared with; None if its outputs are something else.
    """

    output_range: tuple[float, float] | None = None
    note: str = ""
    prototypes: Tensor | None = None

    def inputs(self, examples: Tensor) -> Tensor:
        """Clean examples in the space in which the noise and the perturbation live: here, the examples themselves."""
        return examples

    def at_noise(self, noise: Noise) -> None:
        """Fix what depends on the smoothing law, after training; by default nothing does."""


def channels_last(module: _Module) -> _Module:
    """The module with its weights in PyTorch's channels-last layout, in place."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # left out of PyTorch's annotations
    return module
