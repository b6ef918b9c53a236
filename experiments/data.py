"""Data sets: where their files are looked for, and how they become tensors.

A loader takes a folder (``data.path``, else ``$CENTERSMOOTH_DATA``, else a cache that torchvision downloads to) and
returns all images as bytes with a scale; pixels in [0, 1] are ``bytes / scale``.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from centersmooth_experiments.errors import RunError


@dataclass(frozen=True)
class ImageData:
    """A training and a test split of square images.

    Attributes
    ----------
    name : str
    train, test : Tensor of uint8, shape ``(count, C, side, side)``
    scale : float
        The byte value of white.
    model_width : int
        Channels of the first convolution of the models trained on it.
    note : str
        What a reader of results has to know about the data; empty if it is the original.
    """

    name: str
    train: Tensor
    test: Tensor
    scale: float
    model_width: int = 32
    note: str = ""

    @property
    def channels(self) -> int:
        return self.test.shape[1]

    @property
    def side(self) -> int:
        return self.test.shape[-1]

    def pixels(self, images: Tensor) -> Tensor:
        """Bytes to float32 in [0, 1]."""
        return images.float() / self.scale

    def source(self, index: int) -> str:
        """What a row calls a test point."""
        return f"test/{index}"

    def digest(self, images: Tensor) -> str:
        """Identity of a set of images: shape and bytes."""
        content = hashlib.sha256(str(tuple(images.shape)).encode())
        content.update(images.contiguous().numpy().tobytes())
        return content.hexdigest()[:16]


def load_data(name: str, path: str | None) -> ImageData:
    """Load a data set by name.

    Raises
    ------
    RunError
        One line naming the file that is missing, where it was looked for and the option that points elsewhere.
    """
    if name not in DATA:
        raise RunError(f"data.name is '{name}': expected one of {', '.join(DATA)}")
    return DATA[name](path)


def _digits(path: str | None) -> ImageData:
    """scikit-learn's built-in 8x8 digits: the last 500 of 1,797 are the test split."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images.astype(np.uint8))[:, None]
    return ImageData("digits", images[:-500], images[-500:], scale=16.0, model_width=8)


def _mnist(path: str | None) -> ImageData:
    train, test = (_idx_images(path, f"{split}-images-idx3-ubyte") for split in ("train", "t10k"))
    return ImageData("mnist", train, test, scale=255.0)


DATA: dict[str, Callable[[str | None], ImageData]] = {"digits": _digits, "mnist": _mnist}


def _idx_images(path: str | None, name: str) -> Tensor:
    return _read_idx(_find_idx(path, name))


def _find_idx(path: str | None, name: str) -> Path:
    root = path or os.environ.get("CENTERSMOOTH_DATA")
    folder = Path(root) if root else _download_mnist()
    for place in (folder, folder / "mnist", folder / "MNIST" / "raw"):
        for candidate in (place / name, place / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise RunError(
        f"no MNIST file {name} or {name}.gz in {folder} (nor in mnist/ or MNIST/raw/ below it): "
        "put it there, or set data.path=FOLDER or CENTERSMOOTH_DATA"
    )


def _download_mnist() -> Path:
    from torchvision.datasets import MNIST

    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "centersmooth"
    try:
        MNIST(folder, download=True)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"MNIST could not be downloaded to {folder} ({str(error).splitlines()[0]}): "
            "set data.path=FOLDER or CENTERSMOOTH_DATA to a folder that holds train-images-idx3-ubyte[.gz]"
        ) from error
    return folder


def _read_idx(path: Path) -> Tensor:
    """Images of an IDX file, gzipped or not: a header of big-endian integers, then bytes."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise RunError(f"{path} cannot be read ({error}): fetch it again, or set data.path to a good copy") from error
    magic, count, rows, columns = np.frombuffer(raw[:16].ljust(16, b"\0"), dtype=">i4").tolist()
    if magic != 2051 or len(raw) != 16 + count * rows * columns:
        raise RunError(f"{path} is no complete IDX image file: fetch it again, or set data.path to a good copy")
    images = np.frombuffer(raw, dtype=np.uint8, offset=16).reshape(count, 1, rows, columns)
    return torch.from_numpy(images.copy())
