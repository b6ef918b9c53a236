"""The class of each pixel of most noisy outputs, or none: SegCertify, with an exact correction for many pixels.

The smoothed segmentation ``g(x)`` gives each pixel the class that ``f(x + noise)`` most often gives it. Draws of the
stage ``center`` choose a class for each pixel, fresh ones count how often it comes; all pixels share the draws. A pixel
whose class is certified keeps it. The others *abstain*: nothing is said of them. The radius is their share, a Hamming
distance: no larger part of the pixels can change.

Let ``p_i`` be the mass of the class chosen for pixel ``i`` under the noise at ``x``, and ``N`` the number of pixels. A
set of mass above ``tau = required_mass(1/2, eps)`` keeps more than 1/2 at every ``x'`` within ``eps``, where ``g(x')``
then has this class. Whether ``p_i > tau`` is tested on ``m`` fresh draws, ``n_i`` of which gave the class. The p-value
``Pr[Bin(m, tau) >= n_i]`` is at most ``a`` with probability at most ``a`` if ``p_i <= tau``.

**holm** (about the map). Holm's procedure over these p-values at level ``alpha2``, see `holm`. Except with probability
``alpha2`` all certified pixels keep their class, whatever the dependence between pixels. Each ``eps`` has tests of its
own: certificates at ``k`` values of ``eps`` hold all at once except with probability ``k alpha2``.

**bonferroni** (about the map). The lower limits of Clopper and Pearson for all ``p_i``, each at ``alpha2/N``, do not
depend on ``eps``. Except with probability ``alpha2`` certificates hold for all pixels and every ``eps`` at once, and
each pixel has a largest ``eps`` of its own, `SegmentationCertificate.reach`. At one ``eps`` it certifies no more pixels
than ``holm``.

**holm_run** (about a fresh run, which gives each pixel the class of most of its ``n`` draws). As ``holm``, with ``tau =
required_mass(majority_mass, eps)``. A class of mass `majority_mass` at ``alpha1/N`` has more than half of ``n`` draws
except with that probability, so that all certified pixels of the run have their class except with probability
``alpha1``.

Source: Fischer, Baader and Vechev, *Scalable Certified Segmentation via Randomized Smoothing*, ICML 2021, algorithm 2;
Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 1979.

Differences to the published code: ``tau`` follows from ``eps``, under any law, where theirs is given and the radius
follows from it; intersections over union are worst cases over the pixels that abstain (`certified_iou`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from centersmooth.bounds import EXACT
from centersmooth.certificate import About, Certificate, Outcome, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.label import majority_mass
from centersmooth.errors import RequestError
from centersmooth.gathering import Setting, Shared
from centersmooth.metrics.labels import class_maps
from centersmooth.noise import Noise


@dataclass(frozen=True)
class SegmentationEvidence:
    """Counts of one class for each pixel among the draws at one input.

    Attributes
    ----------
    classes, base : Tensor, shape ``(*pixels)``, int32
        The classes chosen, and those of the base model at the unperturbed input.
    error : float
        The share of pixels at which they differ.
    hits : Tensor, shape ``(*pixels)``, int32
        Fresh draws of the class chosen.
    drawn : int
        Fresh draws.
    """

    classes: Tensor
    base: Tensor
    error: float
    hits: Tensor
    drawn: int


@dataclass(frozen=True, repr=False)
class SegmentationCertificate(Certificate):
    """A certificate about the class of each pixel.

    Attributes
    ----------
    certified : Tensor or None, shape ``(*pixels)``, bool
        The pixels that keep their class, all at once; the others abstain.
    hits : Tensor or None, shape ``(*pixels)``, int32
        Fresh draws in which each pixel had the class of the answer.
    p_low : Tensor or None, shape ``(*pixels)``, float64
        Lower confidence limits of the masses of these classes, all at once; by the rule ``bonferroni`` only.
    tau : float or None
        The mass that a class has to exceed at ``x``.
    pixels, abstained : int or None
        Numbers of all pixels, and of those without a certificate.
    """

    certified: Tensor | None = None
    hits: Tensor | None = None
    p_low: Tensor | None = None
    tau: float | None = None
    pixels: int | None = None
    abstained: int | None = None

    def __str__(self) -> str:
        """One sentence for people."""
        if self.radius is None or self.pixels is None or self.abstained is None:
            return super().__str__()
        subject = "a fresh run gives" if self.about == "run" else "the smoothed model gives"
        return (
            f"for every input within eps = {self.eps:g} ({self.threat}) {subject} {self.pixels - self.abstained} of "
            f"{self.pixels} pixels the class of the answer here, except with probability {self.alpha:.3g}"
        )

    def reach(self, noise: Noise) -> Tensor:
        """The largest ``eps`` at which each pixel is certified, all at once: ``(*pixels)``, float64.

        Parameters
        ----------
        noise : Noise
            The law of the certificate, bound to its input (`Noise.at`).

        Raises
        ------
        RequestError
            The certificate is not by the rule ``bonferroni``.
        """
        if self.p_low is None:
            raise RequestError(
                f"reach needs limits for every eps at once, which the rule {self.rule} has not: use bonferroni"
            )
        return _by_value(self.p_low, lambda mass: noise.reach(mass, 0.5))


@dataclass(frozen=True)
class Segmentation(Certifier):
    """The class of each pixel of most noisy outputs; for outputs that are maps of classes, or scores for them.

    Integers ``(b, *pixels)`` are classes. Floating-point numbers ``(b, classes, *pixels)`` are scores, of which the
    highest is the class, and the lowest class where several are highest.
    """

    name: ClassVar[str] = "segmentation"
    rules: ClassVar[tuple[str, ...]] = ("holm_run", "bonferroni", "holm")
    evidence: ClassVar[type] = SegmentationEvidence

    def about(self, rule: str) -> About:
        return "run" if rule == "holm_run" else "map"

    def unsuited(self, setting: Setting) -> str:
        return ""

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        return "" if eps is None else self._too_few(setting, rule, eps, pixels=1)

    def check(self, setting: Setting, outputs: Tensor) -> None:
        class_maps(outputs)

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> SegmentationCollector:
        return SegmentationCollector(setting, shared, radius)

    def answer(self, evidence: SegmentationEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(evidence.classes, False, evidence.base, evidence.error)

    def certificate(
        self, evidence: SegmentationEvidence, eps: float, rule: str, setting: Setting
    ) -> SegmentationCertificate:
        budget, pixels = setting.budget, evidence.classes.numel()
        alpha = budget.alpha if self.about(rule) == "run" else budget.alpha2
        common: dict[str, Any] = {"alpha": alpha, "certifier": self.name, "rule": rule, "about": self.about(rule)}
        common["threat"] = setting.noise.threat.unit
        if problem := self.problem(setting, rule, eps):
            return SegmentationCertificate(eps, Outcome.INFEASIBLE, None, False, None, **common, reason=problem)
        tau, p_low = self._tau(setting, rule, eps, pixels), None
        if rule == "bonferroni":
            p_low = _by_value(
                evidence.hits, lambda hits: EXACT.mass_floor(hits, evidence.drawn, budget.alpha2 / pixels)
            )
            certified = p_low > tau
        else:
            certified = holm(evidence.hits, evidence.drawn, tau, budget.alpha2)
        abstained = pixels - int(certified.sum())
        return SegmentationCertificate(
            eps,
            Outcome.CERTIFIED,
            abstained / pixels,
            abstained == pixels,
            evidence.classes,
            **common,
            reason=self._too_few(setting, rule, eps, pixels),
            certified=certified,
            hits=evidence.hits,
            p_low=p_low,
            tau=tau,
            pixels=pixels,
            abstained=abstained,
        )

    def distance(self, a: Tensor, b: Tensor) -> float:
        return float((class_maps(a[None]) != class_maps(b[None])).double().mean())

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        classes = class_maps(answer[None])

        def away(outputs: Tensor) -> Tensor:
            wanted = classes.to(outputs.device).expand(len(outputs), *classes.shape[1:])
            if not outputs.is_floating_point():
                return (outputs != wanted).reshape(len(outputs), -1).double().mean(dim=1)
            return cross_entropy(outputs, wanted, reduction="none").reshape(len(outputs), -1).mean(dim=1)

        return away

    def _tau(self, setting: Setting, rule: str, eps: float, pixels: int) -> float:
        """The mass that a class has to exceed at ``x``."""
        budget = setting.budget
        kept = majority_mass(budget.n, budget.alpha1 / pixels) if self.about(rule) == "run" else 0.5
        return setting.noise.required_mass(kept, eps)

    def _too_few(self, setting: Setting, rule: str, eps: float, pixels: int) -> str:
        """The reason why no pixel is certified, though all draws agree; empty where some can be."""
        m, alpha, tau = setting.budget.m, setting.budget.alpha2 / pixels, self._tau(setting, rule, eps, pixels)
        if EXACT.upper_rank(m, tau, alpha) is not None:
            return ""
        least = EXACT.least_m(tau, alpha)
        remedy = f"m = {least} would do" if least is not None else "no number a machine makes would do: use more noise"
        of = "one pixel" if pixels == 1 else f"any of {pixels:,} pixels"
        return f"m = {m} draws are too few to certify {of} at eps = {eps:g} by {rule}, though all agree: {remedy}"


class SegmentationCollector:
    """Votes for each class of each pixel, then counts of the one chosen."""

    def __init__(self, setting: Setting, shared: Shared, radius: bool) -> None:
        self._left = {"candidates": 0, "center": setting.budget.n, "fresh": setting.budget.m if radius else 0}
        self._shared = shared
        self._votes: Tensor | None = None
        self._classes: Tensor | None = None
        self._hits: Tensor | None = None
        self._drawn = 0

    def wants(self, stage: str) -> int:
        return self._left[stage]

    def update(self, stage: str, outputs: Tensor) -> None:
        self._left[stage] -= len(outputs)
        maps = self._shared.once(("class maps", len(outputs)), lambda: class_maps(outputs))
        if stage == "fresh":
            hits = (maps == self._chosen()).sum(dim=0, dtype=torch.int32)
            self._hits = hits if self._hits is None else self._hits + hits
            self._drawn += len(maps)
        else:
            self._votes = _with_votes(self._votes, maps)

    def compute(self, base: Tensor) -> SegmentationEvidence:
        classes, of_base = self._chosen(), class_maps(base[None])[0]
        hits = torch.zeros_like(classes) if self._hits is None else self._hits
        error = float((classes != of_base).double().mean())
        classes, of_base, hits = (part.to("cpu", torch.int32) for part in (classes, of_base, hits))
        return SegmentationEvidence(classes, of_base, error, hits, self._drawn)

    def _chosen(self) -> Tensor:
        """The class of most votes for each pixel, the lowest of several."""
        assert self._votes is not None
        if self._classes is None:
            self._classes = self._votes.argmax(dim=0)
        return self._classes


def holm(hits: Tensor, drawn: int, tau: float, alpha: float) -> Tensor:
    """Decide which of ``N`` masses exceed ``tau``, all at once except with probability ``alpha``.

    Holm's procedure rejects the hypotheses ``p_i <= tau`` in the order of their p-values, the ``k``-th as long as its
    p-value is at most ``alpha / (N - k + 1)``, so it holds under any dependence. As a p-value falls when hits rise, the
    test at a level is whether the hits reach `ExactBounds.upper_rank` of it. With ``r`` rejected, all that pass at
    ``alpha / (N - r)`` are rejected too, as the levels of the next ones are no smaller; it ends where none is added.

    Parameters
    ----------
    hits : Tensor, shape ``(*pixels)``
        Of ``drawn`` fresh draws those that each mass counts.

    Returns
    -------
    Tensor, shape ``(*pixels)``, bool

    Examples
    --------
    Of 100 draws the first of 100 pixels needs 93 hits at 0.75, the last one only 89.

    >>> hits = torch.full((100,), 93)
    >>> hits[0] = 89
    >>> int(holm(hits, 100, tau=0.75, alpha=0.001).sum()), int(holm(hits - 1, 100, tau=0.75, alpha=0.001).sum())
    (100, 0)
    """
    certified = torch.zeros_like(hits, dtype=torch.bool)
    while left := int((~certified).sum()):
        rank = EXACT.upper_rank(drawn, tau, alpha / left)
        passed = torch.zeros_like(certified) if rank is None else hits >= rank
        if torch.equal(passed, certified):
            break
        certified = passed
    return certified


def certified_iou(classes: Tensor, certified: Tensor, truth: Tensor) -> dict[int, float]:
    """Intersection over union of each class of the truth in the worst case, by class.

    Certified pixels have their class, the others any. The intersection is least where none of the others has the class
    and belongs to it, the union is largest where all others that do not belong to it have it, and both at once make::

        #{truth c, certified as c} / (#{truth c} + #{truth not c, certified as c or not certified})

    the least that a completion has. The least mean over several classes is no smaller than the mean of these.

    Parameters
    ----------
    classes, certified, truth : Tensor, all of one shape
        Classes, which pixels keep theirs, and what is right. Pixels without a truth are to be left out of all three, as
        in ``classes[known], certified[known], truth[known]``.

    Raises
    ------
    RequestError
        The shapes are not the same.

    Examples
    --------
    >>> classes, certified = torch.tensor([1, 1, 0, 0]), torch.tensor([True, False, True, True])
    >>> certified_iou(classes, certified, truth=torch.tensor([1, 1, 0, 0]))
    {0: 0.6666666666666666, 1: 0.5}
    """
    if not classes.shape == certified.shape == truth.shape:
        shapes = ", ".join(str(tuple(one.shape)) for one in (classes, certified, truth))
        raise RequestError(f"classes, certified and truth have the shapes {shapes}: expected one shape")
    certified, found = certified.bool(), {}
    for label in truth.unique().tolist():
        belongs, given = truth == label, certified & (classes == label)
        intersection = int((belongs & given).sum())
        union = int(belongs.sum()) + int((~belongs & (given | ~certified)).sum())
        found[int(label)] = intersection / union
    return found


def _with_votes(votes: Tensor | None, maps: Tensor) -> Tensor:
    """Votes for each class of each pixel, ``(classes, *pixels)``, with those of further maps."""
    pixels = maps[0].numel()
    classes = max(int(maps.max()) + 1, 0 if votes is None else len(votes))
    places = maps.reshape(len(maps), pixels) * pixels + torch.arange(pixels, device=maps.device)
    added = torch.bincount(places.flatten(), minlength=classes * pixels).view(classes, *maps.shape[1:])
    if votes is not None:
        added[: len(votes)] += votes
    return added


def _by_value(values: Tensor, function: Callable[[Any], float]) -> Tensor:
    """A function of each number, computed once for each value that occurs: float64 of the same shape."""
    distinct, places = values.unique(return_inverse=True)
    return torch.tensor([function(value) for value in distinct.tolist()], dtype=torch.float64)[places]
