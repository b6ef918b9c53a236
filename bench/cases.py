"""What is measured. Every function returns rows ``{case, size, unit, ours, other, ratio, target, note}``."""

from __future__ import annotations

import copy
import io
import os
import resource
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import plain
import torch
from PIL import Image
from timing import alternate
from torch import Tensor, nn

from centersmooth import (
    L2,
    OSPA,
    Budget,
    Center,
    GaussianNoise,
    Hamming,
    Jaccard,
    Mean,
    Metric,
    Nearest,
    RandomStream,
    TotalVariation,
)
from centersmooth.certifiers import mean
from centersmooth.certifiers.center.search import free_center, least_median_center
from centersmooth.gathering import Setting, Shared, features_in_blocks, gather, gather_one
from centersmooth.metrics.base import Hilbertian
from centersmooth.sampling import Sampler, evaluating
from csrun.config import Config
from csrun.metrics import build_metrics
from csrun.models import MODELS
from csrun.models.autoencoder import Autoencoder, Reconstructor
from csrun.models.precision import in_precision

RUNS = 3
"""Runs a median is taken of."""

Row = dict[str, Any]
DATA = Path(os.environ.get("CENTERSMOOTH_DATA", "data"))


def centers() -> Iterator[Row]:
    """The exact least-median center against the loop over candidates."""
    yield from (_center(TotalVariation(), plain.total_variation, n, 28, 50) for n in (1_250, 2_500, 5_000, 10_000))
    yield from (_center(L2(), plain.l2, n, 28, 50) for n in (1_250, 2_500, 5_000, 10_000))
    yield from (_center(TotalVariation(), plain.total_variation, 2_500, side, None) for side in (14, 56))
    yield _center_by_pairs(TotalVariation(), plain.total_variation)
    yield _center_by_pairs(L2(), plain.l2)


def _center(metric: Metric, distance: plain.Distance, n: int, side: int, target: float | None) -> Row:
    """Against the loop that compares a candidate with the whole sample in one operation."""
    outputs, features, ours = _search(metric, n, side)
    tried = outputs[:25]
    fast, some = alternate([ours, lambda: plain.center(tried, outputs, distance)], RUNS)
    note = f"the loop over {len(tried)} of its {n} candidates, times {n // len(tried)}"
    width = features.shape[1]
    return row(f"center {metric.name}", f"n={n} D={width}", "CPU s", fast, some * n / len(tried), target, note)


def _center_by_pairs(metric: Metric, distance: plain.Distance) -> Row:
    """Against the loop that takes the pairs one at a time."""
    n, tried = 10_000, 2_000
    outputs, features, ours = _search(metric, n, 28)
    by_pairs = plain.pair_by_pair(lambda output, one: distance(output, one[0]))
    fast, some = alternate([ours, lambda: plain.center(outputs[:1], outputs[:tried], by_pairs)], RUNS)
    note = f"the loop a pair at a time over {tried} of its 10^8 pairs, times {n * n // tried}"
    size = f"n={n} D={features.shape[1]}"
    return row(f"center {metric.name} by pairs", size, "CPU s", fast, some * n * n / tried, 50, note)


def _search(metric: Metric, n: int, side: int) -> tuple[Tensor, Tensor, Callable[[], object]]:
    """Outputs, their features, and our search for their center."""
    outputs = torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))
    features = metric.features(outputs)
    return outputs, features, lambda: least_median_center(metric, outputs, features)


def answers() -> Iterator[Row]:
    """What the search for the center of 10^4 outputs, a free center, and the output nearest to the mean take."""
    yield from _answers(TotalVariation(), plain.total_variation, lambda features: torch.pdist(features, p=1), "pdist")
    yield from _answers(L2(), plain.l2, _product, "one matrix product in float64")


def _answers(
    metric: Metric, distance: plain.Distance, arithmetic: Callable[[Tensor], object], named: str
) -> Iterator[Row]:
    """All of one metric in turns, so that each ratio is of times from the same minutes."""
    n = 10_000
    outputs, features, search = _search(metric, n, 28)
    sample, tried = least_median_center(metric, outputs, features), outputs[:25]
    works: list[Callable[[], object]] = [
        search,
        lambda: plain.center(tried, outputs, distance),
        lambda: arithmetic(features),
        lambda: free_center(metric, outputs, features, sample, 128),
    ]
    if isinstance(metric, Hilbertian):
        works.append(lambda: _nearest(metric, outputs))
    seconds, loop, floor, more, *nearest = alternate(works, RUNS)
    size, tiles = f"n={n} D={len(features[0])}", f"against its distances alone, {named}"
    note = f"against the loop over {len(tried)} of its {n} candidates, times {n // len(tried)}"
    yield row(f"center {metric.name}", size, "CPU s", seconds, loop * n / len(tried), None, note)
    yield row(f"center {metric.name} arithmetic", size, "CPU s", seconds, floor, None, tiles)
    beside = "against the center of the sample, which is part of it"
    yield row(f"center_free {metric.name}", size, "CPU s", seconds + more, seconds, None, beside)
    for one in nearest:
        yield row(
            f"center_nearest {metric.name}", size, "CPU s", one, seconds, None, "against the center of the sample"
        )


def _product(features: Tensor) -> None:
    """All inner products, a tile of rows at a time."""
    doubled = features.double()
    for tile in doubled.split(1_000):
        tile @ doubled.T


def _nearest(metric: Metric, outputs: Tensor) -> Tensor:
    """The output nearest to the mean, from draws as they come."""
    setting, shared = Setting(GaussianNoise(0.2), Budget(len(outputs), len(outputs), 0.45), (0.0, 1.0)), Shared()
    collector = Nearest(metric).collector(setting, shared, radius=False)
    for part in outputs.split(1_024):
        shared.forget()
        collector.update("center", part)
    center: Tensor = collector.compute(outputs[0]).center
    return center


def sets() -> Iterator[Row]:
    """The distances of 2,000 maps of classes, boxes, and lists of boxes; of the last against a call of SciPy a pair."""
    n, generator = 2_000, torch.Generator().manual_seed(0)
    for side in (28, 96):
        maps = torch.randint(11, (n, side, side), generator=generator)
        (seconds,) = alternate([_distances(Hamming(), maps)], RUNS)
        yield row("distances Hamming", f"n={n} pixels={side**2}", "CPU s", seconds, None, None, "11 classes")
    (seconds,) = alternate([_distances(Jaccard(), _lists(n, 1, generator)[:, 0])], RUNS)
    yield row("distances Jaccard", f"n={n}", "CPU s", seconds, None, None, "")
    for count in (1, 3, 8):
        lists, some = _lists(n, count, generator), 40
        seconds, loop = alternate([_distances(OSPA(), lists), partial(plain.ospa, lists[:some])], RUNS)
        note = f"a call of SciPy a pair, over {some}^2 of its pairs, times {n // some}^2"
        yield row("distances OSPA", f"n={n} boxes={count}", "CPU s", seconds, loop * (n / some) ** 2, None, note)


def _lists(n: int, count: int, generator: torch.Generator) -> Tensor:
    """Lists of boxes that move by a tenth of their sides, ``(n, count, 4)``."""
    start = 200 * torch.rand(count, 2, generator=generator)
    return torch.cat([start, start + 40], dim=1) + 4 * torch.randn(n, count, 4, generator=generator)


def _distances(metric: Metric, outputs: Tensor) -> Callable[[], object]:
    """All distances of a sample, features included."""
    return lambda: [len(tile) for tile in metric.self_rows(metric.features(outputs))]


def means() -> Iterator[Row]:
    """What a mean takes beyond its bare passes, in percent of them, with and without second moments."""
    model = Autoencoder(1, 28).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    yield from _mean(TotalVariation(), model)
    yield from _mean(L2(), model)


def _mean(metric: Metric, model: nn.Module) -> Iterator[Row]:
    n, m, blocks = 10_000, 100_000, 8
    x, inputs = torch.rand(1, 28, 28), torch.rand(128, 1, 28, 28)

    def certify(rule: str) -> None:
        """One pass over a point, whose model is called once, and the certificate."""
        sampler = Sampler(_FirstCalls(model, 1), GaussianNoise(0.2), 128, 1_024, (0.0, 1.0))
        certifier, budget = Mean(metric), Budget(n, m, 0.45)
        evidence = gather_one(sampler, certifier, budget, x, RandomStream(0))
        certifier.certificate(evidence, 0.2, rule, Setting.of(sampler, budget))

    def local() -> None:
        with patch.object(mean, "DirectionsCollector", _NoDirections):
            certify("local")

    def forward() -> None:
        for _ in range(blocks):
            model(inputs)

    with torch.no_grad():
        *beside, some = alternate([local, partial(certify, "spectral"), forward], RUNS)
    bare = some / (blocks * len(inputs)) * (n + m)
    notes = ("distances and sums, second moments left out", "with second moments, as gathered for any rule")
    for rule, seconds, note in zip(("local", "spectral"), beside, notes, strict=True):
        size = f"n={n} m={m}"
        yield row(f"mean {metric.name} {rule}", size, "% of the passes", 100 * seconds / bare, None, None, note)


class _NoDirections:
    """A collector of second moments that takes none."""

    def __init__(self, *_: object) -> None: ...

    def update(self, *_: object) -> None: ...

    def compute(self, *_: object) -> None: ...


def faces() -> Iterator[Row]:
    """Images a second against the package's own batched call, at its best batch."""
    import facenet_pytorch

    from csrun.models.faces import FaceDetector

    detector, package = FaceDetector(), facenet_pytorch.MTCNN()
    yield from (_faces(detector, package, sigma) for sigma in (0.1, 0.25))


def _faces(detector: nn.Module, package: Any, sigma: float) -> Row:
    images, batches = noisy(portraits(16), sigma), (1, 4, 16)
    arrays = (images * 255).permute(0, 2, 3, 1).contiguous().numpy()

    def ours() -> list[Tensor]:
        return [detector(part) for part in images.split(16)]

    with torch.no_grad():
        fast, *others = alternate([ours, *(partial(_detect, package, arrays, size) for size in batches)], RUNS)
    best = min(range(len(others)), key=others.__getitem__)
    note = f"facenet_pytorch.MTCNN.detect, its best batch of {batches}: {batches[best]}"
    return row("faces", f"sigma={sigma:g}", "CPU ms/image", fast / 16e-3, others[best] / 16e-3, 3, note)


def _detect(package: Any, arrays: np.ndarray, size: int) -> None:
    for start in range(0, len(arrays), size):
        package.detect(arrays[start : start + size])


def perceptual() -> Iterator[Row]:
    """30 x 2000 LPIPS distances, against a network call a pair."""
    from csrun.metrics.perceptual import LPIPS, _lpips_package, min_max

    metric = LPIPS(DATA / "vgg16_features.pth")
    generator = torch.Generator().manual_seed(0)
    candidates, outputs = (torch.rand(count, 3, 64, 64, generator=generator) for count in (30, 80))
    package = _whole_lpips(_lpips_package())
    candidate_features = metric.features(candidates)

    def ours() -> Tensor:
        parts = [metric.pairwise(metric.features(part), candidate_features) for part in outputs.split(16)]
        return torch.cat(parts)

    def by_pairs() -> list[float]:
        return plain.radii(candidates[:1], outputs[:8], plain.pair_by_pair(package))

    with torch.no_grad():
        first = metric.pairwise(metric.features(outputs[:8]), candidate_features[:1])[:, 0].sort().values[3]
        scaled = plain.radii(min_max(candidates[:1]), min_max(outputs[:8]), plain.pair_by_pair(package))
        assert abs(first / scaled[0] - 1) < 1e-3, (first, scaled)
        fast, slow = alternate([ours, by_pairs], 3)
    note = "ours on 80 of 2000 outputs, the other side on 8 of 60000 pairs, both in proportion"
    yield row("lpips distances", "30 x 2000", "CPU s", fast * 2000 / 80, slow * 60_000 / 8, 30, note)


def _whole_lpips(package: Any) -> nn.Module:
    """The package's network with our weights."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = package.LPIPS(net="vgg", pretrained=True, pnet_rand=True, verbose=False)
    state = torch.load(DATA / "vgg16_features.pth", weights_only=True)
    for part in network.net.children():
        for name, module in part.named_children():
            if isinstance(module, nn.Conv2d):
                module.weight.data, module.bias.data = state[f"features.{name}.weight"], state[f"features.{name}.bias"]
    return network.eval()


def models() -> Iterator[Row]:
    """A block of 128 inputs as the experiments compute it, channels-last in float32, against other ways."""
    named = {"autoencoder": (Autoencoder(1, 28), (1, 28, 28)), "reconstructor": (Reconstructor(1, 28), (256,))}
    for name, (model, shape) in named.items():
        model = model.eval().requires_grad_(False)
        inputs, ours = torch.rand(128, *shape), copy.deepcopy(model).to(memory_format=torch.channels_last)
        compiled = torch.compile(copy.deepcopy(ours))
        started = time.perf_counter()
        with torch.no_grad():
            compiled(inputs)
        compiling = time.perf_counter() - started
        others = (model, compiled, in_precision(copy.deepcopy(ours), "bfloat16"))
        with torch.no_grad():
            fast, *slow = alternate([partial(way, inputs) for way in (ours, *others)], RUNS)
        notes = ("channels first", f"torch.compile, {compiling:.0f} s of compiling", "precision=bfloat16, another f")
        for note, other in zip(notes, slow, strict=True):
            yield row(f"model {name}", "mnist, 128 inputs", "CPU ms", fast * 1e3, other * 1e3, None, f"against {note}")


def overheads(compose: Callable[..., Config]) -> Iterator[Row]:
    """Everything a certificate costs beyond its bare passes, in percent of them, at the paper's counts."""
    yield _overhead(compose, "tv_mnist", "autoencoder", Autoencoder(1, 28), (1, 28, 28))
    yield _overhead(compose, "tv_mnist", "reconstructor", Reconstructor(1, 28), (256,))
    yield _overhead(compose, "tv_cifar10", "autoencoder", Autoencoder(3, 32), (3, 32, 32))
    if (DATA / "celeba_test.zip").is_file():
        from csrun.models.faces import FaceDetector

        yield _overhead(compose, "jaccard_celeba", "mtcnn", FaceDetector(), portraits(1)[0])
    if (DATA / "dcgan_faces64_generator.pth").is_file() and (DATA / "vgg16_features.pth").is_file():
        from csrun.models.generators import load_face_generator

        generator = load_face_generator(DATA / "dcgan_faces64_generator.pth")
        yield _overhead(compose, "lpips_dcgan", "dcgan", generator, (100,))


def _overhead(
    compose: Callable[..., Config], experiment: str, name: str, model: nn.Module, x: Tensor | tuple[int, ...]
) -> Row:
    config = compose(f"experiment={experiment}", "budget=paper")
    model.to(memory_format=torch.channels_last)
    x = x if isinstance(x, Tensor) else torch.rand(x)
    metrics = build_metrics(MODELS[name].metrics, {}, "cpu")
    clock = _Clock()
    if lpips := metrics.get("lpips"):
        lpips.network = _Timed(lpips.network, clock)
    timed = _Timed(model, clock)
    sampler = Sampler(
        timed, GaussianNoise(0.2), config.forward_block, config.batch_size, getattr(model, "output_range", None)
    )
    with evaluating(timed):
        floor, first, fresh = _costs_of_a_draw(sampler, clock, metrics, x, config.n0)
        outputs = torch.cat(list(sampler.draw(x, config.forward_block, RandomStream(0), "outputs")))
        center = 0.0 if config.n0 else _all_centers(metrics, outputs, config.n // 4) * 16
    bare = (config.n + max(config.n, config.m)) * floor
    draws = config.n * first + max(config.n, config.m) * fresh
    target = 25 if experiment == "tv_cifar10" else 10
    size = f"n={config.n} m={config.m} n0={config.n0}"
    parts = f"draws {100 * draws / bare:.1f}, centers {100 * center / bare:.1f}"
    note = f"{parts}; the passes {bare / 3600:.3g} CPU hours a point"
    overhead = 100 * (draws + center) / bare
    return row(f"overhead {experiment} {name}", size, "% of the passes", overhead, None, target, note)


@dataclass
class _Clock:
    """CPU seconds inside networks."""

    seconds: float = 0.0


class _Timed(nn.Module):
    """A network that counts the time spent in it."""

    def __init__(self, network: nn.Module, clock: _Clock) -> None:
        super().__init__()
        self.network, self.clock = network, clock

    def forward(self, inputs: Tensor) -> Tensor:
        started = time.process_time()
        outputs = self.network(inputs)
        self.clock.seconds += time.process_time() - started
        return outputs


def _costs_of_a_draw(
    sampler: Sampler, clock: _Clock, metrics: dict[str, Metric], x: Tensor, n0: int
) -> tuple[float, float, float]:
    """CPU seconds of a draw inside networks, and beside them of a draw for the center and of a fresh draw.

    The last two by what more draws add to the evidence of a point, so that what a point costs once does not count; the
    part of the center's own search that grows with ``n^2`` is small here, and measured by itself at full size.
    """
    block = sampler.forward_block
    inside: list[float] = []

    def beside(n: int, m: int) -> float:
        budget = Budget(n * block, m * block, 0.45, 0.05, 0.05, n0)
        before, started = clock.seconds, time.process_time()
        gather(sampler, {name: Center(metric) for name, metric in metrics.items()}, budget, x, RandomStream(0))
        within = clock.seconds - before
        blocks = n + m + 1 + (n0 > 0)
        inside.append(within / blocks / block)
        return time.process_time() - started - within

    counts = ((1, 3), (5, 5), (1, 9))
    rounds = [[beside(*count) for count in counts] for _ in range(RUNS + 1)][1:]
    small, more_first, more_fresh = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    fresh = (more_fresh - small) / (6 * block)
    return statistics.median(inside), (more_first - small) / (4 * block) - fresh / 2, fresh


def _all_centers(metrics: dict[str, Metric], outputs: Tensor, n: int) -> float:
    """CPU seconds of the searches of a point: one for all metrics of a source, as in `gather`."""
    sources = dict.fromkeys(metric.source for metric in metrics.values())
    some = outputs[torch.arange(n) % len(outputs)]
    some = some + 1e-3 * torch.rand(some.shape, generator=torch.Generator().manual_seed(0))

    def find() -> None:
        for metric in sources:
            least_median_center(metric, some, features_in_blocks(metric, some, 128))

    return alternate([find], 1)[0]


def draws() -> Iterator[Row]:
    """Distances of ``m`` draws to a center, against the sample that grows batch by batch."""
    model = Autoencoder(1, 28).eval()
    yield from (_draws(model, m) for m in (512, 1_024, 2_048))


def _draws(model: nn.Module, m: int) -> Row:
    x, metric = torch.rand(1, 28, 28), TotalVariation()
    sampler = Sampler(model, GaussianNoise(0.2), 128, 1_024, (0.0, 1.0))
    center = metric.features(x[None])

    def ours() -> Tensor:
        drawn = sampler.draw(x, m, RandomStream(0), "fresh")
        return torch.cat([metric.pairwise(metric.features(outputs), center)[:, 0] for outputs in drawn])

    def grown() -> Tensor:
        return plain.total_variation(plain.sample(model, x, 0.2, m, 128), x)

    with torch.no_grad():
        fast, slow = alternate([ours, grown], RUNS)
    return row("draws autoencoder", f"m={m}", "CPU s", fast, slow, None, "passes and distances of total variation")


class _FirstCalls(nn.Module):
    """The model itself for some calls, then its last output again: the memory of a long run in little time."""

    def __init__(self, model: nn.Module, calls: int) -> None:
        super().__init__()
        self.model, self.left = model, calls

    def forward(self, inputs: Tensor) -> Tensor:
        if self.left:
            self.left -= 1
            self.kept = self.model(inputs)
        return self.kept.clone()


def memory(compose: Callable[..., Config]) -> Iterator[Row]:
    """Peak memory of one point of the MNIST autoencoder at the paper's counts, above the process after its imports."""
    config = compose("experiment=tv_mnist", "budget=paper")
    before = _peak()
    model = _FirstCalls(Autoencoder(1, 28), 8).eval()
    metrics = build_metrics(MODELS["autoencoder"].metrics, {}, "cpu")
    sampler = Sampler(model, GaussianNoise(0.2), config.forward_block, config.batch_size, (0.0, 1.0))
    with evaluating(model):
        certifiers = {name: Center(metric) for name, metric in metrics.items()}
        gather(sampler, certifiers, Budget(config.n, config.m, 0.45), torch.rand(1, 28, 28), RandomStream(0))
    size = f"n={config.n} m={config.m}"
    yield row(
        "memory tv_mnist autoencoder", size, "MiB", _peak() - before, None, 700, "peak above imports, all 6 metrics"
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def portraits(count: int) -> Tensor:
    """Photographs of the CelebA test split, ``(count, 3, 218, 178)`` in [0, 1]."""
    with zipfile.ZipFile(DATA / "celeba_test.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:count]
        pictures = [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def noisy(images: Tensor, sigma: float) -> Tensor:
    return images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def row(case: str, size: str, unit: str, ours: float, other: float | None, target: float | None, note: str) -> Row:
    ratio = None if other is None else round(other / ours, 2)
    numbers = {"ours": float(f"{ours:.4g}"), "other": None if other is None else float(f"{other:.4g}")}
    return {"case": case, "size": size, "unit": unit, **numbers, "ratio": ratio, "target": target, "note": note}
