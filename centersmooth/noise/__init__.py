"""Smoothing laws: how to draw the noise, and how far a perturbation can shift probability mass under it."""

from centersmooth.noise.base import Noise
from centersmooth.noise.gaussian import GaussianNoise

__all__ = ["GaussianNoise", "Noise"]
