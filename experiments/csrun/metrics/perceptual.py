"""LPIPS, the perceptual distance of Zhang, Isola, Efros, Shechtman and Wang (CVPR 2018), version 0.1.

``d(a, b) = sum over layers l of mean over positions of sum over channels c of w_lc * (u_lc(a) - u_lc(b))^2``, ``u_l``
the activations of layer ``l`` of an ImageNet network, scaled to norm 1 at each position, ``w_l >= 0`` learned weights
of the channels (the linear heads). So ``d = |F(a) - F(b)|^2`` for the features ``F = sqrt(w_lc / (H_l W_l)) * u_lc``:
the square of a pseudometric, power 2.

Differences to the package ``lpips``, whose network and heads are used: images are brought to [-1, 1] each by its own
minimum and maximum; features are computed once an image instead of once a pair; the network's weights are read from a
file, strictly.
"""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from centersmooth import RequestError
from centersmooth.metrics.base import Hilbertian, ball_reach
from csrun.errors import RunError, first_line
from csrun.models.weights import adopt_weights, frozen, read_weights, weights_digest

NETWORK_BLOCK = 25
"""Images a call of the network, padded with zeros: an image's features do not depend on its company. Divides the
blocks of the experiments, 50 and 150, so that nothing is padded there."""

CHUNK, SUM = 2**12, 2**8
"""Coordinates taken together on a CPU, so few that a block of differences stays in its cache, and those of one float32
sum; the sums are added in float64."""

ROUNDING = 1e-3
"""Allowance for float32 in `LPIPS.diameter` and the norm of features: the longest sums have 512 and 1,024 terms, hence
an error below 1e-4."""


@dataclass(frozen=True)
class Backbone:
    """An ImageNet network LPIPS has heads for.

    Attributes
    ----------
    title : str
        How messages call it.
    released : str
        Its weights in ``torchvision.models``.
    fix : str
        The option that names a file.
    smallest : int
        The smallest side of an image that leaves something in its last layer, in pixels.
    """

    title: str
    released: str
    fix: str
    smallest: int


BACKBONES = {
    "vgg": Backbone("VGG-16", "VGG16_Weights", "weights.vgg=PATH", 16),
    "alex": Backbone("AlexNet", "AlexNet_Weights", "weights.alex=PATH", 31),
}


class LPIPS(Hilbertian):
    """Squared distance between the features of an ImageNet network. Power 2, range ``[0, diameter]``.

    Colour images ``(n, 3, H, W)`` of any range: each is mapped to [-1, 1] by its own minimum and maximum, a constant
    image to 0. So 0 between an image and its rescaling, and between any two constant images.

    Parameters
    ----------
    weights : str or Path, optional
        State dict with the network's convolutions, ``features.N.weight`` as torchvision names them; those of the
        classifier are ignored. None: torchvision's own, downloaded where they are not yet there.
    backbone : {"vgg", "alex"}
    device : str or torch.device
        Where the network is kept; images are brought there.

    Raises
    ------
    RunError
        One line: package, file or download; or heads with a negative weight, which no pseudometric belongs to.
    """

    power = 2.0
    no_mean = "it compares activations of a network, which are not linear in the image"
    version = "0.1"

    def __init__(
        self, weights: str | Path | None = None, backbone: str = "vgg", device: str | torch.device = "cpu"
    ) -> None:
        if backbone not in BACKBONES:
            raise RunError(f"the backbone of lpips is {backbone!r}: expected one of {', '.join(BACKBONES)}")
        self.backbone = backbone
        self.device = torch.device(device)
        package = _lpips_package()
        heads = _heads(package, backbone)
        layers = _layers(package, backbone, weights)
        self.network = frozen(_Network(package.ScalingLayer(), layers, heads)).to(self.device)
        self._diameter = (1 + ROUNDING) * sum(float(head.topk(2).values.double().sum()) for head in heads)
        self._norm = (1 + ROUNDING) * math.sqrt(sum(float(head.max()) for head in heads))

    def diameter(self, output_shape: tuple[int, ...], output_range: tuple[float, float] | None) -> float:
        """The sum over layers of the two largest channel weights, 5.45 for VGG-16; raised by `ROUNDING`.

        Proof. At one position of one layer let ``a, b`` be the normalised activations: not negative, as they follow a
        ReLU, and of norm at most 1. Let ``A`` be the channels with ``a_c >= b_c`` and ``B`` the others. As both are
        not negative, ``(a_c - b_c)^2 <= max(a_c, b_c)^2``, so ``sum w_c (a_c - b_c)^2`` is at most ``sum_A w_c a_c^2
        + sum_B w_c b_c^2 <= max_A w + max_B w``. ``A`` and ``B`` have no channel in common: that is at most the sum
        of the two largest weights. The mean over positions keeps the bound, the layers add. Two different unit
        vectors attain it: without knowing the network, nothing smaller holds.
        """
        return self._diameter

    def of_l2(self, distance: Tensor) -> Tensor:
        return distance.square()

    def to_l2(self, distance: float) -> float:
        return math.sqrt(distance)

    def feature_reach(self, mean: Tensor, output_range: tuple[float, float] | None) -> float:
        """``sqrt(R^2 + ||mean||^2)``, with ``R^2`` the sum over layers of the largest channel weight.

        Proof. At one position of one layer ``sum w_c a_c^2 <= max w`` for activations ``a`` of norm at most 1; the
        mean over positions keeps the bound, the layers add: ``|F| <= R``. Features are not negative.
        """
        return ball_reach(self._norm, mean, not_negative=True)

    def features(self, outputs: Tensor) -> Tensor:
        """``(n, 3, H, W) -> (n, D)``, float32.

        For VGG-16 ``D`` is 499,712 at 64x64 (2 MB an image), four times that at 128x128.
        """
        self._check(outputs)
        return torch.cat([self._features_of_block(block) for block in outputs.to(self.device).split(NETWORK_BLOCK)])

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n, D), (m, D) -> (n, m)`` float64: squared l2 distances, from differences.

        Sums of 256 squares are off by less than ``258 * 2**-24`` in any order, which the root halves; one float32 sum
        over all coordinates is off by 3e-4. The chunks are fixed, so an entry depends on its two rows only. An
        accelerator, which can sum in float64, takes all coordinates at once.
        """
        if a.device.type != "cpu":
            norms = [torch.linalg.vector_norm(a - row, dim=1, dtype=torch.float64) for row in b]
            return torch.stack(norms, dim=1).square()
        total = torch.zeros((len(a), len(b)), dtype=torch.float64)
        for part_a, part_b in zip(a.split(CHUNK, 1), b.split(CHUNK, 1), strict=True):
            total += torch.stack([_sum_of_squares(part_a - row) for row in part_b], dim=1)
        return total

    def weights_digest(self) -> str:
        """Sixteen hexadecimal digits of all weights: network, scaling and heads."""
        return weights_digest(self.network)

    def _features_of_block(self, images: Tensor) -> Tensor:
        padding = images.new_zeros((NETWORK_BLOCK - len(images), *images.shape[1:]))
        features: Tensor = self.network(torch.cat([images, padding]))
        return features[: len(images)]

    def _check(self, images: Tensor) -> None:
        smallest = BACKBONES[self.backbone].smallest
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < smallest:
            raise RequestError(
                f"lpips got outputs of shape {tuple(images.shape)}: expected colour images (n, 3, H, W) of at least "
                f"{smallest} x {smallest} pixels for {BACKBONES[self.backbone].title}"
            )


def _sum_of_squares(differences: Tensor) -> Tensor:
    """The sum of each row, ``(n, columns) -> (n,)`` float64; squares replace the differences."""
    squares = differences.square_()
    if rest := squares.shape[1] % SUM:
        squares = nn.functional.pad(squares, (0, SUM - rest))
    return squares.view(len(squares), -1, SUM).sum(2).sum(1, dtype=torch.float64)


class _Network(nn.Module):
    """Images to features, ``(b, 3, H, W) -> (b, D)``.

    Parameters
    ----------
    scaling : nn.Module
        From [-1, 1] to the values the network was trained on.
    layers : nn.Module
        Images to one activation a layer, each ``(b, C_l, H_l, W_l)``.
    heads : list of Tensor, each of shape ``(C_l,)``
    """

    def __init__(self, scaling: nn.Module, layers: nn.Module, heads: list[Tensor]) -> None:
        super().__init__()
        self.scaling = scaling
        self.layers = layers
        for index, head in enumerate(heads):
            self.register_buffer(f"root{index}", head.double().sqrt().float()[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        activations = self.layers(self.scaling(min_max(images)))
        return torch.cat([self._weighted(index, layer) for index, layer in enumerate(activations)], dim=1)

    def _weighted(self, index: int, activation: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(activation, dim=1, keepdim=True) + 1e-10
        scale = self.get_buffer(f"root{index}") / math.sqrt(activation.shape[2] * activation.shape[3])
        weighted: Tensor = activation / norms * scale
        return weighted.flatten(1)


class _Layers(nn.Module):
    """A network as a list of its modules, named ``features.N`` as in torchvision; gives what leaves each slice.

    Parameters
    ----------
    slices : list of nn.Module
        The package's grouping; each ends with a layer LPIPS compares.
    """

    def __init__(self, slices: list[nn.Module]) -> None:
        super().__init__()
        named = [list(part.named_children()) for part in slices]
        self.features = nn.ModuleDict({name: module for part in named for name, module in part})
        self.ends = {part[-1][0] for part in named}

    def forward(self, images: Tensor) -> list[Tensor]:
        activations = []
        for name, module in self.features.items():
            images = module(images)
            if name in self.ends:
                activations.append(images)
        return activations


def min_max(images: Tensor) -> Tensor:
    """Each image to [-1, 1] by its own minimum and maximum, a constant one to 0: ``(n, 3, H, W)``, float32.

    >>> min_max(torch.tensor([0.0, 5.0, 10.0]).view(1, 3, 1, 1)).flatten().tolist()
    [-1.0, 0.0, 1.0]
    """
    values = images.double()
    low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    constant = low == high
    scaled = 2 * (values - low) / torch.where(constant, 1.0, high - low) - 1
    return torch.where(constant, 0.0, scaled).float()


def _lpips_package() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module("lpips")
    except ImportError as error:
        raise RunError(f"the metric lpips needs its package ({error}): pip install 'centersmooth[lpips]'") from error


def _heads(package: ModuleType, backbone: str) -> list[Tensor]:
    """The channel weights of each layer, ``(C_l,)``, from the package's files."""
    path = Path(inspect.getfile(package)).parent / "weights" / f"v{LPIPS.version}" / f"{backbone}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    heads = [state[name].flatten() for name in sorted(state)]
    if not all(bool((head >= 0).all()) for head in heads):
        raise RunError(f"{path} has negative or NaN weights, with which LPIPS is no distance: reinstall lpips")
    return heads


def _layers(package: ModuleType, backbone: str, weights: str | Path | None) -> _Layers:
    """The convolutions of the network, loaded strictly; entries of the classifier are left out."""
    fix = BACKBONES[backbone].fix
    path = Path(weights) if weights is not None else _released(backbone)
    state = read_weights(path, fix)
    layers = _empty_layers(package, backbone)
    convolutions = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    adopt_weights(layers, convolutions, path, fix)
    return layers


def _empty_layers(package: ModuleType, backbone: str) -> _Layers:
    """Without initial weights, which would take seconds; torchvision's deprecation warnings are the package's."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        network = package.LPIPS(net=backbone, pretrained=False, pnet_rand=True, verbose=False).net
    return _Layers(list(network.children()))


def _released(backbone: str) -> Path:
    """torchvision's weights in torch's cache, downloaded where they are not there."""
    from torchvision import models

    url: str = getattr(models, BACKBONES[backbone].released).IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        _download(url, path, BACKBONES[backbone])
    return path


def _download(url: str, path: Path, backbone: Backbone) -> None:
    checksum = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=checksum, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"the {backbone.title} weights of lpips could not be downloaded ({first_line(error)}): "
            f"put {path.name} into {path.parent}, or set {backbone.fix} to a copy"
        ) from error
