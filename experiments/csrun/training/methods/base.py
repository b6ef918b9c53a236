"""The base class of training methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel


class Method(ABC):
    """A training method, given by the loss of one batch.

    Attributes
    ----------
    target : str
        What the model learns to output: ``examples``, the clean examples themselves, or ``labels``, their classes.
    noisy : bool
        Whether the method trains with the smoothing law.
    """

    target: ClassVar[Literal["examples", "labels"]] = "examples"
    noisy: ClassVar[bool] = True

    @abstractmethod
    def loss(self, model: BaseModel, x: Tensor, y: Tensor, noise: Noise | None, draws: Draws, epoch: int) -> Tensor:
        """Loss of one batch, a scalar with gradients with respect to the model's parameters.

        Parameters
        ----------
        model : BaseModel
            In train mode.
        x : Tensor, shape ``(b, *in)``
            Clean inputs of the model, ``model.inputs(examples)``.
        y : Tensor, shape ``(b, *example)``, ``(b,)`` or ``(b, H, W)``
            Their targets: clean examples, or int64 labels of examples or of pixels.
        noise : Noise or None
            The smoothing law; None if the method is not `noisy`.
        draws : Draws
            The random numbers of this step, for all that the method draws.
        epoch : int
            Counted from 0.
        """


def with_noise(x: Tensor, noise: Noise, draws: Draws) -> Tensor:
    """Inputs with noise, drawn for each of them independently: ``(b, *in) -> (b, *noised)``.

    Examples
    --------
    >>> from centersmooth import GaussianNoise
    >>> from centersmooth.draws import Draws
    >>> x = torch.zeros(2, 3)
    >>> noisy = with_noise(x, GaussianNoise(1.0), Draws(0, x))
    >>> noisy.shape, bool((noisy[0] == noisy[1]).any())
    (torch.Size([2, 3]), False)
    """
    if noise.coordinatewise:
        return noise.sample(x, 1, draws)[0]
    return torch.cat([noise.sample(example, 1, draws) for example in x])
