"""Estimates of ``cs-run --dry-run``: a metric's time as well as the model's, with the pairs of the center's sample."""

from __future__ import annotations

import io
import math
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from support import compose

from centersmooth import Budget, Center, DistanceFunction, GaussianNoise, Metric, Percentile
from centersmooth.certifiers import Certifier
from centersmooth.gathering import Setting
from csrun.cost import _center_seconds, _distinct, _fresh_seconds, _passes_in_blocks, estimate
from csrun.plan import make_plan
from csrun.runner import dry_run, run
from csrun.system.progress import Display

PAIR = 2e-4
"""Seconds that a distance takes by the clock of these tests, on which all else takes none."""

CLOCK = SimpleNamespace(now=0.0, perf_counter=lambda: CLOCK.now)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr("csrun.cost.time", CLOCK)


def sleepy(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    CLOCK.now += PAIR * len(a)
    return (a - b).double().abs().flatten(1).amax(1)


class Sleepy(Metric):
    """A metric that is no `DistanceFunction`: pairs of equal outputs take their time too."""

    def features(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs

    def pairwise(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        CLOCK.now += PAIR * len(a) * len(b)
        return (a[:, None] - b[None]).double().abs().amax(-1)


NEW = torch.rand(1_000, 3, generator=torch.Generator().manual_seed(0))
REPEATED = torch.arange(1_000).remainder(100).float()[:, None]


@pytest.mark.parametrize(
    ("metric", "outputs", "n", "n0", "pairs"),
    [
        (DistanceFunction(sleepy), NEW, 5_000, 0, 5_000**2),
        (DistanceFunction(sleepy), NEW, 300, 0, 300**2),
        (DistanceFunction(sleepy), REPEATED, 2_000, 0, 100**2 + 100),
        (Sleepy(), REPEATED, 5_000, 0, 5_000**2),
        (DistanceFunction(sleepy), NEW, 5_000, 30, 5_000 * 30),
    ],
)
def test_the_center_takes_as_many_pairs_as_are_compared(metric, outputs, n, n0, pairs):
    started = CLOCK.now
    estimated = _center_seconds(metric, outputs, Budget(n, 1_000, 0.1, n0=n0))
    assert pairs * PAIR / 2 < estimated < pairs * PAIR * 2
    assert CLOCK.now - started < 5


def fresh_seconds(certifiers: list[Certifier], outputs: torch.Tensor, block: int = 128) -> float:
    setting = Setting(GaussianNoise(0.5), Budget(5_000, 10_000, 0.1), (0.0, 1.0), block)
    return _fresh_seconds(certifiers, setting, outputs)


def test_a_fresh_output_takes_one_distance_and_repeated_ones_none():
    center = Center(DistanceFunction(sleepy))
    assert fresh_seconds([center], NEW) == pytest.approx(PAIR, rel=0.05)
    assert fresh_seconds([center], NEW[:16].repeat(60, 1)) == pytest.approx(PAIR * 16 / 128, rel=0.1)


def test_a_fresh_output_is_measured_by_each_certifier_that_is_asked_for():
    metric = Sleepy()
    both = fresh_seconds([Center(metric), Center(metric, kind="free")], NEW)
    assert both == pytest.approx(2 * PAIR, rel=0.05)
    assert fresh_seconds([Percentile()], NEW) == 0
    assert fresh_seconds([Percentile(), Center(metric)], NEW) == pytest.approx(PAIR, rel=0.05)


class InChunks(Sleepy):
    """A metric whose features take a second for 16 outputs, or for the fewer ones at the end."""

    def features(self, outputs: torch.Tensor) -> torch.Tensor:
        CLOCK.now += math.ceil(len(outputs) / 16)
        return outputs


def test_features_take_the_time_of_a_whole_block():
    assert fresh_seconds([Center(InChunks())], NEW, block=16) == pytest.approx(1 / 16, rel=0.1)


def test_outputs_that_are_yet_to_be_seen_are_counted_by_good_and_turing():
    assert _distinct(NEW, 20_000) == 20_000
    assert _distinct(REPEATED, 20_000) == 100
    half = torch.cat([torch.zeros(500, 3), NEW[:500]])
    assert _distinct(half, 20_000) == pytest.approx(501 + 19_000 / 2)
    assert _distinct(half, 500) == 1


MINE = """
from test_cost_clock import CLOCK


def identity():
    return lambda inputs: inputs.flatten(1)


def slow():
    def distance(a, b):
        CLOCK.now += 2e-5 * len(a)
        return (a - b).abs().amax(1)
    return distance
"""


@pytest.fixture
def slow_metric(tmp_path, monkeypatch):
    """Settings of two points, with a metric of the user's own that takes all the time."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "test_cost_clock", SimpleNamespace(CLOCK=CLOCK))
    (tmp_path / "sleeping.py").write_text(MINE)
    np.save(tmp_path / "inputs.npy", np.zeros((2, 4), np.float32))
    own = ["experiment=custom", "model=sleeping:identity", "metric=sleeping:slow", f"data.path={tmp_path}/inputs.npy"]
    counts = ["n=310", "m=350", "delta=0.1", "grid.eps=[0.1]", "grid.h=[1]", "points.count=2", "forward_block=32"]
    return [*own, *counts, "workers=1", f"out={tmp_path / 'runs'}"]


def test_a_slow_metric_of_ones_own_is_estimated_within_a_factor_of_two(slow_metric):
    """310^2 distances for the center of each of two points, and 2 x 350 of fresh draws: 4 s, and next to no model."""
    config = compose(*slow_metric)
    said = io.StringIO()
    dry_run(config, Display(Console(file=said, width=300)))
    assert re.search(r"about [2-9] s on cpu", said.getvalue())
    (cost,) = estimate(make_plan(config))
    started = CLOCK.now
    run(config, Display(Console(file=io.StringIO())), "cs-run (test)")
    taken = CLOCK.now - started
    assert 2 * 310**2 * 2e-5 / 2 < cost.seconds < 2 * taken


def test_passes_are_computed_in_whole_blocks():
    plan = make_plan(compose("budget=smoke", "n=310", "m=1300", "forward_block=128", "points.count=2"))
    assert plan.passes_of_point == 1 + 310 + 1300
    assert _passes_in_blocks(plan) == 128 + 3 * 128 + 11 * 128


def test_a_metric_takes_no_time_where_no_certifier_is_built_from_it(slow_metric):
    (cost,) = estimate(make_plan(compose(*slow_metric, "certifiers=[percentile]")))
    assert cost.seconds == 0


def test_a_training_takes_the_time_of_its_images_whatever_its_passes_are(monkeypatch):
    done = []

    def train(model, training, data, step_done):
        done.append(training.images)
        CLOCK.now += 0.5 + 1e-3 * training.images  # what a step takes of any size, and what an image does

    monkeypatch.setattr("csrun.cost.train", train)
    some = [
        "experiment=label_digits",
        "budget=smoke",
        "grid.scale=[0.25,0.5]",
        "train.images=400",
        "train.batch_size=100",
    ]
    costs = estimate(make_plan(compose(*some, "train=smoothadv", "train.epochs=3", "workers=1")))
    assert [cost.training_seconds for cost in costs] == [pytest.approx(3 * 400 * (0.504 / 4))] * 2
    assert done == [4, 4, 4]  # once for both scales, and no more, as these took a second


def test_a_law_that_depends_on_the_size_of_the_image_is_estimated_with_all_its_noisy_inputs():
    asked = ["experiment=tv_digits", "budget=smoke", "noise=patch", "grid.eps=[1]", "grid.h=null", "grid.scale=[4]"]
    plan = make_plan(compose(*asked, "models=[autoencoder]", "train=none", "points.count=2"))
    (cost,) = estimate(plan)
    assert cost.passes == 2 * (plan.passes_of_point + 8 * 8)
