"""Cost of a run before it is started: forward passes, time, memory and disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from centersmooth import GaussianNoise, Metric, RandomStream
from centersmooth.centers import BLOCK
from centersmooth.evidence import kept_ranks
from centersmooth.metrics.base import TILE_ENTRIES
from centersmooth.quantiles import near_ranks, place_ranks
from centersmooth.sampling import Sampler, evaluating
from csrun.metrics import build_metrics
from csrun.models.precision import in_precision
from csrun.plan import TRAINING_WEIGHT, CellPlan, Plan, check

_PROBE_BLOCKS, _PROBE_SECONDS = 9, 1.0
"""How long a model is timed for an estimate."""


@dataclass(frozen=True)
class Cost:
    """What a cell would take.

    Attributes
    ----------
    passes : int
        Forward passes of all its points.
    training_images : int
        Images pushed through training; 0 where the checkpoint is there.
    seconds : float
        From a short measurement on this machine.
    disk : int
        Bytes of its evidence and checkpoint.
    memory : int
        Bytes held at the peak of one point, the process itself included.
    """

    passes: int
    training_images: int
    seconds: float
    disk: int
    memory: int


class _Probe(NamedTuple):
    """What a moment with a model tells: its speed, and bytes of an input, an output, its features, the parameters."""

    passes_per_second: float
    input_bytes: int
    output_bytes: int
    feature_bytes: int
    model_bytes: int


def estimate(plan: Plan) -> list[Cost]:
    """Cost of each cell as if no point of it were done, from timing each model for a moment."""
    first = {cell.model: cell for cell in reversed(plan.cells)}
    probes = {name: _probe(plan, cell) for name, cell in first.items()}
    missing = {cell.training for cell in plan.to_train()}
    costs = []
    for cell in plan.cells:
        training = cell.training.epochs * cell.training.images if cell.training and cell.training in missing else 0
        missing.discard(cell.training)
        passes = plan.passes_of_point * len(plan.points) + plan.attack_passes(cell)
        probe = probes[cell.model]
        seconds = (passes + TRAINING_WEIGHT * training) / probe.passes_per_second
        disk = _evidence_bytes(plan, cell, probe) + (probe.model_bytes if training else 0)
        costs.append(Cost(passes, training, seconds, disk, _memory_bytes(plan, probe)))
    return costs


def _evidence_bytes(plan: Plan, cell: CellPlan, probe: _Probe) -> int:
    """Of all points: kept distances and a center for each metric, a base output; centers.npz repeats the outputs."""
    metrics, budget = len(cell.spec.metrics) or len(plan.config.metrics), plan.budget
    table = len(near_ranks(budget.n)) * len(place_ranks(budget.n0 or budget.n)) * 4
    centers = metrics * (2 if plan.config.center == "free" else 1)
    distances = centers * (len(kept_ranks(budget.m)) * 8 + table)
    return len(plan.points) * (distances + 2 * (centers + 1) * probe.output_bytes)


def _memory_bytes(plan: Plan, probe: _Probe) -> int:
    """Outputs kept with their features, twice; distances of all pairs, two tiles of them; a batch; the process.

    The process with PyTorch alone holds about 600 MiB.
    """
    budget, config = plan.budget, plan.config
    candidates = budget.n0 or budget.n
    if config.center == "free":
        candidates += budget.n // BLOCK
    kept = candidates * (probe.output_bytes + 2 * probe.feature_bytes)
    pairs = candidates * (2 * budget.n if budget.n0 else candidates) * 4 + 2 * TILE_ENTRIES * 8
    batch = config.batch_size * (2 * probe.input_bytes + probe.output_bytes)
    block = 3 * config.forward_block * probe.feature_bytes
    return 600 * 2**20 + probe.model_bytes + kept + pairs + batch + block + 8 * 8 * budget.m


def _probe(plan: Plan, cell: CellPlan) -> _Probe:
    config = plan.config
    model = in_precision(cell.spec.build(plan.data, config.weights).to(config.device), config.precision)
    metrics = build_metrics(cell.metric_names(config), config.weights, config.device)
    check(plan, cell, model, metrics)
    sources = list(dict.fromkeys(metric.source for metric in metrics.values()))
    sampler = Sampler(model, GaussianNoise(cell.sigma), config.forward_block, config.forward_block)
    x = plan.input(model, 0)
    with evaluating(model):
        output = sampler.base_output(x)
        features = [metric.features(output[None]) for metric in sources]
        rate = _passes_per_second(sampler, x, sources, features)
    model_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    return _Probe(rate, x.nbytes, output.nbytes, max(part.nbytes for part in features), model_bytes)


def _passes_per_second(sampler: Sampler, x: Tensor, metrics: Sequence[Metric], references: Sequence[Tensor]) -> float:
    """Draws with their distances to one output, in about a second; the first block does not count."""
    done, started = 0, time.perf_counter()
    for block, outputs in enumerate(sampler.draw(x, _PROBE_BLOCKS * sampler.forward_block, RandomStream(0), "timing")):
        for metric, reference in zip(metrics, references, strict=True):
            float(metric.pairwise(metric.features(outputs), reference).sum())
        if block == 0:
            started = time.perf_counter()
            continue
        done += len(outputs)
        if time.perf_counter() - started > _PROBE_SECONDS:
            break
    return done / (time.perf_counter() - started)
