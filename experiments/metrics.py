"""The registered metrics, by the names configurations use."""

from __future__ import annotations

from collections.abc import Iterable

from centersmooth import L1, L2, Angular, Cosine, Jaccard, Metric, SquaredL2, TotalVariation
from centersmooth_experiments.errors import RunError

METRICS: dict[str, type[Metric]] = {
    "tv": TotalVariation,
    "l1": L1,
    "l2": L2,
    "sql2": SquaredL2,
    "cosine": Cosine,
    "angular": Angular,
    "jaccard": Jaccard,
}


def build_metrics(names: Iterable[str]) -> dict[str, Metric]:
    """Instances by name."""
    return {name: METRICS[name]() for name in names}


def check_metric_names(names: Iterable[str], offered: tuple[str, ...], model: str) -> None:
    """Refuse a metric the model's outputs are not measured in."""
    for name in names:
        if name not in offered:
            raise RunError(f"metrics has '{name}': expected one of {', '.join(offered)} for the model {model}")
