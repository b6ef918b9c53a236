"""Smoothing laws: how to draw the noise, and how far a perturbation can shift probability mass under it."""

from centersmooth.noise.base import DrawsTogether, GaussianShift, Noise
from centersmooth.noise.gaussian import GaussianNoise
from centersmooth.noise.threat import L2Ball, Threat

__all__ = ["DrawsTogether", "GaussianNoise", "GaussianShift", "L2Ball", "Noise", "Threat"]
