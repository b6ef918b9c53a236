"""The cell: one model at one noise level on one data set, computed once and kept.

Its digest covers everything that shapes a number, and nothing that does not: no batch size, no path, not which points
or which experiment asked. So `l2_mnist` finds the cells of `tv_mnist` done.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from centersmooth import Budget
from csrun.cells import METHOD_VERSION
from csrun.system.files import digest_of


@dataclass(frozen=True)
class Cell:
    """Everything a cell's numbers depend on.

    Attributes
    ----------
    model, dataset : str
    train : str
        ``<method>@<scale>`` of the noise it was trained with, ``none`` without noise; empty if it was not trained here.
    noise : dict
        The smoothing law: its ``name`` and what it has beside its scale.
    scale : float
        Of the smoothing law.
    weights, metric_weights, data : str
        Digests of the weights of the model and of its metrics, and of the test examples.
    budget : Budget
    """

    model: str
    dataset: str
    train: str
    noise: dict[str, Any]
    scale: float
    weights: str
    metric_weights: str
    data: str
    budget: Budget
    seed: int
    forward_block: int
    device: str
    precision: str = "float32"
    method: int = METHOD_VERSION

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of all of it."""
        return digest_of(asdict(self))

    @property
    def name(self) -> str:
        """The cell's folder, ``<model>-<dataset>-s<scale>-<digest>``."""
        model = self.model.replace(":", ".")
        return f"{model}-{self.dataset}-s{self.scale:.4g}-{self.digest}"
