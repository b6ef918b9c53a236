"""Small runs and real data for the tests of the runner."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from rich.console import Console
from running import TWO_CELLS, finish, fork_workers, run_in
from support import SMALL, compose

from csrun import publishing, runner
from csrun.executors.on_cores import Workers
from csrun.report import plots
from csrun.runner import RunResult, run
from csrun.system.progress import Display
from csrun.system.threads import threads


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the runs of a test, and what publishes them, draw their figures.

    With whole fonts, where Matplotlib has these functions: to cut fonts down to the letters used is half of the time
    of a PDF.
    """
    from matplotlib.backends import _backend_pdf_ps as fonts

    if all(hasattr(fonts, name) for name in WHOLE_FONTS):
        for name, replacement in WHOLE_FONTS.items():
            monkeypatch.setattr(fonts, name, replacement)
    monkeypatch.setitem(plots._STYLE, "pdf.compression", 0)


@pytest.fixture
def cut_fonts(figures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a test draw PDFs to the byte as `cs-run` does."""
    monkeypatch.undo()


class _WholeFont(NamedTuple):
    """What matplotlib takes for a font cut down to some glyphs: all of it."""

    font: io.BytesIO
    glyph_index_map: dict[int, int]


WHOLE_FONTS = {
    "get_glyphs_subset": lambda file, glyphs: nullcontext(
        _WholeFont(io.BytesIO(Path(file).read_bytes()), {glyph: glyph for glyph in glyphs})
    ),
    "font_as_file": lambda font: font,
}


@pytest.fixture(autouse=True)
def no_figures_unless_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process draw nothing for a test about rows: that is more than half of a small run's time."""
    if "figures" not in request.fixturenames:
        for module, name in (
            (plots, "draw"),
            (runner, "draw_panels"),
            (publishing, "draw"),
            (publishing, "draw_panels"),
        ):
            monkeypatch.setattr(module, name, lambda folder: [])


@pytest.fixture
def run_small(tmp_path: Path) -> Callable[..., RunResult]:
    """Run ``tv_digits`` with small counts under ``tmp_path/runs``; later overrides win."""

    def call(*overrides: str) -> RunResult:
        config = compose(*SMALL, f"out={tmp_path / 'runs'}", *overrides)
        return run(config, Display(Console(file=io.StringIO())), "cs-run (test)")

    return call


@pytest.fixture(scope="session")
def worker() -> Iterator[Workers]:
    """The worker process of all tests that leave it alive; to start one takes more than two seconds of a core.

    It has one thread whatever the driver had when it started.
    """
    with pytest.MonkeyPatch.context() as patch, Workers.started(1) as workers:
        patch.setenv("OMP_NUM_THREADS", "2")
        finish(workers, workers.submit(int))
        yield workers


@pytest.fixture
def one_worker(worker: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a run that asks for more workers use the one there is."""
    monkeypatch.setattr(Workers, "started", lambda count: nullcontext(worker))


@pytest.fixture
def forked_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a run that asks for more workers start one, forked from this process: for tests that lose it."""
    started = Workers.started
    monkeypatch.setattr(Workers, "started", lambda count: started(1))
    fork_workers(monkeypatch)


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data; skips with a clear reason where there is none."""
    folder = os.environ.get("CENTERSMOOTH_DATA")
    if not folder:
        pytest.skip("no real data: set CENTERSMOOTH_DATA to a folder laid out as docs/data.md says")
    return Path(folder)


@pytest.fixture(scope="session")
def two_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `TWO_CELLS` by the loop in this process, though the process was given two threads."""
    out = tmp_path_factory.mktemp("two-cells")
    with threads(2):
        folder = run_in(out, *TWO_CELLS, "workers=1").folder
        assert torch.get_num_threads() == 2
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished small run: to be copied."""
    return run_in(tmp_path_factory.mktemp("small")).folder.parent


@pytest.fixture(scope="session")
def checkpoints(small_run: Path) -> Path:
    """The checkpoints of a small run, for processes that are to be past their training: to be copied."""
    return small_run / "checkpoints"


@pytest.fixture
def done(small_run: Path, tmp_path: Path) -> Path:
    """The experiment's folder of a small run that has been done, where `run_small` goes on with it."""
    return Path(shutil.copytree(small_run, tmp_path / "runs")) / "tv_digits"
