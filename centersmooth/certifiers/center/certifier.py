"""Center smoothing as a certifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor

from centersmooth.bounds import EXACT, PAPER, Bounds
from centersmooth.certificate import CenterName, Certificate, FarName, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.center.evidence import CenterCollector, CenterEvidence
from centersmooth.certifiers.center.rules import center_problem, certificate_from, free_problem, radius_problem
from centersmooth.certifiers.center.search import require_means
from centersmooth.contracts import check_own_metric
from centersmooth.gathering import Setting, Shared
from centersmooth.metrics.base import Metric, between, features_of
from centersmooth.noise import DrawsTogether

RULES: Final[dict[str, tuple[Bounds, FarName]]] = {
    "paper": (PAPER, "doubled"),
    "exact": (EXACT, "doubled"),
    "measured": (EXACT, "measured"),
}
"""Confidence bounds and far radius of each rule."""


@dataclass(frozen=True)
class Center(Certifier):
    """The center of the noisy outputs: a point with a small ball that holds half of them.

    Parameters
    ----------
    metric : Metric
        The distance between outputs.
    kind : {"sample", "free"}
        What may be a center: drawn outputs, as in the paper, or means of them as well.
    """

    metric: Metric
    kind: CenterName = "sample"

    evidence: ClassVar[type] = CenterEvidence

    @property
    def name(self) -> str:  # type: ignore[override]
        return "center" if self.kind == "sample" else "center_free"

    @property
    def rules(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(RULES) if self.kind == "sample" else ("measured",)

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        budget, (bounds, _) = setting.budget, RULES[rule]
        if self.kind == "free":
            if problem := free_problem(budget, self.metric):
                return problem
            if not isinstance(setting.noise, DrawsTogether):
                return f"center is 'free', but {setting.noise} has no bound for several draws together: use 'sample'"
        problem = center_problem(budget, bounds)
        return problem or ("" if eps is None else radius_problem(budget, setting.noise, eps, bounds))

    def check(self, setting: Setting, outputs: Tensor) -> None:
        features_of(self.metric, outputs)
        check_own_metric(self.metric, outputs)
        if self.kind == "free":
            require_means(outputs)

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> CenterCollector:
        return CenterCollector(self.metric, self.kind, setting, shared, radius)

    def answer(self, evidence: CenterEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(
            center=evidence.center,
            radius=evidence.r_center,
            abstained=not setting.budget.accepts_center(evidence.inside, RULES[rule][0]),
            base=evidence.base,
            error=evidence.error,
        )

    def certificate(self, evidence: CenterEvidence, eps: float, rule: str, setting: Setting) -> Certificate:
        bounds, far = RULES[rule]
        return certificate_from(
            evidence,
            eps,
            metric=self.metric,
            noise=setting.noise,
            budget=setting.budget,
            bounds=bounds,
            far=far,
            center=self.kind,
            output_range=setting.output_range,
        )

    def distance(self, a: Tensor, b: Tensor) -> float:
        return between(self.metric, a, b)

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        features = features_of(self.metric, answer[None])
        return lambda outputs: self.metric.pairwise(features_of(self.metric, outputs), features)[:, 0]
