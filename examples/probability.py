"""Bound the probability that a random change of brightness moves a classifier's scores: no certificate.

A uniform number in [-0.3, 0.3] is added to all pixels, and the probabilities of ten digits are compared with those of
the image itself, in the largest difference. The class can change only where that is above half of what the largest
probability is above the second. Beside the exact statement is CC-Cert's estimate (Pautov et al. 2022). Prints:

        radius  beyond   at most (alpha = 0.001)  CC-Cert's estimate (no guarantee)
        0.4461       0                   0.00688  0
           0.1     178                     0.218  0.851
"""

import torch
from sklearn.datasets import load_digits

from centersmooth import DistanceFunction, RandomStream, UniformNoise
from centersmooth.noise import Brightness, Transformed
from centersmooth.probability import movements

data = load_digits()
images, labels = torch.from_numpy(data.images).float() / 16, torch.from_numpy(data.target)
means = torch.stack([images[:1200][labels[:1200] == digit].mean(dim=0) for digit in range(10)])


def probabilities(batch):
    """Probabilities of classes, by the squared distances to their mean images, (b, 8, 8) -> (b, 10)."""
    return torch.softmax(-2 * torch.cdist(batch.flatten(1), means.flatten(1)).square(), dim=1)


largest_difference = DistanceFunction(lambda a, b: (a - b).abs().amax(dim=1))
first, second = probabilities(images[1796][None])[0].sort(descending=True).values[:2]
brightness = Transformed(Brightness(), UniformNoise(0.3))
found = movements(probabilities, brightness, largest_difference, images[1796], draws=1_000, stream=RandomStream(seed=0))
print(found.table([float(first - second) / 2, 0.1]))
