"""Cost of a run before it is started: forward passes, time, memory and disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import loky
import torch
from torch import Tensor

from centersmooth import L1, Budget, DistanceFunction, Metric, RandomStream
from centersmooth.certifiers.center.quantiles import near_ranks, place_ranks
from centersmooth.certifiers.center.search import BLOCK, least_median_center
from centersmooth.certifiers.distances import kept_ranks
from centersmooth.gathering import Collector, Collects, Setting, Shared
from centersmooth.metrics.base import TILE_ENTRIES
from centersmooth.noise import Enumerable
from centersmooth.sampling import Sampler, evaluating
from csrun.models import build_model, model_spec
from csrun.models.precision import in_precision
from csrun.plan import CellPlan, Plan, check
from csrun.registry import entry_of, names_of
from csrun.system.memory import held, keep_freed_memory
from csrun.training.checkpoints import Training, fresh_model, train

_PROBE_BLOCKS, _PROBE_SECONDS = 9, 1.0
"""How long a model, or a training, is timed for an estimate; certifiers and centers a quarter of that, three or four
times."""

_WORKER_SECONDS = 4.0
"""Seconds of a core that a starting worker takes for its imports, by measurement."""

_Prepared = TypeVar("_Prepared")

_CENTERS = ("center", "center_free")
"""Certifiers whose search takes time beside the passes."""

_ROW_BYTES = 2_000
"""Memory that a row takes as the driver writes its table, by measurement."""

_PROBE_FIRST, _PROBE_CANDIDATES = 4, 4
"""Outputs a metric is timed on at first, four times as many for certifiers; and those that stand for the candidates of
Smooth-HD."""


@dataclass(frozen=True)
class Cost:
    """Cost of a cell.

    Attributes
    ----------
    passes : int
        Forward passes of all its points.
    seconds : float
        From a short measurement on this machine, shared out among the workers, as many as it has cores for; in the
        first cell the start of the workers as well.
    training_seconds : float
        The part of them that is training.
    disk : int
        Bytes of its evidence and checkpoint.
    memory : int
        Bytes held at the peak, a point in each worker, the processes themselves included.
    """

    passes: int
    seconds: float
    training_seconds: float
    disk: int
    memory: int


class _Probe(NamedTuple):
    """Timing and sizes measured for one model.

    Attributes
    ----------
    pass_seconds : float
        Of a forward pass, with what the certifiers make of its output.
    centers_seconds : float
        Of finding the centers of one point, once for all metrics of a source.
    center_seconds : dict of str to float
        Of finding the center under one of the metrics asked for.
    bound_seconds : float
        Of the law's bound for one input: long where it is computed from the input, as for rotation.
    pair_bytes : int
        Held for each pair of outputs while a center is found among all of them.
    process_bytes, shared_bytes : int
        Held by a process that has drawn some outputs, its packages, data and model included; of these, what is held
        once however many processes there are.
    support : int
        Passes of a point beside those of its draws: all noisy inputs, where a rule takes them.
    rules : int
        Of all the certifiers that are asked for.
    """

    pass_seconds: float
    centers_seconds: float
    center_seconds: dict[str, float]
    bound_seconds: float
    input_bytes: int
    output_bytes: int
    feature_bytes: int
    pair_bytes: int
    model_bytes: int
    process_bytes: int
    shared_bytes: int
    support: int = 0
    rules: int = 0


def estimate(plan: Plan) -> list[Cost]:
    """Cost of each cell as if no point of it were done, from timing each model, metric and training for a moment.

    Points and trainings are shared out among the workers; attacks are carried out by the driver alone.
    """
    keep_freed_memory()  # as a run does: without, convolutions take half as long again
    first = {cell.model: cell for cell in reversed(plan.cells)}
    probes = {name: _probe(plan, cell) for name, cell in first.items()}
    missing = set(plan.to_train())
    kinds = {_kind(training): training for training in missing}
    image_seconds = {kind: _image_seconds(plan, training) for kind, training in kinds.items()}
    at_once = min(plan.workers, loky.cpu_count())
    training_workers = max(1, min(at_once, len(missing)))
    costs: list[Cost] = []
    for cell in plan.cells:
        own = missing.intersection(cell.training.chain if cell.training else ())
        training_seconds = sum(image_seconds[_kind(one)] * one.epochs * one.images for one in own) / training_workers
        missing -= own
        probe, points = probes[cell.model], len(plan.points)
        passes, attack_passes = (plan.passes_of_point + probe.support) * points, plan.attack_passes(cell)
        apart = points * (probe.centers_seconds + probe.bound_seconds)
        computed = (_passes_in_blocks(plan) + probe.support) * points
        seconds = training_seconds + (computed * probe.pass_seconds + apart) / at_once
        seconds += attack_passes * probe.pass_seconds + _centers_of_attacks(plan, cell, probe)
        if plan.workers > 1 and not costs:
            seconds += plan.workers * _WORKER_SECONDS / at_once
        evidence = _evidence_bytes(plan, cell, probe)
        disk = evidence + (probe.model_bytes if own else 0)
        rows = points * len(cell.pairs) * probe.rules
        memory = _memory_bytes(plan, probe) + evidence + rows * _ROW_BYTES  # the driver has all of them to write tables
        costs.append(Cost(passes + attack_passes, seconds, training_seconds, disk, memory))
    return costs


def _kind(training: Training) -> tuple[object, ...]:
    """The parts of a training that decide how long an image takes in it."""
    return training.model, training.method, training.parameters, training.batch_size


def _image_seconds(plan: Plan, training: Training) -> float:
    """Seconds of an image in training, by epochs of one batch; the first one, which reads the data, does not count."""
    model = fresh_model(training, model_spec(training.model), plan.data)
    most = min(training.batch_size, training.images)

    def epoch_of(size: int) -> None:
        few = replace(training, epochs=1, images=size, batch_size=size)
        train(model, few, plan.data, lambda images: None)

    epoch_of(min(_PROBE_FIRST, most))
    size, seconds = _timed(lambda size: size, epoch_of, most, _PROBE_SECONDS)
    return seconds / size


def _passes_in_blocks(plan: Plan) -> int:
    """Passes of a point, each stage and the unperturbed input filled up to whole blocks, which are what is computed."""
    block, budget = plan.config.forward_block, plan.budget
    return sum(-(-count // block) * block for count in (1, budget.n0, budget.n, budget.fresh_draws))


def _centers_of_attacks(plan: Plan, cell: CellPlan, probe: _Probe) -> float:
    """Seconds of finding the centers of the runs that judge attacked inputs."""
    if plan.attack is None:
        return 0.0
    kinds = sum(name in _CENTERS for name in plan.config.certifiers)
    runs = plan.config.attacker.runs * len(plan.attacked) * len(cell.pairs) * kinds
    return runs * sum(probe.center_seconds[name] for name in plan.config.metrics)


def _searches_centers(plan: Plan) -> bool:
    """Whether a certifier that is asked for searches for centers."""
    return any(name in plan.config.certifiers for name in _CENTERS)


def _evidence_bytes(plan: Plan, cell: CellPlan, probe: _Probe) -> int:
    """Bytes of all points and certifiers: kept distances, center and base output; answers.npz repeats the outputs."""
    certifiers = len(plan.metrics_of(cell)) * len(plan.config.certifiers)
    budget = plan.budget
    table = len(near_ranks(budget.n)) * len(place_ranks(budget.n0 or budget.n)) * 4
    distances = certifiers * (len(kept_ranks(budget.m)) * 8 + table)
    return len(plan.points) * (distances + 4 * certifiers * probe.output_bytes)


def _memory_bytes(plan: Plan, probe: _Probe) -> int:
    """All processes: a point in each worker, and the driver beside them unless it is the only worker.

    Outputs kept with their features, twice; eight tiles of distances, or all of them where they are held at once; a
    batch; processes, each with what this one holds after some draws, its libraries once; the driver's figures.
    """
    budget, config = plan.budget, plan.config
    candidates = (budget.n0 or budget.n) if _searches_centers(plan) else 0
    if "center_free" in config.certifiers:
        candidates += budget.n // BLOCK
    kept = candidates * (probe.output_bytes + 2 * probe.feature_bytes)
    if "center_nearest" in config.certifiers:  # all outputs of the sample, and blocks of features in float64
        kept += budget.n * probe.output_bytes + 6 * config.forward_block * probe.feature_bytes
    entries = candidates * (budget.n if budget.n0 else candidates)
    tiles = 8 * (2 * entries if budget.n0 else 8 * min(entries, TILE_ENTRIES))
    pairs = max(tiles, probe.pair_bytes * entries // 2)
    batch = config.batch_size * (2 * probe.input_bytes + probe.output_bytes)
    block = 3 * config.forward_block * probe.feature_bytes
    point = kept + pairs + batch + block + 8 * 8 * budget.m
    own = probe.process_bytes - probe.shared_bytes
    driver = 100 * 2**20 + (own if plan.workers > 1 else 0)
    return plan.workers * (own + point) + driver + probe.shared_bytes


def _probe(plan: Plan, cell: CellPlan) -> _Probe:
    config = plan.config
    model = in_precision(build_model(cell.spec, plan.data, config.weights, cell.noise, config.device), config.precision)
    metrics = plan.metrics_of(cell)
    certifiers = plan.certifiers_of(cell, model)
    check(plan, cell, model, certifiers)
    asked = [one for key, one in certifiers.items() if names_of(key)[0] in config.certifiers]
    sources = list(dict.fromkeys(metric.source for metric in metrics.values()))
    x = plan.input(model, 0)
    started = time.perf_counter()
    law = cell.noise.at(x)
    law.required_mass(0.5, max(pair.eps for pair in cell.pairs))
    bound_seconds = time.perf_counter() - started
    sampler = Sampler(model, law, config.forward_block, config.forward_block)
    with evaluating(model):
        output = sampler.base_output(x)
        features = {metric: metric.features(output[None]) for metric in sources}
        outputs, pass_seconds = _draws(sampler, x)
        process = held()
        pass_seconds += _fresh_seconds(asked, Setting.of(sampler, plan.budget), outputs)
        searched = _searches_centers(plan)
        centers = {metric: _center_seconds(metric, outputs, plan.budget) if searched else 0.0 for metric in sources}
    if "center_free" in config.certifiers:
        centers = {m: s * (1 + (1 + 1 / BLOCK) / BLOCK if m.has_means else 1) for m, s in centers.items()}
    model_bytes = sum(tensor.nbytes for tensor in model.state_dict().values() if isinstance(tensor, Tensor))
    center_seconds = {name: centers[metrics[name].source] for name in config.metrics}
    apart = any(entry_of(name).apart for name in config.certifiers)
    support = law.support_size() if apart and isinstance(law, Enumerable) else 0
    rules = sum(len(one.rules) for one in asked)
    feature_bytes = max(one.nbytes for one in features.values())
    pair_bytes = 0 if plan.budget.n0 else max(metric.pair_bytes(one) for metric, one in features.items())
    sizes = (x.nbytes, output.nbytes, feature_bytes, pair_bytes, model_bytes)
    return _Probe(pass_seconds, sum(centers.values()), center_seconds, bound_seconds, *sizes, *process, support, rules)


def _draws(sampler: Sampler, x: Tensor) -> tuple[Tensor, float]:
    """Some draws, and the seconds of one; the first block does not count.

    `_PROBE_BLOCKS` of a slow model, but no more than about `_PROBE_SECONDS`; of a fast one as many as a moment allows.
    """
    blocks: list[Tensor] = []
    started = ended = time.perf_counter()
    for outputs in sampler.draw(x, 8 * _PROBE_BLOCKS * sampler.forward_block, RandomStream(0), "timing"):
        blocks.append(outputs)
        ended = time.perf_counter()
        if len(blocks) == 1:
            started = ended
        elif ended - started > (_PROBE_SECONDS if len(blocks) < _PROBE_BLOCKS else _PROBE_SECONDS / 8):
            break
    return torch.cat(blocks), (ended - started) / (len(blocks) - 1) / sampler.forward_block


def _fresh_seconds(certifiers: Collection[Collects], setting: Setting, outputs: Tensor) -> float:
    """Seconds that certifiers take of a fresh draw beside its pass: features, distances, sums and counts.

    They choose from as many outputs as a moment allows, and measure one fewer, as a center may be given up then.
    """
    most = min(setting.budget.n, len(outputs))
    size = min(4 * _PROBE_FIRST, most)
    while True:
        shared, budget = Shared(), replace(setting.budget, n=size, n0=min(setting.budget.n0, size))
        collectors = [one.collector(replace(setting, budget=budget), shared, radius=True) for one in certifiers]
        started = time.perf_counter()
        for stage in ("candidates", "center"):
            while any(one.wants(stage) for one in collectors):
                _give(collectors, shared, stage, outputs)
        if size == most or time.perf_counter() - started > _PROBE_SECONDS / 4:
            break
        size = min(2 * size, most)
    started = time.perf_counter()
    for block in outputs[: size - 1].split(setting.forward_block):
        _give(collectors, shared, "fresh", block)
    return (time.perf_counter() - started) / (size - 1)


def _give(collectors: Iterable[Collector], shared: Shared, stage: str, outputs: Tensor) -> None:
    """Hand a batch to each collector, up to what it wants."""
    shared.forget()
    for one in collectors:
        if left := one.wants(stage):
            one.update(stage, outputs[:left])


def _center_seconds(metric: Metric, outputs: Tensor, budget: Budget) -> float:
    """Seconds of finding the center of one sample: from as many outputs as a moment allows, by the number of pairs."""
    most = min(len(outputs), budget.n)
    if budget.n0:
        candidates = metric.features(outputs[: min(budget.n0, _PROBE_CANDIDATES)])
        size, seconds = _timed(
            lambda size: metric.features(outputs[:size]),
            lambda features: float(metric.pairwise(features, candidates).sum()),
            most,
        )
        return seconds * (budget.n / size) * (budget.n0 / len(candidates))
    if not isinstance(metric, DistanceFunction):
        size, seconds = _timed(
            lambda size: metric.features(outputs[:size]),
            lambda features: least_median_center(metric, outputs[: len(features)], features),
            most,
        )
        return seconds * (budget.n / size) ** 2
    # Fewer distances where outputs repeat, but a search among all of them: timed by itself, on numbers.
    size, distances = _timed(
        lambda size: metric.features(outputs[:size]),
        lambda features: [float(tile.sum()) for tile in metric.self_rows(features)],
        most,
    )
    numbers = torch.rand(most, 1, generator=torch.Generator().manual_seed(0)).to(outputs.device)
    searched, search = _timed(
        lambda size: numbers[:size], lambda some: least_median_center(L1(), some, some), len(numbers)
    )
    pairs = (_distinct(outputs, budget.n) / _distinct(outputs, size)) ** 2
    return distances * pairs + search * (budget.n / searched) ** 2


def _timed(
    prepare: Callable[[int], _Prepared],
    compute: Callable[[_Prepared], object],
    most: int,
    moment: float = _PROBE_SECONDS / 4,
) -> tuple[int, float]:
    """Time a computation at ``most``, or at the first size, doubled each time, that takes a moment.

    The lesser of two times: the first one of a size has memory cleared.
    """
    size, started = min(_PROBE_FIRST, most), time.perf_counter()
    while True:
        prepared, ends = prepare(size), [time.perf_counter()]
        for _ in range(2):
            compute(prepared)
            ends.append(time.perf_counter())
        if size == most or ends[-1] - started > moment:
            return size, min(ends[1] - ends[0], ends[2] - ends[1])
        size = min(2 * size, most)


def _distinct(outputs: Tensor, count: int) -> float:
    """Different outputs among so many draws, between which alone a `DistanceFunction` is called.

    Beyond the outputs at hand each draw is a new one with the probability that Good and Turing estimate: the share of
    outputs that were seen once.
    """
    seen = outputs[:count]
    _, counts = torch.unique(seen.reshape(len(seen), -1), dim=0, return_counts=True)
    return len(counts) + (count - len(seen)) * int((counts == 1).sum()) / len(seen)
