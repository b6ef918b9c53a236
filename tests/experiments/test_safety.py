"""What a killed, starved or doubled run leaves behind, and what it says."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from running import rows_without_seconds
from support import SMALL, ask, compose

from csrun.cli import _one_line
from csrun.errors import RunError
from csrun.runner import run
from csrun.system import files
from csrun.system.files import remove_unfinished, write_atomically
from csrun.system.locks import held
from csrun.system.progress import Display


class Screen(io.StringIO):
    """What a run says, and an event once it has said that it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def write(self, text: str) -> int:
        if ": waiting" in text:
            self.waits.set()
        return super().write(text)


def said_by_run(out: Path, *overrides: str, said: io.StringIO | None = None) -> str:
    said = said or io.StringIO()
    run(compose(*SMALL, f"out={out}", *overrides), Display(Console(file=said, width=300)), "cs-run (test)")
    return said.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The output folder of a finished run, which had nothing to repair: to be copied."""
    out = tmp_path_factory.mktemp("whole")
    assert "evidence" not in said_by_run(out)
    return out


@pytest.fixture
def out(whole, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "runs"))


def cell_of(out: Path) -> Path:
    (cell,) = out.glob("autoencoder-digits-*")
    return cell


def test_the_second_learns_who_holds_a_lock(tmp_path):
    with held(tmp_path / "cell" / ".lock", "the cell abc"):
        said = rf"the cell abc is being worked on by process {os.getpid()} on .* since"
        with pytest.raises(RunError, match=said), held(tmp_path / "cell" / ".lock", "the cell abc"):
            raise AssertionError("both hold it")
        (tmp_path / "cell" / ".lock.holder").write_text("{")
        with pytest.raises(RunError, match="by another process"), held(tmp_path / "cell" / ".lock", "the cell abc"):
            raise AssertionError("both hold it")
    with held(tmp_path / "cell" / ".lock", "the cell abc"):
        pass


def test_who_waits_says_for_whom_and_goes_on_once_it_is_free(out):
    """Of a checkpoint, a cell and the experiment's folder, which is always waited for: nothing is done twice."""
    (checkpoint,) = (out / "checkpoints").glob("*.safetensors")
    places = [checkpoint.with_suffix(".lock"), cell_of(out) / ".lock", out / "tv_digits" / ".lock"]
    for lock in places:
        holds, screen = threading.Event(), Screen()

        def hold(lock=lock, holds=holds, screen=screen) -> None:
            with held(lock, "it"):
                holds.set()
                screen.waits.wait(timeout=60)

        other = threading.Thread(target=hold)
        other.start()
        holds.wait()
        said = said_by_run(out, "wait=true", said=screen)
        other.join()
        assert len(re.findall(rf"is being worked on by process {os.getpid()} .*: waiting", said)) == 1


def test_a_lock_of_a_killed_process_holds_nothing(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from csrun.system.locks import held\n"
        "with held(Path(sys.argv[1]), 'it'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False)
    assert (tmp_path / "lock.holder").is_file()
    with held(tmp_path / "lock", "it"):
        assert json.loads((tmp_path / "lock.holder").read_text())["process"] == os.getpid()


@pytest.mark.parametrize("name", ["autoencoder-5534.lock", ".lock"])
def test_what_a_killed_process_was_writing_goes_with_the_next_holder_of_its_lock(tmp_path, name):
    """Of a checkpoint, whose folder others share, and of who holds a lock."""
    lock = tmp_path / name
    left = [tmp_path / f".{lock.stem}{suffix}.1o2a.unfinished" for suffix in (".safetensors", ".json", ".lock.holder")]
    others = tmp_path / ".autoencoder-5534f.safetensors.1o2a.unfinished"
    for path in (*left, others):
        path.touch()
    with held(lock, "it"):
        assert not any(path.exists() for path in left)
    assert others.exists()


def test_a_run_on_a_cell_in_work_stops_before_it_touches_it(out):
    cell = cell_of(out)
    before = {path: path.stat().st_mtime_ns for path in cell.rglob("*") if path.is_file()}
    with held(cell / ".lock", "the cell"), pytest.raises(RunError, match="being worked on by process"):
        said_by_run(out, "points.count=3")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_training_in_work_is_not_done_twice(whole, tmp_path):
    (checkpoint,) = (whole / "checkpoints").glob("*.safetensors")
    lock = tmp_path / "b" / "checkpoints" / checkpoint.with_suffix(".lock").name
    with held(lock, "the checkpoint"), pytest.raises(RunError, match=r"the checkpoint .* is being worked on"):
        said_by_run(tmp_path / "b")


@pytest.mark.parametrize("damage", ["torn", "edited", "unreadable evidence"])
def test_what_is_repaired_is_said(out, damage):
    cell = cell_of(out)
    table = cell / "certificates.csv"
    whole = table.read_bytes()
    if damage == "torn":
        table.write_bytes(whole[:-37])
    elif damage == "edited":
        lines = whole.decode().splitlines()
        table.write_text("\n".join([lines[0], lines[1].replace("certified", "bad_center"), *lines[2:]]) + "\n")
    else:
        (cell / "evidence" / "center.tv-v1" / "00001.npz").write_bytes(b"PK")
    said = said_by_run(out)
    if damage == "unreadable evidence":
        assert "00001.npz: unreadable, removed; the point is certified again" in said
    else:
        assert "certificates.csv: 1 lines that no evidence bears out, written anew" in said
        assert table.read_bytes() == whole
    assert "bears out" not in said_by_run(out)


def test_files_a_killed_process_was_writing_are_removed(out):
    cell = cell_of(out)
    leftovers = [cell / "evidence" / "center.tv-v1" / ".00007.npz.x1.unfinished", cell / ".run.json.x2.unfinished"]
    for path in leftovers:
        path.write_bytes(b"half")
    said_by_run(out)
    assert not any(path.exists() for path in leftovers)


def test_removing_unfinished_files_leaves_others(tmp_path):
    write_atomically(tmp_path / "whole", b"1")
    (tmp_path / ".hidden").write_bytes(b"2")
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "whole"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_whatever_leaves_no_room_to_write_is_said_in_one_line_that_says_how_to_go_on(number):
    said = _one_line(OSError(number, os.strerror(number)))
    assert said.startswith(f"{os.strerror(number)}; what is finished is kept: ")
    assert said.endswith("and the same command continues")
    assert ("ulimit -f" in said) == (number == errno.EFBIG)


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_on_the_size_of_files_loses_nothing_that_is_finished(tmp_path, whole):
    """First the checkpoint is beyond it, then, once that is there, the evidence of a larger sample."""
    for request in ([], ["m=60000", "train.epochs=1"]):
        with limited_files(300 * 2**10):
            done = ask(*SMALL, f"out={tmp_path / 'limited'}", *request, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert done.stderr == (
            "cs-run: File too large; what is finished is kept: raise the limit on the size of a file (ulimit -f), and "
            "the same command continues\n"
        )
        assert not list(tmp_path.rglob("*.unfinished"))
        said_by_run(tmp_path / "limited")
    assert rows_without_seconds(tmp_path / "limited" / "tv_digits") == rows_without_seconds(whole / "tv_digits")


@pytest.mark.parametrize("calls", [1, 2, 3, 5, 8])
def test_a_full_disk_loses_nothing_that_is_finished(tmp_path, whole, monkeypatch, calls):
    fsync, left = os.fsync, [calls]

    def full(handle):
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises((OSError, RunError), match="space"):
            said_by_run(tmp_path)
    said_by_run(tmp_path)
    assert rows_without_seconds(tmp_path / "tv_digits") == rows_without_seconds(whole / "tv_digits")
    assert not list(tmp_path.rglob("*.unfinished"))
