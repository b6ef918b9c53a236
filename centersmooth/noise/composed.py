"""Two independent noises one after the other, against two perturbations at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from centersmooth.checks import a_number
from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.base import ROUND_UP, DrawsTogether, GaussianShift, Noise
from centersmooth.noise.gaussian import GaussianNoise, ShiftedNormal
from centersmooth.noise.threat import Threat
from centersmooth.noise.total_variation import TotalVariationNoise
from centersmooth.noise.transformed import Moves, Transformed
from centersmooth.noise.transforms import Blur, Brightness, Contrast, Gamma, Transform, Translation
from centersmooth.outputs import brief

_COMMUTING: Final[tuple[set[type[Transform]], ...]] = (
    {Brightness, Blur},
    {Brightness, Translation},
    {Contrast, Blur},
    {Contrast, Translation},
    {Gamma, Translation},
)
"""A blur is linear and leaves constant images, and what is done to each value does not depend on where it stands."""

_LENGTHENS_NOTHING: Final = (Brightness, Translation, Blur)
"""Transforms under which no two images get farther apart in l2: factors of a blur's cosine transform are at most 1."""


@dataclass(frozen=True)
class Both(Threat):
    """A transform within ``eps``, and then another perturbation within ``ratio * eps``.

    A shift is one vector: the parameters of the transform, then the numbers of the second shift.
    """

    first: Moves
    second: Threat
    ratio: float

    @property
    def unit(self) -> str:
        if self.ratio == 1:
            return f"{self.first.unit} and {self.second.unit}"
        return f"{self.first.unit}, {self.ratio:g} of it in {self.second.unit}"

    @property
    def meaning(self) -> str:
        return f"{self.first.meaning}, and {self.ratio:g} of it in {self.second.unit}"

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        return _joined(self.first.start(x, eps, draws), self.second.start(x, self.ratio * eps, draws))

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        first, second = self._parts(shift)
        return self.second.apply(self.first.apply(x, first), self._of_second(second, x))

    def project(self, shift: Tensor, eps: float) -> Tensor:
        first, second = self._parts(shift)
        return _joined(self.first.project(first, eps), self.second.project(second, self.ratio * eps))

    def steepest(self, gradient: Tensor) -> Tensor:
        first, second = self._parts(gradient)
        return _joined(self.first.steepest(first), self.ratio * self.second.steepest(second))

    def propose(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        return _joined(self.first.propose(x, eps, draws), self.second.propose(x, self.ratio * eps, draws))

    def perturbed(self, x: Tensor, shift: Tensor, eps: float) -> Tensor:
        first, second = self._parts(shift)
        moved = self.first.perturbed(x, first, eps)
        return self.second.perturbed(moved, self._of_second(second, x), self.ratio * eps)

    def _parts(self, shift: Tensor) -> tuple[Tensor, Tensor]:
        count = self.first.transform.parameters
        return shift[:count], shift[count:]

    def _of_second(self, numbers: Tensor, x: Tensor) -> Tensor:
        """The second shift in its own shape: parameters are a vector, an additive shift is an image."""
        return numbers if isinstance(self.second, Moves) else numbers.view(x.shape)


@dataclass(frozen=True, repr=False)
class Composed(Noise):
    """A transform with random parameters, then a second, independent noise, against both perturbations at once.

    Two transforms have to commute: then the noisy copies of ``x' = T_b(S_a(x))`` are those of ``x`` with ``a`` and
    ``b`` added to their parameters. Pixel noise may follow a transform under which no two images get farther apart. So
    the pairs are brightness or contrast with blur or translation, gamma correction with translation, and l2 noise after
    brightness, translation or blur. A blur does not commute with a cyclic translation: it mirrors the image at its
    edges, which the translation moves inside.

    Parameters
    ----------
    first : Transformed
    second : Transformed or GaussianNoise
    ratio : float
        The second perturbation has size at most ``ratio * eps``, in its own unit; the first at most ``eps``.

    Examples
    --------
    >>> noise = Composed(Transformed(Brightness(), GaussianNoise(0.2)), GaussianNoise(0.5), ratio=2.5)
    >>> round(noise.required_mass(0.55, eps=0.1), 4), noise.threat.unit
    (0.7975, 'brightness, 2.5 of it in l2')
    """

    first: Transformed
    second: Transformed | GaussianNoise
    ratio: float = 1.0

    def __new__(cls, *arguments: Any, **named: Any) -> Composed:
        """A noise with the abilities that both have, as `Transformed` makes one."""
        parts = (*arguments, *(named[name] for name in ("first", "second") if name in named))[:2]
        if cls is Composed and parts:  # there are none where one is unpickled, which names its own class
            if all(isinstance(part, GaussianShift) for part in parts):
                cls = _GaussianComposed
            elif all(isinstance(part, DrawsTogether) for part in parts):
                cls = _ComposedTogether
        return object.__new__(cls)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", a_number("ratio", self.ratio, 0.0, math.inf, "a positive number"))
        if not isinstance(self.first, Transformed):
            raise RequestError(
                f"first is {brief(self.first)}: expected noise on a transform, such as Transformed(Brightness(), "
                "GaussianNoise(0.2))"
            )
        transform = self.first.transform
        if isinstance(self.second, Transformed):
            if {type(transform), type(self.second.transform)} not in _COMMUTING:
                raise RequestError(
                    f"{transform} and {self.second.transform} are not known to commute: expected one of the pairs "
                    f"{', '.join(map(_names, _COMMUTING))}"
                )
        elif not isinstance(self.second, GaussianNoise) or self.second.p != 2:
            raise RequestError(f"second is {brief(self.second)}: expected noise on a transform, or GaussianNoise in l2")
        elif type(transform) not in _LENGTHENS_NOTHING:
            raise RequestError(
                f"{transform} can lengthen an l2 perturbation, of which {self.second} after it has no bound: expected "
                f"one of {_names(_LENGTHENS_NOTHING)}"
            )

    def __repr__(self) -> str:
        ratio = "" if self.ratio == 1 else f", ratio={self.ratio:g}"
        return f"Composed({self.first}, {self.second}{ratio})"

    @property
    def threat(self) -> Threat:
        """Both perturbations."""
        assert isinstance(self.first.threat, Moves)
        return Both(self.first.threat, self.second.threat, self.ratio)

    @property
    def scale(self) -> float:
        """That of the first noise."""
        return self.first.scale

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Transform ``x`` by ``count`` random parameters, and draw the second noise around each of these images.

        Calculated in the type of the draws and rounded once.

        Raises
        ------
        RequestError
            A transform is not one of this input.
        """
        copies = self.first.sample(x.to(draws.dtype), count, draws)
        if isinstance(self.second, GaussianNoise):
            noisy = self.second.sample(copies, 1, draws)[0]
        else:
            noisy = self.second.sample_around_each(copies, draws)
        return noisy.to(x.dtype)

    def required_mass(self, mass: float, eps: float) -> float:
        """The smaller of the bounds of `_in_turn` in both orders, rounded up."""
        return self._required(mass, eps, 1)

    def _required(self, mass: float, eps: float, draws: int) -> float:
        self.threat.require(eps)
        second_law = self.second.law if isinstance(self.second, Transformed) else self.second
        first, second = _Part(self.first.law, eps), _Part(second_law, self.ratio * eps)
        return min(1.0, _in_turn(mass, first, second, draws), _in_turn(mass, second, first, draws))


@dataclass(frozen=True, repr=False)
class _ComposedTogether(Composed):
    def required_mass_of_draws(self, mass: float, eps: float, draws: int) -> float:
        """As `required_mass`: the parameters of all draws are again two independent parts."""
        return self._required(mass, eps, draws)


@dataclass(frozen=True, repr=False)
class _GaussianComposed(ShiftedNormal, Composed):
    def shift(self, eps: float) -> float:
        """``sqrt(s^2 + t^2)`` of both shifts, rounded up: two normal variables are shifted at right angles.

        The second shift may depend on the first variable, as one that a random transform shortens does: it is what a
        map of normal variables makes of the full shift (docs/guarantee.md, section 17).
        """
        self.threat.require(eps)
        assert isinstance(self.first, GaussianShift)
        assert isinstance(self.second, GaussianShift)
        return math.hypot(self.first.shift(eps), self.second.shift(self.ratio * eps)) * ROUND_UP


class _Part(NamedTuple):
    """A law and the size of the shifts that it answers."""

    law: Noise
    eps: float

    def required(self, mass: float, draws: int) -> float:
        if draws == 1:
            return self.law.required_mass(mass, self.eps)
        assert isinstance(self.law, DrawsTogether)
        return self.law.required_mass_of_draws(mass, self.eps, draws)


def _in_turn(mass: float, outer: _Part, inner: _Part, draws: int) -> float:
    """The mass needed against one shift after the other; exact where the outer law is exponential or uniform.

    Two steps are sound for any laws. Where the outer noise at ``x`` and at ``x'`` is the same but with probability
    ``D``, the inner shift is asked about within that part alone (docs/guarantee.md, section 17).

    Examples
    --------
    >>> from centersmooth.noise.uniform import UniformNoise
    >>> pair = _Part(UniformNoise(0.5), 0.1), _Part(GaussianNoise(1.0), 0.5)
    >>> [round(_in_turn(mass, *pair, 1), 6) for mass in (0.1, 0.55, 0.9)]
    [0.312009, 0.804661, 1.0]
    """
    if not isinstance(outer.law, TotalVariationNoise):
        return outer.required(inner.required(mass, draws), draws)
    same = (1 - outer.law.total_variation(outer.eps)) ** draws
    return (1 - same + same * inner.required(mass / same, draws)) * ROUND_UP if mass < same else 1.0


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """One vector of both shifts."""
    return torch.cat([first.flatten(), second.flatten()])


def _names(transforms: Iterable[type[Transform]]) -> str:
    return " and ".join(sorted(one.__name__ for one in transforms))
