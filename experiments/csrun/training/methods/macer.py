"""MACER: the certified radius of Gaussian noise as part of the loss (Zhai et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from centersmooth import GaussianNoise, Noise
from centersmooth.draws import Draws
from csrun.errors import RunError
from csrun.models.base import BaseModel
from csrun.training.methods.base import BACKWARD, FORWARD, Method, Target, noisy_copies, outputs_of
from csrun.training.methods.classes import log_mean_probabilities

_SHARPNESS: Final = 16.0
"""Factor of the scores from which the radius is taken: the more, the nearer to a count of classes."""

_LARGEST: Final = 8.0
"""Gap of normal quantiles up to which a radius is enlarged."""


@dataclass(frozen=True)
class Macer(Method):
    """``-log F_avg,y + weight * (s/2) sum max(0, 8 - gap)/b``, with ``gap = Phi^-1(p_A) - Phi^-1(p_B)``.

    ``p_A`` and ``p_B`` are the two largest mean probabilities of 16 times the scores; the sum is over images of which
    the first is the class, with a gap that is finite and at most 8. In the first ``deferred`` epochs it does not count.
    """

    weight: float
    draws: int
    deferred: int
    target: ClassVar[Target | None] = "labels"

    @property
    def passes(self) -> int:
        return self.draws * (FORWARD + BACKWARD)

    def require_suited(self, noise: Noise, example: Tensor) -> None:
        if not (isinstance(noise, GaussianNoise) and noise.p == 2):
            raise RunError(f"its radius is that of Gaussian noise against l2, and the noise is {noise}")

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        scores = outputs_of(model, noisy_copies(x, noise, draws, self.draws))
        loss = nll_loss(log_mean_probabilities(scores), y)
        if epoch < self.deferred:
            return loss
        sharp = log_mean_probabilities(_SHARPNESS * scores).exp()
        (first, second), classes = (top.unbind(dim=1) for top in sharp.topk(2, dim=1))
        with torch.no_grad():
            gap = _gap(first, second)
            counted = (classes[0] == y) & gap.isfinite() & (gap <= _LARGEST)
        # A quantile of what does not count may be infinite, and its gradient would be NaN in the sum.
        hinge = _LARGEST - _gap(first.where(counted, 0.75), second.where(counted, 0.25))
        return loss + self.weight * noise.scale / 2 * (hinge * counted).mean()


def _gap(first: Tensor, second: Tensor) -> Tensor:
    gap: Tensor = torch.special.ndtri(first) - torch.special.ndtri(second)
    return gap
