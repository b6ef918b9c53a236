"""The smoothed model: what ties model, noise, certifier and budget together."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from centersmooth.attack import Attack, Attacked, judge
from centersmooth.certificate import Budget, Certificate, Smoothed
from centersmooth.certifiers import Center, Certifier, Mean
from centersmooth.certifiers.center.rules import CenterRule
from centersmooth.certifiers.center.search import CenterKind
from centersmooth.certifiers.mean import MeanRule
from centersmooth.checks import an_integer
from centersmooth.errors import InfeasibleError, RequestError
from centersmooth.gathering import Collects, Setting, gather_one
from centersmooth.metrics.base import Metric
from centersmooth.noise import Noise, Threat
from centersmooth.outputs import brief, brief_repr, described, unplain
from centersmooth.sampling import Model, Progress, RandomStream, Sampler, evaluating
from centersmooth.tolerance import WithinTolerance

Number: TypeAlias = float | np.number[Any]
"""A number of Python or numpy."""


class Smoother:
    """A model under noise with one certifier: answers, certificates, attacks on them.

    Parameters
    ----------
    model : nn.Module or callable, ``(b, *in) -> (b, *out)``
        The base function. A module is put in eval mode for every call and handed back as it came.
    noise : Noise
        The smoothing law, in the unit of the input.
    certifier : Certifier
        What is certified, such as ``Center(L2())`` or ``Mean(L2())``.
    budget : Budget, optional
        Draws and failure probabilities; by default `Budget.quick`.
    rule : str, optional
        One of ``certifier.rules``, by default the last, which is the sharpest; or, where all noisy inputs can be
        computed, ``enumerated``, which is another smoothed model.
    output_range : (float, float), optional
        Hard limits of every output coordinate, checked on every output. Gives the metric a diameter, so that a
        certificate as large as the whole output space is called vacuous.
    forward_block : int
        Inputs a call of the model. Part of what is certified: outputs depend on it in their last digits.
    batch_size : int
        Outputs held between two checks; changes no number.
    """

    def __init__(
        self,
        model: Model,
        noise: Noise,
        certifier: Certifier,
        budget: Budget | None = None,
        *,
        rule: str | None = None,
        output_range: tuple[float, float] | None = None,
        forward_block: int = 128,
        batch_size: int = 1024,
    ) -> None:
        if not isinstance(certifier, Certifier):
            raise RequestError(f"certifier is {brief(certifier)}: expected one such as Center(L2())")
        if not isinstance(noise, Noise):
            raise RequestError(f"noise is {brief(noise)}: expected a law such as GaussianNoise(sigma=0.25)")
        budget = Budget.quick() if budget is None else budget
        if not isinstance(budget, Budget):
            raise RequestError(
                f"budget is {brief(budget)}: expected counts such as Budget(n=2_000, m=4_000, delta=0.08)"
            )
        self.rule = certifier.rules[-1] if rule is None else rule
        self.certifier = certifier = certifier.of_rule(self.rule)
        self.noise = noise
        self.budget = budget
        self._sampler = Sampler(model, noise, forward_block, batch_size, output_range)
        self._setting = Setting.of(self._sampler, budget)
        if problem := certifier.unsuited(self._setting):
            raise RequestError(problem)
        self._checked_inputs: set[tuple[object, ...]] = set()

    def __repr__(self) -> str:
        return brief_repr(
            self,
            model=self._sampler.model,
            certifier=self.certifier,
            noise=self.noise,
            budget=self.budget,
            rule=self.rule,
        )

    def __call__(self, x: Tensor) -> Tensor | None:
        """The smoothed output at ``x``, ``(*in) -> (*out)``, by fresh randomness; None where the model abstains."""
        return self.smooth(x).output

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
        self._require_answer()
        stream = checked_stream(stream)
        x = self._checked_input(x)
        with self._held_fixed(x) as sampler:
            evidence = gather_one(sampler, self.certifier, self.budget, x, stream, radius=False, progress=progress)
        return self.certifier.answer(evidence, Setting.of(sampler, self.budget), self.rule)

    @overload
    def certify(
        self,
        x: Tensor,
        eps: Number,
        *,
        tolerance: float | None = None,
        stream: RandomStream | None = None,
        progress: Progress | None = None,
    ) -> Certificate: ...

    @overload
    def certify(
        self,
        x: Tensor,
        eps: Iterable[Number],
        *,
        tolerance: float | None = None,
        stream: RandomStream | None = None,
        progress: Progress | None = None,
    ) -> list[Certificate]: ...

    def certify(
        self,
        x: Tensor,
        eps: Number | Iterable[Number],
        *,
        tolerance: float | None = None,
        stream: RandomStream | None = None,
        progress: Progress | None = None,
    ) -> Certificate | list[Certificate]:
        """The certificate at ``eps``, or one for each of several, all from one set of draws.

        It says: with probability at least ``1 - alpha2`` over the draws made here, for every ``x'`` that the threat
        allows within ``eps`` (of Gaussian noise ``|x' - x|_2 <= eps``) a fresh run of `smooth` at ``x'`` answers with
        an output farther than ``radius`` from ``answer`` with probability at most ``alpha1`` (under Smooth-HD a little
        more: what `Certificate.alpha` has over ``alpha1 + alpha2``). It does not promise that the run at ``x'``
        answers. Each ``eps`` holds with that probability by itself; under the rule ``paper`` and for means all of them
        hold jointly.

        Where `Certificate.about` is ``map``, as by the rules ``order`` and ``holm``, it says that the exact smoothed
        output at ``x'`` is within ``radius`` of ``answer``. A run of `smooth` there estimates that output, and may be
        farther away.

        Parameters
        ----------
        x : Tensor, shape ``(*in)``
            One input, without a batch dimension.
        eps : float or iterable of floats
            Sizes of perturbations in the unit of the threat, each at least 0. A numpy scalar or a tensor without
            dimensions is a number.
        tolerance : float, optional
            Make fewer fresh draws than the budget's ``m`` where every radius is expected within ``1 + tolerance`` of
            that of all of them. Chosen from the draws before them, so that the statement above holds as it stands;
            `Certificate.m` is the number.
        stream : RandomStream, optional
            For a repeatable experiment; by default fresh entropy.
        progress : callable, optional
            Called with the number of forward passes done since its last call.

        Returns
        -------
        Certificate or list of Certificate
            One for a number. A list for an iterable, in its order; those the budget cannot serve have the outcome
            ``infeasible``.

        Raises
        ------
        InfeasibleError
            Before any forward pass, if the budget can serve none of them; it names the counts that would.
        ModelError
            If the model is not one fixed function of one input, returns NaN, or leaves the declared range.
        """
        radii = sizes(eps, self.noise.threat)
        self._require_answer()
        x = self._checked_input(x)
        setting = replace(self._setting, noise=self.noise.at(x))
        problems = [self.certifier.problem(setting, self.rule, e) for e in radii]
        if all(problems):
            raise InfeasibleError(problems[0])
        collects: Collects = self.certifier.until(self.rule, radii)
        if tolerance is not None:
            collects = within = WithinTolerance(self.certifier, self.rule, radii, tolerance)
            within.require(setting)
        stream = checked_stream(stream)
        with self._held_fixed(x) as sampler:
            evidence = gather_one(sampler, collects, self.budget, x, stream, progress=progress)
        evidence, setting = (evidence, setting) if tolerance is None else evidence
        certificates = [self.certifier.certificate(evidence, e, self.rule, setting) for e in radii]
        if tolerance is not None:
            certificates = [replace(certificate, m=setting.budget.m) for certificate in certificates]
        return certificates if is_iterable(eps) else certificates[0]

    @overload
    def certify_all(
        self,
        xs: Iterable[Tensor],
        eps: Number,
        *,
        tolerance: float | None = None,
        stream: RandomStream | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Certificate]: ...

    @overload
    def certify_all(
        self,
        xs: Iterable[Tensor],
        eps: Iterable[Number],
        *,
        tolerance: float | None = None,
        stream: RandomStream | None = None,
        progress: Progress | None = None,
    ) -> Iterator[list[Certificate]]: ...

    def certify_all(
        self,
        xs: Iterable[Tensor],
        eps: Number | Iterable[Number],
        *,
        tolerance: float | None = None,
        stream: RandomStream | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Certificate | list[Certificate]]:
        """Certify several inputs, in their order, each as soon as it is done.

        Parameters
        ----------
        xs : iterable of Tensor, each of shape ``(*in)``
            A batch ``(count, *in)`` is one.
        eps : float or iterable of floats
        tolerance : float, optional
            As for `certify`; each input has its own ``m``.
        stream : RandomStream, optional
            The stream of the first input; those of the others have the points that follow. By default fresh entropy
            for each.
        progress : callable, optional
            Called with the number of forward passes done since its last call, over all inputs.

        Raises
        ------
        RequestError
            At the call, for ``xs``, ``eps``, ``tolerance`` or ``stream``; what `certify` raises comes with the input
            concerned.
        """
        if not is_iterable(xs):
            raise RequestError(f"xs is {described(xs)}: expected several inputs, as a list or as a batch")
        if stream is not None:
            checked_stream(stream)
        asked = sizes(eps, self.noise.threat)  # an iterator of them serves the first input only
        one_or_many = asked if is_iterable(eps) else asked[0]
        if tolerance is not None:
            WithinTolerance(self.certifier, self.rule, asked, tolerance).require(self._setting)

        def certify(index: int, x: Tensor) -> Certificate | list[Certificate]:
            stream_of_x = None if stream is None else replace(stream, point=stream.point + index)
            try:
                return self.certify(x, one_or_many, tolerance=tolerance, stream=stream_of_x, progress=progress)
            except RequestError as error:
                # Batches of two, for PyTorch's layers may take a batch of one for an input without a batch.
                if index or not isinstance(xs, Tensor) or self._takes(_twice(x)) or not self._takes(_twice(xs)):
                    raise
                raise type(error)(f"{error}; the model takes xs as one input: use certify(xs, eps)") from error

        return (certify(index, x) for index, x in enumerate(xs))

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

        Of a certificate about a run each run that answers is beyond ``certificate.radius`` with probability at most
        ``alpha1``, unless the certificate is one of the share ``alpha2`` that are wrong. One about the map bounds the
        exact smoothed output, which the runs estimate.

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
        attack, runs, answer = what_to_attack(certificate, attack, runs, self.certifier)
        stream = checked_stream(stream)
        x = self._checked_input(x)
        with self._held_fixed(x) as sampler:
            found = attack.perturb(sampler, self.certifier, x, answer, certificate.eps, stream.named("attack"))
            streams = [stream.named(f"run {run}") for run in range(runs)]
            judged = [judge(sampler, self.certifier, self.budget, found, answer, one) for one in streams]
        moved = tuple(run.movement for run in judged if self.rule in run.answers)
        return Attacked(found, moved, len(judged) - len(moved))

    def distance(self, a: Tensor, b: Tensor) -> float:
        """The certifier's distance between two outputs of shape ``(*out)``, in the more precise of their types.

        For audits: no fresh ``smooth(x')`` is farther than ``radius`` from ``certificate.answer``, up to alpha, where
        the certificate is about a run.

        Raises
        ------
        RequestError
            They are not two tensors of one shape.
        """
        return self.certifier.distance(a, b)

    def _require_answer(self) -> None:
        if problem := self.certifier.problem(self._setting, self.rule):
            raise InfeasibleError(problem)

    @contextmanager
    def _held_fixed(self, x: Tensor) -> Iterator[Sampler]:
        """The sampler at ``x``, its model evaluating; model and metric were looked at, once for inputs of its kind."""
        with evaluating(self._sampler.model):
            signature = (x.shape, x.dtype, x.device)
            if signature not in self._checked_inputs:
                outputs = self._outputs_at(x)
                self.certifier.check(self._setting, outputs)
                self._warn_of_a_batch(x, outputs)
                self._checked_inputs.add(signature)
            yield self._sampler.at(x)

    def _outputs_at(self, x: Tensor) -> Tensor:
        """Noisy outputs of a checked model; the error says where it takes ``x`` as a batch but not as one input."""
        noisy = self.noise.sample(x, 1, RandomStream(0).draws("check input", 0, x))[0]  # the noise may refuse x itself
        metric = getattr(self.certifier, "metric", None)
        try:
            return self._sampler.check_model(x, [metric] if isinstance(metric, Metric) else [])
        except RequestError as error:
            if noisy.shape != x.shape:
                given = f"under this noise the model is given inputs of shape {tuple(noisy.shape)}"
                raise RequestError(f"{error}; {given}") from error
            if x.ndim < 2 or not self._takes(x):
                raise
            advice = f"the model takes x as a batch of {len(x)} inputs: use certify_all(x, eps), or x[0] for the first"
            raise RequestError(f"{error}; {advice}") from error

    def _takes(self, batch: Tensor) -> bool:
        try:
            self._sampler.call(batch)
        except RequestError:
            return False
        return True

    def _warn_of_a_batch(self, x: Tensor, outputs: Tensor) -> None:
        """Warn where the model takes ``x`` for a batch; it may still be one input, such as a sequence of vectors."""
        if self._sampler.answers_rows(x, outputs):
            warnings.warn(
                f"x is accepted as one input of shape {tuple(x.shape)}, and so is x[0], with the same outputs: if x is "
                f"a batch of {len(x)} inputs, use certify_all(x, eps), which certifies each",
                stacklevel=5,  # the caller of smooth, certify or attack
            )

    def _checked_input(self, x: Tensor) -> Tensor:
        """``x`` without its gradient, which nothing here is for.

        Raises
        ------
        RequestError
            It is not one input.
        """
        plain = unplain(x) if isinstance(x, Tensor) else None
        if plain or not isinstance(x, Tensor) or not x.is_floating_point():
            hint = f"; use {plain[1].format('x')}" if plain else _way_out(x)
            raise RequestError(
                f"x is {described(x)}: expected a floating-point tensor, one input without a batch dimension{hint}"
            )
        if x.device.type == "meta":
            raise RequestError("x is on the meta device, where tensors have no numbers: expected one that has")
        if not x.numel():
            raise RequestError(f"x has the shape {tuple(x.shape)}, without a number: expected an input")
        if not bool(torch.isfinite(x).all()):
            raise RequestError("x has NaN or infinite entries: expected a finite input")
        model = self._sampler.model
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        if parameter is not None and parameter.device != x.device:
            raise RequestError(f"x is on {x.device} and the model on {parameter.device}: move one to the other")
        return x.detach()


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
    budget : Budget, optional
        Draws and failure probabilities; by default `Budget.quick()`.
    kind : {"sample", "free"}
        What may be a center: drawn outputs, as in the paper, or means of them as well (with the rule ``measured`` and
        a metric whose outputs have means). Another smoothed model, from the same draws; its certificates are smaller.
    rule : {"measured", "exact", "paper", "enumerated"}
        How a radius is bounded. ``paper``: by the paper's inequalities. ``exact``: by the binomial law itself.
        ``measured``: besides, the ball found at ``x'`` by the distances seen at ``x``, not by the triangle inequality
        alone. All hold; ``measured`` is about a third smaller. ``enumerated``: from all noisy inputs, where the law has
        finitely many; another smoothed model, which draws nothing.
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
    >>> certificate = smoother.certify(torch.zeros(1), eps=0.5, stream=RandomStream(seed=0))
    >>> certificate.outcome.value, certificate.radius > 2 * 0.5
    ('certified', True)
    """

    def __init__(
        self,
        model: Model,
        metric: Metric,
        noise: Noise,
        budget: Budget | None = None,
        *,
        kind: CenterKind = "sample",
        rule: CenterRule = "measured",
        output_range: tuple[float, float] | None = None,
        forward_block: int = 128,
        batch_size: int = 1024,
    ) -> None:
        super().__init__(
            model,
            noise,
            Center(metric, kind),
            budget,
            rule=rule,
            output_range=output_range,
            forward_block=forward_block,
            batch_size=batch_size,
        )
        self.metric = metric


class MeanSmoother(Smoother):
    """A model whose answer is the mean of its outputs under noise, with certificates for it.

    Parameters
    ----------
    model : nn.Module or callable, ``(b, *in) -> (b, *out)``
        The base function. A module is put in eval mode for every call and handed back as it came.
    metric : Metric
        A seminorm: L1, L2, TotalVariation, or a subclass of `Metric` that declares its `seminorm`.
    noise : GaussianNoise
        The smoothing law, in the unit of the input.
    budget : Budget, optional
        ``n`` draws for an output, ``m`` more for a certificate; ``alpha1`` and ``alpha2``. There is no test that could
        fail, so ``delta`` is not used. By default `Budget.quick()`.
    output_range : (float, float)
        Hard limits of every output coordinate, checked on every output: a model that leaves it anywhere, however
        rarely, has no certificate.
    rule : {"spectral", "local", "global"}
        The movement from the distances and directions seen at ``x``, from the distances alone, or the bound that holds
        for every model.
    forward_block : int
        Inputs a call of the model. Part of what is certified: outputs depend on it in their last digits.
    batch_size : int
        Outputs held between two checks; changes no number.

    Examples
    --------
    >>> from centersmooth import Budget, GaussianNoise, L2, MeanSmoother, RandomStream
    >>> budget = Budget(n=1_000, m=4_000)
    >>> smoother = MeanSmoother(torch.sigmoid, L2(), GaussianNoise(0.5), budget, output_range=(0.0, 1.0))
    >>> certificate = smoother.certify(torch.zeros(1), eps=0.5, stream=RandomStream(seed=0))
    >>> certificate.outcome.value, 0.1 < certificate.radius < 0.2
    ('certified', True)
    """

    def __init__(
        self,
        model: Model,
        metric: Metric,
        noise: Noise,
        budget: Budget | None = None,
        *,
        output_range: tuple[float, float] | None = None,
        rule: MeanRule = "spectral",
        forward_block: int = 128,
        batch_size: int = 1024,
    ) -> None:
        super().__init__(
            model,
            noise,
            Mean(metric),
            budget,
            rule=rule,
            output_range=output_range,
            forward_block=forward_block,
            batch_size=batch_size,
        )
        self.metric = metric
        self.output_range = output_range


def _twice(x: Tensor) -> Tensor:
    return x.expand(2, *x.shape)


def _way_out(x: object) -> str:
    """Advice where an input is no tensor of real numbers; may be empty."""
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        return "; use torch.from_numpy(x)"
    if isinstance(x, (Tensor, np.ndarray)):
        return "; noise is added to real numbers: of pixels use x / 255, of tokens or texts their embeddings"
    parts = x if isinstance(x, (list, tuple)) else [x]
    if parts and all(isinstance(part, (str, bytes)) for part in parts):
        return "; noise is added to real numbers: of a text use its embedding"
    if isinstance(x, (list, tuple)) and parts and all(isinstance(part, int) for part in parts):
        return "; noise is added to real numbers: of tokens use their embeddings"
    return ""


def checked_stream(stream: RandomStream | None) -> RandomStream:
    """The stream given, or one of fresh entropy.

    Raises
    ------
    RequestError
        It is neither a stream nor None.
    """
    if stream is not None and not isinstance(stream, RandomStream):
        raise RequestError(f"stream is {brief(stream)}: expected RandomStream(seed=0), or None for fresh entropy")
    return stream if stream is not None else RandomStream.fresh()


def what_to_attack(
    certificate: Certificate, attack: Attack | None, runs: int, certifier: Certifier
) -> tuple[Attack, int, Tensor]:
    """The attack, how many runs judge it, and the answer they are compared with.

    Parameters
    ----------
    certifier
        The one that is attacked.

    Raises
    ------
    RequestError
        The certificate has no radius or is of another smoothed model, or the others are not what they should be.
    """
    if not isinstance(certificate, Certificate):
        raise RequestError(f"certificate is a {type(certificate).__name__}: expected one of those certify() returned")
    if certificate.radius is None or certificate.answer is None:
        raise RequestError(f"there is nothing to attack: the certificate is {certificate.outcome.value}")
    if certificate.certifier != certifier.name:
        raise RequestError(
            f"the certificate is of {certificate.certifier!r}: expected one of this smoother, {certifier.name!r}"
        )
    if certificate.rule not in certifier.rules:
        there_are = ", ".join(map(repr, certifier.rules))
        raise RequestError(f"the certificate is of the rule {certificate.rule!r}: expected one of {there_are}")
    if attack is not None and not isinstance(attack, Attack):
        raise RequestError(f"attack is {brief(attack)}: expected an Attack, such as Attack('search')")
    return attack if attack is not None else Attack(), an_integer("runs", runs, 1), certificate.answer


def is_iterable(values: object) -> bool:
    """Test for several values; an array or a tensor without dimensions is one value."""
    return isinstance(values, Iterable) and getattr(values, "ndim", None) != 0


def sizes(eps: Number | Iterable[Number], threat: Threat) -> list[float]:
    """One number or many, of any numeric type, as floats.

    Raises
    ------
    RequestError
        One of them is no size of perturbations.
    """
    error = RequestError(f"eps is {brief(eps)}: expected {threat.meaning}, or a list of such numbers")
    if isinstance(eps, str | bool):
        raise error
    try:
        found = [float(value) for value in (eps if is_iterable(eps) else [eps])]  # type: ignore[union-attr, arg-type]
    except (TypeError, ValueError, OverflowError):
        raise error from None
    if not found:
        raise RequestError(f"eps is empty: expected at least one number, {threat.meaning}")
    for size in found:
        threat.require(size)
    return found
