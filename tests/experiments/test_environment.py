"""The same run without network, GPU, second core, home or the usual locale, and in a folder with an odd name."""

from __future__ import annotations

import locale
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import CODE, SMALL

pytestmark = pytest.mark.slow

NO_NETWORK = """
import socket

def refuse(*arguments, **options):
    raise AssertionError("a socket was opened")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""
DECIMAL_COMMA = ["de_DE.UTF-8", "fr_FR.UTF-8", "it_IT.UTF-8", "pt_BR.UTF-8"]


def cs_run(cwd: Path, *arguments: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", before + CODE, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def rows(folder: Path) -> list[str]:
    """The experiment's lines without their last numbers, the seconds."""
    table = folder / "runs" / "tv_digits" / "certificates.csv"
    header, *lines = [line.split(",") for line in table.read_text().splitlines()]
    assert len(lines) > 1
    return [",".join(v for k, v in zip(header, line, strict=False) if k != "seconds") for line in lines]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The rows of an ordinary run."""
    folder = tmp_path_factory.mktemp("usual")
    done = cs_run(folder, *SMALL)
    assert done.returncode == 0, done.stderr
    return rows(folder)


def test_no_network(tmp_path, usual):
    done = cs_run(tmp_path, *SMALL, before=NO_NETWORK)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path) == usual


def test_the_network_would_have_been_missed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", f"{NO_NETWORK}\nsocket.create_connection(('localhost', 9))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "a socket was opened" in done.stderr


def test_what_needs_a_download_says_so_without_one(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "CENTERSMOOTH_DATA": ""}
    offline = "import socket\ndef refuse(*a, **k): raise OSError('no network')\nsocket.getaddrinfo = refuse\n"
    done = cs_run(tmp_path, "experiment=tv_mnist", "budget=smoke", before=offline, **environment)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("cs-run:")]
    assert "MNIST could not be downloaded" in line
    assert "set data.path=FOLDER" in line
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_gpu_that_is_not_there(tmp_path):
    done = cs_run(tmp_path, *SMALL, "device=cuda")
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["cs-run: device is 'cuda' but PyTorch sees no CUDA device: use device=cpu or device=auto"],
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux only")
def test_one_core(tmp_path, usual):
    """Thread counts move last digits, those of weights and so a cell's digest too: what comes between is compared."""
    done = cs_run(tmp_path, *SMALL, before="import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n")
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[1:11] for line in rows(tmp_path)] == [line.split(",")[1:11] for line in usual]


def test_a_home_that_cannot_be_written(tmp_path, usual):
    """A file in its place: even root makes no folder below it."""
    (tmp_path / "home").write_text("")
    environment = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(tmp_path / "home"))
    done = cs_run(tmp_path, *SMALL, **environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert rows(tmp_path) == usual


def test_an_output_folder_with_spaces_and_other_letters(tmp_path, usual):
    out = tmp_path / "Größe 1,5 ε (neu)" / "日本"
    done = cs_run(tmp_path, *SMALL, f"out='{out}'")
    assert done.returncode == 0, done.stderr
    out.rename(tmp_path / "runs")
    assert rows(tmp_path) == usual


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
    done = cs_run(
        tmp_path, *SMALL, before="import locale; locale.setlocale(locale.LC_ALL, '')\n", LC_ALL=name, LANG=name
    )
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path) == usual


@pytest.mark.parametrize("encoding", ["C", "POSIX"])
def test_a_locale_without_letters_beyond_ascii(tmp_path, usual, encoding):
    done = cs_run(tmp_path, *SMALL, LC_ALL=encoding, LANG=encoding, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path) == usual
