"""Certify each coordinate by its median (Chiang et al. 2020), where the model has no known range.

The model gives the center of a digit's ink and its amount. The median of each of the three numbers has an interval in
which it stays within `eps`, all three together. Prints:

    x:    3.43 within [3.30, 3.57]
    y:    3.74 within [3.56, 3.90]
    ink: 27.28 within [25.39, 29.44]
    every number moves by at most 2.2
"""

import torch
from sklearn.datasets import load_digits

from centersmooth import GaussianNoise, Percentile, RandomStream, Smoother

digits = torch.from_numpy(load_digits().images).float() / 16
places = torch.arange(8.0)


def ink(images):
    """Center and amount of the ink, (b, 8, 8) -> (b, 3)."""
    dark = images.clamp(min=0)
    amount = dark.sum(dim=(1, 2))
    return torch.stack([(dark.sum(1) @ places) / amount, (dark.sum(2) @ places) / amount, amount], dim=1)


smoother = Smoother(ink, GaussianNoise(sigma=0.25), Percentile())
certificate = smoother.certify(digits[1796], 0.25, stream=RandomStream(seed=0))
ends = zip(("x:", "y:", "ink:"), certificate.answer, certificate.lower, certificate.upper, strict=True)
for name, answer, lower, upper in ends:
    print(f"{name:4} {answer:5.2f} within [{lower:.2f}, {upper:.2f}]")
print(f"every number moves by at most {certificate.radius:.1f}")
