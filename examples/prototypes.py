"""Certify the nearest prototype: few-shot classification (Pautov et al. 2022).

An embedding of norm 1 is compared with prototypes, each the normalised mean of the embeddings of five examples of a
digit. A radius of 0 says that the nearest prototype cannot change within `eps`; `reach` is the largest `eps` at which
these draws say so, by each rule. Prints:

    lipschitz: prototype 3, radius 1 at eps = 0.1, certified up to eps = 0.07
    half_spaces: prototype 3, radius 1 at eps = 0.1, certified up to eps = 0.07
    cdf: prototype 3, radius 0 at eps = 0.1, certified up to eps = 0.45
"""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import normalize

from centersmooth import Budget, GaussianNoise, Prototypes, RandomStream, Smoother

data = load_digits()
images, labels = torch.from_numpy(data.images).float() / 16, torch.from_numpy(data.target)


def embed(batch):
    """Images as unit vectors, less the mean image, (b, 8, 8) -> (b, 64)."""
    return normalize((batch - images[:1200].mean(dim=0)).flatten(1), dim=1)


support = torch.stack([images[:1200][labels[:1200] == digit][:5] for digit in range(10)])
centers = normalize(embed(support.flatten(0, 1)).unflatten(0, (10, 5)).mean(dim=1), dim=1)
for rule in Prototypes.rules:
    smoother = Smoother(embed, GaussianNoise(sigma=0.25), Prototypes(centers), Budget(n=1_000, m=10_000), rule=rule)
    certificate = smoother.certify(images[1770], 0.1, stream=RandomStream(seed=0))
    print(f"{rule}: prototype {certificate.label}, radius {certificate.radius:g} at eps = 0.1,", end=" ")
    print(f"certified up to eps = {certificate.reach:.2f}")
