"""Certificates that must not drift: every metric of the library under every rule, at tiny counts, as a file to read.

Usage: python scripts/golden.py

Writes `tests/golden/certificates.json`. The model is a formula, the noise the library's own streams: no data, no
training, seconds. `tests/experiments/test_golden.py` compares to a relative 1e-5, which covers machines and versions of
PyTorch; what moves more is a change of method, to be declared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from centersmooth import (
    L1,
    L2,
    Angular,
    BoxPercentile,
    Budget,
    Center,
    Certificate,
    Cosine,
    Direction,
    GaussianNoise,
    Jaccard,
    Mean,
    Metric,
    Nearest,
    RandomStream,
    Smoother,
    SquaredL2,
    TotalVariation,
)
from centersmooth.gathering import Setting
from centersmooth.sampling import Model
from csrun.cells import METHOD_VERSION

FILE = Path(__file__).parents[1] / "tests" / "golden" / "certificates.json"
METRICS: tuple[Metric, ...] = (L1(), L2(), SquaredL2(), Cosine(), Angular(), TotalVariation(), Jaccard())
BUDGETS = {"Smooth": Budget(n=300, m=700, delta=0.2), "Smooth-HD": Budget(n=300, m=700, delta=0.2, n0=12)}
EPS = (0.05, 0.3, 0.6, 2.0)
NUMBERS = ("radius", "r_center", "r_hat", "r_far", "alpha")


def images(x: Tensor) -> Tensor:
    """A fixed smooth function, ``(b, 5) -> (b, 1, 3, 4)``."""
    weight = torch.arange(60, dtype=x.dtype).reshape(5, 12).sin()
    return torch.tanh(x @ weight).reshape(-1, 1, 3, 4)


def boxes(x: Tensor) -> Tensor:
    """`images` as boxes with area, ``(b, 5) -> (b, 4)``."""
    corner, size = images(x).flatten(1)[:, :4].split(2, dim=1)
    return torch.cat([corner, corner + 2 + size], dim=1)


def certificates() -> dict[str, dict[str, Any]]:
    """Outcome and numbers by ``metric, algorithm, certifier, rule, eps``."""
    found = {}
    x = torch.linspace(-1, 1, 5)
    for metric in METRICS:
        model = boxes if isinstance(metric, Jaccard) else images
        for name, budget in BUDGETS.items():
            for smoother in smoothers(model, metric, budget):
                for certificate in smoother.certify(x, EPS, stream=RandomStream(0)):
                    rule = f"{certificate.certifier}, {certificate.rule}"
                    found[f"{metric.name}, {name}, {rule}, eps {certificate.eps}"] = _content(certificate)
    return found


def smoothers(model: Model, metric: Metric, budget: Budget) -> Iterator[Smoother]:
    """One for each rule of each certifier that suits this metric and budget."""
    noise = GaussianNoise(0.3)
    kinds = (Center(metric), Center(metric, "free"), Nearest(metric), Mean(metric), Direction(metric))
    for certifier in (*kinds, BoxPercentile(metric=metric)):
        limits = (-1.0, 1.0) if isinstance(certifier, Mean | Nearest) else None
        if not certifier.unsuited(Setting(noise, budget, limits)):
            for rule in certifier.rules:
                yield Smoother(model, noise, certifier, budget, rule=rule, output_range=limits, forward_block=50)


def _content(certificate: Certificate) -> dict[str, Any]:
    numbers = {key: getattr(certificate, key, None) for key in NUMBERS}
    return {"outcome": certificate.outcome.value, **{key: value for key, value in numbers.items() if value is not None}}


def main() -> None:
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({"METHOD_VERSION": METHOD_VERSION, "certificates": certificates()}, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
