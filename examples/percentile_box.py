"""Certify a box by the medians of its corners, beside center smoothing's radius from the same draws.

The model frames the ink of a digit: the least box that holds all pixels above a half. The distance of two boxes is the
Jaccard distance, one minus the area they share over the area they cover. Prints:

    center: 0.22
    percentile_box: 0.13
    between [6.0, 0.0, 25.0, 31.0] and [7.0, 1.0, 26.0, 31.0]
"""

import torch
from sklearn.datasets import load_digits
from torchvision.ops import masks_to_boxes

from centersmooth import BoxPercentile, Center, GaussianNoise, Jaccard, RandomStream, Smoother

digit = torch.from_numpy(load_digits().images[1700]).float() / 16
digit = torch.nn.functional.interpolate(digit[None, None], scale_factor=4, mode="bilinear")[0, 0]  # (32, 32)


def frame(images):
    """The box of the ink, (b, 32, 32) -> (b, 4), zeros where there is none; noise is averaged away first."""
    ink = torch.nn.functional.avg_pool2d(images[:, None], 5, stride=1, padding=2)[:, 0] > 0.5
    some = ink.flatten(1).any(dim=1)
    boxes = torch.zeros(len(images), 4)
    boxes[some] = masks_to_boxes(ink[some]) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return boxes


for certifier in (Center(Jaccard()), BoxPercentile()):
    smoother = Smoother(frame, GaussianNoise(sigma=0.25), certifier)
    certificate = smoother.certify(digit, 0.25, stream=RandomStream(seed=0))
    print(f"{certifier.name}: {certificate.radius:.2f}")
print("between", certificate.lower.tolist(), "and", certificate.upper.tolist())
