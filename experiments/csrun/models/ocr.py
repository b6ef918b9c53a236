"""Text recognition and detection as deployed: the networks that come with rapidocr, PP-OCRv6, in ONNX files.

Cui et al., *PaddleOCR 3.0 Technical Report*, 2025 (arXiv:2507.05595). What rapidocr does to an image before a network
is done here after the noise, as a part of the model, and on floating-point pixels. Its pipeline is not imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import groupby
from math import ceil
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from centersmooth.metrics import encode_texts
from csrun.errors import RunError
from csrun.models.base import BaseModel
from csrun.models.onnx import OnnxModel

LONGEST_TEXT = 64
"""Letters of an output; texts are padded to it, and a longer one is an error."""

_RECOGNISER, _DETECTOR = "PP-OCRv6_rec_small.onnx", "PP-OCRv6_det_small.onnx"
_LINE_HEIGHT, _LEAST_WIDTH = 48, 320
"""Pixels of the lines that the recogniser was trained on."""
_ENLARGED, _SIDE = 2, 32
"""Factor of images for the detector, and what its sides are multiples of."""
_IS_TEXT = 0.3
"""Probability above which rapidocr takes a pixel for text."""


class TextRecogniser(BaseModel):
    """The text of an image of one line, as code points padded with zeros; pre-trained, nothing to train.

    At each of some hundred positions the most likely character is taken; runs of one are one character, and blanks are
    left out (the greedy decoding of Graves et al. 2006).

    Raises
    ------
    RunError
        rapidocr or onnxruntime is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = OnnxModel(_file(_RECOGNISER))
        self._alphabet = ["", *self.network.metadata["character"].splitlines(), " "]

    def forward(self, images: Tensor) -> Tensor:
        """Read the line on each image.

        Parameters
        ----------
        images : Tensor, shape ``(b, 1, H, W)`` or ``(b, 3, H, W)``
            Pixels in [0, 1] plus noise; never clipped.

        Returns
        -------
        Tensor of int32, shape ``(b, 64)``
        """
        width = ceil(_LINE_HEIGHT * images.shape[3] / images.shape[2])
        lines = _normalised(images, (_LINE_HEIGHT, width))
        lines = pad(lines, (0, max(0, _LEAST_WIDTH - width)))
        texts = []
        for line in lines.split(1):  # one at a time, as a line has some million scores
            likeliest = self.network(line)[0].argmax(dim=1).tolist()
            texts.append("".join(self._alphabet[one] for one, _ in groupby(likeliest)))
        return encode_texts(texts, LONGEST_TEXT).to(images.device)


class TextDetector(BaseModel):
    """The pixels of an image that belong to text, as a mask; pre-trained, nothing to train.

    Raises
    ------
    RunError
        rapidocr or onnxruntime is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = OnnxModel(_file(_DETECTOR))

    def forward(self, images: Tensor) -> Tensor:
        """Tell text from its ground.

        Parameters
        ----------
        images : Tensor, shape ``(b, 1, H, W)`` or ``(b, 3, H, W)``
            Pixels in [0, 1] plus noise; never clipped.

        Returns
        -------
        Tensor of uint8, shape ``(b, H, W)``
            1 for text.
        """
        height, width = images.shape[2:]
        size = (_multiple(_ENLARGED * height), _multiple(_ENLARGED * width))
        probabilities = self.network(_normalised(images, size))
        return (_resized(probabilities, (height, width))[:, 0] > _IS_TEXT).to(torch.uint8)


def _multiple(length: int) -> int:
    return max(1, round(length / _SIDE)) * _SIDE


def _normalised(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images of this size, blue first, black at -1 and white at 1."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise RunError(
            f"a text model got images of shape {tuple(images.shape)}: expected (count, 1, H, W) or (count, 3, H, W)"
        )
    return 2 * _resized(images.float(), size).flip(1).expand(-1, 3, -1, -1) - 1


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(images, size=size, mode="bilinear", align_corners=False)


def _file(name: str) -> Path:
    """A file of the package rapidocr, which is not imported."""
    package = find_spec("rapidocr")
    if package is None or not package.submodule_search_locations:
        raise RunError("text models come with rapidocr, which is not installed: pip install 'centersmooth[ocr]'")
    path = Path(package.submodule_search_locations[0]) / "models" / name
    if not path.is_file():
        raise RunError(f"rapidocr has no file models/{name}: expected version 3.10, pip install 'rapidocr==3.10.0'")
    return path
