"""Threats: families of perturbations, nested in one number ``eps``, that a smoothing law answers.

A perturbation is a *shift*, a tensor of the threat's own: for additive threats of the shape of the input. Attacks climb
in shifts; certificates speak of all of size at most ``eps``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from centersmooth.draws import Draws
from centersmooth.errors import RequestError


class Threat(ABC):
    """A nested family of perturbations."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """What ``eps`` is measured in, for tables and axes."""

    @property
    @abstractmethod
    def meaning(self) -> str:
        """The same at length, for messages: "eps is ...: expected ``meaning``"."""

    def require(self, eps: float) -> None:
        """Refuse a number that is not a size of perturbations.

        Raises
        ------
        RequestError
        """
        if not 0 <= eps < math.inf:
            raise RequestError(f"eps is {eps}: expected {self.meaning}")

    @abstractmethod
    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """A random shift of size ``eps``."""

    @abstractmethod
    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        """The perturbed input, ``(*in) -> (*in)``; differentiable in the shift where gradients are to be climbed."""

    @abstractmethod
    def project(self, shift: Tensor, eps: float) -> Tensor:
        """The nearest shift of size at most ``eps``."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The shift of size 1 along which a function of this gradient rises most; zeros where it is zero."""

    def propose(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """A random shift of size ``eps`` for a search by queries; by default any."""
        return self.start(x, eps, draws)

    def perturbed(self, x: Tensor, shift: Tensor, eps: float) -> Tensor:
        """The perturbed input, by a shift of size at most ``eps`` after all rounding."""
        return self.apply(x, self.project(shift, eps))


@dataclass(frozen=True)
class L2Ball(Threat):
    """All inputs ``x'`` with ``|x' - x|_2 <= eps``."""

    unit = "l2"
    meaning = "an l2 radius of at least 0, in the unit of the model's input"

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        return eps * unit_vector(draws.normal(tuple(x.shape)).to(x.dtype))

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        return x + shift

    def project(self, shift: Tensor, eps: float) -> Tensor:
        return shift * min(1.0, eps / max(float(shift.norm()), torch.finfo(shift.dtype).tiny))

    def steepest(self, gradient: Tensor) -> Tensor:
        return unit_vector(gradient)

    def propose(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """A random direction: for inputs with rows and columns one patch, of one sign in each channel."""
        if x.ndim < 2:
            return self.start(x, eps, draws)
        sides = draws.uniform((4,)).tolist()
        patch = torch.zeros_like(x)
        (top, bottom), (left, right) = (
            _stretch(size, *sides[2 * axis : 2 * axis + 2]) for axis, size in enumerate(x.shape[-2:])
        )
        heads = draws.uniform((*x.shape[:-2], 1, 1)) < 0.5
        patch[..., top:bottom, left:right] = torch.where(heads, 1.0, -1.0).to(x.dtype)
        return eps * unit_vector(patch)

    def perturbed(self, x: Tensor, shift: Tensor, eps: float) -> Tensor:
        """``x + shift``, shrunk until the rounded sum is within ``eps`` in float64; ``x`` where no rounded one is."""
        shift = self.project(shift, eps)
        for shrink in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
            perturbed = x + (1 - shrink) * shift
            if float((perturbed.double() - x.double()).norm()) <= eps:
                return perturbed
        return x.clone()


@dataclass(frozen=True)
class L1Ball(Threat):
    """All inputs ``x'`` with ``|x' - x|_1 <= eps``."""

    unit = "l1"
    meaning = "an l1 radius of at least 0, in the unit of the model's input"

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        shift = draws.normal(tuple(x.shape)).to(x.dtype)
        return eps * shift / shift.abs().sum()

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        return x + shift

    def project(self, shift: Tensor, eps: float) -> Tensor:
        """Every coordinate shrinks by one threshold (Duchi et al. 2008)."""
        sizes = shift.abs().flatten().sort(descending=True).values
        if float(sizes.sum()) <= eps:
            return shift
        thresholds = (sizes.cumsum(0) - eps) / torch.arange(1, len(sizes) + 1, device=shift.device)
        threshold = thresholds[int((sizes > thresholds).sum()) - 1]
        return shift.sign() * (shift.abs() - threshold).clamp(min=0)

    def steepest(self, gradient: Tensor) -> Tensor:
        largest = torch.zeros_like(gradient).flatten()
        index = gradient.abs().argmax()
        largest[index] = gradient.flatten()[index].sign()
        return largest.reshape(gradient.shape)


def unit_vector(vector: Tensor) -> Tensor:
    """Scale to norm 1; zeros stay zeros."""
    norm = float(torch.linalg.vector_norm(vector))
    return vector / norm if norm > 0 else vector


def _stretch(size: int, share: float, place: float) -> tuple[int, int]:
    """A piece of a side: its length is ``share`` of it, at least 1, where it begins is ``place`` of what is left.

    >>> _stretch(10, 0.25, 1.0), _stretch(10, 0.0, 0.0)
    ((7, 10), (0, 1))
    """
    length = min(size, int(share * size) + 1)
    start = round(place * (size - length))
    return start, start + length
