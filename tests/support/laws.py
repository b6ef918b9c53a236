"""Laws of outputs on a line of inputs, for which the shift bound is attained and every mass is known."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from scipy.special import ndtri
from torch import Tensor

from centersmooth import Budget, GaussianNoise, Metric, SquaredL2
from centersmooth.certifiers.center.measured import masses_of_a_run

UNIT, H = GaussianNoise(1.0), 0.5
SMOOTH = Budget(n=200, m=200, delta=0.2, alpha1=0.02, alpha2=0.02)
APART = Budget(n=200, m=200, delta=0.2, alpha1=0.02, alpha2=0.02, n0=40)


class OfPairs(Metric):
    """A distance of outputs that broadcasts, many times faster than `DistanceFunction` here."""

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.distance = distance

    def features(self, outputs: Tensor) -> Tensor:
        return outputs

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance(a[:, None], b)


def with_means(metric: Metric) -> Metric:
    """A copy that says that its outputs have means."""
    metric = copy.copy(metric)
    metric.has_means = True
    return metric


def different(a: Tensor, b: Tensor) -> Tensor:
    """0 between equal numbers, 1 between all others."""
    return (a != b)[..., 0].float()


def star(a: Tensor, b: Tensor) -> Tensor:
    """The tree with its hub at 0: 1 from the hub to a leaf, 2 between leaves."""
    return different(a, b) * (2 - (a * b == 0)[..., 0].float())


def tree(a: Tensor, b: Tensor) -> Tensor:
    """Leaves on three branches, given by (branch, leaf): 1 on one branch, 2 otherwise."""
    other_branch, other_leaf = (a != b).float().unbind(dim=-1)
    return torch.maximum(2 * other_branch, other_leaf)


def apart(a: Tensor, b: Tensor) -> Tensor:
    """The distance of two numbers."""
    return (a - b)[..., 0].abs()


def atom(mass_at_x_prime: float) -> Callable[[Tensor], Tensor]:
    """0 with this mass at x' = H, more at x; the outputs on the other side are all different."""
    threshold = float(ndtri(mass_at_x_prime)) + H
    return lambda x: (x - threshold).clamp(min=0)


def hub(mass: float) -> Callable[[Tensor], Tensor]:
    """The hub with this mass at x = 0."""
    threshold = float(ndtri(mass))
    return lambda x: (x - threshold).clamp(min=0)


def branches(x: Tensor) -> Tensor:
    """Three branches that take turns along the line, about a third of the mass each at any input."""
    return torch.cat([torch.floor(5 * x).remainder(3), x], dim=1)


def cauchy(x: Tensor) -> Tensor:
    """Cauchy's law under N(0, 1): no mean, and half of the sample says little about the rest."""
    return torch.tan(math.pi * (torch.special.ndtr(x.double()) - 0.5))


DISCRETE, STAR, TREE, LINE = OfPairs(different), OfPairs(star), OfPairs(tree), OfPairs(apart)
CRITICAL = {budget.n0: UNIT.required_mass(masses_of_a_run(budget)[0], H) for budget in (SMOOTH, APART)}
"""Mass at x of the candidates that the rule relies on."""

NEAR = masses_of_a_run(SMOOTH)[1]
LAWS = {
    "atom just below half at x'": (atom(0.49), DISCRETE),
    "atom at half at x'": (atom(0.5), DISCRETE),
    "atom just below the mass the rule relies on": (atom(NEAR - 1e-3), DISCRETE),
    "atom at the mass the rule relies on": (atom(NEAR + 1e-3), DISCRETE),
    "two modes of half the mass at x'": (lambda x: 50 * torch.sign(x - H), LINE),
    "two modes of half the mass at x": (lambda x: 50 * torch.sign(x), LINE),
    "hub just below critical": (hub(CRITICAL[0] * 0.99), STAR),
    "hub at critical, apart": (hub(CRITICAL[40] * 0.99), STAR),
    "rare hub": (hub(0.02), STAR),
    "three branches": (branches, TREE),
    "heavy tails": (cauchy, LINE),
    "heavy tails, squared": (cauchy, SquaredL2()),
    "steps": (lambda x: torch.round(3 * x), LINE),
    "constant": (lambda x: 0 * x, LINE),
}
