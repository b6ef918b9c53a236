"""Probabilities that a random transform changes the class of an MNIST digit: exact ones beside CC-Cert's estimates.

Usage: CENTERSMOOTH_DATA=FOLDER python scripts/ccert_mnist.py [RUNS] [POINTS] [DRAWS]

Of the classifier of `cs-run experiment=score_mnist budget=cpu` at noise 0.25, trained if RUNS has no checkpoint of it,
without smoothing. The class of a transformed image can differ only where its probabilities move by half of what the
largest is above the second, or more: the distances are of that movement. An estimate of at most 1e-4 is refuted where a
lower confidence limit from five times the draws is above that. Prints the table of docs/library.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from centersmooth import DistanceFunction, RandomStream, UniformNoise
from centersmooth.bounds import EXACT
from centersmooth.noise import (
    Blur,
    Brightness,
    Gamma,
    Noise,
    Transformed,
    Translation,
    UpperUniformNoise,
)
from centersmooth.probability import Movements, movements
from csrun.config import TrainConfig
from csrun.data import load_data
from csrun.models import model_spec
from csrun.system.threads import threads
from csrun.training.checkpoints import obtain, training_of

MODEL, SCALE, SCHEDULE = "lenet_probabilities", 0.25, TrainConfig(epochs=4, images=10_000, batch_size=100)
ALPHA = 0.001

LAWS: dict[str, Noise] = {
    "brightness, up to 0.3": Transformed(Brightness(), UniformNoise(0.3)),
    "gamma, an exponent of up to 2": Transformed(Gamma(), UniformNoise(0.69)),
    "translation, up to 2 pixels": Transformed(Translation(), UniformNoise(2.5)),
    "translation, up to 4 pixels": Transformed(Translation(), UniformNoise(4.5)),
    "blur, a variance of up to 4": Transformed(Blur(), UpperUniformNoise(4.0)),
}
"""Uniform in the parameter; translations are of each axis."""


def main(runs: str = "runs", points: str = "10", draws: str = "1000") -> None:
    """Print a row for each law."""
    data = load_data("mnist", None, 0)
    training = training_of(MODEL, data, SCHEDULE, "cross_entropy", {"name": "gaussian"}, SCALE, 0, "cpu")
    model, _ = obtain(training, model_spec(MODEL), data, Path(runs), lambda images: None)
    images, labels = (kind(data.test, range(int(points))) for kind in (data.images, data.targets))
    with torch.no_grad():
        likeliest = model(images).sort(dim=1, descending=True)
    margins = (likeliest.values[:, 0] - likeliest.values[:, 1]) / 2
    correct = likeliest.indices[:, 0] == labels
    largest_difference = DistanceFunction(lambda a, b: (a - b).abs().amax(dim=1))
    print("| law | correct | at most 1%, exact | at most 1e-4, CC-Cert's estimate | of these refuted |")
    print("|---|---|---|---|---|")
    for name, law in LAWS.items():
        exact = estimated = refuted = 0
        for point in correct.nonzero()[:, 0].tolist():
            margin, stream = float(margins[point]), RandomStream(0, point)
            found = movements(model, law, largest_difference, images[point], 5 * int(draws), stream=stream)
            first = Movements(found.distances[: int(draws)])
            exact += first.probability(margin, ALPHA) <= 0.01
            small = first.cc_estimate(margin) <= 1e-4
            estimated += small
            refuted += small and EXACT.mass_floor(found.beyond(margin), len(found.distances), ALPHA) > 1e-4
        print(f"| {name} | {int(correct.sum())} | {exact} | {estimated} | {refuted} |", flush=True)


if __name__ == "__main__":
    with threads(1):  # as runs are: weights differ in last digits with their number
        main(*sys.argv[1:])
