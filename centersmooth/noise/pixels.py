"""Threats that change few pixels of an image arbitrarily: some anywhere, or those of one square.

Images are ``(channels, height, width)``; a pixel is all its channels. The certificates hold whatever the new values
are. Attacks, which need a finite range, stay within [0, 1] where the image does, and change a number by 1 at most.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from centersmooth.draws import Draws
from centersmooth.noise.threat import Threat


class SparseThreat(Threat):
    """A threat of which a shift is a change in each number of the image, zero but for a set of pixels."""

    @abstractmethod
    def heaviest(self, weights: Tensor, eps: float) -> Tensor:
        """The set of pixels within ``eps`` of largest total weight, ``(h, w) -> (h, w)``, as 0 and 1."""

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """A random set of pixels, changed by so little that a first step along the gradient may choose others."""
        signs = torch.where(draws.uniform(tuple(x.shape)) < 0.5, -0.1, 0.1).to(x.dtype)
        return signs * self._random(x, eps, draws)

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        """``x + shift``, clipped to [0, 1], or to the range of ``x`` where that is larger.

        A gradient passes as if nothing were clipped: a pixel at the end of the range can come back.
        """
        low, high = (float(limit) for limit in torch.aminmax(x.detach()))
        moved = x + shift
        return moved + (moved.clamp(min(low, 0.0), max(high, 1.0)) - moved).detach()

    def project(self, shift: Tensor, eps: float) -> Tensor:
        """The shift on the pixels where it is largest, clipped to [-1, 1]."""
        return (shift * self.heaviest(shift.abs().sum(0), eps)).clamp(-1, 1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient, scaled so that its largest entry is 1; projections leave it on few pixels."""
        largest = float(gradient.abs().max())
        return gradient / largest if largest > 0 else gradient

    def propose(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """A random set of pixels, one at least, of one sign in each channel; outweighs what was there before."""
        signs = torch.where(draws.uniform((len(x), 1, 1)) < 0.5, -2.0, 2.0).to(x.dtype)
        return signs * self._random(x, max(eps, 1.0) if eps > 0 else 0.0, draws)

    def _random(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        return self.heaviest(draws.uniform(tuple(x.shape[1:])), eps).to(x.dtype)


@dataclass(frozen=True)
class Pixels(SparseThreat):
    """All images that differ from ``x`` in at most ``eps`` pixels; of a fraction counts the whole number below."""

    unit = "pixels"
    meaning = "a number of changed pixels of at least 0"

    def heaviest(self, weights: Tensor, eps: float) -> Tensor:
        order = weights.flatten().topk(min(int(eps), weights.numel())).indices
        return torch.zeros_like(weights).flatten().index_fill_(0, order, 1).reshape(weights.shape)


@dataclass(frozen=True)
class Patch(SparseThreat):
    """All images that differ from ``x`` within one square of side ``eps``; of a fraction counts the whole number below.

    Certificates allow for a square that goes on at the opposite side of the image as well.
    """

    unit = "patch side"
    meaning = "the side of a patch in pixels, of at least 0"

    def heaviest(self, weights: Tensor, eps: float) -> Tensor:
        chosen, (height, width) = torch.zeros_like(weights), (min(int(eps), size) for size in weights.shape)
        if height:
            totals = avg_pool2d(weights[None].float(), (height, width), stride=1)[0]
            top, left = divmod(int(totals.argmax()), totals.shape[1])
            chosen[top : top + height, left : left + width] = 1
        return chosen
