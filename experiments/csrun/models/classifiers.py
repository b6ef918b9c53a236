"""Classifiers of images: one score for each class."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from csrun.models.base import BaseModel


class LeNet(BaseModel):
    """LeNet as in the code of SmoothMix (Jeong et al. 2021): two convolutions of 5x5, two linear layers.

    Parameters
    ----------
    channels, side : int
        Images are ``(channels, side, side)``. Below 28 pixels the convolutions are padded and keep the size.
    classes : int
    """

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        padding = 0 if side >= 28 else 2
        for _ in range(2):
            side = (side - 4 + 2 * padding) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 20, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(50 * side**2, 500),
            nn.ReLU(),
            nn.Linear(500, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """``(b, C, H, W) -> (b, classes)``."""
        scores: Tensor = self.layers(images)
        return scores


class ResNet20(BaseModel):
    """ResNet-20 for CIFAR-10 (He et al. 2016): three stages of three blocks with 16, 32 and 64 channels.

    Parameters
    ----------
    channels, classes : int
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
        self.first = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(*map(_Block, widths, widths[1:]))
        self.scores = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))

    def forward(self, images: Tensor) -> Tensor:
        """``(b, C, H, W) -> (b, classes)``."""
        scores: Tensor = self.scores(self.blocks(self.first(images)))
        return scores


class _Block(nn.Module):
    """Two convolutions and a shortcut without parameters, which adds channels of zeros where there are more."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.more = outputs - inputs
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)
        )
        return relu(self.convolutions(x) + shortcut)
