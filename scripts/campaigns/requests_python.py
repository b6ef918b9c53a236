"""Calls of the library itself, right ones and such as have one odd argument.

A right call ends in certificates that are what they say; any other in those or in one line of the library's own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import requests_own
import torch
from hypothesis import strategies as st
from requests_own import ODD_CERTIFIERS, ODD_METRICS, ODD_MODELS, WORLDS, World
from requests_right import BLOCK, BUDGETS, METRICS_ASKED, OWN, certified_size, law_takes, noises
from torch import Tensor

from centersmooth import Attack, Budget, Certificate, Outcome, RandomStream, Smoother
from centersmooth.adapters import Adapted
from centersmooth.certifiers import Certifier
from centersmooth.errors import CenterSmoothError
from centersmooth.gathering import Setting
from csrun.adapters import build_adapter
from csrun.certifiers import build_certifiers, prototypes
from csrun.errors import RunError
from csrun.metrics import build_metrics
from csrun.noise import noise_of
from csrun.registry import CERTIFIERS, entry_of

_TO_CHOOSE_FROM = Budget(n=110, m=300, delta=0.3, alpha1=0.05, alpha2=0.05)
"""With draws enough to choose ``m`` by."""


def _bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).double().div(255).float()


RIGHT_INPUTS: dict[str, Callable[[], Tensor]] = {
    "image": lambda: _bytes(1, 8, 8),
    "colours": lambda: _bytes(3, 8, 8),
    "float64": lambda: (_bytes(1, 8, 8).double() * 255).round() / 255,
    "vector": lambda: _bytes(64),
    "column by column": lambda: _bytes(8, 8, 1).permute(2, 1, 0),
    "every other": lambda: _bytes(1, 16, 16)[:, ::2, ::2],
    "one number throughout": lambda: _bytes(1).expand(1, 8, 8),
    "gradient": lambda: _bytes(1, 8, 8).requires_grad_(),
    "parameter": lambda: torch.nn.Parameter(_bytes(1, 8, 8)),
    "black": lambda: torch.zeros(1, 8, 8),
}

ODD_INPUTS: dict[str, Callable[[], Any]] = {
    "half": lambda: _bytes(1, 8, 8).half(),
    "bfloat16": lambda: _bytes(1, 8, 8).bfloat16(),
    "no dimension": lambda: torch.tensor(0.5),
    "no numbers": lambda: torch.zeros(0),
    "no rows": lambda: torch.zeros(1, 0, 8),
    "batch": lambda: _bytes(4, 1, 8, 8),
    "bytes": lambda: torch.zeros(1, 8, 8, dtype=torch.uint8),
    "integers": lambda: torch.zeros(1, 8, 8, dtype=torch.int64),
    "booleans": lambda: torch.zeros(1, 8, 8, dtype=torch.bool),
    "complex": lambda: torch.zeros(1, 8, 8, dtype=torch.complex64),
    "NaN": lambda: torch.full((1, 8, 8), math.nan),
    "infinity": lambda: torch.full((1, 8, 8), -math.inf),
    "huge": lambda: torch.full((1, 8, 8), 3e38),
    "denormal": lambda: torch.full((1, 8, 8), 1e-45),
    "beyond [0, 1]": lambda: _bytes(1, 8, 8) * 5 - 2,
    "meta": lambda: torch.zeros(1, 8, 8, device="meta"),
    "sparse": lambda: _bytes(8, 8).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(_bytes(1, 8, 8), 0.1, 0, torch.quint8),
    "array": lambda: np.zeros((1, 8, 8), np.float32),
    "list": lambda: [[0.5] * 8] * 8,
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(5)]),
    "text": lambda: "a text",
    "none": lambda: None,
    "number": lambda: 0.5,
}

ODD_VALUES: list[Any] = [None, "", "abc", "0.1", -1, 0, 1.5, -0.0, math.nan, math.inf, -math.inf, True, [], {}, ()]
ODD_VALUES += [[0.1], object, object(), len, np.float32(0.1), np.int64(3), np.array([0.1, 0.2]), np.array(0.1)]
ODD_VALUES += [np.zeros((2, 2))]
ODD_VALUES += [torch.tensor(0.1), torch.tensor([0.1, 0.2]), torch.tensor([]), Fraction(1, 8), Decimal("0.1"), 1j, b"x"]
ODD_VALUES += [1e300, 5e-324, 10**400, -(10**400), [0.1, None], [[0.1]], "ä\nb", (0.0, 1.0), (1.0, 0.0), (0, math.inf)]
ODD_VALUES += [float("1e-17"), [True], {"a": 1}, {0.1}, iter([0.1, 0.2]), range(3), slice(3), ..., NotImplemented]

ODD_COUNTS: list[Any] = [one for one in ODD_VALUES if not (isinstance(one, int) and one > 10**6)]
"""Without counts that would be taken, and take for ever."""


@dataclass(frozen=True)
class Call:
    """A call of the library.

    Attributes
    ----------
    noise : tuple of (str, value)
        The name of a law, and what else it has.
    x : str
        A key of `RIGHT_INPUTS` or `ODD_INPUTS`.
    odd : (str, object), optional
        An argument, by its name, and what stands in its place.
    """

    world: World
    noise: tuple[tuple[str, Any], ...]
    scale: float
    certifier: str
    metric: str
    rule: str
    eps: tuple[float, ...]
    budget: Budget
    x: str
    verb: str
    seed: int
    odd: tuple[str, Any] | None = None


VERBS = (*("certify", "certify several", "certify_all", "smooth", "again", "attack") * 3, "tolerance")
COUNTS = ("n", "m", "n0", "forward_block", "batch_size", "runs")
ODD_ARGUMENTS = ("model", "noise", "certifier", "budget", "rule", "output_range", "eps", "tolerance", "stream", "xs")
ODD_ARGUMENTS += ("delta", "alpha1", "alpha2", "scale", "progress", "metric")


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Right calls of what suits each other, as far as the registry knows; one in ten has something odd."""
    world = draw(st.sampled_from(WORLDS))
    noise, scale = draw(noises())
    names = (*CERTIFIERS, OWN + "free")
    metrics = world.metrics if draw(st.integers(0, 29)) else METRICS_ASKED
    verb, metric = draw(st.sampled_from(VERBS)), draw(st.sampled_from(metrics))
    budget = _TO_CHOOSE_FROM if verb == "tolerance" else draw(st.sampled_from(BUDGETS))
    suited = [name for name in names if _suits(name, metric, noise, scale, world, budget)]
    certifier = draw(st.sampled_from(suited if suited and draw(st.integers(0, 29)) else names))
    rules = [rule for rule in entry_of(certifier).every_rule if _allowed(certifier, metric, rule, noise, scale, world)]
    rule = draw(st.sampled_from(rules or ["measured"]))
    size = _size(certifier, metric, rule, noise, scale, world, budget) or 0.1
    call = Call(
        world=world,
        noise=noise,
        scale=scale,
        certifier=certifier,
        metric=metric,
        rule=rule,
        eps=(float(f"{size / 3:.3g}"), size),
        budget=budget,
        x=draw(st.sampled_from([key for key in RIGHT_INPUTS if _takes(noise, scale, key)] or list(RIGHT_INPUTS))),
        verb=verb,
        seed=draw(st.integers(0, 9)),
    )
    if draw(st.integers(0, 9)):
        return call
    return replace(call, **draw(_oddities()))


def _oddities() -> st.SearchStrategy[dict[str, Any]]:
    inputs = st.sampled_from(list(ODD_INPUTS)).map(lambda key: {"x": key})
    counts = st.tuples(st.sampled_from(COUNTS), st.sampled_from(ODD_COUNTS)).map(lambda odd: {"odd": odd})
    others = st.tuples(st.sampled_from(ODD_ARGUMENTS), st.sampled_from(ODD_VALUES)).map(lambda odd: {"odd": odd})
    own = [("own model", name) for name in ODD_MODELS] + [("own metric", name) for name in ODD_METRICS]
    own += [("own certifier", name) for name in ODD_CERTIFIERS]
    return st.one_of(inputs, counts, others, st.sampled_from(own).map(lambda odd: {"odd": odd}))


@cache
def _suits(name: str, metric: str, noise: Any, scale: float, world: World, budget: Budget) -> bool:
    try:
        one = _certifier(name, metric, world)
        model = _model_of(world)
        Smoother(model, noise_of(dict(noise), scale), one, budget, output_range=_range(world), forward_block=BLOCK)
        with torch.no_grad():
            outputs = model(_bytes(4, 1, 8, 8))
        one.check(_setting(noise, scale, world, budget), outputs)
    except (CenterSmoothError, RunError):
        return False
    return True


def _setting(noise: Any, scale: float, world: World, budget: Budget) -> Setting:
    return Setting(noise_of(dict(noise), scale), budget, _range(world), BLOCK)


@cache
def _allowed(name: str, metric: str, rule: str, noise: Any, scale: float, world: World) -> bool:
    """Whether a rule is one of the certifier's under a law."""
    try:
        setting = _setting(noise, scale, world, BUDGETS[0])
        return not _certifier(name, metric, world).of_rule(rule).unsuited(setting)
    except (CenterSmoothError, RunError):
        return False


@cache
def _takes(noise: Any, scale: float, x: str) -> bool:
    """Whether a law takes one of `RIGHT_INPUTS`."""
    return law_takes(noise, scale, RIGHT_INPUTS[x]().detach())


@cache
def _size(name: str, metric: str, rule: str, noise: Any, scale: float, world: World, budget: Budget) -> float | None:
    try:
        law = noise_of(dict(noise), scale).at(RIGHT_INPUTS["image"]())
        return certified_size(law, _certifier(name, metric, world), rule, budget)
    except (CenterSmoothError, RunError):
        return None


def _certifier(name: str, metric: str, world: World) -> Certifier:
    if name in CERTIFIERS and CERTIFIERS[name].of_model:
        found = _function(world).prototypes if isinstance(_function(world), requests_own.Ranged) else None
        if found is None:
            raise RunError("no prototypes")
        return prototypes(found)
    return next(iter(build_certifiers(name, build_metrics([metric], {}, "cpu")).values()))


@cache
def _function(world: World) -> Any:
    return getattr(requests_own, world.model)()


def _model_of(world: World) -> Any:
    """The model with its adapters."""
    function = _function(world)
    return Adapted(function, *map(build_adapter, world.adapters)) if world.adapters else function


def _range(world: World) -> tuple[float, float] | None:
    return None if world.adapters else getattr(_function(world), "output_range", None)


def judge_call(call: Call) -> str:
    """Make a call; "certificates" or "an error" it ended in, AssertionError or another one where it may not.

    One error has to be one line, and of the library where the call is one of it.
    """
    refused, x = "", {**RIGHT_INPUTS, **ODD_INPUTS}[call.x]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="x is accepted as one input")
        try:
            smoother, certificates = _made(call, x)
        except (CenterSmoothError, RunError) as error:
            refused = str(error)
    if refused:
        assert len(refused.splitlines()) == 1, f"{call}: not one line: {refused}"
        assert call.odd or call.x in ODD_INPUTS or _refused(call), f"{call}: {refused}"
        return "an error"
    assert "\n" not in repr(smoother), f"{call}: repr is {smoother!r}"
    for eps, certificate in certificates:
        wrong = contradiction(certificate, eps, smoother)
        assert not wrong, f"{call}: {wrong}: {certificate!r}"
    return "certificates"


def _refused(call: Call) -> bool:
    """Whether a call with nothing odd may be refused: parts do not suit each other, or counts are too small."""
    if not _suits(call.certifier, call.metric, call.noise, call.scale, call.world, call.budget):
        return True
    if not _takes(call.noise, call.scale, call.x):
        return True
    law = noise_of(dict(call.noise), call.scale).at(RIGHT_INPUTS[call.x]().detach())
    one = _certifier(call.certifier, call.metric, call.world)
    sibling = one.of_rule(call.rule)
    setting = replace(_setting(call.noise, call.scale, call.world, call.budget), noise=law)
    if sibling.unsuited(setting) or sibling.problem(setting, call.rule, call.eps[0]):
        return True
    return call.verb in ("attack", "tolerance")


def _made(call: Call, x: Any) -> tuple[Smoother, list[tuple[Any, Certificate]]]:
    """The smoother of a call, and its certificates, each with the eps asked for."""
    name, odd = call.odd or ("", None)

    def argument(key: str, right: Any) -> Any:
        return odd if name == key else right

    counts = {key: argument(key, getattr(call.budget, key)) for key in ("n", "m", "n0", "delta", "alpha1", "alpha2")}
    law = noise_of(dict(call.noise), argument("scale", call.scale))
    model, metric, certifier = _model_of(call.world), None, None
    if name == "own model":
        model = getattr(requests_own, odd, None)
        model = model() if odd in requests_own.MADE else model
    if name == "own metric":
        (metric,) = build_metrics([OWN + odd], {}, "cpu").values()
        certifier = entry_of("center").build(metric)
    elif name == "own certifier":
        certifier = next(iter(build_certifiers(OWN + odd, build_metrics([call.metric], {}, "cpu")).values()))
    elif name == "metric":
        certifier = entry_of("center").build(odd)
    else:
        certifier = _certifier(call.certifier, call.metric, call.world)
    smoother = Smoother(
        argument("model", model),
        argument("noise", law),
        argument("certifier", certifier),
        argument("budget", Budget(**counts)),
        rule=argument("rule", call.rule if metric is None and "own" not in name and name != "metric" else None),
        output_range=argument("output_range", _range(call.world)),
        forward_block=argument("forward_block", BLOCK),
        batch_size=argument("batch_size", 64),
    )
    options = {"stream": argument("stream", RandomStream(call.seed)), "progress": argument("progress", None)}
    return smoother, list(_answers(call, smoother, x, options, argument))


def _answers(
    call: Call, smoother: Smoother, x: Any, options: Mapping[str, Any], argument: Callable[[str, Any], Any]
) -> list[tuple[Any, Certificate]]:
    small, sizes = argument("eps", call.eps[0]), argument("eps", call.eps)
    if call.verb == "smooth":
        smoothed = smoother.smooth(x, **options)
        assert "\n" not in repr(smoothed)
        assert (smoothed.output is None) == smoothed.abstained
        assert math.isfinite(smoothed.error)
        assert smoothed.error >= 0
        return []
    if call.verb == "certify_all":
        found = list(smoother.certify_all(argument("xs", [x, x]), small, **options))
        return [] if any(isinstance(one, list) for one in found) else [(small, one) for one in found]
    if call.verb == "certify several":
        return _pairs(sizes, smoother.certify(x, sizes, **options))
    if call.verb == "tolerance" or (call.odd and call.odd[0] == "tolerance"):
        return _pairs(small, smoother.certify(x, small, tolerance=argument("tolerance", 0.1), **options))
    found = smoother.certify(x, small, **options)
    if call.verb == "attack" and not isinstance(found, list):
        runs, stream = argument("runs", 1), RandomStream(call.seed)
        attacked = smoother.attack(x, found, Attack("search", 2, 1, 8), runs=runs, stream=stream)
        assert "\n" not in repr(attacked)
        assert attacked.perturbed.shape == x.shape
        assert all(moved >= 0 for moved in attacked.movements)
    if call.verb == "again" and call.odd is None:
        other = Smoother(
            _model_of(call.world),
            smoother.noise,
            smoother.certifier,
            smoother.budget,
            rule=smoother.rule,
            output_range=_range(call.world),
            forward_block=BLOCK,
            batch_size=128,
        )
        again = other.certify(x, small, **options)
        assert repr(again) == repr(found), f"another batch size: {again!r} instead of {found!r}"
    return _pairs(small, found)


def _pairs(asked: Any, found: Certificate | list[Certificate]) -> list[tuple[Any, Certificate]]:
    if isinstance(found, list):
        values = [None] * len(found) if not isinstance(asked, (tuple, list)) else list(asked)
        assert len(values) == len(found), f"{len(found)} certificates for {asked}"
        certified = [one for one in found if one.radius is not None]
        ordered = sorted(certified, key=lambda one: one.eps)
        rising = all(a.radius <= b.radius for a, b in pairwise(ordered))
        assert rising or found[0].rule == "measured", f"radii fall: {found}"  # whose ranks are chosen for each eps
        return list(zip(values, found, strict=True))
    return [(asked, found)]


def contradiction(certificate: Certificate, eps: Any, smoother: Smoother) -> str:
    """A statement of a certificate that cannot be; empty if there is none."""
    radius, outcome = certificate.radius, certificate.outcome
    if (radius is None) != (outcome is not Outcome.CERTIFIED):
        return f"radius {radius} where the outcome is {outcome.value}"
    if radius is not None and (not math.isfinite(radius) or radius < 0):
        return f"radius {radius}"
    if (radius is None) and not (certificate.reason or outcome.message):
        return "neither a radius nor a reason"
    if eps is not None and certificate.eps != float(eps):
        return f"eps {certificate.eps} instead of {eps}"
    if not math.isfinite(certificate.eps) or certificate.eps < 0:
        return f"eps {certificate.eps}"
    if certificate.about not in ("run", "map") or certificate.about != smoother.certifier.about(smoother.rule):
        return f"about {certificate.about}"
    if certificate.rule != smoother.rule or certificate.certifier != smoother.certifier.name:
        return f"of {certificate.certifier} by {certificate.rule}"
    if certificate.threat != smoother.noise.threat.unit:
        return f"threat {certificate.threat}"
    if not 0 <= certificate.alpha < 1:
        return f"alpha {certificate.alpha}"
    if radius is not None and (certificate.answer is None or bool(certificate.answer.isnan().any())):
        return f"answer {certificate.answer}"
    lines = max(len(text.splitlines()) for text in (str(certificate), repr(certificate)))
    return "" if lines == 1 else f"{lines} lines"
