"""Looking for the perturbation that moves the smoothed output most: certificates checked from the other side.

A certificate bounds the movement at every ``x'`` within ``eps``; an attack exhibits the movement at one. Found movement
and certified radius enclose the largest movement there is, and a movement beyond the radius, more often than its
failure probabilities allow, would show the certificate wrong. Movements that stay below it prove nothing.

What is climbed is the mean distance of ``f(x' + noise)`` to the center at ``x``, over noise of the attack's own stream;
or, where the smoothed output is a mean, the distance of their mean.

- ``pgd``: projected gradient ascent in the l2 ball from random starts on its surface (Madry et al. 2018), with fresh
  noise at each step (expectation over transformation, Athalye et al. 2018). For models that can be differentiated.
- ``search``: random search on the sphere from queries alone, keeping what is better: patches of one value, as in the
  Square Attack (Andriushchenko et al. 2020), where the input is an image, Gaussian directions elsewhere; the length
  of the steps follows the one-fifth rule. The same noise at each query, so that two of them can be compared.

Attack libraries take a classifier and its labels; here there is neither, and the model is stochastic. What happens at
the perturbed input is judged as deployed: whole runs of the smoothed model, on streams of which the attack saw nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from centersmooth.certificate import Budget
from centersmooth.certifiers.base import Certifier
from centersmooth.checks import an_integer
from centersmooth.draws import Draws
from centersmooth.errors import RequestError, is_out_of_memory
from centersmooth.gathering import gather_one
from centersmooth.outputs import brief_repr
from centersmooth.sampling import Progress, RandomStream, Sampler

AttackName = Literal["pgd", "search"]

GRADIENT_WEIGHT: Final = 3
"""A gradient counts as this many forward passes."""

_PATH = 2.5
"""Length of all gradient steps together, in radii of the ball; they get shorter, as each gradient is noisy."""

_FARTHEST = 2.0
"""The longest step of a search, in radii: to the other side of the ball."""

_LONGER, _SHORTER = 1.5, 0.9
"""Factors of the step after success and failure: about balanced where one query in five succeeds."""


@dataclass(frozen=True)
class Attack:
    """How to look for a perturbation, and how hard.

    Parameters
    ----------
    kind : {"pgd", "search"}
        By gradients, or by queries alone.
    steps : int
        Gradient steps, or queries, of one start.
    restarts : int
        Random starts, those of gradients in opposite pairs; the best of their ends is taken, compared on one set of
        draws.
    draws : int
        Noise draws a step or query.
    """

    kind: AttackName = "pgd"
    steps: int = 20
    restarts: int = 2
    draws: int = 64

    def __post_init__(self) -> None:
        if self.kind not in get_args(AttackName):
            raise RequestError(f"attack is {self.kind!r}: expected one of {', '.join(get_args(AttackName))}")
        for name in ("steps", "restarts", "draws"):
            object.__setattr__(self, name, an_integer(f"{name} of the attack", getattr(self, name), 1))

    @property
    def passes(self) -> int:
        """Forward passes of `perturb`, or what gradients cost in them."""
        weight = GRADIENT_WEIGHT if self.kind == "pgd" else 1
        return self.restarts * self.draws * (weight * self.steps + 1)

    def check(self, sampler: Sampler, certifier: Certifier, x: Tensor) -> None:
        """Refuse gradients where there are none, and a model that fails in batches of the attack's draws, at ``x``.

        Raises
        ------
        RequestError
        """
        objective = certifier.objective(sampler.base_output(x))
        target = _Target(sampler, objective, x, 1.0, RandomStream(0), self.draws)
        look = target.gradient if self.kind == "pgd" else target.score
        look(torch.zeros_like(x), "attack check")

    def perturb(
        self,
        sampler: Sampler,
        certifier: Certifier,
        x: Tensor,
        center: Tensor,
        eps: float,
        stream: RandomStream,
        *,
        progress: Progress | None = None,
    ) -> Tensor:
        """The ``x'`` found, ``(*in) -> (*in)``; ``|x' - x| <= eps`` in float64.

        Parameters
        ----------
        center : Tensor, shape ``(*out)``
            The smoothed output at ``x``.
        stream : RandomStream
            The attack's own: neither that of the certificate nor one it is judged on.
        """
        target = _Target(sampler, certifier.objective(center), x, eps, stream, self.draws)
        climb = _ascend if self.kind == "pgd" else _search
        ends = []
        for restart in range(self.restarts):
            shift = climb(target, self.steps, restart)
            ends.append((target.score(shift, "attack choice"), restart, shift))
            if progress is not None:
                progress(self.passes // self.restarts)
        return _within_ball(x, max(ends)[2], eps)


@dataclass(frozen=True)
class Judged:
    """One run of the smoothed model at a perturbed input.

    Attributes
    ----------
    movement : float
        Distance of its center to the one at ``x``.
    inside : int
        How many of its fresh draws fell around its center: whether it answers, `Budget.accepts_center`.
    """

    movement: float
    inside: int


def judge(
    sampler: Sampler,
    certifier: Certifier,
    budget: Budget,
    perturbed: Tensor,
    center: Tensor,
    stream: RandomStream,
    *,
    progress: Progress | None = None,
) -> Judged:
    """Run the smoothed model at ``perturbed``, as deployed, on a stream the attack did not see."""
    evidence = gather_one(sampler, certifier, budget, perturbed, stream, radius=False, progress=progress)
    inside: int = getattr(evidence, "inside", budget.n)  # a mean always answers
    return Judged(certifier.distance(evidence.center, center), inside)


@dataclass(frozen=True)
class Attacked:
    """What an attack on one certificate found.

    Attributes
    ----------
    perturbed : Tensor, shape ``(*in)``
    movements : tuple of float
        How far the smoothed output moved in each run that answered.
    abstained : int
        Runs that did not answer; they have not moved.
    """

    perturbed: Tensor
    movements: tuple[float, ...]
    abstained: int

    def __repr__(self) -> str:
        return brief_repr(self)


@dataclass(frozen=True)
class _Target:
    """The function that is climbed, of the shift ``x' - x``; ``objective`` measures noisy outputs."""

    sampler: Sampler
    objective: Callable[[Tensor], Tensor]
    x: Tensor
    eps: float
    stream: RandomStream
    draws: int

    def distances(self, shift: Tensor, stage: str) -> Iterator[Tensor]:
        """Distances of ``f(x + shift + noise)``, or of its mean over a block, to the center; fixed noise a stage."""
        for block, start in enumerate(range(0, self.draws, self.sampler.forward_block)):
            count = min(self.sampler.forward_block, self.draws - start)
            draws = self.stream.draws(stage, block, self.x)
            yield self.objective(self._outputs(self.sampler.noise.sample(self.x + shift, count, draws)))

    def _outputs(self, noisy: Tensor) -> Tensor:
        try:
            return self.sampler.call(noisy)
        except RequestError as error:
            if len(noisy) == self.sampler.forward_block:
                raise
            raise RequestError(
                f"{error}; a model of fixed batch size needs draws of the attack that are a multiple of forward_block, "
                f"{self.sampler.forward_block}"
            ) from error

    def score(self, shift: Tensor, stage: str) -> float:
        """The mean distance."""
        return float(torch.cat(list(self.distances(shift, stage))).double().mean())

    def gradient(self, shift: Tensor, stage: str) -> Tensor:
        """The direction in which the mean distance grows fastest: a unit vector, or zeros."""
        shift = shift.detach().requires_grad_()
        total = torch.zeros_like(shift)
        try:
            with torch.enable_grad():
                for distances in self.distances(shift, stage):
                    total += torch.autograd.grad(distances.sum(), shift)[0]
        except (RuntimeError, RequestError) as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if is_out_of_memory(error) or not isinstance(cause, RuntimeError):  # PyTorch's, about gradients
                raise
            reason = (str(error).splitlines() or [""])[0]
            raise RequestError(
                f"an attack by pgd needs gradients of the model and of its distance, which fail ({reason}): "
                "search needs none"
            ) from error
        return _unit(total.nan_to_num())


def _ascend(target: _Target, steps: int, restart: int) -> Tensor:
    """Projected gradient ascent from a random point of the sphere, odd restarts from the opposite of the one before."""
    draws = target.stream.draws(f"attack start {restart // 2}", 0, target.x)
    side = -1 if restart % 2 else 1
    shift = side * target.eps * _unit(_gaussian(target.x, draws))
    for step in range(steps):
        length = 2 * _PATH * target.eps * (steps - step) / (steps * (steps + 1))
        shift = shift + length * target.gradient(shift, f"attack {restart} step {step}")
        shift = shift * min(1.0, target.eps / max(float(shift.norm()), torch.finfo(shift.dtype).tiny))
    return shift


def _search(target: _Target, steps: int, restart: int) -> Tensor:
    """Random search on the sphere; the best shift of ``steps`` queries."""
    draws = target.stream.draws(f"attack start {restart}", 0, target.x)
    stage, length = f"attack {restart}", _FARTHEST
    best = target.eps * _direction(target.x, draws)
    highest = target.score(best, stage)
    for _ in range(steps - 1):
        candidate = target.eps * _unit(best + length * target.eps * _direction(target.x, draws))
        score = target.score(candidate, stage)
        length = min(_FARTHEST, length * (_LONGER if score > highest else _SHORTER))
        if score > highest:
            best, highest = candidate, score
    return best


def _direction(x: Tensor, draws: Draws) -> Tensor:
    """A random unit vector: for inputs with rows and columns one patch, of one sign in each channel."""
    if x.ndim < 2:
        return _unit(_gaussian(x, draws))
    sides = draws.uniform((4,)).tolist()
    patch = torch.zeros_like(x)
    (top, bottom), (left, right) = (
        _stretch(size, *sides[2 * axis : 2 * axis + 2]) for axis, size in enumerate(x.shape[-2:])
    )
    heads = draws.uniform((*x.shape[:-2], 1, 1)) < 0.5
    patch[..., top:bottom, left:right] = torch.where(heads, 1.0, -1.0).to(x.dtype)
    return _unit(patch)


def _stretch(size: int, share: float, place: float) -> tuple[int, int]:
    """A piece of a side: its length is ``share`` of it, at least 1, where it begins is ``place`` of what is left.

    >>> _stretch(10, 0.25, 1.0), _stretch(10, 0.0, 0.0)
    ((7, 10), (0, 1))
    """
    length = min(size, int(share * size) + 1)
    start = round(place * (size - length))
    return start, start + length


def _gaussian(x: Tensor, draws: Draws) -> Tensor:
    return draws.normal(tuple(x.shape)).to(x.dtype)


def _unit(vector: Tensor) -> Tensor:
    """Of norm 1; zeros stay zeros."""
    norm = float(torch.linalg.vector_norm(vector))
    return vector / norm if norm > 0 else vector


def _within_ball(x: Tensor, shift: Tensor, eps: float) -> Tensor:
    """``x + shift``, shrunk until the rounded sum is within ``eps`` in float64; ``x`` where no rounded one is."""
    for shrink in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        perturbed = x + (1 - shrink) * shift
        if float((perturbed.double() - x.double()).norm()) <= eps:
            return perturbed
    return x.clone()
