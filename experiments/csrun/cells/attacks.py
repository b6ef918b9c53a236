"""Certified points under attack: how far the smoothed output moves, beside what was certified.

One attack for each point, certifier and eps of a cell, kept in the cell's folder as
``attacks/<point>-<eps>-<digest>.json`` and never done twice; rows of `tables.ATTACK_FILE` are reads of it, one for each
rule that certifies the point.

When is a certificate broken? At a point the ``runs`` judged runs at ``x'`` are beyond the radius each with probability
at most ``alpha1``, independently, unless the certificate is wrong, which it is with probability at most ``alpha2``. So
their number is stochastically at most ``runs`` with probability ``alpha2`` and binomial otherwise; points are
independent of each other, those without a certificate count as 0, and the sum's exact tail is `chance`. A run fails if
that is below `FALSE_ALARM` over the number of settings looked at: true certificates fail it at most once in a million.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from centersmooth import Attack, ModelError, Outcome, RandomStream
from centersmooth.attack import Judged, judge
from centersmooth.gathering import Setting
from centersmooth.sampling import Sampler
from csrun.cells.rows import Row, csv_lines, text
from csrun.cells.store import CellStore
from csrun.registry import key_of
from csrun.report.tables import KEYS, number
from csrun.system.files import digest_of, write_atomically

FALSE_ALARM = 1e-6
"""How often a run may fail though every certificate is true."""

VERSION = 2
"""Raised whenever a change makes an attack find something else."""

COLUMNS: tuple[str, ...] = ("cell", *KEYS, "point", "source", "radius", "attack", "steps", "restarts", "draws", "runs")
COLUMNS += ("abstained", "movement", "beyond", "alpha1", "alpha2")


@dataclass(frozen=True)
class Target:
    """One answer to be attacked: its point, the key of its certifier, and how large perturbations may be."""

    point: int
    key: str
    eps: float

    @property
    def stream(self) -> str:
        """The name of its random stream."""
        return f"attack/{self.key}/{self.eps!r}"


@dataclass(frozen=True)
class CellAttack:
    """Attacks on the certificates of one cell.

    Parameters
    ----------
    store : CellStore
    sampler : Sampler
        Of the cell's model and noise.
    attack : Attack
    runs : int
        Runs of the smoothed model by which each ``x'`` is judged.
    inputs : callable
        The input of a point.
    """

    store: CellStore
    sampler: Sampler
    attack: Attack
    runs: int
    inputs: Callable[[int], Tensor]

    def missing(self, rows: Iterable[Row]) -> list[Target]:
        """Certified points, certifiers and eps of these rows that have not been attacked yet, in their order."""
        targets = dict.fromkeys(_target(row) for row in rows if _attacked(row))
        return [target for target in targets if not self._judged(target)]

    def carry_out(self, target: Target, progress: Callable[[float], None]) -> None:
        """Attack one certificate and keep what it found.

        Raises
        ------
        ModelError
            At the perturbed input the model or the metric gives NaN.
        """
        started = time.perf_counter()
        x, answer, certifier = self.inputs(target.point), self._answer(target), self.store.certifiers[target.key]
        stream = RandomStream(self.store.cell.seed, target.point).named(target.stream)
        names = [f"run {run}" for run in range(self.runs)]
        search, sampler = stream.named("search"), self.sampler.at(x)
        found = self.attack.perturb(sampler, certifier, x, answer, target.eps, search, progress=progress)
        run = partial(judge, sampler, certifier, self.store.cell.budget, found, answer, progress=progress)
        judged = [run(stream.named(name)) for name in names]
        self._keep(target, {"judged": [asdict(run) for run in judged]}, started)

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows of the attack table, one beside each certified row."""
        for row in rows:
            if _attacked(row) and (judged := self._judged(_target(row))):
                yield _row(row, judged, self.attack)

    def _judged(self, target: Target) -> list[Judged]:
        """The runs kept; none where there is no file, or no readable one."""
        try:
            runs = json.loads(self._path(target).read_text())["judged"]
            return [Judged(float(run["movement"]), tuple(run["answers"])) for run in runs]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _answer(self, target: Target) -> Tensor:
        evidence = self.store.load(target.key, target.point)
        if evidence is None:
            raise ModelError("its evidence cannot be read")
        certifier = self.store.certifiers[target.key]
        setting = Setting.of(self.sampler, self.store.cell.budget)
        answer = certifier.answer(evidence, setting, certifier.rules[-1]).answer
        return answer.to(self.inputs(target.point).device)

    def _keep(self, target: Target, found: Mapping[str, Any], started: float) -> None:
        path = self._path(target)
        path.parent.mkdir(exist_ok=True)
        seconds = round(time.perf_counter() - started, 4)
        content = {**asdict(target), **self._identity(), **found, "seconds": seconds}
        write_atomically(path, json.dumps(content, indent=1).encode() + b"\n")

    def _path(self, target: Target) -> Path:
        digest = digest_of(asdict(target) | self._identity())
        return self.store.folder / "attacks" / f"{target.point:05d}-{target.eps:.4g}-{digest}.json"

    def _identity(self) -> dict[str, Any]:
        return {**asdict(self.attack), "runs": self.runs, "version": VERSION}


def _attacked(row: Row) -> bool:
    """Test for a radius that runs can exceed; a radius of the exact smoothed function is not judged by runs."""
    return row["outcome"] == Outcome.CERTIFIED.value and row["about"] == "run"


def _target(row: Row) -> Target:
    return Target(int(row["point"]), key_of(row["certifier"], row["metric"], row["rule"]), float(row["eps"]))


def _row(row: Row, judged: Sequence[Judged], attack: Attack) -> Row:
    """A line of the table; whether a run answers is for the row's rule to say."""
    moved = [run.movement for run in judged if row["rule"] in run.answers]
    values = {
        "attack": attack.kind,
        "steps": attack.steps,
        "restarts": attack.restarts,
        "draws": attack.draws,
        "runs": len(judged),
        "abstained": len(judged) - len(moved),
        "movement": max(moved, default=None),
        "beyond": sum(movement > float(row["radius"]) for movement in moved),
        "alpha1": float(row["alpha"]) - float(row["alpha2"]),
    }
    return {key: row[key] for key in COLUMNS if key in row} | {key: text(value) for key, value in values.items()}


def attack_table(rows: Iterable[Row]) -> bytes:
    """`tables.ATTACK_FILE` as bytes."""
    return csv_lines(rows, header=True, columns=COLUMNS)


def chance(beyond: int, points: int, runs: int, alpha1: float, alpha2: float) -> float:
    """The largest probability of so many runs beyond true certificates, as the module explains.

    >>> chance(0, 10, 4, 0.005, 0.005)
    1.0
    >>> chance(4, 1, 4, 0.005, 0.005) < 0.00501, chance(12, 10, 4, 0.005, 0.005) < 1e-4
    (True, True)
    """
    from scipy.stats import binom  # slow to import, and only attacks need it

    one_point = (1 - alpha2) * binom.pmf(np.arange(runs + 1), runs, alpha1)
    one_point[-1] += alpha2
    total = reduce(np.convolve, [one_point] * points)
    return min(1.0, float(total[beyond:].sum()))


def broken(rows: Sequence[Row], points: int) -> list[str]:
    """A line for each setting in which certificates were broken more often than stated.

    Parameters
    ----------
    rows : sequence of Row
        Of `tables.ATTACK_FILE`.
    points : int
        Points looked at, with a certificate or without.
    """
    settings = [list(group) for _, group in groupby(sorted(rows, key=_place), key=_place)]
    lines = []
    for group in settings:
        first, beyond = group[0], sum(int(row["beyond"]) for row in group)
        probability = chance(beyond, points, int(first["runs"]), float(first["alpha1"]), float(first["alpha2"]))
        if probability < FALSE_ALARM / len(settings):
            setting = ", ".join(f"{key} {first[key]}" for key in KEYS if first.get(key))
            runs = sum(int(row["runs"]) for row in group)
            lines.append(
                f"certificates are broken: {beyond} of {runs} runs at attacked inputs moved beyond them, true ones "
                f"allow that with probability {probability:.1g} ({setting})"
            )
    return lines


def _place(row: Row) -> tuple[str, ...]:
    return tuple(row.get(key, "") for key in KEYS)


def attack_note(rows: Sequence[Row]) -> str:
    """One sentence on the rows of one rule for table and figure; empty where nothing was attacked."""
    if not rows:
        return ""
    runs, abstained, beyond = (sum(int(row[key]) for row in rows) for key in ("runs", "abstained", "beyond"))
    points = len({row["point"] for row in rows})
    shares = "; ".join(
        f"{metric or rows[0]['certifier']} {_shares(rows, metric)}"
        for metric in dict.fromkeys(row["metric"] for row in rows)
    )
    silent = f", {abstained} abstained" if abstained else ""
    return (
        f"attacked by {rows[0]['attack']} on {points} point{'s' * (points != 1)}: largest movement over certified "
        f"radius {shares}; {beyond} of {runs} runs beyond it{silent}"
    )


def _shares(rows: Sequence[Row], metric: str) -> str:
    """Found over certified, from the least point to the greatest."""
    own = [row for row in rows if row["metric"] == metric and row["movement"] and float(row["radius"])]
    shares = sorted(float(row["movement"]) / float(row["radius"]) for row in own)
    return " to ".join(dict.fromkeys(number(share, 2) for share in (*shares[:1], *shares[-1:]))) or "–"
