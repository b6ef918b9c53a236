"""Probabilities of classes under noise, in logarithms: scores of ``m`` noisy copies are ``(m, b, K)``, or of pixels
``(m, b, K, H, W)``."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import cross_entropy

from csrun.training.methods.base import repeated


def log_mean_probabilities(scores: Tensor) -> Tensor:
    """``log F_avg``, the mean over the copies of their class probabilities: ``(m, b, K, ...) -> (b, K, ...)``."""
    return scores.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(scores))


def mean_cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of the labels, the mean over images and copies."""
    return cross_entropy(scores.flatten(0, 1), repeated(y, len(scores)))


def divergence(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL(p, q) = sum p ln(p/q)`` of mean class probabilities ``(b, K, ...)`` from each copy's, ``(m, b, K, ...)``."""
    return (p * (log_p - log_q)).sum(dim=2)
