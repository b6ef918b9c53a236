"""The configuration: its schema, and how a request becomes numbers.

Three layers, later ones win: ``configs/config.yaml`` and the experiment's file; the experiment's budget, which fills
in every null; the command line. `resolve` returns a complete `Config`, or a `RunError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from csrun.adapters import plain_adapter
from csrun.errors import RunError
from csrun.help import config_folder, described, options
from csrun.registry import (
    ATTACKS,
    CERTIFIERS,
    DATA,
    DEVICES,
    EXECUTORS,
    MODELS,
    NOISES,
    OPTIMIZERS,
    PRECISIONS,
    meant,
    require_known,
    require_metric,
)
from csrun.training.names import method_named

_Value = TypeVar("_Value")


@dataclass
class DataConfig:
    """``name`` of the data set, ``path`` of a folder that holds it."""

    name: str = MISSING
    path: str | None = None


@dataclass
class GridConfig:
    """Sizes ``eps`` of perturbations, in the unit of the threat, times ``h = eps/scale``, or times fixed ``scale``."""

    eps: list[float] | None = None
    h: list[float] | None = None
    scale: list[float] | None = None


@dataclass
class PointsConfig:
    """Test points ``start .. start + count - 1``, in file or index order."""

    start: int = 0
    count: int | None = None


@dataclass
class TrainConfig:
    """The training schedule, and the methods: ``augment`` trains with the smoothing noise, ``none`` without.

    A method may have parameters, ``consistency[weight=5]``.
    """

    epochs: int | None = None
    images: int | None = None
    batch_size: int | None = None
    method: list[str] = field(default_factory=lambda: ["augment"])
    optimizer: str = "adam"


@dataclass
class AttackerConfig:
    """Effort of ``attack``: on the first ``points``, each ``x'`` judged by ``runs`` runs of the smoothed model."""

    points: int = 10
    steps: int = 20
    restarts: int = 2
    draws: int = 64
    runs: int = 4


@dataclass
class RayConfig:
    """``executor=ray``: the cluster, what a task takes of it, and how much is under way at once.

    ``address``: ``local`` starts a cluster of this machine's own, ``auto`` looks for a running one. ``gpus``: null is 1
    with ``device=cuda`` and none without. ``in_flight``: null is twice what the cluster can run at once.
    """

    address: str = "local"
    cpus: int = 1
    gpus: float | None = None
    in_flight: int | None = None
    points_a_task: int = 1


WEIGHTS = ("biggan", "dcgan", "vgg")
"""Pre-trained weights that do not come with a package: places on disk, by the names of ``weights.<name>``."""

PATHS = ("out", "data.path", *(f"weights.{name}" for name in WEIGHTS), "hydra.launcher.submitit_folder")
"""Settings whose values are paths; the command line takes them as text (`csrun.cli`)."""


@dataclass
class Config:
    """Everything `cs-run` takes."""

    name: str = MISSING
    title: str = ""
    models: list[str] = MISSING
    metrics: list[str] = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    points: PointsConfig = field(default_factory=PointsConfig)
    cells: list[str] | None = None
    train: TrainConfig = field(default_factory=TrainConfig)
    budget: str = "auto"
    budgets: dict[str, Any] = field(default_factory=dict)
    n: int | None = None
    m: int | None = None
    n0: int = 0
    delta: float | None = None
    alpha1: float = 0.005
    alpha2: float = 0.005
    certifiers: list[str] = field(default_factory=lambda: ["center"])
    rule: str | None = None
    leading: dict[str, str] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=lambda: {"name": "gaussian"})
    unit_slip: bool = False
    attack: str = "none"
    attacker: AttackerConfig = field(default_factory=AttackerConfig)
    seed: int = 0
    device: str = "auto"
    out: str = "runs"
    wait: bool = False
    executor: str = "local"
    workers: int | str = "auto"
    ray: RayConfig = field(default_factory=RayConfig)
    batch_size: int = 1024
    forward_block: int = 128
    precision: str = "float32"
    weights: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(WEIGHTS))
    adapters: list[str] = field(default_factory=list)
    model: str | None = None
    metric: str | None = None
    certifier: str | None = None
    adapter: str | None = None
    recommend: bool = False
    dry_run: bool = False


_HOST_PORT = re.compile(r"[\w.-]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\]:[0-9]{1,5}")

_FOLDER_NAME = re.compile(r"(?!checkpoints$)[\w-]+")
"""Beside it lie the cells, whose names have dots, and the checkpoints."""

KEYS = {
    "experiment, data, noise, train": "files of settings by name, as --help experiments, data, noise, train list them",
    "name, title": "folder and title of the results",
    "budget, budgets": "paper, cpu, smoke; full of the paper's experiments; auto is paper with CUDA and cpu without",
    "models, metrics": 'lists, e.g. "models=[autoencoder]" "metrics=[tv,l2]"',
    "grid.eps, grid.h, grid.scale": "sizes of perturbations, and eps/scale; or scales of the noise (with grid.h=null)",
    "points.count, points.start": "which test points",
    "cells": "only these cells of the request, a list of names from the table of --dry-run",
    "n, m, n0, delta": "draws for center, radius, candidates; slack of the center's mass",
    "alpha1, alpha2": "failure probabilities of the smoothed output and of the radius",
    "noise.name": "smoothing law; noise.* is what it has beside its scale",
    "certifiers": 'smoothed models, all from the same draws, e.g. "certifiers=[center,center_free,mean]"',
    "rule": "of the first certifier, as in --help certifiers: table and figures lead with it",
    "leading": "of experiment files: the rule that a certifier leads with, where rule is not set",
    "unit_slip": "true: report what the released code's unit slip would give, as no certificate",
    "attack": "pgd or search: move certified outputs as far as possible, beside the certificates in table and figure",
    "attacker.points, .steps, .restarts, .draws": "first points; gradient steps or queries, starts, draws of each",
    "attacker.runs": "runs of the smoothed model, on fresh draws, that judge an attacked input",
    "recommend": "true: which certifier, rule, scale and counts to ask for, from a pilot on points outside the request",
    "train.epochs, .images, .batch_size, .method": 'training schedule; "train.method=[augment,none]" for the ablation',
    "train.optimizer": "adam; adam_stages or sgd, whose rates fall to a tenth after each third (docs/training.md)",
    "model, metric, certifier": "lists of one; your own: package.module:factory (experiment=custom; docs/custom.md)",
    "adapters, adapter": 'of a model of your own that returns no tensor: "adapters=[key:out,argmax]" (--help models)',
    "data.name": "data set, as data=NAME",
    "data.path": "folder that holds the data (else $CENTERSMOOTH_DATA, else downloaded); paths are text, commas too",
    "weights.biggan, .dcgan, .vgg": "pre-trained: a folder, and two files (else $CENTERSMOOTH_DATA, else downloaded)",
    "device, seed, out": "auto, cpu or cuda; an integer; the folder of all results (runs)",
    "dry_run": "true: as the flag --dry-run",
    "wait": "true: wait for what another run is working on, a cell or a checkpoint, where this one would stop",
    "precision": "of the model's arithmetic, a part of it: float32; tf32 (CUDA) or bfloat16, faster with fewer digits",
    "workers": "processes that certify and train, one thread each: auto is a core each (1 with CUDA), or an integer",
    "executor": "local, or ray: points and trainings as tasks of a Ray cluster (docs/cluster.md)",
    "ray.address": "local (a cluster on this machine, loopback only), auto, or HOST:PORT of a running one",
    "ray.cpus, ray.gpus": "of a task; cpus are its threads, gpus may be a fraction",
    "ray.in_flight, ray.points_a_task": "tasks under way at once; points of a task",
    "batch_size, forward_block": "outputs held at once (no effect on results); inputs a call of the model (part of it)",
}
"""Help on each key, for `cs-run --help keys`."""


def unknown_key(key: str) -> str:
    """A line on a key that no setting has, with the one that may have been meant."""
    return f"'{key}' is not a setting: cs-run --help keys lists them{meant(key, settings())}"


def settings() -> list[str]:
    """Keys of all settings, dotted, and of what holds several.

    >>> [key for key in settings() if key.startswith("points")]
    ['points', 'points.start', 'points.count']
    """
    keys = []
    for one in fields(Config):
        holds_several = is_dataclass(one.default_factory)
        inner = [other.name for other in fields(one.default_factory)] if holds_several else []  # type: ignore[arg-type]
        keys += [one.name, *(f"{one.name}.{name}" for name in inner)]
    return [*keys, *(f"weights.{name}" for name in WEIGHTS)]


@cache
def register_schema() -> None:
    """Make the schema known to Hydra, so that a misspelt key fails at composition."""
    ConfigStore.instance().store(name="schema", node=Config)


def resolved(settings: Sequence[str]) -> Config:
    """A complete configuration, as `cs-run` has it for these settings."""
    import torch  # seconds that a refusal of `cs-run` does without
    from hydra import compose, initialize_config_dir

    register_schema()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return resolve(compose("config", list(settings)), torch.cuda.is_available())


def resolve(raw: Any, cuda: bool) -> Config:
    """A complete configuration from what Hydra composed.

    Parameters
    ----------
    raw : DictConfig
        Typed by the schema.
    cuda : bool
        Whether a CUDA device is there: decides ``device: auto`` and ``budget: auto``.
    """
    config = raw.copy()
    config.device = _device(config.device, cuda)
    config.workers = _workers(config.workers, config.device)
    if config.budget == "auto":
        config.budget = "paper" if config.device == "cuda" else "cpu"
    require_known("budget is", config.budget, ("auto", *config.budgets))
    chosen = OmegaConf.create({config.budget: config.budgets[config.budget]})[config.budget]
    if not OmegaConf.is_dict(chosen):
        raise RunError(f"budgets.{config.budget} is {chosen}: expected its counts, as in budgets.{config.budget}.n=100")
    _fill_nulls(config, chosen)
    try:
        resolved = _typed(config)
    except OmegaConfBaseException as error:
        raise RunError(str(error).splitlines()[0]) from error
    _require_known_names(resolved)
    resolved.noise = _plain_noise(resolved.noise)
    resolved.adapters = [plain_adapter(one) for one in resolved.adapters]
    resolved.title = _title(resolved)
    return _validated(resolved)


def _plain_noise(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A request for a law in one form: what is the default left out, whole numbers as such, infinity as a word.

    So that a default that was set is the cell of one that was not, and manifests are plain JSON.

    >>> _plain_noise({"name": "gaussian", "p": 2.0}), _plain_noise({"name": "gaussian", "p": math.inf})
    ({'name': 'gaussian'}, {'name': 'gaussian', 'p': 'inf'})
    """
    defaults = NOISES[asked["name"]].parameters
    plain = {key: _plain(value) for key, value in asked.items()}
    return {key: value for key, value in plain.items() if key not in defaults or value != defaults[key].default}


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else "inf" if value == math.inf else value


def _title(config: Config) -> str:
    """The title of table and figures; it says where the data are not those that the experiment's own title names."""
    own = described(config.name) if config.name in options("experiment") else {}
    borrowed = own.get("title") == config.title and own.get("data") != config.data.name
    return f"{config.title}; here on {config.data.name}" if borrowed else config.title


def require_known_names(raw: Any) -> None:
    """Refuse misspelt names in what Hydra composed; without PyTorch, so that it is said at once.

    Raises
    ------
    RunError
    """
    try:
        config = _typed(raw.copy())
    except OmegaConfBaseException:
        return  # it may refer to what a budget has yet to fill in: `resolve` looks again
    _require_known_names(config)


def _typed(asked: Any) -> Config:
    """A request as an object, by the schema once more: grid.eps=${n} brings a value of another type. Changes it."""
    for one in ("model", "metric", "certifier", "adapter"):
        many = f"{one}s"
        if asked[one] is not None:
            asked[many] = [asked[one]]
    OmegaConf.resolve(asked)  # which looks at types again
    _require_known_keys(asked, Config)
    _require_flat_lists(OmegaConf.to_container(asked, throw_on_missing=True))
    config = OmegaConf.to_object(asked)
    assert isinstance(config, Config)
    return config


def _require_known_keys(asked: Any, schema: type, within: str = "") -> None:
    """Refuse a key that the schema does not have: Hydra adds those of +KEY=VALUE unseen."""
    known = {one.name for one in fields(schema)}
    for key in asked:
        if key not in known:
            raise RunError(unknown_key(f"{within}{key}"))
        of_key = OmegaConf.get_type(asked, key)
        if is_dataclass(of_key):
            _require_known_keys(asked[key], of_key, f"{within}{key}.")


def _require_flat_lists(asked: Any) -> None:
    """Refuse lists and mappings within a list, which OmegaConf takes for values of any type."""
    for key, value in _leaves(asked).items():
        for one in value if isinstance(value, list) else ():
            if isinstance(one, (list, Mapping)):
                raise RunError(f"{key} has {one}: expected a list of single values, such as names or numbers")


def _require_known_names(config: Config) -> None:
    """Refuse names that nothing has, and combinations of them."""
    for key in ("models", "metrics", "certifiers"):
        if not getattr(config, key):
            raise RunError(f"{key} is empty: expected at least one name, or {key[:-1]}=package.module:factory")
    for model in config.models:
        if ":" not in model:
            require_known("models has", model, MODELS, more=", or package.module:factory")
    for adapter in config.adapters:
        plain_adapter(adapter)
    registered = [model for model in config.models if ":" not in model]
    if config.adapters and registered:
        raise RunError(
            f"adapters has '{config.adapters[0]}', and models has '{registered[0]}', which returns one tensor: "
            "expected package.module:factory"
        )
    for metric in config.metrics:
        if ":" not in metric:
            require_metric(metric, config.models)
    for certifier in config.certifiers:
        if ":" not in certifier:
            require_known("certifiers has", certifier, CERTIFIERS, more=", or package.module:factory")
    first = config.certifiers[0]
    if config.rule is not None and first in CERTIFIERS:
        require_known("rule is", config.rule, CERTIFIERS[first].every_rule, more=f" for the certifier {first}, or null")
    for method in config.train.method:
        method_named(method)
    for setting, name, known in (
        ("data.name", config.data.name, DATA),
        ("budget", config.budget, ("auto", *config.budgets)),
        ("device", config.device, DEVICES),
        ("noise", str(config.noise.get("name")), NOISES),
        ("attack", config.attack, ATTACKS),
        ("executor", config.executor, EXECUTORS),
        ("precision", config.precision, PRECISIONS),
        ("train.optimizer", config.train.optimizer, OPTIMIZERS),
    ):
        require_known(f"{setting} is", name, known)
    noise = str(config.noise["name"])
    if not NOISES[noise].ratio and config.grid.scale is not None:
        config.grid.h = None  # of the experiment's file, which is for laws that have a ratio
    if config.grid.h is not None and not NOISES[noise].ratio:
        raise RunError(f"grid.h is set, and {noise} noise has no ratio h = eps/scale: expected grid.scale")


def filled(key: str, value: _Value | None) -> _Value:
    """A setting that the experiment's budget fills in.

    Raises
    ------
    RunError
        It does not.
    """
    if value is None:
        raise RunError(f"{key} is null, and the budget has no value for it: set {key}")
    return value


def at_least(least: int, key: str, value: int | None) -> int:
    """A setting that is an integer of at least ``least``.

    Raises
    ------
    RunError
    """
    if value is None or value < least:
        raise RunError(f"{key} is {value}: expected an integer of at least {least}")
    return value


def _device(name: str, cuda: bool) -> str:
    if name == "auto":
        return "cuda" if cuda else "cpu"
    if name == "cuda" and not cuda:
        raise RunError("device is 'cuda' but PyTorch sees no CUDA device: use device=cpu or device=auto")
    return name


def _workers(asked: int | str, device: str) -> int:
    """Number of processes that ``workers`` asks for: one on a GPU, else one for each core this process may use."""
    if asked == "auto":
        import loky  # a tenth of a second, which --help can do without

        return 1 if device == "cuda" else loky.cpu_count()
    if not isinstance(asked, int) or asked < 1:
        raise RunError(f"workers is '{asked}': expected auto or an integer of at least 1")
    return asked


def _fill_nulls(config: Any, defaults: Any) -> None:
    for key, value in defaults.items():
        if OmegaConf.is_dict(value):
            if not OmegaConf.is_dict(config[key]):
                raise RunError(f"the budget's {key} is {value}: expected a value for {key}")
            _fill_nulls(config[key], value)
        elif config[key] is None:
            config[key] = value


def _require_paper(budgets: Mapping[str, Any]) -> None:
    """Refuse a paper's budget without the counts with which tables compare those of a run."""
    counts = _leaves(budgets.get("paper"))
    trained = [f"train.{key}" for key in ("epochs", "images") if f"train.{key}" in counts]
    for key in ("n", "m", "points.count", *trained):
        if not isinstance(counts.get(key), int):
            raise RunError(f"budgets.paper.{key} is {counts.get(key, 'not there')}: expected an integer")


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Values of nested mappings, by dotted keys."""
    if not isinstance(value, Mapping):
        return {path.removesuffix("."): value}
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= _leaves(one, f"{path}{key}.")
    return found


def _validated(config: Config) -> Config:
    _require_paper(config.budgets)
    for key, value, least in (
        ("points.count", config.points.count, 1),
        ("points.start", config.points.start, 0),
        ("seed", config.seed, 0),
        ("batch_size", config.batch_size, 1),
        ("forward_block", config.forward_block, 1),
        *((f"attacker.{key}", value, 1) for key, value in vars(config.attacker).items()),
        ("ray.points_a_task", config.ray.points_a_task, 1),
        ("ray.in_flight", 1 if config.ray.in_flight is None else config.ray.in_flight, 1),
    ):
        at_least(least, key, value)
    if config.seed >= 2**63:
        raise RunError(f"seed is {config.seed}: expected an integer below 2**63")
    if not _FOLDER_NAME.fullmatch(config.name):
        raise RunError(f"name is '{config.name}': expected letters, digits, - and _, for it names the results' folder")
    if config.precision == "tf32" and config.device == "cpu":
        raise RunError("precision is 'tf32' with device=cpu, which has none: expected float32 or bfloat16")
    if config.recommend and (config.certifiers, config.rule, config.attack) != (["center"], None, "none"):
        raise RunError("recommend is true, which chooses certifier and rule: leave out certifiers, rule and attack")
    if config.wait and config.executor == "ray":
        raise RunError("wait is true with executor=ray, which holds all its cells at once: expected wait=false")
    for names in (config.models, config.metrics, config.certifiers):
        names[:] = dict.fromkeys(names)  # one named twice is asked for once
    validate_ray(config.ray, config.device)
    grid_pairs(config.grid)
    return config


def validate_ray(ray: RayConfig, device: str) -> None:
    """Fill in the GPUs of a task; refuse what no task could use.

    Raises
    ------
    RunError
    """
    cuda = device == "cuda"
    if ray.cpus < 1:
        raise RunError(f"ray.cpus is {ray.cpus}: expected an integer of at least 1")
    if ray.gpus is None:
        ray.gpus = 1.0 if cuda else 0.0
    if not 0 <= ray.gpus <= 1 or cuda != (ray.gpus > 0):
        expected = "more than 0 and at most 1" if cuda else "0"
        raise RunError(f"ray.gpus is {ray.gpus:g}: expected {expected} with device={device}")
    if ray.address not in ("local", "auto") and not _HOST_PORT.fullmatch(ray.address):
        raise RunError(
            f"ray.address is '{ray.address}': expected local, auto or HOST:PORT, on a machine of the cluster"
        )


@dataclass(frozen=True, order=True)
class GridPoint:
    """One size of perturbations at one scale of the noise; ``h = eps/scale``, as asked for."""

    eps: float
    h: float
    scale: float


def grid_pairs(grid: GridConfig) -> list[GridPoint]:
    """Every (eps, h) of the grid with its scale; equal scales are equal floats, so that they share a cell.

    >>> [p.scale for p in grid_pairs(GridConfig(eps=[0.4, 0.6], h=[1.0, 1.5]))]
    [0.4, 0.266666666667, 0.6, 0.4]
    """
    if (grid.h is None) == (grid.scale is None):
        raise RunError("the grid needs grid.h or grid.scale, one of the two (set the other to null)")
    if not grid.eps:
        raise RunError("grid.eps is empty: expected at least one input radius")
    for key, values in (("eps", grid.eps), ("h", grid.h), ("scale", grid.scale)):
        for value in values or []:
            if not (math.isfinite(value) and value > 0):
                raise RunError(f"grid.{key} has {value}: expected positive numbers")
    if grid.scale is not None:
        return [GridPoint(eps, _short(eps / scale), _short(scale)) for scale in grid.scale for eps in grid.eps]
    return [GridPoint(eps, h, _short(eps / h)) for eps in grid.eps for h in grid.h or []]


def _short(value: float) -> float:
    """Rounded to 12 significant digits: 0.6/1.5 and 0.4/1 are one noise level."""
    return float(f"{value:.12g}")
