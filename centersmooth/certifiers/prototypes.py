"""The prototype nearest to the mean embedding: few-shot classification.

The model gives embeddings in the unit ball, and ``K`` prototypes ``c_k`` are fixed before any draw. The smoothed
classifier answers with the prototype nearest to ``g(x) = E f(x + P)``. Draws of the stage ``center`` choose the
prototype ``A``, fresh ones measure how far ``g(x)`` is on its side of the bisector of ``A`` with each of the others.
The distance between answers is 0 or 1, so a radius of 0 says that the nearest prototype cannot change, and a radius of
1 says nothing.

``g`` is nearer to ``c_A`` than to ``c_k`` where ``<g, u_k> > t_k``, with the unit vector ``u_k = (c_A - c_k) / |c_A -
c_k|`` and ``t_k = (|c_A|^2 - |c_k|^2) / (2 |c_A - c_k|)``. So ``psi_k = (1 + <f, u_k>)/2``, which has values in [0, 1],
has to keep a mean above ``q_k = (1 + t_k)/2``. Its mean at ``x`` is at least ``p_k``, by ``m`` fresh draws and
Chernoff's bound at ``alpha2/(K - 1)``: so for all bisectors, and for every ``eps``, at once.

**half_spaces.** The prototype stays where ``kept_mean(p_k, eps) > q_k`` for every ``k`` (`Noise.kept_mean`); under
Gaussian noise, up to ``eps = min_k sigma (Phi^-1(p_k) - Phi^-1(q_k))``.

**cdf.** The mean of ``psi_k`` at ``x'`` is bounded by its order statistics at ``x``, as that of a score (`.score`),
with the same share of ``alpha2``: farther than ``half_spaces`` where embeddings vary little under the noise.

**lipschitz.** The published rule, for Gaussian noise: ``|g(x') - g(x)| <= sqrt(2/pi) eps/sigma``. Never beyond
``half_spaces``.

Proofs: docs/guarantee.md, section 19.

Source: Pautov, Kuznetsova, Tursynbek, Petiushko and Oseledets, *Smoothed Embeddings for Certified Few-Shot Learning*,
NeurIPS 2022. Differences from the code that came with it: all bisectors in the place of the second nearest prototype's,
which need not be the nearest; intervals of their full width; no repeated looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.certificate import About, Certificate, Outcome, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.distances import DistanceBuffer, DistanceSample
from centersmooth.certifiers.expectation import Band, band_ranks
from centersmooth.certifiers.score import mean_floor, most_mass
from centersmooth.errors import RequestError
from centersmooth.gathering import Setting, Shared
from centersmooth.noise import GaussianShift
from centersmooth.noise.base import farthest
from centersmooth.outputs import brief_repr, described

_LONGEST: Final = 1.01
"""Norm of an embedding beyond which it was not normalised; up to it, rounding put it there."""

_ROUNDING: Final = 1e-9
"""Outward rounding of inner products with embeddings in float64."""


@dataclass(frozen=True)
class PrototypeEvidence:
    """The prototype chosen at one input, and the mean embedding.

    Attributes
    ----------
    label, base : Tensor, shape ``()``
        The index of the prototype chosen, and of the one nearest to the base model's embedding.
    error : float
        Whether they differ: 0 or 1.
    mean : Tensor, shape ``(D,)``, float64
        Of the fresh embeddings; of those that chose the prototype where only an answer was asked for.
    drawn : int
        Fresh embeddings.
    below : array, shape ``(r, K - 1)``, or None
        ``1 - psi_k`` of the fresh embeddings against each other prototype, of the ranks `band_ranks`.
    """

    label: Tensor
    base: Tensor
    error: float
    mean: Tensor
    drawn: int
    below: NDArray[np.float64] | None


@dataclass(frozen=True, repr=False)
class PrototypeCertificate(Certificate):
    """A certificate about the nearest prototype.

    Attributes
    ----------
    label : int or None
        Its index.
    margin : float or None
        Lower confidence limit of the distance from the mean embedding at ``x`` to the nearest bisector.
    reach : float or None
        The largest ``eps`` at which these draws certify the prototype.
    """

    label: int | None = None
    margin: float | None = None
    reach: float | None = None

    def __str__(self) -> str:
        """One sentence for people."""
        if self.radius is None:
            return super().__str__()
        where = f"for every input within eps = {self.eps:g} ({self.threat})"
        if self.vacuous:
            return f"{where} the nearest prototype may be another than {self.label}: the draws do not exclude it"
        return f"{where} the nearest prototype is {self.label}, except with probability {self.alpha:.3g}"


@dataclass(frozen=True, eq=False, repr=False)
class Prototypes(Certifier):
    """The prototype nearest to the mean embedding.

    Embeddings are vectors of norm at most 1; one that rounding made longer is scaled back to the unit ball.

    Parameters
    ----------
    centers : Tensor, shape ``(K, D)``
        The prototypes, such as normalised means of the embeddings of a few examples of each class. Fixed before the
        draws; a certificate says nothing of changes of the examples.
    """

    centers: Tensor

    name: ClassVar[str] = "prototypes"
    rules: ClassVar[tuple[str, ...]] = ("lipschitz", "half_spaces", "cdf")
    evidence: ClassVar[type] = PrototypeEvidence

    def __post_init__(self) -> None:
        centers = self.centers
        if not isinstance(centers, Tensor) or not centers.is_floating_point() or centers.ndim != 2:
            raise RequestError(f"centers are {described(centers)}: expected a floating-point tensor of shape (K, D)")
        if len(centers) < 2:
            raise RequestError(f"centers are {len(centers)}: expected at least two prototypes")
        if not bool(centers.isfinite().all()) or len(centers.unique(dim=0)) < len(centers):
            raise RequestError("centers are not finite, or two of them are equal: expected different prototypes")
        object.__setattr__(self, "centers", centers.detach().double().cpu())

    def __repr__(self) -> str:
        return brief_repr(self)

    def about(self, rule: str) -> About:
        return "map"

    def unsuited(self, setting: Setting) -> str:
        return ""

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        noise, budget = setting.noise, setting.budget
        if rule == "lipschitz" and not isinstance(noise, GaussianShift):
            return f"noise is {noise!r}: the rule lipschitz is of Gaussian noise, expected rule=half_spaces"
        if eps is None:
            return ""
        others = len(self.centers) - 1
        best = self._kept(torch.ones(others), np.zeros((len(band_ranks(budget.m)), others)), budget.m, rule, setting)(
            eps
        )
        if any(bool((best > self.bisectors(label)[1]).all()) for label in range(others + 1)):
            return ""
        return (
            f"m = {budget.m} draws are too few for eps = {eps:g} by {rule}, though every embedding were the best: "
            "use more draws or more noise"
        )

    def check(self, setting: Setting, outputs: Tensor) -> None:
        self.nearest(outputs)

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> PrototypeCollector:
        return PrototypeCollector(self, setting, radius)

    def answer(self, evidence: PrototypeEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(evidence.label, False, evidence.base, evidence.error)

    def certificate(self, evidence: PrototypeEvidence, eps: float, rule: str, setting: Setting) -> PrototypeCertificate:
        noise, alpha, label = setting.noise, setting.budget.alpha2, int(evidence.label)
        common: dict[str, Any] = {"alpha": alpha, "certifier": self.name, "rule": rule, "about": self.about(rule)}
        common["threat"] = noise.threat.unit
        if problem := self.problem(setting, rule, eps):
            return PrototypeCertificate(eps, Outcome.INFEASIBLE, None, False, None, **common, reason=problem)
        if evidence.below is None:
            raise ValueError("there is no radius: expected evidence gathered with one")
        directions, least = self.bisectors(label)
        means = (1 + directions @ evidence.mean) / 2
        kept = self._kept(means, evidence.below, evidence.drawn, rule, setting)
        margin = float(2 * (kept(0.0) - least).min())
        every = bool((least < 0).all())  # no embedding is nearer to another
        reach = math.inf if every else farthest(lambda size: bool((kept(size) > least).all()), precision=1e-6)
        details: dict[str, Any] = {"label": label, "margin": margin, "reach": reach}
        if margin <= 0:  # the exact smoothed function may answer with another prototype
            reason = f"the mean of {evidence.drawn} fresh embeddings is not clearly nearest to prototype {label}"
            return PrototypeCertificate(
                eps, Outcome.BAD_CENTER, None, False, evidence.label, **common, reason=reason, **details
            )
        stays = bool((kept(eps) > least).all())
        return PrototypeCertificate(
            eps, Outcome.CERTIFIED, 0.0 if stays else 1.0, not stays, evidence.label, **common, **details
        )

    def distance(self, a: Tensor, b: Tensor) -> float:
        return float(bool((self._labels(a) != self._labels(b)).any()))

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        directions, least = self.bisectors(int(self._labels(answer)))

        def of_mean(outputs: Tensor) -> Tensor:
            beyond = 2 * least.to(outputs.device) - 1 - directions.to(outputs.device) @ in_ball(outputs).mean(0)
            return beyond.max()[None]

        return of_mean

    def nearest(self, embeddings: Tensor) -> Tensor:
        """The indices of the nearest prototypes, ``(b, D) -> (b,)``; ties go to the lowest.

        Raises
        ------
        RequestError
            The embeddings are not vectors of norm at most 1, with as many numbers as the prototypes.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.centers.shape[1]:
            raise RequestError(
                f"an embedding has the shape {tuple(embeddings.shape[1:])}: expected {tuple(self.centers.shape[1:])}, "
                "that of a prototype"
            )
        centers = self.centers.to(embeddings.device)
        scores = in_ball(embeddings) @ centers.T - centers.square().sum(1) / 2
        best = scores == scores.max(dim=1, keepdim=True).values
        return (best * torch.arange(len(centers), 0, -1, device=best.device)).argmax(dim=1)

    def bisectors(self, label: int) -> tuple[Tensor, Tensor]:
        """The ``u_k`` and ``q_k`` of one prototype against each other one: ``(K - 1, D)`` and ``(K - 1,)``."""
        others = torch.cat([self.centers[:label], self.centers[label + 1 :]])
        center = self.centers[label]
        lengths = (center - others).norm(dim=1)
        directions = (center - others) / lengths[:, None]
        thresholds = (directions * (center + others)).sum(1) / 2  # squares of the norms would cancel
        of_sums = len(center) * 2.0**-52 * (center.norm() + others.norm(dim=1))
        return directions, (1 + thresholds) / 2 + _ROUNDING + of_sums

    def _labels(self, output: Tensor) -> Tensor:
        """The index of a prototype, which may be given as it is, or by an embedding."""
        return output if not output.is_floating_point() else self.nearest(output[None])[0]

    def _share(self, setting: Setting) -> float:
        """The failure probability of one bisector."""
        return setting.budget.alpha2 / (len(self.centers) - 1)

    def _kept(
        self, means: Tensor, below: NDArray[np.float64], count: int, rule: str, setting: Setting
    ) -> Callable[[float], Tensor]:
        """Lower limits of the means of ``psi_k`` at every ``x'`` within an ``eps``, as a function of that.

        Parameters
        ----------
        means, below
            Of ``count`` fresh draws, as in `PrototypeEvidence`.
        """
        noise, share = setting.noise, self._share(setting)
        if rule == "cdf":
            ranks = band_ranks(count)
            bands = [Band.of(DistanceSample(count, ranks, column), 1.0, share) for column in below.T]

            def by_masses(eps: float) -> Tensor:
                masses = most_mass(noise, bands[0].beyond, eps)
                return torch.tensor([1 - band.integral(lambda _: masses) for band in bands], dtype=torch.float64)

            return by_masses
        floors = [mean_floor(mean - _ROUNDING, count, share) for mean in means.tolist()]
        if rule == "half_spaces":
            return lambda eps: torch.tensor([noise.kept_mean(floor, eps) for floor in floors], dtype=torch.float64)
        assert isinstance(noise, GaussianShift)
        slope = 1 / math.sqrt(2 * math.pi) + _ROUNDING  # psi is half of an inner product
        return lambda eps: torch.tensor(floors, dtype=torch.float64) - slope * noise.shift(eps)


class PrototypeCollector:
    """The sum of the embeddings that choose the prototype, then the fresh ones as the bisectors see them."""

    def __init__(self, certifier: Prototypes, setting: Setting, radius: bool) -> None:
        budget = setting.budget
        self._certifier = certifier
        self._left = {"candidates": 0, "center": budget.n, "fresh": budget.m if radius else 0}
        self._sums: dict[str, Tensor] = {}
        self._drawn = {"center": 0, "fresh": 0}
        self._below = DistanceBuffer(budget.m)

    def wants(self, stage: str) -> int:
        return self._left[stage]

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left[stage] -= len(outputs)
        self._drawn[stage] += len(outputs)
        embeddings = in_ball(outputs)
        if stage == "fresh":
            directions, _ = self._certifier.bisectors(int(self._label()))
            self._below.add((1 - embeddings @ directions.to(embeddings.device).T) / 2 + _ROUNDING)
        total = embeddings.sum(0).cpu()
        self._sums[stage] = self._sums[stage] + total if stage in self._sums else total

    def compute(self, base: Tensor) -> PrototypeEvidence:
        label, of_base = self._label(), self._certifier.nearest(base[None])[0].cpu()
        error, drawn = float(label != of_base), self._drawn["fresh"]
        if not drawn:
            return PrototypeEvidence(label, of_base, error, self._mean("center"), 0, None)
        ordered = self._below.values.sort(0).values.cpu().numpy()
        return PrototypeEvidence(label, of_base, error, self._mean("fresh"), drawn, ordered[band_ranks(drawn) - 1])

    def _mean(self, stage: str) -> Tensor:
        return self._sums[stage] / self._drawn[stage]

    def _label(self) -> Tensor:
        return self._certifier.nearest(self._mean("center")[None])[0]


def in_ball(embeddings: Tensor) -> Tensor:
    """Embeddings ``(b, D)`` in float64, those that rounding made longer than 1 scaled back.

    Raises
    ------
    RequestError
        One is longer than rounding makes it.
    """
    precise = embeddings.double()
    norms = precise.norm(dim=1, keepdim=True)
    if float(norms.detach().max()) > _LONGEST:
        raise RequestError(
            f"an embedding has the norm {float(norms.detach().max()):.4g}: expected at most 1; let the model normalise "
            "its embeddings"
        )
    scaled: Tensor = precise / norms.clamp(min=1.0)
    return scaled
