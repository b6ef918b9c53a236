"""The smoothed model: what ties model, metric, noise and budget together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from centersmooth.attack import Attack, Attacked, judge
from centersmooth.bounds import BOUNDS, BoundsName
from centersmooth.centers import require_means
from centersmooth.certificate import Budget, CenterName, Certificate, FarName, Smoothed
from centersmooth.checks import an_integer
from centersmooth.errors import InfeasibleError, RequestError
from centersmooth.evidence import Evidence, gather
from centersmooth.metrics.base import Metric
from centersmooth.noise import Noise
from centersmooth.outputs import described, unplain
from centersmooth.rules import RULES, center_problem, certificate_from, free_problem, radius_problem
from centersmooth.sampling import Model, Progress, RandomStream, Sampler, evaluating
from centersmooth.testing import check_own_metric


class Smoother:
    """What smoothers share: a model held fixed, the checks of what they are given, distances for audits."""

    def __init__(self, sampler: Sampler, metric: Metric, budget: Budget) -> None:
        if not isinstance(metric, Metric):
            raise RequestError(
                f"metric is {metric!r}: expected an instance such as L2(), or DistanceFunction(yours) around a function"
            )
        if not isinstance(sampler.noise, Noise):
            raise RequestError(f"noise is {sampler.noise!r}: expected a law such as GaussianNoise(sigma=0.25)")
        if not isinstance(budget, Budget):
            raise RequestError(f"budget is {budget!r}: expected counts such as Budget(n=2_000, m=4_000, delta=0.08)")
        self.metric = metric
        self.budget = budget
        self._sampler = sampler
        self._checked_inputs: set[tuple[object, ...]] = set()

    def distance(self, a: Tensor, b: Tensor) -> float:
        """The metric between two outputs of shape ``(*out)``, in the more precise of their types; for audits.

        Raises
        ------
        RequestError
            They are not two tensors of one shape.
        """
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
            came = [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in (a, b)]
            raise RequestError(f"no distance between {came[0]} and {came[1]}: expected two outputs of one shape")
        dtype = torch.promote_types(a.dtype, b.dtype)
        first, second = (self.metric.features(one[None].to(dtype)) for one in (a, b))
        return float(self.metric.pairwise(first, second))

    @contextmanager
    def _held_fixed(self, x: Tensor) -> Iterator[None]:
        """The model evaluating, after a look at ``x`` and, once for its kind, at model and metric."""
        self._check_input(x)
        with evaluating(self._sampler.model):
            signature = (x.shape, x.dtype, x.device)
            if signature not in self._checked_inputs:
                self._check_outputs(self._sampler.check_model(x))
                self._checked_inputs.add(signature)
            yield

    def _check_outputs(self, outputs: Tensor) -> None:
        """Whether the metric takes these; where it does not, it says so before draws are made."""
        self.metric.features(outputs)
        check_own_metric(self.metric, outputs)

    def _check_input(self, x: Tensor) -> None:
        plain = unplain(x) if isinstance(x, Tensor) else None
        if plain or not isinstance(x, Tensor) or not x.is_floating_point():
            hint = f"; use {plain[1].format('x')}" if plain else ""
            hint = "; use torch.from_numpy(x)" if isinstance(x, np.ndarray) else hint
            raise RequestError(
                f"x is {described(x)}: expected a floating-point tensor, one input without a batch dimension{hint}"
            )
        if not bool(torch.isfinite(x).all()):
            raise RequestError("x has NaN or infinite entries: expected a finite input")
        model = self._sampler.model
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        if parameter is not None and parameter.device != x.device:
            raise RequestError(f"x is on {x.device} and the model on {parameter.device}: move one to the other")


class CenterSmoother(Smoother):
    """A model whose answer is the center of its outputs under noise, with certificates for it.

    Parameters
    ----------
    model : nn.Module or callable, ``(b, *in) -> (b, *out)``
        The base function. A module is put in eval mode for every call and handed back as it came.
    metric : Metric
        The distance between outputs; see `centersmooth.metrics`.
    noise : Noise
        The smoothing law, in the unit of the input.
    budget : Budget
        Draws and failure probabilities.
    bounds : {"exact", "paper"}
        Confidence bounds: the binomial law itself, or the paper's inequalities. Both hold; exact ones are smaller.
    far : {"measured", "doubled"}, optional
        How the ball found at ``x'`` is bounded: from the distances seen at ``x``, or by the triangle inequality alone
        as in the paper. Both hold; measured is about a third smaller, and is the default where ``bounds`` is exact.
    center : {"sample", "free"}
        What may be a center: drawn outputs, as in the paper, or means of them as well (with ``far="measured"`` and a
        metric whose outputs have means). Another smoothed model, from the same draws; its certificates are smaller.
    output_range : (float, float), optional
        Hard limits of every output coordinate, checked on every output. Gives the metric a diameter, so that a
        certificate as large as the whole output space is called vacuous.
    forward_block : int
        Inputs a call of the model. Part of what is certified: outputs depend on it in their last digits.
    batch_size : int
        Outputs held between two checks; changes no number.

    Examples
    --------
    A linear function of one variable moves by exactly ``2 * eps``; the certificate has to cover that.

    >>> from centersmooth import Budget, CenterSmoother, GaussianNoise, L2, RandomStream
    >>> smoother = CenterSmoother(lambda x: 2 * x, L2(), GaussianNoise(0.5), Budget(n=1_000, m=1_000, delta=0.1))
    >>> certificate, = smoother.certify(torch.zeros(1), eps=0.5, stream=RandomStream(seed=0))
    >>> certificate.outcome.value, certificate.radius > 2 * 0.5
    ('certified', True)
    """

    def __init__(
        self,
        model: Model,
        metric: Metric,
        noise: Noise,
        budget: Budget,
        *,
        bounds: BoundsName = "exact",
        far: FarName | None = None,
        center: CenterName = "sample",
        output_range: tuple[float, float] | None = None,
        forward_block: int = 128,
        batch_size: int = 1024,
    ) -> None:
        if not isinstance(bounds, str) or bounds not in BOUNDS:
            raise RequestError(f"bounds is {bounds!r}: expected one of {', '.join(map(repr, BOUNDS))}")
        super().__init__(Sampler(model, noise, forward_block, batch_size, output_range), metric, budget)
        far = far if far is not None else "measured" if bounds == "exact" else "doubled"
        if not isinstance(far, str) or (BOUNDS[bounds], far, "sample") not in RULES:
            raise RequestError(f"far is {far!r} with bounds={bounds!r}: expected 'doubled', or 'measured' with 'exact'")
        if not isinstance(center, str) or (BOUNDS[bounds], far, center) not in RULES:
            raise RequestError(
                f"center is {center!r} with far={far!r}: expected 'sample', or 'free' with bounds='exact' and "
                "far='measured'"
            )
        if center == "free" and (problem := free_problem(budget, metric)):
            raise RequestError(problem)
        self.noise = noise
        self.bounds = BOUNDS[bounds]
        self.far = far
        self.center: CenterName = center

    def smooth(self, x: Tensor, *, stream: RandomStream | None = None, progress: Progress | None = None) -> Smoothed:
        """The smoothed output at ``x``: what to ship.

        Parameters
        ----------
        x : Tensor, shape ``(*in)``
            One input, without a batch dimension.
        stream : RandomStream, optional
            For a repeatable experiment; by default fresh entropy, which a deployed model needs.

        Raises
        ------
        InfeasibleError
            Before any forward pass, if ``n`` is too small for ``delta``.
        ModelError
            If the model is not one fixed function of one input, or returns NaN.
        """
        self._require_center()
        evidence = self._gather(x, stream, far=False, progress=progress).about(self.center)
        return Smoothed(
            center=evidence.center,
            radius=evidence.r_center,
            abstained=not self.budget.accepts_center(evidence.inside, self.bounds),
            base=evidence.base,
            error=evidence.error,
        )

    def certify(
        self,
        x: Tensor,
        eps: float | Iterable[float],
        *,
        stream: RandomStream | None = None,
        progress: Progress | None = None,
    ) -> list[Certificate]:
        """One certificate for each ``eps``, all from one set of draws.

        It says: with probability at least ``1 - alpha2`` over the draws made here, for every ``x'`` with
        ``|x' - x|_2 <= eps`` a fresh run of `smooth` at ``x'`` answers with a center farther than ``radius`` from
        ``center`` with probability at most ``alpha1`` (under Smooth-HD a little more: what `Certificate.alpha` has over
        ``alpha1 + alpha2``). It does not promise that the run at ``x'`` answers. Each
        ``eps`` holds with that probability by itself; under ``bounds="paper"`` all of them hold jointly.

        Parameters
        ----------
        x : Tensor, shape ``(*in)``
            One input, without a batch dimension.
        eps : float or iterable of floats
            l2 radii in the unit of the input, each at least 0.

        Returns
        -------
        list of Certificate
            In the order of ``eps``; those the budget cannot serve have the outcome ``infeasible``.

        Raises
        ------
        InfeasibleError
            Before any forward pass, if the budget can serve none of them; it names the counts that would.
        ModelError
            If the model is not one fixed function of one input, or returns NaN.
        """
        radii = input_radii(eps)
        self._require_center()
        problems = [radius_problem(self.budget, self.noise, e, self.bounds) for e in radii]
        if all(problems):
            raise InfeasibleError(problems[0])
        evidence = self._gather(x, stream, far=True, progress=progress)
        return [
            certificate_from(
                evidence,
                e,
                metric=self.metric,
                noise=self.noise,
                budget=self.budget,
                bounds=self.bounds,
                far=self.far,
                center=self.center,
                output_range=self._sampler.output_range,
            )
            for e in radii
        ]

    def attack(
        self,
        x: Tensor,
        certificate: Certificate,
        attack: Attack | None = None,
        *,
        runs: int = 4,
        stream: RandomStream | None = None,
    ) -> Attacked:
        """Look for an input within ``certificate.eps`` that moves the smoothed output far, and see how far.

        Each run that answers is beyond ``certificate.radius`` with probability at most ``alpha1``, unless the
        certificate is one of the share ``alpha2`` that are wrong.

        Parameters
        ----------
        x : Tensor, shape ``(*in)``
            The input that was certified.
        attack : Attack, optional
            By default 20 gradient steps from each of 2 starts.
        runs : int
            Runs of `smooth` at the input found, on fresh draws.
        stream : RandomStream, optional
            Of the attack; its runs are judged on streams derived from it. By default fresh entropy.

        Raises
        ------
        RequestError
            The certificate has no radius, or gradients are asked of a model that has none.
        """
        attack, runs, center = what_to_attack(certificate, attack, runs, self.center)
        stream, sampler = checked_stream(stream), self._sampler
        with self._held_fixed(x):
            found = attack.perturb(sampler, self.metric, x, center, certificate.eps, stream.named("attack"))
            streams = [stream.named(f"run {run}") for run in range(runs)]
            run = partial(judge, sampler, self.metric, self.budget, found, center, name=self.center)
            judged = [run(one) for one in streams]
        moved = tuple(run.movement for run in judged if self.budget.accepts_center(run.inside, self.bounds))
        return Attacked(found, moved, len(judged) - len(moved))

    def _require_center(self) -> None:
        if problem := center_problem(self.budget, self.bounds):
            raise InfeasibleError(problem)

    def _check_outputs(self, outputs: Tensor) -> None:
        super()._check_outputs(outputs)
        if self.center == "free":
            require_means(outputs)

    def _gather(self, x: Tensor, stream: RandomStream | None, *, far: bool, progress: Progress | None) -> Evidence:
        stream = checked_stream(stream)
        with self._held_fixed(x):
            metrics = {self.metric.name: self.metric}
            free = self.center == "free"
            evidence = gather(self._sampler, metrics, self.budget, x, stream, far=far, free=free, progress=progress)
        return evidence[self.metric.name]


def checked_stream(stream: RandomStream | None) -> RandomStream:
    """The stream given, or one of fresh entropy.

    Raises
    ------
    RequestError
        It is neither a stream nor None.
    """
    if stream is not None and not isinstance(stream, RandomStream):
        raise RequestError(f"stream is {stream!r}: expected RandomStream(seed=0), or None for fresh entropy")
    return stream if stream is not None else RandomStream.fresh()


def what_to_attack(
    certificate: Certificate, attack: Attack | None, runs: int, name: CenterName | Literal["mean"]
) -> tuple[Attack, int, Tensor]:
    """The attack, how many runs judge it, and the center they are compared with.

    Parameters
    ----------
    name
        The smoothed model that is attacked, as its certificates call it.

    Raises
    ------
    RequestError
        The certificate has no radius or is of another smoothed model, or the others are not what they should be.
    """
    if not isinstance(certificate, Certificate):
        raise RequestError(f"certificate is a {type(certificate).__name__}: expected one of those certify() returned")
    if certificate.radius is None or certificate.center is None:
        raise RequestError(f"there is nothing to attack: the certificate is {certificate.outcome.value}")
    if certificate.center_name != name:
        raise RequestError(
            f"the certificate is of center {certificate.center_name!r}: expected one of this smoother, {name!r}"
        )
    if attack is not None and not isinstance(attack, Attack):
        raise RequestError(f"attack is {attack!r}: expected an Attack, such as Attack('search')")
    return attack if attack is not None else Attack(), an_integer("runs", runs, 1), certificate.center


def input_radii(eps: float | Iterable[float]) -> list[float]:
    """One number or many, of any numeric type, as floats."""
    error = RequestError(f"eps is {eps!r}: expected an l2 radius, or a list of them")
    if isinstance(eps, str):
        raise error
    try:
        values = list(eps) if isinstance(eps, Iterable) and getattr(eps, "ndim", None) != 0 else [eps]
        radii = [float(value) for value in values]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise error from None
    if not radii:
        raise RequestError("eps is empty: expected at least one l2 radius")
    for radius in radii:
        if not 0 <= radius < math.inf:
            raise RequestError(f"eps is {radius}: expected an l2 radius of at least 0, in the unit of the input")
    return radii
