"""The mean score of the noisy outputs, from below and from above.

For a model ``f`` with outputs in a declared range ``[l, u]`` the smoothed function is ``g(x) = E f(x + P)``. The
certificate has an interval for every coordinate of ``g(x')``, for all ``x'`` within ``eps`` and all coordinates at
once; its radius is the largest distance of an interval's end to the answer, the mean of the ``m`` fresh draws. Nothing
is chosen from draws, so that no further ones are needed, and ``alpha2`` is divided among ``D`` coordinates with two
sides each: a statement below has the share ``a = alpha2 / 2D``. All of them hold for every ``eps`` jointly.

**two_point.** ``psi = (f - l) / (u - l)`` has values in [0, 1], and a mean of at least the ``p`` with ``kl(mean of the
draws, p) = ln(1/a) / m``; so ``g(x') >= l + (u - l) kept_mean(p)`` (`Noise.kept_mean`). Nothing smaller follows from
the mean.

**cdf.** The mean is the integral of the masses above each value, and each of them keeps what `Noise.kept_mass` says.
The `Band` of `.expectation` bounds all these masses at once, by order statistics of fixed ranks. Scores that vary
little cannot be those of a function that is 0 or 1, so this is narrower.

Proofs: docs/guarantee.md, section 18.

Source: Chiang, Curry, Abdelkader, Kumar, Dickerson and Goldstein, *Detection as Regression: Certified Object Detection
by Median Smoothing*, NeurIPS 2020 (two_point); Kumar, Levine, Feizi and Goldstein, *Certifying Confidence via
Randomized Smoothing*, NeurIPS 2020, theorem 2 (cdf). There masses are bounded by the inequality of Dvoretzky, Kiefer
and Wolfowitz.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.certificate import About, Certificate, Outcome, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.distances import DistanceBuffer, DistanceSample
from centersmooth.certifiers.expectation import Band, band_ranks, range_problem, shifted
from centersmooth.certifiers.spectral import kl_upper
from centersmooth.errors import RequestError
from centersmooth.gathering import Setting, Shared
from centersmooth.noise import GaussianShift, Noise

Array = NDArray[np.float64]

_ROUND_UP: Final = 1 + 1e-9
"""Outward rounding of movements and of scaled means, which are right to about 1e-13."""

_TINY: Final = 1e-15
"""Outward rounding of complements of masses."""

_MOST: Final = 2**28
"""Scores that are held for one input: 2 GiB."""


@dataclass(frozen=True)
class ScoreSample:
    """Order statistics of ``m`` fresh draws in each of ``D`` coordinates, as distances to the limits of the range.

    Attributes
    ----------
    count : int
        ``m``.
    ranks : array, shape ``(r,)``
        Those of `band_ranks`.
    above_low, below_high : arrays, shape ``(r, D)``
        The distances of these ranks to the lower limit, and to the upper one; both ascend.
    """

    count: int
    ranks: NDArray[np.int64]
    above_low: NDArray[np.float64]
    below_high: NDArray[np.float64]


@dataclass(frozen=True)
class ScoreEvidence:
    """Mean and order statistics of the scores at one input.

    Attributes
    ----------
    center : Tensor, shape ``(*out)``, float64
        Mean of the draws.
    base : Tensor, shape ``(*out)``
        The base model's scores at the unperturbed input.
    error : float
        Their largest difference in a coordinate.
    sample : ScoreSample or None
        None where only an answer was asked for.
    """

    center: Tensor
    base: Tensor
    error: float
    sample: ScoreSample | None


@dataclass(frozen=True, repr=False)
class ScoreCertificate(Certificate):
    """A certificate about mean scores.

    Attributes
    ----------
    lower, upper : Tensor or None, shape ``(*out)``
        Limits of the mean score in every coordinate, which hold for all of them at once.
    """

    lower: Tensor | None = None
    upper: Tensor | None = None

    @property
    def details(self) -> dict[str, float | str | bool | None]:
        """The largest mean score, and its limits; the choice is free, as the limits hold for all coordinates."""
        if self.answer is None or self.lower is None or self.upper is None:
            return {"score": None, "score_low": None, "score_high": None}
        top = int(self.answer.flatten().argmax())
        scores = {"score": self.answer, "score_low": self.lower, "score_high": self.upper}
        return {name: float(values.flatten()[top]) for name, values in scores.items()}

    def __str__(self) -> str:
        """One sentence for people."""
        if self.radius is None or self.answer is None:
            return super().__str__()
        score, lower, upper = self.details.values()
        subject = "the mean score" if self.answer.numel() == 1 else "the mean of the largest score"
        return (
            f"for every input within eps = {self.eps:g} ({self.threat}) {subject}, {score:.4g} here, is from "
            f"{lower:.4g} to {upper:.4g}, except with probability {self.alpha:.3g}"
        )


@dataclass(frozen=True)
class Score(Certifier):
    """The mean of a score in a declared range, or of several for each input: radii are of the one that moves most."""

    name: ClassVar[str] = "score"
    rules: ClassVar[tuple[str, ...]] = ("two_point", "cdf")
    evidence: ClassVar[type] = ScoreEvidence

    def about(self, rule: str) -> About:
        return "map"

    def unsuited(self, setting: Setting) -> str:
        return range_problem(setting.output_range)

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        return ""

    def check(self, setting: Setting, outputs: Tensor) -> None:
        scores = outputs[0].numel()
        if scores * setting.budget.m > _MOST:
            raise RequestError(
                f"an output has {scores} scores, and m is {setting.budget.m}: expected at most {_MOST // scores} "
                "draws, as all are held to be sorted"
            )

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> ScoreCollector:
        return ScoreCollector(setting, radius)

    def answer(self, evidence: ScoreEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(evidence.center, False, evidence.base, evidence.error)

    def certificate(self, evidence: ScoreEvidence, eps: float, rule: str, setting: Setting) -> ScoreCertificate:
        low, high = _range(setting)
        limits_of = _two_point_limits if rule == "two_point" else _cdf_limits
        limits = limits_of(evidence, eps, setting)
        center = evidence.center
        lower, upper = (torch.from_numpy(limit).reshape(center.shape).clamp(low, high) for limit in limits)
        radius = float(torch.maximum(upper - center, center - lower).max()) * _ROUND_UP
        largest = float(torch.maximum(high - center, center - low).max())
        return ScoreCertificate(
            eps=eps,
            outcome=Outcome.CERTIFIED,
            radius=min(radius, largest),
            vacuous=radius >= largest,
            answer=center,
            alpha=setting.budget.alpha2,
            certifier=self.name,
            rule=rule,
            about=self.about(rule),
            threat=setting.noise.threat.unit,
            lower=lower,
            upper=upper,
        )

    def distance(self, a: Tensor, b: Tensor) -> float:
        return float((a.double() - b.double()).abs().max())

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        def of_mean(outputs: Tensor) -> Tensor:
            return (outputs.double().mean(0) - answer.double()).abs().max()[None]

        return of_mean


class ScoreCollector:
    """All scores: of the fresh draws, or where only an answer is asked for of as many as a run takes."""

    def __init__(self, setting: Setting, radius: bool) -> None:
        budget = setting.budget
        stage, count = ("fresh", budget.m) if radius else ("center", min(budget.n, budget.m))
        self._setting, self._radius = setting, radius
        self._left = {"candidates": 0, "center": 0, "fresh": 0} | {stage: count}
        self._scores = DistanceBuffer(count)

    def wants(self, stage: str) -> int:
        return self._left[stage]

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left[stage] -= len(outputs)
        self._scores.add(outputs.reshape(len(outputs), -1).double())

    def compute(self, base: Tensor) -> ScoreEvidence:
        scores = self._scores.values
        center = scores.mean(0).reshape(base.shape).cpu()
        error = float((base.cpu().double() - center).abs().max())
        return ScoreEvidence(center, base, error, self._sample(scores) if self._radius else None)

    def _sample(self, scores: Tensor) -> ScoreSample:
        low, high = _range(self._setting)
        ordered, count = scores.sort(0).values.cpu().numpy(), len(scores)
        ranks = band_ranks(count)
        return ScoreSample(count, ranks, ordered[ranks - 1] - low, high - ordered[count - ranks])


def _two_point_limits(evidence: ScoreEvidence, eps: float, setting: Setting) -> tuple[Array, Array]:
    """Lower and upper limits from the means of the fresh draws, ``(D,)`` each."""
    low, high = _range(setting)
    share, count = _share(evidence, setting), _sample(evidence).count
    means = (evidence.center.flatten().numpy() - low) / (high - low)

    def kept(mean: float) -> float:
        return setting.noise.kept_mean(mean_floor(mean, count, share), eps)

    lower = low + (high - low) * np.array([kept(mean) for mean in means])
    upper = high - (high - low) * np.array([kept(1 - mean) for mean in means])
    return lower, upper


def _cdf_limits(evidence: ScoreEvidence, eps: float, setting: Setting) -> tuple[Array, Array]:
    """Lower and upper limits from order statistics of the fresh draws, ``(D,)`` each."""
    low, high = _range(setting)
    share, sample = _share(evidence, setting), _sample(evidence)

    def bands(distances: Array) -> list[Band]:
        samples = [DistanceSample(sample.count, sample.ranks, column) for column in distances.T]
        return [Band.of(one, high - low, share) for one in samples]

    below, above = bands(sample.below_high), bands(sample.above_low)
    masses = most_mass(setting.noise, below[0].beyond, eps)  # the same of all of them: ranks and shares are
    lower, upper = (np.array([band.integral(lambda _: masses) for band in side]) for side in (below, above))
    return high - lower, low + upper


def mean_floor(mean: float, count: int, alpha: float) -> float:
    """A number that an expectation exceeds w.p. ``>= 1 - alpha``, by the mean of ``count`` draws with values in [0, 1].

    Examples
    --------
    >>> round(mean_floor(0.5, 1_000, 0.001), 4), round(mean_floor(0.99, 1_000, 0.001), 4), mean_floor(0.0, 10, 0.001)
    (0.4414, 0.9735, 0.0)
    """
    below = min(1.0, max(0.0, 1 - mean) * _ROUND_UP)
    return max(0.0, 1 - kl_upper(below, -math.log(alpha) / count))


def most_mass(noise: Noise, masses: Array, eps: float) -> Array:
    """The most mass at any ``x'`` within ``eps`` of sets that have at most ``masses`` at ``x``, rounded up.

    Examples
    --------
    >>> from centersmooth import GaussianNoise, UniformNoise
    >>> most_mass(GaussianNoise(1.0), np.array([0.0, 0.5, 1.0]), 1.0).round(4).tolist()
    [0.0, 0.8413, 1.0]
    >>> most_mass(UniformNoise(1.0), np.array([0.0, 0.5, 1.0]), 0.5).round(4).tolist()
    [0.25, 0.75, 1.0]
    """
    if isinstance(noise, GaussianShift):
        return shifted(masses, noise.shift(eps))
    kept = [noise.kept_mass(max(0.0, 1 - mass - _TINY), eps) for mass in masses]
    return np.minimum(1.0, 1 - np.array(kept) + _TINY)


def _share(evidence: ScoreEvidence, setting: Setting) -> float:
    """The failure probability of one side of one coordinate."""
    return setting.budget.alpha2 / (2 * evidence.center.numel())


def _sample(evidence: ScoreEvidence) -> ScoreSample:
    if evidence.sample is None:
        raise ValueError("there is no radius: expected evidence gathered with one")
    return evidence.sample


def _range(setting: Setting) -> tuple[float, float]:
    if problem := range_problem(setting.output_range):
        raise RequestError(problem)
    assert setting.output_range is not None
    return setting.output_range
