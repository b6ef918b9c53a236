"""Uniform noise against l1 perturbations, or l2 and l_inf ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from centersmooth.checks import a_number, an_integer, is_number
from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.balls import a_norm, ball
from centersmooth.noise.base import require_size, require_visible
from centersmooth.noise.threat import Threat
from centersmooth.noise.total_variation import TotalVariationNoise
from centersmooth.outputs import brief, brief_repr


@dataclass(frozen=True, repr=False)
class UniformNoise(TotalVariationNoise):
    """Independent uniform noise on ``[-scale, scale]`` in every coordinate against l_p perturbations, l1 by default.

    Parameters
    ----------
    scale : float
        Half the width of the noise, in the unit of the input; positive. The standard deviation is ``scale / sqrt(3)``.
    p : {1, 2, inf}
        Perturbations are measured in ``l_p``.
    size : int, optional
        Number of input coordinates, on which the bound depends for ``p`` other than 1; `at` fills it in.

    Examples
    --------
    >>> import torch
    >>> noise = UniformNoise(scale=0.5)
    >>> round(noise.required_mass(0.55, eps=0.2), 6)
    0.75
    >>> round(UniformNoise(scale=0.5, p=math.inf).at(torch.zeros(100)).required_mass(0.1, eps=0.01), 4)
    0.734
    """

    scale: float
    p: float = 1
    size: int | None = field(default=None, kw_only=True)

    coordinatewise: ClassVar[bool] = True
    by_size: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expected = "a positive number, in the unit of the model's input"
        object.__setattr__(self, "scale", a_number("scale", self.scale, 0.0, math.inf, expected))
        if not is_number(self.p) or self.p not in (1, 2, math.inf):
            raise RequestError(
                f"p is {brief(self.p)}: expected 1, 2 or inf, the norms in which uniform noise has a bound"
            )
        object.__setattr__(self, "p", a_norm(self.p))
        if self.size is not None:
            object.__setattr__(self, "size", an_integer("size", self.size, 1))

    def __repr__(self) -> str:
        return brief_repr(self, scale=self.scale, **({} if self.p == 1 else {"p": self.p}))

    @property
    def local(self) -> bool:  # type: ignore[override]
        """Whether the bound depends on the size of the input, as it does in l2 and l_inf."""
        return self.p != 1

    @property
    def threat(self) -> Threat:
        """The ball of ``l_p``."""
        return ball(self.p)

    def at(self, x: Tensor) -> UniformNoise:
        return replace(self, size=x.numel()) if self.local else self

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        """Draw ``x + scale * U[-1, 1]``, ``count`` times; the sum is rounded once.

        Raises
        ------
        RequestError
            ``scale`` is so small that noise of this type would be 0.
        """
        require_visible("scale", self.scale, draws)
        return draws.uniform((count, *x.shape)).mul_(2).sub_(1).mul_(self.scale).add_(x).to(x.dtype)

    def total_variation(self, eps: float) -> float:
        """``max 1 - prod (1 - |x'_i - x_i| / (2 scale))_+`` within ``eps``, for ``d`` coordinates.

        The cubes around ``x`` and ``x'`` have one density, so that the worst set holds all that only ``x`` reaches.

        - l1: ``eps / (2 scale)``, on an axis, as ``prod (1 - t_i) >= 1 - sum t_i`` (Yang et al. 2020).
        - l_inf: all coordinates move by ``eps``.
        - l2: with ``u_i = t_i^2`` each ``log(1 - sqrt(u_i))`` is convex up to ``t_i = 1/2``, so for ``eps <= scale`` an
          equal split is the worst; for larger ``eps`` the bound of l1, as ``|x' - x|_1 <= sqrt(d) |x' - x|_2``.
        """
        self.threat.require(eps)
        part = eps / (2 * self.scale)
        if self.p == 1:
            return min(1.0, part)
        d = require_size(self, self.size)
        if self.p == 2 and eps > self.scale:
            return min(1.0, math.sqrt(d) * part)
        each = part if self.p == math.inf else part / math.sqrt(d)
        return -math.expm1(d * math.log1p(-each)) if each < 1 else 1.0
