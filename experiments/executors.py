"""Who carries out the cells of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from centersmooth_experiments.progress import Display

if TYPE_CHECKING:
    from centersmooth_experiments.runner import CellRun

Executor = Callable[[Sequence["CellRun"], Display], None]
"""Opens every cell, hands it the result of each point it misses, in any order, and closes it."""


def run_locally(cells: Sequence[CellRun], display: Display) -> None:
    """One cell after the other, one point after the other, in this process."""
    for cell in cells:
        cell.open()
        if cell.missing:
            display.stage(cell.label, sum(map(cell.passes, cell.missing)))
        for index in cell.missing:
            cell.take(cell.certifier.certify(cell.point(index), display.advance, display.say))
        cell.close()
