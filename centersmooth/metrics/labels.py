"""Distances between maps of classes, such as segmentations, and between masks."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from centersmooth.errors import RequestError
from centersmooth.metrics.base import Metric

MOST_CLASSES: Final = 2**16
"""Votes are counted for each class and pixel, so that numbers of instances or colours would fill the memory."""


_MOST_PIXELS: Final = 2**24
"""Up to here float32 counts pixels without rounding."""


class Hamming(Metric):
    """The share of pixels whose classes differ.

    Input layout: classes as integers, ``(n, *pixels)``, or their scores, ``(n, classes, H, W)``; see `class_maps`.
    Power 1, range ``[0, 1]``; at distance 0 are scores with the same classes.

    Examples
    --------
    >>> import torch
    >>> hamming = Hamming()
    >>> maps = hamming.features(torch.tensor([[[0, 1], [1, 1]], [[0, 1], [1, 2]]]))
    >>> hamming.pairwise(maps, maps)[0].tolist()
    [0.0, 0.25]
    """

    no_mean = "classes have none"

    def diameter(self, output_shape: tuple[int, ...], output_range: tuple[float, float] | None) -> float:
        return 1.0

    def features(self, outputs: Tensor) -> Tensor:
        """``(n, *out) -> (n, pixels)``, classes as float32, in which they are exact; a class alone is one pixel.

        Raises
        ------
        RequestError
            The outputs are neither classes nor scores, or have more than 2^24 pixels, whose number float32 rounds.
        """
        classes = class_maps(outputs).reshape(len(outputs), -1)
        if classes.shape[1] > _MOST_PIXELS:
            raise RequestError(f"an output has {classes.shape[1]:,} pixels: expected at most {_MOST_PIXELS:,}")
        return classes.float()

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n, pixels), (m, pixels) -> (n, m)``: one less the share of pixels with the same class, class by class.

        Sums of zeros and ones are exact in float32 up to 2^24 pixels, in whatever order, so that ties stay ties.
        """
        same = a.new_zeros((len(a), len(b)))
        for label in a.unique():  # for up to sixty classes matrix products are faster than comparisons of pairs
            same += (a == label).float() @ (b == label).float().T
        return (a.shape[1] - same) / a.shape[1]


_PIXELS_AT_ONCE = 2**16
"""Pixels converted to float32 at a time, so that masks are kept as bytes."""


class MaskJaccard(Metric):
    """The Jaccard distance of two masks, ``1 - |A intersect B| / |A union B|`` in pixels.

    Input layout ``(n, *pixels)``: booleans, or integers 0 and 1. The empty mask is at distance 0 from the empty mask
    and 1 from any other. Power 1 (a metric on sets, Steinhaus 1961), range ``[0, 1]``.

    Examples
    --------
    >>> import torch
    >>> jaccard = MaskJaccard()
    >>> masks = jaccard.features(torch.tensor([[[1, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]]))
    >>> jaccard.pairwise(masks, masks)[0].tolist()
    [0.0, 0.5, 1.0]
    """

    no_mean = "masks have none"

    def diameter(self, output_shape: tuple[int, ...], output_range: tuple[float, float] | None) -> float:
        return 1.0

    def features(self, outputs: Tensor) -> Tensor:
        """``(n, *pixels) -> (n, pixels)``, bool.

        Raises
        ------
        RequestError
            The outputs are no masks.
        """
        if outputs.is_floating_point():
            raise RequestError(
                f"the Jaccard distance of masks came to outputs of {outputs.dtype}: expected booleans, or integers 0 "
                "and 1; compare scores with a threshold in the model"
            )
        if outputs.dtype != torch.bool and outputs.numel() and not 0 <= int(outputs.min()) <= int(outputs.max()) <= 1:
            raise RequestError(
                f"the Jaccard distance of masks came to values from {int(outputs.min())} to {int(outputs.max())}: "
                "expected booleans, or integers 0 and 1; Hamming is for several classes"
            )
        return outputs.bool().flatten(1)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n, pixels), (m, pixels) -> (n, m)``, float64.

        Sums of zeros and ones are exact in float32 for a part of the pixels, and in float64 for all, in whatever
        order, so that ties stay ties.
        """
        common = torch.zeros((len(a), len(b)), dtype=torch.float64, device=a.device)
        for of_a, of_b in zip(a.split(_PIXELS_AT_ONCE, dim=1), b.split(_PIXELS_AT_ONCE, dim=1), strict=True):
            common += of_a.float() @ of_b.float().T
        union = a.sum(dim=1)[:, None] + b.sum(dim=1) - common
        return (union - common) / union.clamp(min=1)


def class_maps(outputs: Tensor) -> Tensor:
    """Classes of each pixel, ``(b, *pixels)``, int64.

    Parameters
    ----------
    outputs : Tensor
        Classes as integers, ``(b, *pixels)``, or scores in floating point, ``(b, classes, H, W)`` or with further axes
        of pixels; ties go to the lowest class.

    Raises
    ------
    RequestError
        They are neither. A map of classes in floating point is refused, as it could be read as scores.

    Examples
    --------
    >>> import torch
    >>> class_maps(torch.tensor([[[[0.1, 2.0]], [[0.7, 2.0]]]])).tolist(), class_maps(torch.tensor([[3, 0]])).tolist()
    ([[[1, 0]]], [[3, 0]])
    """
    if outputs.is_floating_point():
        if outputs.ndim >= 4 and outputs.shape[1] > 1:
            return outputs.argmax(dim=1)
    elif int(outputs.min()) >= 0 and int(outputs.max()) < MOST_CLASSES:
        return outputs.long()
    raise RequestError(
        f"an output is {outputs.dtype} of shape {tuple(outputs.shape[1:])}: expected integers from 0 to "
        f"{MOST_CLASSES - 1:,}, a class for each pixel, or scores in floating point, (classes, H, W)"
    )
