"""Ablation: noise that shows the model few pixels of an image, and tells it which.

Noisy inputs have one channel more than the image: 1 where a pixel was kept, 0 where it was not and its channels are 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from centersmooth.checks import is_number
from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.pixels import Patch, Pixels
from centersmooth.noise.threat import Threat
from centersmooth.noise.total_variation import TotalVariationNoise
from centersmooth.outputs import brief

_DISTINCT = 2**62
"""Random integers below it are all different, but for a chance of ``d**2 / 2**63``."""


class Ablation(TotalVariationNoise):
    """A law that keeps some pixels of an image and drops the others."""

    local: ClassVar[bool] = True
    by_size: ClassVar[bool] = True

    def clean(self, x: Tensor) -> Tensor:
        """The image with all of its pixels kept."""
        return torch.cat([x, torch.ones_like(x[:1])])

    def _ablated(self, x: Tensor, kept: Tensor) -> Tensor:
        """Noisy inputs: ``(c, h, w)`` and ``(n, h, w)`` to ``(n, c + 1, h, w)``."""
        return torch.cat([torch.where(kept[:, None], x, 0.0), kept[:, None].to(x.dtype)], dim=1)


@dataclass(frozen=True)
class AblationNoise(Ablation):
    """Ablation of all pixels but ``keep``, a set drawn uniformly, against changes of few pixels.

    Parameters
    ----------
    keep : int
        Number of pixels kept; those of a smaller image are all kept.
    pixels : int, optional
        Number of pixels of the image, which the bound depends on; `at` fills it in.

    Examples
    --------
    >>> noise = AblationNoise(keep=45, pixels=784)
    >>> round(noise.total_variation(1), 4), round(noise.total_variation(8), 5)
    (0.0574, 0.37816)
    """

    keep: int
    pixels: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", _whole("keep", self.keep))

    @property
    def threat(self) -> Threat:
        """Changed pixels."""
        return Pixels()

    @property
    def scale(self) -> float:
        """``keep``."""
        return float(self.keep)

    def at(self, x: Tensor) -> AblationNoise:
        height, width = _sides(x)
        return replace(self, pixels=height * width)

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``count`` sets of pixels, and keep those."""
        height, width = _sides(x)
        order = draws.integers((count, height * width), _DISTINCT)
        places = order.topk(min(self.keep, height * width), dim=1).indices
        kept = torch.zeros(order.shape, dtype=torch.bool, device=x.device).scatter_(1, places, True)
        return self._ablated(x, kept.unflatten(1, (height, width)))

    def total_variation(self, eps: float) -> float:
        """``1 - C(pixels - eps, keep) / C(pixels, keep)``: the probability to keep one of ``eps`` pixels.

        Attained where all of them change (Levine and Feizi 2020).
        """
        self.threat.require(eps)
        if self.pixels is None:
            raise _unknown(self)
        if int(eps) > max(0, self.pixels - self.keep):  # fewer pixels are dropped than change
            return 1.0
        return -math.expm1(sum(math.log1p(-self.keep / (self.pixels - i)) for i in range(int(eps))))


@dataclass(frozen=True)
class PatchNoise(Ablation):
    """Ablation of all pixels but one square block, drawn uniformly, against changes within a patch.

    The block goes on at the opposite side where it leaves the image, so that all positions are alike; there are as
    many as pixels, few enough to compute every one of them: the law is `Enumerable`.

    Parameters
    ----------
    size : int
        Side of the block in pixels.
    sides : (int, int), optional
        Height and width of the image, which the bound depends on; `at` fills them in.

    Examples
    --------
    >>> noise = PatchNoise(size=8, sides=(28, 28))
    >>> noise.changed(5), noise.support_size()
    (144, 784)
    """

    size: int
    sides: tuple[int, int] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _whole("size", self.size))

    @property
    def threat(self) -> Threat:
        """A patch."""
        return Patch()

    @property
    def scale(self) -> float:
        """``size``."""
        return float(self.size)

    def at(self, x: Tensor) -> PatchNoise:
        return replace(self, sides=_sides(x))

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``count`` positions of the block, and keep its pixels."""
        return self._at_positions(x, draws.integers((count,), math.prod(_sides(x))))

    def total_variation(self, eps: float) -> float:
        """The share of positions in which the block meets the patch: ``(eps + size - 1)**2 / (height * width)``.

        Attained where all pixels of the patch change (Levine and Feizi 2020b).
        """
        return self.changed(eps) / self.support_size()

    def support_size(self) -> int:
        return math.prod(self._known_sides())

    def support(self, x: Tensor, block: int) -> Iterator[Tensor]:
        for positions in torch.arange(math.prod(_sides(x)), device=x.device).split(block):
            yield self._at_positions(x, positions)

    def changed(self, eps: float) -> int:
        """The number of positions in which the block meets a patch of this side, ``(eps + size - 1)**2``."""
        self.threat.require(eps)
        sides = self._known_sides()
        return math.prod(min(int(eps) + self.size - 1, side) for side in sides) if eps >= 1 else 0

    def _known_sides(self) -> tuple[int, int]:
        if self.sides is None:
            raise _unknown(self)
        return self.sides

    def _at_positions(self, x: Tensor, positions: Tensor) -> Tensor:
        """Noisy inputs with the block at positions ``(n,)``, numbered row by row: ``(n, c + 1, h, w)``."""
        height, width = _sides(x)
        rows, columns = (
            (torch.arange(side, device=x.device) - first[:, None]).remainder(side) < self.size
            for side, first in ((height, positions // width), (width, positions % width))
        )
        return self._ablated(x, rows[:, :, None] & columns[:, None, :])


def _whole(name: str, value: float) -> int:
    """A whole number of pixels, also where it comes as a float, as grids have them.

    Raises
    ------
    RequestError
    """
    if not is_number(value) or not float(value).is_integer() or value < 1:
        raise RequestError(f"{name} is {brief(value)}: expected a whole number of pixels, of at least 1")
    return int(value)


def _sides(x: Tensor) -> tuple[int, int]:
    """Height and width of an image.

    Raises
    ------
    RequestError
        It is none.
    """
    if x.ndim != 3:
        raise RequestError(f"x has shape {tuple(x.shape)}: expected an image (channels, height, width), as pixels go")
    return x.shape[1], x.shape[2]


def _unknown(noise: Ablation) -> RequestError:
    return RequestError(f"the bound of {noise} depends on the size of the image: use that of noise.at(x)")
