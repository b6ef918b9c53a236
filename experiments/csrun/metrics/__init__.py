"""The metrics, by the names configurations use; ``package.module:factory`` names your own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from centersmooth import L1, L2, Angular, Cosine, DistanceFunction, Jaccard, Metric, SquaredL2, TotalVariation
from csrun.errors import RunError
from csrun.models import Weights, call_factory, import_factory, weights_path


def _lpips(weights: Weights, device: str) -> Metric:
    from csrun.metrics.perceptual import LPIPS

    return LPIPS(weights_path(weights, "vgg", "vgg16_features.pth"), device=device)


METRICS: dict[str, Callable[[Weights, str], Metric]] = {
    "tv": lambda weights, device: TotalVariation(),
    "l1": lambda weights, device: L1(),
    "l2": lambda weights, device: L2(),
    "sql2": lambda weights, device: SquaredL2(),
    "cosine": lambda weights, device: Cosine(),
    "angular": lambda weights, device: Angular(),
    "jaccard": lambda weights, device: Jaccard(),
    "lpips": _lpips,
}


def build_metrics(names: Iterable[str], weights: Weights, device: str) -> dict[str, Metric]:
    """Instances by name."""
    return {name: _build(name, weights, device) for name in names}


def _build(name: str, weights: Weights, device: str) -> Metric:
    if ":" not in name:
        return METRICS[name](weights, device)
    made = call_factory(import_factory(name, "metrics"), name, "a Metric or a function of two batches", Metric)
    return made if isinstance(made, Metric) else DistanceFunction(made)


def metric_weights_digest(metrics: Mapping[str, Metric]) -> str:
    """Identity of the weights of those metrics that have any."""
    return "-".join(metric.weights_digest() for metric in metrics.values() if hasattr(metric, "weights_digest"))


def metric_facts(metric: Metric) -> dict[str, str]:
    """What a manifest says of a metric that rests on a network: which one, and the digest of its weights."""
    facts = {key: getattr(metric, key) for key in ("backbone", "version") if hasattr(metric, key)}
    return facts | ({"weights": metric.weights_digest()} if hasattr(metric, "weights_digest") else {})


def fingerprint(metrics: Mapping[str, Metric], outputs: Tensor, output_range: tuple[float, float] | None) -> str:
    """What a user's own model and metrics answer on a block of noisy inputs, as part of a cell's identity.

    State in closures, arrays and helper modules has no digest; what it does to the numbers has. The range that a model
    declares is a part of it too, as kept evidence of a mean rests on it.
    """
    content = hashlib.sha256(outputs.cpu().numpy().tobytes() + repr(output_range).encode())
    for name, metric in metrics.items():
        features = metric.features(outputs)
        content.update(name.encode() + metric.pairwise(features, features[:4]).cpu().numpy().tobytes())
        if metric.source.has_means and outputs.is_floating_point():
            content.update(metric.means(outputs[None]).cpu().numpy().tobytes())
    return content.hexdigest()[:16]


def check_metric_names(names: Iterable[str], offered: tuple[str, ...], model: str) -> None:
    """Refuse a metric the model's outputs are not measured in; a model that offers none takes any."""
    for name in names:
        if ":" not in name and name not in (offered or METRICS):
            raise RunError(
                f"metrics has '{name}': expected one of {', '.join(offered or METRICS)} for the model {model}"
            )
