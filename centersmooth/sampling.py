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
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from centersmooth.checks import an_integer, is_range
from centersmooth.draws import Draws
from centersmooth.errors import CenterSmoothError, ForwardMemoryError, ModelError, RequestError, is_out_of_memory
from centersmooth.metrics.base import Metric, between
from centersmooth.noise import Enumerable, Noise
from centersmooth.outputs import advice, brief, described, unplain

Model = Callable[[Tensor], Tensor]
"""The base function ``f`` on a batch: ``(b, *in) -> (b, *out)``."""

Progress = Callable[[int], None]
"""Called with the number of forward passes done since the last call."""

_JUDGED_BY = 16
"""Least number of noisy outputs that a model is judged by."""


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


@dataclass
class _Held:
    """A submodule in eval mode: the flag it came with, and how many calls of `evaluating` need it there."""

    training: bool
    users: int = 0


_held: WeakKeyDictionary[nn.Module, _Held] = WeakKeyDictionary()
_lock = threading.RLock()


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Put every submodule in eval mode without gradients, and restore each one's own flag afterwards.

    Batch norm in train mode makes the output depend on the batch, dropout makes it random: either way there is no
    fixed function to certify. Threads that share a submodule hold it in eval mode together; the last one restores it.
    A module without modes, such as an exported program, is taken as it is: `Sampler.check_model` judges it.

    Raises
    ------
    RequestError
        Autocast is on around the call: noise and distances would be rounded too, to eight bits.
    """
    if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
        raise RequestError("torch.autocast is on around the call, which would round distances: put it into the model")
    # A frozen ScriptModule has no flag to restore.
    modules = [m for m in model.modules() if hasattr(m, "training")] if isinstance(model, nn.Module) else []
    with _lock:
        for module in modules:
            _held.setdefault(module, _Held(module.training)).users += 1
    try:
        if isinstance(model, nn.Module):
            with _lock:
                _switch_to_eval(model)
        with torch.no_grad():
            yield
    finally:
        with _lock:
            for module in modules:
                held = _held[module]
                held.users -= 1
                if not held.users:
                    module.training = held.training
                    del _held[module]


def _switch_to_eval(module: nn.Module) -> None:
    try:
        module.eval()
    except NotImplementedError:  # of an exported program, which the modules above it meet on their way down
        for child in module.children():
            _switch_to_eval(child)
    except Exception as error:
        reason = f"{type(error).__name__} {(str(error).splitlines() or [''])[0]}"
        raise RequestError(f"the model could not be put in eval mode: {reason}") from error


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
            raise RequestError(f"model is {brief(self.model)}: expected an nn.Module or a function of a batch")
        if self.output_range is not None and not is_range(self.output_range):
            raise RequestError(f"output_range is {brief(self.output_range)}: expected two numbers (low, high), or None")

    def at(self, x: Tensor) -> Sampler:
        """The sampler with its law bound to the input ``x``, ``(*in)``; what it draws is the same."""
        return replace(self, noise=self.noise.at(x))

    def base_output(self, x: Tensor) -> Tensor:
        """``f`` at ``x`` without noise, computed in a block padded with zeros: ``(*in) -> (*out)``."""
        output = self.call(_padded(self.noise.clean(x)[None], self.forward_block))[:1]
        self._check_values([output], "the unperturbed input")
        return output[0].clone()

    def draw(
        self, x: Tensor, count: int, stream: RandomStream, stage: str, *, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """The first ``count`` draws of ``f(x + noise)`` of one stage, in blocks of at most ``forward_block`` rows.

        A caller that has seen enough may stop early: no later batch is then computed.
        """
        size = self.forward_block
        noisy = (self.noise.sample(x, size, stream.draws(stage, block, x)) for block in range(-(-count // size)))
        yield from self._outputs(noisy, count, f"a draw of stage '{stage}'", progress)

    def support(self, x: Tensor, *, progress: Progress | None = None) -> Iterator[Tensor]:
        """``f`` at all noisy inputs of an `Enumerable` law, in their order; blocks as for `draw`, padded with zeros."""
        law, size = self.noise, self.forward_block
        if not isinstance(law, Enumerable):
            raise RequestError(f"noise is {law}: expected a law with finitely many noisy inputs")
        noisy = (_padded(block, size) for block in law.support(x, size))
        yield from self._outputs(noisy, law.support_size(), "a noisy input", progress)

    def _outputs(self, noisy: Iterable[Tensor], count: int, what: str, progress: Progress | None) -> Iterator[Tensor]:
        """The outputs of the first ``count`` of these inputs, which come in blocks of ``forward_block``."""
        per_batch = max(1, self.batch_size // self.forward_block)
        blocks, seen = iter(noisy), list[Tensor]()
        while count > 0:
            batch = []
            for block in islice(blocks, per_batch):
                batch.append(self.call(block)[:count])
                count -= len(batch[-1])
            self._check_values([*seen, *batch], what)
            seen = [batch[0][:0]]  # no rows, but the shape that those of later batches need to have
            if progress is not None:
                progress(sum(len(outputs) for outputs in batch))
            yield from batch

    def check_model(self, x: Tensor, metrics: Sequence[Metric] = ()) -> Tensor:
        """Refuse a model that is not one fixed function of one input; returns the noisy outputs it was judged by.

        Every block twice (random at test time?), one of them with its inputs at other positions, and an input in other
        company: among zeros, and among copies of itself (depends on its batch?). Every coordinate has to agree to a
        thousandth of its range under noise, and to its own rounding where that is small against what varies. Integers
        are compared in the metrics that certify them, where these are given: one letter more moves all that follow.
        This is a look at a few draws: dependence that shows at none of them is not seen.

        Parameters
        ----------
        x : Tensor, shape ``(*in)``
        metrics : sequence of Metric, optional

        Raises
        ------
        RequestError, ModelError
            One line on what differs and what usually causes it.
        """
        size = self.forward_block
        blocks = self._blocks_to_judge_by(x)
        # The model may write into its input, so every call has one of its own.
        batch = [self.call(block.clone()) for block in blocks]
        for outputs in batch:
            self._check_values([outputs], "a noisy input")
        judged_by = torch.cat([outputs for outputs in batch if outputs.shape == batch[0].shape])
        agreement: _Agreement | _MetricAgreement = _Agreement.of(judged_by)
        if metrics and not judged_by.is_floating_point():
            agreement = _MetricAgreement.of(judged_by, metrics)
        again = [self.call(block.clone()) for block in blocks]
        if not all(map(agreement.between, batch, again)):
            raise ModelError(
                "the model gave two outputs for one input: it has to be a fixed function at test time; "
                "look for dropout or noise that eval() does not switch off, or fix its random draws"
            )
        among_zeros = torch.zeros_like(blocks[0])
        among_zeros[-1] = blocks[0][0]
        copies = blocks[0][:1].repeat_interleave(size, dim=0)
        moved = self.call(blocks[0].roll(1, 0))
        # The mean of a batch of noisy inputs hardly differs from zero: among its copies an input is the mean itself.
        looks = [(batch[0], moved.roll(-1, 0))]
        looks += [(batch[0][:1], self.call(among_zeros)[-1:]), (batch[0][:1], self.call(copies)[:1])]
        if not all(agreement.between(expected, found) for expected, found in looks):
            raise ModelError(
                "the model's output for an input depends on the other inputs of its batch: certificates need a "
                "function of one input; look for batch statistics (call eval() on a network inside your function), "
                "dynamic quantisation, padding to the largest, or scores shared by a batch"
            )
        self._check_values(batch, "a noisy input")
        return torch.cat(batch)

    def answers_rows(self, x: Tensor, outputs: Tensor) -> bool:
        """Test for a model that treats ``x`` as a batch: row ``i`` of its output is its output for ``x[i]``.

        One call of the model, on one row of each noisy input, and none where the shapes rule it out. A single row is
        no batch: the output is then the same but for one dimension. A vector is none either, as every function of
        single coordinates would treat it so.

        Parameters
        ----------
        x : Tensor, shape ``(rows, *in)``
        outputs : Tensor, shape ``(b, *out)``
            The noisy outputs that `check_model` returned for it.
        """
        if x.ndim < 2 or len(x) < 2:
            return False
        block, size = self._blocks_to_judge_by(x)[0], self.forward_block
        if {block.shape[1:2], outputs.shape[1:2]} != {x.shape[:1]}:
            return False  # noisy inputs or outputs have other rows, or none
        # From the last row on: a causal model answers the first row of a sequence as if it were alone.
        inputs = torch.arange(len(outputs), device=x.device)
        rows = len(x) - 1 - inputs % len(x)
        expected = outputs[inputs, rows]
        try:
            answers = self.call(block[inputs[:size], rows[:size]])
        except (RequestError, ForwardMemoryError):  # x[i] is not an input of this model
            return False
        return _Agreement.of(expected).between(expected[:size], answers)

    def _blocks_to_judge_by(self, x: Tensor) -> tuple[Tensor, ...]:
        """Noisy inputs, the same ones at every call, in blocks of ``forward_block``."""
        count = -(-_JUDGED_BY // self.forward_block)
        draws = RandomStream(0).draws("check", 0, x)
        return self.noise.sample(x, self.forward_block * count, draws).chunk(count)

    def call(self, inputs: Tensor) -> Tensor:
        """The model's outputs for a batch, in memory of their own.

        Raises
        ------
        RequestError
            The model fails, or returns something else than one tensor with a row for each input.
        ForwardMemoryError
            Memory ran out.
        """
        try:
            outputs = self.model(inputs)
        except CenterSmoothError:  # of an adapter, which says all there is to say
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise ForwardMemoryError(
                    f"memory ran out in a call of the model on {len(inputs)} inputs: lower forward_block"
                ) from error
            reason = f"{type(error).__name__} {(str(error).splitlines() or [''])[0]}"
            raise RequestError(
                f"the model failed on a batch of shape {tuple(inputs.shape)}, {inputs.dtype}: {reason}"
            ) from error
        if not isinstance(outputs, Tensor) or unplain(outputs):
            expected = "real numbers, one tensor" if isinstance(outputs, Tensor) else "one tensor"
            hint = advice(outputs, len(inputs))
            raise RequestError(
                f"the model returned {described(outputs)}: expected {expected} of shape (batch, ...)"
                + (f"; {hint}" if hint else "")
            )
        if outputs.ndim < 1 or len(outputs) != len(inputs):
            hint = "; look for squeeze()" if len(inputs) == 1 else ""
            raise RequestError(
                f"the model returned shape {tuple(outputs.shape)} for {len(inputs)} inputs: expected one output each"
                + hint
            )
        if not outputs.numel():
            raise RequestError(f"the model returned empty outputs, shape {tuple(outputs.shape)}: expected numbers")
        if outputs.device != inputs.device:
            raise RequestError(
                f"the model's output is on {outputs.device}, its input on {inputs.device}: use one device"
            )
        # An engine may answer in a buffer of its own and overwrite it in the next call, through a NumPy view that no
        # look at storages recognises. A copy costs less than drawing the noise of the block.
        return outputs.clone()

    def _check_values(self, batch: Sequence[Tensor], what: str) -> None:
        """One look from the host at the extremes of all blocks of a batch; a NaN anywhere makes both NaN."""
        for outputs in batch:
            if outputs.shape[1:] != batch[0].shape[1:]:
                raise ModelError(
                    f"the model returned outputs of shapes {tuple(batch[0].shape[1:])} and {tuple(outputs.shape[1:])} "
                    f"for {what}: expected one shape for all inputs; pad to a fixed size"
                )
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


def _padded(rows: Tensor, size: int) -> Tensor:
    """Rows, and zeros up to ``size`` of them."""
    block = rows.new_zeros((size, *rows.shape[1:]))
    block[: len(rows)] = rows
    return block


@dataclass(frozen=True)
class _Agreement:
    """Tolerance for two outputs of one input.

    Parameters
    ----------
    tolerance : Tensor, shape ``(*out)``
        Of each coordinate.
    share : float
        Coordinates of an output that may differ by more.
    """

    tolerance: Tensor
    share: float

    @classmethod
    def of(cls, outputs: Tensor) -> _Agreement:
        """For a model with these noisy outputs: a thousandth of each coordinate's range, and its rounding.

        Rounding counts as far as it is small against the range of the coordinate that varies most: a large offset
        would else hide all that matters, of its own coordinate or of others. Whole numbers, such as the classes of
        pixels, have to be the same but for one coordinate in a thousand: rounding decides a tie either way.
        """
        low, high = (limit.double() for limit in torch.aminmax(outputs, dim=0))
        if not outputs.is_floating_point() or bool((outputs == outputs.round()).all()):
            return cls(torch.zeros_like(low), 1e-3)
        half = outputs.dtype in (torch.float16, torch.bfloat16)
        rounding = 4 * torch.finfo(outputs.dtype).eps if half else 8 * torch.finfo(torch.float32).eps
        span = high - low
        own = rounding * torch.maximum(low.abs(), high.abs())
        return cls(1e-3 * span + torch.minimum(own, (1e-2 if half else 1e-4) * span.max()), 0.0)

    def between(self, a: Tensor, b: Tensor) -> bool:
        if a.shape != b.shape:
            return False
        if a.shape[1:] != self.tolerance.shape:
            return True  # of another shape than the first block's, which is refused as such
        # Not "larger than": a NaN agrees with nothing.
        off = ~((a.double() - b.double()).abs() <= self.tolerance)
        return not off.numel() or float(off.reshape(len(a), -1).double().mean(dim=1).max()) <= self.share


@dataclass(frozen=True)
class _MetricAgreement:
    """Agreement of integer outputs in metrics, to a thousandth of the largest distance between two noisy outputs.

    One of several outputs may differ by more: where rounding decides a tie, such as between two letters, no difference
    is small.

    Parameters
    ----------
    tolerances : sequence of (Metric, float)
        Metrics, and how large distances in them may be.
    """

    tolerances: Sequence[tuple[Metric, float]]

    @classmethod
    def of(cls, outputs: Tensor, metrics: Sequence[Metric]) -> _MetricAgreement:
        """For a model with these noisy outputs."""
        largest = [max(between(metric, *pair) for pair in pairwise(outputs)) for metric in metrics]
        return cls([(metric, 1e-3 * distance) for metric, distance in zip(metrics, largest, strict=True)])

    def between(self, a: Tensor, b: Tensor) -> bool:
        if a.shape != b.shape:
            return False
        for metric, largest in self.tolerances:
            # Not "larger than": a NaN agrees with nothing.
            off = [not between(metric, *pair) <= largest for pair in zip(a, b, strict=True)]
            if sum(off) > (len(a) > 1):
                return False
        return True
