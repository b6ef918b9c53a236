"""The plain procedure that times are compared with gives the same answers."""

from __future__ import annotations

import plain
import pytest
import torch

from centersmooth import L2, Metric, TotalVariation
from centersmooth.certifiers.center.search import least_median_center


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
