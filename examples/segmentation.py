"""Certify the class of each pixel of a segmentation (Fischer, Baader and Vechev 2021).

The model calls a pixel of a digit ink where its value is above 1/2. Pixels whose class may change within `eps` abstain;
the intersection over union with the model's own map is the least that any classes of these pixels could give. Prints:

    51 of 64 pixels keep their class at eps = 0.2:
    ..?#?...
    ..##?...
    ..##?#..
    ..?##?..
    ..####..
    ..#?.#?.
    .?#??#?.
    ..?###..
    IoU of ink: at least 0.59
"""

from sklearn.datasets import load_digits
from torch import from_numpy

from centersmooth import GaussianNoise, RandomStream, Segmentation, Smoother
from centersmooth.certifiers import certified_iou

image = from_numpy(load_digits().images[1796]).float()[None] / 16


def classes(batch):
    """1 where a pixel is ink, else 0: (b, 1, 8, 8) -> (b, 8, 8)."""
    return (batch[:, 0] > 0.5).int()


smoother = Smoother(classes, GaussianNoise(sigma=0.25), Segmentation())
certificate = smoother.certify(image, 0.2, stream=RandomStream(seed=0))
print(f"{certificate.pixels - certificate.abstained} of {certificate.pixels} pixels keep their class at eps = 0.2:")
for row in certificate.answer.where(certificate.certified, 2).tolist():
    print("".join(".#?"[one] for one in row))
least = certified_iou(certificate.answer, certificate.certified, truth=classes(image[None])[0])
print(f"IoU of ink: at least {least[1]:.2f}")
