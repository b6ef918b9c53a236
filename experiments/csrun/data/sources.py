"""Sources of examples: arrays in memory, image files in a folder or archive, latents drawn from a seed."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from centersmooth import RandomStream
from csrun.errors import RunError

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (".jpg", ".jpeg", ".png")

MOST_BYTES = 2**28
"""Largest size of a file of a data set, unpacked: 256 MiB, five times the largest there is, MNIST's training images."""

_GREY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
_ORIENTATION = 0x0112
"""EXIF's tag; 1 is upright."""


class Source(Protocol):
    """The examples of one split, in a fixed order."""

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int]) -> Tensor:
        """Examples by index, ``(len(indices), *shape)``."""
        ...

    def name(self, index: int) -> str:
        """Name of an example in rows."""
        ...

    def digest(self, count: int) -> str:
        """Identity of the first ``count`` examples, sixteen hexadecimal digits; labels are not in it."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """Classes of all examples, or of all their pixels, read when asked for; None without any.

        Integers of shape ``(len(self),)`` or ``(len(self), H, W)``.
        """
        ...


@dataclass(frozen=True)
class ArraySource:
    """Examples in memory.

    Attributes
    ----------
    split : str
    images : Tensor, shape ``(count, *shape)``
        Pixels as uint8, or numbers in floating point.
    read_labels : callable, optional
        Reads the class labels of all examples.
    """

    split: str
    images: Tensor
    read_labels: Callable[[], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> Tensor:
        return self.images[list(indices)]

    def name(self, index: int) -> str:
        return f"{self.split}/{index}"

    def digest(self, count: int) -> str:
        images = self.images[:count]
        content = hashlib.sha256(str(tuple(images.shape)).encode())
        content.update(images.contiguous().numpy().tobytes())
        return content.hexdigest()[:16]

    @cached_property
    def labels(self) -> Tensor | None:
        return None if self.read_labels is None else self.read_labels()


@dataclass(frozen=True)
class StripedSource:
    """Digits on a striped ground, with a class for each pixel: 0 for the ground, ``1 + label`` for a digit's.

    Each image has stripes of its own, whose direction, width and place are drawn from (seed, index). The ground is
    between black and 0.6, a digit covers it with white as densely as its pixels are bright. A pixel belongs to the
    digit where that is at least one half.

    Attributes
    ----------
    digits : ArraySource
        Grey images with labels, as bytes.
    seed : int
    """

    digits: ArraySource
    seed: int

    def __len__(self) -> int:
        return len(self.digits)

    def take(self, indices: Sequence[int]) -> Tensor:
        digits = self.digits.take(indices).double() / 255
        ground = torch.stack([self._ground(index, digits.shape[-2:]) for index in indices])[:, None]
        return (255 * (digits + (1 - digits) * ground)).round().to(torch.uint8)

    def _ground(self, index: int, size: Sequence[int]) -> Tensor:
        """Stripes between 0 and 0.6 with a period of 4 to 12 pixels, ``(H, W)``."""
        draws = RandomStream(self.seed, index).draws(f"stripes {self.digits.split}", 0, torch.zeros(0).double())
        direction, period, place = draws.uniform((3,)).tolist()
        rows, columns = (torch.arange(length, dtype=torch.float64) for length in size)
        angle = math.pi * direction
        along = math.sin(angle) * rows[:, None] + math.cos(angle) * columns
        return 0.3 + 0.3 * torch.sin(2 * math.pi * (along / (4 + 8 * period) + place))

    def name(self, index: int) -> str:
        return self.digits.name(index)

    def digest(self, count: int) -> str:
        return hashlib.sha256(f"stripes {self.seed} {self.digits.digest(count)}".encode()).hexdigest()[:16]

    @cached_property
    def labels(self) -> Tensor | None:
        if self.digits.labels is None:
            return None
        of_digit = self.digits.images[:, 0] >= 128
        return of_digit * (1 + self.digits.labels).to(torch.uint8)[:, None, None]


@dataclass(frozen=True)
class FileSource:
    """Image files of one size in a folder or a zip archive, decoded when used; nothing is unpacked to disk.

    Grey, palette and CMYK images become RGB as Pillow converts them, without transparency; `as_stored` keeps one
    channel where all are grey. More than 8 bits a channel or an EXIF orientation are refused, as Pillow would clip the
    one and ignore the other.

    The order is by file name, then folder: where each class has a folder of its own, the first files hold all classes
    in turn. The same files give the same order and digest from a folder and from an archive.

    Attributes
    ----------
    path : Path
    names : tuple of str
        Paths of the images inside the folder or archive.
    mode : str
        Pillow's mode that they are converted to.
    classes : tuple of str
        Names of the folders that stand for the labels 0, 1, ...; empty where images have no labels.
    """

    path: Path
    names: tuple[str, ...]
    mode: str = "RGB"
    classes: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path) -> FileSource:
        """List the images of a folder or archive; everything else in it, hidden files too, is passed over.

        Raises
        ------
        RunError
            If it is not there, no zip archive, or holds no image.
        """
        try:
            if path.is_dir():
                found = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
            else:
                found = _archive(path).namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise RunError(
                f"{path} cannot be read as a folder or zip archive of images ({error}): set data.path to one"
            ) from error
        images = [
            name for name in found if name.lower().endswith(SUFFIXES) and not os.path.basename(name).startswith(".")
        ]
        if not images:
            raise RunError(
                f"{path} holds no image ({', '.join(SUFFIXES)}): set data.path to a folder or archive that does"
            )
        return cls(path, tuple(sorted(images, key=lambda name: (os.path.basename(name), name))))

    def as_stored(self) -> FileSource:
        """This source with one channel, if every image of it is stored grey."""
        grey = all(_is_grey(content) for _, content in self._contents(range(len(self))))
        return replace(self, mode="L") if grey else self

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Sequence[int]) -> Tensor:
        images = [self._decode(self.names[i], content) for i, content in self._contents(indices)]
        for index, image in zip(indices, images, strict=True):
            if image.shape != self._shape:
                raise RunError(
                    f"{self.names[index]} in {self.path} is {_size(image.shape)} and {self.names[0]} "
                    f"{_size(self._shape)}: expected images of one size"
                )
        return torch.stack(images)

    @cached_property
    def _shape(self) -> torch.Size:
        ((_, content),) = self._contents([0])
        return self._decode(self.names[0], content).shape

    def name(self, index: int) -> str:
        return self.names[index]

    def digest(self, count: int) -> str:
        content = hashlib.sha256(b"" if self.mode == "RGB" else self.mode.encode())
        for index, raw in self._contents(range(min(count, len(self)))):
            content.update(f"{os.path.basename(self.names[index])}/{len(raw)}/".encode() + raw)
        return content.hexdigest()[:16]

    @cached_property
    def labels(self) -> Tensor | None:
        if not self.classes:
            return None
        numbers = {folder: label for label, folder in enumerate(self.classes)}
        folders = [os.path.basename(os.path.dirname(name)) for name in self.names]
        for name, folder in zip(self.names, folders, strict=True):
            if folder not in numbers:
                raise RunError(
                    f"{name} in {self.path} has no label: expected images in folders named after their class, "
                    f"{', '.join(self.classes)}"
                )
        return torch.tensor([numbers[folder] for folder in folders])

    def _contents(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        try:
            if self.path.is_dir():
                for i in indices:
                    yield i, (self.path / self.names[i]).read_bytes()
                return
            archive = _archive(self.path)
            for i in indices:
                yield i, self._unpack(archive, self.names[i])
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: encrypted
            raise RunError(
                f"{self.path} is damaged ({error}): fetch it again, or set data.path to a good copy"
            ) from error

    def _unpack(self, archive: zipfile.ZipFile, name: str) -> bytes:
        """An entry's bytes, in memory; zipfile reads no more of it than it declares."""
        if (size := archive.getinfo(name).file_size) > MOST_BYTES:
            raise RunError(f"{name} in {self.path} unpacks to {size:,} bytes: expected {MOST_BYTES:,} at most")
        return archive.read(name)

    def _decode(self, name: str, content: bytes) -> Tensor:
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content)) as image:
                    _require_plain(image, f"{name} in {self.path}")
                    opaque = image.convert("RGBA") if "transparency" in image.info else image
                    pixels = np.atleast_3d(np.array(opaque.convert(self.mode)))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise RunError(
                f"{name} in {self.path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller, or remove it"
            ) from error
        except (OSError, ValueError, SyntaxError, zlib.error) as error:  # what Pillow raises on damaged bytes
            raise RunError(f"{name} in {self.path} is no readable image: fetch it again, or remove it") from error
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _archive(path: Path) -> zipfile.ZipFile:
    """An archive as it lies there now: its list of files, which is long where there are many, is read once."""
    there = path.stat()
    return _opened(path, (there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns), os.getpid())


@lru_cache(maxsize=4)
def _opened(path: Path, state: tuple[int, ...], process: int) -> zipfile.ZipFile:
    """An open archive of this process; one open before a fork would share its position with the other process."""
    return zipfile.ZipFile(path)


def _is_grey(content: bytes) -> bool:
    """Test for an image stored without colour, by its header; a damaged one is refused once it is used."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content)) as image:
                return image.mode in _GREY_MODES
        except (Image.DecompressionBombError, OSError, ValueError, SyntaxError, zlib.error):
            return True


def _require_plain(image: PIL.Image.Image, what: str) -> None:
    if image.mode in _DEEP_MODES:
        raise RunError(f"{what} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
    if (orientation := image.getexif().get(_ORIENTATION, 1)) != 1:
        raise RunError(f"{what} is stored turned (EXIF orientation {orientation}): turn its pixels upright")


def _size(shape: Sequence[int]) -> str:
    return f"{shape[-1]}x{shape[-2]}"


def read_idx(path: Path, axes: int, what: str) -> Tensor:
    """Bytes of an IDX file, gzipped or not, in the shape that its header of big-endian integers declares.

    Parameters
    ----------
    path : Path
    axes : int
        Number of axes: 3 for images, 1 for labels.
    what : str
        What the file is expected to hold, for messages.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{path} cannot be read ({error}): fetch it again, or set data.path to a good copy") from error
    if len(raw) > MOST_BYTES:
        raise RunError(f"{path} unpacks to more than {MOST_BYTES:,} bytes: fetch it again, or set data.path")
    header = 4 + 4 * axes
    magic, *shape = np.frombuffer(raw[:header].ljust(header, b"\0"), dtype=">u4").tolist()
    if magic != _IDX_OF_BYTES + axes or len(raw) != header + math.prod(shape):
        raise RunError(f"{path} is no complete IDX file of {what}: fetch it again, or set data.path to a good copy")
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape).copy())


_IDX_OF_BYTES = 0x0800
"""First number of an IDX file of unsigned bytes, to which the number of axes is added."""


def checked_labels(labels: Tensor, count: int, classes: int, where: object) -> Tensor:
    """Labels as int64, one for each of ``count`` examples and all in ``0, ..., classes - 1``.

    Raises
    ------
    RunError
        One line naming ``where`` they were read.
    """
    advice = "fetch it again, or set data.path to a good copy"
    if len(labels) != count:
        raise RunError(f"{where} holds {len(labels):,} labels for {count:,} examples: {advice}")
    labels = labels.long()
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise RunError(f"{where} holds the label {int(outside[0])}: expected 0 to {classes - 1}; {advice}")
    return labels


LATENT_BOUND = 2.0
"""Where the normal law of BigGAN's latents is cut off, before it is scaled by the truncation."""


def latents(count_or_indices: int | Iterable[int], dim: int, seed: int, truncation: float | None = None) -> Tensor:
    """Test latents, each a function of (seed, its index, dim, truncation) and of nothing else.

    Parameters
    ----------
    count_or_indices : int or iterable of int
        A count stands for the indices 0, 1, ... below it.
    dim : int
        Numbers a latent.
    truncation : float, optional
        None: the standard normal law. Else that law cut off at -2 and 2, times ``truncation``: BigGAN's, as
        ``truncated_noise_sample`` of pytorch-pretrained-biggan draws it.

    Returns
    -------
    Tensor, shape ``(count, dim)``
        float32, on the CPU.

    Examples
    --------
    >>> bool((latents(5, 8, seed=0)[3] == latents([3], 8, seed=0)[0]).all())
    True
    >>> bool(latents(5, 8, seed=0, truncation=0.5).abs().max() <= 1.0)
    True
    """
    indices = range(count_or_indices) if isinstance(count_or_indices, int) else count_or_indices
    rows = [_latent(RandomStream(seed, index), dim, truncation) for index in indices]
    return torch.stack(rows) if rows else torch.zeros(0, dim)


def _latent(stream: RandomStream, dim: int, truncation: float | None) -> Tensor:
    if truncation is None:
        return stream.draws("latent", 0, torch.zeros(0)).normal((dim,))
    uniform = stream.draws("latent", 0, torch.zeros(0, dtype=torch.float64)).uniform((dim,)).numpy()
    low, high = ndtr(-LATENT_BOUND), ndtr(LATENT_BOUND)
    cut = np.clip(ndtri(low + uniform * (high - low)), -LATENT_BOUND, LATENT_BOUND)
    return torch.from_numpy(truncation * cut).float()


@dataclass(frozen=True)
class LatentSource:
    """Latents of a generator, each drawn from (seed, its index)."""

    dim: int
    seed: int
    truncation: float | None

    def __len__(self) -> int:
        return 10**6

    def take(self, indices: Sequence[int]) -> Tensor:
        return latents(indices, self.dim, self.seed, self.truncation)

    def name(self, index: int) -> str:
        return f"latent/{index}"

    def digest(self, count: int) -> str:
        return hashlib.sha256(f"latents {self.dim} {self.seed} {self.truncation}".encode()).hexdigest()[:16]

    @property
    def labels(self) -> None:
        return None
