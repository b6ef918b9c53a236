"""Outputs kept in a ball that is smaller than all their range allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from centersmooth.checks import a_number
from centersmooth.errors import RequestError
from centersmooth.metrics.base import Metric, features_of
from centersmooth.outputs import brief_repr, described

_ROUND_UP = 1 + 1e-9
"""Covers the rounding of clipped outputs and of their distances in float64."""


@dataclass(frozen=True, eq=False, repr=False)
class OutputBall:
    """A ball of outputs, in the norm of a metric: those beyond it are moved to it, on the line to its center.

    It belongs to the smoothed model, like the noise: chosen once, from training data say, and the same for every input.
    A bound on a mean has to count what was not seen with the largest distance there is. Images whose values have limits
    may be ten times as far from each other as images of the kind that a model makes: a ball that few outputs ever leave
    changes next to nothing, and most of that distance is gone.

    Parameters
    ----------
    center : Tensor, shape ``(*out)``
        Such as the mean of a model's outputs for training inputs under noise.
    radius : float
        In the metric's unit, such as a little more than the largest distance of those outputs to their mean.
    """

    center: Tensor
    radius: float

    def __post_init__(self) -> None:
        if not isinstance(self.center, Tensor) or not self.center.is_floating_point():
            raise RequestError(f"center of the ball is {described(self.center)}: expected a floating-point tensor")
        radius = a_number("radius of the ball", self.radius, 0.0, math.inf, "a positive number, in the metric's unit")
        object.__setattr__(self, "radius", radius)

    def __repr__(self) -> str:
        return brief_repr(self)

    def check(self, outputs: Tensor, output_range: tuple[float, float]) -> None:
        """Refuse outputs of another shape, and a center outside their range.

        Raises
        ------
        RequestError
        """
        shape = tuple(outputs.shape[1:])
        if tuple(self.center.shape) != shape:
            raise RequestError(f"center of the ball has the shape {tuple(self.center.shape)}: expected {shape}")
        low, high = output_range
        if not bool(((self.center >= low) & (self.center <= high)).all()):
            raise RequestError(f"center of the ball leaves the output_range {output_range}")

    def clip(self, metric: Metric, outputs: Tensor) -> Tensor:
        """The outputs ``(b, *out)`` in float64, those beyond the ball moved to it.

        In the type of the outputs rounding could take them out again: it goes with their size, not with the ball's.
        """
        outputs = outputs.double()
        center = self.center.to(outputs)
        distances = metric.pairwise(features_of(metric, outputs), features_of(metric, center[None]))[:, 0]
        shares = (self.radius / distances).view(-1, *[1] * center.ndim)
        return torch.where(shares < 1, center + shares * (outputs - center), outputs)

    def reach(self, metric: Metric, output: Tensor) -> float:
        """The largest distance of an output in the ball to one ``(*out)``, or a little more: through the center."""
        pair = (features_of(metric, one[None].double()) for one in (output, self.center.to(output.device)))
        return (self.radius + float(metric.pairwise(*pair))) * _ROUND_UP

    @property
    def diameter(self) -> float:
        """The largest distance between two outputs in it."""
        return 2 * self.radius * _ROUND_UP
