"""Splitting noise against l1 perturbations (Levine and Feizi 2021): each number is told up to a random cell.

Split points lie ``2 * scale`` apart from a random place on, so that a shift of a number by ``s`` moves it across
one with probability at most ``s / (2 * scale)``; where it crosses none, the noisy number is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from centersmooth.checks import a_number
from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.balls import L1Ball
from centersmooth.noise.threat import Threat
from centersmooth.noise.total_variation import TotalVariationNoise

_LEVELS: Final = 255
"""The largest number of an 8-bit image."""

_OFF: Final = 5e-5
"""How far a number of an 8-bit image may be from ``k/255``, in steps: three times what float32 rounds."""

_TEMPLATE: Final = 0
"""The key of the random numbers at which cells begin: the same for all inputs."""


@dataclass(frozen=True)
class SplittingNoise(TotalVariationNoise):
    """The midpoint of the cell of each number, cut off to [0, 1], for inputs in [0, 1].

    The bound holds for any joint law of the split points, here independent ones.

    Parameters
    ----------
    scale : float
        Half the distance between two split points, in the unit of the input; positive. That of uniform noise with the
        same bound.

    Examples
    --------
    >>> SplittingNoise(0.5).total_variation(0.2)
    0.2
    """

    scale: float

    coordinatewise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expected = "a positive number, in the unit of the model's input"
        object.__setattr__(self, "scale", a_number("scale", self.scale, 0.0, math.inf, expected))

    @property
    def threat(self) -> Threat:
        """The l1 ball."""
        return L1Ball()

    def at(self, x: Tensor) -> SplittingNoise:
        """The law itself.

        Raises
        ------
        RequestError
            ``x`` leaves [0, 1], where it would be cut off.
        """
        _require_unit_range(x)
        return self

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw split points, and take the midpoints of the cells of ``x``, ``count`` times.

        The input is first clipped to [0, 1], which shortens no perturbation's way across a cell.
        """
        width = 2 * self.scale
        splits = draws.uniform((count, *x.shape)) * width
        cells = ((x.detach().to(draws.dtype).clamp(0, 1) - splits) / width).floor()  # no gradient, where it would be 0
        lower, upper = splits + width * cells, splits + width * (cells + 1)
        return ((lower.clamp(min=0) + upper.clamp(max=1)) / 2).to(x.dtype)

    def total_variation(self, eps: float) -> float:
        """``eps / (2 * scale)``: the sum of the probabilities of all numbers; attained where one number moves."""
        self.threat.require(eps)
        return min(1.0, eps / (2 * self.scale))


@dataclass(frozen=True)
class EightBitL1(L1Ball):
    """All 8-bit images, numbers ``k/255``, with ``|x' - x|_1 <= eps``."""

    meaning = "an l1 radius of at least 0 between images of numbers k/255"

    def steps(self, eps: float) -> int:
        """The number of steps of 1/255 within ``eps``.

        Each number of an image may be `_OFF` of a step away from ``k/255``, as float32 has it, so that a distance says
        a little less than the steps.
        """
        return int(_LEVELS * eps * (1 + 3 * _OFF) + 1e-6)

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """Steps in random places, of one sign in each."""
        places = draws.integers((self.steps(eps),), x.numel())
        counts = torch.bincount(places, minlength=x.numel()).reshape(x.shape).to(x.dtype)
        return torch.where(draws.uniform(tuple(x.shape)) < 0.5, -counts, counts) / _LEVELS

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        """The image in whole steps, clipped to [0, 1]; no gradient passes."""
        return ((_LEVELS * x).round() + (_LEVELS * shift).round()).clamp(0, _LEVELS) / _LEVELS

    def project(self, shift: Tensor, eps: float) -> Tensor:
        """Whole steps: the largest changes, as far as ``eps`` allows."""
        sizes, order = (_LEVELS * shift).round().abs().flatten().sort(descending=True)
        beyond = (sizes.cumsum(0) - self.steps(eps)).clamp(min=0)
        kept = torch.zeros_like(sizes).scatter_(0, order, (sizes - beyond).clamp(min=0))
        return shift.sign() * kept.reshape(shift.shape) / _LEVELS

    def propose(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """As `start`, one step at least."""
        return self.start(x, max(eps, 1 / _LEVELS), draws)

    def perturbed(self, x: Tensor, shift: Tensor, eps: float) -> Tensor:
        """The image in whole steps, counted without rounding."""
        return self.apply(x, self.project(shift, eps))


@dataclass(frozen=True)
class EnumeratedSplitting(TotalVariationNoise):
    """Splitting noise on 8-bit images, with few enough split points to compute every noisy input: `Enumerable`.

    A number ``k/255`` has its split points half a step from such numbers: ``K = int(510 * scale)`` places of the
    first, ``(t + j) mod K``, where the random ``t`` of each number is fixed once and for all, and one ``j`` serves all
    numbers. A perturbation by ``s`` steps in all changes at most ``s`` of the ``K`` noisy inputs.

    Parameters
    ----------
    scale : float
        As for `SplittingNoise`, at least 1/510. The law is that of ``K/510``.

    Examples
    --------
    >>> noise = EnumeratedSplitting(0.866)
    >>> noise.support_size(), noise.changed(3 / 255)
    (441, 3)
    """

    scale: float

    def __post_init__(self) -> None:
        expected = "a number of at least 1/510, in the unit of the model's input"
        least = (1 - 1e-9) / (2 * _LEVELS)
        object.__setattr__(self, "scale", a_number("scale", self.scale, least, math.inf, expected))

    @property
    def threat(self) -> Threat:
        """The l1 ball of 8-bit images."""
        return EightBitL1()

    def at(self, x: Tensor) -> EnumeratedSplitting:
        """The law itself.

        Raises
        ------
        RequestError
            ``x`` is not an 8-bit image.
        """
        _require_unit_range(x)
        off = float((_LEVELS * x.double() - (_LEVELS * x.double()).round()).abs().max())
        if off > _OFF:
            raise RequestError(
                f"x has a number {off / _LEVELS:.2g} away from every k/255: expected an 8-bit image, such as "
                "(255 * x).round() / 255"
            )
        return self

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``count`` of the noisy inputs."""
        return self._noisy(x, draws.integers((count,), self.support_size()))

    def total_variation(self, eps: float) -> float:
        """The share of noisy inputs that change: ``255 * eps / K``, in whole steps."""
        return self.changed(eps) / self.support_size()

    def support_size(self) -> int:
        return int(2 * _LEVELS * self.scale + 1e-6)

    def support(self, x: Tensor, block: int) -> Iterator[Tensor]:
        for indices in torch.arange(self.support_size(), device=x.device).split(block):
            yield self._noisy(x, indices)

    def changed(self, eps: float) -> int:
        """The number of steps within ``eps``, or all noisy inputs."""
        self.threat.require(eps)
        return min(EightBitL1().steps(eps), self.support_size())

    def _noisy(self, x: Tensor, indices: Tensor) -> Tensor:
        """Midpoints of cells, in whole numbers of 1/1020: ``(*in)`` and ``(n,)`` to ``(n, *in)``."""
        size = self.support_size()
        template = Draws(_TEMPLATE, torch.zeros(())).integers(tuple(x.shape), size).to(x.device)
        splits = 2 * ((template + indices.reshape(-1, *[1] * x.ndim)) % size) + 1
        numbers = 2 * (_LEVELS * x).round().clamp(0, _LEVELS).long()
        lower = splits + 2 * size * torch.div(numbers - splits, 2 * size, rounding_mode="floor")
        doubled = lower.clamp(min=0) + (lower + 2 * size).clamp(max=2 * _LEVELS)
        return (doubled.to(torch.promote_types(x.dtype, torch.float32)) / (4 * _LEVELS)).to(x.dtype)


def _require_unit_range(x: Tensor) -> None:
    low, high = (float(limit) for limit in torch.aminmax(x))
    if not (low >= 0 and high <= 1):
        raise RequestError(f"x has numbers from {low:g} to {high:g}: expected [0, 1], as splitting noise does")
