"""Values in a few words: in messages, with the way to make one plain tensor of them, and in the `repr` of objects."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.masked import MaskedTensor

REAL_TYPES: Final = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    }
)
"""Types PyTorch calculates with; others (8-bit floats, long unsigned integers) can only be stored and converted."""

CONFIGURED_KEY: Final = re.compile(r"[\w.-]+")
"""Keys that a configuration can name."""

_SHOWN = 4


def unplain(tensor: Tensor) -> tuple[str, str] | None:
    """Kind of a tensor that is not an array of real numbers, and an expression that makes one of it; else None.

    >>> unplain(torch.eye(2)), unplain(torch.eye(2).to_sparse())
    (None, ('a sparse tensor (torch.sparse_coo)', '{}.to_dense()'))
    """
    if isinstance(tensor, MaskedTensor):
        return "a masked tensor", "{}.to_tensor(0.0)"
    if tensor.is_nested:
        return "a nested tensor", "{}.to_padded_tensor(0.0, SHAPE) with one fixed SHAPE"
    if tensor.is_quantized:
        return f"a quantised tensor of {tensor.dtype}", "{}.dequantize()"
    if tensor.layout != torch.strided:
        name = "an MKL-DNN" if str(tensor.layout) == "torch._mkldnn" else "a sparse"
        return f"{name} tensor ({tensor.layout})", "{}.to_dense()"
    if tensor.is_complex():
        return f"a tensor of {tensor.dtype}", "torch.view_as_real({})"
    if tensor.dtype not in REAL_TYPES:
        return f"a tensor of {tensor.dtype}", "{}.float()"
    return None


def described(value: object) -> str:
    """A value in a few words: its type, and its keys or its elements, or its shape.

    >>> described({"out": torch.zeros(2, 3), "aux": None})
    "dict with keys 'out', 'aux'"
    >>> described((torch.zeros(2, 3), None))
    'tuple of 2 (Tensor of shape (2, 3), NoneType)'
    """
    name = type(value).__name__
    if isinstance(value, Tensor):
        return (unplain(value) or (f"a tensor of {value.dtype}",))[0]
    if isinstance(value, np.ndarray):
        return f"{name} of shape {value.shape}, {value.dtype}"
    if isinstance(value, Mapping):
        return f"{name} with keys {_listed([reprlib.repr(key) for key in value])}" if value else f"empty {name}"
    if isinstance(value, (list, tuple)):
        return f"{name} of {len(value)} ({_elements(value)})" if value else f"empty {name}"
    fields = _tensor_fields(value)
    return f"{name} with tensors in {_listed(fields)}" if fields else name


class _Brief(reprlib.Repr):
    """The rules of `brief`."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxlong = self.maxstring = 160

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, (Tensor, np.ndarray)):
            return f"<{type(x).__name__} {tuple(x.shape)}, {x.dtype}>"
        if isinstance(x, nn.Module):
            return type(x).__name__
        if callable(x) and hasattr(x, "__name__") and not isinstance(x, type):
            return str(x.__name__)
        return " ".join(super().repr1(x, level).split())


def brief(value: object) -> str:
    """A value in one line: arrays by shape and type, functions and modules by name, long values abbreviated.

    >>> brief([torch.zeros(2, 3), 0.5, torch.dist])
    '[<Tensor (2, 3), torch.float32>, 0.5, dist]'
    """
    return _Brief().repr(value)


def brief_repr(value: object, **attributes: object) -> str:
    """The `repr` of an object in one line, from these attributes or else from all its public ones.

    >>> from types import SimpleNamespace
    >>> brief_repr(SimpleNamespace(x=torch.zeros(2, 3), eps=0.5, distance=torch.dist))
    'SimpleNamespace(x=<Tensor (2, 3), torch.float32>, eps=0.5, distance=dist)'
    """
    shown = attributes or {name: held for name, held in vars(value).items() if not name.startswith("_")}
    return f"{type(value).__name__}({', '.join(f'{name}={brief(held)}' for name, held in shown.items())})"


def advice(output: object, inputs: int) -> str:
    """Advice on making one tensor ``(batch, ...)`` of what a model returned for a batch of ``inputs``; may be empty."""
    if output is None:
        return "look for a missing return"
    if isinstance(output, Tensor):
        plain = unplain(output)
        return _wrapped(plain[1].format("model(x)")) if plain else ""
    if isinstance(output, np.ndarray):
        return _wrapped("torch.from_numpy(model(x))")
    if isinstance(output, Mapping):
        keys = [key for key, value in output.items() if isinstance(value, Tensor)] or list(output)
        if not keys:
            return ""
        return _adapted(keys[0]) if isinstance(keys[0], str) else _wrapped(f"model(x)[{keys[0]!r}]")
    if isinstance(output, (list, tuple)) and output:
        return _advice_on_elements(output, inputs)
    fields = _tensor_fields(output)
    return _adapted(fields[0]) if fields else ""


def _advice_on_elements(output: Sequence[object], inputs: int) -> str:
    if all(isinstance(element, str) for element in output):
        return "make one tensor of texts by centersmooth.metrics.encode_texts(model(x), length=64)"
    if all(isinstance(element, Mapping) for element in output):
        return (
            _behind("PaddedBoxes()", "boxes") + ", for a detector's boxes, or make one tensor of a fixed size of each"
        )
    shapes = {tuple(e.shape) if isinstance(e, Tensor) and not unplain(e) else None for e in output}
    if isinstance(output, list) and len(output) == inputs and None not in shapes:
        if len(shapes) == 1:
            return _wrapped("torch.stack(model(x))")
        return "make a tensor of one fixed size of each, and torch.stack them"
    first = next((index for index, element in enumerate(output) if isinstance(element, Tensor)), None)
    return _adapted(str(first)) if first is not None else ""


def _wrapped(expression: str) -> str:
    return f"wrap it, as in `lambda x: {expression}`, with the model in eval mode"


def _adapted(key: str) -> str:
    """Advice to take one of several outputs, by the name that `adapters.Key` has for it."""
    quoted = f'"{key}"' if key.isprintable() and '"' not in key else repr(key)
    return _behind(f"Key({quoted})", f"key:{key}" if CONFIGURED_KEY.fullmatch(key) else "")


def _behind(adapter: str, setting: str) -> str:
    """Advice to put an adapter behind the model, in Python and, where it has a setting there, in cs-run."""
    return f"use centersmooth.adapters.Adapted(model, {adapter})" + (
        f", adapter={setting} in cs-run" if setting else ""
    )


def _elements(values: Sequence[object]) -> str:
    first = values[0]
    if isinstance(first, Mapping) and all(isinstance(value, Mapping) for value in values):
        return described(first)
    return _listed([_element(value) for value in values])


def _element(value: object) -> str:
    if isinstance(value, Tensor):
        return (unplain(value) or (f"Tensor of shape {tuple(value.shape)}",))[0]
    return type(value).__name__


def _tensor_fields(value: object) -> list[str]:
    return [name for name, field in getattr(value, "__dict__", {}).items() if isinstance(field, Tensor)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
