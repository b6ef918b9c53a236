"""The paper's figures beside what is computed of them: for each part the study that serves, its counts, its claims."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from csrun.report.claims import Claim, Study, judge
from csrun.report.paper import PARTS, Part, Setting
from csrun.report.tables import number

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Reproduction:
    """Panels of the paper with the rows that reproduce them.

    Attributes
    ----------
    part : Part
        As in the paper, or its stand-in where that serves.
    study : Study or None
        The lines of these panels and their cells alone; None where nothing is computed.
    stand_in : bool
    """

    part: Part
    study: Study | None
    stand_in: bool = False

    @property
    def lines(self) -> pd.DataFrame | None:
        """The lines of these panels, as `Part.lines` returns them."""
        return None if self.study is None else self.part.lines(self.study.summary)

    @property
    def computed(self) -> set[Setting]:
        """Points of the paper's curves that are computed."""
        return set() if self.lines is None else self.part.computed(self.lines)

    def panels(self) -> Iterator[tuple[str, Reproduction]]:
        """Each panel's letter with its own reproduction: conditions and counts are those of its rows alone."""
        for letter, model in zip(self.part.letters, self.part.models, strict=True):
            part = replace(self.part, letters=letter, models=(model,))
            study = None if self.study is None else _restricted(self.study, part)
            yield letter, replace(self, part=part, study=study)

    @property
    def counts(self) -> str:
        """Points, draws and training steps of the rows."""
        if self.study is None:
            return ""
        points = _amounts(self.study.summary["points"])
        counts = [cell["counts"] for cell in self.study.cells if "counts" in cell] or [self.study.manifest["counts"]]
        steps = [_steps(cell["training"]) for cell in self.study.cells if cell.get("training")]
        parts = [f"{points} point{'s' * (points != '1')}"]
        parts += [f"{name} = {_amounts(one[name] for one in counts)}" for name in ("n", "m")]
        parts += [f"{_amounts(steps)} steps"] if steps else []
        return ", ".join(parts)

    @property
    def conditions(self) -> list[str]:
        """What to know before comparing with the paper's figure."""
        if self.study is None:
            return []
        return [one for one in self.study.conditions if "point" not in one and not one.startswith("rule ")]

    @property
    def extent(self) -> str:
        """How much of the paper's grid is computed, and which `eps` are not of it."""
        if self.lines is None:
            return ""
        further = sorted(set(self.lines["eps"]) - set(self.part.eps))
        beside = f", and eps = {', '.join(map(number, further))}" if further else ""
        return f"{len(self.computed)} of {len(self.part.settings())} settings{beside}"

    def claims(self) -> list[Claim]:
        """What these rows say of the paper's claims about the figure."""
        judged = judge([self.study]) if self.study else []
        return [claim for claim in judged if self.part.figure in claim.figures and claim.findings]


def reproductions(studies: Sequence[Study]) -> list[Reproduction]:
    """Every part of the paper's figures with the study that serves it best."""
    return [_reproduction(part, studies) for part in PARTS]


def _reproduction(part: Part, studies: Sequence[Study]) -> Reproduction:
    for one in (part, part.stand_in):
        serving = [found for study in studies if one and (found := _restricted(study, one))]
        if one and serving:
            best = max(serving, key=lambda study: _preference(one, study))
            return Reproduction(one, best, stand_in=one is not part)
    return Reproduction(part.stand_in or part, None)


def _restricted(study: Study, part: Part) -> Study | None:
    """The lines and cells of a study that belong to a part; None where there are none."""
    lines = part.lines(study.summary)
    if lines.empty:
        return None
    names = ("model", "dataset", "train", "scale")
    there = {_setting(line, names) for line in lines.to_dict("records")}
    cells = [cell for cell in study.cells if all(name in cell for name in names) and _setting(cell, names) in there]
    changes = {"metrics": [part.metric], "points": int(lines["points"].min()), "cells": cells}
    return replace(study, summary=lines, manifest=study.manifest | changes)


def _setting(entry: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{entry[name]:.9g}" if name == "scale" else str(entry[name]) for name in names)


def _preference(part: Part, study: Study) -> tuple[Any, ...]:
    """The newest method first, then most of the grid, then most points and draws; smoke runs last."""
    computed = len(part.computed(study.summary))
    points, draws = study.manifest["points"], study.manifest["counts"]["m"]
    mine = study.name == part.experiment
    return study.manifest["budget"] != "smoke", not study.older, computed, points, draws, mine, str(study.folder)


def _steps(training: Mapping[str, Any]) -> int:
    return int(training["epochs"]) * math.ceil(training["images"] / training["batch_size"])


def _amounts(values: Iterable[int]) -> str:
    """Whole numbers in words.

    >>> _amounts([2000, 2000]), _amounts([10, 5, 7])
    ('2,000', '5 to 10')
    """
    whole = sorted(map(int, values))
    low, high = whole[0], whole[-1]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
