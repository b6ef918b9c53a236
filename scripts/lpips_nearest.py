"""Certificates of a face generator in LPIPS with AlexNet: the output nearest to the mean beside a center, same draws.

Usage: CENTERSMOOTH_DATA=FOLDER python scripts/lpips_nearest.py [POINTS] [SIGMA] [N] [M]

FOLDER has `dcgan_faces64_generator.pth` and `alexnet_features.pth`. Points are latents drawn from seed 5; 30 candidates
for the center (Smooth-HD). Prints a row of radii for each point and eps, and those over the paper's; the table of
docs/which-certifier.md. A point takes four minutes of a core at the default counts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from centersmooth import Budget, Center, GaussianNoise, Nearest, RandomStream
from centersmooth.gathering import Setting, gather
from centersmooth.sampling import Sampler
from csrun.metrics.perceptual import LPIPS
from csrun.models.generators import load_face_generator

CANDIDATES, LATENTS = 30, 100
RULES = (("center", "paper"), ("center", "exact"), ("center", "measured"), ("nearest", "nearest"))


def main(points: str = "3", sigma: str = "0.03", n: str = "5000", m: str = "20000") -> None:
    """Print the rows."""
    folder = Path(os.environ["CENTERSMOOTH_DATA"])
    generator = load_face_generator(folder / "dcgan_faces64_generator.pth").eval().requires_grad_(False)
    metric = LPIPS(folder / "alexnet_features.pth", "alex")
    budget, noise = Budget(n=int(n), m=int(m), delta=0.05, n0=CANDIDATES), GaussianNoise(float(sigma))
    certifiers = {"center": Center(metric), "nearest": Nearest(metric)}
    sampler = Sampler(generator, noise, 50, 150)
    setting = Setting.of(sampler, budget)
    latents = torch.randn(int(points), LATENTS, generator=torch.Generator().manual_seed(5))
    print("| point | h | " + " | ".join(rule for _, rule in RULES) + " | over the paper's |")
    print("|---|---|" + "---|" * (len(RULES) + 1))
    for point, latent in enumerate(latents):
        evidence = gather(sampler, certifiers, budget, latent, RandomStream(0, point))
        for h in (0.25, 0.5, 1.0):
            found = [
                certifiers[key].certificate(evidence[key], h * noise.sigma, rule, setting).radius for key, rule in RULES
            ]
            texts = ["" if radius is None else f"{radius:.4g}" for radius in found]
            paper = found[0]
            ratios = ["" if paper is None or radius is None else f"{radius / paper:.2f}" for radius in found[1:]]
            print(f"| {point} | {h:g} | " + " | ".join(texts) + " | " + ", ".join(ratios) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
