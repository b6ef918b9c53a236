"""The tables of contract tests: a row for each noise, certifier and metric."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    OSPA,
    AblationNoise,
    Angular,
    BoxPercentile,
    Center,
    Cosine,
    Direction,
    EllipsoidNoise,
    EnumeratedSplitting,
    GaussianNoise,
    Hamming,
    Jaccard,
    Label,
    LaplaceNoise,
    Levenshtein,
    MaskJaccard,
    Mean,
    Metric,
    Nearest,
    Noise,
    NormalisedLevenshtein,
    OutputBall,
    PatchNoise,
    Percentile,
    Prototypes,
    Score,
    Segmentation,
    SplittingNoise,
    SquaredL2,
    TotalVariation,
    UniformNoise,
)
from centersmooth.certifiers import Certifier
from centersmooth.noise import (
    Blur,
    Brightness,
    BrightnessContrastNoise,
    Composed,
    Contrast,
    ExponentialNoise,
    FoldedNormalNoise,
    Gamma,
    RayleighNoise,
    RotationNoise,
    ScalingNoise,
    Transformed,
    Translation,
    UpperUniformNoise,
)


@dataclass(frozen=True)
class NoiseRow:
    """A law, an ``eps``, mean and standard deviation of a number of its noisy copies, and an input other than 0.

    ``draws`` is fewer than `check_noise` makes by default where one takes long.
    """

    noise: Noise
    eps: float
    moments: tuple[float, float] | None
    x: Tensor | None = None
    draws: int = 200_000


@dataclass(frozen=True)
class CertifierRow:
    """A certifier, two outputs that it tells apart, and what else `check_certifier` is to know."""

    certifier: Certifier
    outputs: tuple[Tensor, Tensor]
    details: dict[str, Any] = field(default_factory=dict)


_GREY = torch.full((1,), 0.5, dtype=torch.float64)
_DOT = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
_RISING = torch.arange(20.0)[None]
_BRIGHTER = Transformed(Brightness(), GaussianNoise(0.2))
_LOG_NORMAL = (math.exp(0.02), math.exp(0.02) * math.sqrt(math.expm1(0.04)))
"""Mean and standard deviation of a factor whose logarithm has standard deviation 0.2."""

_HALVES = torch.cat([torch.ones(3, 7), torch.zeros(4, 7)]).double()
"""An image, dark below, whose first pixel gets darker when it is turned one way or made smaller."""

NOISES = {
    "gaussian": [
        NoiseRow(GaussianNoise(0.5), 0.5, (0.0, 0.5)),
        NoiseRow(GaussianNoise(1.0), 2.0, (0.0, 1.0)),
        NoiseRow(GaussianNoise(2.0), 0.1, (0.0, 2.0)),
        NoiseRow(GaussianNoise(0.5, p=1), 0.5, (0.0, 0.5)),
        NoiseRow(GaussianNoise(0.5, p=math.inf), 0.5, (0.0, 0.5)),
    ],
    "ellipsoid": [NoiseRow(EllipsoidNoise(0.5, torch.ones(1)), 0.5, (0.0, 0.5))],
    "laplace": [
        NoiseRow(LaplaceNoise(0.5), 0.5, (0.0, 0.5 * 2**0.5)),
        NoiseRow(LaplaceNoise(1.0), 0.25, (0.0, 2**0.5)),
        NoiseRow(LaplaceNoise(0.25), 0.75, (0.0, 0.25 * 2**0.5)),
    ],
    "uniform": [
        NoiseRow(UniformNoise(0.5), 0.3, (0.0, 0.5 / 3**0.5)),
        NoiseRow(UniformNoise(1.0), 1.9, (0.0, 1 / 3**0.5)),
        NoiseRow(UniformNoise(0.5, p=2), 0.3, (0.0, 0.5 / 3**0.5)),
        NoiseRow(UniformNoise(0.5, p=math.inf), 0.7, (0.0, 0.5 / 3**0.5)),
    ],
    "brightness": [NoiseRow(_BRIGHTER, 0.2, (0.0, 0.2), torch.zeros(1).double())],
    "contrast": [NoiseRow(Transformed(Contrast(), GaussianNoise(0.2)), 0.2, _LOG_NORMAL, torch.ones(1).double())],
    "brightness_contrast": [NoiseRow(BrightnessContrastNoise(0.2, 0.5), 0.2, None, torch.tensor([1.0, 2.0]).double())],
    "gamma": [NoiseRow(Transformed(Gamma(), GaussianNoise(0.5)), 0.5, None, _GREY)],
    "rayleigh": [NoiseRow(RayleighNoise(), eps, None, _GREY) for eps in (0.1, 0.5)],
    "blur": [
        NoiseRow(Transformed(Blur(), law), 1.0, None, _DOT)
        for law in (ExponentialNoise(1.0), FoldedNormalNoise(1.0), UpperUniformNoise(2.0))
    ],
    "rotation": [NoiseRow(RotationNoise(20.0, 0.1), 15.0, None, _HALVES, draws=40_000)],
    "scaling": [NoiseRow(ScalingNoise(0.1, 3.0), 0.1, None, _HALVES, draws=40_000)],
    "translation": [NoiseRow(Transformed(Translation(), GaussianNoise(1.0)), 1.0, None, _RISING)],
    "composed": [
        NoiseRow(Composed(_BRIGHTER, GaussianNoise(0.5)), 0.5, (0.0, math.hypot(0.2, 0.5)), torch.zeros(1).double()),
        NoiseRow(Composed(Transformed(Blur(), ExponentialNoise(1.0)), _BRIGHTER, 0.2), 1.0, None, _DOT),
        NoiseRow(Composed(Transformed(Blur(), UpperUniformNoise(2.0)), _BRIGHTER, 0.2), 1.0, None, _DOT),
        NoiseRow(Composed(Transformed(Blur(), FoldedNormalNoise(1.0)), _BRIGHTER, 0.2), 1.0, None, _DOT),
        NoiseRow(Composed(_BRIGHTER, Transformed(Translation(), GaussianNoise(1.0)), 5), 0.2, None, _RISING),
    ],
    "splitting": [
        NoiseRow(SplittingNoise(0.25), 0.2, (0.125, 0.25 / 12**0.5)),
        NoiseRow(SplittingNoise(0.5), 0.25, (0.25, 0.5 / 12**0.5)),
        NoiseRow(SplittingNoise(1.0), 0.5, (0.375, (5 / 192) ** 0.5)),
    ],
    "splitting_8bit": [NoiseRow(EnumeratedSplitting(0.5), 51 / 255, (0.25, 0.5 / 12**0.5))],
    "ablation": [NoiseRow(AblationNoise(2), 1.0, (2 / 3, 2**0.5 / 3), torch.ones(1, 1, 3))],
    "patch": [NoiseRow(PatchNoise(1), 1.0, (1 / 4, 3**0.5 / 4), torch.ones(1, 2, 2))],
}

VECTORS = (torch.zeros(2), torch.ones(2))
DIRECTIONS = (torch.tensor([1.0, 0.6]), torch.tensor([-1.0, 0.6]))
BOXES = (torch.tensor([0.0, 0.0, 4.0, 4.0]), torch.tensor([2.0, 0.0, 6.0, 4.0]))
SETS = (torch.stack(BOXES), torch.stack([BOXES[1], torch.zeros(4)]))
"""Two boxes, and one of them alone."""

SCORES = (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
CLASSES = (torch.tensor(0), torch.tensor(1))
MAPS = (torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [0, 2]]))
"""Classes of pixels, of which two are others."""

SCORE_MAPS = tuple(torch.nn.functional.one_hot(one, 3).permute(2, 0, 1).float() for one in MAPS)
UNIT = {"output_range": (0.0, 1.0)}


def likelier(mass: float) -> Tensor:
    """The class of a model that gives class 0 with this probability, and class 1 otherwise."""
    return torch.tensor(0 if mass > 0.5 else 1)


def likelier_map(mass: float) -> Tensor:
    """The first of two maps of classes, which a model gives with this probability, or the other."""
    return MAPS[0 if mass > 0.5 else 1]


def mixed(mass: float) -> Tensor:
    """The exact mean of a model that gives the first of `VECTORS` with this probability, and the second otherwise."""
    return (mass * VECTORS[0] + (1 - mass) * VECTORS[1]).double()


EMBEDDINGS = (torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]))
PROTOTYPES = Prototypes(torch.tensor([[0.5, 0.0], [-1.5, 0.0], [0.0, -2.0]]))
"""The nearest to a mean of `EMBEDDINGS` is the first where the first embedding has a mass above 1/4."""


def nearest_to_mean(mass: float) -> Tensor:
    """The prototype nearest to the exact mean of `EMBEDDINGS`, the first of which has this probability."""
    return PROTOTYPES.nearest((mass * EMBEDDINGS[0] + (1 - mass) * EMBEDDINGS[1])[None])[0]


def median_of(outputs: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """The exact median of a model that gives the first output with a probability, and the second otherwise."""
    return {"exact": lambda mass: outputs[0] if mass > 0.5 else outputs[1]}


CERTIFIERS = {
    "center": [
        CertifierRow(Center(L2()), VECTORS),
        CertifierRow(Center(Jaccard()), BOXES),
        CertifierRow(Center(OSPA()), SETS),
    ],
    "center_free": [CertifierRow(Center(L2(), "free"), VECTORS)],
    "center_nearest": [CertifierRow(Nearest(L2()), VECTORS, UNIT), CertifierRow(Nearest(Angular()), SCORES)],
    "mean": [
        CertifierRow(Mean(L2()), VECTORS, UNIT),
        CertifierRow(Mean(L1(), n=150, ball=OutputBall(torch.full((2,), 0.5), 0.8)), VECTORS, UNIT),
    ],
    "direction": [CertifierRow(Direction(metric), DIRECTIONS) for metric in (Angular(), Cosine())],
    "label": [CertifierRow(Label(), outputs, {"exact": likelier}) for outputs in (SCORES, CLASSES)],
    "segmentation": [CertifierRow(Segmentation(), outputs, {"exact": likelier_map}) for outputs in (MAPS, SCORE_MAPS)],
    "score": [
        CertifierRow(Score(), VECTORS, {"exact": mixed, **UNIT}),
        CertifierRow(
            Score(), (torch.tensor(0.2), torch.tensor(0.9)), {"exact": lambda p: torch.tensor(0.9 - 0.7 * p), **UNIT}
        ),
    ],
    "prototypes": [CertifierRow(PROTOTYPES, EMBEDDINGS, {"exact": nearest_to_mean})],
    "percentile": [CertifierRow(Percentile(), outputs, median_of(outputs)) for outputs in (VECTORS, CLASSES)],
    "percentile_box": [CertifierRow(BoxPercentile(), BOXES, median_of(BOXES))],
}

METRICS: dict[str, Metric] = {
    "l1": L1(),
    "l2": L2(),
    "sql2": SquaredL2(),
    "cosine": Cosine(),
    "angular": Angular(),
    "tv": TotalVariation(),
    "jaccard": Jaccard(),
    "boxes": OSPA(),
    "hamming": Hamming(),
    "mask_jaccard": MaskJaccard(),
    "edit": Levenshtein(),
    "edit_normalised": NormalisedLevenshtein(),
}

TABLES: dict[str, dict[str, Any]] = {"noise": NOISES, "certifier": CERTIFIERS, "metric": METRICS}


def shape_for(metric: Metric) -> tuple[int, ...]:
    shapes = {"TotalVariation": (2, 3, 4), "Jaccard": (4,), "OSPA": (3, 4), "Hamming": (3, 2, 2), "MaskJaccard": (2, 3)}
    return shapes.get(metric.name, (5,))


def fit_for(metric: Metric, outputs: Tensor) -> Tensor:
    """The outputs; boxes with their corners in order, masks of what is positive, texts of few letters."""
    if metric.name in ("Jaccard", "OSPA"):
        first, second = outputs[..., :2], outputs[..., 2:]
        return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=-1)
    if metric.name == "MaskJaccard":
        return outputs > 0
    if isinstance(metric, Levenshtein):
        letters = (3 * outputs).remainder(7).int()
        return letters.gather(1, (letters == 0).int().argsort(dim=1, stable=True))  # zeros come last
    return outputs


def outputs_for(metric: Metric, n: int = 6) -> st.SearchStrategy[Tensor]:
    """Few distinct values, so that zeros, duplicates, constants and empty boxes all turn up."""
    values = st.sampled_from([0.0, 0.0, 1.0, -1.0, 0.5, 0.125, 3.0, -0.75])
    outputs = arrays(np.float32, (n, *shape_for(metric)), elements=values).map(torch.from_numpy)
    return outputs.map(lambda drawn: fit_for(metric, drawn))


def random_outputs(metric: Metric, n: int = 40) -> Tensor:
    """Continuous outputs."""
    return fit_for(metric, torch.randn(n, *shape_for(metric), generator=torch.Generator().manual_seed(0)))
