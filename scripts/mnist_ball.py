"""A certifier for cs-run: the mean of outputs kept in a ball around the mean image of MNIST.

    PYTHONPATH=scripts cs-run experiment=tv_mnist "certifiers=[center,mean,mnist_ball:mean_in_ball]" ...

The radii are a little above the largest distances of 3,000 outputs of the autoencoder under noise of standard deviation
0.4 to their own mean: 151 in total variation, 10.5 in l2.
"""

from __future__ import annotations

from centersmooth import Mean, Metric, OutputBall
from csrun.data import load_data

RADII = {"TotalVariation": 170.0, "L2": 11.5}


def mean_in_ball(metric: Metric) -> Mean:
    """The certifier in this metric."""
    data = load_data("mnist", None, 0)
    assert data.train is not None
    return Mean(metric, ball=OutputBall(data.images(data.train, range(10_000)).mean(0), RADII[metric.name]))
