"""Timing two ways of one computation fairly on a machine that does other things as well.

Everything runs on one thread and is timed in CPU seconds. With more threads each operation waits for the slowest one,
so a neighbour's load changes not only the seconds but their ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Work = Callable[[], object]


def alternate(works: Sequence[Work], runs: int) -> list[float]:
    """Median CPU seconds of each, over ``runs`` rounds in which they take turns; a first round does not count."""
    seconds: list[list[float]] = [[] for _ in works]
    for round_ in range(runs + 1):
        for work, kept in zip(works, seconds, strict=True):
            started = time.process_time()
            work()
            if round_:
                kept.append(time.process_time() - started)
    return [statistics.median(kept) for kept in seconds]
