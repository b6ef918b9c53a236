"""The paper's face detector: the largest face of each image, or all, by facenet-pytorch's pre-trained MTCNN.

Zhang et al. 2016 (arXiv:1604.02878), three networks: the first proposes boxes on an image pyramid, the second and the
third refine and reject them. Networks, weights and constants are facenet-pytorch 2.5.3's, and the boxes are those its
``MTCNN.detect`` returns for one image at a time, up to the networks' last digits; seldom, these move a crop by a whole
pixel (of 1,000 noisy photographs 999 boxes were within 1e-4 pixels, one was off by 2.4). Its batched call is no
function of the image: to keep images apart in non-maximum suppression it adds offsets to their coordinates, which
rounds them, and a box that begins outside its image can then suppress one of the image before. Here every suppression
sees one image alone.

The package averages pixels once for each pyramid level and each crop, box by box. Here every mean is read from one
table of sums an image, at the four corners of its bin: levels and crops of any size cost four reads a pixel. On a CPU
this, the activations and the poolings, which take longer than the convolutions there, are compiled
([face_kernels.py](face_kernels.py)).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import prelu
from torchvision.ops import nms

from csrun.errors import RunError
from csrun.models.base import BaseModel, channels_last

SMALLEST_FACE = 20
"""Side of the smallest face looked for, in pixels; no smaller image has a pyramid."""
MOST_FACES = 8
"""Boxes of a list of faces."""
_CELL, _STRIDE = 12, 2
"""Window and stride of the first network, in pixels of a pyramid level."""
_PYRAMID_FACTOR = 0.709
_PROPOSED, _REFINED, _ACCEPTED = 0.6, 0.7, 0.7
"""Least face probability after each network."""
_LEVEL_OVERLAP, _OVERLAP, _NESTED = 0.5, 0.7, 0.7
"""Largest overlap of boxes kept: of one pyramid level, of one image, and of the end (over the smaller box)."""
_CPU_IMAGES, _CPU_REFINED, _CPU_JUDGED, _ACCELERATOR = 4, 64, 8, 2048
"""Images and crops given to a network at once: small ones stay in the cache of a CPU, large ones fill an accelerator.

A convolution's last digits may depend on how many it is given, so chunks are filled up: on a CPU a box is then the same
to the last bit in every batch.
"""


class Boxes(NamedTuple):
    """Boxes of a batch of images, ordered by image.

    Attributes
    ----------
    image : Tensor of int64, shape ``(n,)``
        Which image of the batch a box belongs to; never decreases.
    corners : Tensor of float32, shape ``(n, 4)``
        ``x1, y1, x2, y2`` in pixels of the image; they may lie outside it.
    score : Tensor of float32, shape ``(n,)``
        Face probability.
    shift : Tensor of float32, shape ``(n, 4)``
        The network's correction of each coordinate, in widths and heights of the box.
    """

    image: Tensor
    corners: Tensor
    score: Tensor
    shift: Tensor

    def take(self, which: Tensor) -> Boxes:
        """The boxes at indices, or under a mask, ``which``."""
        return Boxes(*(part[which] for part in self))


class _Activation(nn.Module):
    """PReLU and, where there is one, the pooling after it, in one pass on a CPU.

    Parameters
    ----------
    prelu : nn.PReLU
    pool : nn.MaxPool2d or None
        Windows of 2 or 3 at a stride of 2, the last one cut off at the end.
    """

    def __init__(self, prelu: nn.PReLU, pool: nn.MaxPool2d | None) -> None:
        super().__init__()
        self.weight, self.pool = prelu.weight, pool

    def forward(self, values: Tensor) -> Tensor:
        if not _on_cpu(values) or values.dtype != torch.float32:
            activated = prelu(values, self.weight)
            return self.pool(activated) if self.pool else activated
        if values.ndim == 2:
            return self._activated(values.contiguous())
        last = values.permute(0, 2, 3, 1).contiguous()
        return (self._pooled(last, self.pool) if self.pool else self._activated(last)).permute(0, 3, 1, 2)

    def _activated(self, values: Tensor) -> Tensor:
        _kernels().activate(values.view(-1, values.shape[-1]).numpy(), self.weight.numpy())
        return values

    def _pooled(self, values: Tensor, pool: nn.MaxPool2d) -> Tensor:
        count, height, width, channels = values.shape
        size = pool.kernel_size
        assert isinstance(size, int)
        pooled = values.new_empty(count, (height - size + 1) // 2 + 1, (width - size + 1) // 2 + 1, channels)
        _kernels().activate_and_pool(values.numpy(), self.weight.numpy(), size, pooled.numpy())
        return pooled


def _fused(network: nn.Module) -> nn.Module:
    """A network of the package, its activations and poolings taken together."""
    for name, part in list(network.named_children()):
        if isinstance(part, nn.PReLU):
            pool = name.replace("prelu", "pool")
            setattr(network, name, _Activation(part, getattr(network, pool, None)))
            if hasattr(network, pool):
                setattr(network, pool, nn.Identity())
    return network


class FaceDetector(BaseModel):
    """Largest face of each image, as four corners in pixels; pre-trained, nothing to train.

    Raises
    ------
    RunError
        If facenet-pytorch or numba is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        package = _required("facenet_pytorch")
        _required("numba")
        self.proposer = _fused(package.PNet())
        self.refiner = _fused(package.RNet())
        self.judge = _fused(package.ONet())
        # Channels last: convolutions and poolings of many small pictures take a fraction of the time on a CPU.
        channels_last(self)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Find the largest face of each image.

        Parameters
        ----------
        images : Tensor of float32, shape ``(b, 3, H, W)``
            Pixels in [0, 1] plus noise; never clipped. Both sides at least 20.

        Returns
        -------
        Tensor of float32, shape ``(b, 4)``
            ``x1, y1, x2, y2`` in pixels, real-valued, possibly outside the image; zeros where nothing is found.
        """
        return self._largest_face(images)[0]

    def _largest_face(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Corners of the largest face of each image, ``(b, 4)``, and its landmarks, ``(b, 5, 2)``."""
        boxes, points = self._faces(images)
        corners, landmarks = (_largest(boxes, len(images), of) for of in (boxes.corners, points))
        inverted = _inverted(corners)
        return corners.masked_fill(inverted[:, None], 0.0), landmarks.masked_fill(inverted[:, None, None], 0.0)

    def _faces(self, images: Tensor) -> tuple[Boxes, Tensor]:
        """All faces of a batch, and five points of each, ``(n, 5, 2)``."""
        _check(images)
        if not len(images):
            none = images.new_zeros(0, 4)
            return Boxes(none[:, 0].long(), none, none[:, 0], none), none.view(0, 5, 2)
        sums = summed(images * 255)
        return self._judge(sums, self._refine(sums, self._propose(sums)))

    def _propose(self, sums: Tensor) -> Boxes:
        height, width = sums.shape[1] - 1, sums.shape[2] - 1
        levels = [self._propose_level(sums, scale) for scale in pyramid_scales(height, width)]
        found = Boxes(*(torch.cat(parts) for parts in zip(*levels, strict=True)))
        # Stable: within an image the levels stay in order, which decides between equal scores.
        found = found.take(found.image.argsort(stable=True))
        found = found.take(suppress(found, _OVERLAP))
        return found._replace(corners=_square(_moved(found, unit=0)))

    def _propose_level(self, sums: Tensor, scale: float) -> Boxes:
        size = [int((side - 1) * scale + 1) for side in sums.shape[1:3]]
        level = _level(sums, *size)
        shifts, probabilities = _in_chunks(self.proposer, level)
        scores = probabilities[:, 1]
        image, row, column = (scores >= _PROPOSED).nonzero().unbind(1)
        start = _STRIDE * torch.stack([column, row], dim=1).to(level.dtype)
        # 1 is added before the scale at both ends: the package's coordinates count from one.
        corners = torch.cat([((start + 1) / scale).floor(), ((start + _CELL) / scale).floor()], dim=1)
        found = Boxes(image, corners, scores[image, row, column], shifts[image, :, row, column])
        return found.take(suppress(found, _LEVEL_OVERLAP))

    def _refine(self, sums: Tensor, boxes: Boxes) -> Boxes:
        boxes = _inside(sums, boxes)
        shift, probabilities = _on_crops(self.refiner, sums, boxes, 24, _CPU_REFINED)
        boxes = boxes._replace(score=probabilities[:, 1], shift=shift)
        boxes = boxes.take(boxes.score > _REFINED)
        boxes = boxes.take(suppress(boxes, _OVERLAP))
        return boxes._replace(corners=_square(_moved(boxes, unit=1)))

    def _judge(self, sums: Tensor, boxes: Boxes) -> tuple[Boxes, Tensor]:
        """The boxes kept, and five points of each, ``(kept, 5, 2)``."""
        boxes = _inside(sums, boxes)
        shift, places, probabilities = _on_crops(self.judge, sums, boxes, 48, _CPU_JUDGED)
        boxes = boxes._replace(score=probabilities[:, 1], shift=shift)
        accepted = boxes.score > _ACCEPTED
        boxes = boxes.take(accepted)
        sides = boxes.corners[:, 2:] - boxes.corners[:, :2] + 1
        points = places[accepted].view(-1, 2, 5).transpose(1, 2) * sides[:, None] + boxes.corners[:, None, :2] - 1
        boxes = boxes._replace(corners=_moved(boxes, unit=1))
        kept = suppress_nested(boxes, _NESTED)
        return boxes.take(kept), points[kept]


class LandmarkDetector(FaceDetector):
    """Five landmarks of the largest face of each image: eyes, nose, corners of the mouth, in pixels."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """As `FaceDetector`, but ``(b, 5, 2)``: ``x, y`` of each landmark, zeros where nothing is found."""
        return self._largest_face(images)[1]


class FaceListDetector(FaceDetector):
    """All faces of each image, the largest first; of more than 8 the 8 largest."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """As `FaceDetector`, but ``(b, 8, 4)``: a box for each face, zeros after the last."""
        boxes, _ = self._faces(images)
        boxes = boxes.take(~_inverted(boxes.corners))
        sides = boxes.corners[:, 2:].double() - boxes.corners[:, :2].double()
        largest_first = (-sides.prod(dim=1)).argsort(stable=True)
        lists = images.new_zeros(len(images), MOST_FACES, 4)
        for image, own in enumerate(lists):
            found = largest_first[boxes.image[largest_first] == image][:MOST_FACES]
            own[: len(found)] = boxes.corners[found]
        return lists


def _inverted(corners: Tensor) -> Tensor:
    """Test of boxes ``(n, 4)`` for those that a correction turned inside out, as nothing bounds it: they are none."""
    return (corners[:, 2:] < corners[:, :2]).any(dim=1)


def pyramid_scales(height: int, width: int) -> list[float]:
    """Scales at which the first network's window of 12 pixels sees faces from 20 pixels to the whole image.

    >>> [round(scale, 3) for scale in pyramid_scales(40, 50)]
    [0.6, 0.425, 0.302]
    """
    scale = _CELL / SMALLEST_FACE
    side = min(height, width) * scale
    scales = []
    while side >= _CELL:
        scales.append(scale)
        scale, side = scale * _PYRAMID_FACTOR, side * _PYRAMID_FACTOR
    return scales


def suppress(boxes: Boxes, overlap: float) -> Tensor:
    """Greedy non-maximum suppression by intersection over union, each image by itself.

    A loop over images, for no coordinate is changed: torchvision's ``batched_nms`` adds offsets, and rounds. On the
    host: an image has a few dozen boxes, for which a call of a device takes longer than the work.

    Returns
    -------
    Tensor of int64, shape ``(kept,)``
        Indices of the boxes kept: by image, then by falling score.
    """
    corners, score = boxes.corners.cpu(), boxes.score.cpu()
    kept, start = [torch.zeros(0, dtype=torch.int64)], 0
    for count in _counts(boxes.image):
        part = slice(start, start + count)
        kept.append(start + nms(corners[part], score[part], overlap))
        start += count
    return torch.cat(kept).to(boxes.image.device)


def suppress_nested(boxes: Boxes, overlap: float) -> Tensor:
    """Greedy suppression by intersection over the smaller area, each image by itself; sides count both end pixels.

    Returns
    -------
    Tensor of int64, shape ``(kept,)``
        Indices of the boxes kept: by image, then by falling score.
    """
    corners, score = boxes.corners.cpu(), boxes.score.cpu()
    kept, start = [], 0
    for count in _counts(boxes.image):
        part = slice(start, start + count)
        kept += [start + index for index in _kept_nested(corners[part], score[part], overlap)]
        start += count
    return torch.tensor(kept, dtype=torch.int64, device=boxes.image.device)


def _kept_nested(corners: Tensor, score: Tensor, overlap: float) -> list[int]:
    """Indices kept of one image; among equal scores the later box wins."""
    near = (_over_smaller(corners) <= overlap).tolist()
    waiting = score.argsort(stable=True).tolist()
    kept = []
    while waiting:
        kept.append(waiting.pop())
        waiting = [index for index in waiting if near[kept[-1]][index]]
    return kept


def _over_smaller(corners: Tensor) -> Tensor:
    """Intersection over the smaller area of each pair of boxes, ``(n, 4) -> (n, n)``."""
    low = torch.maximum(corners[:, None, :2], corners[None, :, :2])
    high = torch.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = (high - low + 1).clamp(min=0).prod(dim=2)
    area = (corners[:, 2:] - corners[:, :2] + 1).prod(dim=1)
    return shared / torch.minimum(area[:, None], area[None, :])


def _largest(boxes: Boxes, images: int, values: Tensor) -> Tensor:
    """Values of the box of largest area of each image, ``(n, ...) -> (images, ...)``, zeros without a box.

    Areas in float64, and the last of equal ones: ``MTCNN.detect`` sorts numbers it has turned into Python floats.
    """
    sides = (boxes.corners[:, 2:].double() - boxes.corners[:, :2].double()).unbind(1)
    order = (sides[0] * sides[1]).argsort(stable=True).tolist()
    image = boxes.image.tolist()
    last = {image[index]: index for index in order}
    chosen = values.new_zeros(images, *values.shape[1:])
    chosen[list(last)] = values[list(last.values())]
    return chosen


def _counts(image: Tensor) -> list[int]:
    """Number of boxes of each image that has any."""
    counts: list[int] = image.unique_consecutive(return_counts=True)[1].tolist()
    return counts


def _moved(boxes: Boxes, unit: int) -> Tensor:
    """Corners after the network's correction, ``(n, 4)``; ``unit`` 1 counts both end pixels into a side."""
    sides = boxes.corners[:, 2:] - boxes.corners[:, :2] + unit
    return boxes.corners + boxes.shift * sides.repeat(1, 2)


def _square(corners: Tensor) -> Tensor:
    """Squares of the longer side around the same centres, ``(n, 4)``; additions in the package's order."""
    sides = corners[:, 2:] - corners[:, :2]
    longer = sides.amax(dim=1, keepdim=True)
    start = corners[:, :2] + sides * 0.5 - longer * 0.5
    return torch.cat([start, start + longer], dim=1)


def summed(pixels: Tensor) -> Tensor:
    """Sums over all pixels above and to the left, ``(b, 3, H, W) -> (b, H+1, W+1, 3)``.

    In float64: the sums reach 10^7, and a difference of four of them has to be right to the last digit of a float32.
    """
    count, channels, height, width = pixels.shape
    table = pixels.new_zeros((count, height + 1, width + 1, channels), dtype=torch.float64)
    if _on_cpu(pixels):
        _kernels().sum_up(pixels.contiguous().numpy(), table.numpy())
        return table
    table[:, 1:, 1:] = pixels.permute(0, 2, 3, 1)
    return table.cumsum(1).cumsum(2)


def _bins(start: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """First pixel and end of the ``side`` bins of area interpolation, for intervals ``(n,)``: two of ``(n, side)``."""
    index = torch.arange(side, device=start.device)
    first = start[:, None] + index * length[:, None] // side
    return first, start[:, None] + ((index + 1) * length[:, None] + side - 1) // side


def _level(sums: Tensor, height: int, width: int) -> Tensor:
    """Whole images at another size, ``(b, 3, height, width)``, as the networks take them."""
    count, rows, columns, _ = sums.shape
    window = torch.tensor([[0, 0, rows - 1, columns - 1]], device=sums.device).repeat(count, 1)
    return _means(sums, torch.arange(count, device=sums.device), window, height, width)


def _means(sums: Tensor, image: Tensor, window: Tensor, height: int, width: int) -> Tensor:
    """Windows of images, all at one size by area interpolation, as the networks take them.

    Parameters
    ----------
    sums : Tensor, shape ``(b, H+1, W+1, 3)``
    image : Tensor of int64, shape ``(n,)``
    window : Tensor of int64, shape ``(n, 4)``
        As `_windows` gives it; none is empty.

    Returns
    -------
    Tensor of float32, shape ``(n, 3, height, width)``
    """
    if not _on_cpu(sums):
        return _normal(_gathered(sums, image, window, height, width))
    means = torch.empty(len(image), height, width, 3)
    _kernels().average(*(array.contiguous().numpy() for array in (sums, image, window, means)))
    return _normal(means.permute(0, 3, 1, 2))


def _gathered(sums: Tensor, image: Tensor, window: Tensor, height: int, width: int) -> Tensor:
    """Means over the bins of windows, ``(n, 3, height, width)``, on any device."""
    _, rows, columns, channels = sums.shape
    top, bottom = _bins(window[:, 0], window[:, 2], height)
    left, right = _bins(window[:, 1], window[:, 3], width)
    flat, offset = sums.view(-1, channels), rows * image[:, None]

    def corner(row: Tensor, column: Tensor) -> Tensor:
        return flat.index_select(0, ((offset + row)[:, :, None] * columns + column[:, None, :]).flatten())

    total = corner(bottom, right).sub_(corner(top, right)).sub_(corner(bottom, left)).add_(corner(top, left))
    area = (bottom - top)[:, :, None] * (right - left)[:, None, :]
    return total.view(-1, height, width, channels).div_(area[..., None]).float().permute(0, 3, 1, 2)


def _windows(corners: Tensor, height: int, width: int) -> Tensor:
    """First row, first column, height and width of the pixels of each box in its image, ``(n, 4)`` of int64."""
    # What no integer holds lies outside on its side, or, if it is no number, nowhere.
    ends = corners.trunc().nan_to_num(nan=0.0).clamp(min=0, max=2 * max(height, width)).long()
    # Corners count from one and include both ends.
    first = ends[:, :2].clamp(min=1) - 1
    last = torch.minimum(ends[:, 2:], ends.new_tensor([width, height]))
    return torch.cat([first.flip(1), (last - first).flip(1)], dim=1)


def _windows_of(sums: Tensor, boxes: Boxes) -> Tensor:
    return _windows(boxes.corners, sums.shape[1] - 1, sums.shape[2] - 1)


def _inside(sums: Tensor, boxes: Boxes) -> Boxes:
    """Boxes that share a pixel with their image. The package fails with an IndexError where one does not."""
    return boxes.take((_windows_of(sums, boxes)[:, 2:] > 0).all(dim=1))


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _kernels() -> Any:
    """Imported only now, as numba may be missing, of which `FaceDetector` says in one line."""
    from csrun.models import face_kernels

    return face_kernels


def _normal(pixels: Tensor) -> Tensor:
    """Pixels of 0 to 255 as the networks were trained on them."""
    return (pixels - 127.5).mul_(0.0078125)


def _in_chunks(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Outputs of a network, one row an image, from chunks of one size on a CPU."""
    count = len(images)
    if _on_cpu(images):
        filling = images.new_zeros((-count % _CPU_IMAGES, *images.shape[1:]))
        parts = torch.cat([images, filling]).split(_CPU_IMAGES) if len(filling) else images.split(_CPU_IMAGES)
    else:
        parts = (images,)
    outputs = [network(part) for part in parts]
    return [torch.cat(values)[:count] for values in zip(*outputs, strict=True)]


def _on_crops(network: nn.Module, sums: Tensor, boxes: Boxes, side: int, cpu_chunk: int) -> list[Tensor]:
    """Outputs of a network for the pixels of each box, one row a box, from chunks of one size."""
    count = len(boxes.image)
    chunk = cpu_chunk if _on_cpu(sums) else min(_ACCELERATOR, max(count, 1))
    filling = max(chunk - count, -count % chunk)
    image = torch.cat([boxes.image, boxes.image.new_zeros(filling)])
    window = torch.cat([_windows_of(sums, boxes), image.new_tensor([[0, 0, 1, 1]]).expand(filling, 4)])
    parts = zip(image.split(chunk), window.split(chunk), strict=True)
    outputs = [network(_means(sums, *part, side, side)) for part in parts]
    return [torch.cat(values)[:count] for values in zip(*outputs, strict=True)]


def _check(images: Tensor) -> None:
    if images.dtype not in (torch.float32, torch.float64):
        raise RunError(f"the face detector got images of {images.dtype}: expected torch.float32, pixels in [0, 1]")
    if images.ndim != 4 or images.shape[1] != 3:
        raise RunError(f"the face detector got images of shape {tuple(images.shape)}: expected (count, 3, H, W)")
    if min(images.shape[2:]) < SMALLEST_FACE:
        height, width = images.shape[2:]
        raise RunError(
            f"the face detector got images of {height}x{width} pixels: expected {SMALLEST_FACE} or more a side, "
            "enlarge them"
        )


def _required(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise RunError(
            f"the face detector needs {package.replace('_', '-')}, which is not installed: "
            "pip install 'centersmooth[faces]'"
        ) from error
