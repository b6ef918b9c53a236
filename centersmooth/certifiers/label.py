"""The class of most noisy outputs: randomized smoothing of classifiers.

The smoothed classifier's answer at ``x`` is the class ``g(x)`` that ``f(x + noise)`` is most often. Draws of the stage
``center`` choose a class, fresh ones count how often it comes. The distance between classes is 0 or 1, so a radius of 0
says that the class cannot change, and a radius of 1 says nothing.

**counts** (about the map). Of ``m`` fresh draws ``k`` are the class; its mass is at least ``p``, the lower limit of
Clopper and Pearson at ``alpha2``. A set of mass ``p`` keeps more than 1/2 at every ``x'`` within ``eps`` where ``p >
required_mass(1/2, eps)``: then ``g(x')`` is that class, for every such ``x'`` and every ``eps`` jointly.

**betting** (about the map). The test of `centersmooth.betting` asks the fresh draws one question, whether the mass is
above ``required_mass(1/2, eps)``. It may look after each of them: where the class is clear it has its answer after a
few dozen. Each ``eps`` is a question of its own and holds with probability ``1 - alpha2`` by itself.
`Smoother.certify` stops the draws, at the end of a batch, as soon as every ``eps`` asked for is answered.

**counts_run** (about a fresh run, which answers with the class of most of its ``n`` draws). A class of mass
`majority_mass` has more than half of ``n`` draws, except with probability ``alpha1``. It has that mass at every ``x'``
within ``eps`` where ``p > required_mass(majority_mass, eps)``.

**Answers.** A run that is asked for no certificate abstains, under the rules about the map, unless the class leads the
second in a two-sided binomial test at ``alpha1``: it answers with another class than ``g(x)`` with probability at most
``alpha1``. With a certificate the fresh draws decide, and under ``counts_run`` every run answers.

Source: Cohen, Rosenfeld and Kolter, *Certified Adversarial Robustness via Randomized Smoothing*, ICML 2019, theorem 1
and the procedures CERTIFY and PREDICT; Voracek, *Treatment of Statistical Estimation Problems in Randomized Smoothing
for Adversarial Robustness*, NeurIPS 2024 (sequential tests).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betainc
from torch import Tensor

from centersmooth.betting import BettingTest, first_above, least_draws
from centersmooth.bounds import EXACT, mass_of_count
from centersmooth.certificate import About, Certificate, Outcome, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.errors import RequestError
from centersmooth.gathering import Collects, Setting, Shared


@dataclass(frozen=True)
class LabelEvidence:
    """Draws of one class at one input.

    Attributes
    ----------
    label, base : Tensor, shape ``()``
        The class chosen, and that of the base model at the unperturbed input.
    error : float
        Whether they differ: 0 or 1.
    votes : array of int64, shape ``(2,)``
        Draws that chose the class, and those of the second class among them.
    drawn : int
        Fresh draws.
    order : array of uint8, shape ``(ceil(drawn / 8),)``
        Which of them, in their order, are of the class: a bit each, as `numpy.packbits` leaves them.
    """

    label: Tensor
    base: Tensor
    error: float
    votes: NDArray[np.int64]
    drawn: int
    order: NDArray[np.uint8]

    @property
    def outcomes(self) -> NDArray[np.bool_]:
        """Whether each fresh draw is of the class, ``(drawn,)``."""
        return np.unpackbits(self.order, count=self.drawn).astype(bool)

    @property
    def hits(self) -> int:
        """Fresh draws of the class."""
        return int(np.unpackbits(self.order).sum())


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
    stopped : int or None
        The number of fresh draws after which `betting` had certified the class.
    """

    label: int | None = None
    p_low: float | None = None
    reach: float | None = None
    stopped: int | None = None

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
    version: ClassVar[int] = 2
    rules: ClassVar[tuple[str, ...]] = ("counts_run", "betting", "counts")
    evidence: ClassVar[type] = LabelEvidence

    def about(self, rule: str) -> About:
        return "run" if rule == "counts_run" else "map"

    def until(self, rule: str, radii: Sequence[float]) -> Collects:
        return UntilAnswered(self, tuple(radii)) if rule == "betting" else self

    def unsuited(self, setting: Setting) -> str:
        return ""

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        if eps is None:
            return ""
        m, alpha, needed = setting.budget.m, setting.budget.alpha2, self.needed(setting, rule, eps)
        if rule == "betting":
            fewest = least_draws(needed, alpha)
            enough = fewest is not None and m >= fewest
        else:
            too_few = EXACT.least_m(needed, alpha)
            fewest = None if too_few is None else too_few + 1
            enough = EXACT.mass_floor(m, m, alpha) > needed
        if enough:
            return ""
        remedy = "no number a machine makes would do: use more noise" if fewest is None else f"m >= {fewest} would do"
        return f"m = {m} draws are too few for eps = {eps:g} by {rule}, though all were of one class: {remedy}"

    def check(self, setting: Setting, outputs: Tensor) -> None:
        labels_of(outputs)

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> LabelCollector:
        return LabelCollector(setting, shared, radius)

    def answer(self, evidence: LabelEvidence, setting: Setting, rule: str) -> Smoothed:
        predicts = self.about(rule) == "map" and not evidence.drawn
        abstained = predicts and _chance_of_lead(*map(int, evidence.votes)) > setting.budget.alpha1
        return Smoothed(evidence.label, abstained, evidence.base, evidence.error)

    def certificate(self, evidence: LabelEvidence, eps: float, rule: str, setting: Setting) -> LabelCertificate:
        alpha = setting.budget.alpha2 if self.about(rule) == "map" else setting.budget.alpha
        common: dict[str, Any] = {"alpha": alpha, "certifier": self.name, "rule": rule, "about": self.about(rule)}
        common["threat"] = setting.noise.threat.unit
        if problem := self.problem(setting, rule, eps):
            return LabelCertificate(eps, Outcome.INFEASIBLE, None, False, None, **common, reason=problem)
        needed, label = self.needed(setting, rule, eps), int(evidence.label)
        details: dict[str, Any] = {"label": label}
        if rule == "betting":
            details["stopped"] = first_above(evidence.outcomes, needed, setting.budget.alpha2)
            details["m"] = evidence.drawn if evidence.drawn < setting.budget.m else None
            holds = details["stopped"] is not None
        else:
            if evidence.drawn != setting.budget.m:
                drawn = f"{evidence.drawn} of m = {setting.budget.m} fresh draws"
                raise RequestError(f"rule is {rule!r} on {drawn}, which betting may have stopped: expected all of them")
            details["p_low"] = p_low = EXACT.mass_floor(evidence.hits, evidence.drawn, setting.budget.alpha2)
            details["reach"] = setting.noise.reach(p_low, self._kept(setting, rule))
            holds = p_low > needed
            if rule == "counts" and p_low <= 0.5:  # the exact smoothed function may answer with another class
                reason = f"{evidence.hits} of {evidence.drawn} fresh draws are of class {label}: no sure majority"
                outcome = Outcome.BAD_CENTER
                return LabelCertificate(eps, outcome, None, False, evidence.label, **common, reason=reason, **details)
        radius, outcome = (0.0 if holds else 1.0), Outcome.CERTIFIED
        return LabelCertificate(eps, outcome, radius, not holds, evidence.label, **common, **details)

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
        return 0.5 if self.about(rule) == "map" else majority_mass(setting.budget.n, setting.budget.alpha1)

    def needed(self, setting: Setting, rule: str, eps: float) -> float:
        """The mass at ``x`` of which so much is left at every ``x'`` within ``eps``."""
        return setting.noise.required_mass(self._kept(setting, rule), eps)


class LabelCollector:
    """Counts of classes, then which draws are of the one chosen.

    Parameters
    ----------
    questions : sequence of BettingTest
        Tests after whose answers no further draw is wanted; without any, all of the budget's are.
    """

    def __init__(self, setting: Setting, shared: Shared, radius: bool, questions: Sequence[BettingTest] = ()) -> None:
        self._left = {"candidates": 0, "center": setting.budget.n, "fresh": setting.budget.m if radius else 0}
        self._shared = shared
        self._questions = questions
        self._counts: Counter[int] = Counter()
        self._outcomes: list[NDArray[np.bool_]] = [np.zeros(0, dtype=bool)]

    def wants(self, stage: str) -> int:
        return self._left[stage]

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left[stage] -= len(outputs)
        labels = self._shared.once(("labels", len(outputs)), lambda: labels_of(outputs))
        if stage == "fresh":
            self._take((labels == self._label()).cpu().numpy())
            return
        values, counts = labels.unique(return_counts=True)
        self._counts.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def compute(self, base: Tensor) -> LabelEvidence:
        label, of_base = torch.tensor(self._label()), labels_of(base[None])[0].cpu()
        outcomes = np.concatenate(self._outcomes)
        votes = np.array(sorted([0, 0, *self._counts.values()])[:-3:-1])
        return LabelEvidence(label, of_base, float(label != of_base), votes, len(outcomes), np.packbits(outcomes))

    def _take(self, outcomes: NDArray[np.bool_]) -> None:
        self._outcomes.append(outcomes)
        for question in self._questions:
            question.update(outcomes)
        if self._questions and all(question.decided for question in self._questions):
            self._left["fresh"] = 0

    def _label(self) -> int:
        return min(self._counts, key=lambda label: (-self._counts[label], label))  # ties go to the lowest class


@dataclass(frozen=True)
class UntilAnswered:
    """Collectors of fresh draws until each ``eps`` is answered by `betting`, one way or the other."""

    certifier: Label
    radii: tuple[float, ...]

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> LabelCollector:
        feasible = [eps for eps in self.radii if not self.certifier.problem(setting, "betting", eps)]
        masses = [self.certifier.needed(setting, "betting", eps) for eps in feasible]
        return LabelCollector(setting, shared, radius, [BettingTest(mass, setting.budget.alpha2) for mass in masses])


def _chance_of_lead(first: int, second: int) -> float:
    """The two-sided binomial test: the probability of a lead at least as large between two equally likely classes.

    >>> _chance_of_lead(10, 0), _chance_of_lead(5, 5)
    (0.001953125, 1.0)
    """
    return min(1.0, 2 * float(betainc(first, second + 1, 0.5)))


def majority_mass(n: int, alpha: float) -> float:
    """The mass of a class that has more than half of ``n`` draws with probability ``>= 1 - alpha``, rounded up.

    Examples
    --------
    >>> round(majority_mass(1, 0.005), 3), round(majority_mass(1_001, 0.005), 3), round(majority_mass(1_000, 0.005), 3)
    (0.995, 0.541, 0.541)
    """
    return mass_of_count(n // 2 + 1, n, alpha)


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
