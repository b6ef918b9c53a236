"""Drawing ``f(x + noise)``: named random streams, blocks of one fixed size, a model held fixed.

A network's output depends, in its last digits, on the batch it is computed in. So the model is always called on
blocks of exactly ``forward_block`` inputs, and each block draws its noise from a stream of its own, keyed by
(seed, point, stage, block). The ``i``-th draw of a stage is then the same number for any batch size, any number of
draws and any order of the points: results can be resumed, extended and spread over machines.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from centersmooth.checks import an_integer, is_range
from centersmooth.draws import Draws
from centersmooth.errors import ForwardMemoryError, ModelError, RequestError, is_out_of_memory
from centersmooth.noise import Noise

Model = Callable[[Tensor], Tensor]
"""The base function ``f`` on a batch: ``(b, *in) -> (b, *out)``."""

Progress = Callable[[int], None]
"""Called with the number of forward passes done since the last call."""


@dataclass(frozen=True)
class RandomStream:
    """The random numbers of one point, reproducible from ``(seed, point)``.

    Use `fresh` when a certificate is to hold against somebody who knows the code: a published seed lets an attacker
    search for an input whose draws fail.

    Examples
    --------
    >>> x = torch.zeros(2)
    >>> a, b = (RandomStream(seed=0, point=3).draws("center", 0, x).normal((4, 2)) for _ in range(2))
    >>> bool((a == b).all())
    True
    """

    seed: int
    point: int = 0

    @classmethod
    def fresh(cls) -> RandomStream:
        """A stream from the operating system's entropy."""
        return cls(seed=secrets.randbits(128))

    def named(self, name: str) -> RandomStream:
        """Another stream of the same point, independent of this one and of those of other names."""
        return RandomStream(_hash(f"{self.seed}/{name}"), self.point)

    def draws(self, stage: str, block: int, like: Tensor) -> Draws:
        """The random numbers of one block of one stage, for an input like this (CPU and CUDA numbers differ)."""
        return Draws(self._key(stage, block), like)

    def _key(self, stage: str, block: int) -> int:
        return _hash(f"{self.seed}/{self.point}/{stage}/{block}")


def _hash(name: str) -> int:
    """128 bits of a name's hash."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Put every submodule in eval mode without gradients, and restore each one's own flag afterwards.

    Batch norm in train mode makes the output depend on the batch, dropout makes it random: either way there is no
    fixed function to certify.
    """
    flags = {m: m.training for m in model.modules()} if isinstance(model, nn.Module) else {}
    try:
        if isinstance(model, nn.Module):
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in flags.items():
            module.training = training


@dataclass(frozen=True)
class Sampler:
    """Calls a model on noisy inputs in blocks of one fixed size.

    Parameters
    ----------
    model : callable, ``(b, *in) -> (b, *out)``
        Called only with ``b = forward_block``; at most ``forward_block - 1`` rows of a call go unused.
    noise : Noise
        The smoothing law.
    forward_block : int
        Size of every call. Part of the function that is certified.
    batch_size : int
        How many outputs are held between two looks at the host (check for NaN, progress). Changes no number.
    output_range : (float, float), optional
        Hard limits of every output coordinate, checked on every output.
    """

    model: Model
    noise: Noise
    forward_block: int
    batch_size: int
    output_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("forward_block", "batch_size"):
            object.__setattr__(self, name, an_integer(name, getattr(self, name), 1))
        if not callable(self.model):
            raise RequestError(f"model is {self.model!r}: expected an nn.Module or a function of a batch")
        if self.output_range is not None and not is_range(self.output_range):
            raise RequestError(f"output_range is {self.output_range!r}: expected two numbers (low, high), or None")

    def base_output(self, x: Tensor) -> Tensor:
        """``f(x)``, computed in a block padded with zeros: ``(*in) -> (*out)``."""
        block = x.new_zeros((self.forward_block, *x.shape))
        block[0] = x
        output = self._call(block)[:1]
        self._check_values([output], "the unperturbed input")
        return output[0].clone()

    def draw(
        self, x: Tensor, count: int, stream: RandomStream, stage: str, *, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """The first ``count`` draws of ``f(x + noise)`` of one stage, in blocks of at most ``forward_block`` rows.

        A caller that has seen enough may stop early: no later batch is then computed.
        """
        size = self.forward_block
        per_batch = max(1, self.batch_size // size)
        blocks = range(-(-count // size))
        for first in range(0, len(blocks), per_batch):
            batch = []
            for block in blocks[first : first + per_batch]:
                noisy = self.noise.sample(x, size, stream.draws(stage, block, x))
                batch.append(self._call(noisy)[: count - block * size])
            self._check_values(batch, f"a draw of stage '{stage}'")
            if progress is not None:
                progress(sum(len(outputs) for outputs in batch))
            yield from batch

    def check_model(self, x: Tensor) -> Tensor:
        """Refuse a model that is not one fixed function of one input; returns the noisy outputs it was judged by.

        Three calls: the same block twice (random at test time?), a block in another order and with other company
        (depends on its batch?). Outputs have to agree to 1e-3 of the largest output.

        Raises
        ------
        RequestError, ModelError
            One line on what differs and what usually causes it.
        """
        draws = RandomStream(0).draws("check", 0, x)
        block = self.noise.sample(x, max(self.forward_block, 2), draws)[: self.forward_block]
        outputs, again = self._call(block.clone()), self._call(block.clone())
        self._check_values([outputs], "a noisy input")
        if self._differ(outputs, again):
            raise ModelError(
                "the model gave two outputs for one input: it has to be a fixed function at test time; "
                "look for dropout or noise that eval() does not switch off, or fix its random draws"
            )
        alone = torch.zeros_like(block)
        alone[-1] = block[0]
        if self._differ(outputs[:1], self._call(alone)[-1:]):
            raise ModelError(
                "the model's output for an input depends on the other inputs of its batch: certificates need a "
                "function of one input; look for batch statistics, padding to the largest, or scores shared by a batch"
            )
        if self.forward_block > 1:
            self._check_batch_of_one(block[:1], outputs[:1])
        return outputs

    def _check_batch_of_one(self, single: Tensor, expected: Tensor) -> None:
        try:
            differs = self._differ(self._call(single.clone()), expected)
        except RequestError as error:
            raise ModelError(f"the model fails on a batch of 1; look for squeeze() ({error})") from error
        if differs:
            raise ModelError(
                f"the model answers an input in a batch of 1 otherwise than in a batch of {self.forward_block}; "
                "look for squeeze() or batch statistics"
            )

    @staticmethod
    def _differ(a: Tensor, b: Tensor) -> bool:
        if a.shape != b.shape:
            return True
        a, b = a.double(), b.double()
        scale = float(a.abs().max()) if a.numel() else 0.0
        return bool(((a - b).abs() > 1e-3 * scale + 1e-9).any())

    def _call(self, inputs: Tensor) -> Tensor:
        try:
            outputs = self.model(inputs)
        except Exception as error:
            if is_out_of_memory(error):
                raise ForwardMemoryError(
                    f"memory ran out in a call of the model on {len(inputs)} inputs: lower forward_block"
                ) from error
            reason = f"{type(error).__name__} {(str(error).splitlines() or [''])[0]}"
            raise RequestError(
                f"the model failed on a batch of shape {tuple(inputs.shape)}, {inputs.dtype}: {reason}"
            ) from error
        if not isinstance(outputs, Tensor):
            raise RequestError(
                f"the model returned {type(outputs).__name__}: expected one tensor of shape (batch, ...)"
            )
        if outputs.is_complex():
            raise RequestError(f"the model returned {outputs.dtype}: expected real numbers")
        if outputs.ndim < 1 or len(outputs) != len(inputs):
            raise RequestError(
                f"the model returned shape {tuple(outputs.shape)} for {len(inputs)} inputs: expected one output each"
            )
        if outputs.device != inputs.device:
            raise RequestError(
                f"the model's output is on {outputs.device}, its input on {inputs.device}: use one device"
            )
        return outputs

    def _check_values(self, batch: Sequence[Tensor], what: str) -> None:
        """One look from the host at the extremes of all blocks of a batch; a NaN anywhere makes both NaN."""
        extremes = [torch.stack(torch.aminmax(outputs)) for outputs in batch if outputs.numel()]
        if not extremes:
            return
        low, high = torch.stack(torch.aminmax(torch.stack(extremes))).tolist()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ModelError(f"the model returned NaN or infinity for {what}: no certificate can rest on that")
        if self.output_range is not None and (low < self.output_range[0] or high > self.output_range[1]):
            raise ModelError(
                f"the model returned values in [{low:.6g}, {high:.6g}] for {what}, outside the declared "
                f"output_range {self.output_range}: declare the true range, or none"
            )
