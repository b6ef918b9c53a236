"""Claims of the paper, each beside the numbers of ours that support or contradict it.

A *study* is one experiment's folder of cached results. Each claim looks at every study it speaks of and leaves a
finding: what was measured, and whether the claim holds there. Medians are those of the figures: an abstention counts
as +infinity, and the rule is the one the study's manifest draws.

Source: Kumar and Goldstein, *Center Smoothing*, NeurIPS 2021, section 5 and figures 3 to 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from csrun.cells import METHOD_VERSION
from csrun.registry import CERTIFIERS
from csrun.report.paper import EXPERIMENTS, Setting, computed_in, settings_of
from csrun.report.published import superseded
from csrun.report.tables import (
    FREE_RULE,
    MEAN_RULE,
    PAPER_RULE,
    RULE,
    SHARPER_RULE,
    SLIP_NUMBER,
    number,
    of_rule,
    quantile,
    read_manifest,
    read_rows,
    read_unit_slip,
    summarise,
    trainings_of,
)

WELL_BELOW = 0.5
"""The error is called well below the radius where the ratio of their medians is at most this."""

JACCARD_BOUND = 0.2
SECONDS_A_POINT = (60, 180)
QUOTED_LARGEST_TV = {"mnist": (1458, (1, 28, 28)), "cifar10": (5766, (3, 32, 32))}


@dataclass(frozen=True)
class Study:
    """One experiment's cached results.

    Attributes
    ----------
    folder : Path
    manifest : dict
    summary : DataFrame
        A line for each grid point and rule, as `tables.summarise` returns it.
    """

    folder: Path
    manifest: dict[str, Any]
    summary: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> Study:
        """Raises FileNotFoundError or ValueError, one line, where the folder holds no experiment."""
        return cls(folder, read_manifest(folder), summarise(read_rows(folder)))

    @property
    def name(self) -> str:
        return str(self.manifest["experiment"])

    @property
    def anchor(self) -> str:
        """A name for links; an experiment may be there from ``runs/`` and, published, from ``results/``."""
        return "-".join(part for part in self.folder.parts[-3:] if part.strip("./")) or self.name

    @property
    def reduced(self) -> bool:
        """True if draws, points or training are below the paper's."""
        return bool(self.manifest["reduced"])

    @property
    def older(self) -> bool:
        """True if a cell was computed before the method last changed (CHANGELOG)."""
        return any(cell.get("method", 0) < METHOD_VERSION for cell in self.cells)

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Entries of the manifest's cells."""
        return list(self.manifest.get("cells", []))

    @property
    def conditions(self) -> list[str]:
        """Conditions to know before comparing, in a few words: budget, points, rule, stand-ins."""
        certifier, rule = (self.manifest["rule"][part] for part in RULE)
        label = "" if certifier == PAPER_RULE["certifier"] else f"{CERTIFIERS[certifier].label}, "
        return [*self._counts, *[f"{label}rule {rule}"] * (self.manifest["rule"] != PAPER_RULE), *self._marks]

    @property
    def conditions_of_all_rules(self) -> list[str]:
        """Conditions that hold whatever the rule."""
        return [*self._counts, *self._marks]

    @property
    def _counts(self) -> list[str]:
        points = self.manifest.get("points")
        counts = ["smoke counts" if self.manifest["budget"] == "smoke" else "reduced counts"] * self.reduced
        return counts + ([f"{points} point{'s' * (points != 1)}"] if points else [])

    @property
    def _marks(self) -> list[str]:
        stand_in = any("stand" in note for note in self.manifest["notes"])
        return ["stand-in"] * stand_in + ["older method"] * self.older

    @property
    def marks(self) -> list[str]:
        """Conditions with every note of the manifest in full."""
        return [*self.conditions, *map(str, self.manifest["notes"])]

    def drawn(self, metric: str | None = None) -> pd.DataFrame:
        """The lines of the rule the figures draw, of one metric or all, with the kind of training."""
        lines = self.summary[self.summary["metric"].isin([metric] if metric else self.manifest["metrics"])]
        lines = of_rule(lines, self.manifest["rule"])
        return lines.assign(training=trainings_of(lines))

    @cached_property
    def computed(self) -> frozenset[Setting]:
        """Points of the paper's curves that the drawn lines have."""
        return frozenset(computed_in(self.drawn()))


def current(studies: Sequence[Study]) -> list[Study]:
    """Without those of an older method, once another study of the experiment has all of their cells by a newer one."""
    return [
        study
        for study in studies
        if not superseded(study.cells, [cell for other in studies if other.name == study.name for cell in other.cells])
    ]


@dataclass(frozen=True)
class Finding:
    """Finding of one study about one claim.

    Attributes
    ----------
    study : Study
    holds : bool or None
        None where its numbers cannot decide.
    text : str
        The numbers.
    sampled : bool
        Whether they rest on the study's draws, so that reduced counts matter.
    settings : frozenset of Setting
        Points of the paper's curves that they rest on.
    """

    study: Study
    holds: bool | None
    text: str
    sampled: bool = True
    settings: frozenset[Setting] = frozenset()

    @property
    def reduced(self) -> bool:
        return self.sampled and self.study.reduced


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with our findings.

    Attributes
    ----------
    text, source : str
    findings : tuple of Finding
    short : str
        The claim in a few words.
    figures : tuple of int
        The figures of the paper it is read off.
    grid : frozenset of Setting
        The points of their curves that it speaks of.
    """

    text: str
    source: str
    findings: tuple[Finding, ...]
    short: str = ""
    figures: tuple[int, ...] = ()
    grid: frozenset[Setting] = frozenset()

    @property
    def verdict(self) -> str:
        """``holds``, ``contradicted``, ``holds in part``, or ``not measured``.

        >>> Claim("", "", ()).verdict
        'not measured'
        """
        decided = {finding.holds for finding in self.findings} - {None}
        if not decided:
            return "not measured"
        return "holds in part" if len(decided) == 2 else "holds" if decided == {True} else "contradicted"

    @property
    def reduced(self) -> bool:
        """True if only reduced counts support the verdict."""
        return bool(self._deciding) and all(finding.reduced for finding in self._deciding)

    @property
    def conditions(self) -> list[str]:
        """Conditions of the verdict in a few words: reduced counts, a part of the grid only."""
        conditions = ["at reduced counts"] * self.reduced
        settings = frozenset().union(*(finding.settings for finding in self._deciding))
        if self._deciding and settings != self.grid:
            conditions.append(f"on {extent(settings, self.grid)}")
        return conditions

    def extent_of(self, finding: Finding) -> str:
        """The part of the grid, in the figures that a finding speaks of, that it rests on; empty if it is all."""
        figures = {setting.figure for setting in finding.settings} or self.figures
        grid = frozenset(setting for setting in self.grid if setting.figure in figures)
        return f"covers {extent(finding.settings, grid)}" if finding.settings != grid else ""

    @property
    def _deciding(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.holds is not None]


def extent(settings: Set[Setting], grid: Set[Setting]) -> str:
    """How much of a grid of the paper some settings are, in words.

    >>> grid = settings_of([6], h=1)
    >>> extent({one for one in grid if one.eps == 0.2}, grid)
    "4 of 20 settings of the paper's figure 6"
    """
    figures = sorted({setting.figure for setting in grid})
    names = ", ".join(map(str, figures))
    return f"{len(settings) or 'none'} of {len(grid)} settings of the paper's figure{'s' * (len(figures) > 1)} {names}"


RULES_BESIDE = {
    "measured": SHARPER_RULE,
    "measured, free centers": FREE_RULE,
    "mean, local": MEAN_RULE | {"rule": "local"},
    "mean, spectral": MEAN_RULE,
}
"""Rules that are compared with the paper's; all but the first certify other smoothed models, from the same draws."""


@dataclass(frozen=True)
class Sharpening:
    """A rule of the library's own against the paper's, on the same draws of one study, metric and h.

    Attributes
    ----------
    study : Study
    rule : str
        One of `RULES_BESIDE`.
    metric : str
    h : float
    eps : tuple of float
        The settings compared.
    ratios : tuple of float
        Of median radii, ours over the paper's, where both have one.
    paper_abstains, paper_infeasible : int
        How many further settings only ours has a median at: the paper's rule abstains there, or needs more draws.
    """

    study: Study
    rule: str
    metric: str
    h: float
    eps: tuple[float, ...]
    ratios: tuple[float, ...]
    paper_abstains: int
    paper_infeasible: int


def sharpenings(studies: Sequence[Study]) -> list[Sharpening]:
    """Ratios of the medians of our rules to the paper's, abstentions counted."""
    return [found for study in studies for rule in RULES_BESIDE for found in _sharpenings_of(study, rule)]


def _sharpenings_of(study: Study, rule: str) -> Iterator[Sharpening]:
    keys = ["model", "dataset", "train", "noise", "scale", "metric", "h", "eps", "points"]  # of the same points alone
    columns = [*keys, "radius_median", "status"]
    ours, papers = (of_rule(study.summary, one)[columns] for one in (RULES_BESIDE[rule], PAPER_RULE))
    ours = ours[ours["metric"].isin(study.manifest["metrics"]) & (ours["status"] == "ok")]
    if ours.empty:
        return
    both = ours.merge(papers, on=keys, suffixes=("", "_paper"))
    for (metric, h), lines in both.groupby(["metric", "h"]):
        comparable = lines[lines["status_paper"] == "ok"]
        ratios = tuple(comparable["radius_median"] / comparable["radius_median_paper"])
        without = [int((lines["status_paper"] == status).sum()) for status in ("abstains", "infeasible")]
        yield Sharpening(study, rule, str(metric), float(h), tuple(sorted(set(lines["eps"]))), ratios, *without)


def judge(studies: Sequence[Study]) -> list[Claim]:
    """Every claim of the paper with what the studies of its experiments say of it; other studies have no say.

    A run at smoke counts, or of another smoothed model than the paper's, is quoted and decides nothing.
    """
    papers = [study for study in studies if study.name in EXPERIMENTS]
    return [_judged(statement, papers) for statement in _STATEMENTS]


def _judged(statement: _Statement, studies: Sequence[Study]) -> Claim:
    grid = frozenset(settings_of(statement.figures, statement.h))
    findings = tuple(
        replace(_weighed(finding), settings=grid & study.computed)
        for study in studies
        for finding in statement.look(study)
    )
    return Claim(statement.text, statement.source, findings, statement.short, statement.figures, grid)


def _weighed(finding: Finding) -> Finding:
    manifest = finding.study.manifest
    smoke = finding.sampled and manifest["budget"] == "smoke"
    other = manifest["rule"]["certifier"] != PAPER_RULE["certifier"]
    return replace(finding, holds=None) if smoke or other else finding


def _both_rise(study: Study) -> Iterator[Finding]:
    if curves := [curve for curve in _curves(study) if len(curve) > 1 and (curve["status"] == "ok").any()]:
        falls = [_fall(curve, name) for curve in curves for name in ("radius", "error")]
        fallen = [fall for fall in falls if fall]
        text = f"{len(falls) - len(fallen)} of {len(falls)} curves rise throughout"
        yield Finding(study, not fallen, "; ".join([text, *fallen[:2]]))


def _curves(study: Study) -> list[pd.DataFrame]:
    """Lines of one model, metric, training and h (or scale), by eps; without infeasible ones."""
    lines = study.drawn()
    keys = ["model", "dataset", "metric", "training", "scale" if study.manifest["curve"] == "scale" else "h"]
    lines = lines[lines["status"] != "infeasible"].sort_values("eps")
    return [curve for _, curve in lines.groupby(keys, sort=True)]


def _fall(curve: pd.DataFrame, name: str) -> str:
    """The first place where a curve falls, in words; empty if it rises."""
    values = list(zip(curve["eps"], curve[f"{name}_median"], strict=True))
    for (_, before), (eps, after) in pairwise(values):
        if after < before:
            line = curve.iloc[0]
            where = f"{line['metric']}, {line['model']}, h = {number(line['h'])}"
            return f"the {name} falls from {number(before)} to {number(after)} at eps = {number(eps)} ({where})"
    return ""


def _error_below_radius(study: Study) -> Iterator[Finding]:
    lines = study.drawn()
    lines = lines[lines["status"] == "ok"]
    ratios = lines["error_median"] / lines["radius_median"]
    if len(ratios):
        text = f"error/radius {_range(ratios)} over {len(ratios)} setting{'s' * (len(ratios) > 1)}"
        yield Finding(study, bool(ratios.max() <= WELL_BELOW), text)


def _larger_h_is_smaller(study: Study) -> Iterator[Finding]:
    lines = study.drawn()
    lines = lines[lines["status"] != "infeasible"]
    comparisons = [
        after / before
        for _, same in lines.groupby(["model", "dataset", "metric", "training", "eps"])
        for before, after in pairwise(same.sort_values("h")["radius_median"])
        if math.isfinite(before)
    ]
    if comparisons and study.manifest["curve"] in ("h", "eps"):
        smaller = sum(ratio < 1 for ratio in comparisons)
        text = f"smaller in {smaller} of {len(comparisons)} comparisons, ratios {_range(comparisons)}"
        yield Finding(study, smaller == len(comparisons), text)


def _jaccard_below_bound(study: Study) -> Iterator[Finding]:
    lines = study.drawn("jaccard") if study.name == "jaccard_celeba" else study.summary[:0]
    lines = lines[(lines["h"] == 2) & (lines["status"] != "infeasible")]
    if len(lines):
        radii = ", ".join(
            f"{_median(r)} at {number(e)}" for e, r in zip(lines["eps"], lines["radius_median"], strict=True)
        )
        text = f"certified, by eps: {radii}" + _slip(study)
        yield Finding(study, bool((lines["radius_median"] < JACCARD_BOUND).all()), text)


def _median(value: float) -> str:
    return number(value, 2) if math.isfinite(value) else "abstains"


def _range(values: Sequence[float] | pd.Series) -> str:
    """Range of values in two digits; infinite ones are abstentions.

    >>> _range([0.5, 0.25]), _range([2.0]), _range([1.0, math.inf])
    ('0.25 to 0.5', '2', '1 to abstains')
    """
    low, high = _median(min(values)), _median(max(values))
    return low if low == high else f"{low} to {high}"


def _slip(study: Study) -> str:
    """Sentence on the unit slip of the released code on the same samples, where the study kept it."""
    slips = read_unit_slip(study.folder)
    if slips.empty:
        return ""
    medians = slips[slips["h"] == 2].groupby("eps")[SLIP_NUMBER].agg(lambda values: quantile(values, 0.5))
    values = ", ".join(f"{_median(value)} at {number(eps)}" for eps, value in medians.items())
    return f"; not a certificate, with the released code's unit slip: {values}"


def _training_noise_helps(study: Study) -> Iterator[Finding]:
    if study.manifest["curve"] != "training":
        return
    lines = study.drawn()
    keys = ["model", "dataset", "metric", "h", "eps"]
    pairs = lines.pivot_table(index=keys, columns="training", values=["radius_median", "error_median"], aggfunc="first")
    for name in ("radius", "error"):
        both = pairs[f"{name}_median"].dropna() if f"{name}_median" in pairs else pd.DataFrame()
        if {"with noise", "without noise"} <= set(both.columns) and len(both):
            ratios = both["with noise"] / both["without noise"]
            text = f"{name} lower in {int((ratios < 1).sum())} of {len(ratios)} settings, with/without {_range(ratios)}"
            yield Finding(study, bool((ratios < 1).all()), text)


def _below_l2_baselines(study: Study) -> Iterator[Finding]:
    lines = study.drawn("l2")
    lines = lines[(lines["h"] == 1) & (lines["status"] != "infeasible")]
    baselines = [line for line in study.manifest["baselines"] if line["metric"] == "l2" and line["h"] == 1]
    if len(lines) and baselines:
        high = lines["radius_median"].max()
        quoted = ", ".join(f"{line['label']} {number(line['value'])}" for line in baselines)
        text = f"median radii {_range(lines['radius_median'])}; {quoted}"
        yield Finding(study, bool(high < baselines[0]["value"]), text)


def _minutes_a_point(study: Study) -> Iterator[Finding]:
    seconds = study.drawn()["seconds_median"].dropna()
    if not len(seconds):
        return
    comparable = study.manifest["device"] == "cuda" and not study.reduced
    device = study.manifest["hardware"]["device"]
    counts = study.manifest.get("counts", {})
    draws = f", {counts['n']:,} + {max(counts['n'], counts['m']):,} draws" if counts else ""
    text = f"{_range(seconds)} s a point on {device}{draws}"
    yield Finding(study, bool(seconds.max() <= SECONDS_A_POINT[1]) if comparable else None, text)


def _largest_total_variation(study: Study) -> Iterator[Finding]:
    dataset = study.manifest["data"]["name"]
    if "tv" in study.manifest["metrics"] and dataset in QUOTED_LARGEST_TV:
        quoted, (channels, rows, columns) = QUOTED_LARGEST_TV[dataset]
        reached = 2 * channels * (rows * (columns - 1) + columns * (rows - 1))
        text = f"a checkerboard and its inverse are {reached} apart, quoted {quoted}"
        yield Finding(study, reached <= quoted, text, sampled=False)


@dataclass(frozen=True)
class _Statement:
    """A claim of the paper, where it is read off, and who looks for it in a study."""

    text: str
    short: str
    look: Callable[[Study], Iterable[Finding]]
    figures: tuple[int, ...] = ()
    h: float | None = None
    section: str = ""

    @property
    def source(self) -> str:
        """Figures or section of the paper."""
        if self.section:
            return f"section {self.section}"
        return f"figure{'s' * (len(self.figures) > 1)} {', '.join(map(str, self.figures))}"


_STATEMENTS = (
    _Statement("Certified radius and smoothing error both rise with eps", "both rise", _both_rise, (3, 4, 5, 7)),
    _Statement(
        "The smoothing error stays well below the radius (here: at most half)",
        "error well below radius",
        _error_below_radius,
        (3, 4, 5, 7),
    ),
    _Statement(
        "A larger h = eps/sigma gives a smaller radius", "larger h, smaller radius", _larger_h_is_smaller, (3, 4, 5, 7)
    ),
    _Statement("At h = 2 the Jaccard radius stays below 0.2", "below 0.2 at h = 2", _jaccard_below_bound, (3,), h=2),
    _Statement(
        "Training with noise lowers both radius and error", "training noise lowers both", _training_noise_helps, (8,)
    ),
    _Statement(
        "The l2 radius at h = 1 stays below the paper's baseline for the mean",
        "below the baseline",
        _below_l2_baselines,
        (6,),
    ),
    _Statement("A point takes 1 to 3 minutes on one RTX 2080 Ti", "1 to 3 minutes", _minutes_a_point, section="5"),
    _Statement(
        "1458 and 5766 are the largest distances of two images of the size of MNIST's and of CIFAR-10's",
        "largest distances",
        _largest_total_variation,
        section="5.3",
    ),
)
