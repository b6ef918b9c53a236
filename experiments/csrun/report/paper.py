"""The figures of the paper as data: panels, curves and grid of each, and which of an experiment's lines belong there.

Source: Kumar and Goldstein, *Center Smoothing*, NeurIPS 2021, figures 3 to 8. Where the text of the paper leaves a grid
open, it is that of the configuration of the experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from csrun.report.tables import PAPER_RULE, trainings_of

if TYPE_CHECKING:
    import pandas as pd


class Setting(NamedTuple):
    """A point of a curve in a figure of the paper."""

    figure: int
    letter: str
    training: str
    h: float
    eps: float


@dataclass(frozen=True)
class Panel:
    """One panel of a figure.

    Attributes
    ----------
    figure : int
    letter : str
    experiment : str
        Name of the experiment that computes it.
    metric, model, dataset : str
    eps, h : tuple of float
    trainings : tuple of str
        As `tables.training_kind` returns them; empty for a model that is not trained here.
    stand_in : Panel or None
        Serves where there are no rows of the panel itself.
    """

    figure: int
    letter: str
    experiment: str
    metric: str
    model: str
    dataset: str
    eps: tuple[float, ...]
    h: tuple[float, ...]
    trainings: tuple[str, ...]
    stand_in: Panel | None = None

    @property
    def command(self) -> str:
        """Command that computes the panel."""
        return f"cs-run experiment={self.experiment} budget=full"

    @property
    def curves(self) -> list[tuple[str, float]]:
        """Training and ``h`` of each curve."""
        return [(training, h) for training in self.trainings for h in self.h]

    def settings(self) -> set[Setting]:
        """All points of the curves."""
        return {Setting(self.figure, self.letter, *curve, eps) for curve in self.curves for eps in self.eps}

    def lines(self, summary: pd.DataFrame) -> pd.DataFrame:
        """Lines of a summary that belong to the panel, with the kind of training as a column.

        Lines between two `eps` of the paper's grid belong to it too.
        """
        lines = summary[
            (summary["certifier"] == PAPER_RULE["certifier"])
            & (summary["noise"] == "gaussian")
            & (summary["metric"] == self.metric)
            & (summary["model"] == self.model)
            & (summary["dataset"] == self.dataset)
            & summary["h"].round(6).isin(self.h)
            & summary["eps"].round(6).between(min(self.eps), max(self.eps))
        ]
        lines = lines.assign(training=trainings_of(lines), h=lines["h"].round(6), eps=lines["eps"].round(6))
        return lines[lines["training"].isin(self.trainings)]

    def computed(self, lines: pd.DataFrame) -> set[Setting]:
        """Points of the curves that these lines, as `lines` returns them, have; not those that need more draws."""
        feasible = lines[lines["status"] != "infeasible"]
        places = zip(feasible["training"], feasible["h"], feasible["eps"], strict=True)
        there = {Setting(self.figure, self.letter, training, float(h), float(eps)) for training, h, eps in places}
        return self.settings() & there


_HUNDREDTHS = (0.01, 0.02, 0.03, 0.04, 0.05)
_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5)
_FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)

_FACES = Panel(3, "a", "jaccard_celeba", "jaccard", "mtcnn", "celeba", _TENTHS, (1, 1.5, 2), ("",))
_STAND_IN = Panel(4, "a", "lpips_dcgan", "lpips", "dcgan", "latents100", _HUNDREDTHS, (1, 1.5), ("",))
_GENERATOR = replace(_STAND_IN, experiment="lpips_biggan", model="biggan", dataset="latents128", stand_in=_STAND_IN)
_IMAGES = (
    ("a", "autoencoder", "mnist"),
    ("b", "reconstructor", "mnist"),
    ("c", "autoencoder", "cifar10"),
    ("d", "reconstructor", "cifar10"),
)


def _of_images(
    figure: int, kind: str, metric: str, h: tuple[float, ...], trainings: tuple[str, ...] = ("with noise",)
) -> list[Panel]:
    return [
        Panel(figure, letter, f"{kind}_{dataset}", metric, model, dataset, _FIFTHS, h, trainings)
        for letter, model, dataset in _IMAGES
    ]


PANELS: tuple[Panel, ...] = (
    _FACES,
    _GENERATOR,
    *_of_images(5, "tv", "tv", (1, 1.5)),
    *_of_images(6, "l2", "l2", (1,)),
    *_of_images(7, "angular", "angular", (1, 1.5)),
    *_of_images(8, "ablation", "tv", (1,), ("with noise", "without noise")),
)
"""Every panel of the paper with numbers, in its order."""

WITH_STAND_INS = tuple(one for panel in PANELS for one in (panel, panel.stand_in) if one)

EXPERIMENTS = {panel.experiment for panel in WITH_STAND_INS}
"""The experiments of figures 3 to 8; `lpips_dcgan` is figure 4's with a stand-in for the generator."""


def settings_of(figures: Sequence[int], h: float | None = None) -> set[Setting]:
    """The paper's grid in some figures, at one `h` or all."""
    every = {setting for panel in PANELS if panel.figure in figures for setting in panel.settings()}
    return {setting for setting in every if h in (None, setting.h)}


def computed_in(summary: pd.DataFrame) -> set[Setting]:
    """Points of the paper's curves, of any figure, that the lines of a summary have."""
    there = set(zip(summary["metric"], summary["model"], summary["dataset"], strict=True))
    panels = [panel for panel in WITH_STAND_INS if (panel.metric, panel.model, panel.dataset) in there]
    return {setting for panel in panels for setting in panel.computed(panel.lines(summary))}
