"""Smoothing laws: how to draw the noise, and how far a perturbation can shift probability mass under it."""

from centersmooth.noise.base import DrawsTogether, Noise
from centersmooth.noise.gaussian import GaussianNoise

__all__ = ["DrawsTogether", "GaussianNoise", "Noise"]
