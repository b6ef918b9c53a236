"""Certify the class of a classifier (Cohen, Rosenfeld and Kolter 2019).

The model gives a digit the class whose mean image is nearest. A radius of 0 says that the class cannot change within
`eps`; `reach` is the largest `eps` at which these draws say so. Prints:

    class 8, radius 0 at eps = 0.25, certified up to eps = 0.39
"""

import torch
from sklearn.datasets import load_digits

from centersmooth import GaussianNoise, Label, RandomStream, Smoother

data = load_digits()
images, labels = torch.from_numpy(data.images).float() / 16, torch.from_numpy(data.target)
means = torch.stack([images[:1200][labels[:1200] == digit].mean(dim=0) for digit in range(10)])


def scores(batch):
    """Minus the distance to the mean image of each class, (b, 8, 8) -> (b, 10)."""
    return -torch.cdist(batch.flatten(1), means.flatten(1))


smoother = Smoother(scores, GaussianNoise(sigma=0.25), Label())
certificate = smoother.certify(images[1796], 0.25, stream=RandomStream(seed=0))
print(f"class {certificate.label}, radius {certificate.radius:g} at eps = 0.25,", end=" ")
print(f"certified up to eps = {certificate.reach:.2f}")
