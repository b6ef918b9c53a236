"""Noise-augmented training of classifiers and segmentations."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel
from csrun.training.methods.base import Method, with_noise


class CrossEntropy(Method):
    """Cross entropy between the scores for a noisy input and the class of the example, or of each of its pixels."""

    target: ClassVar[Literal["examples", "labels"]] = "labels"

    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        assert noise is not None  # a noisy method is given its law
        return cross_entropy(model(with_noise(x, noise, draws)), y)
