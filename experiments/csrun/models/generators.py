"""Image generators as base models: latent in, image out; the noise lives on the latent.

`FaceGenerator`
    DCGAN (Radford, Metz, Chintala, 2016) for 64x64 faces, from a state dict on disk.
`BigGANImages`
    BigGAN-deep (Brock, Donahue, Simonyan, 2019), one ImageNet class, from pytorch-pretrained-biggan.

Both are built without drawing initial weights and loaded strictly: a checkpoint of another network is an error, never
a network that is partly random.
"""

from __future__ import annotations

import json
import textwrap
import warnings
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from csrun.errors import RunError, first_line
from csrun.models.base import BaseModel
from csrun.models.weights import adopt_weights, frozen, read_weights

BIGGAN = "biggan-deep-128"
"""The paper's generator, by the package's name."""

BIGGAN_TRUNCATION = 0.5
"""Truncation of BigGAN's latents and of its batch statistics in the paper's figure 4."""

MONARCH = 323
"""ImageNet's monarch butterfly; the released code's 'Butterfly' is no ImageNet class."""

if TYPE_CHECKING:  # the package comes without annotations

    class BigGANConfig(Protocol):
        z_dim: int
        num_classes: int
        output_dim: int

        def to_json_string(self) -> str: ...

    class BigGAN(nn.Module):
        config: BigGANConfig


class FaceGenerator(BaseModel):
    """DCGAN generator of 64x64 faces.

    Transposed convolutions 100-512-256-128-64-3 of kernel 4, the first with stride 1, the others with stride 2, no
    bias, batch norm and ReLU between them, tanh at the end. The keys of its state dict are those of `network`.
    """

    output_range = (-1.0, 1.0)
    latent_dim = 100

    def __init__(self) -> None:
        super().__init__()
        widths = (self.latent_dim, 512, 256, 128, 64)
        layers: list[nn.Module] = []
        for step, (before, after) in enumerate(pairwise(widths)):
            layers += _upscaling(before, after, first=step == 0)
        last = nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False)
        self.network = nn.Sequential(*layers, last, nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        """``(b, 100) -> (b, 3, 64, 64)``."""
        images: Tensor = self.network(latents[:, :, None, None])
        return images


def _upscaling(before: int, after: int, *, first: bool) -> list[nn.Module]:
    stride, padding = (1, 0) if first else (2, 1)
    convolution = nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU()]


def load_face_generator(path: str | Path | None) -> FaceGenerator:
    """The face generator with the weights of a file, in eval mode.

    Raises
    ------
    RunError
        One line: no file, no weights, or those of another network.
    """
    fix = "weights.dcgan=PATH"
    if path is None:
        raise RunError(
            f"the model dcgan comes without weights: set {fix} to the state dict of a 64x64 DCGAN generator, or put it "
            "into $CENTERSMOOTH_DATA as dcgan_faces64_generator.pth"
        )
    state = read_weights(path, fix)
    with torch.device("meta"):
        model = FaceGenerator()
    adopt_weights(model.network, state, path, fix)
    return frozen(model)


class BigGANImages(BaseModel):
    """BigGAN for one class at one truncation: ``(b, 128) -> (b, 3, 128, 128)`` for ``biggan-deep-128``.

    Its batch norms look up statistics stored for the truncation: outputs do not depend on the batch.

    Parameters
    ----------
    gan : pytorch_pretrained_biggan.BigGAN
    class_index : int
        ImageNet class, 0 to 999.
    truncation : float
        In ``(0, 1]``. Selects the statistics; latents have to be drawn with the same truncation.
    note : str
        What a reader of results has to know about the weights; empty for those the paper used.
    """

    output_range = (-1.0, 1.0)
    label: Tensor

    def __init__(
        self, gan: BigGAN, class_index: int = MONARCH, truncation: float = BIGGAN_TRUNCATION, note: str = ""
    ) -> None:
        super().__init__()
        self.note = note
        if not 0 < truncation <= 1:
            raise RunError(f"the truncation of biggan is {truncation}: expected a number above 0, at most 1")
        self.gan = gan
        self.truncation = truncation
        self.latent_dim = gan.config.z_dim
        label = torch.zeros(1, gan.config.num_classes)
        label[0, class_index] = 1.0
        self.register_buffer("label", label)

    def forward(self, latents: Tensor) -> Tensor:
        """``(b, z_dim) -> (b, 3, H, W)``, in [-1, 1]."""
        images: Tensor = self.gan(latents, self.label.expand(len(latents), -1), self.truncation)
        return images


def load_biggan(name_or_folder: str | Path = BIGGAN, class_index: int | str = MONARCH) -> BigGANImages:
    """BigGAN with released or your own weights, in eval mode.

    Unlike the package's ``from_pretrained``: every entry of the checkpoint has to fit, the file is read as data only,
    and the model comes in eval mode.

    Parameters
    ----------
    name_or_folder : str or Path
        ``biggan-deep-128``, ``-256`` or ``-512``, downloaded by the package; or a folder that holds ``config.json``
        and ``pytorch_model.bin``.
    class_index : int or str
        An ImageNet class, or its category name in torchvision.

    Raises
    ------
    RunError
        One line: package, class, files or download.
    """
    package = _biggan_package()
    config_file, weights_file = _biggan_files(package, str(name_or_folder))
    gan = _empty_biggan(package, config_file)
    index = imagenet_class(class_index, gan.config.num_classes)
    fix = "weights.biggan=FOLDER"
    adopt_weights(gan, read_weights(weights_file, fix), weights_file, fix)
    return frozen(BigGANImages(gan, index, note=_biggan_note(package, str(name_or_folder), gan)))


def imagenet_class(category: int | str, classes: int = 1000) -> int:
    """The index of an ImageNet class.

    >>> imagenet_class("monarch"), imagenet_class("17"), imagenet_class(3)
    (323, 17, 3)
    """
    index = _index_by_name(category) if isinstance(category, str) and not category.isdecimal() else int(category)
    if not 0 <= index < classes:
        raise RunError(
            f"the class of biggan is {category!r} (index {index}): expected an index from 0 to {classes - 1}"
        )
    return index


def _index_by_name(category: str) -> int:
    from torchvision.models import AlexNet_Weights

    names: list[str] = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    alike = [index for index, name in enumerate(names) if name.casefold() == category.casefold()]
    same = [index for index in alike if names[index] == category] or alike
    if len(same) == 1:
        return same[0]
    near = [f"'{name}' ({index})" for index, name in enumerate(names) if category.casefold() in name.casefold()]
    examples = ", ".join(near[:4]) or f"'monarch' ({MONARCH})"
    raise RunError(f"'{category}' is no ImageNet class: expected an index or a torchvision category such as {examples}")


def _biggan_package() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module("pytorch_pretrained_biggan.model")
    except ImportError as error:
        raise RunError(f"biggan needs pytorch-pretrained-biggan ({error}): pip install 'centersmooth[gan]'") from error


def _biggan_files(package: ModuleType, source: str) -> tuple[Path, Path]:
    """Paths of configuration and weights."""
    if source in package.PRETRAINED_MODEL_ARCHIVE_MAP:
        maps = (package.PRETRAINED_CONFIG_ARCHIVE_MAP, package.PRETRAINED_MODEL_ARCHIVE_MAP)
        config, weights = (_biggan_download(package, names[source]) for names in maps)
        return config, weights
    config, weights = Path(source) / package.CONFIG_NAME, Path(source) / package.WEIGHTS_NAME
    if absent := [file.name for file in (config, weights) if not file.is_file()]:
        raise RunError(
            f"weights.biggan is '{source}', without {' and '.join(absent)}: expected a folder that holds "
            f"{config.name} and {weights.name}, or one of {', '.join(package.PRETRAINED_MODEL_ARCHIVE_MAP)}"
        )
    return config, weights


def _biggan_note(package: ModuleType, source: str, gan: BigGAN) -> str:
    """Note on how a generator differs from biggan-deep-128 as the package downloads it; empty if it does not."""
    if source == BIGGAN:
        return ""
    if source in package.PRETRAINED_MODEL_ARCHIVE_MAP:
        return f"{source} in place of the paper's {BIGGAN}"
    if json.loads(gan.config.to_json_string()) != json.loads(package.BigGANConfig().to_json_string()):
        side = gan.config.output_dim
        return f"stand-in weights: a BigGAN of {side}x{side} pixels from a folder in place of {BIGGAN}"
    return f"{BIGGAN} weights from a folder: their digest says which, not whether they are the released ones"


def _biggan_download(package: ModuleType, url: str) -> Path:
    """The package's own cache; it asks the server even for files it has."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Path(package.cached_path(url))
    except (OSError, ValueError) as error:
        reason = textwrap.shorten(first_line(error), 100, placeholder=" ...")
        raise RunError(
            f"{url} could not be downloaded ({reason}): set weights.biggan=FOLDER to a folder that holds "
            f"{package.CONFIG_NAME} and {package.WEIGHTS_NAME}, or put it into $CENTERSMOOTH_DATA as {BIGGAN}"
        ) from error


def _empty_biggan(package: ModuleType, config_file: Path) -> BigGAN:
    try:
        config = package.BigGANConfig.from_json_file(config_file)
        with torch.device("meta"):
            gan: BigGAN = package.BigGAN(config)
    except Exception as error:  # whatever a wrong entry of the file leads to
        raise RunError(
            f"{config_file} is no BigGAN configuration ({first_line(error)}): fetch it again, or set "
            "weights.biggan=FOLDER"
        ) from error
    return gan
