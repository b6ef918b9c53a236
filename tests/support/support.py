"""The command line and configurations composed as it does; a run of a second; a small BigGAN."""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from centersmooth import Budget, GaussianNoise
from centersmooth.gathering import Setting
from csrun.cli import main
from csrun.config import Config, register_schema, resolve
from csrun.help import config_folder, groups
from csrun.noise import noise_of
from csrun.registry import CERTIFIERS

SMALL = [
    "budget=smoke",
    "points.count=2",
    "grid.eps=[0.4]",
    "grid.h=[1]",
    "n=384",
    "m=384",
    "delta=0.17",
    "alpha1=0.02",
    "alpha2=0.02",
    "forward_block=64",
    "train.epochs=1",
    "train.images=100",
    "workers=1",
]
"""A run of half a second: one cell, two points, in one process, at counts that every rule can certify with."""


def counts_of(config: Config) -> Budget:
    """The counts of a configuration."""
    return Budget(config.n, config.m, config.delta, config.alpha1, config.alpha2, config.n0)


def own_problems(config: Config) -> list[str]:
    """What rules of certifiers with a distance of their own say against a grid: of each scale the least ``eps``.

    The largest may be too much.
    """
    setting, scales = Setting(GaussianNoise(1.0), counts_of(config), (0.0, 1.0)), config.grid.scale or []
    settings = [replace(setting, noise=noise_of(config.noise, scale)) for scale in scales]
    certifiers = [CERTIFIERS[name].build() for name in config.certifiers]
    asked = [(one, rule, each) for one in certifiers for rule in one.rules for each in settings]
    return [one.problem(each, rule, min(config.grid.eps)) for one, rule, each in asked]


CODE = "from csrun.cli import main; main()"
"""What the script `cs-run` does."""


ALONE = patch("csrun.executors.supervise.needed", return_value=False)

_MERGED: dict[object, bytes] = {}
"""Pickled, from which a copy is made several times faster than by `copy.deepcopy`."""

_merge = ConfigLoaderImpl._compose_config_from_defaults_list


def _merged_once(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    """Merge the files of a defaults list as Hydra does, once for each list."""
    places = tuple(source.path for source in repo.get_sources())
    key = places, tuple((one.config_path, one.package) for one in defaults)
    if key not in _MERGED:
        _MERGED[key] = pickle.dumps(_merge(loader, defaults, repo))
    merged: DictConfig = pickle.loads(_MERGED[key])
    return merged


MERGED_ONCE = patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", _merged_once)

_LISTED: dict[object, DefaultsList] = {}


def _listed_once(
    repo: IConfigRepository, config_name: str, overrides_list: list[Override], **how: bool
) -> DefaultsList:
    """List the files of a configuration as Hydra does, once for each choice of them."""
    values = Overrides(repo, overrides_list).config_overrides
    choices = [one for one in overrides_list if one not in values]
    places = tuple(source.path for source in repo.get_sources())
    key = places, config_name, tuple(how.items()), tuple(one.input_line for one in choices)
    if key not in _LISTED:
        _LISTED[key] = create_defaults_list(repo, config_name, choices, **how)
    return replace(_LISTED[key], config_overrides=values)


LISTED_ONCE = patch("hydra._internal.config_loader_impl.create_defaults_list", _listed_once)

COMPOSED_ONCE = patch("hydra._internal.hydra.Hydra.get_mode", return_value=None)
"""Hydra composes a configuration before it does so for the run, to look for ``hydra.mode``, which none of ours has."""


def cs_run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`cs-run` with these arguments, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


HEAVY = {"torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib", "sklearn", "lpips", "facenet_pytorch"}
"""Packages that take a command's first tenths of a second, or its first seconds."""

_EACH = """
import json, sys
from csrun.cli import main
requests, heavy = map(json.loads, sys.argv[1:])
for arguments in requests:
    try:
        main(arguments)
    except SystemExit as ended:
        print(json.dumps([ended.code or 0, sorted(set(heavy) & set(sys.modules))]), file=sys.stderr)
"""


def imported_by_requests(requests: list[list[str]]) -> list[tuple[int, set[str]]]:
    """How `cs-run` ends for each request, one after the other in one fresh process, and what is imported by then.

    Of `HEAVY` packages: the first request to import one is the first to show it.
    """
    command = [sys.executable, "-c", _EACH, json.dumps(requests), json.dumps(sorted(HEAVY))]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr
    answers = [json.loads(line) for line in said.splitlines() if line.startswith("[")]
    assert len(answers) == len(requests), said
    return [(code, set(heavy)) for code, heavy in answers]


class Answer(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def ask(*arguments: str, cwd: Path) -> Answer:
    """`cs-run` with these arguments in this process: seconds faster than `cs_run`, and the same but for signals.

    A warning that a process would print is in ``stderr`` here as well; what asks for Ray gets no process of its own.
    """
    path, command = list(sys.path), sys.argv
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    forget_own_modules()
    said, complained = io.StringIO(), io.StringIO()
    caching, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a module rewritten within a second is read again
    try:
        with (
            chdir(cwd),
            redirect_stdout(said),
            redirect_stderr(complained),
            warnings.catch_warnings(),
            ALONE,
            COMPOSED_ONCE,
            MERGED_ONCE,
            LISTED_ONCE,
        ):
            warn_as_a_process()
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
    finally:
        sys.dont_write_bytecode = caching
        for one, handler in handlers.items():
            signal.signal(one, handler)
        sys.argv, sys.path[:] = command, path
        forget_own_modules()
    return Answer(int(ended.value.code or 0), said.getvalue(), complained.getvalue())


def warn_as_a_process() -> None:
    """Undo what pytest does to warnings: Python's own filters, and lines on stderr."""
    warnings.resetwarnings()
    for quiet in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", quiet)

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)

    warnings.showwarning = show


def forget_own_modules() -> None:
    """Have modules in temporary folders imported anew: each test has its own, by names that others use too."""
    importlib.invalidate_caches()
    own = [name for name, one in sys.modules.items() if tempfile.gettempdir() in str(getattr(one, "__file__", ""))]
    for name in own:
        del sys.modules[name]


def compose(*overrides: str) -> Config:
    """The configuration a command line gives."""
    return resolve(compose_raw(*overrides), cuda=False)


def compose_raw(*overrides: str) -> DictConfig:
    """Configuration as Hydra hands it over: files are composed once, settings are applied to a copy by Hydra itself."""
    parsed = [_parsed(one) for one in overrides]
    files = groups()
    of_files = [one for one in parsed if one.key_or_group in files]
    raw: DictConfig = pickle.loads(_composed(config_folder(), *(one.input_line for one in of_files)))
    ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if one not in of_files], raw)
    return raw


_PARSER = OverridesParser.create()


@functools.cache
def _parsed(setting: str) -> Override:
    return _PARSER.parse_override(setting)


@functools.cache
def _composed(folder: Path, *overrides: str) -> bytes:
    """Pickle of a configuration that Hydra composes, from which `compose_raw` makes its copies."""
    register_schema()
    with initialize_config_dir(str(folder), version_base="1.3"):
        return pickle.dumps(hydra_compose("config", list(overrides)))


def small_biggan(folder: Path, z_dim: int) -> Path:
    """A BigGAN of 32x32 pixels, random weights and statistics, saved as the package's ``from_pretrained`` reads it."""
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig

    layers = [(True, 16, 8), (True, 8, 4), (False, 4, 2), (True, 2, 1)]
    config = BigGANConfig(output_dim=32, z_dim=z_dim, class_embed_dim=8, channel_width=8, layers=layers)
    config.attention_layer_position = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gan = BigGAN(config)
        for name, value in gan.state_dict().items():
            if name.endswith(("running_vars", "bn.weight")):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("running_means", "bn.bias", "gamma")):
                value.normal_(std=0.3)
        for _ in range(10):  # power iterations of the spectral norms, without which every pixel is -1 or 1
            gan.train()(torch.zeros(1, z_dim), torch.zeros(1, config.num_classes), 0.5)
    (folder / "config.json").write_text(config.to_json_string())
    torch.save(gan.state_dict(), folder / "pytorch_model.bin")
    return folder


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def assert_same_text(printed: str, said: str) -> None:
    """The same words, and numbers within 1%: last digits differ between machines."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", said).split(), f"printed:\n{printed}"
    numbers = [[float(one) for one in NUMBER.findall(text)] for text in (printed, said)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-2), f"printed:\n{printed}"


def assert_page_runs(page: Path) -> int:
    """Run the Python of a page, each block of which prints the text block right under it; returns their number."""
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", page.read_text(), flags=re.S)
    module = ModuleType("page")  # classes of the page can be pickled
    sys.modules["page"] = module
    try:
        for code, said in blocks:
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(code, page.name, "exec", dont_inherit=True), module.__dict__)
            assert_same_text(printed.getvalue(), said)
    finally:
        del sys.modules["page"]  # and nothing else: what a page was the first to import stays
    return len(blocks)
