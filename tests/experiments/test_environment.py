"""The same run without network, GPU, second core, home or the usual locale, and in a folder with an odd name."""

from __future__ import annotations

import locale
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import CODE, SMALL, ask

pytestmark = pytest.mark.slow

NO_NETWORK = """
import socket

def refuse(*arguments, **options):
    raise AssertionError("a socket was opened")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""
ONE_CORE = """
import os

if hasattr(os, "sched_setaffinity"):  # on Linux
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
"""
DECIMAL_COMMA = ["de_DE.UTF-8", "fr_FR.UTF-8", "it_IT.UTF-8", "pt_BR.UTF-8"]


def run_as_process(
    folder: Path, *arguments: str, out: Path | None = None, before: str = "", **environment: str
) -> list[str]:
    """The rows of `cs-run` with these arguments, as a process of its own in this folder that runs something before."""
    done = subprocess.run(
        [sys.executable, "-c", before + CODE, *SMALL, *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return rows(out or folder / "runs")


def rows(out: Path) -> list[str]:
    """The experiment's lines without their last numbers, the seconds."""
    table = out / "tv_digits" / "certificates.csv"
    header, *lines = [line.split(",") for line in table.read_text().splitlines()]
    assert len(lines) > 1
    assert "certified" in {line[header.index("outcome")] for line in lines}
    return [",".join(v for k, v in zip(header, line, strict=False) if k != "seconds") for line in lines]


@pytest.fixture(scope="module")
def usual(small_run):
    """The rows of an ordinary run, in this process."""
    return rows(small_run)


def test_no_network_no_second_core_no_home_no_letters_beyond_ascii_and_a_folder_with_some(tmp_path, usual):
    """A file in place of the home: even root makes no folder below it. POSIX is the C library's other name for C."""
    (tmp_path / "home").write_text("")
    environment = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(tmp_path / "home"))
    environment |= {"LC_ALL": "POSIX", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    folder = tmp_path / "Größe 1,5 ε (neu)"
    folder.mkdir()
    out = folder / "日本 1,5"
    assert run_as_process(folder, f"out='{out}'", out=out, before=NO_NETWORK + ONE_CORE, **environment) == usual
    assert (out / "tv_digits" / "radius_tv.png").stat().st_size > 1000
    assert [path.name for path in folder.iterdir()] == [out.name]  # no log files dropped


def test_the_network_would_have_been_missed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", f"{NO_NETWORK}\nsocket.create_connection(('localhost', 9))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "a socket was opened" in done.stderr


def test_what_needs_a_download_says_so_without_one(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CENTERSMOOTH_DATA", raising=False)
    done = ask("experiment=tv_mnist", "budget=smoke", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("cs-run:")]
    assert "MNIST could not be downloaded" in line
    assert "set data.path=FOLDER" in line
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_gpu_that_is_not_there(tmp_path):
    done = ask(*SMALL, "device=cuda", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["cs-run: device is 'cuda' but PyTorch sees no CUDA device: use device=cpu or device=auto"],
    )
    assert list(tmp_path.iterdir()) == []


def installed_comma() -> str | None:
    """A locale in which 1/2 is 0,5, if there is one."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        for name in DECIMAL_COMMA:
            try:
                locale.setlocale(locale.LC_ALL, name)
            except locale.Error:
                continue
            return name
        return None
    finally:
        locale.setlocale(locale.LC_ALL, before)


def test_a_locale_with_decimal_commas(tmp_path, usual):
    name = installed_comma()
    if name is None:
        pytest.skip(f"none of {', '.join(DECIMAL_COMMA)} is installed")
    before = "import locale; locale.setlocale(locale.LC_ALL, '')\n"
    assert run_as_process(tmp_path, before=before, LC_ALL=name, LANG=name) == usual
