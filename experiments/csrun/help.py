"""``cs-run --help`` and its topics, from the registry and the configuration files; imports nothing that takes time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from textwrap import wrap
from typing import Any

from csrun import registry

_EXAMPLES = {
    "cs-run": "the built-in digits, a few minutes on two cores",
    "cs-run experiment=tv_mnist budget=cpu": "an experiment of the paper, at counts for a CPU",
    'cs-run "metrics=[l1,l2]" "certifiers=[center,mean]"': "two distances, two certifiers, the same draws",
    'cs-run data=mnist train=none "grid.eps=[0.2,0.4]"': "other data, training and sizes of perturbations",
    "cs-run experiment=custom model=mine:model data.path=x.npy": "your own model",
}

_COMMON = {
    "experiment": "one of --help experiments; sets all that follows, and what you set wins",
    "budget": "auto, paper, full, cpu or smoke: counts of draws, points and training",
    "data, data.path": "data set, and the folder that holds it",
    "models, metrics": 'lists, as in "metrics=[tv,l2]"',
    "certifiers": "list of smoothed models, with their certificates",
    "rule": "rule of the first certifier that table and figures lead with",
    "noise": "smoothing law",
    "train": "augment, none, ablation, smoothmix, ...: training with the noise, without, or both",
    "grid.eps, grid.h": "sizes of perturbations, and eps/scale; or grid.scale with grid.h=null",
    "points.count": "number of test points",
    "n, m, delta": "draws for the center and for the radius; slack of the center",
    "attack": "pgd or search: move certified outputs as far as possible",
    "device, workers, seed": "auto, cpu or cuda; processes; an integer",
    "out": "folder of all results (runs)",
}

_FLAGS = {
    "--help TOPIC": "",
    "--dry-run": "say cells, forward passes, time and memory, and do nothing",
    "--cfg job": "print the composed configuration",
    "--multirun": "sweep: cs-run --multirun experiment=tv_digits,tv_mnist",
    "--debug, --version": "show the traceback of an error; the version",
}


def config_folder() -> Path:
    """Folder of the configuration files, in a checkout and in an installed package alike."""
    return Path(str(files("csrun.configs")))


def options(group: str) -> list[str]:
    """Names of a group's files."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def groups() -> list[str]:
    """Names of the groups of configuration files, as in ``noise=gaussian``."""
    return sorted({path.parent.name for path in config_folder().glob("*/*.yaml")})


def experiments() -> dict[str, str]:
    """Name and title of every experiment, without composing anything."""
    return {name: described(name)["title"] for name in options("experiment")}


def described(name: str) -> dict[str, Any]:
    """Facts of an experiment, without composing: its file over those it starts from, with the groups they choose."""
    own = _read(config_folder() / "experiment" / f"{name}.yaml")
    facts: dict[str, Any] = {}
    for default in own.get("defaults", []):
        if isinstance(default, Mapping):
            facts |= {key.removeprefix("override /"): choice for key, choice in default.items()}
        elif default != "_self_":
            facts |= described(default)
    chosen = {key: value for key, value in own.items() if key != "defaults"}
    return facts | chosen | {key: facts.get(key, {}) | own.get(key, {}) for key in ("grid", "budgets")}


@cache
def _read(file: Path) -> dict[str, Any]:
    """A configuration file, parsed once: many experiments start from the same ones."""
    import yaml

    own: dict[str, Any] = yaml.safe_load(file.read_text())
    return own


def told(topic: str) -> str:
    """Help on a topic; without one, on the command.

    Raises
    ------
    RunError
        There is no such topic.
    """
    if not topic:
        return "\n".join(_overview())
    registry.require_known("--help has", topic, _TOPICS)
    return "\n".join(_TOPICS[topic]())


def _overview() -> list[str]:
    topics = _FLAGS | {"--help TOPIC": f"all there is: {', '.join(_TOPICS)}"}
    return [
        "cs-run: certify the outputs of a model by center smoothing, and plot the result",
        "",
        *_table(_EXAMPLES),
        "",
        "The same command continues where it was stopped, and never computes a point twice.",
        "",
        "Settings (KEY=VALUE)",
        *_table(_COMMON),
        "",
        "Flags",
        *_table(topics),
        "",
        "Exit codes: 0 done, 1 some points failed, 2 a request that cannot be served, 70 a defect",
        "or certificates broken by an attack, 130/143 interrupted",
    ]


def _table(lines: Mapping[str, str]) -> list[str]:
    width = max(map(len, lines))
    return [f"  {name:<{width}}  {text}" for name, text in lines.items()]


def _experiments() -> list[str]:
    width = max(map(len, options("experiment")))
    lines = ["Experiments (experiment=NAME); figures are the paper's"]
    for name in options("experiment"):
        facts = described(name)
        grid = "; ".join(f"{key} {_listed(values)}" for key, values in facts["grid"].items() if values)
        models = f"models {_listed(facts['models'])}" if facts["models"] else "your own model"
        lines += [f"  {name:<{width}} {facts['title']}"]
        certifiers = facts.get("certifiers", ["center"])
        parts = [f"data {facts['data']}", models, f"certifiers {_listed(certifiers)}"]
        if any(registry.entry_of(one).measured for one in certifiers):
            parts.append(f"metrics {_listed(facts['metrics'])}")
        lines += wrap("; ".join([*parts, grid]), 118, initial_indent=6 * " ", subsequent_indent=8 * " ")
    return lines


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _models() -> list[str]:
    width = max(map(len, registry.MODELS))
    lines = ['Models ("models=[NAME,...]"), with the metrics they offer; your own: model=package.module:factory']
    for name, entry in registry.MODELS.items():
        lines += [f"  {name:<{width}} {entry.help}: {_listed(entry.metrics)}"]
    lines += ["", 'Adapters of your own model that returns no tensor, in their order: "adapters=[key:out,argmax]"']
    return lines + _table({entry.usage(name): entry.help for name, entry in registry.ADAPTERS.items()})


def _metrics() -> list[str]:
    width = max(map(len, registry.METRICS))
    lines = ['Metrics ("metrics=[NAME,...]"), with their range and the models that offer them;']
    lines += ["your own: metric=package.module:factory, in which any model of your own may be measured"]
    for name, entry in registry.METRICS.items():
        offering = [model for model, one in registry.MODELS.items() if name in one.metrics]
        reach = "from 0" if math.isinf(entry.largest) else f"0 to {entry.largest:g}"
        line = f"  {name:<{width}} {entry.help}; {reach}; {_listed(offering)}"
        lines += wrap(line, width=120, subsequent_indent=" " * (width + 3))
    return lines


def _data() -> list[str]:
    lines = ["Data sets (data=NAME); data.path=FOLDER holds the files (else $CENTERSMOOTH_DATA, else downloaded)"]
    return lines + _table({name: entry.help for name, entry in registry.DATA.items()})


def _noise() -> list[str]:
    width = max(map(len, registry.NOISES))
    lines = ["Noise (noise=NAME); grid.scale and grid.eps are in the unit of the model's input, which the table names"]
    for name, entry in registry.NOISES.items():
        grid = f"grid.h = eps/{entry.symbol}, or grid.scale" if entry.ratio else "grid.scale, no grid.h"
        lines += [f"  {name:<{width}} {entry.help}"]
        lines += [f"      scale {entry.symbol}: {entry.size}; eps: {entry.threat}; grid: {grid}"]
        for key, one in entry.parameters.items():
            lines += [f"      noise.{key}={one.default} by default; {one.help}"]
    return lines


def _certifiers() -> list[str]:
    width = max(map(len, registry.CERTIFIERS))
    lines = ['Certifiers ("certifiers=[NAME,...]"), all from the same draws, with their rules (rule=NAME);']
    lines += ["*: table and figures lead with it unless told otherwise; run: about the answer of a fresh run;"]
    lines += ["map: about the smoothed function itself; your own: certifier=package.module:factory"]
    for name, entry in registry.CERTIFIERS.items():
        lines += [f"  {name:<{width}} {entry.help}", f"      rules {_rules(entry)}"]
        lines[-1] += f"; radius: {entry.distance or 'in the metrics'}"
    return lines


def _rules(entry: registry.CertifierEntry) -> str:
    star = registry.leading_rule(entry.rules)
    return _listed(
        f"{rule}{'*' * (rule == star)} ({'map' if rule in entry.of_map else 'run'})" for rule in entry.every_rule
    )


def _train() -> list[str]:
    width = max(map(len, registry.METHODS))
    lines = ["Training (train=NAME) of models that are trained here"]
    lines += _table({name: _first_comment(config_folder() / "train" / f"{name}.yaml") for name in options("train")})
    lines += ["", 'Methods ("train.method=[NAME,...]"), with their parameters: \'train.method=["NAME[KEY=NUMBER]"]\'']
    for name, entry in registry.METHODS.items():
        lines += [f"  {name:<{width}} {entry.help}"]
        for key, one in entry.parameters.items():
            first, *later = (f"{value:.4g}" for value in one.defaults.values())
            also = [f"{value} from scale {start:g}" for start, value in zip([*one.defaults][1:], later, strict=True)]
            lines += [f"      {key}={', '.join([first, *also])} by default; {one.help}"]
    return lines


def _first_comment(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("# ").rstrip(".")


def _keys() -> list[str]:
    from csrun.config import KEYS

    lines = ["Settings (KEY=VALUE)"]
    for keys, text in KEYS.items():
        first, *more = wrap(text, width=76)
        lines += [f"  {keys:<42} {first}", *(f"  {'':<42} {line}" for line in more)]
    return lines


_TOPICS: dict[str, Callable[[], Sequence[str]]] = {
    "experiments": _experiments,
    "models": _models,
    "metrics": _metrics,
    "data": _data,
    "noise": _noise,
    "certifiers": _certifiers,
    "train": _train,
    "keys": _keys,
}
