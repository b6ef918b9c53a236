"""The figures of the paper as data: panels, curves and grid of each, and which of an experiment's lines belong there.

Source: Kumar and Goldstein, *Center Smoothing*, NeurIPS 2021, figures 3 to 8. Where the paper's text leaves a grid open,
it is that of the experiment's configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
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
class Part:
    """Panels of one figure that one experiment computes.

    Attributes
    ----------
    figure : int
    letters : str
        A letter for each panel.
    experiment : str
        Name of the experiment that computes them.
    metric, dataset : str
    models : tuple of str
        One for each panel.
    eps, h : tuple of float
    trainings : tuple of str
        As `tables.training_kind` returns them; empty for a model that is not trained here.
    stand_in : Part or None
        Serves where the experiment itself has no rows.
    """

    figure: int
    letters: str
    experiment: str
    metric: str
    dataset: str
    models: tuple[str, ...]
    eps: tuple[float, ...]
    h: tuple[float, ...]
    trainings: tuple[str, ...] = ("with noise",)
    stand_in: Part | None = None

    @property
    def name(self) -> str:
        """Figure and letters, such as ``5a, b``."""
        return f"{self.figure}{', '.join(self.letters)}"

    @property
    def command(self) -> str:
        """Command that computes the part."""
        return f"cs-run experiment={self.experiment} budget=full"

    @property
    def curves(self) -> list[tuple[str, float]]:
        """Training and ``h`` of each curve of a panel."""
        return [(training, h) for training in self.trainings for h in self.h]

    def settings(self) -> set[Setting]:
        """All points of the curves."""
        return {
            Setting(self.figure, letter, *curve, eps)
            for letter in self.letters
            for curve in self.curves
            for eps in self.eps
        }

    def lines(self, summary: pd.DataFrame) -> pd.DataFrame:
        """Lines of a summary that belong to these panels, with the kind of training as a column.

        Lines between two `eps` of the paper's grid belong to them too.
        """
        lines = summary[
            (summary["certifier"] == PAPER_RULE["certifier"])
            & (summary["noise"] == "gaussian")
            & (summary["metric"] == self.metric)
            & (summary["dataset"] == self.dataset)
            & summary["model"].isin(self.models)
            & summary["h"].round(6).isin(self.h)
            & summary["eps"].round(6).between(min(self.eps), max(self.eps))
        ]
        lines = lines.assign(training=trainings_of(lines), h=lines["h"].round(6), eps=lines["eps"].round(6))
        return lines[lines["training"].isin(self.trainings)]

    def computed(self, lines: pd.DataFrame) -> set[Setting]:
        """Points of the curves that these lines, as `lines` returns them, have; not those that need more draws."""
        letter = dict(zip(self.models, self.letters, strict=True))
        feasible = lines[lines["status"] != "infeasible"]
        columns = (feasible[name] for name in ("model", "training", "h", "eps"))
        return self.settings() & {
            Setting(self.figure, letter[model], training, float(h), float(eps))
            for model, training, h, eps in zip(*columns, strict=True)
        }


_TWO = ("autoencoder", "reconstructor")
_FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
_BOTH_TRAININGS = ("with noise", "without noise")
_GENERATOR = Part(4, "a", "lpips_biggan", "lpips", "latents128", ("biggan",), (0.01, 0.02, 0.03, 0.04, 0.05), (1, 1.5))
_GENERATOR = replace(_GENERATOR, trainings=("",))
_STAND_IN = replace(_GENERATOR, experiment="lpips_dcgan", dataset="latents100", models=("dcgan",))

PARTS = (
    Part(3, "a", "jaccard_celeba", "jaccard", "celeba", ("mtcnn",), (0.1, 0.2, 0.3, 0.4, 0.5), (1, 1.5, 2), ("",)),
    replace(_GENERATOR, stand_in=_STAND_IN),
    Part(5, "ab", "tv_mnist", "tv", "mnist", _TWO, _FIFTHS, (1, 1.5)),
    Part(5, "cd", "tv_cifar10", "tv", "cifar10", _TWO, _FIFTHS, (1, 1.5)),
    Part(6, "ab", "l2_mnist", "l2", "mnist", _TWO, _FIFTHS, (1,)),
    Part(6, "cd", "l2_cifar10", "l2", "cifar10", _TWO, _FIFTHS, (1,)),
    Part(7, "ab", "angular_mnist", "angular", "mnist", _TWO, _FIFTHS, (1, 1.5)),
    Part(7, "cd", "angular_cifar10", "angular", "cifar10", _TWO, _FIFTHS, (1, 1.5)),
    Part(8, "ab", "ablation_mnist", "tv", "mnist", _TWO, _FIFTHS, (1,), _BOTH_TRAININGS),
    Part(8, "cd", "ablation_cifar10", "tv", "cifar10", _TWO, _FIFTHS, (1,), _BOTH_TRAININGS),
)
"""Every panel of the paper with numbers, in its order."""

EXPERIMENTS = {one.experiment for part in PARTS for one in (part, part.stand_in) if one}
"""The experiments of figures 3 to 8; `lpips_dcgan` is figure 4's with a stand-in for the generator."""


def settings_of(figures: Iterable[int], h: float | None = None) -> set[Setting]:
    """The paper's grid in some figures, at one `h` or all."""
    figures = tuple(figures)
    every = {setting for part in PARTS if part.figure in figures for setting in part.settings()}
    return {setting for setting in every if h in (None, setting.h)}


def computed_in(lines: pd.DataFrame) -> set[Setting]:
    """Points of the paper's curves, of any figure, that the lines of a summary have."""
    parts = [one for part in PARTS for one in (part, part.stand_in) if one]
    return {setting for part in parts for setting in part.computed(part.lines(lines))}
