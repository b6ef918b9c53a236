"""Additive threats: balls of a norm around the input.

A shift is added to the input. Attacks climb in the geometry of the ball: `Ball.steepest` is the direction of largest
slope at unit norm, `Ball.project` the nearest point of the ball.

Source of the projection onto the l1 ball: Duchi, Shalev-Shwartz, Singer and Chandra, *Efficient projections onto the
l1-ball for learning in high dimensions*, ICML 2008, figure 1.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from centersmooth.checks import is_number
from centersmooth.draws import Draws
from centersmooth.errors import RequestError
from centersmooth.noise.threat import Threat
from centersmooth.outputs import brief

_SHRINKS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5)
"""Shares that a shift loses until its rounded sum with the input is within the ball."""

_BISECTIONS = 60
"""Halvings that leave an interval of doubles no wider than its own rounding."""


class Ball(Threat):
    """All inputs ``x + shift`` with a shift of norm at most ``eps``."""

    @abstractmethod
    def norm(self, shift: Tensor) -> float:
        """The size of a shift, computed in float64."""

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        return self._scaled(draws.normal(tuple(x.shape)).to(x.dtype), eps)

    def apply(self, x: Tensor, shift: Tensor) -> Tensor:
        return x + shift

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
        return self._scaled(patch, eps)

    def perturbed(self, x: Tensor, shift: Tensor, eps: float) -> Tensor:
        """``x + shift``, shrunk until the rounded sum is within ``eps`` in float64; ``x`` where no rounded one is."""
        shift = self.project(shift, eps)
        for shrink in _SHRINKS:
            perturbed = x + (1 - shrink) * shift
            if self.norm(perturbed.double() - x.double()) <= eps:
                return perturbed
        return x.clone()

    def _scaled(self, shift: Tensor, eps: float) -> Tensor:
        """The shift at norm ``eps``; zeros stay zeros."""
        norm = self.norm(shift)
        return shift * (eps / norm) if norm > 0 else shift


@dataclass(frozen=True)
class L1Ball(Ball):
    """All inputs ``x'`` with ``|x' - x|_1 <= eps``."""

    unit = "l1"
    meaning = "an l1 radius of at least 0, in the unit of the model's input"

    def norm(self, shift: Tensor) -> float:
        return float(torch.linalg.vector_norm(shift.double(), 1))

    def propose(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """One coordinate, up or down: a corner of the ball, where a convex function is largest."""
        corner = torch.zeros_like(x).flatten()
        place, side = draws.uniform((2,)).tolist()
        corner[int(place * corner.numel())] = eps if side < 0.5 else -eps
        return corner.reshape(x.shape)

    def project(self, shift: Tensor, eps: float) -> Tensor:
        """The nearest shift: all coordinates shrink by one threshold, those below it to 0 (Duchi et al. 2008)."""
        if self.norm(shift) <= eps:
            return shift
        sizes = shift.abs().double().flatten().sort(descending=True).values
        thresholds = (sizes.cumsum(0) - eps) / torch.arange(1, len(sizes) + 1, device=sizes.device)
        threshold = thresholds[max(0, int((sizes > thresholds).sum()) - 1)]
        return shift.sign() * (shift.abs() - threshold).clamp(min=0).to(shift.dtype)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The coordinate of largest slope, the first of several."""
        corner = torch.zeros_like(gradient).flatten()
        steepest = gradient.abs().flatten().argmax()
        corner[steepest] = gradient.flatten()[steepest].sign()
        return corner.reshape(gradient.shape)


@dataclass(frozen=True)
class L2Ball(Ball):
    """All inputs ``x'`` with ``|x' - x|_2 <= eps``."""

    unit = "l2"
    meaning = "an l2 radius of at least 0, in the unit of the model's input"

    def norm(self, shift: Tensor) -> float:
        return float(torch.linalg.vector_norm(shift.double()))

    def project(self, shift: Tensor, eps: float) -> Tensor:
        return shift * min(1.0, eps / max(float(shift.norm()), torch.finfo(shift.dtype).tiny))

    def steepest(self, gradient: Tensor) -> Tensor:
        return unit_vector(gradient)

    def _scaled(self, shift: Tensor, eps: float) -> Tensor:
        return eps * unit_vector(shift)


@dataclass(frozen=True)
class LInfBall(Ball):
    """All inputs ``x'`` with ``|x'_i - x_i| <= eps`` in every coordinate."""

    unit = "l_inf"
    meaning = "an l_inf radius of at least 0, in the unit of the model's input"

    def norm(self, shift: Tensor) -> float:
        return float(torch.linalg.vector_norm(shift.double(), math.inf))

    def project(self, shift: Tensor, eps: float) -> Tensor:
        return shift.clamp(-eps, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign of every slope."""
        return gradient.sign()


@dataclass(frozen=True)
class LpBall(Ball):
    """All inputs ``x'`` with ``|x' - x|_p <= eps``, for any finite ``p`` above 1; see `ball` for all.

    Parameters
    ----------
    p : float
    """

    p: float

    @property
    def unit(self) -> str:
        return f"l{self.p:g}"

    @property
    def meaning(self) -> str:
        return f"an {self.unit} radius of at least 0, in the unit of the model's input"

    def norm(self, shift: Tensor) -> float:
        return float(torch.linalg.vector_norm(shift.double(), self.p))

    def project(self, shift: Tensor, eps: float) -> Tensor:
        """The nearest shift, by a search for its multiplier.

        With ``a = |shift|/eps`` its coordinates solve ``y + mu * y^(p-1) = a`` for the ``mu`` at which ``|y|_p = 1``
        (Lagrange). As ``y <= (a/mu)^(1/(p-1))``, that is at most the dual norm of ``a``.
        """
        norm = self.norm(shift)
        if norm <= eps:
            return shift
        if norm <= eps * (1 + 1e-9) or eps == 0:  # so near to the surface that rounding hides the multiplier
            return self._scaled(shift, eps)
        from scipy.optimize import brentq  # a fifth of the time of importing this package, and needed here alone

        sizes = shift.abs().double() / eps
        largest = float(torch.linalg.vector_norm(sizes, self._dual))
        mu = brentq(lambda mu: self.norm(self._shrunk(sizes, mu)) - 1, 0.0, 2 * largest)
        return self._scaled(shift.sign() * self._shrunk(sizes, mu), eps).to(shift.dtype)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction whose slope is the dual norm of the gradient (Hölder)."""
        slopes = gradient.double()
        slopes = slopes / slopes.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        return self._scaled(slopes.sign() * slopes.abs() ** (self._dual - 1), 1.0).to(gradient.dtype)

    @property
    def _dual(self) -> float:
        return self.p / (self.p - 1)

    def _shrunk(self, sizes: Tensor, mu: float) -> Tensor:
        """The ``y`` with ``y + mu * y^(p-1) = sizes``."""
        low, high = torch.zeros_like(sizes), sizes
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            above = middle + mu * middle ** (self.p - 1) > sizes
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return low


@dataclass(frozen=True, eq=False)
class Ellipsoid(Ball):
    """All inputs ``x'`` of Mahalanobis distance ``sqrt(sum (x'_i - x_i)^2 / shape_i^2) <= eps``.

    Parameters
    ----------
    shape : Tensor
        Half axes at ``eps = 1``; its shape is that of the inputs, or broadcasts to it.
    """

    shape: Tensor

    unit = "mahalanobis"
    meaning = "a Mahalanobis radius of at least 0, in units of the ellipsoid's shape"

    def __post_init__(self) -> None:
        shape = self.shape
        valid = isinstance(shape, Tensor) and shape.is_floating_point()
        if not valid or not bool(((shape > 0) & (shape < math.inf)).all()):
            raise RequestError(f"shape is {brief(shape)}: expected a tensor of positive numbers, one a coordinate")
        object.__setattr__(self, "shape", shape.detach().clone())

    def norm(self, shift: Tensor) -> float:
        return float(torch.linalg.vector_norm(shift.double() / self.shape.to(shift.device, torch.float64)))

    def start(self, x: Tensor, eps: float, draws: Draws) -> Tensor:
        """Uniform on the surface of the ball that the shape makes an ellipsoid of."""
        return self._scaled(draws.normal(tuple(x.shape)).to(x.dtype) * self.shape.to(x), eps)

    def project(self, shift: Tensor, eps: float) -> Tensor:
        """The nearest shift in the Mahalanobis distance."""
        return self._scaled(shift, eps) if self.norm(shift) > eps else shift

    def steepest(self, gradient: Tensor) -> Tensor:
        shape = self.shape.to(gradient)
        return shape * unit_vector(shape * gradient)


@functools.cache  # bounds ask for it at every step of a bisection
def ball(p: float) -> Ball:
    """The ball of the norm ``l_p``.

    >>> [ball(p).unit for p in (1, 1.5, 2, float("inf"))]
    ['l1', 'l1.5', 'l2', 'l_inf']
    """
    known: dict[float, type[Ball]] = {1: L1Ball, 2: L2Ball, math.inf: LInfBall}
    return known[p]() if p in known else LpBall(p)


def a_norm(p: float) -> float:
    """``p`` of a norm ``l_p``, as an int where it is a whole number.

    Raises
    ------
    RequestError
        Not a number of at least 1.
    """
    if not is_number(p) or not p >= 1:
        raise RequestError(
            f"p is {brief(p)}: expected a number of at least 1, or inf, for perturbations measured in l_p"
        )
    return int(p) if float(p).is_integer() else float(p)


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
