"""Threats: families of perturbations, nested in one number ``eps``, that a smoothing law answers.

A perturbation is a *shift*, a tensor of the threat's own: for additive threats of the shape of the input. Attacks climb
in shifts; certificates speak of all of size at most ``eps``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

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
        """The unit of ``eps`` at length, for messages: "eps is ...: expected ``meaning``"."""

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
