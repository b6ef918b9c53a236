"""Workers on this machine's cores: the rows and checkpoints of one process, whatever happens to the workers."""

from __future__ import annotations

import gc
import io
import os
import pickle
import select
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import wait
from pathlib import Path

import loky
import numpy as np
import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from rich.console import Console
from running import (
    FRAGILE,
    TWO_CELLS,
    Watched,
    finish,
    fork_workers,
    forked,
    is_alive,
    rows_without_seconds,
    run_in,
    start_forked,
)
from support import SMALL, compose

from csrun import cost
from csrun.cells.run import CellRun
from csrun.config import register_schema, resolve
from csrun.cost import _Probe, estimate
from csrun.errors import RunError
from csrun.executors.on_cores import Workers
from csrun.executors.tasks import Tasks, WorkerLostError
from csrun.help import config_folder
from csrun.plan import make_plan
from csrun.report.tables import ROW_COLUMNS
from csrun.runner import run
from csrun.system.locks import held
from csrun.system.progress import Display
from csrun.system.threads import threads


def workers_of(process: int) -> list[int]:
    """Its worker processes, started by loky or forked, without those that loky keeps for cleaning up."""

    def command(number: int) -> bytes:
        return Path(f"/proc/{number}/cmdline").read_bytes()

    children = map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return [child for child in children if b"popen_loky" in command(child) or command(child) == command(process)]


@pytest.mark.slow
def test_rows_and_checkpoints_do_not_depend_on_workers_or_threads_nor_on_a_worker_that_is_killed(
    tmp_path, two_cells, monkeypatch
):
    """Byte for byte; both processes were given two threads. The worker is killed with the first of 8 points done."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    others, killed = workers_of(os.getpid()), []

    def kill() -> None:
        if not killed and list(tmp_path.glob("*/evidence/center.tv-v1/*.npz")):
            killed.extend(set(workers_of(os.getpid())).difference(others))
            assert len(killed) == 2
            fork_workers(monkeypatch)  # those that take over
            os.kill(killed[0], signal.SIGKILL)

    with threads(2):
        folder = run_in(tmp_path, *TWO_CELLS, "workers=2", display=Watched(kill)).folder
        assert torch.get_num_threads() == 2
    assert killed
    rows = rows_without_seconds(folder)
    assert rows == rows_without_seconds(two_cells)
    assert len({row["point"] for row in rows}) == 4
    checkpoints = sorted((tmp_path / "checkpoints").glob("*.safetensors"))
    assert len(checkpoints) == 2
    for path in checkpoints:
        assert path.read_bytes() == (two_cells.parent / "checkpoints" / path.name).read_bytes()


STARVED = """

SEEN = []


def starved(a, b):
    if os.getpid() != DRIVER and not SEEN:
        SEEN.append(True)
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return (a - b).abs().amax(1)


def metric():
    return starved
"""
"""No memory for the first distances of a worker."""


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    """A model and a metric of the user's own, whose module no worker could import; inputs around 0, 3, 1, 2, 4, 0..."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fragile_own", raising=False)
    (tmp_path / "fragile_own.py").write_text(FRAGILE + STARVED)
    np.save(tmp_path / "inputs.npy", np.array([0, 3, 1, 2, 4, 0, 3, 0], np.float32)[:, None].repeat(64, axis=1))
    own = ["experiment=custom", "model=fragile_own:model", f"data.path={tmp_path / 'inputs.npy'}", "grid.eps=[0.01]"]
    return [*own, "budget=smoke", "n=500", "m=600", "delta=0.17", f"out={tmp_path / 'runs'}"]


@pytest.mark.slow
def test_what_fails_at_one_point_is_a_row_with_its_reason_and_others_are_certified(fragile, forked_worker, figures):
    """Also those that were handed over when the worker was lost with a neighbour: twice behind it, twice alone."""
    result = run(compose(*fragile, "points.count=8", "workers=2"), Display(Console(file=io.StringIO())), "test")
    rows = rows_without_seconds(result.folder)
    assert result.failed == 3
    assert {row["point"] for row in rows if row["outcome"] == "certified"} == set("01567")
    reasons = {row["point"]: row["reason"] for row in rows if row["outcome"] == "failed"}
    assert "NaN or infinity" in reasons["2"]
    assert "its worker was lost 4 times" in reasons["3"]
    assert "KeyError 'no such gene'" in reasons["4"]


@pytest.mark.slow
def test_a_worker_whose_memory_runs_out_halves_the_batch_and_says_so(fragile, one_worker):
    said = io.StringIO()
    request = [*fragile, "metric=fragile_own:metric", "points.count=2", "workers=2"]
    config = compose(*request)
    assert run(config, Display(Console(file=said, width=300)), "test").failed == 0
    assert "memory ran out on point 0: again with batch_size=512, which changes no row" in said.getvalue()
    assert config.batch_size == 512  # for the cells that follow, and for attacks
    with pytest.raises(RunError, match="which do not depend on batch_size: lower n"):
        run(compose(*request, "batch_size=128", f"out={config.out}/2"), Display(Console(file=said)), "test")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, 143),
        (signal.SIGKILL, False, -9),
    ],
)
def test_a_signal_ends_all_workers_and_the_same_command_continues(
    tmp_path, checkpoints, monkeypatch, number, whole_group, code
):
    """Ctrl-C, which a terminal sends to all processes; SIGTERM to the run, or to all as Slurm does; SIGKILL."""
    if (number, whole_group) != (signal.SIGTERM, True):  # to which forked workers would answer as the driver does
        fork_workers(monkeypatch)
    shutil.copytree(checkpoints, tmp_path / "runs" / "checkpoints")
    said = tmp_path / "said"
    process = start_forked(*SMALL, "points.count=200", "workers=2", cwd=tmp_path, said=said)
    deadline = time.monotonic() + 100
    while not (done := list(tmp_path.glob("runs/*/evidence/center.tv-v1/[0-9]*.npz"))):
        assert process.is_alive(), said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    (os.killpg if whole_group else os.kill)(process.pid, number)
    process.join(timeout=60)
    assert process.exitcode == code
    if number != signal.SIGKILL:
        errors = said.read_text()
        assert len(errors.strip().splitlines()) == 1, errors
        assert "To continue: cs-run" in errors
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = {path: path.stat().st_mtime_ns for path in done}
    continued = run_in(tmp_path / "runs", "points.count=3")
    assert continued.failed == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_worker_that_was_starting_when_its_driver_was_killed_ends():
    """No signal tells it: the driver died before it could ask for one."""

    def drive() -> None:
        with Workers.started(1) as workers:
            finish(workers, workers.submit(int, "7"))

    driver = forked(drive)
    deadline = time.monotonic() + 100
    while not (workers := workers_of(driver.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.kill()
    driver.join()
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_the_task_that_kills_its_workers_is_found_and_given_up(forked_worker, tmp_path, monkeypatch):
    """Each attempt leaves a line, the last of them alone; the others, lost with the pool, are never given up."""
    monkeypatch.setattr("csrun.executors.on_cores.RETRIES", 2)
    marks = tmp_path / "marks"

    def deadly() -> None:
        with open(marks, "a") as file:
            file.write("once more\n")
        os._exit(1)

    def slow(number: int) -> int:
        time.sleep(0.3)
        return number

    with Workers.started(1) as workers:
        first, bad = workers.submit(slow, 0), workers.submit(deadly)
        others = [workers.submit(slow, number) for number in (1, 2, 3)]
        finish(workers, first, bad, *others)
        assert [workers.result(task) for task in (first, *others)] == [0, 1, 2, 3]
        with pytest.raises(WorkerLostError, match="was lost 3 times, the last time by TerminatedWorkerError"):
            workers.result(bad)
        late = workers.submit(slow, 9)
        finish(workers, late)
        assert workers.result(late) == 9
    assert marks.read_text().count("once more") == 3


@pytest.mark.slow
def test_a_task_handed_over_after_a_loss_that_nobody_has_looked_at_is_done(forked_worker, tmp_path):
    def die_once() -> str:
        mark = tmp_path / "mark"
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return "lived"

    with Workers.started(1) as workers:
        first = workers.submit(die_once)
        wait([first.future])
        late = workers.submit(int, "7")
        finish(workers, first, late)
        assert (workers.result(first), workers.result(late)) == ("lived", 7)


@pytest.mark.slow
def test_a_worker_has_one_thread_whatever_its_driver_had(worker):
    def threads_and_setting() -> tuple[int, str]:
        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]

    task = worker.submit(threads_and_setting)
    finish(worker, task)
    assert worker.result(task) == (1, "1")


@pytest.mark.slow
def test_a_value_of_any_size_leaves_its_worker_at_once(worker):
    """What goes through the pipe is written whole or not at all, should the worker be killed."""
    task = worker.submit(bytes, 10**6)
    finish(worker, task)
    assert len(pickle.dumps(task.future.result())) < select.PIPE_BUF / 2
    assert worker.result(task) == bytes(10**6)


@pytest.mark.slow
def test_what_a_worker_has_imported_is_not_collected_again_and_again(worker):
    """Loky collects garbage about once a second; a quarter of a million objects come with PyTorch."""

    def tracked() -> int:
        return len(gc.get_objects())

    task = worker.submit(tracked)
    finish(worker, task)
    assert worker.result(task) < 50_000 < len(gc.get_objects())


class Inline:
    """A back end that carries out a task in this process when it is asked for what ended, the last one first."""

    name, points_a_task, has_files = "inline", 1, True

    def __init__(self, lose: type | None = None) -> None:
        self.lose, self.stored, self.most_stored = lose, set(), 0

    def in_flight(self) -> int:
        return 3

    def store(self, packed: bytes):
        package = self.Package(packed)
        self.stored.add(package)
        self.most_stored = max(self.most_stored, len(self.stored))
        return package

    def discard(self, package) -> None:
        self.stored.remove(package)

    def submit(self, function, *arguments):
        return (function, arguments)

    def ended(self, under_way):
        return under_way[-1:]

    def result(self, task):
        function, arguments = task
        if self.lose is not None and function.__name__ == self.lose:
            raise WorkerLostError(4, MemoryError())
        return function(*arguments)

    class Package:
        def __init__(self, packed: bytes) -> None:
            self.packed = packed

        def fetch(self) -> bytes:
            return self.packed


def carry_out(back_end, *overrides: str) -> list[CellRun]:
    plan, display = make_plan(compose(*SMALL, *overrides)), Display(Console(file=io.StringIO()))
    plan.out.mkdir(parents=True, exist_ok=True)
    cells = [CellRun(plan, cell, display, {}) for cell in plan.cells]
    try:
        Tasks(cells, display, back_end).carry_out()
    finally:
        for cell in cells:
            cell.release()
    return cells


def test_points_that_end_in_any_order_give_the_rows_of_the_loop(tmp_path, two_cells):
    cells = carry_out(Inline(), *TWO_CELLS, f"out={tmp_path}")
    empty = dict.fromkeys(ROW_COLUMNS, "")
    rows = [empty | {key: str(value) for key, value in row.items()} for cell in cells for row in cell.done.rows]
    expected = rows_without_seconds(two_cells)
    assert {row["certifier"] for row in expected} == {"center", "center_free", "mean"}
    assert [{key: value for key, value in row.items() if key != "seconds"} for row in rows] == expected


def test_what_is_done_is_not_done_again(two_cells, monkeypatch):
    monkeypatch.setattr(Inline, "submit", lambda *arguments: pytest.fail("there is nothing to be done"))
    assert all(cell.done.rows for cell in carry_out(Inline(), *TWO_CELLS, f"out={two_cells.parent}"))


@pytest.mark.parametrize(("wait", "most"), [("false", 2), ("true", 1)])
def test_who_waits_for_others_holds_one_cell_at_a_time(tmp_path, wait, most):
    """Or two of them could wait for each other; what is stored belongs to a cell that is open."""
    request = ("grid.eps=[0.4,0.6]", f"wait={wait}", f"out={tmp_path}")
    carry_out(Inline(), *request)
    back_end = Inline()
    carry_out(back_end, *request, "points.count=4")
    assert back_end.most_stored == most
    assert not back_end.stored


def test_a_training_in_work_elsewhere_is_refused_before_any_is_begun(tmp_path, checkpoints, monkeypatch):
    (checkpoint,) = checkpoints.glob("*.safetensors")
    lock = tmp_path / "checkpoints" / checkpoint.with_suffix(".lock").name
    monkeypatch.setattr(Inline, "submit", lambda *arguments: pytest.fail("a training was begun"))
    with held(lock, "the checkpoint"), pytest.raises(RunError, match=r"the checkpoint .* is being worked on"):
        carry_out(Inline(), f"out={tmp_path}")


def test_a_training_that_is_waited_for_is_not_done_again(tmp_path, checkpoints, monkeypatch):
    (checkpoint,) = checkpoints.glob("*.safetensors")
    copy = tmp_path / "checkpoints" / checkpoint.name
    holds = threading.Event()

    def train_elsewhere() -> None:
        with held(copy.with_suffix(".lock"), "the checkpoint"):
            holds.set()
            time.sleep(0.5)
            copy.write_bytes(checkpoint.read_bytes())

    other = threading.Thread(target=train_elsewhere)
    other.start()
    holds.wait()
    monkeypatch.setattr("csrun.executors.tasks.train_checkpoint", lambda *arguments: pytest.fail("trained again"))
    (cell,) = carry_out(Inline(), "wait=true", f"out={tmp_path}")
    other.join()
    assert cell.done.failed == 0


def test_a_training_whose_workers_are_lost_ends_the_run(tmp_path):
    with pytest.raises(RunError, match="training autoencoder failed: its worker was lost 4 times"):
        carry_out(Inline(lose="train"), f"out={tmp_path}")


def test_points_whose_workers_are_lost_are_failed_rows(tmp_path):
    (cell,) = carry_out(Inline(lose="certify"), f"out={tmp_path}")
    assert cell.done.failed == 2
    assert {row["outcome"] for row in cell.done.rows} == {"failed"}


@pytest.mark.parametrize("workers", ["0", "-1", "many", ""])
def test_a_number_of_workers_that_is_none_is_refused(workers):
    with pytest.raises(RunError, match=f"workers is '{workers}': expected auto or an integer of at least 1"):
        compose(f"workers={workers}")


def test_as_many_workers_as_cores_this_process_may_use_and_one_for_a_gpu(monkeypatch):
    assert compose().workers == loky.cpu_count()
    monkeypatch.setattr(loky, "cpu_count", lambda: 7)
    assert compose().workers == 7
    assert compose("workers=3").workers == 3
    register_schema()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        asked = hydra_compose("config", [])
    assert resolve(asked, cuda=True).workers == 1
    asked.workers = 2
    assert resolve(asked, cuda=True).workers == 2


def test_no_more_workers_than_points():
    assert make_plan(compose(*SMALL, "workers=64")).workers == 2
    assert make_plan(compose(*SMALL, "workers=64", "points.count=1")).workers == 1
    assert make_plan(compose(*SMALL, "workers=64", "grid.eps=[0.4,0.6]")).workers == 4
    assert make_plan(compose(*SMALL, "workers=64", "executor=ray")).workers == 1


def test_estimates_count_the_workers(monkeypatch):
    """Each holds a point; the time is shared out, but for what the driver does alone: attacks."""
    probe = _Probe(1e-3, 0.5, {"tv": 0.25}, 0.0, 10**6, 10**6, 10**6, 8, 10**6, 10**9, 0)
    monkeypatch.setattr("csrun.cost._probe", lambda plan, cell: probe)
    monkeypatch.setattr("csrun.cost._image_seconds", lambda plan, training: 3e-3)
    monkeypatch.setattr("loky.cpu_count", lambda: 4)
    small = (*SMALL, "points.count=8")
    (one,), (four,) = (estimate(make_plan(compose(*small, f"workers={count}"))) for count in (1, 4))
    plan = make_plan(compose(*small))
    training = 100 * 3e-3
    passes = 8 * ((64 + 384 + 384) * 1e-3 + 0.5)  # whole blocks of 64
    assert one.seconds == pytest.approx(training + passes)
    start = cost._WORKER_SECONDS
    assert four.seconds == pytest.approx(training + passes / 4 + start)
    assert four.memory == pytest.approx(5 * one.memory, rel=0.5)
    assert four.memory > 4 * one.memory
    (eight,) = estimate(make_plan(compose(*small, "workers=8")))
    assert eight.seconds == pytest.approx(four.seconds + start)  # on four cores
    assert eight.memory - eight.disk > 8 * (one.memory - one.disk)  # the driver alone has the evidence of all points
    assert eight.memory == pytest.approx(2 * four.memory, rel=0.15)
    attacked = (*small, "attack=pgd")
    (alone,), (shared,) = (estimate(make_plan(compose(*attacked, f"workers={count}"))) for count in (1, 4))
    assert alone.seconds - shared.seconds == pytest.approx(passes * 3 / 4 - start)
    attacks = make_plan(compose(*attacked)).attack_passes(plan.cells[0])
    assert alone.seconds - one.seconds == pytest.approx(attacks * 1e-3 + 8 * 4 * 0.25)  # four runs judge each


def test_estimates_count_shared_memory_once_and_the_start_of_workers_in_the_first_cell(monkeypatch):
    process, shared = 10**9, 4 * 10**8
    monkeypatch.setattr("csrun.cost._image_seconds", lambda plan, training: 3e-3)
    monkeypatch.setattr("loky.cpu_count", lambda: 4)
    found = {}
    for of_it in (0, shared):
        probe = _Probe(1e-3, 0.0, {"tv": 0.0}, 0.0, 0, 0, 0, 0, 0, process, of_it)
        monkeypatch.setattr("csrun.cost._probe", lambda plan, cell, probe=probe: probe)
        for workers in (1, 4):
            asked = (*SMALL, "grid.eps=[0.4,0.6]", "points.count=4", f"workers={workers}")
            found[of_it, workers] = estimate(make_plan(compose(*asked)))
    assert found[shared, 1] == found[0, 1]
    for less, more in zip(found[shared, 4], found[0, 4], strict=True):
        assert more.memory - less.memory == 4 * shared  # of five processes
    first, second = (one.seconds - one.training_seconds for one in found[0, 4])
    assert first - second == pytest.approx(cost._WORKER_SECONDS)


def test_estimates_count_the_evidence_and_the_rows_of_all_points(monkeypatch):
    probe = _Probe(1e-3, 0.0, {"tv": 0.0}, 0.0, 0, 10**3, 0, 0, 10**6, 10**9, 0, rules=3)
    monkeypatch.setattr("csrun.cost._probe", lambda plan, cell: probe)
    asked = (*SMALL, "workers=1", "metrics=[l2]", "grid.eps=[0.2,0.4]", "grid.h=null", "grid.scale=[0.4]")
    (few,), (many,) = (estimate(make_plan(compose(*asked, f"points.count={count}"))) for count in (10, 110))
    assert many.memory - few.memory == many.disk - few.disk + 100 * 2 * 3 * cost._ROW_BYTES


def test_estimates_count_no_pairs_where_no_center_is_searched(monkeypatch):
    probe = _Probe(1e-3, 0.0, {"tv": 0.0}, 0.0, 10**3, 10**3, 10**3, 12, 10**6, 600 * 2**20, 0)
    monkeypatch.setattr("csrun.cost._probe", lambda plan, cell: probe)
    asked = (*SMALL, "metrics=[l2]", "n=10000", "m=20000", "delta=0.05")
    (centers,), (means,) = (estimate(make_plan(compose(*asked, f"certifiers=[{name}]"))) for name in ("center", "mean"))
    assert centers.memory - means.memory > 10_000**2 * 6
