"""Certify the output nearest to the mean: it always answers, and takes n distances where a center takes n^2.

The same model and image as in center_free.py, under the squared l2 distance of outputs in [0, 1]. Prints:

    center: 2.387
    center_nearest: 1.023
"""

import torch
from sklearn.datasets import load_digits

from centersmooth import Budget, Center, GaussianNoise, Nearest, RandomStream, Smoother, SquaredL2

digits = torch.from_numpy(load_digits().images).float() / 16
mean = digits[:1200].mean(dim=0)
components = torch.linalg.svd((digits[:1200] - mean).flatten(1), full_matrices=False).Vh[:10]


def reconstruct(images):
    """The nearest digit in the span of the components, (b, 8, 8) -> (b, 8, 8), in [0, 1]."""
    codes = (images - mean).flatten(1) @ components.T
    return (mean + (codes @ components).unflatten(1, (8, 8))).clamp(0, 1)


for certifier in (Center(SquaredL2()), Nearest(SquaredL2())):
    budget = Budget(n=4_000, m=20_000)
    smoother = Smoother(reconstruct, GaussianNoise(sigma=0.25), certifier, budget, output_range=(0.0, 1.0))
    radius = smoother.certify(digits[1500], 0.125, stream=RandomStream(seed=0)).radius
    print(f"{certifier.name}: {radius:.3f}")
