"""Certified robustness for models with structured outputs, by center smoothing.

Wrap a model and a distance in a `CenterSmoother`; `smooth(x)` is the output to ship, `certify(x, eps)` says how far
it can move under any perturbation of size at most ``eps``: an l2 norm under Gaussian noise, others under other laws.

Method: Kumar and Goldstein, *Center Smoothing: Certified Robustness for Networks with Structured Outputs*, NeurIPS
2021. The proof is in `centersmooth.certifiers.center.rules`, the statistics in `centersmooth.bounds`.
"""

from centersmooth.attack import Attack, Attacked
from centersmooth.certificate import Budget, Certificate, Outcome, Smoothed
from centersmooth.certifiers import (
    BoxPercentile,
    Center,
    Direction,
    Label,
    Mean,
    Nearest,
    OutputBall,
    Percentile,
    Prototypes,
    Score,
    Segmentation,
)
from centersmooth.errors import CenterSmoothError, InfeasibleError, ModelError, RequestError
from centersmooth.metrics import (
    L1,
    L2,
    OSPA,
    Angular,
    Cosine,
    DistanceFunction,
    Hamming,
    Jaccard,
    Levenshtein,
    MaskJaccard,
    Metric,
    NormalisedLevenshtein,
    SquaredL2,
    TotalVariation,
)
from centersmooth.noise import (
    AblationNoise,
    EllipsoidNoise,
    EnumeratedSplitting,
    GaussianNoise,
    LaplaceNoise,
    Noise,
    PatchNoise,
    SplittingNoise,
    UniformNoise,
)
from centersmooth.sampling import RandomStream
from centersmooth.smoother import CenterSmoother, MeanSmoother, Smoother
from centersmooth.version import __version__

__all__ = [
    "L1",
    "L2",
    "OSPA",
    "AblationNoise",
    "Angular",
    "Attack",
    "Attacked",
    "BoxPercentile",
    "Budget",
    "Center",
    "CenterSmoothError",
    "CenterSmoother",
    "Certificate",
    "Cosine",
    "Direction",
    "DistanceFunction",
    "EllipsoidNoise",
    "EnumeratedSplitting",
    "GaussianNoise",
    "Hamming",
    "InfeasibleError",
    "Jaccard",
    "Label",
    "LaplaceNoise",
    "Levenshtein",
    "MaskJaccard",
    "Mean",
    "MeanSmoother",
    "Metric",
    "ModelError",
    "Nearest",
    "Noise",
    "NormalisedLevenshtein",
    "Outcome",
    "OutputBall",
    "PatchNoise",
    "Percentile",
    "Prototypes",
    "RandomStream",
    "RequestError",
    "Score",
    "Segmentation",
    "Smoothed",
    "Smoother",
    "SplittingNoise",
    "SquaredL2",
    "TotalVariation",
    "UniformNoise",
    "__version__",
]
