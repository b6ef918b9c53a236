"""Adapters: what a model returns, as the one tensor that a certifier takes.

Torchvision's segmenters return a dict and its detectors a list of dicts, with as many boxes as they find. `Adapted`
puts adapters behind such a model; the result is a model like any other. Any function of the model's output will do as
an adapter, and these are the usual ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from centersmooth.checks import a_number, an_integer
from centersmooth.errors import ModelError, RequestError
from centersmooth.outputs import described

Adapter = Callable[[Any], Any]
"""A function of what a model, or the adapter before, returned for a batch."""


class Adapted(nn.Module):
    """A model followed by adapters, the first one first.

    Parameters
    ----------
    model : callable
        On a batch, ``(b, *in)``; an `nn.Module` is a submodule, so that its mode, device and state follow.
    *adapters : callable
        Likewise.

    Examples
    --------
    >>> segmenter = lambda images: {"out": torch.stack([images.mean(1), -images.mean(1)], dim=1)}
    >>> model = Adapted(segmenter, Key("out"), Argmax())
    >>> model(torch.tensor([[[[0.5, -0.5]]]])).tolist()
    [[[0, 1]]]
    """

    def __init__(self, model: Callable[[Tensor], Any], *adapters: Adapter) -> None:
        super().__init__()
        self.model, self.adapters = model, adapters
        for number, adapter in enumerate(adapters):
            if isinstance(adapter, nn.Module):
                self.add_module(f"adapter{number}", adapter)

    def forward(self, inputs: Tensor) -> Any:
        output = self.model(inputs)
        for adapter in self.adapters:
            output = adapter(output)
        return output


@dataclass(frozen=True)
class Key:
    """One of several outputs: of a dict by its key, of an object by its attribute, of a tuple by its number from 0.

    Examples
    --------
    >>> Key("logits")({"logits": 1, "loss": 2}), Key("1")(("first", "second"))
    (1, 'second')
    """

    key: str

    def __call__(self, output: Any) -> Any:
        """The output of that name.

        Raises
        ------
        RequestError
            There is none.
        """
        if isinstance(output, Mapping) and self.key in output:
            return output[self.key]
        if isinstance(output, Sequence) and self.key.isdecimal() and int(self.key) < len(output):
            return output[int(self.key)]
        value = None if isinstance(output, (Mapping, Tensor)) else getattr(output, self.key, None)
        if value is not None and not callable(value):
            return value
        raise RequestError(f"the model returned {described(output)}: expected an output of the name '{self.key}'")


@dataclass(frozen=True)
class Argmax:
    """The class of highest score, ``(b, classes, *pixels) -> (b, *pixels)``, int64; ties go to the lowest class.

    `Hamming`, `Label` and `Segmentation` take scores as well: classes need less memory, and hide how close two are.
    """

    def __call__(self, output: Any) -> Tensor:
        """The classes.

        Raises
        ------
        RequestError
            The output is not a tensor of scores.
        ModelError
            A score is NaN.
        """
        if not isinstance(output, Tensor) or output.ndim < 2 or not output.is_floating_point():
            shape = f" of shape {tuple(output.shape)}" if isinstance(output, Tensor) else ""
            raise RequestError(
                f"the model returned {described(output)}{shape}: expected scores (batch, classes, ...) in floating "
                "point"
            )
        if bool(output.isnan().any()):
            raise ModelError("a score is NaN: no class is the highest")
        return output.argmax(dim=1)


@dataclass(frozen=True)
class PaddedBoxes:
    """The boxes of a detector, as sets for `OSPA`: ``(b, count, 4)``, filled up with zeros.

    Takes torchvision's format: a list with a dict for each image, with ``boxes`` ``(k, 4)`` as ``x1, y1, x2, y2`` and
    ``scores`` ``(k,)``. Classes are left out; `centersmooth.detections.Slots` keeps them.

    Parameters
    ----------
    score : float
        Least score of a box.
    count : int
        Boxes of an image; of more, those of the highest scores.

    Examples
    --------
    >>> boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 4], [5, 5, 6, 6]])
    >>> PaddedBoxes(count=3)([{"boxes": boxes, "scores": torch.tensor([0.2, 0.9, 0.6])}])[0].tolist()
    [[1.0, 1.0, 4.0, 4.0], [5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 0.0, 0.0]]
    """

    score: float = 0.5
    count: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "score", a_number("score", self.score, -math.inf, math.inf, "a finite number"))
        object.__setattr__(self, "count", an_integer("count", self.count, 1))

    def __call__(self, output: Any) -> Tensor:
        """The boxes.

        Raises
        ------
        RequestError
            The output is not a list of such dicts.
        ModelError
            A score is NaN.
        """
        if not isinstance(output, Sequence) or not output or not all(map(_is_detection, output)):
            raise RequestError(
                f"the model returned {described(output)}: expected a list with a dict for each image, with boxes "
                "(k, 4) and scores (k,)"
            )
        return torch.stack([self._padded(found["boxes"], found["scores"]) for found in output])

    def _padded(self, boxes: Tensor, scores: Tensor) -> Tensor:
        if bool(scores.isnan().any()):
            raise ModelError("the score of a box is NaN: nobody knows whether it is found")
        order = scores.argsort(descending=True, stable=True)
        best = boxes[order[scores[order] >= self.score]][: self.count]
        return torch.cat([best, best.new_zeros(self.count - len(best), 4)])


def _is_detection(found: object) -> bool:
    """Test for a dict of boxes with their scores."""
    if not isinstance(found, Mapping):
        return False
    boxes, scores = found.get("boxes"), found.get("scores")
    if not isinstance(boxes, Tensor) or not isinstance(scores, Tensor):
        return False
    return boxes.ndim == 2 and boxes.shape[1] == 4 and scores.shape == boxes.shape[:1]
