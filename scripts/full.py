"""Compute the paper's experiments at budget ``full``, cell by cell, as many as fit a time; publish after each.

Usage: python scripts/full.py HOURS [KEY=VALUE ...]

Cells are taken in order of importance; one that several experiments share is computed once, for all of them. What
``results/`` has with all of its points is skipped, and what does not fit the time left is passed over; a cell that does
not fit is cut into slices of points. Nothing certified is computed from ``results/``: what is under way lies in
``runs/``, where the same command continues. Exit codes as `cs-run`: 0 all that fits is done, 1 some points failed or
something could not be served, 2 a request that cannot be served, 130 and 143 interrupted.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from publish import ROOT, refresh_page
from rich.console import Console
from rich.table import Table

from centersmooth import Outcome
from centersmooth.errors import CenterSmoothError
from centersmooth.gathering import Setting
from csrun.cells.certify import certifiers_of
from csrun.config import PATHS, Config, PointsConfig, resolved
from csrun.cost import estimate
from csrun.errors import RunError
from csrun.plan import Plan, make_plan
from csrun.publishing import add, refresh
from csrun.registry import key_of, names_of
from csrun.report import published
from csrun.report.tables import ROWS_FILE
from csrun.runner import run, threads_of
from csrun.system.progress import Display, duration
from csrun.system.threads import threads
from csrun.training.checkpoints import weights_of

EXPERIMENTS: tuple[str, ...] = ("tv_mnist", "l2_mnist", "angular_mnist", "jaccard_astronaut", "jaccard_celeba")
EXPERIMENTS += ("tv_cifar10", "l2_cifar10", "angular_cifar10", "ablation_mnist", "lpips_dcgan", "ablation_cifar10")
EXPERIMENTS += ("lpips_biggan", "gamma_mnist", "blur_mnist", "translation_mnist", "brightness_celeba")
EXPERIMENTS += ("patch_mnist", "l1_mnist", "brightness_contrast_cifar10", "segment_mnist")
EXPERIMENTS += ("rotation_mnist", "rotation_celeba")
EXPERIMENTS += ("percentile_astronaut", "landmarks_astronaut", "boxes_astronaut", "percentile_celeba")
EXPERIMENTS += ("landmarks_celeba", "label_mnist", "label_cifar10")
EXPERIMENTS += ("score_mnist", "prototypes_mnist")
"""In order of importance: figures 5 to 7 on MNIST share their cells, and take the least time; other threats and
classes last."""

LAWS: dict[str, tuple[tuple[str, ...], ...]] = {
    "l1_mnist": (
        ("noise=laplace",),
        *((f"noise={law}", "grid.scale=[0.866]") for law in ("uniform", "splitting", "splitting_8bit")),
    )
}
"""Settings of each run of an experiment that holds several laws side by side."""

SLICE_SECONDS = 900.0
"""About how long a slice of points takes: what is lost where a machine goes in the middle of one."""

CANNOT_BE_SERVED = (RunError, CenterSmoothError, OSError, HydraException, OmegaConfBaseException)


@dataclass(frozen=True)
class Part:
    """One cell of one experiment.

    Attributes
    ----------
    config : Config
        Of the whole experiment.
    plan : Plan
        For the cell alone.
    command : list of str
        That computes the experiment, but for where files lie on this machine.
    """

    config: Config
    plan: Plan
    command: list[str]

    def missing(self, key: str, results: Path) -> list[int]:
        """Points without all of their rows in the published cell; a failed point is one of them."""
        folder = results / self.config.name / folder_of(self.config) / published.CELLS_FOLDER / key
        found: dict[int, set[tuple[str, str]]] = {}
        if (folder / published.CELL_FILE).is_file():
            with (folder / ROWS_FILE).open(newline="") as file:
                for row in csv.DictReader(file):
                    if row["outcome"] != Outcome.FAILED.value:
                        name = key_of(row["certifier"], row["metric"])
                        found.setdefault(int(row["point"]), set()).add((name, row["eps"]))
        eps = [repr(pair.eps) for pair in self.plan.cells[0].pairs]
        wanted = {(name, one) for name in self.certifiers() for one in eps}
        return [point for point in self.plan.points if not wanted <= found.get(point, set())]

    def certifiers(self) -> list[str]:
        """Keys of the certifiers that the experiment has rows of."""
        plan, (cell,) = self.plan, self.plan.cells
        setting = Setting(cell.noise, plan.budget, (0.0, 1.0), self.config.forward_block)
        asked = self.config.certifiers, ("", *self.config.metrics)
        keys = certifiers_of(plan.metrics_of(cell), setting)
        return [key for key in keys if all(name in some for name, some in zip(names_of(key), asked, strict=True))]

    def kept(self) -> set[int]:
        """Points whose evidence lies in the folder of runs, so that they take no time."""
        plan, (cell,) = self.plan, self.plan.cells
        checkpoint = cell.training.path(plan.out) if cell.training else None
        weights = weights_of(checkpoint) if checkpoint and checkpoint.is_file() else ""
        wanted = json.loads(json.dumps(asdict(cell.cell(self.config, plan.budget, plan.data.digest, weights, ""))))
        told_by = [name for name in wanted if name != "metric_weights" and (weights or name != "weights")]
        for record in plan.out.glob(f"{cell.model}-{self.config.data.name}-s{cell.scale:.4g}-*/run.json"):
            there = recorded(record)
            if all(there.get(name) == wanted[name] for name in told_by):
                files = [record.parent.glob(f"evidence/{key}-v*/[0-9]*.npz") for key in self.certifiers()]
                return set.intersection(*({int(path.stem) for path in some} for some in files))
        return set()

    def run(self, key: str, points: range, display: Display) -> int:
        """Compute the cell at some points; how many failed."""
        config = replace(self.config, cells=[key], points=PointsConfig(points.start, len(points)))
        of_slice = [f"cells=[{key}]", f"points.start={points.start}", f"points.count={len(points)}"]
        result = run(config, display, shlex.join([*self.command, *of_slice]), figures=False)
        for line in result.broken:
            display.say(line)
        return result.failed + len(result.broken)


@dataclass
class Work:
    """A cell with the experiments that share it, and what became of it."""

    key: str
    parts: list[Part] = field(default_factory=list)
    before: int = 0
    failed: int = 0
    left: str = ""
    refused: str = ""

    def missing(self, results: Path) -> list[int]:
        """Points that are not published for each of its experiments."""
        return sorted({point for part in self.parts for point in part.missing(self.key, results)})

    @property
    def points(self) -> int:
        return len(self.parts[0].plan.points)


class Pace:
    """Seconds of a cell's training and of a point: estimated, then corrected by what the last slice took."""

    def __init__(self) -> None:
        self._estimates: dict[tuple[str, str, bool], tuple[float, float]] = {}
        self._factors: dict[tuple[str, str], float] = {}

    def of(self, part: Part) -> tuple[float, float]:
        """Seconds of training what is not trained yet, and of one point."""
        model = (part.plan.cells[0].model, part.config.data.name)
        place = (*model, bool(part.plan.to_train()))
        if place not in self._estimates:
            with threads(threads_of(part.config)):
                (cost,) = estimate(part.plan)
            points = (cost.seconds - cost.training_seconds) / len(part.plan.points)
            self._estimates[place] = cost.training_seconds, points
        training, point = self._estimates[place]
        factor = self._factors.get(model, 1.0)
        return factor * training, factor * point

    def learn(self, part: Part, expected: float, took: float) -> None:
        """Correct what is expected of a model by what a slice of its cell took."""
        model = (part.plan.cells[0].model, part.config.data.name)
        self._factors[model] = self._factors.get(model, 1.0) * took / expected


def recorded(record: Path) -> dict[str, object]:
    """What a ``run.json`` says of its cell; nothing where it is damaged, as a run would write it anew."""
    try:
        return dict(json.loads(record.read_text())["cell"])
    except (ValueError, KeyError, TypeError):
        return {}


def folder_of(config: Config) -> str:
    """The name of an experiment's published folder."""
    return f"{config.budget}-{config.device}"


def find_work(names: Sequence[str], settings: Sequence[str], console: Console) -> tuple[list[Work], list[Config]]:
    """The cells of all experiments, each once, in order; and the experiments that can be served.

    Raises
    ------
    RunError
        None can be.
    """
    found: dict[str, Work] = {}
    configs: list[Config] = []
    problems: dict[str, str] = {}
    for name, own in _requests(names):
        overrides = [f"experiment={name}", "budget=full", *own, *settings]
        try:
            config = resolved(overrides)
            plan = make_plan(config)
        except CANNOT_BE_SERVED as error:
            problems[" ".join((name, *own))] = one_line(error)
            continue
        configs.append(config)
        command = ["cs-run", *(one for one in overrides if one.partition("=")[0] not in PATHS)]
        for cell in plan.cells:
            key = published.key_of(plan.request(cell))
            found.setdefault(key, Work(key)).parts.append(Part(config, plan.only([key]), command))
    if not configs:
        raise RunError(next(iter(problems.values())))
    for name, problem in problems.items():
        console.print(f"{name} is left out: {problem}", highlight=False, soft_wrap=True)
    return list(found.values()), configs


def _requests(names: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Experiments with their own settings, one for each law."""
    return [(name, own) for name in names for own in LAWS.get(name, ((),))]


def work_through(works: Sequence[Work], results: Path, deadline: float, display: Display) -> None:
    """Compute and publish what fits, in order; what became of each cell is left in it."""
    pace = Pace()
    for work in works:
        work.before = work.points - len(work.missing(results))
    for number, work in enumerate(works, 1):
        try:
            _work_on(work, f"{number}/{len(works)}", results, deadline, display, pace)
        except CANNOT_BE_SERVED as error:
            work.refused = one_line(error)
            display.say(f"{number}/{len(works)} {work.key}: {work.refused}")


def _work_on(work: Work, count: str, results: Path, deadline: float, display: Display, pace: Pace) -> None:
    """Compute a cell in slices until all of its points are published, some failed, or the next slice does not fit."""
    while (missing := work.missing(results)) and not work.failed:
        left = deadline - time.monotonic()
        if left <= 0:
            work.left = "no time left"
            return
        parts = [part for part in work.parts if part.missing(work.key, results)]
        (training, point), kept = pace.of(parts[0]), parts[0].kept()
        left = deadline - time.monotonic()
        points, fresh = next_slice(missing, kept, int(min(left - training, SLICE_SECONDS) / point))
        if not points:
            work.left = f"a point takes about {duration(training + point)}, {duration(max(left, 0))} were left"
            return
        expected, started = training + fresh * point, time.monotonic()
        names = ", ".join(part.config.name for part in parts)
        display.say(
            f"{count} {work.key} for {names}: points {points.start} to {points.stop - 1}, about {duration(expected)}; "
            f"{duration(left)} left"
        )
        for part in parts:
            work.failed += part.run(work.key, points, display)
            with undisturbed():
                add(part.config.name, Path(part.config.out), results)
        if fresh == len(points):
            pace.learn(parts[0], expected, time.monotonic() - started)
        if not work.failed and work.missing(results) == missing:
            raise RunError("the run left rows out, so that its points cannot be told as done")


def next_slice(missing: Sequence[int], kept: set[int], most: int) -> tuple[range, int]:
    """The first missing points that follow each other, of which at most so many have to be computed; and how many.

    >>> next_slice([3, 4, 5, 9], {4}, 2)
    (range(3, 6), 2)
    >>> next_slice([3, 4], set(), 0)
    (range(3, 3), 0)
    """
    stop, fresh = missing[0], 0
    for point in missing:
        if point != stop or fresh + (point not in kept) > most:
            break
        stop, fresh = point + 1, fresh + (point not in kept)
    return range(missing[0], stop), fresh


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is left."""
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def report(works: Sequence[Work], results: Path) -> Table:
    """Table of what is published of each cell, and why not more."""
    table = Table("cell", "experiments", "points", "new", "why not more", title="full")
    for work in works:
        done = work.points - len(work.missing(results))
        failed = f"{work.failed} failed" if work.failed else ""
        names = ", ".join(part.config.name for part in work.parts)
        table.add_row(
            work.key, names, f"{done}/{work.points}", str(done - work.before), failed or work.refused or work.left
        )
    return table


def one_line(error: Exception) -> str:
    return " ".join((str(error).strip() or type(error).__name__).splitlines()[0].split())


def hours_of(arguments: Sequence[str]) -> float:
    """The time asked for; ValueError, one line, where it is none."""
    given = arguments[0] if arguments else "nothing"
    try:
        hours = float(given)
    except ValueError:
        hours = math.nan
    if not 0 <= hours < math.inf:
        raise ValueError(f"HOURS is {given}: expected a number of hours, as in make full HOURS=2.5")
    return hours


def compute(hours: float, names: Sequence[str], settings: Sequence[str], results: Path, console: Console) -> int:
    """Work for so many hours, then make summaries and figures of what is published; the exit code."""
    deadline, display = time.monotonic() + 3600 * hours, Display(console)
    terminations: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        terminations.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    works: list[Work] = []
    try:
        works, configs = find_work(names, settings, console)
        work_through(works, results, deadline, display)
        for folder in (results / config.name / folder_of(config) for config in configs):
            if published.is_published(folder):
                refresh(folder)
        code = 1 if len(configs) < len(_requests(names)) or any(work.failed or work.refused for work in works) else 0
    except KeyboardInterrupt:
        console.print("stopped; what is finished is kept, and the same command continues and makes the figures anew")
        code = 143 if terminations else 130
    finally:
        signal.signal(signal.SIGTERM, before)
    console.print(report(works, results))
    return code


def main(arguments: list[str]) -> int:
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 160  # room for a line of the table
    try:
        code = compute(hours_of(arguments), EXPERIMENTS, arguments[1:], ROOT / "results", console)
    except (ValueError, *CANNOT_BE_SERVED) as error:
        print(f"full: {one_line(error)}", file=sys.stderr)
        return 2
    if code in (0, 1):
        refresh_page()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
