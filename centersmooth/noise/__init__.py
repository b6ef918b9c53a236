"""Smoothing laws: how to draw the noise, and how far a perturbation can shift probability mass under it."""

from centersmooth.noise.base import DrawsTogether, GaussianShift, Noise
from centersmooth.noise.brightness_contrast import BrightnessContrastNoise
from centersmooth.noise.gaussian import GaussianNoise
from centersmooth.noise.onesided import ExponentialNoise, FoldedNormalNoise, UpperUniformNoise
from centersmooth.noise.rayleigh import RayleighNoise
from centersmooth.noise.threat import L2Ball, Threat
from centersmooth.noise.transformed import Transformed
from centersmooth.noise.transforms import Blur, Brightness, Contrast, Gamma, Transform, Translation

__all__ = [
    "Blur",
    "Brightness",
    "BrightnessContrastNoise",
    "Contrast",
    "DrawsTogether",
    "ExponentialNoise",
    "FoldedNormalNoise",
    "Gamma",
    "GaussianNoise",
    "GaussianShift",
    "L2Ball",
    "Noise",
    "RayleighNoise",
    "Threat",
    "Transform",
    "Transformed",
    "Translation",
    "UpperUniformNoise",
]
