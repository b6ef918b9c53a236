"""Data sets: where their files are looked for, and how they become tensors.

A loader takes a folder or archive (``data.path``, else ``$CENTERSMOOTH_DATA``, else a cache that torchvision downloads
to). Images stay bytes until they are used; pixels in [0, 1] are ``bytes / scale``. Labels are read when asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csrun.data.sources import (
    SUFFIXES,
    ArraySource,
    FileSource,
    LatentSource,
    Source,
    StripedSource,
    checked_labels,
    read_idx,
)
from csrun.errors import RunError, first_line
from csrun.registry import DATA, require_known

PIXELS = "pixels in [0, 1]"


@dataclass(frozen=True)
class DataSet:
    """A test split, and a training split for models that are trained on it.

    Attributes
    ----------
    name : str
    test, train : Source
    scale : float
        The byte value of white.
    model_width : int
        Channels of the first convolution of the models trained on it.
    note : str
        What a reader of results has to know about the data; empty if it is the original.
    publishable : bool
        Whether pictures that show its examples, or what a model made of them, may be handed on: `make publish` copies
        no panel of a data set that may not.
    unit : str
        What ``eps`` and ``sigma`` are measured in, for models that take the examples as they are.
    advice : str
        What to look at where a model fails on the examples.
    classes : tuple of str
        Names of the classes 0, 1, ...; empty where the examples have no labels.
    pixelwise : bool
        Whether each pixel has a class, in the place of each example.
    """

    name: str
    test: Source
    train: Source | None = None
    scale: float = 255.0
    model_width: int = 32
    note: str = ""
    publishable: bool = True
    unit: str = PIXELS
    advice: str = ""
    classes: tuple[str, ...] = ()
    pixelwise: bool = False

    def images(self, source: Source, indices: Sequence[int]) -> Tensor:
        """Pixels as float32 in [0, 1], numbers in their own floating-point type: ``(len(indices), *shape)``."""
        examples = source.take(indices)
        return (examples if examples.is_floating_point() else examples.float()) / self.scale

    def targets(self, source: Source, indices: Sequence[int]) -> Tensor:
        """Class labels, numbers of `classes`, of the same examples as `images`: int64, ``(len(indices),)``.

        Of each pixel where they are `pixelwise`: ``(len(indices), H, W)``.

        Raises
        ------
        RunError
            There are none, their file is missing or damaged, or they do not fit the examples.
        """
        labels = source.labels
        if labels is None:
            raise RunError(f"{self.name} has no class labels: set data.name to a data set that has them")
        return labels[list(indices)].long()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first test example, ``(C, H, W)`` for images."""
        return tuple(self.test.take([0])[0].shape)

    @property
    def training_split(self) -> Source:
        """Its training split.

        Raises
        ------
        RunError
            It has none.
        """
        if self.train is None:
            raise RunError(f"{self.name} has no training split: set data.name to a data set that has one")
        return self.train

    @cached_property
    def digest(self) -> str:
        """Identity of the test split; read once."""
        return self.test.digest(len(self.test))


def load_data(name: str, path: str | None, seed: int = 0) -> DataSet:
    """Load a data set by name; ``seed`` matters where examples are drawn.

    Raises
    ------
    RunError
        One line naming the file that is missing, where it was looked for and the option that points elsewhere.
    """
    require_known("data.name is", name, DATA)
    data: DataSet = DATA[name].build(path, seed)
    return data


def digits(path: str | None, seed: int) -> DataSet:
    """scikit-learn's built-in 8x8 digits: the last 500 of 1,797 are the test split."""
    images, labels = _digits()
    train, test = (
        ArraySource(split, images[part], labels[part].long)
        for split, part in (("train", slice(-500)), ("test", slice(-500, None)))
    )
    return DataSet("digits", test, train, scale=16.0, model_width=8, classes=TEN_DIGITS)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Images and labels, parsed once in a process from the text file of scikit-learn, whose import takes seconds."""
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    numbers = np.loadtxt(str(path), np.uint8, delimiter=",")
    images, labels = numbers[:, :-1].reshape(-1, 1, 8, 8), numbers[:, -1]
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


TEN_DIGITS = tuple("0123456789")


def mnist(path: str | None, seed: int) -> DataSet:
    train, test = _mnist_splits(path)
    return DataSet("mnist", test, train, classes=TEN_DIGITS)


def _mnist_splits(path: str | None) -> list[ArraySource]:
    """Training and test split."""
    folder = _folder(path) or _download("MNIST")
    return [_mnist_split(folder, *names) for names in (("train", "train"), ("test", "t10k"))]


def _mnist_split(folder: Path, split: str, prefix: str) -> ArraySource:
    images = read_idx(_find_idx(folder, f"{prefix}-images-idx3-ubyte"), 3, "images")[:, None]

    def labels() -> Tensor:
        path = _find_idx(folder, f"{prefix}-labels-idx1-ubyte")
        return checked_labels(read_idx(path, 1, "labels"), len(images), 10, path)

    return ArraySource(split, images, labels)


def mnist_striped(path: str | None, seed: int) -> DataSet:
    """MNIST on a striped ground, with the class of each pixel."""
    train, test = (StripedSource(split, seed) for split in _mnist_splits(path))
    return DataSet("mnist_striped", test, train, model_width=8, classes=("ground", *TEN_DIGITS), pixelwise=True)


def cifar10(path: str | None, seed: int) -> DataSet:
    """The original batches where torchvision left them, else one folder or archive of images a split."""
    folder = _folder(path) or _download("CIFAR10")
    if (folder / "cifar-10-batches-py").is_dir():
        train, test = (_cifar10_batches(folder, split) for split in ("train", "test"))
        return DataSet("cifar10", test, train, classes=CIFAR10_CLASSES)
    train_files, test_files = (
        replace(_find_images(folder, "CIFAR-10", CIFAR10_PLACES, split), classes=CIFAR10_CLASSES)
        for split in ("train", "test")
    )
    note = (
        "CIFAR-10 images from image files (re-compressed where these are JPEG): close to the original pixels, not equal"
    )
    return DataSet("cifar10", test_files, train_files, note=note, classes=CIFAR10_CLASSES)


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""In the order of the original labels."""


def _cifar10_batches(folder: Path, split: str) -> ArraySource:
    from torchvision.datasets import CIFAR10

    try:
        content = CIFAR10(folder, train=split == "train")
    except (OSError, RuntimeError, EOFError) as error:
        raise RunError(
            f"{folder / 'cifar-10-batches-py'} is incomplete or damaged ({first_line(error)}): fetch it again, or set "
            "data.path to a good copy"
        ) from error
    images, labels = torch.from_numpy(content.data).permute(0, 3, 1, 2), torch.tensor(content.targets)
    return ArraySource(split, images, partial(checked_labels, labels, len(images), len(CIFAR10_CLASSES), folder))


def celeba(path: str | None, seed: int) -> DataSet:
    """Aligned CelebA faces, 178x218: test split, and training split if it is there, from folders, archives, or a
    download by torchvision."""
    folder = _folder(path) or _download("CelebA")
    whole = folder / "celeba" / "img_align_celeba"
    if whole.is_dir():
        source = FileSource.open(whole)
        test = tuple(name for name in source.names if Path(name).stem >= CELEBA_FIRST_TEST_IMAGE)
        if not test:
            raise RunError(
                f"{whole} holds no image of CelebA's test split, {CELEBA_FIRST_TEST_IMAGE}.jpg and up: put them there, "
                "or set data.path to a folder or archive of the images to certify"
            )
        train = tuple(name for name in source.names if Path(name).stem < CELEBA_FIRST_VALIDATION_IMAGE)
        return DataSet(
            "celeba", FileSource(whole, test), FileSource(whole, train) if train else None, publishable=False
        )
    if path is not None and not any((folder / name).exists() for name in ("celeba_test", "celeba_test.zip")):
        return DataSet("celeba", FileSource.open(folder), publishable=False)
    found = _find_images(folder, "CelebA", ("celeba_{split}",), "test")
    training = [folder / name for name in ("celeba_train", "celeba_train.zip") if (folder / name).exists()]
    return DataSet("celeba", found, FileSource.open(training[0]) if training else None, publishable=False)


CELEBA_FIRST_VALIDATION_IMAGE, CELEBA_FIRST_TEST_IMAGE = "162771", "182638"
"""CelebA's own splits, by file number."""


def astronaut(path: str | None, seed: int) -> DataSet:
    """One photograph in the public domain, which comes inside scikit-image: a face of CelebA's size anywhere."""
    return DataSet("astronaut", ArraySource("astronaut", _astronaut_face()[None]))


def astronauts(path: str | None, seed: int) -> DataSet:
    """A made-up picture of two faces: `astronaut`, and beside it at half of its size, means of 2x2 pixels, on grey."""
    face = _astronaut_face()
    channels, height, width = face.shape
    canvas = face.new_full((channels, height, width + width // 2), 128)
    canvas[..., :width] = face
    blocks = face[:, : height // 2 * 2].reshape(channels, height // 2, 2, width // 2, 2)
    canvas[:, height // 4 : height // 4 + height // 2, width:] = blocks.float().mean(dim=(2, 4)).round().byte()
    note = "the picture is made up: one photograph twice, the second time at half of its size"
    return DataSet("astronauts", ArraySource("astronauts", canvas[None]), note=note)


def _astronaut_face() -> Tensor:
    """The photograph's face, ``(3, 218, 178)``, bytes."""
    rows, columns = ASTRONAUT_CROP
    return torch.from_numpy(_picture("astronaut", "faces")[rows, columns].copy()).permute(2, 0, 1).contiguous()


ASTRONAUT_CROP = (slice(0, 218), slice(135, 313))
"""Rows and columns of the photograph, 178 wide and 218 high; nothing is resized."""


def page(path: str | None, seed: int) -> DataSet:
    """Lines of a scanned page in the public domain, which comes inside scikit-image: a heading, text, and code."""
    return _page("page", [(slice(row, row + PAGE_LINE_HEIGHT), slice(None)) for row in PAGE_LINES])


PAGE_LINES, PAGE_LINE_HEIGHT = (12, 46, 64, 82, 99, 117, 169), 22
"""First rows of its lines, and how many rows are taken; nothing is resized."""


def page_blocks(path: str | None, seed: int) -> DataSet:
    """Blocks of that page: the heading over text, text, and the end of a paragraph over blank paper."""
    return _page("page_blocks", PAGE_BLOCKS)


PAGE_BLOCKS = [(slice(row, row + 96), slice(column, column + 192)) for row, column in ((0, 0), (40, 192), (95, 0))]
"""Rows and columns; nothing is resized."""


def _page(name: str, crops: Sequence[tuple[slice, slice]]) -> DataSet:
    whole = torch.from_numpy(_picture("page", "ocr").copy())
    return DataSet(name, ArraySource(name, torch.stack([whole[crop] for crop in crops])[:, None]))


def _picture(name: str, extra: str) -> NDArray[np.uint8]:
    """A photograph that comes inside scikit-image."""
    try:
        pictures = import_module("skimage.data")
    except ImportError as error:
        raise RunError(
            f"the photograph {name} comes with scikit-image, which is not installed: "
            f"pip install 'centersmooth[{extra}]'"
        ) from error
    picture: NDArray[np.uint8] = getattr(pictures, name)()
    return picture


def latents100(path: str | None, seed: int) -> DataSet:
    note = "a small DCGAN of synthetic faces stands in for BigGAN"
    return DataSet("latents100", LatentSource(100, seed, None), scale=1.0, note=note, unit="latent coordinates")


def latents128(path: str | None, seed: int) -> DataSet:
    return DataSet("latents128", LatentSource(128, seed, 0.5), scale=1.0, unit="latent coordinates")


CIFAR10_PLACES = ("cifar10_{split}", "cifar10_jpeg_{split}", "{split}")


def files(path: str | None, seed: int) -> DataSet:
    """Anybody's inputs: a folder or archive of images, or an array ``(count, *in)`` saved as ``.npy``."""
    place = _folder(path)
    if place is None:
        raise RunError("data.path is not set: expected a folder or zip archive of images, or a .npy array of inputs")
    suffix = place.suffix.lower()
    if suffix == ".npy" and not place.is_dir():
        array, advice = _read_array(place)
        if array.dtype == torch.uint8:
            return DataSet("files", ArraySource("inputs", array), publishable=False)
        return DataSet(
            "files",
            ArraySource("inputs", array),
            scale=1.0,
            publishable=False,
            unit="numbers as they stand in the file",
            advice=advice,
        )
    if suffix in _CONVERSIONS and place.is_file():
        raise RunError(
            f"{place} is not read: expected a folder or zip archive of images ({', '.join(SUFFIXES)}), or an array in "
            f"a .npy file; {_CONVERSIONS[suffix].format(name=place.name)}"
        )
    try:
        source = FileSource.open(place)
    except RunError as error:
        raise RunError(f"{error}, or to a .npy array of inputs, as numpy.save writes it") from error
    source = source.as_stored()
    return DataSet("files", source, publishable=False, advice=_CHANNELS[source.mode])


_CHANNELS = {
    "L": "the images are all stored grey and read as one channel: for a model of three, store them as RGB",
    "RGB": "the images are read as three channels: for a model of one, store all of them grey",
}
"""Remedies where a model wants another number of channels, by Pillow's mode."""

_CONVERSIONS = {
    ".npz": "convert it by numpy.save('inputs.npy', numpy.load('{name}')['NAME'])",
    ".csv": "convert it by numpy.save('inputs.npy', numpy.loadtxt('{name}', delimiter=',', ndmin=2))",
    ".tsv": "convert it by numpy.save('inputs.npy', numpy.loadtxt('{name}', ndmin=2))",
    ".txt": "convert it by numpy.save('inputs.npy', numpy.loadtxt('{name}', ndmin=2))",
    ".pt": "convert a tensor in it by numpy.save('inputs.npy', torch.load('{name}', weights_only=True).numpy())",
    ".pth": "convert a tensor in it by numpy.save('inputs.npy', torch.load('{name}', weights_only=True).numpy())",
    **dict.fromkeys(SUFFIXES, "put {name} into a folder"),
}
"""How a file that is not read becomes one that is, by suffix."""


def _read_array(path: Path) -> tuple[Tensor, str]:
    """A ``.npy`` file, uint8 and float64 as they are, all other numbers as float32; and advice where a model fails."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        objects = str(error).startswith("Object arrays")  # of texts, or of lists of several lengths
        remedy = "of texts and tokens save the embeddings, padded to one shape" if objects else "use numpy.save"
        raise RunError(f"{path} is no readable array of numbers ({first_line(error)}): {remedy}") from error
    if not isinstance(array, np.ndarray):
        raise RunError(f"{path} is an archive of arrays: expected one array, as numpy.save writes it")
    if array.dtype.kind in "US":
        raise RunError(
            f"{path} holds texts, of shape {array.shape}: expected real numbers, to which noise can be added; certify "
            "the model from the embeddings of texts on, and save these"
        )
    if array.ndim < 2 or array.dtype.kind not in "fiub":
        raise RunError(
            f"{path} holds {array.dtype} of shape {array.shape}: expected real numbers of shape (count, ...), an input "
            f"a row{'; of tokens save the embeddings' if array.dtype.kind in 'iu' else ''}"
        )
    if 0 in array.shape[1:]:
        raise RunError(f"{path} has inputs of shape {array.shape[1:]}, without a number: expected some in each")
    if array.dtype == np.uint8:
        return torch.from_numpy(array), ""
    wide = array.dtype.kind == "f" and array.dtype.itemsize >= 8
    with np.errstate(over="ignore"):
        numbers = torch.from_numpy(array.astype(np.float64 if wide else np.float32))
    if not bool(torch.isfinite(numbers).all()):
        raise RunError(f"{path} holds NaN, infinity or numbers beyond {numbers.dtype}: expected finite inputs")
    return numbers, _ADVICE.get("f8" if wide else array.dtype.kind, "")


_ADVICE = {
    "f8": "the array is float64: save it as float32 for a function that computes in that",
    "i": "the array holds integers, to which noise is added as to all numbers: save embeddings for a model of tokens",
}
"""Advice on arrays by their kind, NumPy's letter for it."""


def _folder(path: str | None) -> Path | None:
    root = path or os.environ.get("CENTERSMOOTH_DATA")
    if not root:
        return None
    # A name that begins with a tilde need not be anybody's home.
    return Path(root) if Path(root).exists() else Path(os.path.expanduser(root))


def _find_images(folder: Path, what: str, places: Sequence[str], split: str) -> FileSource:
    names = [place.format(split=split) for place in places]
    for name in names:
        for candidate in (folder / name, folder / f"{name}.zip"):
            if candidate.exists():
                return FileSource.open(candidate)
    raise RunError(
        f"no {what} {split} images in {folder}: expected a folder or zip archive called {' or '.join(names)}; "
        "put it there, or set data.path=FOLDER or CENTERSMOOTH_DATA"
    )


def _find_idx(folder: Path, name: str) -> Path:
    for place in (folder, folder / "mnist", folder / "MNIST" / "raw"):
        for candidate in (place / name, place / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise RunError(
        f"no MNIST file {name} or {name}.gz in {folder} (nor in mnist/ or MNIST/raw/ below it): "
        "put it there, or set data.path=FOLDER or CENTERSMOOTH_DATA"
    )


def _download(name: str) -> Path:
    """torchvision's own download, to a cache of ours."""
    from torchvision import datasets

    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "centersmooth"
    try:
        getattr(datasets, name)(folder, download=True)
    except (OSError, RuntimeError, ImportError) as error:
        raise RunError(
            f"{name} could not be downloaded to {folder} ({str(error).splitlines()[0]}): set data.path=FOLDER or "
            "CENTERSMOOTH_DATA to a folder that holds its files, named as docs/data.md says"
        ) from error
    return folder
