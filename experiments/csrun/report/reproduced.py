"""The paper's figures beside what is computed of them: for each panel the study that serves, its counts, its claims."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from csrun.report.claims import Claim, Study, judge
from csrun.report.paper import EXPERIMENTS, PANELS, Panel, Setting
from csrun.report.plots import NAMES
from csrun.report.tables import number

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Reproduction:
    """A panel of the paper with the rows that reproduce it.

    Attributes
    ----------
    panel : Panel
        The paper's, or its stand-in where that serves.
    study : Study or None
        The lines of the panel and their cells alone; None where nothing is computed.
    stand_in : bool
    """

    panel: Panel
    study: Study | None
    stand_in: bool

    @property
    def lines(self) -> pd.DataFrame | None:
        """The lines of the panel, as `Panel.lines` returns them."""
        return None if self.study is None else self.study.summary

    @property
    def computed(self) -> set[Setting]:
        """Points of the paper's curves that are computed."""
        return set() if self.lines is None else self.panel.computed(self.lines)

    @property
    def subject(self) -> str:
        """Model and data set in words."""
        model, dataset = (NAMES.get(name, name) for name in (self.panel.model, self.panel.dataset))
        if self.stand_in:
            return f"{model} (stand-in for BigGAN)"
        return model if dataset.startswith("latents") else f"{model}, {dataset}"

    @property
    def exact(self) -> bool:
        """Whether the rows are at the paper's counts, of its own model, by the current method."""
        return self.study is not None and not (self.study.reduced or self.study.older or self.stand_in)

    @property
    def counts(self) -> str:
        """Points, draws and training steps of the rows."""
        if self.study is None:
            return ""
        points = _amounts(self.study.summary["points"])
        counts = _counts(self.study)
        steps = [_steps(cell["training"]) for cell in self.study.cells if cell.get("training")]
        parts = [f"{points} point{'s' * (points != '1')}"]
        parts += [f"{name} = {_amounts(one[name] for one in counts)}" for name in ("n", "m") if counts]
        parts += [f"{_amounts(steps)} steps"] if steps else []
        return ", ".join(parts)

    @property
    def conditions(self) -> list[str]:
        """A note for those who compare with the paper's figure."""
        if self.study is None:
            return []
        return [one for one in self.study.conditions_of_all_rules if "point" not in one]

    @property
    def extent(self) -> str:
        """How much of the paper's grid is computed, and which `eps` are not of it."""
        further = [] if self.lines is None else sorted(set(self.lines["eps"]) - set(self.panel.eps))
        beside = f" and ε = {', '.join(map(number, further))}" if further else ""
        return f"{len(self.computed)} of {len(self.panel.settings())} settings{beside}"

    @property
    def lacking(self) -> list[tuple[str, float]]:
        """Curves of which nothing is computed, by training and ``h``."""
        there = {(setting.training, setting.h) for setting in self.computed}
        return [curve for curve in self.panel.curves if curve not in there]

    def claims(self) -> list[Claim]:
        """Verdicts of these rows on the paper's claims about the figure."""
        judged = judge([self.study]) if self.study else []
        return [claim for claim in judged if self.panel.figure in claim.figures and claim.findings]


def reproductions(studies: Sequence[Study]) -> list[Reproduction]:
    """Every panel of the paper's figures with the study that serves it best."""
    papers = [study for study in studies if study.name in EXPERIMENTS]
    return [_reproduction(panel, papers) for panel in PANELS]


def overall(made: Sequence[Reproduction]) -> str:
    """A sentence on what was reproduced and how exactly."""
    grid, computed = (sum(map(len, sets)) for sets in ([m.panel.settings() for m in made], [m.computed for m in made]))
    panels = sum(one.study is not None for one in made)
    exact = sum(len(one.computed) for one in made if one.exact) or "none"
    return (
        f"Of the {grid} settings in the {len(made)} panels of the paper's figures 3 to 8, {computed} are computed "
        f"here, in {panels} panels; {exact} of them at the paper's counts."
    )


def _reproduction(panel: Panel, studies: Sequence[Study]) -> Reproduction:
    for one in filter(None, (panel, panel.stand_in)):
        serving = list(filter(None, (_restricted(study, one) for study in studies)))
        if serving:
            return Reproduction(one, max(serving, key=partial(_preference, one)), stand_in=one is not panel)
    return Reproduction(panel, None, stand_in=False)


def _restricted(study: Study, panel: Panel) -> Study | None:
    """The lines and cells of a study that belong to a panel; None where there are none."""
    lines = panel.lines(study.summary)
    if lines.empty:
        return None
    there = {_setting(line) for line in lines.to_dict("records")}
    # A cell that does not say its setting stays: what it says of the method may be about these lines.
    cells = [cell for cell in study.cells if not all(name in cell for name in _CELL) or _setting(cell) in there]
    changes = {"metrics": [panel.metric], "points": int(lines["points"].min()), "cells": cells}
    return replace(study, summary=lines, manifest=study.manifest | changes)


_CELL = ("model", "dataset", "train", "scale")


def _setting(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that tell cells of a study apart, of a cell's entry or a line."""
    return tuple(f"{entry[name]:.9g}" if name == "scale" else str(entry[name]) for name in _CELL)


def _preference(panel: Panel, study: Study) -> tuple[Any, ...]:
    """The newest method first, then most of the grid, then most points and draws; smoke runs last."""
    computed, points = len(panel.computed(study.summary)), study.manifest["points"]
    draws, own = max((one["m"] for one in _counts(study)), default=0), study.name == panel.experiment
    return study.manifest["budget"] != "smoke", not study.older, computed, points, draws, own, str(study.folder)


def _counts(study: Study) -> list[Mapping[str, int]]:
    """Counts of draws of each cell; those of the newest run where the cells do not say theirs."""
    of_cells = [cell["counts"] for cell in study.cells if "counts" in cell]
    return of_cells or list(filter(None, [study.manifest.get("counts")]))


def _steps(training: Mapping[str, Any]) -> int:
    return int(training["epochs"] * math.ceil(training["images"] / training["batch_size"]))


def _amounts(values: Iterable[int]) -> str:
    """Whole numbers in words.

    >>> _amounts([2000, 2000]), _amounts([10, 5, 7])
    ('2,000', '5 to 10')
    """
    whole = sorted(map(int, values))
    low, high = whole[0], whole[-1]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
