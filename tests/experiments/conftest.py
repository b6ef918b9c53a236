"""Small runs and real data for the tests of the runner."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from support import SMALL, compose

from csrun.runner import RunResult, run
from csrun.system.progress import Display


@pytest.fixture
def run_small(tmp_path: Path) -> Callable[..., RunResult]:
    """Run ``tv_digits`` with small counts under ``tmp_path/runs``; later overrides win."""

    def call(*overrides: str) -> RunResult:
        config = compose(*SMALL, f"out={tmp_path / 'runs'}", *overrides)
        return run(config, Display(Console(file=io.StringIO())), "cs-run (test)")

    return call


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data; skips with a clear reason where there is none."""
    folder = os.environ.get("CENTERSMOOTH_DATA")
    if not folder:
        pytest.skip("no real data: set CENTERSMOOTH_DATA to a folder laid out as docs/data.md says")
    return Path(folder)
