"""Smoothing laws: how to draw the noise, and how far a perturbation can shift probability mass under it."""

from centersmooth.noise.ablation import AblationNoise, PatchNoise
from centersmooth.noise.balls import Ball, Ellipsoid, L1Ball, L2Ball, LInfBall, LpBall, ball
from centersmooth.noise.base import DrawsTogether, Enumerable, GaussianShift, Noise
from centersmooth.noise.brightness_contrast import BrightnessContrastNoise
from centersmooth.noise.composed import Composed
from centersmooth.noise.gaussian import EllipsoidNoise, GaussianNoise
from centersmooth.noise.laplace import LaplaceNoise
from centersmooth.noise.onesided import ExponentialNoise, FoldedNormalNoise, UpperUniformNoise
from centersmooth.noise.pixels import Patch, Pixels
from centersmooth.noise.rayleigh import RayleighNoise
from centersmooth.noise.rotation import RotationNoise, ScalingNoise
from centersmooth.noise.splitting import EightBitL1, EnumeratedSplitting, SplittingNoise
from centersmooth.noise.threat import Threat
from centersmooth.noise.transformed import Transformed
from centersmooth.noise.transforms import Blur, Brightness, Contrast, Gamma, Transform, Translation
from centersmooth.noise.uniform import UniformNoise
from centersmooth.noise.warps import Rotation, Scaling, Warp

__all__ = [
    "AblationNoise",
    "Ball",
    "Blur",
    "Brightness",
    "BrightnessContrastNoise",
    "Composed",
    "Contrast",
    "DrawsTogether",
    "EightBitL1",
    "Ellipsoid",
    "EllipsoidNoise",
    "Enumerable",
    "EnumeratedSplitting",
    "ExponentialNoise",
    "FoldedNormalNoise",
    "Gamma",
    "GaussianNoise",
    "GaussianShift",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "LaplaceNoise",
    "LpBall",
    "Noise",
    "Patch",
    "PatchNoise",
    "Pixels",
    "RayleighNoise",
    "Rotation",
    "RotationNoise",
    "Scaling",
    "ScalingNoise",
    "SplittingNoise",
    "Threat",
    "Transform",
    "Transformed",
    "Translation",
    "UniformNoise",
    "UpperUniformNoise",
    "Warp",
    "ball",
]
