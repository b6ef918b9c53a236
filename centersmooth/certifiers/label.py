"""The class of most noisy outputs: randomized smoothing of classifiers.

The smoothed classifier's answer at ``x`` is the class ``g(x)`` that ``f(x + noise)`` is most often. Draws of the stage
``center`` choose a class, fresh ones count how often it comes. The distance between classes is 0 or 1, so a radius of 0
says that the class cannot change, and a radius of 1 says nothing.

**counts** (about the map). Of ``m`` fresh draws ``k`` are the class; its mass is at least ``p``, the lower limit of
Clopper and Pearson at ``alpha2``. A set of mass ``p`` keeps more than 1/2 at every ``x'`` within ``eps`` where ``p >
required_mass(1/2, eps)``: then ``g(x')`` is that class, for every such ``x'`` and every ``eps`` jointly.

**counts_run** (about a fresh run, which answers with the class of most of its ``n`` draws). A class of mass
`majority_mass` has more than half of ``n`` draws, except with probability ``alpha1``. It has that mass at every ``x'``
within ``eps`` where ``p > required_mass(majority_mass, eps)``.

Source: Cohen, Rosenfeld and Kolter, *Certified Adversarial Robustness via Randomized Smoothing*, ICML 2019, theorem 1
and the procedures CERTIFY and PREDICT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.special import betainccinv
from torch import Tensor

from centersmooth.bounds import EXACT
from centersmooth.certificate import About, Certificate, Outcome, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.errors import RequestError
from centersmooth.gathering import Setting, Shared


@dataclass(frozen=True)
class LabelEvidence:
    """Counts of one class among the draws at one input.

    Attributes
    ----------
    label, base : Tensor, shape ``()``
        The class chosen, and that of the base model at the unperturbed input.
    error : float
        Whether they differ: 0 or 1.
    hits : int
        Fresh draws of the class chosen.
    drawn : int
        Fresh draws.
    """

    label: Tensor
    base: Tensor
    error: float
    hits: int
    drawn: int


@dataclass(frozen=True, repr=False)
class LabelCertificate(Certificate):
    """A certificate about a class.

    Attributes
    ----------
    label : int or None
        The class.
    p_low : float or None
        Lower confidence limit of its mass under the noise at ``x``.
    reach : float or None
        The largest ``eps`` at which these counts certify the class.
    """

    label: int | None = None
    p_low: float | None = None
    reach: float | None = None

    def __str__(self) -> str:
        """One sentence for people."""
        if self.radius is None:
            return super().__str__()
        where = f"for every input within eps = {self.eps:g} ({self.threat})"
        if self.vacuous:
            return f"{where} the class may be another than {self.label}: the draws do not exclude it"
        subject = "a fresh run answers class" if self.about == "run" else "the smoothed class is"
        return f"{where} {subject} {self.label}, except with probability {self.alpha:.3g}"


@dataclass(frozen=True)
class Label(Certifier):
    """The class of most noisy outputs; for outputs that are one integer, or one score for each class."""

    name: ClassVar[str] = "label"
    rules: ClassVar[tuple[str, ...]] = ("counts_run", "counts")
    evidence: ClassVar[type] = LabelEvidence

    def about(self, rule: str) -> About:
        return "map" if rule == "counts" else "run"

    def unsuited(self, setting: Setting) -> str:
        return ""

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        if eps is None:
            return ""
        budget, needed = setting.budget, self._needed(setting, rule, eps)
        if EXACT.mass_floor(budget.m, budget.m, budget.alpha2) > needed:
            return ""
        least = EXACT.least_m(needed, budget.alpha2)
        remedy = f"m > {least} would do" if least is not None else "no number a machine makes would do: use more noise"
        return f"m = {budget.m} draws are too few for eps = {eps:g} by {rule}, though all were of one class: {remedy}"

    def check(self, setting: Setting, outputs: Tensor) -> None:
        labels_of(outputs)

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> LabelCollector:
        return LabelCollector(setting, shared, radius)

    def answer(self, evidence: LabelEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(evidence.label, False, evidence.base, evidence.error)

    def certificate(self, evidence: LabelEvidence, eps: float, rule: str, setting: Setting) -> LabelCertificate:
        budget, needed = setting.budget, self._needed(setting, rule, eps)
        alpha = budget.alpha2 if rule == "counts" else budget.alpha
        common: dict[str, Any] = {"alpha": alpha, "certifier": self.name, "rule": rule, "about": self.about(rule)}
        common["threat"] = setting.noise.threat.unit
        if problem := self.problem(setting, rule, eps):
            return LabelCertificate(eps, Outcome.INFEASIBLE, None, False, None, **common, reason=problem)
        p_low = EXACT.mass_floor(evidence.hits, evidence.drawn, budget.alpha2)
        reach = setting.noise.reach(p_low, self._kept(setting, rule))
        details: dict[str, Any] = {"label": int(evidence.label), "p_low": p_low, "reach": reach}
        if rule == "counts" and p_low <= 0.5:  # the exact smoothed function may answer with another class
            reason = f"{evidence.hits} of {evidence.drawn} fresh draws are of class {int(evidence.label)}: no majority"
            return LabelCertificate(
                eps, Outcome.BAD_CENTER, None, False, evidence.label, **common, reason=reason, **details
            )
        holds = p_low > needed
        return LabelCertificate(
            eps, Outcome.CERTIFIED, 0.0 if holds else 1.0, not holds, evidence.label, **common, **details
        )

    def distance(self, a: Tensor, b: Tensor) -> float:
        return float(bool((labels_of(a[None]) != labels_of(b[None])).any()))

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        label = labels_of(answer[None])[0]

        def away(outputs: Tensor) -> Tensor:
            if outputs.ndim == 1:
                return (outputs != label).double()
            return -torch.log_softmax(outputs, dim=1)[:, int(label)]

        return away

    def _kept(self, setting: Setting, rule: str) -> float:
        """The mass that the class has to keep at ``x'``."""
        return 0.5 if rule == "counts" else majority_mass(setting.budget.n, setting.budget.alpha1)

    def _needed(self, setting: Setting, rule: str, eps: float) -> float:
        return setting.noise.required_mass(self._kept(setting, rule), eps)


class LabelCollector:
    """Counts of classes, then of the one chosen."""

    def __init__(self, setting: Setting, shared: Shared, radius: bool) -> None:
        self._left = {"candidates": 0, "center": setting.budget.n, "fresh": setting.budget.m if radius else 0}
        self._shared = shared
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._hits = self._drawn = 0

    def wants(self, stage: str) -> int:
        return self._left[stage]

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left[stage] -= len(outputs)
        labels = self._shared.once(("labels", len(outputs)), lambda: labels_of(outputs))
        if stage == "fresh":
            self._hits += int((labels == self._label()).sum())
            self._drawn += len(labels)
            return
        counts = torch.bincount(labels, minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts

    def compute(self, base: Tensor) -> LabelEvidence:
        label, of_base = torch.tensor(self._label()), labels_of(base[None])[0].cpu()
        return LabelEvidence(label, of_base, float(label != of_base), self._hits, self._drawn)

    def _label(self) -> int:
        return int((self._counts == self._counts.max()).nonzero()[0])  # ties go to the lowest class


def majority_mass(n: int, alpha: float) -> float:
    """The mass of a class that has more than half of ``n`` draws with probability ``>= 1 - alpha``, rounded up.

    Examples
    --------
    >>> round(majority_mass(1, 0.005), 3), round(majority_mass(1_001, 0.005), 3), round(majority_mass(1_000, 0.005), 3)
    (0.995, 0.541, 0.541)
    """
    half = n // 2
    return min(1.0, float(betainccinv(half + 1, n - half, alpha)) * (1 + 1e-12))


def labels_of(outputs: Tensor) -> Tensor:
    """Classes of outputs, ``(b,)`` integers or ``(b, classes)`` scores, as int64; ties go to the lowest class.

    Raises
    ------
    RequestError
        They are neither.

    Examples
    --------
    >>> labels_of(torch.tensor([[0.1, 0.7], [2.0, 2.0]])).tolist(), labels_of(torch.tensor([3, 0])).tolist()
    ([1, 0], [3, 0])
    """
    if outputs.ndim == 1 and not outputs.is_floating_point() and int(outputs.min()) >= 0:
        return outputs.long()
    if outputs.ndim == 2 and outputs.is_floating_point() and outputs.shape[1] > 1:
        best = outputs == outputs.max(dim=1, keepdim=True).values
        return (best * torch.arange(outputs.shape[1], 0, -1, device=outputs.device)).argmax(dim=1)
    raise RequestError(
        f"an output is {outputs.dtype} of shape {tuple(outputs.shape[1:])}: expected one class as an integer of at "
        "least 0, or one score for each class"
    )
