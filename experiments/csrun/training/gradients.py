"""Gradients of a training step: computed one operation at a time, or on CUDA by replaying a graph of them.

A step of a small network is some hundred short operations, which take the host longer to start than the device to do; a
CUDA graph starts them all at once. What a step draws comes from outside of the graph, into tensors that it reads, so
that its random numbers are the same either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods import Method


class Gradients:
    """The loss of batches, and its gradients, left in the parameters of the model.

    With graphs, the first batch of a shape in an epoch is computed one operation at a time, which prepares what cannot
    be prepared within a graph; the second is captured, and it and the later ones are replays. An epoch has its own
    graphs, as a loss may depend on the epoch.

    Parameters
    ----------
    model : BaseModel
    method : Method
    noise : Noise or None
        As `Method.loss` takes it.
    graphs : bool
        Whether to use graphs, for a model on a CUDA device.
    """

    def __init__(self, model: BaseModel, method: Method, noise: Noise | None, graphs: bool) -> None:
        self._model, self._method, self._noise = model, method, noise
        self._aside = torch.cuda.Stream() if graphs else None
        self._epoch = -1
        self._tapes: dict[torch.Size, Tape] = {}
        self._graphs: dict[torch.Size, _Graph] = {}

    def __call__(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> Tensor:
        """The loss of a batch, a scalar without gradients; the arguments are those of `Method.loss`."""
        if self._aside is None:
            return self._one_by_one(x, y, draws, epoch)
        if epoch != self._epoch:
            self._epoch, self._tapes, self._graphs = epoch, {}, {}
        if x.shape not in self._tapes:
            self._tapes[x.shape] = tape = Tape()
            with _on(self._aside):
                return self._one_by_one(x, y, tape.record(draws), epoch)
        if x.shape not in self._graphs:
            self._graphs[x.shape] = self._captured(x, y, self._tapes[x.shape], epoch, self._aside)
        return self._graphs[x.shape].replay(x, y, draws)

    def _one_by_one(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> Tensor:
        self._model.zero_grad()
        loss = self._method.loss(self._model, x, y, self._noise, draws, epoch)
        loss.backward()
        return loss.detach()

    def _captured(self, x: Tensor, y: Tensor, tape: Tape, epoch: int, aside: torch.cuda.Stream) -> _Graph:
        x, y, graph = x.clone(), y.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=aside):
            loss = self._one_by_one(x, y, tape.read(x), epoch)
        gradients = [(one, one.grad) for one in self._model.parameters()]
        return _Graph(graph, x, y, tape, loss, gradients)


@dataclass(frozen=True)
class _Graph:
    """The operations of a step, and the tensors that they read and write."""

    graph: torch.cuda.CUDAGraph
    x: Tensor
    y: Tensor
    tape: Tape
    loss: Tensor
    gradients: list[tuple[torch.nn.Parameter, Tensor | None]]

    def replay(self, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        self.x.copy_(x)
        self.y.copy_(y)
        self.tape.fill(draws)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.loss.clone()


@contextmanager
def _on(stream: torch.cuda.Stream) -> Iterator[None]:
    """Another stream within the block, in order with the current one."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


class _Taken(NamedTuple):
    """A request for random numbers, and the tensor that holds the answer."""

    name: str
    arguments: tuple[object, ...]
    numbers: Tensor


@dataclass(frozen=True)
class Tape:
    """Random numbers of a step: requests in their order with their answers, by how far ahead their key is.

    The tensors of the answers are made while it records, outside of any graph: within one they could share memory with
    what the graph computes before it reads them.
    """

    taken: dict[int, list[_Taken]] = field(default_factory=dict)

    def record(self, draws: Draws) -> Draws:
        """Draws of a step's own numbers, which notes each request and its answer."""
        return _FromTape(draws, self, draws)

    def read(self, like: Tensor) -> Draws:
        """The numbers on the tape, for a step that asks for what the recorded one did."""
        return _FromTape(Draws(0, torch.empty(0, dtype=like.dtype)), self, None)

    def fill(self, draws: Draws) -> None:
        """Put the numbers of another step in the place of those on the tape."""
        for keys, taken in self.taken.items():
            step = draws.ahead(keys)
            for name, arguments, numbers in taken:
                numbers.copy_(getattr(step, name)(*arguments))


class _FromTape(Draws):
    """Draws that are on a tape, or go onto it from a source."""

    def __init__(self, like: Draws, tape: Tape, source: Draws | None, keys: int = 0) -> None:
        self.key, self.dtype = like.key, like.dtype
        self._tape, self._source, self._keys, self._position = tape, source, keys, 0

    def ahead(self, keys: int) -> Draws:
        return _FromTape(self, self._tape, self._source and self._source.ahead(keys), self._keys + keys)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return self._next("normal", shape)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return self._next("uniform", shape)

    def integers(self, shape: tuple[int, ...], high: int) -> Tensor:
        return self._next("integers", shape, high)

    def exponential(self, shape: tuple[int, ...]) -> Tensor:
        return self._next("exponential", shape)

    def permutation(self, count: int) -> Tensor:
        return self._next("permutation", count)

    def _next(self, name: str, *arguments: object) -> Tensor:
        taken = self._tape.taken.setdefault(self._keys, [])
        if self._position == len(taken) and self._source is not None:
            taken.append(_Taken(name, arguments, getattr(self._source, name)(*arguments)))
        asked = [one[:2] for one in taken[self._position : self._position + 1]]
        assert asked == [(name, arguments)], f"{(name, arguments)} asked where the recorded step asked {asked}"
        self._position += 1
        return taken[self._position - 1].numbers.clone()  # a law may write the noisy input over what it draws
