"""How well denoisers denoise: peak signal-to-noise ratios on crops of test images, and their time for an image.

Usage: python scripts/denoising_psnr.py SETTING...

Settings are those of `cs-run`, such as `experiment=denoised_celeba "models=[mtcnn_dncnn_small,mtcnn_dncnn]"`; denoisers
that are not trained yet are. Prints a row for each denoiser and scale of the noise: the mean ratio in dB of 50 test
images, a random crop of at most 64 pixels a side of each, with noise and denoised, and the seconds that a whole image
takes in a batch of 16. Nothing is clipped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from torch import Tensor

from centersmooth import RandomStream
from csrun.cells.run import obtain_model
from csrun.config import resolved
from csrun.errors import RunError
from csrun.models.denoisers import Denoised
from csrun.plan import Plan, make_plan
from csrun.system.progress import Display
from csrun.training.methods.base import with_noise
from csrun.training.methods.denoise_mse import PATCH, patches

IMAGES, BATCH = 50, 16


def rows(plan: Plan, display: Display) -> Iterator[str]:
    """A row for each denoiser of a request."""
    images = plan.data.images(plan.data.test, range(min(IMAGES, len(plan.data.test)))).to(plan.config.device)
    stream = RandomStream(plan.config.seed)
    clean = patches(images, PATCH, stream.draws("crops", 0, images))
    for cell in plan.cells:
        model, _ = obtain_model(plan, cell, display)
        if isinstance(model, Denoised):
            noisy = with_noise(clean, cell.noise, stream.draws("noise", 0, images))
            with torch.no_grad():
                denoised = model.denoiser(noisy)
            train = cell.training.label if cell.training else ""
            numbers = f"{psnr(noisy, clean):.2f} | {psnr(denoised, clean):.2f} | {_seconds(model, images[:BATCH]):.3g}"
            yield f"{cell.model} | {train} | {cell.scale:g} | {numbers}"


def psnr(images: Tensor, clean: Tensor) -> float:
    """The peak signal-to-noise ratio of pixels in [0, 1] in dB, the mean over images."""
    errors = (images - clean).square().flatten(1).mean(dim=1)
    return float((-10 * errors.log10()).mean())


@torch.no_grad()
def _seconds(model: Denoised, images: Tensor) -> float:
    """Seconds of the denoiser for one of the images, after a call that does not count."""
    float(model.denoiser(images).sum())
    started = time.perf_counter()
    float(model.denoiser(images).sum())
    return (time.perf_counter() - started) / len(images)


def main(settings: Sequence[str]) -> None:
    """Print the table."""
    try:
        plan = make_plan(resolved(settings))
    except RunError as error:
        sys.exit(f"denoising_psnr: {error}")
    with Display(Console(stderr=True)).running(sum(one.passes for one in plan.to_train())) as display:
        print("| model | training | scale | noisy | denoised | seconds |\n|---|---|---|---|---|---|")
        for line in rows(plan, display):
            print(f"| {line} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
