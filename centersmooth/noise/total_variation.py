"""Laws whose shift bound is a total variation distance."""

from __future__ import annotations

import math
from abc import abstractmethod

from centersmooth.noise.base import ROUND_UP, Noise


class TotalVariationNoise(Noise):
    """A law of which noisy inputs at ``x`` and at ``x'`` can be drawn so that they rarely differ.

    With the same random numbers at both, they differ with a probability of at most `total_variation`. So a set of mass
    ``p`` at ``x`` keeps ``p - total_variation(eps)`` at ``x'``. Of several draws together one of them differs with
    probability ``1 - (1 - total_variation(eps))**draws``, as draws are independent.
    """

    @abstractmethod
    def total_variation(self, eps: float) -> float:
        """The largest probability, over all ``x'`` within ``eps``, that the noisy inputs differ; in [0, 1].

        Raises
        ------
        RequestError
            ``eps`` is not a size of perturbations, or the bound depends on an input that is not known (see `at`).
        """

    def required_mass(self, mass: float, eps: float) -> float:
        """``mass + total_variation(eps)``, rounded up; 1 at most."""
        return _required(mass, self.total_variation(eps))

    def kept_mass(self, mass: float, eps: float) -> float:
        """``mass - total_variation(eps)``, rounded down; 0 at least."""
        return max(0.0, mass / ROUND_UP - self.total_variation(eps)) / ROUND_UP

    def kept_mean(self, mean: float, eps: float) -> float:
        """`kept_mass`: a function with values in [0, 1] loses at most its whole value where the noisy inputs differ."""
        return self.kept_mass(mean, eps)

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """``mass + 1 - (1 - total_variation(eps))**draws``, rounded up; 1 at most."""
        distance = self.total_variation(eps)
        return _required(mass, -math.expm1(draws * math.log1p(-distance)) if distance < 1 else 1.0)


def _required(mass: float, distance: float) -> float:
    return min(1.0, (mass + distance) * ROUND_UP)
