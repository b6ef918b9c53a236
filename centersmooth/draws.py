"""Random numbers of one block of draws: what a smoothing law turns into noise.

A law never sees a generator. It asks a `Draws` for standard numbers and gets them in the type and on the device of the
input, so that one rule holds for every law: float64 inputs get float64 noise, and no two blocks share a stream. On the
CPU numbers come from numpy's PCG64DXSM, seeded with 128 bits; torch's CPU generator takes 32 bits of its seed, so that
two of some hundred thousand blocks are certain to be equal. CUDA has torch's own generator, seeded with 64 bits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Draws:
    """Standard random numbers of one block, in the order they are asked for.

    Parameters
    ----------
    key : int
        128 bits; blocks of different keys are independent.
    like : Tensor
        The input: numbers are on its device and of its type, float32 at least.

    Attributes
    ----------
    key : int
    dtype : torch.dtype
        The type of the numbers.

    Examples
    --------
    >>> a, b = (Draws(7, torch.zeros(3)).normal((2, 3)) for _ in range(2))
    >>> bool((a == b).all()), Draws(7, torch.zeros(3, dtype=torch.float64)).uniform((4,)).dtype
    (True, torch.float64)
    """

    def __init__(self, key: int, like: Tensor) -> None:
        self.key = key
        self.dtype = torch.promote_types(like.dtype, torch.float32)
        self._device = like.device
        self._like = torch.empty(0, dtype=like.dtype, device=like.device)
        if like.device.type == "cpu":
            self._host = np.random.Generator(np.random.PCG64DXSM(key))
        else:
            self._on_device = torch.Generator(device=like.device).manual_seed(key % 2**64)

    def ahead(self, keys: int) -> Draws:
        """The numbers of the key that is so many further on, from their first; with 0, these once more."""
        return Draws((self.key + keys) % 2**128, self._like)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Independent standard normal numbers, ``shape``."""
        numbers = torch.empty(shape, dtype=self.dtype, device=self._device)
        if self._device.type == "cpu":
            self._host.standard_normal(dtype=self._numpy_dtype, out=numbers.numpy())
            return numbers
        return numbers.normal_(generator=self._on_device)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Independent uniform numbers in [0, 1), ``shape``."""
        numbers = torch.empty(shape, dtype=self.dtype, device=self._device)
        if self._device.type == "cpu":
            self._host.random(dtype=self._numpy_dtype, out=numbers.numpy())
            return numbers
        return numbers.uniform_(generator=self._on_device)

    def integers(self, shape: tuple[int, ...], high: int) -> Tensor:
        """Independent integers from 0 to ``high - 1``, all equally likely, int64, ``shape``."""
        if self._device.type == "cpu":
            return torch.from_numpy(self._host.integers(high, size=shape))
        return torch.randint(high, shape, generator=self._on_device, device=self._device)

    def exponential(self, shape: tuple[int, ...]) -> Tensor:
        """Independent exponential numbers of mean 1, ``shape``."""
        numbers = torch.empty(shape, dtype=self.dtype, device=self._device)
        if self._device.type == "cpu":
            self._host.standard_exponential(dtype=self._numpy_dtype, out=numbers.numpy())
            return numbers
        return numbers.exponential_(generator=self._on_device)

    def permutation(self, count: int) -> Tensor:
        """The numbers 0 to ``count - 1`` in a random order, int64, shape ``(count,)``."""
        if self._device.type == "cpu":
            return torch.from_numpy(self._host.permutation(count))
        return torch.randperm(count, generator=self._on_device, device=self._device)

    @property
    def _numpy_dtype(self) -> type[np.float32] | type[np.float64]:
        return np.float64 if self.dtype == torch.float64 else np.float32
