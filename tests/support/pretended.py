"""A CUDA device on a machine without one: numbers stay on the CPU, and what CUDA would refuse is refused.

Tensors of the pretended device say that they are on ``cuda`` and hold a tensor of the CPU. An operation computes with
those, after the check that CUDA makes: all tensors are on one device, but for numbers without dimensions, indices of a
tensor on the device, and copies. Values can be looked at from the host, so whole certificates can be computed, and the
random numbers are those of the CPU, so that they are the same certificates. What is not covered is what CUDA computes:
its kernels, their precision, its memory and its random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from centersmooth.draws import Draws

CPU = torch.device("cpu")
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"

_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default, _aten.copy.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class Pretended(Tensor):
    """A tensor that says it is on a CUDA device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device="cuda", requires_grad=False
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        return self.cpu().numpy(force=True)


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Carry out an operation on the tensors held, if CUDA would; its results are where CUDA would leave them.

    Raises
    ------
    RuntimeError
        Tensors are on two devices.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    asked = kwargs.get("device")
    stays = torch.device(asked).type == "cuda" if asked is not None else bool(on_device)
    if func in _COPIES:
        stays = stays if asked is not None else isinstance(args[0], Pretended)
    elif func in _INDEXED:
        if on_device and not isinstance(args[0], Pretended):
            raise RuntimeError(MIXED)
    elif on_device and any(tensor.ndim and not isinstance(tensor, Pretended) for tensor in tensors):
        raise RuntimeError(MIXED)
    if asked is not None:
        kwargs = {**kwargs, "device": CPU}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    args, kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Pretended) else leaf, (args, kwargs))
    done = func(*args, **kwargs)
    if func._schema.name.endswith("_") and tensors:  # in place: the tensor itself is the result
        return tensors[0]
    return tree_map(lambda leaf: Pretended(leaf) if isinstance(leaf, Tensor) else leaf, done) if stays else done


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


@contextmanager
def pretended_device() -> Iterator[None]:
    """Every tensor made for ``cuda`` is a `Pretended` one, and random numbers for it are the CPU's."""
    init = Draws.__init__

    def on_host(self: Draws, key: int, like: Tensor) -> None:
        init(self, key, torch.empty((0,), dtype=like.dtype))
        self._pretended = isinstance(like, Pretended)  # type: ignore[attr-defined]

    def moved(name: str) -> Any:
        method = getattr(Draws, name)

        def numbers(self: Draws, *args: Any) -> Tensor:
            drawn: Tensor = method(self, *args)
            return drawn.to("cuda") if self._pretended else drawn  # type: ignore[attr-defined]

        return numbers

    names = ("normal", "uniform", "integers", "exponential", "permutation")
    torch._C._ensureCUDADeviceGuardSet()  # in place of the one that asks the driver
    torch._C._set_only_lift_cpu_tensors(True)  # new tensors are made on the CPU, then moved
    with (
        patch("torch.cuda._lazy_init", lambda: None),
        torch.backends.cudnn.flags(enabled=False),
        patch.multiple(Draws, __init__=on_host, **{name: moved(name) for name in names}),
        _Mode(),
    ):
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
