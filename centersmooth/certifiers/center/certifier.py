"""Center smoothing as a certifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import Tensor

from centersmooth.certificate import CenterCertificate, Smoothed
from centersmooth.certifiers.base import Certifier
from centersmooth.certifiers.center.enumerated import Enumerated
from centersmooth.certifiers.center.evidence import CenterCollector, CenterEvidence
from centersmooth.certifiers.center.rules import (
    BOUNDS_OF,
    CERTIFIER_OF,
    center_problem,
    certificate_from,
    free_problem,
    radius_problem,
)
from centersmooth.certifiers.center.search import CenterKind, require_means
from centersmooth.contracts.metrics import check_own_metric
from centersmooth.errors import RequestError
from centersmooth.gathering import Setting, Shared
from centersmooth.metrics.base import Metric, between, features_of, require_metric
from centersmooth.noise import DrawsTogether
from centersmooth.outputs import brief


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
    kind: CenterKind = "sample"

    evidence: ClassVar[type] = CenterEvidence

    @property
    def name(self) -> str:  # type: ignore[override]
        return CERTIFIER_OF[self.kind]

    @property
    def rules(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(BOUNDS_OF) if self.kind == "sample" else ("measured",)

    @property
    def siblings(self) -> Mapping[str, Certifier]:
        return {"enumerated": Enumerated(self.metric)} if self.kind == "sample" else {}

    def __post_init__(self) -> None:
        require_metric(self.metric)
        kinds = get_args(CenterKind)
        if not isinstance(self.kind, str) or self.kind not in kinds:
            raise RequestError(f"kind is {brief(self.kind)}: expected one of {', '.join(map(repr, kinds))}")

    def unsuited(self, setting: Setting) -> str:
        if self.kind == "sample":
            return ""
        if not isinstance(setting.noise, DrawsTogether):
            return f"kind is 'free', but {setting.noise} has no bound for several draws together: use kind='sample'"
        return free_problem(setting.budget, self.metric)

    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        budget, bounds = setting.budget, BOUNDS_OF[rule]
        problem = center_problem(budget, bounds)
        return problem or ("" if eps is None else radius_problem(budget, setting.noise, eps, bounds))

    def check(self, setting: Setting, outputs: Tensor) -> None:
        features_of(self.metric, outputs)
        check_own_metric(self.metric, outputs, setting.output_range)
        if self.kind == "free":
            require_means(outputs)

    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> CenterCollector:
        return CenterCollector(self.metric, self.kind, setting, shared, radius)

    def answer(self, evidence: CenterEvidence, setting: Setting, rule: str) -> Smoothed:
        return Smoothed(
            answer=evidence.center,
            abstained=not setting.budget.accepts_center(evidence.inside, BOUNDS_OF[rule]),
            base=evidence.base,
            error=evidence.error,
        )

    def certificate(self, evidence: CenterEvidence, eps: float, rule: str, setting: Setting) -> CenterCertificate:
        return certificate_from(evidence, eps, rule, self.metric, self.kind, setting)

    def distance(self, a: Tensor, b: Tensor) -> float:
        return between(self.metric, a, b)

    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        features = features_of(self.metric, answer[None])
        return lambda outputs: self.metric.pairwise(features_of(self.metric, outputs), features)[:, 0]
