"""What a smoothing law has to provide.

A law owns its unit: its parameters and every `eps` are in the unit of the model's input, and nothing here rescales
either.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from centersmooth.draws import Draws


@runtime_checkable
class Noise(Protocol):
    """A smoothing law together with its shift bound."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """``count`` noisy copies of ``x``: ``(*in) -> (count, *in)``, on the device and in the type of ``x``."""
        ...

    def required_mass(self, mass: float, eps: float) -> float:
        """The mass a set needs under the noise at ``x`` so that it keeps ``mass`` at every ``x'`` within ``eps``."""
        ...

    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """The same for sets of ``draws`` independent noisy copies taken together; asked for by ``center="free"``."""
        ...
