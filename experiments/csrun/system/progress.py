"""Progress for people: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 15


class Display:
    """An outer bar over the whole run, in forward passes, and an inner one over the cell at hand.

    Parameters
    ----------
    console : Console
        Where to write; bars only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Progress | None = None
        self._outer = self._inner = TaskID(0)  # once there are bars
        self._total = self._done = self._stage_total = 0.0
        self._started = self._last_line = time.monotonic()
        self._label = self._detail = ""

    @contextmanager
    def running(self, total: float) -> Iterator[Display]:
        """Show progress towards ``total`` units of work."""
        self._total, self._done = max(total, 1.0), 0.0
        self._started = self._last_line = time.monotonic()
        if not self.console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self.console, transient=True, speed_estimate_period=120) as bars:
            self._bars, self._outer = bars, bars.add_task("all", total=self._total)
            self._inner = bars.add_task("", total=None)
            yield self
        self._bars = None

    def stage(self, label: str, total: float) -> None:
        """Begin a stage: training a model, or certifying a cell."""
        self._label, self._detail, self._stage_total = label, "", total
        if self._bars is not None:
            self._bars.reset(self._inner, total=total, description=label)
        else:
            self._line(f"{label} ...")

    def detail(self, text: str) -> None:
        """How the stage goes, told with its progress."""
        self._detail = f", {text}"
        if self._bars is not None:
            self._bars.update(self._inner, description=f"{self._label}{self._detail}")

    def skip(self, units: float) -> None:
        """Work that turns out to be done already: it leaves the total, and tells nothing about speed."""
        self._total = max(self._total - units, 1.0)
        if self._bars is not None:
            self._bars.update(self._outer, total=self._total)

    def skip_of_stage(self, units: float) -> None:
        """Work of the stage at hand that turns out to be done already."""
        self.skip(units)
        self._stage_total -= units
        if self._bars is not None:
            self._bars.update(self._inner, total=self._stage_total)

    def advance(self, units: float) -> None:
        """Work done, in the units of `running`."""
        self._done += units
        if self._bars is not None:
            self._bars.advance(self._outer, units)
            self._bars.advance(self._inner, units)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._line(f"{self._label}{self._detail}: {self._share()}")

    def say(self, line: str) -> None:
        """A line that stays above the bars."""
        self.console.print(line, highlight=False, soft_wrap=True)

    def _share(self) -> str:
        elapsed = time.monotonic() - self._started
        left = elapsed * (self._total - self._done) / max(self._done, 1.0)
        return (
            f"{100 * self._done / self._total:.0f}% of the run, {duration(elapsed)} so far, about {duration(left)} left"
        )

    def _line(self, message: str) -> None:
        self._last_line = time.monotonic()
        self.say(message)


def duration(seconds: float) -> str:
    """A time span for people.

    >>> duration(42), duration(150), duration(7300), duration(200_000)
    ('42 s', '2 min 30 s', '2 h 1 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
