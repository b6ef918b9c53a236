"""Every name a request may use, declared once: what it names, where that is built, a line of help.

Imports nothing that takes time, so that `cs-run` can list names and refuse misspelt ones at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from csrun.errors import RunError


@dataclass(frozen=True)
class Entry:
    """The thing a name stands for.

    Attributes
    ----------
    where : str
        ``module:attribute`` of the class or function that builds it.
    help : str
        One line; of a metric, the label of its axis.
    packages : tuple of str
        Distributions it needs beside those of every run; results record their versions.
    arguments : tuple
        Arguments of `where`, after those a caller gives.
    """

    where: str
    help: str
    packages: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def load(self) -> Any:
        """The class or function, imported."""
        module, _, attribute = self.where.partition(":")
        return getattr(import_module(module), attribute)

    def build(self, *arguments: object) -> Any:
        """The thing itself, from the arguments of its kind."""
        return self.load()(*arguments, *self.arguments)


@dataclass(frozen=True)
class ModelEntry(Entry):
    """A base model.

    Attributes
    ----------
    metrics : tuple of str
        The metrics its outputs are measured in.
    trained : bool
        Whether it is trained here; else it comes with its weights.
    unit : str
        What ``eps`` and ``sigma`` are measured in, where ``{}`` stands for the unit of the examples.
    target : str
        What it can be trained to do, as `csrun.training.methods.Method.target` says.
    fixed : str
        The registered model that it puts a denoiser in front of, which is first trained here on clean inputs; empty
        if there is none, or if it comes with its weights.
    """

    metrics: tuple[str, ...] = ()
    trained: bool = False
    unit: str = "{}"
    target: str = "examples"
    fixed: str = ""


@dataclass(frozen=True)
class AdapterEntry(Entry):
    """An adapter of a model's output, built from what is said after its name.

    Attributes
    ----------
    parameters : mapping of str to type
        What it takes, in their order, as in ``boxes:0.5:8``.
    defaults : tuple of str
        What stands for those that are left out; it has none, or one for each.
    """

    parameters: Mapping[str, type] = field(default_factory=dict)
    defaults: tuple[str, ...] = ()

    def usage(self, name: str) -> str:
        """How it is asked for."""
        return ":".join([name, *(parameter.upper() for parameter in self.parameters)])


@dataclass(frozen=True)
class MetricEntry(Entry):
    """A distance between outputs.

    Attributes
    ----------
    largest : float
        The largest distance there is, whatever the outputs.
    of_texts : bool
        Whether outputs are texts, as code points.
    """

    largest: float = math.inf
    of_texts: bool = False


@dataclass(frozen=True)
class CertifierEntry(Entry):
    """A certifier, built from a metric, or from nothing or a model's prototypes where it brings its own distance.

    Attributes
    ----------
    label : str
        Its smoothed model in legends.
    rules : tuple of str
        Its rules, the default last.
    apart : tuple of str
        Further rules where the noise allows them, with evidence and answers of their own.
    of_map : tuple of str
        Those whose certificates are about the smoothed function itself; the others' are about a fresh run.
    details : tuple of str
        Columns of its rows beside those of every row, a number each.
    lists : tuple of str
        Columns of its rows with a number for each coordinate of an output.
    distance : str
        What its own distance says, for axes; empty where it is built from a metric.
    of_model : bool
        Whether it is built from the prototypes of a model; from nothing before there is one.
    """

    label: str = ""
    rules: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    of_map: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    distance: str = ""
    of_model: bool = False

    @property
    def every_rule(self) -> tuple[str, ...]:
        """Its rules and those apart."""
        return (*self.rules, *self.apart)

    @property
    def measured(self) -> bool:
        """True if it is built from a metric."""
        return not self.distance


@dataclass(frozen=True)
class Parameter:
    """A parameter of a smoothing law beside its scale."""

    default: float | str
    help: str


@dataclass(frozen=True)
class MethodParameter:
    """A parameter of a training method, a number.

    Attributes
    ----------
    defaults : mapping of float to number
        Its default from each of these scales of the noise on, ascending from 0. Integers where it is an integer.
    help : str
    least : number
    """

    defaults: Mapping[float, float]
    help: str
    least: float = 0

    @property
    def integer(self) -> bool:
        return all(isinstance(value, int) for value in self.defaults.values())

    def default(self, scale: float) -> float:
        """The default at a scale of the noise.

        >>> MethodParameter({0: 2, 0.5: 4, 1: 8}, "steps").default(0.7)
        4
        """
        return [value for start, value in self.defaults.items() if start <= scale][-1]


@dataclass(frozen=True)
class MethodEntry(Entry):
    """A training method, built from its parameters, each by name."""

    parameters: Mapping[str, MethodParameter] = field(default_factory=dict)


@dataclass(frozen=True)
class NoiseEntry(Entry):
    """A smoothing law, built from its scale and whatever else it has.

    Attributes
    ----------
    threat : str
        The unit of ``eps``, `Threat.unit`, unless a parameter says otherwise.
    size : str
        What its scale is.
    symbol : str
        Its scale on axes.
    ratio : bool
        Whether certificates depend on ``h = eps/scale`` alone, so that grids may be in ``h``.
    additive : bool
        Whether ``eps`` and scale are in the input's unit, as they are of noise that is added to it.
    parameters : mapping of str to Parameter
        What the law has beside its scale.
    """

    threat: str = ""
    size: str = ""
    symbol: str = "scale"
    ratio: bool = False
    additive: bool = False
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


_SCORE_METRICS = ("l1", "l2", "sql2", "cosine", "angular")
_IMAGE_METRICS = ("tv", *_SCORE_METRICS)

MODELS = {
    "autoencoder": ModelEntry(
        "csrun.models.builders:autoencoder",
        "the paper's autoencoder of images, trained here",
        metrics=_IMAGE_METRICS,
        trained=True,
    ),
    "reconstructor": ModelEntry(
        "csrun.models.builders:reconstructor",
        "images from 256 random linear measurements, trained here",
        metrics=_IMAGE_METRICS,
        trained=True,
        unit="measurements of {}",
    ),
    "unet": ModelEntry(
        "csrun.models.builders:unet",
        "the class of each pixel, a small U-Net, trained here",
        metrics=("hamming",),
        trained=True,
        target="labels",
    ),
    "lenet": ModelEntry(
        "csrun.models.builders:lenet",
        "the classifier LeNet, trained here",
        metrics=_SCORE_METRICS,
        trained=True,
        target="labels",
    ),
    "lenet_probabilities": ModelEntry(
        "csrun.models.builders:lenet_probabilities",
        "the class probabilities of LeNet, trained here",
        metrics=_SCORE_METRICS,
        trained=True,
        target="labels",
    ),
    "protonet": ModelEntry(
        "csrun.models.builders:protonet",
        "embeddings by LeNet with prototypes of 5 examples, trained here",
        metrics=_SCORE_METRICS,
        trained=True,
        target="labels",
    ),
    "resnet20": ModelEntry(
        "csrun.models.builders:resnet20",
        "the classifier ResNet-20, trained here",
        metrics=_SCORE_METRICS,
        trained=True,
        target="labels",
    ),
    "lenet_dncnn": ModelEntry(
        "csrun.models.builders:lenet_dncnn",
        "a fixed LeNet behind a DnCNN of 8 layers by 32, trained here",
        metrics=_SCORE_METRICS,
        trained=True,
        target="denoising",
        fixed="lenet",
    ),
    "lenet_ddpm": ModelEntry(
        "csrun.models.builders:lenet_ddpm",
        "a fixed LeNet behind one step of a diffusion model, trained here",
        metrics=_SCORE_METRICS,
        trained=True,
        target="diffusion",
        fixed="lenet",
    ),
    "mtcnn": ModelEntry(
        "csrun.models.builders:mtcnn",
        "the largest face's bounding box, pre-trained",
        ("facenet-pytorch",),
        metrics=("jaccard",),
    ),
    "mtcnn_boxes": ModelEntry(
        "csrun.models.builders:mtcnn_boxes",
        "the boxes of all faces, the largest first, at most 8, pre-trained",
        ("facenet-pytorch",),
        metrics=("boxes",),
    ),
    "mtcnn_landmarks": ModelEntry(
        "csrun.models.builders:mtcnn_landmarks",
        "five landmarks of the largest face, pre-trained",
        ("facenet-pytorch",),
        metrics=("l2",),
    ),
    "mtcnn_dncnn": ModelEntry(
        "csrun.models.builders:mtcnn_dncnn",
        "the largest face's box behind a DnCNN of 17 layers by 64",
        ("facenet-pytorch",),
        metrics=("jaccard",),
        trained=True,
        target="image denoising",
    ),
    "mtcnn_dncnn_small": ModelEntry(
        "csrun.models.builders:mtcnn_dncnn_small",
        "the same behind one of 5 by 32 at half resolution",
        ("facenet-pytorch",),
        metrics=("jaccard",),
        trained=True,
        target="image denoising",
    ),
    "text_recogniser": ModelEntry(
        "csrun.models.builders:text_recogniser",
        "the text of an image of one line, rapidocr's PP-OCRv6, pre-trained",
        ("rapidocr", "onnxruntime"),
        metrics=("edit", "edit_normalised"),
    ),
    "text_detector": ModelEntry(
        "csrun.models.builders:text_detector",
        "the pixels that belong to text, rapidocr's PP-OCRv6, pre-trained",
        ("rapidocr", "onnxruntime"),
        metrics=("mask_jaccard", "hamming"),
    ),
    "dcgan": ModelEntry("csrun.models.builders:dcgan", "64x64 faces from latents, weights.dcgan", metrics=("lpips",)),
    "biggan": ModelEntry(
        "csrun.models.builders:biggan",
        "128x128 butterflies from latents, weights.biggan",
        ("pytorch-pretrained-biggan",),
        metrics=("lpips",),
    ),
}
"""Built from a `DataSet`, the paths of weights and the smoothing law; see `csrun.models.ModelSpec`."""

LANDMARK_MODELS = ("mtcnn_landmarks",)
"""Models whose outputs are points of the image that they are found in, which panels draw."""

METRICS = {
    "tv": MetricEntry("centersmooth:TotalVariation", "total variation distance"),
    "l1": MetricEntry("centersmooth:L1", "l1 distance"),
    "l2": MetricEntry("centersmooth:L2", "l2 distance"),
    "sql2": MetricEntry("centersmooth:SquaredL2", "squared l2 distance"),
    "cosine": MetricEntry("centersmooth:Cosine", "cosine distance", largest=2),
    "angular": MetricEntry("centersmooth:Angular", "angular distance (fraction of π)", largest=1),
    "jaccard": MetricEntry("centersmooth:Jaccard", "Jaccard distance (1 − IoU)", largest=1),
    "boxes": MetricEntry("centersmooth:OSPA", "OSPA distance of sets of boxes", largest=1),
    "hamming": MetricEntry("centersmooth:Hamming", "share of pixels that change (Hamming distance)", largest=1),
    "mask_jaccard": MetricEntry("centersmooth:MaskJaccard", "Jaccard distance of masks (1 − IoU)", largest=1),
    "edit": MetricEntry("centersmooth:Levenshtein", "edit distance (letters)", ("rapidfuzz",), of_texts=True),
    "edit_normalised": MetricEntry(
        "centersmooth:NormalisedLevenshtein", "normalised edit distance", ("rapidfuzz",), largest=1, of_texts=True
    ),
    "lpips": MetricEntry("csrun.metrics:lpips", "LPIPS distance", ("lpips",)),
}
"""Classes without arguments, or functions of the paths of weights and the device."""

ADAPTERS = {
    "key": AdapterEntry(
        "centersmooth.adapters:Key",
        "one of several outputs: by key of a dict, attribute of an object, number of a tuple",
        parameters={"name": str},
    ),
    "argmax": AdapterEntry("centersmooth.adapters:Argmax", "the class of highest score, of an input or of each pixel"),
    "boxes": AdapterEntry(
        "centersmooth.adapters:PaddedBoxes",
        "a detector's boxes of that score and more, at most so many; boxes:0.5:8 by default",
        parameters={"score": float, "count": int},
        defaults=("0.5", "8"),
    ),
}
"""Behind a model of a user's own, which returns something else than one tensor."""

DATA = {
    "digits": Entry("csrun.data:digits", "scikit-learn's 8x8 digits, built in"),
    "mnist": Entry("csrun.data:mnist", "MNIST, 28x28 grey"),
    "mnist_striped": Entry("csrun.data:mnist_striped", "MNIST on striped ground, with the class of each pixel"),
    "cifar10": Entry("csrun.data:cifar10", "CIFAR-10, 32x32 colour"),
    "celeba": Entry("csrun.data:celeba", "aligned CelebA faces, 178x218"),
    "astronaut": Entry("csrun.data:astronaut", "one photograph in the public domain, 178x218", ("scikit-image",)),
    "astronauts": Entry(
        "csrun.data:astronauts", "a made-up picture of two faces: that photograph twice, 267x218", ("scikit-image",)
    ),
    "page": Entry("csrun.data:page", "seven lines of a scanned page in the public domain, 384x22", ("scikit-image",)),
    "page_blocks": Entry("csrun.data:page_blocks", "three blocks of that page, 192x96", ("scikit-image",)),
    "latents100": Entry("csrun.data:latents100", "latents of dcgan, drawn from the seed"),
    "latents128": Entry("csrun.data:latents128", "latents of biggan, drawn from the seed"),
    "files": Entry("csrun.data:files", "your own: images, or an array in a .npy file, at data.path"),
}
"""Built from ``data.path`` and the seed."""

_RADII = ("delta", "n0", "r_center", "r_hat", "r_far", "beta")

CERTIFIERS = {
    "center": CertifierEntry(
        "centersmooth:Center",
        "the output around which most others lie, one of a sample",
        label="centers of the sample",
        rules=("paper", "exact", "measured"),
        apart=("enumerated",),
        details=_RADII,
    ),
    "center_free": CertifierEntry(
        "centersmooth:Center",
        "the same, where means of outputs may be centers",
        arguments=("free",),
        label="free centers",
        rules=("measured",),
        details=_RADII,
    ),
    "mean": CertifierEntry(
        "centersmooth:Mean",
        "the mean of the noisy outputs: for l1, l2 and tv",
        label="mean",
        rules=("global", "local", "spectral"),
    ),
    "label": CertifierEntry(
        "centersmooth:Label",
        "the class of most noisy outputs: 0 where it cannot change",
        label="majority class",
        rules=("counts_run", "betting", "counts"),
        of_map=("betting", "counts"),
        details=("label", "target", "p_low", "reach", "stopped"),
        distance="1 where the class can change, else 0",
    ),
    "percentile": CertifierEntry(
        "centersmooth:Percentile",
        "the median of each coordinate, with an interval for each",
        label="medians",
        rules=("order", "order_run"),
        of_map=("order",),
        lists=("lower", "upper"),
        distance="largest movement of a coordinate",
    ),
    "percentile_box": CertifierEntry(
        "centersmooth:BoxPercentile",
        "the box of the medians of four corners: for jaccard",
        label="medians of corners",
        rules=("order", "order_run"),
        of_map=("order",),
        lists=("lower", "upper"),
    ),
    "direction": CertifierEntry(
        "centersmooth:Direction",
        "the mean direction of the noisy outputs: for cosine and angular",
        label="mean direction",
        rules=("global", "local", "spectral"),
    ),
    "center_nearest": CertifierEntry(
        "centersmooth:Nearest",
        "the output nearest to the mean: for l2, sql2, cosine, angular, lpips",
        label="outputs nearest to the mean",
        rules=("nearest",),
    ),
    "segmentation": CertifierEntry(
        "centersmooth:Segmentation",
        "the class of each pixel in most noisy outputs, or none",
        label="majority class of each pixel",
        rules=("holm_run", "bonferroni", "holm"),
        of_map=("bonferroni", "holm"),
        details=("tau", "pixels", "abstained"),
        distance="share of pixels that can change",
    ),
    "score": CertifierEntry(
        "centersmooth:Score",
        "the mean of scores in a known range, from below and above",
        label="mean score",
        rules=("two_point", "cdf"),
        of_map=("two_point", "cdf"),
        details=("score", "score_low", "score_high"),
        distance="largest movement of a mean score",
    ),
    "prototypes": CertifierEntry(
        "csrun.certifiers:prototypes",
        "the prototype nearest to the mean embedding: 0 where it cannot change",
        label="nearest prototype",
        rules=("lipschitz", "half_spaces", "cdf"),
        of_map=("lipschitz", "half_spaces", "cdf"),
        details=("label", "target", "margin", "reach"),
        distance="1 where the nearest can change, else 0",
        of_model=True,
    ),
}
"""The names and rules are those of `centersmooth.certifiers.Certifier`."""

_OF_RINGS = {
    "pixels": Parameter(0.5, "standard deviation of the noise of samples; of a pixel it is 0.28 pixels/low_pass"),
    "low_pass": Parameter(1, "blur in pixels, at most a quarter of the side; a wider one needs less noise"),
}

NOISES = {
    "gaussian": NoiseEntry(
        "centersmooth:GaussianNoise",
        "independent normal noise in every coordinate",
        threat="l2",
        size="standard deviation",
        symbol="σ",
        ratio=True,
        additive=True,
        parameters={"p": Parameter(2, "eps in l_p: 1, 2, inf or any number from 1")},
    ),
    "laplace": NoiseEntry(
        "centersmooth:LaplaceNoise",
        "independent Laplace noise in every coordinate",
        threat="l1",
        size="mean absolute value",
        symbol="λ",
        ratio=True,
        additive=True,
    ),
    "uniform": NoiseEntry(
        "centersmooth:UniformNoise",
        "independent uniform noise in every coordinate",
        threat="l1",
        size="half of the width",
        symbol="λ",
        ratio=True,
        additive=True,
        parameters={"p": Parameter(1, "eps in l_p: 1, 2 or inf")},
    ),
    "brightness": NoiseEntry(
        "csrun.noise:transformed",
        "a random number added to all values of an image",
        arguments=("brightness",),
        threat="brightness",
        size="standard deviation",
        symbol="σ",
        ratio=True,
    ),
    "contrast": NoiseEntry(
        "csrun.noise:transformed",
        "a random factor of all values of an image",
        arguments=("contrast",),
        threat="log contrast",
        size="standard deviation of its logarithm",
        symbol="σ",
        ratio=True,
    ),
    "brightness_contrast": NoiseEntry(
        "centersmooth.noise:BrightnessContrastNoise",
        "both",
        threat="log contrast and brightness",
        size="standard deviation of its logarithm",
        symbol="σ",
        parameters={"ratio": Parameter(1, "brightness for a unit of log contrast")},
    ),
    "gamma": NoiseEntry(
        "csrun.noise:transformed",
        "a random exponent of all values, which are in [0, 1]",
        arguments=("gamma",),
        threat="log gamma",
        size="standard deviation of its logarithm",
        symbol="σ",
        ratio=True,
    ),
    "rayleigh": NoiseEntry(
        "centersmooth.noise:RayleighNoise",
        "a Rayleigh exponent of all values, which are in [0, 1]",
        threat="log gamma",
        size="scale of the exponent",
    ),
    "blur": NoiseEntry(
        "csrun.noise:transformed",
        "blur of random variance",
        arguments=("blur",),
        threat="blur variance",
        size="mean of the variance",
        ratio=True,
        parameters={"law": Parameter("exponential", "of the variance: or folded_normal, uniform")},
    ),
    "translation": NoiseEntry(
        "csrun.noise:transformed",
        "random translation by whole pixels, cyclic: what leaves comes back",
        arguments=("translation",),
        threat="pixels, cyclic, l2",
        size="standard deviation before rounding",
        symbol="σ",
        ratio=True,
    ),
    "rotation": NoiseEntry(
        "centersmooth.noise:RotationNoise",
        "random rotation of the disc within the frame; black around it",
        threat="degrees",
        size="standard deviation in degrees",
        symbol="σ",
        parameters=_OF_RINGS,
    ),
    "scaling": NoiseEntry(
        "centersmooth.noise:ScalingNoise",
        "random enlargement, for images that are dark at their edges",
        threat="log factor",
        size="standard deviation of the logarithm",
        symbol="σ",
        parameters=_OF_RINGS,
    ),
    "splitting": NoiseEntry(
        "centersmooth:SplittingNoise",
        "numbers in [0, 1] told up to a cell between random split points",
        threat="l1",
        size="half the distance between split points",
        ratio=True,
        additive=True,
    ),
    "splitting_8bit": NoiseEntry(
        "centersmooth:EnumeratedSplitting",
        "the same for 8-bit images, few enough to compute: rule=enumerated",
        threat="l1",
        size="half the distance between split points",
        additive=True,
    ),
    "ablation": NoiseEntry(
        "centersmooth:AblationNoise",
        "few pixels kept, drawn at random, and told in a further channel",
        threat="pixels",
        size="number of pixels kept",
    ),
    "patch": NoiseEntry(
        "centersmooth:PatchNoise",
        "one square block kept, likewise; few enough for rule=enumerated",
        threat="patch side",
        size="side of the block in pixels",
    ),
}


def _weight(default: float, help: str = "factor of the regulariser") -> MethodParameter:
    return MethodParameter({0: float(default)}, help)


def _draws(default: int, *, least: int = 1) -> MethodParameter:
    return MethodParameter({0: default}, "noisy copies of each image in a step", least)


def _steps(default: Mapping[float, int]) -> MethodParameter:
    return MethodParameter(default, "steps of the adversary", 1)


METHODS = {
    "none": MethodEntry(
        "csrun.training.methods.plain:Plain", "clean inputs: squared error of examples, cross entropy of classes"
    ),
    "augment": MethodEntry("csrun.training.methods.augment:Augment", "squared error of what is made of noisy inputs"),
    "cross_entropy": MethodEntry(
        "csrun.training.methods.cross_entropy:CrossEntropy", "cross entropy of classes, from noisy inputs"
    ),
    "stability": MethodEntry(
        "csrun.training.methods.stability:Stability",
        "cross entropy, and that of noisy from clean predictions (Li 2019)",
        parameters={"weight": _weight(2)},
    ),
    "consistency": MethodEntry(
        "csrun.training.methods.consistency:Consistency",
        "noisy predictions near their mean (Jeong and Shin 2020)",
        parameters={
            "weight": MethodParameter({0: 10.0, 0.5: 5.0}, "factor of the divergence from the mean"),
            "entropy": _weight(0.5, "factor of the entropy of the mean"),
            "draws": _draws(2, least=2),
        },
    ),
    "smoothadv": MethodEntry(
        "csrun.training.methods.smoothadv:SmoothAdv",
        "cross entropy at an adversary of the smoothed class (Salman 2019)",
        parameters={
            "eps": MethodParameter({0: 255 / 256}, "radius of the adversary, in l2"),
            "steps": _steps({0: 10}),
            "draws": _draws(4),
        },
    ),
    "smoothmix": MethodEntry(
        "csrun.training.methods.smoothmix:SmoothMix",
        "mixes of images with their adversaries (Jeong 2021)",
        parameters={
            "weight": _weight(5.0, "factor of the loss of the mix"),
            "size": MethodParameter({0: 1.0}, "length of a step of the adversary, in l2"),
            "steps": _steps({0: 2, 0.5: 4, 1: 8}),
            "draws": _draws(4),
            "one_step": MethodParameter({0: 0}, "1: start from the adversary of one step"),
        },
    ),
    "macer": MethodEntry(
        "csrun.training.methods.macer:Macer",
        "the certified radius itself, of Gaussian noise (Zhai 2020)",
        parameters={
            "weight": MethodParameter({0: 16.0, 1: 6.0}, "factor of the loss of the radius"),
            "draws": _draws(16),
            "deferred": MethodParameter({0: 30}, "epochs before it counts"),
        },
    ),
    "output_consistency": MethodEntry(
        "csrun.training.methods.output_consistency:OutputConsistency",
        "loss of noisy inputs, and the variance of outputs",
        parameters={"weight": _weight(1), "draws": _draws(2, least=2)},
    ),
    "output_adversary": MethodEntry(
        "csrun.training.methods.output_adversary:OutputAdversary",
        "the same loss also where the smoothed output moves most",
        parameters={
            "weight": _weight(1, "factor of the loss at the adversary"),
            "h": MethodParameter({0: 1.0}, "radius of the adversary over the scale of the noise"),
            "steps": _steps({0: 2}),
            "draws": _draws(2),
        },
    ),
    "output_mix": MethodEntry(
        "csrun.training.methods.output_mix:OutputMix",
        "mixes of inputs with such adversaries, of outputs with their mean",
        parameters={
            "weight": _weight(1, "factor of the loss of the mix"),
            "h": MethodParameter({0: 2.0}, "radius of the adversary over the scale of the noise"),
            "steps": _steps({0: 2}),
            "draws": _draws(2),
        },
    ),
    "spectral": MethodEntry(
        "csrun.training.methods.spectral:Spectral",
        "the same loss, and the top eigenvalue of outputs' covariance",
        parameters={"weight": _weight(1), "draws": _draws(4, least=2)},
    ),
    "denoise_mse": MethodEntry(
        "csrun.training.methods.denoise_mse:DenoiseMSE", "a denoiser: squared error of denoised images"
    ),
    "denoise_stability": MethodEntry(
        "csrun.training.methods.denoise_stability:DenoiseStability",
        "a denoiser: cross entropy of the fixed model's own classes",
    ),
    "denoise_both": MethodEntry(
        "csrun.training.methods.denoise_both:DenoiseBoth", "the same, started from the denoiser of denoise_mse"
    ),
    "diffusion": MethodEntry("csrun.training.methods.diffusion:Diffusion", "a diffusion model (Ho et al. 2020)"),
}
"""Training methods, classes whose arguments are their parameters; see `csrun.training.methods.Method`."""

OPTIMIZERS = ("adam", "adam_stages", "sgd")
DEVICES = ("auto", "cpu", "cuda")
ATTACKS = ("none", "pgd", "search")
EXECUTORS = ("local", "ray")
PRECISIONS = ("float32", "tf32", "bfloat16")


def require_known(setting: str, name: str, known: Iterable[str], *, more: str = "") -> None:
    """Refuse a name that is not known.

    Parameters
    ----------
    setting : str
        What is said before the name, as in "attack is".
    more : str
        What is said after the names that are known.

    Raises
    ------
    RunError
        One line with the names there are, and the one that may have been meant.

    Examples
    --------
    >>> require_known("attack is", "pdg", ATTACKS)
    Traceback (most recent call last):
    csrun.errors.RunError: attack is 'pdg': expected none, pgd or search; did you mean pgd?
    """
    names = list(known)
    if name not in names:
        raise RunError(unknown(setting, name, names, more=more))


def unknown(setting: str, name: str, known: Iterable[str], *, more: str = "") -> str:
    """A line on a name that is not known; see `require_known`."""
    return f"{setting} '{name}': expected {listed(list(known))}{more}{meant(name, known)}"


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a line on a name that is not known: the one that may have been meant, if one is alike."""
    alike = get_close_matches(str(name), list(known), 1)
    return f"; did you mean {alike[0]}?" if alike else ""


def listed(names: list[str]) -> str:
    """Names as a sentence lists them."""
    if len(names) > 3:
        return f"one of {', '.join(names)}"
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def require_metric(name: str, models: Iterable[str]) -> None:
    """Refuse a metric in which the outputs of a model are not measured; those of a user's own are in any.

    Raises
    ------
    RunError
    """
    for model in models:
        offered = MODELS[model].metrics if model in MODELS else METRICS
        require_known("metrics has", name, offered, more=f" for the model {model}")


def measures_texts(metric: str) -> bool:
    """Test for a registered distance of texts.

    >>> measures_texts("edit"), measures_texts("l2"), measures_texts("mine:distance")
    (True, False, False)
    """
    return metric in METRICS and METRICS[metric].of_texts


def packages_of(names: Iterable[str]) -> list[str]:
    """Distributions that models, metrics and data sets of these names need beside those of every run."""
    kinds: tuple[Mapping[str, Entry], ...] = (MODELS, METRICS, DATA)
    return [package for name in names for kind in kinds if name in kind for package in kind[name].packages]


def entry_of(certifier: str) -> CertifierEntry:
    """The entry of a certifier; of a user's own, which is not imported for it, its name and nothing else."""
    return CERTIFIERS.get(certifier) or CertifierEntry(certifier, "your own", label=certifier)


def leading_rule(rules: Sequence[str]) -> str:
    """The rule that table and figures lead with unless another is asked for: the paper's, else the sharpest."""
    return "paper" if "paper" in rules else rules[-1]


def default_rules(present: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """The sharpest rule of every certifier, with which it is shown beside others.

    Parameters
    ----------
    present : iterable of (str, str)
        Certifiers and rules in their order in a table: of a certifier in it the sharpest that it has there, of a user's
        own the last one.

    Examples
    --------
    >>> rules = default_rules([("mine:certifier", "run"), ("mine:certifier", "map"), ("mean", "local")])
    >>> rules["mine:certifier"], rules["mean"], rules["center"]
    ('map', 'local', 'measured')
    """
    there = list(present)
    own = {certifier: rule for certifier, rule in there if certifier not in CERTIFIERS}
    sharpest = {
        name: next((rule for rule in reversed(entry.rules) if (name, rule) in there), entry.rules[-1])
        for name, entry in CERTIFIERS.items()
    }
    return sharpest | own


_IN_KEYS = str.maketrans(".:", "-+")
_FROM_KEYS = str.maketrans("-+", ".:")


def key_of(certifier: str, metric: str, rule: str = "") -> str:
    """The key of a certifier that measures in a metric; of one that brings its own distance, with no metric.

    Parameters
    ----------
    rule : str, optional
        A rule with evidence of its own has a key of its own.

    Examples
    --------
    >>> key_of("center", "tv"), key_of("label", ""), key_of("my.package:alarm", "mine:distance")
    ('center.tv', 'label', 'my-package+alarm.mine:distance')
    >>> key_of("center", "tv", "measured"), key_of("center", "tv", "enumerated")
    ('center.tv', 'center@enumerated.tv')
    """
    name = certifier.translate(_IN_KEYS)  # of a user's own: its dots are not the one before the metric
    name += f"@{rule}" if rule in entry_of(certifier).apart else ""
    return f"{name}.{metric}" if metric else name


def names_of(key: str) -> tuple[str, str]:
    """The names of certifier and metric in a key; the metric's is empty where there is none.

    Examples
    --------
    >>> names_of("center.tv"), names_of("label"), names_of("my-package+alarm.mine:distance")
    (('center', 'tv'), ('label', ''), ('my.package:alarm', 'mine:distance'))
    >>> names_of("center@enumerated.tv")
    ('center', 'tv')
    """
    certifier, _, metric = key.partition(".")
    return certifier.partition("@")[0].translate(_FROM_KEYS), metric
