"""Metrics that are functions of one distance share its features, distances and center, and change no number by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gathering_support import gather_centers
from torch import Tensor

from centersmooth import Budget, GaussianNoise, Metric, RandomStream
from centersmooth.certifiers.center import CenterEvidence
from centersmooth.metrics import L1, L2, Angular, Cosine, SquaredL2, TotalVariation
from centersmooth.sampling import Sampler

SHARED = (L2, SquaredL2, Cosine, Angular)


def alone(kind: type[Metric]) -> Metric:
    """The same metric as a class of its own, which shares nothing."""
    return type(kind.__name__, (kind,), {})()


def evidence_of(metrics: dict[str, Metric], n0: int = 0) -> dict[str, CenterEvidence]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh())
    sampler = Sampler(model, GaussianNoise(0.5), 32, 64)
    with torch.no_grad():
        return gather_centers(sampler, metrics, Budget(n=200, m=300, delta=0.3, n0=n0), torch.ones(5), RandomStream(3))


@pytest.mark.parametrize("n0", [0, 12])
@pytest.mark.parametrize("kind", SHARED)
def test_shared_evidence_equals_a_metrics_own(kind: type[Metric], n0: int) -> None:
    shared = evidence_of({"a": L2(), "b": Cosine(), "d": kind()}, n0)["d"]
    own = evidence_of({"d": alone(kind)}, n0)["d"]
    assert torch.equal(shared.center, own.center)
    assert (shared.error, shared.inside) == (own.error, own.inside)
    assert shared.r_center == pytest.approx(own.r_center, rel=1e-12)
    assert shared.far is not None
    assert own.far is not None
    np.testing.assert_array_equal(shared.far.values, own.far.values)
    np.testing.assert_array_equal(shared.candidates.values, own.candidates.values)


def test_features_are_computed_once_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"l2": 0, "direction": 0}

    def count(name: str, kind: type[Metric]) -> None:
        features = kind.features

        def counting(self: Metric, outputs: Tensor) -> Tensor:
            counted[name] += len(outputs)
            return features(self, outputs)

        monkeypatch.setattr(kind, "features", counting)

    count("l2", L2)
    count("direction", Cosine.__mro__[1])
    evidence_of({"l2": L2(), "sql2": SquaredL2(), "cosine": Cosine(), "angular": Angular()})
    outputs = 200 + 300
    assert counted == {"l2": outputs + 1, "direction": outputs + 2}  # and the base output for each metric's error


def test_a_class_that_inherits_is_its_own_source() -> None:
    """It may have other features, and would be certified for a distance it is not."""

    class Doubled(L2):
        def features(self, outputs: Tensor) -> Tensor:
            return 2 * super().features(outputs)

    assert Doubled().source is not L2().source
    found = evidence_of({"l2": L2(), "doubled": Doubled()})
    assert found["doubled"].r_center == pytest.approx(2 * found["l2"].r_center)
    assert found["doubled"].error == pytest.approx(2 * found["l2"].error)


@pytest.mark.parametrize("kind", [L1, TotalVariation])
def test_others_are_their_own_source(kind: type[Metric]) -> None:
    metric = kind()
    distances = torch.rand(3)
    assert metric.source is metric
    assert metric.from_source(distances) is distances


@pytest.mark.parametrize("kind", SHARED)
def test_the_function_of_the_source_does_not_decrease(kind: type[Metric]) -> None:
    distances = torch.linspace(0, 2, 10_001, dtype=torch.float64)
    assert bool((kind().from_source(distances).diff() >= 0).all())
