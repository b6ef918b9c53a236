"""The command line as a user meets it: help, one-line errors, exit codes, interruption."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest
from running import start_forked
from support import SMALL, ask, cs_run

from csrun import cli, runner
from csrun.help import config_folder


def test_version(tmp_path):
    done = ask("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[0]) == (0, "centersmooth")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["experiment=tv_digts"], "expected one of cs-run --help experiments; did you mean tv_digits?"),
        (["nope=3"], "nope"),
        (["n=abc"], "n is abc: expected an integer"),
        (["batch_size="], "batch_size is empty: expected an integer"),
        (["grid.h=[x]"], "expected a number"),
        (["workers=1.5"], "workers is 1.5: expected auto or an integer of at least 1"),
        (["recommend=maybe"], "expected true or false"),
        (["metrics=tv"], 'as in "metrics=[tv]"'),
        (["n=100"], "n >= 300 would do"),
        (["m=10"], "m >= 241 would do"),
        (["metrics=[foo]"], "expected one of tv, l1"),
        (["certifiers=[foo]"], "certifiers has 'foo': expected one of center, "),
        (["certifiers=[]"], "certifiers is empty: expected at least one name"),
        (
            ["rule=local"],
            "rule is 'local': expected one of paper, exact, measured, enumerated for the certifier center, or null",
        ),
        (["certifiers=[mean,center]", "rule=paper"], "expected global, local or spectral for the certifier mean"),
        (["grid.eps=[0.1,[1]]"], "grid.eps has [1]: expected a list of single values"),
        (["train.method=[[none]]"], "train.method has ['none']: expected a list of single values"),
        (["cells=[{a:1}]"], "cells has {'a': 1}: expected a list of single values"),
        (["budget=smoke", "budgets.smoke=null"], "budgets.smoke is None: expected its counts"),
        (["budget=smoke", "budgets.smoke.n={a:1}"], "the budget's n is {'a': 1}: expected a value for n"),
        (["~budgets.paper"], "budgets.paper.n is not there: expected an integer"),
        (["budgets.paper.points=3"], "budgets.paper.points.count is not there: expected an integer"),
        (["budgets.paper.train.images=x"], "budgets.paper.train.images is x: expected an integer"),
        (["noise=gausian"], "did you mean gaussian?"),
        (["noise=null"], "noise is 'null': expected one of ablation, "),
        (["noise.unknown=1"], "'noise.unknown' is not a setting"),
        (["+noise.unknown=1"], "noise has unknown: gaussian noise has no such parameter"),
        (["grid.h=[0]"], "positive"),
        (["experiment=tv_mnist", "data.path=/nowhere"], "data.path=FOLDER"),
        (["ray.gpus=-1"], "ray.gpus is -1: expected 0"),
        (["ray.gpus=nan"], "ray.gpus is nan: expected 0"),
        (["ray.address=nonsense"], "expected local, auto or HOST:PORT"),
        (["out=/dev/null/x"], "set out=FOLDER"),
        (["n"], "'n' cannot be read: expected KEY=VALUE"),
        (["model=ä:b"], "'model=ä:b' cannot be read: expected KEY=VALUE, with quotes around odd signs"),
        (["name=../x"], "names the results' folder"),
        (["name=checkpoints"], "names the results' folder"),
        (["seed=9223372036854775808"], "below 2**63"),
        (["delta=1e-300"], "no number a machine makes would do"),
        (["-x"], "no flag of cs-run"),
        (["--cfg"], "expected job, hydra or all"),
        (["grid.eps=${n}"], "not a ListConfig"),
        (["--multirun", "hydra/launcher=nope"], "there are basic, "),
        (["hydra/launcher=basic"], "add --multirun"),
        (["--multirun", "hydra.launcher=ray"], "chosen by hydra/launcher="),
        (["--multirun", "seed=0,1"], "as in 'out=runs/${seed}'"),
        (["--multirun", "experiment=tv_digits,tv_mnist", "name=mine"], "differ in experiment and would write to one"),
        (["wait=true", "executor=ray"], "expected wait=false"),
        (["--multirun", "hydra/launcher=ray", "executor=local,ray"], "choose one"),
        (["--multirun", "hydra/launcher=ray", "++ray.cpus=two"], "one value for all jobs is expected"),
        (["--multirun", "hydra/launcher=ray", "ray.foo=1"], "ray.foo: Key 'foo' not in"),
        (["--multirun", "hydra/launcher=ray", "ray.gpus=1", "device=cpu"], "ray.gpus is 1: expected 0"),
        (["hydra.run.dir=1"], "expected out=FOLDER"),
        (["+hydra.sweep.dir=1"], "expected out=FOLDER"),
    ],
)
def test_a_bad_request_is_one_line_and_exit_code_2(tmp_path, overrides, expected):
    done = ask(*overrides, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_so_it_is_from_a_shell(tmp_path):
    """As a process within another, which is how Ray is asked."""
    done = cs_run("--multirun", "hydra/launcher=ray", "ray.address=127.0.0.1:9", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
    assert "no Ray cluster could be joined" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_so_it_is_from_a_shell_without_ray(tmp_path):
    (tmp_path / "here").mkdir()
    process = start_forked("n=100", cwd=tmp_path / "here", said=tmp_path / "said")
    process.join(timeout=60)
    errors = (tmp_path / "said").read_text()
    assert (process.exitcode, len(errors.strip().splitlines())) == (2, 1), errors
    assert "n >= 300 would do" in errors
    assert list((tmp_path / "here").iterdir()) == []


def test_without_any_setting_it_runs_the_digits(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "_task", lambda raw, console, command: asked.append((raw.name, command)) or 0)
    assert ask(cwd=tmp_path).returncode == 0
    assert asked == [("tv_digits", "cs-run")]


@pytest.mark.parametrize(
    ("kept", "expected"), [(0, "done in 0 s:"), (3, "done in 0 s, 3 of 4 points by earlier runs:")]
)
def test_what_earlier_runs_computed_is_said(tmp_path, monkeypatch, kept, expected):
    result = runner.RunResult(tmp_path, [], points=4, kept=kept, failed=0, broken=[], replaced="")
    monkeypatch.setattr(runner, "run", lambda *_: result)
    done = ask(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"tv_digits, budget cpu, {expected}\n"


def lacking(error):
    """Raise where Python ignores it, as in a callback of native code."""

    class Dropped:
        def __del__(self):
            raise error

    Dropped()


def test_a_callback_without_memory_ends_in_the_line_of_what_it_was_called_for(tmp_path, monkeypatch):
    def run(arguments, command):
        lacking(MemoryError())
        raise MemoryError

    seen = []
    monkeypatch.setattr("sys.unraisablehook", seen.append)
    monkeypatch.setattr("csrun.cli._run", run)
    done = ask(cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("cs-run: memory ran out; what is finished is kept: ")
    assert done.stderr.count("\n") == 1
    assert seen == []


def test_another_error_of_a_callback_is_shown(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("sys.unraisablehook", lambda one: seen.append(one.exc_type))
    monkeypatch.setattr("csrun.cli._run", lambda arguments, command: lacking(OSError()) or 0)
    assert ask(cwd=tmp_path).returncode == 0
    assert seen == [OSError]


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in ask("--debug", "n=100", cwd=tmp_path).stderr


def test_dry_run_says_what_it_would_do_and_does_nothing(tmp_path):
    done = ask("--dry-run", "out=runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "9 cells, 1,665,450 forward passes" in said
    assert re.search(r"about [\d,]+ MiB of memory and [\d,]+ MiB of disk", said)
    assert list(tmp_path.iterdir()) == []


def test_settings_may_stand_on_both_sides_of_a_flag(tmp_path):
    done = ask("n=1234", "--cfg", "job", "experiment=tv_mnist", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'n': 1234\n" in done.stdout
    assert "name: tv_mnist" in done.stdout


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Have SIGINT interrupt this process, whatever pytest made of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_says_how_to_continue(tmp_path, checkpoints, number, code):
    """In this process; `test_cores` has it of a run with workers."""
    shutil.copytree(checkpoints, tmp_path / "runs" / "checkpoints")
    over = threading.Event()

    def interrupt() -> None:
        while not over.is_set():
            if list(tmp_path.glob("runs/*/evidence/center.tv-v1/[0-9]*.npz")):
                os.kill(os.getpid(), number)
                return
            time.sleep(0.01)

    other = threading.Thread(target=interrupt)
    other.start()
    try:
        done = ask(*SMALL, "points.count=200", "metrics=[tv,l2]", cwd=tmp_path)
    finally:
        over.set()
        other.join()
    assert done.returncode == code, done.stderr
    assert "To continue: cs-run" in done.stderr
    assert done.stderr.endswith("'metrics=[tv,l2]'\n")
    assert len(done.stderr.strip().splitlines()) == 1


class Forgotten:
    """Something to have weak references to."""


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_within_a_callback_of_a_weak_reference_is_not_lost(tmp_path, monkeypatch, number, code):
    """Python ignores what is raised there."""

    def run(arguments, command):
        one = Forgotten()
        reference = weakref.ref(one, lambda _: signal.raise_signal(number))
        del one
        assert reference() is None
        time.sleep(10)
        return 0

    monkeypatch.setattr("csrun.cli._run", run)
    done = ask(cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr == "stopped; what is finished is kept. To continue: cs-run\n"


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_error_that_an_interruption_leads_to_is_none_of_the_run(tmp_path, monkeypatch, number, code):
    """OmegaConf may fail to restore what it was about to change, and Matplotlib's C++ knows no interruptions."""

    def run(arguments, command):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise ValueError("Invalid bounding box")

    monkeypatch.setattr("csrun.cli._run", run)
    done = ask(cwd=tmp_path)
    assert done == (code, "", "stopped; what is finished is kept. To continue: cs-run\n")


def test_configs_are_found_where_they_are_installed():
    assert (config_folder() / "config.yaml").is_file()


@pytest.mark.slow
def test_a_job_in_a_process_of_its_own_reports_how_it_ended(tmp_path):
    """Hydra's submitit launcher, on this machine: nothing but an error finds its way back from there."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'centersmooth[slurm]'")
    sweep = ["--multirun", "hydra/launcher=submitit_local", "hydra.launcher.submitit_folder=jobs/%j"]
    done = ask(*sweep, "experiment=tv_digits", "budget=smoke", "rule=paper,nope", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 2
    expected = "cs-run: rule is 'nope': expected one of paper, exact, measured, enumerated for the certifier center"
    assert done.stderr.splitlines()[-1] == f"{expected}, or null"
    logs = [log.read_text() for log in (tmp_path / "jobs").glob("*/*_0_log.out")]
    assert sum("cells, " in log for log in logs) == 1
