"""Certify a torchvision segmenter in a distance of your own.

The distance is the share of probability that moves to another class, averaged over the pixels. The weights here are
random, so that nothing is downloaded; with yours (`weights="DEFAULT"`) the numbers mean something. Prints:

    for every input within eps = 0.25 (l2) a fresh smoothed answer stays within 0.0002601 of the answer here,
        except with probability 0.01
    classes at the first pixels: [1, 1, 1, 1]
"""

import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from centersmooth import Budget, CenterSmoother, DistanceFunction, GaussianNoise, RandomStream

torch.manual_seed(0)
network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
with torch.no_grad():
    network(torch.rand(16, 3, 64, 64))  # gives batch normalisation its statistics
network.eval()


def segment(images):
    """Probability of each class at each pixel, (b, 3, H, W) -> (b, classes, H, W)."""
    return network(images)["out"].softmax(dim=1)


def moved_probability(a, b):
    """Total variation distance of the classes' probabilities, averaged over pixels: (n, *out), (n, *out) -> (n,)."""
    return (a - b).abs().sum(dim=1).mean(dim=(1, 2)) / 2


metric = DistanceFunction(moved_probability, diameter=1.0)
few_draws = Budget(n=200, m=200, delta=0.15)  # seconds on a CPU; Budget.quick() gives smaller radii
smoother = CenterSmoother(segment, metric, GaussianNoise(sigma=0.25), few_draws, forward_block=50)

image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
certificate = smoother.certify(image, 0.25, stream=RandomStream(seed=0))
print(certificate)
print("classes at the first pixels:", certificate.answer.argmax(dim=0)[0, :4].tolist())
