"""The loss of mixes of inputs with adversaries that move the smoothed output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.adversaries import SameDraws, other_draws
from csrun.training.methods.classes import divergence
from csrun.training.methods.outputs import AgainstMovement, fit, values


@dataclass(frozen=True)
class OutputMix(AgainstMovement):
    """The loss of noisy inputs, and ``weight`` times that of mixes of inputs with their adversaries.

    As in SmoothMix, with ``lam`` uniform in [0, 1/2) for each image: the mix ``(1 - lam) x + lam x_adv`` is to have the
    output ``(1 - lam) g(x) + lam u``. ``g`` is the smoothed output, through which the gradient goes as well, and ``u``
    an output that knows nothing: the mean of the batch's targets, or equal probabilities of all classes.
    """

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        outputs = SameDraws(model, noise, draws, self.draws)
        others = other_draws(draws)
        adversary = self.adversary(outputs, x, y, others)
        share = others.uniform((len(x),)).to(x.dtype) / 2
        of_input = share.view(-1, *[1] * (x.ndim - 1))
        at_x, at_mix = outputs(x), outputs((1 - of_input) * x + of_input * adversary)
        smoothed = values(at_x, y).mean(dim=0)
        of_output = share.view(-1, *[1] * (smoothed.ndim - 1))
        uninformed = y.mean(dim=0) if y.is_floating_point() else 1 / smoothed.shape[1]
        target = (1 - of_output) * smoothed + of_output * uninformed
        if y.is_floating_point():
            apart = (at_mix - target).square().mean()
        else:
            apart = divergence(target, target.clamp(min=1e-20).log(), at_mix.log_softmax(dim=2)).mean()
        return fit(at_x, y) + self.weight * apart
