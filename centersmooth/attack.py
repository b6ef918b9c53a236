"""Looking for the perturbation that moves the smoothed output most: certificates checked from the other side.

A certificate bounds the movement at every ``x'`` within ``eps``; an attack exhibits the movement at one. Found movement
and certified radius enclose the largest movement there is, and a movement beyond the radius, more often than its
failure probabilities allow, would show the certificate wrong. Movements that stay below it prove nothing.

What is climbed is the mean distance of ``f(x' + noise)`` to the center at ``x``, over noise of the attack's own stream;
or, where the smoothed output is a mean, the distance of their mean.

- ``pgd``: projected gradient ascent within the threat from random starts of full size (Madry et al. 2018), with fresh
  noise at each step (expectation over transformation, Athalye et al. 2018). For models that can be differentiated.
- ``search``: random search from queries alone, keeping what is better: patches of one value, as in the
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
from centersmooth.errors import RequestError, is_out_of_memory
from centersmooth.gathering import Setting, gather_one
from centersmooth.noise import Noise, Threat
from centersmooth.outputs import brief, brief_repr
from centersmooth.sampling import Progress, RandomStream, Sampler

AttackName = Literal["pgd", "search"]

GRADIENT_WEIGHT: Final = 3
"""A gradient counts as this many forward passes."""

_PATH = 2.5
"""Length of all gradient steps together, in sizes of the threat; they get shorter, as each gradient is noisy."""

_FARTHEST = 2.0
"""The longest step of a search, in sizes of the threat: to its other side."""

_LONGER, _SHORTER = 1.5, 0.9
"""Factors of the step after success and failure: about balanced where one query in five succeeds."""


@dataclass(frozen=True)
class Attack:
    """A search for the worst perturbation: its kind and its effort.

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
        if not isinstance(self.kind, str) or self.kind not in get_args(AttackName):
            raise RequestError(f"attack is {brief(self.kind)}: expected one of {', '.join(get_args(AttackName))}")
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
        self.require_gradients(sampler.noise, x)
        objective = certifier.objective(sampler.base_output(x))
        target = _Target(sampler, objective, x, 1.0, RandomStream(0), self.draws)
        look = target.steepest if self.kind == "pgd" else target.score
        look(target.threat.start(x, 0.0, RandomStream(0).draws("attack check", 0, x)), "attack check")

    def require_gradients(self, noise: Noise, x: Tensor) -> None:
        """Refuse gradients where noisy copies of ``x`` pass none on to the perturbation, whatever the model is.

        Raises
        ------
        RequestError
        """
        if self.kind != "pgd":
            return
        draws = RandomStream(0).draws("attack check", 0, x)
        shift = noise.threat.start(x, 0.0, draws).requires_grad_()
        with torch.enable_grad():
            noisy = noise.sample(noise.threat.apply(x, shift), 1, draws)
        if not noisy.requires_grad:
            raise RequestError(
                f"attack is 'pgd', and {noise} passes no gradient on to the perturbation: use attack=search"
            )

    def perturb(
        self,
        sampler: Sampler,
        certifier: Certifier,
        x: Tensor,
        answer: Tensor,
        eps: float,
        stream: RandomStream,
        *,
        progress: Progress | None = None,
    ) -> Tensor:
        """The ``x'`` found, ``(*in) -> (*in)``; within ``eps`` after all rounding.

        Parameters
        ----------
        answer : Tensor, shape ``(*out)``
            The smoothed output at ``x``.
        stream : RandomStream
            The attack's own: neither that of the certificate nor one it is judged on.
        """
        self.require_gradients(sampler.noise, x)
        target = _Target(sampler, certifier.objective(answer), x, eps, stream, self.draws)
        climb = _ascend if self.kind == "pgd" else _search
        ends = []
        for restart in range(self.restarts):
            shift = climb(target, self.steps, restart)
            ends.append((target.score(shift, "attack choice"), restart, shift))
            if progress is not None:
                progress(self.passes // self.restarts)
        return sampler.noise.threat.perturbed(x, max(ends)[2], eps)


@dataclass(frozen=True)
class Judged:
    """One run of the smoothed model at a perturbed input.

    Attributes
    ----------
    movement : float
        Distance of what its draws chose to the answer at ``x``.
    answers : tuple of str
        The rules under which it answers, and does not abstain.
    """

    movement: float
    answers: tuple[str, ...]


def judge(
    sampler: Sampler,
    certifier: Certifier,
    budget: Budget,
    perturbed: Tensor,
    answer: Tensor,
    stream: RandomStream,
    *,
    progress: Progress | None = None,
) -> Judged:
    """Run the smoothed model at ``perturbed``, as deployed, on a stream the attack did not see.

    Parameters
    ----------
    answer : Tensor, shape ``(*out)``
        The smoothed output at ``x``.
    """
    evidence = gather_one(sampler, certifier, budget, perturbed, stream, radius=False, progress=progress)
    setting = Setting.of(sampler, budget)
    found = {rule: certifier.answer(evidence, setting, rule) for rule in certifier.rules}
    movement = certifier.distance(found[certifier.rules[-1]].answer, answer)
    return Judged(movement, tuple(rule for rule, one in found.items() if not one.abstained))


@dataclass(frozen=True)
class Attacked:
    """Result of an attack on one certificate.

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
    """The function that is climbed, of a shift of the threat; ``objective`` measures noisy outputs."""

    sampler: Sampler
    objective: Callable[[Tensor], Tensor]
    x: Tensor
    eps: float
    stream: RandomStream
    draws: int

    @property
    def threat(self) -> Threat:
        return self.sampler.noise.threat

    def distances(self, shift: Tensor, stage: str) -> Iterator[Tensor]:
        """Distances of ``f(x + shift + noise)``, or of its mean over a block, to the center; fixed noise a stage."""
        for block, start in enumerate(range(0, self.draws, self.sampler.forward_block)):
            count = min(self.sampler.forward_block, self.draws - start)
            draws = self.stream.draws(stage, block, self.x)
            noisy = self.sampler.noise.sample(self.threat.apply(self.x, shift), count, draws)
            yield self.objective(self._outputs(noisy))

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

    def steepest(self, shift: Tensor, stage: str) -> Tensor:
        """The shift of size 1 along which the mean distance grows fastest, or zeros."""
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
        return self.threat.steepest(total.nan_to_num())


def _ascend(target: _Target, steps: int, restart: int) -> Tensor:
    """Projected gradient ascent from a random shift of full size, odd restarts from the opposite of the one before."""
    threat, eps = target.threat, target.eps
    draws = target.stream.draws(f"attack start {restart // 2}", 0, target.x)
    shift = threat.project((-1 if restart % 2 else 1) * threat.start(target.x, eps, draws), eps)
    for step in range(steps):
        length = 2 * _PATH * eps * (steps - step) / (steps * (steps + 1))
        shift = threat.project(shift + length * target.steepest(shift, f"attack {restart} step {step}"), eps)
    return shift


def _search(target: _Target, steps: int, restart: int) -> Tensor:
    """Random search near the surface; the best shift of ``steps`` queries."""
    threat, eps = target.threat, target.eps
    draws = target.stream.draws(f"attack start {restart}", 0, target.x)
    stage, length = f"attack {restart}", _FARTHEST
    best = threat.propose(target.x, eps, draws)
    highest = target.score(best, stage)
    for _ in range(steps - 1):
        candidate = threat.project(best + threat.propose(target.x, length * eps, draws), eps)
        score = target.score(candidate, stage)
        length = min(_FARTHEST, length * (_LONGER if score > highest else _SHORTER))
        if score > highest:
            best, highest = candidate, score
    return best
