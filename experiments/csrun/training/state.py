"""The state of a training under way, beside its checkpoint: a killed training goes on from there, to the same weights.

A file is a SHA-256 digest and what it is the digest of. It is written at the end of an epoch and read only by the same
training under the same version of PyTorch; whatever else lies there is ignored with a line.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from csrun.system.files import write_atomically

SUFFIX = ".state"
SECONDS_BETWEEN = 30.0
"""Least time between two states, which are as large as three checkpoints."""

_VERSION = 1
_DIGEST = hashlib.sha256().digest_size


@dataclass
class StateFile:
    """The state of one training.

    Parameters
    ----------
    path : Path
    training : str
        The training's digest.
    say : callable
        Takes a line: what was ignored, or from where the training goes on.
    """

    path: Path
    training: str
    say: Callable[[str], None]
    _written: float = field(default_factory=time.monotonic)

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Put model and optimizer where the training was, if a state of it is there.

        Returns
        -------
        epochs : int
            Those that are done; 0 without a state.
        seconds : float
            What they took.
        """
        if not self.path.is_file():
            return 0, 0.0
        try:
            state = unpacked(self.path.read_bytes())
        except Exception as error:  # whatever reading bytes of any content can raise
            self.say(f"{self.path.name} is ignored, for it is damaged ({type(error).__name__}): training starts anew")
            return 0, 0.0
        if state["identity"] != self._identity or _shapes(state["model"]) != _shapes(model.state_dict()):
            self.say(f"{self.path.name} is ignored, for it is of another version or training: training starts anew")
            return 0, 0.0
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        self.say(f"training goes on after epoch {state['epochs']}, from {self.path.name}")
        return state["epochs"], state["seconds"]

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, seconds: float) -> None:
        """Write the state after so many epochs, unless the last one was written a moment ago."""
        if time.monotonic() - self._written < SECONDS_BETWEEN:
            return
        state = {
            "identity": self._identity,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epochs": epochs,
            "seconds": seconds,
        }
        packed = io.BytesIO()
        torch.save(state, packed)
        content = packed.getvalue()
        write_atomically(self.path, hashlib.sha256(content).digest() + content)
        self._written = time.monotonic()

    @property
    def _identity(self) -> list[Any]:
        return [_VERSION, self.training, str(torch.__version__)]


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def unpacked(content: bytes) -> dict[str, Any]:
    """The state in a file.

    Raises
    ------
    ValueError
        It is not what was written.
    """
    digest, packed = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(packed).digest() != digest:
        raise ValueError("digest")
    state: dict[str, Any] = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    return state
