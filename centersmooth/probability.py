"""The movement of an output with a probability over random transforms: statements that are no certificates.

Transforms of an input are drawn from a law, such as a rotation by a uniform angle, and the distance of the model's
output at each to its output at the input itself is measured. The statements are about further draws of the same law,
not about all transforms: an attacker chooses the worst one. In return they hold for any model, any distance and any law
that can be drawn from.

**Exact.** If ``k`` of ``N`` independent distances are above ``r``, the probability of one above ``r`` is at most the
upper limit of Clopper and Pearson, except with probability ``alpha`` (`Movements.probability`). And the distance of
rank `ExactBounds.upper_rank` is exceeded with at most a given probability (`Movements.quantile`). ``r`` or that
probability are fixed before the draws, or depend on the output at the input alone; each statement holds by itself. No
statement from ``N`` draws says less than ``1 - alpha^(1/N)``, about ``ln(1/alpha)/N``.

**CC-Cert's estimate** (Pautov et al. 2022) is ``max_j min_t mean exp(t (Y - r)) / delta`` over batches ``j`` of
distances ``Y``: Chernoff's bound, with the mean of a batch in the place of the expectation, and with the best ``t`` for
that batch. It is not a bound: where all distances of the batches are below ``r`` it falls to 0 as ``t`` grows, however
few they were. At a true probability of 1e-4, 1,000 draws give an estimate below 1e-10 in more than 90% of all runs.

Source: Clopper and Pearson, *The use of confidence or fiducial limits*, Biometrika 1934; Pautov, Tursynbek, Munkhoeva,
Muravev, Petiushko and Oseledets, *CC-Cert: A Probabilistic Approach to Certify General Robustness of Neural Networks*,
AAAI 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from centersmooth.bounds import EXACT
from centersmooth.certificate import LEAST_ALPHA
from centersmooth.certifiers.distances import to_numpy
from centersmooth.checks import a_number, an_integer
from centersmooth.errors import RequestError
from centersmooth.metrics.base import Metric, features_of, require_metric
from centersmooth.noise import Noise
from centersmooth.outputs import brief, brief_repr
from centersmooth.sampling import Model, RandomStream, Sampler, evaluating
from centersmooth.smoother import checked_stream

_EXPONENTS: Final = np.geomspace(1e-4, 1e4, 500)
"""The ``t`` that CC-Cert tries."""


@dataclass(frozen=True, repr=False)
class Movements:
    """Distances of the outputs at random transforms of one input to the output at the input itself.

    Attributes
    ----------
    distances : array, shape ``(draws,)``
        In the order in which they were drawn.

    Raises
    ------
    RequestError
        One of them is NaN.
    """

    distances: NDArray[np.float64]

    def __post_init__(self) -> None:
        if lost := int(np.isnan(self.distances).sum()):
            raise RequestError(f"distances has {lost} NaN: expected numbers alone")

    def __repr__(self) -> str:
        return brief_repr(self)

    def beyond(self, radius: float) -> int:
        """The number of distances above a radius."""
        return int((self.distances > _a_radius(radius)).sum())

    def probability(self, radius: float, alpha: float = 0.001) -> float:
        """An upper limit of the probability of a distance above ``radius``, except with probability ``alpha``.

        Examples
        --------
        >>> round(Movements(np.zeros(1_000)).probability(0.5), 6)
        0.006884
        """
        draws = len(self.distances)
        return 1 - EXACT.mass_floor(draws - self.beyond(radius), draws, _an_alpha(alpha))

    def quantile(self, tail: float, alpha: float = 0.001) -> float | None:
        """A distance that is exceeded with probability at most ``tail``, except with probability ``alpha``.

        None where the draws are too few for that.
        """
        tail = a_number("tail", tail, 0.0, 1.0, "a probability strictly between 0 and 1")
        rank = EXACT.upper_rank(len(self.distances), 1 - tail, _an_alpha(alpha))
        return None if rank is None else float(np.sort(self.distances)[rank - 1])

    def cc_estimate(self, radius: float, batches: int = 10, delta: float = 0.9) -> float:
        """CC-Cert's estimate of the probability of a distance of ``radius`` or more: without a guarantee.

        Parameters
        ----------
        batches : int
            Parts of the draws, of equal size; the last ones go unused where they do not divide the draws.
        delta : float
            By which the largest estimate of a batch is divided.
        """
        size = len(self.distances) // an_integer("batches", batches, 1)
        if size == 0:
            raise RequestError(f"batches is {batches}: expected at most one a draw, {len(self.distances)}")
        delta = a_number("delta", delta, 0.0, 1.0, "a number strictly between 0 and 1")
        excess = self.distances[: batches * size].reshape(batches, size) - _a_radius(radius)
        logs = logsumexp(_EXPONENTS[:, None, None] * excess, axis=2) - math.log(size)
        return min(1.0, float(np.exp(np.minimum(0.0, logs.min(axis=0).max()))) / delta)

    def table(self, radii: Iterable[float], alpha: float = 0.001) -> str:
        """A line for each radius: the exact statement, and beside it CC-Cert's estimate, which is none."""
        head = f"{'radius':>10}  {'beyond':>6}  {f'at most (alpha = {alpha:g})':>24}  CC-Cert's estimate (no guarantee)"
        lines = [
            f"{radius:>10.4g}  {self.beyond(radius):>6}  {self.probability(radius, alpha):>24.3g}  "
            f"{self.cc_estimate(radius):.3g}"
            for radius in radii
        ]
        return "\n".join([head, *lines])


def movements(
    model: Model,
    transforms: Noise,
    metric: Metric,
    x: Tensor,
    draws: int = 1_000,
    *,
    stream: RandomStream | None = None,
    forward_block: int = 128,
) -> Movements:
    """Draw random transforms of an input and measure how far each moves the output.

    Parameters
    ----------
    model : nn.Module or callable, ``(b, *in) -> (b, *out)``
        Any; of a smoothed model, its answers.
    transforms : Noise
        The law of the transformed inputs, such as ``Transformed(Translation(), UniformNoise(3.0))``; its shift bound is
        not used.
    metric : Metric
        Any, one of your own as a `DistanceFunction`.
    x : Tensor, shape ``(*in)``
    stream : RandomStream, optional
        For a repeatable experiment; by default fresh entropy.
    forward_block : int
        Inputs a call of the model.

    Raises
    ------
    ModelError
        The model is not one fixed function of one input, or returns NaN.

    Examples
    --------
    >>> from centersmooth import L2, UniformNoise
    >>> from centersmooth.noise import Brightness, Transformed
    >>> law = Transformed(Brightness(), UniformNoise(0.25))
    >>> found = movements(torch.tanh, law, L2(), torch.zeros(1), stream=RandomStream(seed=0))
    >>> print(found.table([0.2, 0.25]))
        radius  beyond   at most (alpha = 0.001)  CC-Cert's estimate (no guarantee)
           0.2     178                     0.218  0.622
          0.25       0                   0.00688  1.11e-26
    """
    require_metric(metric)
    if not isinstance(transforms, Noise):
        raise RequestError(f"transforms is {brief(transforms)}: expected a law such as GaussianNoise(sigma=0.25)")
    sampler = Sampler(model, transforms.at(x), forward_block, forward_block)
    with evaluating(model):
        sampler.check_model(x, [metric])
        base = features_of(metric, sampler.base_output(x)[None])
        outputs = sampler.draw(x, an_integer("draws", draws, 1), checked_stream(stream), "transforms")
        distances = torch.cat([metric.pairwise(features_of(metric, block), base)[:, 0].double() for block in outputs])
    return Movements(to_numpy(metric, distances))


def _an_alpha(alpha: float) -> float:
    return a_number("alpha", alpha, LEAST_ALPHA, 0.5, f"a probability strictly between {LEAST_ALPHA:g} and 1/2")


def _a_radius(radius: float) -> float:
    return a_number("radius", radius, -math.inf, math.inf, "a distance")
