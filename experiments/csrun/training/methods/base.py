"""The base class of training methods, and the noisy copies of a batch that they are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from centersmooth import Noise
from centersmooth.draws import Draws
from csrun.models.base import BaseModel

FORWARD, BACKWARD, TO_INPUT = 1, 2, 1
"""Cost of a pass: forwards, back to the parameters, and back to the input alone, in forward passes."""

Target = Literal["examples", "labels", "denoising", "image denoising", "diffusion"]


class Method(ABC):
    """A training method, given by the loss of one batch; its parameters are the arguments of its class.

    Attributes
    ----------
    target : str or None
        What the model learns: ``examples``, to output the clean examples themselves, or ``labels``, their classes;
        None where the method serves models of both kinds. Of a denoiser in front of a fixed classifier, ``denoising``,
        of one in front of another model ``image denoising``, and ``diffusion`` if it is a diffusion model.
    noisy : bool
        Whether the method trains with the smoothing law.
    after : str
        The method from whose weights it goes on; empty if from none.
    deferred : int
        Epochs at first in which a part of the loss does not count.
    """

    target: ClassVar[Target | None] = "examples"
    noisy: ClassVar[bool] = True
    after: ClassVar[str] = ""
    deferred: int = 0

    @classmethod
    def fits(cls, target: str) -> bool:
        """Test of what a model learns for what the method trains."""
        return target == cls.target or (cls.target is None and target in ("examples", "labels"))

    @property
    def chunks(self) -> int:
        """Number of steps a batch is split into, each with its part of the images."""
        return 1

    @property
    def passes(self) -> int:
        """Cost of a step for one image, in forward passes."""
        return FORWARD + BACKWARD

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

    def require_suited(self, noise: Noise, example: Tensor) -> None:  # noqa: B027  # most suit every law
        """Refuse a smoothing law that the method cannot train with; by default none.

        Parameters
        ----------
        example : Tensor, shape ``(*in)``

        Raises
        ------
        RunError
            One line, which begins with what the law lacks.
        """


class SeveralDraws(Method):
    """A method that trains with several noisy copies of each image, and splits a batch into as many steps.

    Attributes
    ----------
    draws : int
        Noisy copies of each image; an argument of the class.
    """

    draws: int

    @property
    def chunks(self) -> int:
        return self.draws

    @property
    def passes(self) -> int:
        return self.draws * (FORWARD + BACKWARD)


def noisy_copies(x: Tensor, noise: Noise, draws: Draws, count: int) -> Tensor:
    """Several noisy copies of each input, all independent: ``(b, *in) -> (count, b, *noised)``.

    Examples
    --------
    >>> from centersmooth import GaussianNoise
    >>> from centersmooth.draws import Draws
    >>> noisy_copies(torch.zeros(2, 3), GaussianNoise(1.0), Draws(0, torch.zeros(1)), 4).shape
    torch.Size([4, 2, 3])
    """
    if noise.coordinatewise:
        return noise.sample(x, count, draws)
    return torch.stack([noise.sample(example, count, draws) for example in x], dim=1)


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
    return noisy_copies(x, noise, draws, 1)[0]


def without_noise(x: Tensor, noise: Noise) -> Tensor:
    """Inputs without noise in the shape of noisy ones: ``(b, *in) -> (b, *noised)``."""
    return x if noise.coordinatewise else torch.stack(list(map(noise.clean, x)))


def outputs_of(model: BaseModel, copies: Tensor) -> Tensor:
    """Outputs for noisy copies in one call of the model: ``(m, b, *in) -> (m, b, *out)``."""
    outputs: Tensor = model(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])
    return outputs


def repeated(y: Tensor, count: int) -> Tensor:
    """Targets of all noisy copies in the order of ``outputs_of(...).flatten(0, 1)``: ``(b, ...) -> (m b, ...)``."""
    return y.expand(count, *y.shape).flatten(0, 1)
