"""Base models as the registry builds them: from a data set, the paths of weights and the smoothing law."""

from __future__ import annotations

import torch

from centersmooth import Noise
from csrun.data import DataSet
from csrun.errors import RunError
from csrun.models import Weights, weights_path
from csrun.models.autoencoder import Autoencoder, Reconstructor
from csrun.models.base import BaseModel
from csrun.models.classifiers import LeNet, ResNet20
from csrun.models.denoisers import Denoised, DnCNN
from csrun.models.diffusion import OneStepDiffusion
from csrun.models.embeddings import Probabilities, ProtoNet, support_of
from csrun.models.unet import UNet

SHOTS, _LOOKED_AT = 5, 1000
"""Examples of each class that make a prototype, the first among so many of the training split."""


def autoencoder(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    channels, side, _ = data.shape
    return Autoencoder(channels, side, width=data.model_width, inputs=_noisy_channels(data, noise))


def reconstructor(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    channels, side, _ = data.shape
    return Reconstructor(channels, side, width=data.model_width)


def unet(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    if not data.pixelwise:
        raise RunError(
            f"models has 'unet', which needs a class for each pixel: {data.name} has none, mnist_striped has"
        )
    return UNet(_noisy_channels(data, noise), len(data.classes), width=data.model_width)


def lenet(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    _require_classes(data, "lenet")
    return LeNet(_noisy_channels(data, noise), data.shape[-1], len(data.classes))


def resnet20(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    _require_classes(data, "resnet20")
    return ResNet20(_noisy_channels(data, noise), len(data.classes))


def lenet_probabilities(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    _require_classes(data, "lenet_probabilities")
    return Probabilities(_noisy_channels(data, noise), data.shape[-1], len(data.classes))


def protonet(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    _require_classes(data, "protonet")
    split, classes = data.training_split, len(data.classes)
    first = range(min(_LOOKED_AT, len(split)))
    support = support_of(data.images(split, first), data.targets(split, first), classes, SHOTS)
    if support is None:
        raise RunError(
            f"the first {len(first)} training examples of {data.name} have fewer than {SHOTS} of some class: expected "
            f"{SHOTS} of each, for its prototype"
        )
    if noise is not None:
        support = torch.stack([torch.stack([noise.clean(image) for image in images]) for images in support])
    return ProtoNet(support.shape[2], data.shape[-1], support)


def lenet_dncnn(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    _require_classes(data, "lenet_dncnn")
    classifier = LeNet(data.shape[0], data.shape[-1], len(data.classes))
    return Denoised(DnCNN(data.shape[0], layers=8, width=32), classifier)


def lenet_ddpm(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    _require_classes(data, "lenet_ddpm")
    classifier = LeNet(data.shape[0], data.shape[-1], len(data.classes))
    model = Denoised(OneStepDiffusion(data.shape[0], width=32), classifier)
    if noise is not None:
        model.at_noise(noise)
    return model


def _require_classes(data: DataSet, model: str) -> None:
    if data.pixelwise:
        raise RunError(f"models has '{model}', which needs a class for each image: {data.name} has one for each pixel")


def _noisy_channels(data: DataSet, noise: Noise | None) -> int:
    """Channels of noisy images, of which some laws have more than the images."""
    return len(torch.zeros(data.shape) if noise is None else noise.clean(torch.zeros(data.shape)))


def mtcnn(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    from csrun.models.faces import FaceDetector

    return FaceDetector()


def mtcnn_dncnn(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    return Denoised(DnCNN(data.shape[0], layers=17, width=64), mtcnn(data, weights, noise))


def mtcnn_dncnn_small(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    channels, *sides = data.shape
    if any(side % 2 for side in sides):
        raise RunError(
            f"models has 'mtcnn_dncnn_small', whose denoiser takes blocks of 2x2 pixels, and {data.name} has images of "
            f"{sides[0]}x{sides[1]}: expected even sides, or models=[mtcnn_dncnn]"
        )
    return Denoised(DnCNN(channels, layers=5, width=32, factor=2), mtcnn(data, weights, noise))


def mtcnn_boxes(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    from csrun.models.faces import FaceListDetector

    return FaceListDetector()


def mtcnn_landmarks(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    from csrun.models.faces import LandmarkDetector

    return LandmarkDetector()


def text_recogniser(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    from csrun.models.ocr import TextRecogniser

    return TextRecogniser()


def text_detector(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    from csrun.models.ocr import TextDetector

    return TextDetector()


def dcgan(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    from csrun.models.generators import load_face_generator

    return load_face_generator(weights_path(weights, "dcgan", "dcgan_faces64_generator.pth"))


def biggan(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    from csrun.models.generators import BIGGAN, load_biggan

    model = load_biggan(weights_path(weights, "biggan", BIGGAN) or BIGGAN)
    if data.shape != (model.latent_dim,):
        raise RunError(
            f"weights.biggan is a generator of {model.latent_dim} latents: expected {data.shape[0]}, as {data.name} has"
        )
    return model
