"""Certifying one point of a cell: all that it takes, and nothing that reads or writes a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from centersmooth import Budget, GaussianNoise, Metric, ModelError, RandomStream, RequestError
from centersmooth.errors import is_out_of_memory
from centersmooth.evidence import gather
from centersmooth.expectation import mean_problem
from centersmooth.mean import gather_means
from centersmooth.sampling import Progress, Sampler, evaluating
from csrun.cells.rows import MeanResult, PointResult
from csrun.system.memory import smaller_batch

OF_THE_POINT = (ModelError, RequestError)
"""What a model or metric that passed its checks can raise at one point: a reason to go on with the next."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Point:
    """A point to be certified.

    Attributes
    ----------
    index : int
    source : str
        What its rows call it.
    x : Tensor, shape ``(*in)``
    center, mean : bool
        Which evidence is missing, for centers and for smoothing by expectation.
    """

    index: int
    source: str
    x: Tensor
    center: bool
    mean: bool

    def failed(self, reason: str) -> Certified:
        """What there is of a point whose work was lost."""
        if self.center:
            return Certified(PointResult(self.index, self.source, 0.0, {}, reason))
        return Certified(mean_failure=f"the mean at point {self.index} failed: {reason}")


@dataclass(frozen=True)
class Certified:
    """What certifying a point gave, as far as it was asked for; ``mean_failure`` is a line that says why no mean."""

    center: PointResult | None = None
    mean: MeanResult | None = None
    mean_failure: str = ""


def passes_of_mean(budget: Budget) -> int:
    """Forward passes of smoothing one point by expectation."""
    return 1 + budget.n + budget.m


@dataclass
class Certifier:
    """A cell's model with its metrics and counts: turns a point into its evidence, on whatever machine.

    Attributes
    ----------
    batch_size : int
        Halved where memory runs out, which changes no evidence.
    free : bool
        Whether free centers are found besides.
    """

    model: nn.Module
    metrics: Mapping[str, Metric]
    budget: Budget
    sigma: float
    seed: int
    forward_block: int
    batch_size: int
    output_range: tuple[float, float] | None
    free: bool

    def certify(self, point: Point, advance: Callable[[float], None], say: Callable[[str], None]) -> Certified:
        """The evidence that is missing of a point, or the reason it failed; in smaller batches where memory runs out.

        Parameters
        ----------
        advance : callable
            Called with forward passes done; in all as many as are due.
        say : callable
            Called with a line where the batch was halved.
        """
        center = self._in_memory(self._center, point, advance, say) if point.center else None
        if not point.mean:
            return Certified(center)
        if center is not None and center.failure:
            advance(passes_of_mean(self.budget))
            return Certified(center)
        mean = self._in_memory(self._mean, point, advance, say)
        return Certified(center, mean_failure=mean) if isinstance(mean, str) else Certified(center, mean)

    def _in_memory(
        self,
        attempt: Callable[[Sampler, Point, Callable[[float], None]], _Result],
        point: Point,
        advance: Callable[[float], None],
        say: Callable[[str], None],
    ) -> _Result:
        """Attempt it with half of the batch where memory runs out; what fits is kept for the points that follow."""
        noise = GaussianNoise(self.sigma)
        while True:
            sampler = Sampler(self.model, noise, self.forward_block, self.batch_size, self.output_range)
            try:
                with evaluating(self.model):
                    return attempt(sampler, point, advance)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.batch_size = smaller_batch(self.batch_size, self.forward_block, error)
            # Only here is what the failed attempt held released.
            torch.cuda.empty_cache()
            say(f"memory ran out on point {point.index}: again with batch_size={self.batch_size}, which changes no row")

    def _center(self, sampler: Sampler, point: Point, advance: Callable[[float], None]) -> PointResult:
        stream, started = RandomStream(self.seed, point.index), time.perf_counter()
        evidence, failure = {}, ""
        with _counting(self.budget.passes, advance) as progress:
            try:
                evidence = gather(
                    sampler, self.metrics, self.budget, point.x, stream, free=self.free, progress=progress
                )
            except OF_THE_POINT as error:
                failure = str(error)
        return PointResult(point.index, point.source, round(time.perf_counter() - started, 4), evidence, failure)

    def _mean(self, sampler: Sampler, point: Point, advance: Callable[[float], None]) -> MeanResult | str:
        """For each metric that has a certificate of the mean, on the draws of the point's centers."""
        budget, limits = self.budget, self.output_range
        metrics = {n: m for n, m in self.metrics.items() if not mean_problem(m, sampler.noise, budget, limits)}
        stream, started = RandomStream(self.seed, point.index), time.perf_counter()
        with _counting(passes_of_mean(budget), advance) as progress:
            try:
                evidence = gather_means(sampler, metrics, budget, point.x, stream, limits, progress=progress)
            except OF_THE_POINT as error:
                return f"the mean at point {point.index} failed: {error}"
        return MeanResult(point.index, point.source, round(time.perf_counter() - started, 4), evidence)


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
