"""The contract of a certifier: its draws, its evidence, and whether its certificates cover."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import bdtrc
from torch import Tensor

from centersmooth.certificate import Budget, Certificate, Outcome
from centersmooth.certifiers.base import Certifier, pack, unpack
from centersmooth.contracts.worlds import TwoOutputs
from centersmooth.errors import InfeasibleError, ModelError, RequestError
from centersmooth.gathering import STAGES, Collects, Setting, Shared, gather
from centersmooth.noise import Noise
from centersmooth.sampling import Model, RandomStream, Sampler

COUNTS: Final = Budget(n=400, m=2_000, delta=0.1, alpha1=0.05, alpha2=0.05)
"""Few draws and large failure probabilities, so that broken variants stand out in 60 runs."""

_FALSE_ALARM: Final = 1e-9
"""How often a certifier that covers may fail the count of one rule on one model."""

_MASSES: Final = (0.42, 0.2)
"""Masses left of the first output at ``x'``: a center that has just changed, and the largest movement of a mean."""

_X: Final = torch.zeros(1, dtype=torch.float64)


def check_certifier(
    certifier: Certifier,
    outputs: tuple[Tensor, Tensor],
    noise: Noise,
    eps: float,
    *,
    budget: Budget = COUNTS,
    output_range: tuple[float, float] | None = None,
    exact: Callable[[float], Tensor] | None = None,
    beside: Mapping[str, Collects] | None = None,
    runs: int = 60,
) -> None:
    """Check that a certifier keeps the contract of `Certifier`, and that its certificates cover.

    - `Certifier.unsuited` and `Certifier.problem` are empty or one line; where they are empty, no certificate is
      infeasible.
    - A collector wants no more draws of a stage than it said at first, never less than 0, and 0 in the end; an answer
      wants no more draws than a certificate, and can be read from evidence without a radius.
    - Evidence is the same, up to the rounding of sums, for draws taken 1 and 7 at a time; and to the last bit for any
      batch size, in one pass with other certifiers, and by a certifier that was pickled.
    - Evidence that was packed, saved and unpacked gives the same certificates.
    - A certificate names its certifier and rule, and is about what `Certifier.about` says. It has a radius where it is
      certified, and only there, and says whether that is vacuous.
    - Radii do not fall as ``eps`` grows. There is none where the smoothed model abstains.
    - Certificates cover. The model is a step from one of the ``outputs`` to the other, the worst case of the shift
      bound, at two thresholds. In each of ``runs`` runs, the input ``x = 0`` is certified and a fresh run at the worst
      ``x' = eps`` answers; it may be farther than the radius with probability `Certificate.alpha`, so
      ``binom.isf(1e-9, runs, alpha)`` times at most. A certifier that covers fails this for one rule and one threshold
      with probability at most 1e-9.

    With the counts given here, a center, mean or class whose certificate is that of half the ``eps`` fails, and so does
    one under noise that is 30% smaller than it states. What is not seen: a radius that is wrong by less than the slack
    of its rule.

    Parameters
    ----------
    outputs : (Tensor, Tensor), each of shape ``(*out)``
        Two outputs that the certifier tells apart, such as two boxes.
    noise : Noise
        A law for inputs of one number, where ``x'`` is ``x + eps``.
    eps : float
        In the noise's unit; about one and a half scales of the noise show most.
    budget : Budget
        Counts that serve every rule.
    output_range : (float, float), optional
        Hard limits of every output coordinate.
    exact : callable, optional
        The exact smoothed answer of a model that gives the first of the outputs with a probability, as a function of
        that. Rules whose certificates are about the map (`Certifier.about`) are compared with it in the place of a run.
    beside : mapping of str to Certifier, optional
        Certifiers that share a pass with this one.
    runs : int
        Pairs of runs for each threshold.

    Raises
    ------
    InfeasibleError
        The budget is too small for one of the rules.
    RequestError
        A rule is about the map, and there is no ``exact``; the ``outputs`` are at distance 0.
    ModelError
        Naming the first property that fails.

    Examples
    --------
    >>> from centersmooth import L2, Center, GaussianNoise
    >>> check_certifier(Center(L2()), (torch.zeros(2), torch.ones(2)), GaussianNoise(1.0), eps=1.5)
    """
    noise = noise.at(_X)
    request = _Request(certifier, Setting(noise, budget, output_range, forward_block=128))
    _check_problems(request, eps)
    if exact is None and any(certifier.about(rule) == "map" for rule in certifier.rules):
        raise RequestError(f"exact is None: expected the exact smoothed answer, which {certifier} certifies")
    if not _distance(certifier, outputs) > 0:
        raise RequestError(f"outputs are at distance 0 for {certifier}: expected two that it tells apart")
    ramp = _ramp(outputs, noise)
    certifier.check(request.setting, torch.stack([*outputs, outputs[0]]))
    wanted = [_check_wants(request, ramp, radius) for radius in (False, True)]
    _expect(certifier, wanted[0] <= wanted[1], f"wants {wanted[0]} draws for an answer and {wanted[1]} for a radius")
    evidence = _check_evidence(request, ramp, beside or {})
    _check_certificates(request, evidence, eps)
    request = replace(request, setting=replace(request.setting, forward_block=2048))
    for mass in _MASSES:
        step = TwoOutputs(*outputs, threshold=_quantile(noise, eps, mass))
        _check_coverage(request, step, eps, runs, exact(mass) if exact is not None else None)


@dataclass(frozen=True)
class _Request:
    """A certifier and the setting in which it is checked."""

    certifier: Certifier
    setting: Setting

    def sampler(self, model: Model, batch_size: int) -> Sampler:
        setting = self.setting
        return Sampler(model, setting.noise, setting.forward_block, batch_size, setting.output_range)

    def evidence(
        self,
        model: Model,
        x: Tensor = _X,
        stream: RandomStream = RandomStream(0),  # noqa: B008 -- frozen
        *,
        radius: bool = True,
        batch_size: int = 1024,
        beside: Mapping[str, Collects] | None = None,
        last: bool = False,
    ) -> Any:
        """The certifier's evidence from one pass, before or after the other certifiers of the pass."""
        every = {**(beside or {}), "": self.certifier} if last else {"": self.certifier, **(beside or {})}
        found = gather(self.sampler(model, batch_size), every, self.setting.budget, x, stream, radius=radius)[""]
        if isinstance(found, Exception):
            raise found
        return found

    def certificates(self, evidence: Any, radii: tuple[float, ...]) -> list[Certificate]:
        """One for each rule and ``eps``."""
        of, rules = self.certifier.certificate, self.certifier.rules
        return [of(evidence, eps, rule, self.setting) for rule in rules for eps in radii]


def _quantile(noise: Noise, x: float, mass: float) -> float:
    """The quantile of noisy copies of the number ``x``, of 100,000 draws."""
    one = torch.full_like(_X, x)
    return float(np.quantile(noise.sample(one, 100_000, RandomStream(0).draws("quantile", 0, one)).numpy(), mass))


def _ramp(outputs: tuple[Tensor, Tensor], noise: Noise) -> TwoOutputs:
    """A model that takes many values between the two outputs, where their type has any."""
    low, high = (_quantile(noise, 0.0, mass) for mass in (0.1, 0.9))
    return TwoOutputs(*outputs, threshold=high, width=high - low if outputs[0].is_floating_point() else 0.0)


def _check_problems(request: _Request, eps: float) -> None:
    certifier, setting = request.certifier, request.setting
    few = replace(setting, budget=replace(setting.budget, n=1, m=1))
    for asked in (setting, few, replace(setting, output_range=None)):
        said = [certifier.unsuited(asked)]
        if not said[0]:
            said += [certifier.problem(asked, rule, radius) for rule in certifier.rules for radius in (None, 0.0, eps)]
        for one in said:
            one_line = isinstance(one, str) and len(one.splitlines()) <= 1
            _expect(certifier, one_line, f"says {one!r} of a request: expected one line, or nothing")
    for rule in certifier.rules:
        if problem := certifier.unsuited(setting) or certifier.problem(setting, rule, eps):
            raise InfeasibleError(problem)


def _check_wants(request: _Request, model: Model, radius: bool) -> int:
    """Number of draws a collector wants in all stages, each fed to its end."""
    certifier, sampler, shared = request.certifier, request.sampler(model, 1024), Shared()
    collector = certifier.collector(request.setting, shared, radius=radius)
    total = 0
    for stage in STAGES:
        wanted = collector.wants(stage)
        _expect(certifier, wanted >= 0, f"wants {wanted} draws of {stage}")
        total += wanted
        for outputs in sampler.draw(_X, wanted, RandomStream(0), stage):
            before = collector.wants(stage)
            if not before:
                break
            shared.forget()
            collector.update(stage, outputs[:before])
            after = collector.wants(stage)
            falls = 0 <= after <= before - len(outputs[:before])
            took = f"wants {after} draws of {stage}, where it wanted {before} before it took {len(outputs[:before])}"
            _expect(certifier, falls, took)
        shared.forget()
        _expect(certifier, not collector.wants(stage), f"wants more than the {wanted} draws of {stage} it asked for")
    evidence = collector.compute(sampler.base_output(_X))
    for rule in certifier.rules:
        certifier.answer(evidence, request.setting, rule)
    return total


def _distance(certifier: Certifier, outputs: tuple[Tensor, Tensor]) -> float:
    try:
        return float(certifier.distance(*outputs))
    except Exception as error:  # of any kind: it is the author's
        raise ModelError(
            f"{certifier}: the distance of two outputs, which it is given as well as answers, ended in "
            f"{type(error).__name__}: {error}"
        ) from error


def _check_evidence(request: _Request, model: Model, beside: Mapping[str, Collects]) -> Any:
    certifier, evidence = request.certifier, request.evidence(model)
    arrays = _saved(pack(evidence))
    try:
        pickled = replace(request, certifier=pickle.loads(pickle.dumps(certifier)))
    except Exception as error:  # of any kind: __reduce__ and __setstate__ are the author's
        raise ModelError(f"{certifier}: cannot be pickled, as workers need it to be: {error}") from error
    others = {**beside, "itself": certifier}
    same = {
        "with a batch size of 1": request.evidence(model, batch_size=1),
        "before other certifiers of a pass": request.evidence(model, beside=others),
        "after other certifiers of a pass": request.evidence(model, beside=others, last=True),
        "by the certifier that was pickled": pickled.evidence(model),
        "that was saved and read": unpack(certifier.evidence, arrays),
    }
    for how, other in same.items():
        different = _different(arrays, pack(other))
        _expect(certifier, not different, f"evidence {how} is not the same: {', '.join(different)}")
    different = _far_off(arrays, pack(_in_pieces(request, model)))
    _expect(certifier, not different, f"evidence of 1 and 7 draws at a time is another: {', '.join(different)}")
    return evidence


def _in_pieces(request: _Request, model: Model) -> Any:
    """The evidence of a collector that is given its draws in pieces of 1 and 7 by turns."""
    sampler, shared = request.sampler(model, 1024), Shared()
    collector = request.certifier.collector(request.setting, shared, radius=True)
    for stage in STAGES:
        for outputs in sampler.draw(_X, collector.wants(stage), RandomStream(0), stage):
            sizes = [1, 7] * (len(outputs) // 8) + [1] * (len(outputs) % 8)
            for piece in outputs.split(sizes):
                shared.forget()
                if left := collector.wants(stage):
                    collector.update(stage, piece[:left])
        shared.forget()
    return collector.compute(sampler.base_output(_X))


def _far_off(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> list[str]:
    """Names of arrays that differ by more than the rounding of sums."""
    names = sorted({*one, *other})
    return [
        name
        for name in names
        if name not in one
        or name not in other
        or one[name].shape != other[name].shape
        or not np.allclose(one[name], other[name], rtol=1e-6, atol=1e-9)
    ]


def _saved(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays as a file gives them back."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as saved:
        return dict(saved)


def _different(a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]]) -> list[str]:
    """Names of arrays that are not the same in both."""
    return sorted(
        name
        for name in a.keys() | b.keys()
        if name not in a or name not in b or a[name].dtype != b[name].dtype or not np.array_equal(a[name], b[name])
    )


def _check_certificates(request: _Request, evidence: Any, eps: float) -> None:
    certifier = request.certifier
    ladder = tuple(eps * share for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    certificates = request.certificates(evidence, ladder)
    unpacked = unpack(certifier.evidence, _saved(pack(evidence)))
    for one, other in zip(certificates, request.certificates(unpacked, ladder), strict=True):
        same = all(_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
        _expect(certifier, same, f"evidence that was saved and read has another certificate at eps = {one.eps:g}")
        infeasible = one.outcome is Outcome.INFEASIBLE
        _expect(certifier, not infeasible, f"infeasible at eps = {one.eps:g}, where problem() had nothing to say")
        certified, has = one.outcome is Outcome.CERTIFIED, one.radius is not None
        goes = f"a certificate is {one.outcome}, with the radius {one.radius}"
        _expect(certifier, certified == has, f"{goes}: expected a radius where it is certified, and only there")
        goes = f"a certificate is vacuous: {one.vacuous!r}, with the radius {one.radius}"
        _expect(certifier, one.vacuous in (True, False) and has >= one.vacuous, f"{goes}: expected True or False")
    for rule in certifier.rules:
        of_rule, certificates = certificates[: len(ladder)], certificates[len(ladder) :]
        said = {(one.certifier, one.rule, one.about) for one in of_rule}
        named = (certifier.name, rule, certifier.about(rule))
        _expect(certifier, said == {named}, f"certificates call themselves {said}: expected {named}")
        radii = [math.inf if one.radius is None else one.radius for one in of_rule]
        _expect(certifier, radii == sorted(radii), f"radii fall as eps grows: {radii}")


def _equal(a: object, b: object) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)


def _check_coverage(request: _Request, model: Model, eps: float, runs: int, exact: Tensor | None) -> None:
    """Count answers at ``x' = eps``, of a run or exact ones, beyond the radius certified at ``x = 0``."""
    certifier, setting = request.certifier, request.setting
    beyond = dict.fromkeys(certifier.rules, 0)
    alpha = dict.fromkeys(certifier.rules, -1.0)
    for run in range(runs):
        here = request.evidence(model, stream=RandomStream(run))
        there = request.evidence(model, _X + eps, RandomStream(run, point=1), radius=False)
        for rule in certifier.rules:
            certificate = certifier.certificate(here, eps, rule, setting)
            if certificate.radius is None:
                continue
            alpha[rule] = certificate.alpha
            answer, moved = (certifier.answer(one, setting, rule).output for one in (here, there))
            if answer is None:
                raise ModelError(f"{certifier}: a radius is certified under the rule {rule} where the model abstains")
            moved = exact if certifier.about(rule) == "map" else moved
            beyond[rule] += moved is not None and certifier.distance(answer, moved) > certificate.radius
    for rule, count in beyond.items():
        _expect(certifier, alpha[rule] >= 0, f"no run has a radius under the rule {rule}, so nothing was checked")
        most = _most(runs, alpha[rule])
        what = f"{count} of {runs} answers at x' are beyond the radius of the rule {rule}, where {most} may be"
        _expect(certifier, count <= most, what)


def _most(runs: int, alpha: float) -> int:
    """``binom.isf(1e-9, runs, alpha)``: so many failures are exceeded with probability at most 1e-9."""
    return next(count for count in range(runs + 1) if bdtrc(count, runs, alpha) <= _FALSE_ALARM)


def _expect(certifier: Certifier, holds: bool, what: str) -> None:
    if not holds:
        raise ModelError(f"{certifier}: {what}")
