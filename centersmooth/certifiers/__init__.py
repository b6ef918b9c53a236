"""Certifiers: kinds of smoothed models with their certificates, a file or folder each."""

from centersmooth.certifiers.ball import OutputBall
from centersmooth.certifiers.base import Certifier, pack, unpack
from centersmooth.certifiers.center import Center, Nearest
from centersmooth.certifiers.direction import Direction
from centersmooth.certifiers.label import Label
from centersmooth.certifiers.mean import Mean
from centersmooth.certifiers.percentile import BoxPercentile, Percentile
from centersmooth.certifiers.prototypes import Prototypes
from centersmooth.certifiers.score import Score
from centersmooth.certifiers.segmentation import Segmentation, certified_iou

__all__ = [
    "BoxPercentile",
    "Center",
    "Certifier",
    "Direction",
    "Label",
    "Mean",
    "Nearest",
    "OutputBall",
    "Percentile",
    "Prototypes",
    "Score",
    "Segmentation",
    "certified_iou",
    "pack",
    "unpack",
]
