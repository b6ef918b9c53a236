"""Requests in the registry's names, and whether the library can serve them.

Every noise, certifier, metric and adapter of the registry is asked for, as well as a user's own. What is to be
served is found by the library's own checks, without the runner: of the law, the counts, the metrics and a few outputs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from requests_inputs import DATA
from requests_own import WORLDS
from torch import Tensor

from centersmooth import Attack, Budget, Noise
from centersmooth.certifiers import Certifier
from centersmooth.errors import CenterSmoothError
from centersmooth.gathering import Setting
from centersmooth.metrics.base import features_of
from centersmooth.sampling import RandomStream, Sampler, evaluating
from csrun.certifiers import build_certifiers, prototypes
from csrun.data import DataSet, load_data
from csrun.errors import RunError
from csrun.metrics import build_metrics
from csrun.models import in_type_of, model_spec
from csrun.models.base import BaseModel
from csrun.noise import noise_of
from csrun.registry import CERTIFIERS, METRICS, MODELS, NOISES, entry_of, leading_rule
from csrun.training.checkpoints import kind_of

BLOCK = 64
OWN = "requests_own:"

_SCALES = {"ablation": (20.0, 48.0), "patch": (3.0, 5.0), "rotation": (10.0, 30.0), "scaling": (0.1, 0.3)}
"""Scales of laws that have no certificates at the scale of all others, or refuse it."""

_VALUES: dict[str, tuple[Any, ...]] = {"p": (1, 2, 3, 1.5, "inf"), "law": ("exponential", "folded_normal", "uniform")}
_VALUES["low_pass"] = (1, 0.5)
"""Values of parameters of laws; other parameters take half and twice their default."""

_SIZES = (1.0, 0.5, 0.2, 0.05, 0.01, 1e-3)
"""Sizes of perturbations tried one after the other, in scales of the noise."""

_TRAINED = tuple(
    name
    for name, entry in MODELS.items()
    if entry.trained and not (entry.fixed or entry.packages) and entry.metrics != ("hamming",)
)
"""Models that are trained in a moment on the digits, which have no classes of pixels."""


_FILES = tuple(kind for kind, place in DATA.items() if place.served)
_EIGHT_BIT = ("bytes", "grey images", "archive")


METRICS_ASKED = tuple(name for name, entry in METRICS.items() if "lpips" not in entry.packages)
"""Metrics that need no weights."""


@dataclass(frozen=True)
class Model:
    """A model, and the data that it is asked with.

    Attributes
    ----------
    train : tuple of str
        Names of training methods.
    """

    name: str
    metrics: tuple[str, ...]
    adapters: tuple[str, ...] = ()
    data: str = "digits"
    train: tuple[str, ...] = ("none",)

    @property
    def own(self) -> bool:
        return ":" in self.name


MODELS_ASKED = [Model(OWN + world.model, world.metrics, world.adapters) for world in WORLDS]
MODELS_ASKED += [Model(name, MODELS[name].metrics) for name in _TRAINED]


@dataclass(frozen=True)
class Request:
    """A request in the registry's names.

    Attributes
    ----------
    noise : tuple of (str, value)
        The name of a law, and what else it has.
    sizes : tuple of float
        In ``h`` or scales of the noise.
    budget : Budget
    path : str
        Of inputs in files; empty for the digits.
    """

    model: Model
    noise: tuple[tuple[str, Any], ...]
    metrics: tuple[str, ...]
    certifiers: tuple[str, ...]
    rule: str | None
    eps: tuple[float, ...]
    sizes: tuple[float, ...]
    in_h: bool
    points: range
    seed: int
    budget: Budget
    attack: str = "none"
    path: str = ""

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        sizes = ("grid.h", "grid.scale") if self.in_h else ("grid.scale", "grid.h")
        noise = dict(self.noise)
        asked: dict[str, Any] = {"experiment": self.folder, "noise": noise.pop("name")}
        asked |= {"models": _list([self.model.name]), "adapters": _list(self.model.adapters)}
        asked |= {f"noise.{key}": value for key, value in noise.items()}
        asked |= {"metrics": _list(self.metrics), "certifiers": _list(self.certifiers)}
        asked |= {"grid.eps": _list(self.eps), sizes[0]: _list(self.sizes), sizes[1]: "null"}
        asked |= {"points.start": self.points.start, "points.count": len(self.points), "seed": self.seed}
        asked |= {key: getattr(self.budget, key) for key in ("n", "m", "n0", "delta", "alpha1", "alpha2")}
        asked |= {"train.method": _list(self.model.train), "attack": self.attack}
        asked |= {"attacker.steps": 2, "attacker.restarts": 1, "attacker.draws": 8, "attacker.runs": 1}
        asked |= {"data": "files", "data.path": self.path} if self.path else {"data": self.model.data}
        return [f"{key}={value}" for key, value in asked.items()] + ([f"rule={self.rule}"] if self.rule else [])

    @property
    def folder(self) -> str:
        """The name of the experiment, and of its folder."""
        return "custom" if self.model.own else "tv_digits"

    @property
    def scales(self) -> dict[float, list[tuple[float, float]]]:
        """Scales of the noise, with the eps and sizes that are certified at each."""
        found: dict[float, list[tuple[float, float]]] = {}
        for eps, size in product(self.eps, self.sizes):
            found.setdefault(float(f"{eps / size:.12g}") if self.in_h else size, []).append((eps, size))
        return found


def _list(values: Any) -> str:
    return f"[{','.join(map(str, values))}]"


@dataclass(frozen=True)
class Served:
    """What the library serves of a request.

    Attributes
    ----------
    rows : tuple
        Names of its rows: training, certifier, metric, rule, eps, h or scale, point.
    """

    rows: tuple[tuple[object, ...], ...]


def served(request: Request) -> Served | str:
    """What the library makes of a request, or the reason why it cannot."""
    try:
        if request.in_h and not NOISES[dict(request.noise)["name"]].ratio:
            return "no ratio"
        return Served(tuple(_rows(request)))
    except (CenterSmoothError, RunError, OSError) as error:
        return str(error)


def _rows(request: Request) -> Iterator[tuple[object, ...]]:
    """Names of rows; an error of the library's or the runner's where there are none."""
    data = _data(request)
    idle = [m for m in request.model.train if not request.model.own and not _fits_training(m, request.model.name)]
    if idle:
        raise RunError(f"{idle} do not train the model")
    if request.points.stop > len(data.test):
        raise RunError("not so many points")
    possible = False
    for scale, pairs in request.scales.items():
        law = noise_of(dict(request.noise), scale)
        model, x = _model(request, data, law)
        sampler = Sampler(model, law, BLOCK, 1024, model.output_range).at(x)
        setting = Setting.of(sampler, request.budget)
        metrics = build_metrics(request.metrics, {}, "cpu")
        suited = [(name, *one) for name in request.certifiers for one in _suited(name, metrics, setting, model)]
        if missing := set(request.certifiers) - {name for name, *_ in suited}:
            raise RunError(f"{missing} suit none of the metrics")
        _check_outputs(request, sampler, x, metrics, [(one, setting) for _, _, one in suited])
        possible = possible or _possible(request, metrics, setting, [eps for eps, _ in pairs])
        for (name, metric, one), (eps, size), point in product(suited, pairs, request.points):
            rules = (*one.rules, *(rule for rule in entry_of(name).apart if not one.of_rule(rule).unsuited(setting)))
            for method, rule in product(request.model.train if not request.model.own else ("",), rules):
                yield method, name, metric, rule, eps, size, point
    if not possible:
        raise RunError("counts by which the leading rule certifies nothing")


def _check_outputs(
    request: Request,
    sampler: Sampler,
    x: Tensor,
    metrics: Mapping[str, Any],
    certifiers: Sequence[tuple[Certifier, Setting]],
) -> None:
    """Refuse outputs that a metric, a certifier or an attack does not take."""
    with evaluating(sampler.model):
        outputs = sampler.check_model(x, list(metrics.values()))
    for metric in metrics.values():
        metric.pairwise(features_of(metric, outputs), features_of(metric, outputs))
    for one, setting in certifiers:
        one.check(setting, outputs)
        if request.attack != "none":
            attack = Attack(request.attack, 2, 1, 8)
            attack.require_gradients(sampler.noise, x)
            attack.check(sampler, one, x)


def _possible(request: Request, metrics: Mapping[str, Any], setting: Setting, several: Sequence[float]) -> bool:
    """Whether the leading rule certifies one of several eps, as far as that is known before the first draw.

    Of prototypes before those of the model are known, and of bounds where one holds for all points.
    """
    name = request.certifiers[0]
    first = next(iter(build_certifiers(name, metrics).values()))
    rule = request.rule or leading_rule(first.rules)
    leading, known = first.of_rule(rule), setting.noise.by_size or not setting.noise.local
    if rule in entry_of(name).apart and leading.unsuited(setting):
        return False
    return any(not leading.problem(setting, rule, eps if known else None) for eps in several)


def _suited(name: str, metrics: Mapping[str, Any], setting: Setting, model: BaseModel) -> list[tuple[str, Certifier]]:
    """The certifiers of one name that suit a setting, each with its metric."""
    if name in CERTIFIERS and CERTIFIERS[name].of_model:
        if model.prototypes is None:
            raise RunError("no prototypes")
        built = {"": prototypes(model.prototypes)}
    else:
        built = build_certifiers(name, metrics)
    return [(metric, one) for metric, one in built.items() if not one.unsuited(setting)]


def _fits_training(method: str, model: str) -> bool:
    return kind_of(method).fits(MODELS[model].target)


def _data(request: Request) -> DataSet:
    return load_data("files", request.path, 0) if request.path else _digits()


@cache
def _shared() -> tempfile.TemporaryDirectory[str]:
    """A folder of inputs in files, which lasts as long as this process."""
    return tempfile.TemporaryDirectory(prefix="inputs")


@cache
def inputs_in_files(kind: str) -> str:
    """The path of inputs of a kind, a key of `requests_inputs.DATA`."""
    folder = Path(_shared().name)
    return str(folder / DATA[kind].make(folder, kind))


@cache
def _digits() -> DataSet:
    return load_data("digits", None, 0)


def _model(request: Request, data: DataSet, law: Noise) -> tuple[BaseModel, Tensor]:
    """The model before any training, which changes neither its shapes nor what it declares; and the first input."""
    spec = model_spec(request.model.name, request.model.adapters)
    with torch.random.fork_rng():
        model = spec.build(data, {}, law).eval().requires_grad_(False)
    with torch.no_grad():
        return model, model.inputs(in_type_of(model, data.images(data.test, request.points[:1])))[0]


@cache
def takes(noise: tuple[tuple[str, Any], ...], scale: float, kind: str) -> bool:
    """Whether a law takes inputs of a kind in files, or the digits where that is empty."""
    data = load_data("files", inputs_in_files(kind), 0) if kind else _digits()
    return law_takes(noise, scale, data.images(data.test, range(1))[0])


def law_takes(noise: tuple[tuple[str, Any], ...], scale: float, x: Tensor) -> bool:
    """Whether a law takes an input."""
    try:
        noise_of(dict(noise), scale).at(x).sample(x, 1, RandomStream(0).draws("taken", 0, x))
    except (CenterSmoothError, RunError):
        return False
    return True


def certified_size(law: Noise, one: Certifier, rule: str, budget: Budget) -> float | None:
    """The largest of some sizes of perturbations that a rule certifies under a law; None if there is none."""
    sibling = one.of_rule(rule)
    setting = Setting(law, budget, (0.0, 1.0), BLOCK)
    if sibling.unsuited(setting):
        return None
    tried = [size * law.scale for size in _SIZES] + [1.0, 2.0]
    return next((float(f"{eps:.3g}") for eps in tried if not sibling.problem(setting, rule, eps)), None)


@st.composite
def noises(draw: st.DrawFn) -> tuple[tuple[tuple[str, Any], ...], float]:
    """A law in the registry's words, now and then with parameters of its own, and a scale."""
    name = draw(st.sampled_from(list(NOISES)))
    asked: dict[str, Any] = {"name": name}
    for key, parameter in NOISES[name].parameters.items():
        if draw(st.integers(0, 2)) == 0:
            default = parameter.default
            values = _VALUES.get(key) or (default, *((default / 2, default * 2) if default != str(default) else ()))
            asked[key] = draw(st.sampled_from(values))
    return tuple(asked.items()), draw(st.sampled_from(_SCALES.get(name, (0.5, 0.75))))


_METHODS = (("none",), ("none",), ("none",), ("augment",), ("none", "augment"), ("cross_entropy",))

BUDGETS = [Budget(n=40, m=150, delta=0.3, alpha1=0.05, alpha2=0.05), Budget(n=64, m=300, delta=0.25, alpha1=0.1)]
BUDGETS += [Budget(n=33, m=97, n0=20, delta=0.3, alpha1=0.04, alpha2=0.1)]


@st.composite
def right_requests(draw: st.DrawFn) -> Request:
    """Requests of which most are to be served; the others ask for what does not go together."""
    model = draw(st.sampled_from(MODELS_ASKED))
    if not model.own:
        fitting = [train for train in _METHODS if all(_fits_training(one, model.name) for one in train)]
        model = replace(model, train=draw(st.sampled_from(fitting if draw(st.integers(0, 9)) else _METHODS)))
    noise, scale = draw(noises())
    eight_bit = dict(noise)["name"] == "splitting_8bit"  # which the digits, of 17 grey values, are not
    files = [kind for kind in (_EIGHT_BIT if eight_bit else ("", "", *_FILES)) if takes(noise, scale, kind)]
    path = inputs_in_files(kind) if model.own and (kind := draw(st.sampled_from(files or [""]))) else ""
    metrics = draw(_some(model.metrics if draw(st.integers(0, 39)) else METRICS_ASKED, 2))
    budget = draw(st.sampled_from(BUDGETS))
    in_h = draw(st.booleans()) and NOISES[dict(noise)["name"]].ratio
    start, rule = draw(st.integers(0, 0 if path else 40)), None
    eps: float | None = None
    certifiers = draw(_some((*CERTIFIERS, OWN + "free", OWN + "label"), 3))
    if draw(st.integers(0, 19)):  # mostly what suits
        certifiers, rule, eps = _fitting(draw, model, noise, scale, metrics, certifiers, budget, path)
    eps = eps or draw(st.sampled_from((0.1, 1.0)))
    several = draw(st.booleans())
    return Request(
        model=model,
        noise=noise,
        metrics=metrics,
        certifiers=certifiers,
        rule=rule,
        eps=(eps, float(f"{eps / 2:.3g}")) if several else (eps,),
        sizes=(float(f"{eps / scale:.3g}"),) if in_h else (scale,),
        in_h=in_h,
        points=range(start, start + draw(st.sampled_from((1, 1, 1, 2)))),
        seed=draw(st.integers(0, 5)),
        budget=budget,
        path=path,
        attack=draw(st.sampled_from(("none",) * 12 + ("search", "pgd"))),
    )


def _fitting(
    draw: st.DrawFn,
    model: Model,
    noise: tuple[tuple[str, Any], ...],
    scale: float,
    metrics: tuple[str, ...],
    certifiers: tuple[str, ...],
    budget: Budget,
    path: str,
) -> tuple[tuple[str, ...], str | None, float | None]:
    """Those of some certifiers that suit model, law and metrics, or else all that do; a rule; an eps it certifies."""
    for names in (certifiers, (*CERTIFIERS, OWN + "free")):
        fitting = [name for name in names if _fits(model, noise, scale, metrics, name, budget, path)]
        if fitting:
            break
    else:
        return certifiers, None, None
    chosen = fitting if names is certifiers else [draw(st.sampled_from(fitting))]
    try:
        law = noise_of(dict(noise), scale).at(torch.ones(1, 8, 8))
        one = next(iter(build_certifiers(chosen[0], build_metrics(metrics, {}, "cpu")).values()))
        setting = Setting(law, budget, (0.0, 1.0), BLOCK)
        rules = [rule for rule in entry_of(chosen[0]).every_rule if not one.of_rule(rule).unsuited(setting)]
        rule = draw(st.sampled_from((None, *rules)))
        return tuple(chosen), rule, certified_size(law, one, rule or leading_rule(one.rules), budget)
    except (CenterSmoothError, RunError):
        return tuple(chosen), None, None


@cache
def _fits(
    model: Model,
    noise: tuple[tuple[str, Any], ...],
    scale: float,
    metrics: tuple[str, ...],
    name: str,
    budget: Budget,
    path: str,
) -> bool:
    """Whether a certifier suits a model's first input, whatever the eps."""
    one = Request(model, noise, metrics, (name,), None, (1e-3,), (scale,), False, range(1), 0, budget, path=path)
    reason = served(one)
    return not isinstance(reason, str) or reason.startswith("counts")


def _some(values: tuple[str, ...], most: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True).map(tuple)
