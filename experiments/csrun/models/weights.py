"""Weights from outside: read as data, adopted strictly, identified by their bytes."""

from __future__ import annotations

import hashlib
import pickle
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from csrun.errors import RunError, first_line

_Module = TypeVar("_Module", bound=nn.Module)


def read_weights(path: str | Path, fix: str) -> Mapping[str, Tensor]:
    """A state dict from a file, read as data: nothing in it is run.

    Parameters
    ----------
    fix : str
        The option to set, with a placeholder: ``weights.dcgan=PATH``.

    Raises
    ------
    RunError
        One line naming the file and the option.
    """
    if not Path(path).is_file():
        raise RunError(f"there is no file {path}: set {fix} to the weights")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({first_line(error)}): set {fix} to a good copy") from error
    except Exception as error:  # damaged bytes may raise anything
        raise RunError(
            f"{path} is no complete file of PyTorch weights{_content(path, error)}: "
            f"fetch it again, or set {fix} to a good copy"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{path} holds no state dict of tensors ({type(state).__name__}): set {fix} to one")
    return state


def _content(path: str | Path, error: Exception) -> str:
    """Description of a file that is not what was expected."""
    with Path(path).open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"<"):
        return " (it looks like a web page)"
    if start.startswith(b"version https://git-lfs"):
        return " (it is a Git LFS pointer)"
    pickled = isinstance(error, pickle.UnpicklingError) and start.startswith((b"PK", b"\x80"))
    return " (it holds more than tensors)" if pickled else ""


def adopt_weights(module: nn.Module, state: Mapping[str, Tensor], path: str | Path, fix: str) -> None:
    """Make the tensors of a state dict the module's own, which may have been built on the meta device.

    Raises
    ------
    RunError
        One line, where a name or a shape differs.
    """
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error).partition(":")[2] or str(error), 150, placeholder=" ...")
        raise RunError(f"{path} holds weights of another network ({reason}): set {fix} to fitting ones") from error


def frozen(module: _Module) -> _Module:
    """Freeze a network: float32, eval mode, no gradients of its weights."""
    return module.float().eval().requires_grad_(False)


def weights_digest(module: nn.Module) -> str:
    """Sixteen hexadecimal digits of all parameters and buffers: names, types, shapes, bytes."""
    content = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        for line in _content_of(name, value):
            content.update(line)
    return content.hexdigest()[:16]


def _content_of(name: str, value: object) -> Iterator[bytes]:
    """A value of a state dict as bytes; quantised modules have tuples, types and quantised tensors among them."""
    if isinstance(value, (tuple, list)):
        for index, element in enumerate(value):
            yield from _content_of(f"{name}.{index}", element)
    elif not isinstance(value, Tensor):
        yield f"{name} {value!r}\n".encode()
    elif value.is_quantized:
        yield f"{name} {value.qscheme()}\n".encode()
        yield from _content_of(f"{name}.values", value.int_repr())
        yield from _content_of(f"{name}.dequantized", value.dequantize())
    else:
        yield f"{name} {value.dtype} {tuple(value.shape)}\n".encode()
        # As bytes: NumPy has no bfloat16.
        yield value.detach().cpu().to_dense().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
