"""The metrics, by the names configurations use; ``package.module:factory`` names your own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from centersmooth import DistanceFunction, Metric
from csrun.models import Weights, call_factory, import_factory, weights_path
from csrun.registry import METRICS


def lpips(weights: Weights, device: str) -> Metric:
    """LPIPS on VGG-16."""
    from csrun.metrics.perceptual import LPIPS

    return LPIPS(weights_path(weights, "vgg", "vgg16_features.pth"), device=device)


def build_metrics(names: Iterable[str], weights: Weights, device: str) -> dict[str, Metric]:
    """Instances by name."""
    return {name: _build(name, weights, device) for name in names}


def _build(name: str, weights: Weights, device: str) -> Metric:
    if ":" not in name:
        made = METRICS[name].load()
        registered: Metric = made() if isinstance(made, type) else made(weights, device)
        return registered
    expected = "a Metric or a function of two batches"
    made = call_factory(import_factory(name, "metrics"), name, expected=expected, kinds=(Metric, Callable))
    return made if isinstance(made, Metric) else DistanceFunction(made)


def metric_weights_digest(metrics: Mapping[str, Metric]) -> str:
    """Identity of the weights of those metrics that have any."""
    return "-".join(metric.weights_digest() for metric in metrics.values() if hasattr(metric, "weights_digest"))


def metric_facts(metric: Metric) -> dict[str, str]:
    """Manifest entry of a metric that rests on a network: which one, and the digest of its weights."""
    facts = {key: getattr(metric, key) for key in ("backbone", "version") if hasattr(metric, key)}
    return facts | ({"weights": metric.weights_digest()} if hasattr(metric, "weights_digest") else {})


def fingerprint(
    metrics: Mapping[str, Metric], outputs: Tensor, output_range: tuple[float, float] | None, sources: bytes
) -> str:
    """Digest of a user's own model and metrics, as part of a cell's identity.

    Their modules' files, and what they answer on a block of noisy inputs: state in closures, arrays and helper modules
    has no digest, but what it does to the numbers has. The range that a model
    declares is a part of it too, as kept evidence of a mean rests on it.
    """
    content = hashlib.sha256(outputs.cpu().numpy().tobytes() + repr(output_range).encode() + sources)
    for name, metric in metrics.items():
        features = metric.features(outputs)
        content.update(name.encode() + metric.pairwise(features, features[:4]).cpu().numpy().tobytes())
        if metric.source.has_means and outputs.is_floating_point():
            content.update(metric.means(outputs[None]).cpu().numpy().tobytes())
    return content.hexdigest()[:16]
