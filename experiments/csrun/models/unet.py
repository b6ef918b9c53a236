"""A small U-Net (Ronneberger, Fischer and Brox 2015): scores of classes for each pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from csrun.models.base import BaseModel


class UNet(BaseModel):
    """Three levels, of which each has half the resolution of the one above and twice its channels.

    Parameters
    ----------
    inputs : int
        Channels of noisy images, whose sides are divisible by 4.
    classes : int
    width : int
        Channels of the first level.
    """

    def __init__(self, inputs: int, classes: int, *, width: int) -> None:
        super().__init__()
        self.top = _block(inputs, width)
        self.middle = _block(width, 2 * width)
        self.bottom = nn.Sequential(_block(2 * width, 4 * width), _block(4 * width, 4 * width))
        self.up_to_middle = _block(6 * width, 2 * width)
        self.up_to_top = _block(3 * width, width)
        self.scores = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """``(b, inputs, H, W) -> (b, classes, H, W)``."""
        top = self.top(images)
        middle = self.middle(max_pool2d(top, 2))
        bottom = self.bottom(max_pool2d(middle, 2))
        middle = self.up_to_middle(torch.cat([interpolate(bottom, scale_factor=2), middle], dim=1))
        top = self.up_to_top(torch.cat([interpolate(middle, scale_factor=2), top], dim=1))
        scores: Tensor = self.scores(top)
        return scores


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU())
