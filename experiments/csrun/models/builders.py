"""Base models as the registry builds them: from a data set, the paths of weights and the smoothing law."""

from __future__ import annotations

import torch

from centersmooth import Noise
from csrun.data import DataSet
from csrun.errors import RunError
from csrun.models import Weights, weights_path
from csrun.models.autoencoder import Autoencoder, Reconstructor
from csrun.models.base import BaseModel
from csrun.models.unet import UNet


def autoencoder(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    channels, side, _ = data.shape
    noisy = channels if noise is None else len(noise.clean(torch.zeros(data.shape)))
    return Autoencoder(channels, side, width=data.model_width, inputs=noisy)


def reconstructor(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    channels, side, _ = data.shape
    return Reconstructor(channels, side, width=data.model_width)


def unet(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    if not data.pixelwise:
        raise RunError(
            f"models has 'unet', which needs a class for each pixel: {data.name} has none, mnist_striped has"
        )
    noisy = len(torch.zeros(data.shape) if noise is None else noise.clean(torch.zeros(data.shape)))
    return UNet(noisy, len(data.classes), width=data.model_width)


def mtcnn(data: DataSet, weights: Weights, noise: Noise | None) -> BaseModel:
    from csrun.models.faces import FaceDetector

    return FaceDetector()


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
