"""Certifying one point of a cell: all that it takes, and nothing that reads or writes a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from centersmooth import Budget, Metric, ModelError, Noise, RandomStream, RequestError
from centersmooth.certifiers import Certifier
from centersmooth.errors import is_out_of_memory
from centersmooth.gathering import Setting, gather, passes
from centersmooth.sampling import Progress, Sampler, evaluating
from csrun.models.base import BaseModel
from csrun.registry import CERTIFIERS, key_of
from csrun.system.memory import smaller_batch

OF_THE_POINT = (ModelError, RequestError)
"""Errors of a model that passed its checks: they fail one point, not the run."""


def certifiers_of(
    metrics: Mapping[str, Metric],
    setting: Setting,
    own: Mapping[str, Certifier] | None = None,
    prototypes: Tensor | None = None,
) -> dict[str, Certifier]:
    """All certifiers that a cell can have, by key: those that bring their own distance, then those of each metric.

    Parameters
    ----------
    own : mapping of str to Certifier, optional
        A user's, by key.
    prototypes : Tensor, optional
        Those of the model, if it has some.
    """
    with_own_distance = {name: entry for name, entry in CERTIFIERS.items() if not entry.measured}
    kinds: dict[str, Certifier] = {name: one.build() for name, one in with_own_distance.items() if not one.of_model}
    if prototypes is not None:
        kinds |= {name: one.build(prototypes) for name, one in with_own_distance.items() if one.of_model}
    for metric_name, metric in metrics.items():
        for name, entry in CERTIFIERS.items():
            if entry.measured:
                kinds[key_of(name, metric_name)] = one = entry.build(metric)
                kinds |= {key_of(name, metric_name, rule): one.of_rule(rule) for rule in entry.apart}
    return {key: one for key, one in (kinds | dict(own or {})).items() if not one.unsuited(setting)}


@dataclass(frozen=True)
class Point:
    """A point to be certified.

    Attributes
    ----------
    index : int
    source : str
        What its rows call it.
    x : Tensor, shape ``(*in)``
    missing : tuple of str
        Keys of the certifiers whose evidence is missing.
    """

    index: int
    source: str
    x: Tensor
    missing: tuple[str, ...]

    def failed(self, reason: str, seconds: float = 0.0) -> PointResult:
        """The result of a point whose work was lost."""
        return PointResult(self.index, self.source, seconds, {}, dict.fromkeys(self.missing, reason))


@dataclass(frozen=True)
class PointResult:
    """Evidence that one pass over one point left.

    Attributes
    ----------
    point : int
    source : str
    seconds : float
        Of the pass.
    evidence : mapping of str to evidence
        By the keys of the certifiers.
    failures : mapping of str to str
        The reasons of those that failed.
    """

    point: int
    source: str
    seconds: float
    evidence: Mapping[str, Any]
    failures: Mapping[str, str]


@dataclass
class PointCertifier:
    """A cell's model with its certifiers and counts: turns a point into its evidence, on whatever machine.

    Attributes
    ----------
    batch_size : int
        Halved where memory runs out, which changes no evidence.
    """

    model: BaseModel
    certifiers: Mapping[str, Certifier]
    budget: Budget
    noise: Noise
    seed: int
    forward_block: int
    batch_size: int
    output_range: tuple[float, float] | None

    def passes(self, missing: tuple[str, ...], law: Noise) -> int:
        """Forward passes of a point with these certifiers, under the law at its input."""
        setting = Setting(law, self.budget, self.output_range, self.forward_block)
        return passes([self.certifiers[key] for key in missing], setting)

    def certify(self, point: Point, advance: Callable[[float], None], say: Callable[[str], None]) -> PointResult:
        """The evidence that is missing of a point, or the reason it failed; in smaller batches where memory runs out.

        Parameters
        ----------
        advance : callable
            Called with forward passes done; in all as many as are due.
        say : callable
            Called with a line where the batch was halved.
        """
        while True:
            try:
                with evaluating(self.model):
                    return self._attempt(point, advance)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.batch_size = smaller_batch(self.batch_size, self.forward_block, error)
            # Only here is what the failed attempt held released.
            torch.cuda.empty_cache()
            say(f"memory ran out on point {point.index}: again with batch_size={self.batch_size}, which changes no row")

    def _attempt(self, point: Point, advance: Callable[[float], None]) -> PointResult:
        try:
            noise = self.noise.at(point.x)
        except RequestError as error:  # an input that the law does not take
            return point.failed(str(error))
        sampler = Sampler(self.model, noise, self.forward_block, self.batch_size, self.output_range)
        certifiers = {key: self.certifiers[key] for key in point.missing}
        stream, started = RandomStream(self.seed, point.index), time.perf_counter()
        with _counting(self.passes(point.missing, noise), advance) as progress:
            try:
                found = gather(sampler, certifiers, self.budget, point.x, stream, progress=progress)
            except OF_THE_POINT as error:
                found = dict.fromkeys(point.missing, error)
        failures = {key: str(one) for key, one in found.items() if isinstance(one, Exception)}
        evidence = {key: one for key, one in found.items() if key not in failures}
        seconds = round(time.perf_counter() - started, 4)
        return PointResult(point.index, point.source, seconds, evidence, failures)


@contextmanager
def _counting(passes: int, advance: Callable[[float], None]) -> Iterator[Progress]:
    """Hand on progress; in the end as many passes are counted as are due, and none where an error leaves."""
    seen = 0

    def progress(done: int) -> None:
        nonlocal seen
        seen += done
        advance(done)

    try:
        yield progress
    except Exception:
        advance(-seen)
        raise
    advance(passes - seen)
