"""The plain procedure that times are compared with gives the same answers."""

from __future__ import annotations

from unittest.mock import patch

import cases
import plain
import pytest
import torch

from centersmooth import L2, OSPA, Budget, GaussianNoise, Mean, Metric, RandomStream, TotalVariation
from centersmooth.certifiers import mean
from centersmooth.certifiers.center.search import least_median_center
from centersmooth.gathering import Setting, gather_one
from centersmooth.sampling import Sampler


@pytest.mark.parametrize(
    ("metric", "distance"), [(TotalVariation(), plain.total_variation), (L2(), plain.l2)], ids=["tv", "l2"]
)
@pytest.mark.parametrize("n", [1, 2, 99, 300])
def test_the_loop_over_candidates_finds_the_same_center(metric: Metric, distance: plain.Distance, n: int):
    outputs = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))
    center = least_median_center(metric, outputs, metric.features(outputs))
    best = plain.center(outputs, outputs, distance)
    assert torch.equal(center.output, outputs[best])
    assert center.radius == pytest.approx(plain.radii(outputs[best : best + 1], outputs, distance)[0], rel=1e-5)


def test_a_distance_through_a_network_is_called_on_one_pair_at_a_time():
    seen: list[int] = []

    def network(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(len(a))
        return (a - b).square().sum(1)

    outputs = torch.arange(6.0).view(3, 2)
    assert plain.pair_by_pair(network)(outputs, outputs[0]).tolist() == [0.0, 8.0, 32.0]
    assert seen == [1, 1, 1]


def test_the_loop_over_pairs_has_the_same_distances_of_lists_of_boxes():
    lists = cases._lists(12, 3, torch.Generator().manual_seed(0))
    features = OSPA().features(lists)
    assert plain.ospa(lists) == [pytest.approx(row, rel=1e-5) for row in OSPA().pairwise(features, features).tolist()]


def test_a_mean_without_second_moments_has_the_same_local_certificate():
    """What is left out to time the rule `local` alone is no part of it."""
    sampler = Sampler(torch.sigmoid, GaussianNoise(0.5), 50, 50, (0.0, 1.0))
    certifier, budget = Mean(L2()), Budget(200, 400)

    def radius() -> tuple[float, bool]:
        evidence = gather_one(sampler, certifier, budget, torch.zeros(3), RandomStream(0))
        certificate = certifier.certificate(evidence, 0.2, "local", Setting.of(sampler, budget))
        return certificate.radius, evidence.directions is None

    whole = radius()
    with patch.object(mean, "DirectionsCollector", cases._NoDirections):
        assert radius() == (whole[0], True)
    assert not whole[1]


def test_batches_of_draws_give_the_nearest_output_that_is_timed():
    outputs = torch.rand(3_000, 4, generator=torch.Generator().manual_seed(0))
    nearest = (outputs - outputs.mean(0)).norm(dim=1).argmin()
    assert torch.equal(cases._nearest(L2(), outputs), outputs[nearest])
