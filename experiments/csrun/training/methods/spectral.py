"""The top eigenvalue of the output's covariance under the noise as part of the loss."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from centersmooth.draws import Draws
from csrun.training.methods.outputs import Regularised

_POWER_STEPS: Final = 10


class Spectral(Regularised):
    """The loss of noisy inputs, and ``weight`` times the top eigenvalue of the output's covariance under the noise.

    That is the variance in the direction in which the output varies most, which bounds how far a Gaussian shift moves
    its mean; the covariance is that of ``draws`` outputs of one input.
    """

    def regulariser(self, samples: Tensor, draws: Draws) -> Tensor:
        rows = samples.transpose(0, 1).flatten(2)
        return (top_eigenvalue(rows, draws) / rows.shape[2]).mean()


def top_eigenvalue(samples: Tensor, draws: Draws) -> Tensor:
    """The top eigenvalue of the covariance of each input's samples: ``(b, m, D) -> (b,)``.

    By power iteration on the ``m x m`` matrix of inner products, which has the same one. The gradient is that of the
    quadratic form at the vector found, which is the eigenvalue's own at an eigenvector.
    """
    centred = samples - samples.mean(dim=1, keepdim=True)
    products = centred @ centred.transpose(1, 2) / (samples.shape[1] - 1)
    with torch.no_grad():
        vector = draws.normal((*products.shape[:2], 1)).to(products.dtype)
        for _ in range(_POWER_STEPS):
            vector = torch.nn.functional.normalize(products @ vector, dim=1)
    return (vector.transpose(1, 2) @ products @ vector).flatten()
