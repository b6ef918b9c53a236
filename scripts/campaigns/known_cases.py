"""Certifiers in worlds where their statements are just false: whatever they certify there is wrong.

Masses are those of the first of two outputs at ``x'``. For a rule about the smoothed map it is just less than the map
needs to give that output. For a rule about a run it is one with which a share of `BEYOND` of all runs give another.
Means, which have no such limit, move by about as much as the bound allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from known_worlds import WORLDS, NoiseWorld, first_number, normal, shifted
from scipy.special import ndtr
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    BoxPercentile,
    Budget,
    Center,
    Certificate,
    Cosine,
    Direction,
    GaussianNoise,
    Label,
    Mean,
    Metric,
    Nearest,
    OutputBall,
    Percentile,
    Prototypes,
    Score,
    Segmentation,
)
from centersmooth.bounds import EXACT, mass_of_count
from centersmooth.certifiers import Certifier
from centersmooth.contracts import TwoOutputs
from centersmooth.sampling import Model

ALPHA = 0.1
"""``alpha1`` and ``alpha2``: so large that a thousand runs tell a failure rate above them from chance."""

BEYOND = 0.19
"""Share of runs at ``x'`` that leave a certificate of the rules about a run, where it is put to fail."""

Fails = Callable[[Certifier, Certificate, Tensor], bool]
"""Whether what a certificate says is false of an answer at ``x'``."""


def beyond_radius(certifier: Certifier, certificate: Certificate, answer: Tensor) -> bool:
    assert certificate.answer is not None
    assert certificate.radius is not None
    return certifier.distance(certificate.answer, answer) > certificate.radius


def outside_interval(certifier: Certifier, certificate: Any, answer: Tensor) -> bool:
    return bool(((answer < certificate.lower) | (answer > certificate.upper)).any())


def pixel_changes(certifier: Certifier, certificate: Any, answer: Tensor) -> bool:
    return bool((answer != certificate.answer)[certificate.certified].any())


@dataclass(frozen=True)
class Case:
    """A certifier, and a model and counts under which its rules come close to failing.

    Attributes
    ----------
    certifier : Certifier
    model : callable, ``(world, mass) -> model``
        A model that gives its first output with just less than this mass at ``x'``.
    masses : mapping of str to float
        The mass for each rule.
    budget : Budget
    output_range : (float, float), optional
    exact : callable, ``mass -> Tensor``, optional
        The exact smoothed answer at ``x'`` for rules about the map.
    fails : mapping of str to callable
        What is counted, by name.
    ball : bool
        Whether it is also counted how often the ball around a center that is to keep its mass does not.
    """

    certifier: Certifier
    model: Callable[[NoiseWorld, float], Model]
    masses: Mapping[str, float]
    budget: Budget
    output_range: tuple[float, float] | None = None
    exact: Callable[[float], Tensor] | None = None
    fails: Mapping[str, Fails] = field(default_factory=lambda: {"radius": beyond_radius})
    ball: bool = False


class Atom(Metric):
    """1 between 0 and any other number, 0.99 between two others: a run without a majority of 0 answers with another.

    With this metric a center is a majority vote, so that its certificates can be nearly as wrong as they may be.
    """

    has_means = True

    def features(self, outputs: Tensor) -> Tensor:
        return outputs

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        one, other = a[:, None, 0], b[None, :, 0]
        return torch.where((one == 0) != (other == 0), 1.0, 0.99).where(one != other, 0.0)


def atom(world: NoiseWorld, mass: float) -> Model:
    """0 with just less than the mass at ``x'``, else numbers that differ."""
    threshold = world.threshold(mass)

    def model(inputs: Tensor) -> Tensor:
        statistic = world.statistic(inputs)
        return torch.where(statistic > threshold, 100 + statistic - threshold, 0.0)[:, None]

    return model


def step(below: Tensor, above: Tensor) -> Callable[[NoiseWorld, float], Model]:
    """The first output with just less than the mass at ``x'``, else the second."""

    def of_world(world: NoiseWorld, mass: float) -> Model:
        two = TwoOutputs(below, above, world.threshold(mass))
        return lambda inputs: two(world.statistic(inputs)[:, None])

    return of_world


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


_UNIT = (0.0, 1.0)
CENTER = Budget(n=100, m=40, delta=0.08, alpha1=ALPHA, alpha2=ALPHA)
_PAPER = Budget(n=100, m=2_000, delta=0.1225, alpha1=ALPHA, alpha2=ALPHA)
COUNTS = Budget(n=101, m=100, alpha1=ALPHA, alpha2=ALPHA)
_MEANS = Budget(n=2_000, m=2_000, alpha1=ALPHA, alpha2=ALPHA)
MISSED = 0.5 + EXACT.center_margin(CENTER.n, BEYOND)
"""The mass of 0 at ``x'`` with which a run has no majority of it, in the share `BEYOND` of all runs."""

_OF_A_RUN = mass_of_count(COUNTS.n // 2 + 1, COUNTS.n, BEYOND)
_ZERO, _ONE = numbers(0.0), numbers(1.0)
_DIRECTIONS = (numbers(0.6, 1.0), numbers(-0.6, 1.0))
_BOXES = (numbers(0.0, 0.0, 4.0, 4.0), numbers(2.0, 0.0, 6.0, 4.0))
_MAPS = (torch.tensor([0, 0]), torch.tensor([1, 1]))
_PROTOTYPES = Prototypes(torch.tensor([[1.0], [-1.0]]))
_INTERVAL = {"radius": beyond_radius, "interval": outside_interval}


def _of_means(certifier: Certifier, outputs: tuple[Tensor, Tensor], mass: float, **rest: Any) -> Case:
    return Case(certifier, step(*outputs), dict.fromkeys(certifier.rules, mass), _MEANS, **rest)


CASES = {
    "center": Case(Center(Atom()), atom, dict.fromkeys(("exact", "measured"), MISSED), CENTER, ball=True),
    "center, paper": Case(Center(Atom()), atom, {"paper": MISSED}, _PAPER, ball=True),
    "center, n0 = 8": Case(
        Center(Atom()), atom, dict.fromkeys(("exact", "measured"), MISSED), replace(CENTER, n0=8), ball=True
    ),
    "center_free": Case(Center(Atom(), "free"), atom, {"measured": MISSED}, CENTER, ball=True),
    "center_nearest": _of_means(Nearest(L2()), (_ZERO, _ONE), 0.5, output_range=(-0.25, 1.25)),
    "mean": _of_means(Mean(L2()), (_ZERO, _ONE), 0.3, output_range=_UNIT),
    "direction": _of_means(Direction(Angular()), _DIRECTIONS, 0.5),
    "label": Case(
        Label(),
        step(torch.tensor(0), torch.tensor(1)),
        {"counts": 0.5, "betting": 0.5, "counts_run": _OF_A_RUN},
        COUNTS,
        exact=lambda mass: torch.tensor(0 if mass > 0.5 else 1),
    ),
    "segmentation": Case(
        Segmentation(),
        step(*_MAPS),
        {"holm": 0.5, "bonferroni": 0.5, "holm_run": _OF_A_RUN},
        COUNTS,
        exact=lambda mass: _MAPS[0 if mass > 0.5 else 1],
        fails={"radius": beyond_radius, "pixels": pixel_changes},
    ),
    "score": Case(
        Score(),
        step(_ONE, _ZERO),
        {"two_point": 0.5, "cdf": 0.5},
        COUNTS,
        _UNIT,
        exact=lambda mass: numbers(mass),
        fails=_INTERVAL,
    ),
    "prototypes": Case(
        _PROTOTYPES,
        step(_ONE, -_ONE),
        dict.fromkeys(_PROTOTYPES.rules, 0.5),
        replace(COUNTS, m=40),
        exact=lambda mass: torch.tensor(0 if mass > 0.5 else 1),
    ),
    "percentile": Case(
        Percentile(),
        step(_ZERO, _ONE),
        {"order": 0.5, "order_run": _OF_A_RUN},
        COUNTS,
        exact=lambda mass: _ZERO if mass > 0.5 else _ONE,
        fails=_INTERVAL,
    ),
    "percentile_box": Case(
        BoxPercentile(),
        step(*_BOXES),
        {"order": 0.5, "order_run": _OF_A_RUN},
        COUNTS,
        exact=lambda mass: _BOXES[0 if mass > 0.5 else 1],
        fails=_INTERVAL,
    ),
}
"""One for each certifier, and for rules and budgets that need counts of their own."""

_EIGHT = torch.zeros(8, dtype=torch.float64)
_SHARED = Budget(n=101, m=100, alpha1=0.03, alpha2=0.03)


def independent() -> NoiseWorld:
    """Eight numbers with independent noise, and no perturbation: their errors are independent, and add up."""
    return NoiseWorld(GaussianNoise(1.0), 0.0, _EIGHT, _EIGHT, first_number, lambda t: float(ndtr(t)))


def hardly_moved() -> NoiseWorld:
    """A perturbation of a tenth of the noise."""
    return shifted(GaussianNoise(1.0), 0.1, [0.1], normal(1.0))


def one_of_many(world: NoiseWorld, mass: float) -> Model:
    """A unit vector for each of `_MANY` equal parts of the noise: an l1 ball of radius 1 around 0 holds them all."""

    def model(inputs: Tensor) -> Tensor:
        part = (torch.special.ndtr(inputs[:, 0].double()) * _MANY).long().clamp(0, _MANY - 1)
        return torch.nn.functional.one_hot(part, _MANY).double()

    return model


_MANY = 150
_IN_A_BALL = Mean(L1(), ball=OutputBall(torch.zeros(_MANY, dtype=torch.float64), 1.0))

_METRICS = {
    "center_nearest, angular": _of_means(Nearest(Angular()), _DIRECTIONS, 0.5),
    "mean, l1": _of_means(Mean(L1()), (_ZERO, _ONE), 0.3, output_range=_UNIT),
    "direction, cosine": _of_means(Direction(Cosine()), _DIRECTIONS, 0.5),
}

FURTHER: dict[str, tuple[Case, str, Callable[[], NoiseWorld]]] = {
    "center, ball": (
        replace(CASES["center"], masses=dict.fromkeys(("exact", "measured"), 0.5 + CENTER.delta)),
        "gaussian",
        WORLDS["gaussian"],
    ),
    "segmentation, 8 pixels": (
        replace(
            CASES["segmentation"],
            model=lambda world, mass: lambda inputs: (inputs > world.threshold(mass)).long(),
            masses={"holm": 0.5, "bonferroni": 0.5},
            budget=_SHARED,
            exact=lambda mass: torch.ones(8, dtype=torch.int32),
        ),
        "gaussian, no shift",
        independent,
    ),
    "score, 8 scores": (
        replace(
            CASES["score"],
            model=lambda world, mass: lambda inputs: torch.where(inputs > world.threshold(mass), 0.0, 1.0),
            budget=_SHARED,
            exact=lambda mass: torch.full_like(_EIGHT, mass),
        ),
        "gaussian, no shift",
        independent,
    ),
    "percentile, 8 numbers": (
        replace(
            CASES["percentile"],
            model=lambda world, mass: torch.Tensor.clone,
            masses={"order": 0.5},
            budget=_SHARED,
            exact=lambda mass: _EIGHT,
        ),
        "gaussian, no shift",
        independent,
    ),
    "mean, l1, in a ball": (
        Case(_IN_A_BALL, one_of_many, dict.fromkeys(_IN_A_BALL.rules, 0.5), _MEANS, output_range=_UNIT),
        "gaussian, no shift",
        independent,
    ),
    **{name: (case, "gaussian", WORLDS["gaussian"]) for name, case in _METRICS.items()},
    "prototypes, small shift": (CASES["prototypes"], "gaussian, small shift", hardly_moved),
}
"""Cases under Gaussian noise only: other metrics, and what uses up more of alpha, such as many statements at once."""

ENUMERATED = ("center, enumerated", Center(Atom()).of_rule("enumerated"))
"""Name and certifier of the rule without draws."""
