"""Compare a CUDA device with the CPU: half a minute before the hours that rest on it.

Usage: python scripts/check_gpu.py [speed]

Outputs of models, distances, and whole certificates from the same draws are computed on both; then what only the device
can show: whether a radius comes again, memory that runs out, gradients. With ``speed`` images a second and
times of the search for a center are measured instead, which are no checks. Prints a Markdown table; exits 1 where a
check fails.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, nn

from centersmooth import (
    L2,
    Angular,
    Attack,
    Budget,
    Center,
    GaussianNoise,
    Mean,
    Nearest,
    RandomStream,
    Smoother,
    TotalVariation,
)
from centersmooth.certifiers.center.search import least_median_center
from centersmooth.draws import Draws
from centersmooth.gathering import Setting, gather, passes
from centersmooth.metrics.base import features_of
from centersmooth.sampling import Sampler, evaluating
from csrun.cells.certify import Point, PointCertifier
from csrun.config import TrainConfig
from csrun.data import load_data
from csrun.models import MODELS
from csrun.models.autoencoder import Autoencoder
from csrun.models.precision import in_precision, require_float32
from csrun.registry import PRECISIONS
from csrun.training.checkpoints import fresh_model, train, training_of

DEVICE = "cuda"
BUDGET = Budget(n=1_200, m=2_500, delta=0.1)
NOISE = GaussianNoise(0.2)
RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Finding:
    """A line of the table; ``holds`` is None for what is measured and not checked."""

    what: str
    found: str
    holds: bool | None = None


def outputs_agree() -> Iterator[Finding]:
    """Models with the same weights on the same noisy inputs."""
    for name, data_name in (("autoencoder", "digits"), ("reconstructor", "digits"), ("mtcnn", "astronaut")):
        data = load_data(data_name, None)
        torch.manual_seed(0)
        model = MODELS[name].build(data, {}, None).eval().requires_grad_(False)
        x = model.inputs(data.images(data.test, [0]))[0]
        noisy = NOISE.sample(x, 64, RandomStream(0).draws("check", 0, x))
        wanted = model(noisy)
        apart = (model.to(DEVICE)(noisy.to(DEVICE)).cpu() - wanted).abs().amax(dim=tuple(range(1, wanted.ndim)))
        far = int((apart > 1e-3).sum())
        found = f"median difference {float(apart.median()):.1e}, largest {float(apart.max()):.1e}"
        yield Finding(f"outputs of `{name}`, 64 noisy inputs", found, far <= 1)


def distances_agree() -> Iterator[Finding]:
    """Distances of the same outputs, to the definition's in float64."""
    outputs = torch.rand(300, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for metric in (TotalVariation(), L2(), Angular()):
        features = features_of(metric, outputs)
        wanted = metric.pairwise(features.double(), features.double())
        on_device = features.to(DEVICE)
        rows, pairs = torch.cat(list(metric.self_rows(on_device))).cpu(), metric.pairwise(on_device, on_device).cpu()
        off = [float(((one - wanted).abs() / wanted.clamp(min=1e-9)).fill_diagonal_(0).max()) for one in (rows, pairs)]
        yield Finding(f"distances of {metric.name}, relative", f"{max(off):.1e}", max(off) < 257 * 2**-24)


def certificates_agree() -> Iterator[Finding]:
    """Certificates of one model by several certifiers, from the CPU's random numbers on both devices."""
    model, x = _model(Autoencoder), _digit()
    certifiers = {"center": Center(TotalVariation()), "mean": Mean(L2()), "center_nearest": Nearest(Angular())}
    for name, certifier in certifiers.items():
        radii = []
        for device in ("cpu", DEVICE):
            with patch("centersmooth.sampling.Draws", _HostDraws):
                smoother = Smoother(model.to(device), NOISE, certifier, BUDGET, output_range=RANGE)
                radii.append(smoother.certify(x.to(device), 0.2, stream=RandomStream(0)).radius)
        apart = abs(radii[1] / radii[0] - 1)
        yield Finding(f"`{name}`, same draws", f"radii {radii[0]:.6g} and {radii[1]:.6g}", apart < 1e-4)


class _HostDraws(Draws):
    """Random numbers of the CPU, moved to the device of the input."""

    def __init__(self, key: int, like: Tensor) -> None:
        super().__init__(key, like.cpu())
        self._target = like.device

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return super().normal(shape).to(self._target)


def radii_come_again() -> Iterator[Finding]:
    """One radius computed twice, and in other batches: to five digits; on CUDA not always to the last bit."""
    model, x = _model(Autoencoder).to(DEVICE), _digit().to(DEVICE)
    radii = []
    for batch_size in (128, 128, 4_096):
        smoother = Smoother(model, NOISE, Center(TotalVariation()), BUDGET, output_range=RANGE, batch_size=batch_size)
        radii.append(smoother.certify(x, 0.2, stream=RandomStream(0)).radius)
    for what, other in (("again", radii[1]), ("in batches of 4,096", radii[2])):
        same = "to the last bit" if other == radii[0] else f"apart by {abs(other / radii[0] - 1):.1e} of it"
        yield Finding(f"a radius of draws in batches of 128, {what}", same, abs(other / radii[0] - 1) < 1e-4)


def memory_runs_out() -> Iterator[Finding]:
    """Evidence of one point where a batch of 2^19 outputs, 1.6 GB, does not fit, and where all of it does."""
    model, x, budget = _model(Autoencoder).to(DEVICE), _digit().to(DEVICE), Budget(n=1_200, m=2**19, delta=0.1)
    point, lines, inside = Point(0, "a digit", x, ("center",)), list[str](), list[int]()
    for share, batch_size in ((1.0, 2**13), (1.2e9 / torch.cuda.get_device_properties(0).total_memory, 2**19)):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share)
        certifier = PointCertifier(
            model, {"center": Center(TotalVariation())}, budget, NOISE, 0, 1_024, batch_size, RANGE
        )
        inside.append(certifier.certify(point, lambda passes: None, lines.append).evidence["center"].inside)
    torch.cuda.set_per_process_memory_fraction(1.0)
    found = f"{len(lines)} times a smaller batch, down to {certifier.batch_size:,}; {inside[0]} and {inside[1]} inside"
    yield Finding("memory of 1.2 GB", found, bool(lines) and inside[0] == inside[1])


def gradients_work() -> Iterator[Finding]:
    """An attack through the model, and a few steps of training on both devices."""
    model, x = _model(Autoencoder).to(DEVICE), _digit().to(DEVICE)
    smoother = Smoother(model, NOISE, Mean(L2()), BUDGET, output_range=RANGE)
    attack = Attack("pgd", steps=10, restarts=1, draws=64)
    attacked = smoother.attack(x, smoother.certify(x, 0.2), attack)
    yield Finding("`pgd` on a mean", repr(attacked), True)
    data, losses = load_data("digits", None), []
    for device in ("cpu", DEVICE):
        schedule = TrainConfig(epochs=2, images=1_000, batch_size=50)
        training = training_of("autoencoder", data, schedule, "augment", {"name": "gaussian"}, 0.2, 0, device)
        spec = MODELS["autoencoder"]
        losses.append(train(fresh_model(training, spec, data), training, data, lambda images: None)[0])
    found = f"losses {losses[0]:.5f} and {losses[1]:.5f}"
    yield Finding("training, 40 steps", found, abs(losses[1] / losses[0] - 1) < 0.1)


def graphs_agree() -> Iterator[Finding]:
    """A training by graphs of its steps, and two by single operations, which differ by the order of sums."""
    data, spec = load_data("digits", None), MODELS["lenet"]
    schedule = TrainConfig(epochs=2, images=1_280, batch_size=64, optimizer="sgd")
    for method in ("cross_entropy", "stability", "consistency", "smoothadv", "smoothmix"):
        training, found = training_of("lenet", data, schedule, method, {"name": "gaussian"}, 0.5, 0, DEVICE), []
        for graphs in (False, False, True):
            with patch("csrun.training.checkpoints._captures", lambda inputs, noise, graphs=graphs: graphs):
                found.append(train(fresh_model(training, spec, data), training, data, lambda images: None))
        losses, seconds = zip(*found, strict=True)
        steps = schedule.epochs * schedule.images / schedule.batch_size * training.objective.chunks
        times = f"{seconds[1] / steps * 1e3:.2f} and {seconds[2] / steps * 1e3:.2f} ms a step"
        apart, allowed = (abs(losses[other] / losses[0] - 1) for other in (2, 1))
        agree = apart <= max(5 * allowed, 1e-5)
        said = f"losses {losses[0]:.7f}, {losses[1]:.7f} and {losses[2]:.7f}, {times}"
        yield Finding(f"`{method}`, twice by operations and by graphs", said, agree)


def speed() -> Iterator[Finding]:
    """Bare passes, all of a certificate, and the search for a center."""
    x = torch.rand(1, 28, 28, device=DEVICE)
    for block in (128, 1_000):
        for precision in PRECISIONS:
            yield _pace(block, precision, x)
    for n in (5_000, 10_000):
        outputs = torch.rand(n, 1, 28, 28, device=DEVICE)
        for metric in (TotalVariation(), L2()):
            features = features_of(metric, outputs)
            seconds = _seconds(lambda m=metric, o=outputs, f=features: least_median_center(m, o, f))
            yield Finding(f"center of {n:,} outputs, {metric.name}", f"{seconds:.2f} s")


def _pace(block: int, precision: str, x: Tensor) -> Finding:
    """Images a second: of the autoencoder alone, with noise, and with the evidence of a center and a mean."""
    model, draws = _model(Autoencoder, precision).to(DEVICE), 50_000
    sampler = Sampler(model, NOISE, block, 8 * block, RANGE)
    certifiers = {"center": Center(TotalVariation()), "mean": Mean(L2())}
    inputs = NOISE.sample(x, block, RandomStream(0).draws("speed", 0, x))
    budget = Budget(n=1_200, m=draws, delta=0.1)
    with evaluating(model):
        bare = _seconds(lambda: [model(inputs) for _ in range(draws // block)])
        noisy = _seconds(lambda: list(sampler.draw(x, draws, RandomStream(0), "fresh")))
        whole = _seconds(lambda: gather(sampler, certifiers, budget, x, RandomStream(0)))
    bare, noisy, whole = bare / draws, noisy / draws, whole / passes(certifiers.values(), Setting.of(sampler, budget))
    found = (
        f"{1 / bare:,.0f} a second; with noise {noisy / bare:.2f} times that long, with all evidence {whole / bare:.2f}"
    )
    return Finding(f"autoencoder of MNIST, {precision}, blocks of {block:,}", found)


def _model(kind: Callable[..., nn.Module], precision: str = "float32") -> nn.Module:
    torch.manual_seed(0)
    model = kind(1, 28).eval().requires_grad_(False)
    return in_precision(model, precision)


def _digit() -> Tensor:
    return torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(1))


def _seconds(work: Callable[[], object]) -> float:
    """The least of three, after one that does not count."""
    taken = []
    for _ in range(4):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


CHECKS = (
    outputs_agree,
    distances_agree,
    certificates_agree,
    radii_come_again,
    gradients_work,
    graphs_agree,
    memory_runs_out,
)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["speed"]):
        sys.exit(f"check_gpu: got {' '.join(arguments)}: expected nothing or speed")
    if not torch.cuda.is_available():
        sys.exit("check_gpu: PyTorch sees no CUDA device")
    require_float32()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n\n| what | found | |\n|---|---|---|")
    failed = 0
    for check in (speed,) if arguments else CHECKS:
        try:
            for one in check():
                print(
                    f"| {one.what} | {one.found} | {'' if one.holds is None else 'holds' if one.holds else 'FAILS'} |"
                )
                failed += one.holds is False
        except Exception as error:  # the others are worth their while
            print(f"| {check.__name__} | {type(error).__name__}: {error} | FAILS |")
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
