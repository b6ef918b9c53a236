"""One pass over one input for any number of certifiers.

Forward passes are what certificates cost, so all certifiers see the same draws. They are drawn in stages: those of
``candidates`` and ``center`` *choose* what a statement is about, those of ``fresh``, independent of the first,
*measure* it. Each certifier has a `Collector` that takes the draws of a stage batch by batch and says how many more it
has use for; what several of them compute from a batch is computed once (`Shared`).

Where the law is `Enumerable`, a `SupportCollector` takes the outputs of all noisy inputs in the place of draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import torch
from torch import Tensor

from centersmooth.certificate import Budget
from centersmooth.errors import ModelError, RequestError
from centersmooth.metrics.base import Metric, features_of
from centersmooth.noise import Noise
from centersmooth.outputs import brief
from centersmooth.sampling import Progress, RandomStream, Sampler

STAGES: Final = ("candidates", "center", "fresh")
"""In the order in which they are drawn."""

SUPPORT: Final = "support"
"""The stage of all noisy inputs of an `Enumerable` law, after those that are drawn; a `SupportCollector`'s alone."""

OF_THE_POINT = (ModelError, RequestError)
"""Errors of a metric on the outputs at one input: they fail one certifier, not the pass."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Setting:
    """Facts of a request that every certifier is told.

    Attributes
    ----------
    noise : Noise
    budget : Budget
    output_range : (float, float), optional
        Hard limits of every output coordinate.
    forward_block : int
        Inputs a call of the model, and outputs whose features are computed at a time.
    """

    noise: Noise
    budget: Budget
    output_range: tuple[float, float] | None = None
    forward_block: int = 128

    @classmethod
    def of(cls, sampler: Sampler, budget: Budget) -> Setting:
        """The setting in which a sampler draws."""
        return cls(sampler.noise, budget, sampler.output_range, sampler.forward_block)


class Shared:
    """Values that several collectors need of one batch, each computed by the first that asks."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}

    def forget(self) -> None:
        """Begin another batch."""
        self._values.clear()

    def once(self, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """The value of this key; computed where it is not there."""
        if key not in self._values:
            self._values[key] = compute()
        value: _Value = self._values[key]
        return value

    def features(self, metric: Metric, outputs: Tensor) -> Tensor:
        """Features of the first ``len(outputs)`` draws of the batch."""
        return self.once((metric, len(outputs)), lambda: features_of(metric, outputs))


class Collector(Protocol):
    """An accumulator over the stages of one pass."""

    def wants(self, stage: str) -> int:
        """Number of further draws of this stage that it can use; 0 ends the stage early."""
        ...

    def update(self, stage: str, outputs: Tensor) -> None:
        """Take the next draws of a stage, ``(b, *out)``, no more than it wants."""
        ...

    def compute(self, base: Tensor) -> Any:
        """The evidence, given the base model's output at the unperturbed input, ``(*out)``."""
        ...


class SupportCollector(ABC):
    """A collector of the outputs of all noisy inputs, in their order, and of no draws.

    Parameters
    ----------
    size : int
        The number of noisy inputs.
    """

    def __init__(self, size: int) -> None:
        self._left = size

    def wants(self, stage: str) -> int:
        return self._left if stage == SUPPORT else 0

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left -= len(outputs)
        self.take(outputs)

    @abstractmethod
    def take(self, outputs: Tensor) -> None:
        """Take the next outputs, ``(b, *out)``."""

    @abstractmethod
    def compute(self, base: Tensor) -> Any:
        """The evidence, given the base model's output at the unperturbed input, ``(*out)``."""


class Collects(Protocol):
    """The part of a certifier that `gather` needs."""

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> Collector: ...


def gather(
    sampler: Sampler,
    certifiers: Mapping[str, Collects],
    budget: Budget,
    x: Tensor,
    stream: RandomStream,
    *,
    radius: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Sample ``f(x + noise)`` and reduce it to evidence, one for each certifier.

    Parameters
    ----------
    x : Tensor, shape ``(*in)``
    radius : bool
        False draws only what an answer takes, and no more for a radius.

    Returns
    -------
    dict
        By the names of the certifiers: evidence, or the error that its draws raised.

    Raises
    ------
    RequestError
        ``progress`` cannot be called.
    ModelError
        The model gives NaN or infinity, or leaves its declared range.
    """
    if progress is not None and not callable(progress):
        raise RequestError(f"progress is {brief(progress)}: expected a function of a number of forward passes, or None")
    base, shared = sampler.base_output(x), Shared()
    setting = Setting.of(sampler, budget)
    collectors = {name: one.collector(setting, shared, radius=radius) for name, one in certifiers.items()}
    failed: dict[str, Exception] = {}

    def wanted(stage: str) -> dict[str, int]:
        return {name: left for name, one in collectors.items() if name not in failed and (left := _wants(one, stage))}

    for stage in (*STAGES, SUPPORT):
        most = max(wanted(stage).values(), default=0)
        for outputs in _outputs(sampler, x, most, stream, stage, progress) if most else ():
            shared.forget()
            for name, left in wanted(stage).items():
                try:
                    collectors[name].update(stage, outputs[:left])
                except OF_THE_POINT as error:
                    failed[name] = error
            if not wanted(stage):
                break
        shared.forget()
    return {name: failed.get(name) or _concluded(one, base) for name, one in collectors.items()}


def passes(certifiers: Iterable[Collects], setting: Setting, *, radius: bool = True) -> int:
    """Forward passes of one `gather`, the unperturbed input included, if no stage ends early."""
    collectors = [one.collector(setting, Shared(), radius=radius) for one in certifiers]
    return 1 + sum(max((_wants(one, stage) for one in collectors), default=0) for stage in (*STAGES, SUPPORT))


def gather_one(
    sampler: Sampler,
    certifier: Collects,
    budget: Budget,
    x: Tensor,
    stream: RandomStream,
    *,
    radius: bool = True,
    progress: Progress | None = None,
) -> Any:
    """The evidence for one certifier, as `gather`; its error is raised."""
    found = gather(sampler, {"": certifier}, budget, x, stream, radius=radius, progress=progress)[""]
    if isinstance(found, Exception):
        raise found
    return found


def _wants(collector: Collector, stage: str) -> int:
    """Number of outputs of a stage that a collector can use; those of draws are not asked for the support."""
    return collector.wants(stage) if stage in STAGES or isinstance(collector, SupportCollector) else 0


def _outputs(
    sampler: Sampler, x: Tensor, count: int, stream: RandomStream, stage: str, progress: Progress | None
) -> Iterator[Tensor]:
    if stage == SUPPORT:
        return sampler.support(x, progress=progress)
    return sampler.draw(x, count, stream, stage, progress=progress)


def _concluded(collector: Collector, base: Tensor) -> Any:
    try:
        return collector.compute(base)
    except OF_THE_POINT as error:
        return error


def features_in_blocks(metric: Metric, outputs: Tensor, block: int) -> Tensor:
    """Features of ``(n, *out)``, computed ``block`` outputs at a time, as they are for streamed draws."""
    return torch.cat([features_of(metric, outputs[i : i + block]) for i in range(0, len(outputs), block)])
