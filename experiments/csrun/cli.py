"""``cs-run``: the command line of the experiments.

Exit codes: 0 done; 1 done, but some points failed; 2 a request that cannot be served (one line says why);
70 a defect of this program, with its traceback, or certificates that an attack broke more often than stated;
130 and 143 interrupted by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise, takewhile
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from csrun.executors import supervise
from csrun.help import config_folder, groups, options, told

os.environ["HYDRA_FULL_ERROR"] = "1"


class _JobEnded(Exception):
    """A job of a sweep, in a process of its own, ended with an exit code other than 0."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point; always exits."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["cs-run", *arguments])
    if supervise.needed(arguments):
        code = supervise.supervised(arguments)
        if code is not None and code < 0:
            _say_stopped(command)
            sys.exit(128 - code)
        if code is None:
            _errors().print(
                "cs-run: the process of the run was ended, by Ray where its cluster is gone; what is finished is kept. "
                f"To continue: {command}",
                highlight=False,
                soft_wrap=True,
            )
        sys.exit(2 if code is None else code)
    code = _outcome(arguments, command)
    supervise.report(code)
    sys.exit(code)


def _outcome(arguments: list[str], command: str) -> int:
    """Do what is asked for; the exit code, after saying why where it is not 0."""
    console, errors = _console(), _errors()
    debug = "--debug" in arguments
    if set(arguments) & {"--help", "-h"}:
        return _help(arguments, console, errors)
    if "--version" in arguments:
        console.print(f"centersmooth {version('centersmooth')}", highlight=False)
        return 0
    heard: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        """Interrupt as Ctrl-C does: Ray, while it waits, lets no other exception of a signal through."""
        heard.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, interrupt)
    try:
        supervise.hear_signals()
        with _interrupts_sent_again(lambda: heard[-1] if heard else signal.SIGINT):
            return _run(arguments, command)
    except _JobEnded as job:
        return job.code
    except KeyboardInterrupt:
        return _interrupted(command, heard)
    except Exception as error:
        if heard:  # packages may fail to clean up after an interruption, or take it for an error of their own
            return _interrupted(command, heard)
        if debug or not _is_expected(error):
            traceback.print_exc()
            return 2 if _is_expected(error) else 70
        errors.print(f"cs-run: {_one_line(error)}", highlight=False, soft_wrap=True)
        return 2


def _interrupted(command: str, heard: list[int]) -> int:
    """Say how to continue; the exit code of SIGTERM, or of Ctrl-C."""
    for one in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C comes too late to change anything
        signal.signal(one, signal.SIG_IGN)
    _say_stopped(command)
    return 143 if signal.SIGTERM in heard else 130


def _say_stopped(command: str) -> None:
    said = f"stopped; what is finished is kept. To continue: {command}"
    _errors().print(said, highlight=False, soft_wrap=True)


@contextmanager
def _interrupts_sent_again(number: Callable[[], int]) -> Iterator[None]:
    """Send a signal again whose exception was ignored: Python ignores what its callbacks raise, as of weak references.

    From a thread, so that it arrives after the callback. A callback that lacks memory is not told of: native code that
    called it, such as FreeType's, fails then and says so.
    """
    shown = sys.unraisablehook

    def ignored(one: sys.UnraisableHookArgs) -> None:
        if issubclass(one.exc_type, KeyboardInterrupt):
            threading.Timer(0.01, os.kill, (os.getpid(), number())).start()
        elif not issubclass(one.exc_type, MemoryError):
            shown(one)

    sys.unraisablehook = ignored
    try:
        yield
    finally:
        sys.unraisablehook = shown


def _help(arguments: list[str], console: Console, errors: Console) -> int:
    """Print help on the topic that follows the flag, if one does."""
    from csrun.errors import RunError

    flag = next(index for index, argument in enumerate(arguments) if argument in ("--help", "-h"))
    topics = [argument for argument in arguments[flag + 1 : flag + 2] if re.fullmatch(r"\w+", argument)]
    try:
        console.print(told("".join(topics)), highlight=False, soft_wrap=True)
    except RunError as error:
        errors.print(f"cs-run: {error}", highlight=False, soft_wrap=True)
        return 2
    return 0


def _console() -> Console:
    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(width=120, markup=False, emoji=False)


def _errors() -> Console:
    """Commands and names hold brackets and colons, which rich would read as markup and emoji."""
    return Console(stderr=True, markup=False, emoji=False)


def _run(arguments: list[str], command: str) -> int:
    overrides = [_with_path_as_text(a) for a in arguments if a != "--debug"]
    if "--dry-run" in overrides:
        overrides = [a for a in overrides if a != "--dry-run"] + ["dry_run=true"]
    import hydra

    from csrun.config import register_schema
    from csrun.errors import RunError

    register_schema()
    codes: list[int] = []
    failures: list[Exception] = []
    here, folder = os.getpid(), Path.cwd()

    def task(raw: Any) -> None:
        # Hydra prints lines of its own about an error that leaves the task, so none does in this process.
        try:
            if os.getpid() != here:
                _enter(folder)
            codes.append(_task(raw, _console(), command))
        except Exception as error:
            failures.append(error)
        if os.getpid() != here:  # a launcher brought it to another one: only an error finds its way back
            _end_job(codes, failures)

    _require_known_flags(overrides)
    _require_known_options(overrides)
    _require_no_folders_of_hydra(overrides)
    given = _given(overrides)
    _require_usable_launcher(given, "--multirun" in overrides)
    if "--multirun" in overrides:
        _require_folders_of_their_own(overrides, given)
    try:
        with _launching(given) as additions:
            sys.argv = ["cs-run", *_flags_first([*additions, *overrides])]
            hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(task)()
    except RuntimeError as error:
        if "srun" not in str(error):
            raise
        raise RunError("hydra/launcher=submitit_slurm found no srun: use a machine of a Slurm cluster") from error
    except ValueError as error:  # of a value that is a number by Hydra's grammar, as in noise=int(3)
        if not str(error).startswith("Config group override must be a string"):
            raise
        raise RunError(f"one of {', '.join(groups())} is not a name: expected one, as in noise=gaussian") from error
    if failures:
        raise failures[0]
    return max(codes, default=0)


def _enter(folder: Path) -> None:
    """Be where the sweep was started, for its relative paths."""
    from csrun.errors import RunError

    try:
        os.chdir(folder)
    except OSError as error:
        raise RunError(
            f"{folder}, where the sweep was started, cannot be entered on {platform.node()} ({error.strerror}): "
            "start it in a folder that all machines see"
        ) from error


def _end_job(codes: Sequence[int], failures: Sequence[Exception]) -> None:
    if failures:
        raise failures[0]
    if any(codes):
        raise _JobEnded(max(codes))


def _settings_of_job(command: str) -> list[str]:
    """The settings on the command line; of a job of a sweep, its own."""
    from hydra.core.hydra_config import HydraConfig

    given = shlex.split(command)[1:]
    return list(HydraConfig.get().overrides.task) if "--multirun" in given else given


def _without_paths(command: str) -> str:
    """The command as results record it: where files lie on one machine shapes no number."""
    return shlex.join(part for part in shlex.split(command) if not _sets_path(part))


def _sets_path(argument: str) -> bool:
    from csrun.config import PATHS

    return argument.lstrip("+").partition("=")[0] in PATHS


_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_QUOTED_VALUES = re.compile(rf"{_QUOTED}(?:\s*,\s*{_QUOTED})*", flags=re.S)


def _with_path_as_text(argument: str) -> str:
    """Quote the value of a path for Hydra, whose grammar gives a meaning to blanks, brackets, ``,`` and ``=``.

    Empty values, ``null`` and values in quotes stay: of several, as in ``"data.path='a','b'"``, each is one of a sweep.
    Interpolations work in quotes too.
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    key, _, value = argument.partition("=")
    if not _sets_path(argument) or value.lower() in ("", "null") or _QUOTED_VALUES.fullmatch(value):
        return argument
    # Hydra's record of its overrides cannot hold an escaped quote in an interpolation: none is escaped if avoidable.
    quote = Quote.double if "'" in value else Quote.single
    return f"{key}={QuotedString(value, quote).with_quotes()}"


def _require_known_flags(arguments: list[str]) -> None:
    """Before Hydra's parser, which answers with its usage, eight lines long."""
    from csrun.errors import RunError

    for flag, value in pairwise([*arguments, ""]):
        if flag.startswith("-") and flag not in ("--cfg", "--multirun"):
            raise RunError(f"'{flag}' is no flag of cs-run: cs-run --help lists them")
        if flag == "--cfg" and value not in ("job", "hydra", "all"):
            raise RunError(f"--cfg is followed by '{value}': expected job, hydra or all")


def _flags_first(arguments: list[str]) -> list[str]:
    """Flags and then settings, each in their order: Hydra's parser takes no settings on both sides of a flag."""
    return sorted(arguments, key=lambda argument: "=" in argument or argument.startswith("~"))


def _require_known_options(overrides: list[str]) -> None:
    """Refuse what a group of configuration files does not have, of several in a sweep before the first is run."""
    from csrun.errors import RunError

    known = groups()
    for override in overrides:
        group, _, value = override.lstrip("+").partition("=")
        if group in known and not re.search(r"""[($'"]""", value):  # which are Hydra's grammar
            for name in [value] if value[:1] in ("[", "{") else value.split(","):
                if name not in options(group):
                    raise RunError(_unknown_option(group, name))


def _unknown_option(group: str, name: str) -> str:
    """A line on an option that a group of configuration files does not have."""
    from csrun.registry import meant, unknown

    if group == "experiment":  # there are too many for a line
        return f"experiment is '{name}': expected one of cs-run --help experiments{meant(name, options(group))}"
    return unknown(f"{group} is", name, options(group))


def _require_no_folders_of_hydra(overrides: list[str]) -> None:
    """Hydra would make a folder of its own for each run and sweep; results lie under ``out``."""
    from csrun.errors import RunError

    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.startswith(("hydra.run", "hydra.sweep.", "hydra.output_subdir")):
            raise RunError(f"{key} is not for users: expected out=FOLDER for the folder of all results")


def _require_usable_launcher(given: Mapping[str, str], sweep: bool) -> None:
    from csrun.errors import RunError

    launcher = given.get("hydra/launcher")
    if "hydra.launcher" in given:
        raise RunError(
            f"hydra.launcher={given['hydra.launcher']} sets nothing: a launcher is chosen by hydra/launcher="
        )
    if launcher and not sweep:
        raise RunError(f"hydra/launcher={launcher} is for the jobs of a sweep: add --multirun")
    if launcher != "ray":
        return
    if "ray" in given.get("executor", "").split(","):
        raise RunError("hydra/launcher=ray hands jobs to Ray, executor=ray their points: choose one")
    if find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_ray_launcher") is None:
        raise RunError("hydra/launcher=ray is not installed: pip install 'centersmooth[ray-launcher]'")


def _require_folders_of_their_own(overrides: list[str], given: Mapping[str, str]) -> None:
    """Each job writes its table and figures to ``out/name``, where the last one's would be left of them all."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from csrun.errors import RunError

    if "true" in (given.get("dry_run"), given.get("recommend")):
        return
    settings = [override for override in overrides if "=" in override]
    parsed = OverridesParser.create().parse_overrides(settings)
    swept = [setting.key_or_group for setting in parsed if setting.is_sweep_override()]
    shared = [key for key in swept if key not in ("experiment", "name", "out")]
    if "name" in given and "name" not in swept and "experiment" in swept:
        shared.append("experiment")
    if shared and "${" not in given.get("out", "") + given.get("name", ""):
        raise RunError(
            f"the jobs of this sweep differ in {', '.join(shared)} and would write to one folder: give each its own, "
            f"as in 'out=runs/${{{shared[0]}}}'"
        )


def _launching(given: Mapping[str, str]) -> AbstractContextManager[list[str]]:
    """Around a sweep: what its launcher needs, and the overrides it needs beside those of the user."""
    launcher = given.get("hydra/launcher", "basic")
    if launcher == "ray":
        from csrun.executors.launcher import launching

        return launching(given)
    side_by_side = launcher != "basic" and given.get("executor", "local") == "local"
    return nullcontext(["wait=true"] if side_by_side else [])


def _given(overrides: list[str]) -> dict[str, str]:
    """Keys set on the command line, each with its last value."""
    return {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in overrides)}


def _task(raw: Any, console: Console, command: str) -> int:
    from csrun.config import require_known_names, resolve

    require_known_names(raw)  # before anything that takes seconds to import

    import torch

    from csrun.runner import dry_run, run, threads_of
    from csrun.system.progress import Display, duration
    from csrun.system.threads import threads

    config = resolve(raw, torch.cuda.is_available())
    display = Display(console)
    if config.dry_run:
        dry_run(config, display)
        return 0
    if config.recommend:
        from csrun.recommend import recommend

        with threads(threads_of(config)):
            recommend(config, display, _settings_of_job(command))
        return 0
    started = time.monotonic()
    result = run(config, display, _without_paths(command))
    kept = f", {result.kept} of {result.points} points by earlier runs" if result.kept else ""
    console.print(f"{config.name}, budget {config.budget}, done in {duration(time.monotonic() - started)}{kept}:")
    for path in result.files:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    if result.replaced:
        console.print(
            f"these replace the table of an earlier run, {result.replaced}: to have both, repeat that with a name of "
            "its own (name=...); what it computed is kept",
            highlight=False,
            soft_wrap=True,
        )
    if result.failed:
        console.print(f"{result.failed} points failed; their rows say why", highlight=False)
    for line in result.broken:
        _errors().print(f"cs-run: {line}", highlight=False, soft_wrap=True)
    return 70 if result.broken else 1 if result.failed else 0


def _is_expected(error: Exception) -> bool:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from csrun.errors import RunError

    if isinstance(error, (RunError, HydraException, OmegaConfBaseException, OSError)):
        return True
    from centersmooth.errors import CenterSmoothError, is_out_of_memory

    return isinstance(error, CenterSmoothError) or is_out_of_memory(error)


def _one_line(error: Exception) -> str:
    from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    from csrun.config import unknown_key

    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        room = _NO_ROOM[error.errno]
        return f"{error.strerror}; what is finished is kept: {room}, and the same command continues"
    if _is_unexplained_memory(error):
        return (
            "memory ran out; what is finished is kept: lower train.batch_size if it was training, else forward_block "
            "or n, and see cs-run --dry-run"
        )
    if isinstance(error, OverrideParseException):  # whose own words are those of its grammar
        asked = " ".join(str(error.override).split())
        return f"'{asked}' cannot be read: expected KEY=VALUE, with quotes around odd signs, as in \"title='a (b)'\""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if len(lines) > 1 and lines[1].startswith("Available options in 'hydra/launcher'"):
        there = ", ".join(takewhile(lambda line: not line.startswith("Config search path"), lines[2:]))
        return (
            f"{lines[0]}: there are {there}; those of submitit come with pip install 'centersmooth[slurm]', "
            "ray with 'centersmooth[ray-launcher]'"
        )
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        lines = [_unknown_option(group, name)]
    if isinstance(error, ConfigCompositionException) and cause is not None:
        if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
            lines = [unknown_key(str(cause.full_key))]
        else:
            lines = [_misfit(lines[0], (str(cause).splitlines() or [""])[0].strip())]
    return "; ".join(lines[:2]) + ("" if lines else type(error).__name__)


_NO_ROOM = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
}
"""Remedies where a file cannot be written for want of room, by the system's error."""

_WANTED = {
    "is not a ListConfig": 'a list, as in "{key}=[{value}]"',
    "is not a valid bool": "true or false",
    "could not be converted to Integer": "an integer",
    "could not be converted to Float": "a number",
    "type hint 'Union[int, str]'": "auto or an integer of at least 1",
}
"""Words for what a setting takes, by what OmegaConf says of a value it cannot take."""


def _misfit(merging: str, reason: str) -> str:
    """Error message for a setting, from Hydra's line about merging it and OmegaConf's about its value."""
    key, _, value = merging.removeprefix("Error merging override ").partition("=")
    for sign, wanted in _WANTED.items():
        if sign in reason:
            return f"{key} is {value or 'empty'}: expected {wanted.format(key=key, value=value)}"
    return f"{merging}; {reason}"


def _is_unexplained_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:  # which takes seconds to import: nothing was computed yet
        return False
    from centersmooth.errors import CenterSmoothError, is_out_of_memory

    return is_out_of_memory(error) and not isinstance(error, CenterSmoothError)
