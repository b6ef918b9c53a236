"""The paper's procedure as written, without any of what makes ours fast; kept to compare with.

A loop over candidate centers, each compared with the whole sample; a distance between two outputs by a formula, or by
a call of the network for that pair; samples grown batch by batch. Nothing here is shared with the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou

Distance = Callable[[Tensor, Tensor], Tensor]
"""From each of ``(n, *out)`` to one output ``(*out)``: ``(n,)``."""


def total_variation(outputs: Tensor, one: Tensor) -> Tensor:
    """Differences of neighbours of the difference image, in absolute value."""
    images = outputs - one
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1).sum(1)
    return across + (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).sum(1)


def l2(outputs: Tensor, one: Tensor) -> Tensor:
    """Norm of the difference."""
    return (outputs - one).flatten(1).norm(dim=1)


def ospa(sets: Tensor) -> list[list[float]]:
    """OSPA distances of lists of equally many boxes, ``(n, k, 4)``: the best assignment of each pair of lists."""
    distances = []
    for a in sets:
        costs = [1 - box_iou(a, b).numpy() for b in sets]
        distances.append([float(cost[linear_sum_assignment(cost)].mean()) for cost in costs])
    return distances


def pair_by_pair(distance: Callable[[Tensor, Tensor], Tensor]) -> Distance:
    """A distance, of a network perhaps, that is called on one pair at a time."""
    return lambda outputs, one: torch.stack([distance(output[None], one[None]).flatten()[0] for output in outputs])


def sample(model: Callable[[Tensor], Tensor], x: Tensor, sigma: float, count: int, batch: int) -> Tensor:
    """``count`` draws of ``f(x + noise)``, appended batch by batch."""
    outputs = model((x + sigma * torch.randn_like(x))[None])[:0]
    while len(outputs) < count:
        noisy = x + sigma * torch.randn(min(batch, count - len(outputs)), *x.shape)
        outputs = torch.cat([outputs, model(noisy)])
    return outputs


def radii(candidates: Iterable[Tensor], outputs: Tensor, distance: Distance) -> list[float]:
    """The median distance of each candidate to a sample."""
    return [float(distance(outputs, one).kthvalue((len(outputs) + 1) // 2).values) for one in candidates]


def center(candidates: Tensor, outputs: Tensor, distance: Distance) -> int:
    """Which candidate has the least median distance."""
    found = radii(candidates, outputs, distance)
    return found.index(min(found))
