"""Denoisers in front of a fixed model: denoised smoothing (Salman, Sun, Yang, Kapoor and Kolter 2020).

The composition is a base model like any other, so every certificate holds for it, however well it denoises.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from centersmooth import Noise
from csrun.models.base import BaseModel
from csrun.models.diffusion import OneStepDiffusion
from csrun.models.weights import frozen


class Denoised(BaseModel):
    """A model behind a denoiser: ``model(denoiser(x))``. Only the denoiser is ever trained.

    Parameters
    ----------
    denoiser : nn.Module
        Noisy images to images, ``(b, C, H, W) -> (b, C, H, W)``.
    model : BaseModel
        Frozen here: it stays in eval mode, and its weights need no gradients.
    """

    def __init__(self, denoiser: nn.Module, model: BaseModel) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.model = frozen(model)
        self.output_range, self.note, self.prototypes = model.output_range, model.note, model.prototypes

    def train(self, mode: bool = True) -> Denoised:
        """Set the mode of the denoiser; the model stays in eval mode."""
        super().train(mode)
        self.model.eval()
        return self

    def at_noise(self, noise: Noise) -> None:
        if isinstance(self.denoiser, OneStepDiffusion):
            self.denoiser.at_noise(noise)

    def forward(self, images: Tensor) -> Tensor:
        """``(b, C, H, W)`` to the outputs of the model."""
        outputs: Tensor = self.model(self.denoiser(images))
        return outputs


class DnCNN(nn.Module):
    """DnCNN (Zhang, Zuo, Chen, Meng and Zhang 2017): convolutions that predict the noise, which is then subtracted.

    Initial weights as in the code of denoised smoothing: orthogonal, and the last layer zero, so that images are at
    first returned as they are.

    Parameters
    ----------
    channels : int
        Channels of the images.
    layers, width : int
        Convolutions, and channels between them; 17 and 64 in the paper.
    factor : int
        The network sees images at this fraction of their resolution, each block of ``factor x factor`` pixels as so
        many channels (as in FFDNet, Zhang, Zuo and Zhang 2018). Sides of images are divisible by it.
    """

    def __init__(self, channels: int, layers: int, width: int, factor: int = 1) -> None:
        super().__init__()
        self.factor = factor
        outer = channels * factor**2
        inner = [part for _ in range(layers - 2) for part in _inner_layer(width)]
        last = nn.Conv2d(width, outer, 3, padding=1, bias=False)
        self.noise = nn.Sequential(nn.Conv2d(outer, width, 3, padding=1), nn.ReLU(), *inner, last)
        for layer in self.noise:
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(last.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Noisy images to denoised ones, ``(b, C, H, W) -> (b, C, H, W)``; not clipped."""
        noise: Tensor = self.noise(pixel_unshuffle(images, self.factor))
        return images - pixel_shuffle(noise, self.factor)


def _inner_layer(width: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(width, eps=1e-4, momentum=0.95), nn.ReLU()
