"""Smoothing by expectation: the answer is the mean of the noisy outputs, with a local certificate.

For outputs that have a mean (images, vectors) and a seminorm distance, `MeanSmoother` is the sibling of
`CenterSmoother`: the same interface, a certificate that can be several times smaller. The bounds and their proof are
in `centersmooth.expectation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.attack import Attack, Attacked
from centersmooth.certificate import Budget, Certificate, MeanFarName, Smoothed
from centersmooth.errors import RequestError
from centersmooth.evidence import DistanceSample, to_numpy
from centersmooth.expectation import MEAN_RULES, MeanEvidence, band_ranks, mean_certificate, mean_problem, reach
from centersmooth.metrics.base import Metric
from centersmooth.noise import GaussianNoise
from centersmooth.sampling import Model, Progress, RandomStream, Sampler
from centersmooth.smoother import Smoother, checked_stream, input_radii, what_to_attack
from centersmooth.testing import check_seminorm


class MeanSmoother(Smoother):
    """A model whose answer is the mean of its outputs under noise, with certificates for it.

    Parameters
    ----------
    model : nn.Module or callable, ``(b, *in) -> (b, *out)``
        The base function. A module is put in eval mode for every call and handed back as it came.
    metric : Metric
        A seminorm: L1, L2, TotalVariation, or a subclass of `Metric` that declares its `seminorm`.
    noise : GaussianNoise
        The smoothing law, in the unit of the input.
    budget : Budget
        ``n`` draws for an output, ``m`` more for a certificate; ``alpha1`` and ``alpha2``. There is no test that could
        fail, so ``delta`` is not used.
    output_range : (float, float)
        Hard limits of every output coordinate, checked on every output: a model that leaves it anywhere, however
        rarely, has no certificate.
    far : {"local", "global"}
        The movement from the distances seen at ``x``, or the bound that holds for every model; local is never larger.
    forward_block : int
        Inputs a call of the model. Part of what is certified: outputs depend on it in their last digits.
    batch_size : int
        Outputs held between two checks; changes no number.

    Examples
    --------
    >>> from centersmooth import Budget, GaussianNoise, L2, MeanSmoother, RandomStream
    >>> budget = Budget(n=1_000, m=4_000)
    >>> smoother = MeanSmoother(torch.sigmoid, L2(), GaussianNoise(0.5), budget, output_range=(0.0, 1.0))
    >>> certificate, = smoother.certify(torch.zeros(1), eps=0.5, stream=RandomStream(seed=0))
    >>> certificate.outcome.value, 0.1 < certificate.radius < 0.2
    ('certified', True)
    """

    def __init__(
        self,
        model: Model,
        metric: Metric,
        noise: GaussianNoise,
        budget: Budget,
        *,
        output_range: tuple[float, float] | None = None,
        far: MeanFarName = "local",
        forward_block: int = 128,
        batch_size: int = 1024,
    ) -> None:
        super().__init__(Sampler(model, noise, forward_block, batch_size, output_range), metric, budget)
        problem = mean_problem(metric, noise, budget, output_range)
        if problem or output_range is None:
            raise RequestError(problem)
        if far not in MEAN_RULES:
            raise RequestError(f"far is {far!r}: expected one of {', '.join(map(repr, MEAN_RULES))}")
        self.noise = noise
        self.far: MeanFarName = far
        self.output_range = output_range

    def smooth(self, x: Tensor, *, stream: RandomStream | None = None, progress: Progress | None = None) -> Smoothed:
        """The smoothed output at ``x``: the mean of ``n`` noisy outputs, in float64. It never abstains.

        Parameters
        ----------
        x : Tensor, shape ``(*in)``
            One input, without a batch dimension.
        stream : RandomStream, optional
            For a repeatable experiment; by default fresh entropy, which a deployed model needs.

        Raises
        ------
        ModelError
            If the model is not one fixed function of one input, returns NaN, or leaves the declared range.
        """
        stream = checked_stream(stream)
        with self._held_fixed(x):
            base = self._sampler.base_output(x)
            mean = mean_output(self._sampler, self.budget, x, stream, progress=progress)
        return Smoothed(mean, None, False, base, self.distance(base, mean))

    def certify(
        self,
        x: Tensor,
        eps: float | Iterable[float],
        *,
        stream: RandomStream | None = None,
        progress: Progress | None = None,
    ) -> list[Certificate]:
        """One certificate for each ``eps``, all from one set of draws.

        It says: with probability at least ``1 - alpha2`` over the draws made here, for every ``x'`` with
        ``|x' - x|_2 <= eps`` a fresh run of `smooth` at ``x'`` answers with an output farther than ``radius`` from
        ``center`` with probability at most ``alpha1``. All ``eps`` of one call hold jointly at ``x``. The center is the
        mean of ``m`` draws: what `smooth` answers at ``x``, up to the radius at ``eps = 0``.

        Parameters
        ----------
        x : Tensor, shape ``(*in)``
            One input, without a batch dimension.
        eps : float or iterable of floats
            l2 radii in the unit of the input, each at least 0.

        Raises
        ------
        ModelError
            If the model is not one fixed function of one input, returns NaN, or leaves the declared range.
        """
        radii, stream = input_radii(eps), checked_stream(stream)
        with self._held_fixed(x):
            metrics = {"": self.metric}
            evidence = gather_means(
                self._sampler, metrics, self.budget, x, stream, self.output_range, progress=progress
            )[""]
        return [
            mean_certificate(
                evidence,
                e,
                metric=self.metric,
                noise=self.noise,
                budget=self.budget,
                far=self.far,
                output_range=self.output_range,
            )
            for e in radii
        ]

    def attack(
        self,
        x: Tensor,
        certificate: Certificate,
        attack: Attack | None = None,
        *,
        runs: int = 4,
        stream: RandomStream | None = None,
    ) -> Attacked:
        """Look for an input within ``certificate.eps`` that moves the mean far, and see how far.

        Parameters
        ----------
        x : Tensor, shape ``(*in)``
            The input that was certified.
        attack : Attack, optional
            By default 20 gradient steps from each of 2 starts.
        runs : int
            Runs of `smooth` at the input found, on fresh draws; none of them abstains.
        stream : RandomStream, optional
            Of the attack; its runs are judged on streams derived from it. By default fresh entropy.

        Raises
        ------
        RequestError
            The certificate has no center, or gradients are asked of a model that has none.
        """
        attack, runs, center = what_to_attack(certificate, attack, runs, "mean")
        stream, sampler = checked_stream(stream), self._sampler
        with self._held_fixed(x):
            found = attack.perturb(sampler, self.metric, x, center, certificate.eps, stream.named("attack"), mean=True)
            streams = [stream.named(f"run {run}") for run in range(runs)]
            means = [mean_output(sampler, self.budget, found, one) for one in streams]
        return Attacked(found, tuple(self.distance(mean, center) for mean in means), 0)

    def _check_outputs(self, outputs: Tensor) -> None:
        super()._check_outputs(outputs)
        check_seminorm(self.metric, outputs, self.output_range)


def mean_output(
    sampler: Sampler, budget: Budget, x: Tensor, stream: RandomStream, *, progress: Progress | None = None
) -> Tensor:
    """The mean of ``n`` draws of ``f(x + noise)``: ``(*in) -> (*out)``, in float64."""
    sums = (outputs.double().sum(0) for outputs in sampler.draw(x, budget.n, stream, "center", progress=progress))
    return reduce(Tensor.add_, sums) / budget.n


def gather_means(
    sampler: Sampler,
    metrics: Mapping[str, Metric],
    budget: Budget,
    x: Tensor,
    stream: RandomStream,
    output_range: tuple[float, float],
    *,
    progress: Progress | None = None,
) -> dict[str, MeanEvidence]:
    """Sample ``f(x + noise)`` and reduce it to what certificates of the mean read, one for each seminorm.

    The draws are the first ones of `centersmooth.evidence.gather` under the same stream. The reference is the mean of
    the ``n`` of stage "center", rounded to the type of the outputs: any would do that is independent of the others.

    Raises
    ------
    ModelError
        On NaN or infinite outputs or distances, or outputs outside the range of the sampler.
    """
    base = sampler.base_output(x)
    reference = mean_output(sampler, budget, x, stream, progress=progress)
    reference = reference.to(torch.promote_types(base.dtype, torch.float32))
    features = {name: metric.features(reference[None]) for name, metric in metrics.items()}
    distances = {name: x.new_empty(budget.m, dtype=torch.float64) for name in metrics}
    total, seen = torch.zeros_like(reference, dtype=torch.float64), 0
    for outputs in sampler.draw(x, budget.m, stream, "fresh", progress=progress):
        rows, seen = slice(seen, seen + len(outputs)), seen + len(outputs)
        total += outputs.double().sum(0)
        for name, metric in metrics.items():
            distances[name][rows] = metric.pairwise(metric.features(outputs), features[name])[:, 0]
    center = total / budget.m
    return {
        name: MeanEvidence(
            center=center,
            base=base,
            error=_error(metric, base, center),
            distances=_of_band(to_numpy(metric, distances[name])),
            reach=reach(metric, reference, output_range),
        )
        for name, metric in metrics.items()
    }


def _of_band(distances: NDArray[np.float64]) -> DistanceSample:
    """Those of the ranks the band has."""
    ranks = band_ranks(len(distances))
    return DistanceSample(len(distances), ranks, np.sort(distances)[ranks - 1])


def _error(metric: Metric, base: Tensor, center: Tensor) -> float:
    return float(metric.pairwise(metric.features(base[None].double()), metric.features(center[None])))
