"""Class probabilities of images, of which scores are certified, and embeddings, of which prototypes are.

In train mode both give scores for cross entropy, of which their outputs are functions.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from csrun.models.base import BaseModel
from csrun.models.classifiers import LeNet

_SHARPNESS: Final = 10.0
"""Factor of the inner products of embeddings and prototypes, as scores to train by."""


class Probabilities(LeNet):
    """The class probabilities of LeNet; in train mode its scores."""

    output_range = (0.0, 1.0)

    def forward(self, images: Tensor) -> Tensor:
        """``(b, C, H, W) -> (b, classes)``."""
        scores = super().forward(images)
        return scores if self.training else scores.softmax(dim=1)


class ProtoNet(BaseModel):
    """Embeddings of norm 1 by LeNet, with a prototype for each class (Snell et al. 2017).

    A prototype is the normalised mean of the embeddings of a few examples, the support. In train mode the output is a
    score for each class, the inner product with its prototype.

    Parameters
    ----------
    channels, side : int
        Images are ``(channels, side, side)``.
    support : Tensor, shape ``(classes, shots, channels, side, side)``
        Kept with the weights.
    dimensions : int
        Of the embeddings.
    """

    support: Tensor

    def __init__(self, channels: int, side: int, support: Tensor, dimensions: int = 64) -> None:
        super().__init__()
        self.network = LeNet(channels, side, dimensions)
        self.shots = support.shape[1]
        self.register_buffer("support", support.flatten(0, 1))

    @property
    def prototypes(self) -> Tensor:  # type: ignore[override]
        """One a class, ``(classes, dimensions)``."""
        return normalize(self.embed(self.support).unflatten(0, (-1, self.shots)).mean(dim=1), dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """``(b, C, H, W) -> (b, dimensions)``."""
        return normalize(self.network(images), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings; in train mode scores, ``(b, classes)``."""
        embeddings = self.embed(images)
        return _SHARPNESS * embeddings @ self.prototypes.T if self.training else embeddings


def support_of(images: Tensor, labels: Tensor, classes: int, shots: int) -> Tensor | None:
    """The first examples of each class, ``(classes, shots, *in)``; None where there are not so many.

    Examples
    --------
    >>> support_of(torch.arange(6.0), torch.tensor([1, 0, 1, 0, 0, 1]), 2, 2)
    tensor([[1., 3.],
            [0., 2.]])
    """
    first = [(labels == label).nonzero()[:shots, 0] for label in range(classes)]
    return torch.stack([images[own] for own in first]) if all(len(own) == shots for own in first) else None
