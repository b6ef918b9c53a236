"""The variance of outputs under the noise as part of the loss."""

from __future__ import annotations

from torch import Tensor

from centersmooth.draws import Draws
from csrun.training.methods.outputs import Regularised


class OutputConsistency(Regularised):
    """The loss of noisy inputs, and ``weight`` times the variance of the output under the noise, from ``draws``."""

    def regulariser(self, samples: Tensor, draws: Draws) -> Tensor:
        return samples.var(dim=0).mean()
