"""Output distances, one family a file. Yours: a `DistanceFunction`, or a subclass of `Metric`."""

from centersmooth.metrics.base import DistanceFunction, Hilbertian, Metric
from centersmooth.metrics.boxes import OSPA, Jaccard
from centersmooth.metrics.images import TotalVariation
from centersmooth.metrics.labels import Hamming, MaskJaccard
from centersmooth.metrics.text import Levenshtein, NormalisedLevenshtein, decode_texts, encode_texts
from centersmooth.metrics.vectors import L1, L2, Angular, Cosine, SquaredL2

__all__ = [
    "L1",
    "L2",
    "OSPA",
    "Angular",
    "Cosine",
    "DistanceFunction",
    "Hamming",
    "Hilbertian",
    "Jaccard",
    "Levenshtein",
    "MaskJaccard",
    "Metric",
    "NormalisedLevenshtein",
    "SquaredL2",
    "TotalVariation",
    "decode_texts",
    "encode_texts",
]
