"""What the pilot recommends is what a run then gives, on points it has not seen."""

from __future__ import annotations

import io
from statistics import median

import pytest
import torch
from gathering_support import gather_centers
from rich.console import Console
from support import SMALL, compose

from centersmooth import L2, Budget, GaussianNoise, RandomStream
from centersmooth.bounds import EXACT
from centersmooth.certifiers.center.rules import certificate_from
from centersmooth.gathering import Setting
from centersmooth.sampling import Sampler
from csrun import recommend as recommending
from csrun.config import GridPoint
from csrun.errors import RunError
from csrun.plan import make_plan
from csrun.recommend import (
    Option,
    best,
    expected_answers,
    expected_radius,
    pilot_budget,
    pilot_points,
    recommend,
)
from csrun.system.progress import Display

WEIGHT = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
SAMPLER = Sampler(lambda inputs: torch.tanh(inputs @ WEIGHT), GaussianNoise(0.25), 128, 1024)


def evidence_of(budget, seed, x=None):
    x = torch.zeros(8) if x is None else x
    return gather_centers(SAMPLER, {"l2": L2()}, budget, x, RandomStream(seed))["l2"]


@pytest.mark.parametrize("h", [1.0, 1.5])
@pytest.mark.parametrize(
    "budget", [Budget(2_000, 10_000, 0.08), Budget(1_000, 2_000, 0.1), Budget(1_000, 4_000, 0.1, n0=30)]
)
def test_expected_radii_are_near_the_certified_ones(h, budget):
    pilot = pilot_budget(Budget(1_000, 4_000, 0.08, n0=budget.n0))
    noise, pair = GaussianNoise(0.25), GridPoint(0.25 * h, h, 0.25)
    expected = [expected_radius(evidence_of(pilot, seed), L2(), noise, pair.eps, budget, pilot) for seed in range(3)]
    setting = Setting(noise, budget, None, 128)
    found = certificate_from(evidence_of(budget, 10), pair.eps, "measured", L2(), "sample", setting)
    assert found.radius == pytest.approx(median(expected), rel=0.07)


def test_a_pilot_says_nothing_beyond_its_largest_distances():
    """At h = 3 the radius is among the last ranks of any sample of this size."""
    pilot = pilot_budget(Budget(1_000, 2_000, 0.08))
    evidence = evidence_of(pilot, 0)
    noise, eps = GaussianNoise(0.25), 0.75
    assert expected_radius(evidence, L2(), noise, eps, Budget(2_000, 100_000, 0.05), pilot) is None
    assert expected_radius(evidence, L2(), noise, eps, Budget(1_000, 2_000, 0.05), pilot) is None


@pytest.mark.parametrize("share", [0.46, 0.5])
def test_expected_answers_are_how_often_centers_pass(share):
    budget = Budget(1_000, 2_000, 0.08)
    draws = torch.distributions.Binomial(budget.n, torch.tensor(share))
    torch.manual_seed(0)
    passed = [budget.accepts_center(int(inside), EXACT) for inside in draws.sample((4_000,))]
    assert sum(passed) / 4_000 == pytest.approx(expected_answers(share, budget), abs=0.05)


def test_the_cheapest_of_nearly_equal_budgets_is_recommended():
    def option(n, m, radius, answers=1.0):
        return Option(GridPoint(0.5, 1.0, 0.5), Budget(n, m, 0.1), radius, 0.1, answers, 1.0)

    cheap, dear, wide, shy = option(1_000, 2_000, 1.04), option(4_000, 9_000, 1.0), option(500, 900, 1.2), None
    shy = option(400, 800, 0.5, answers=0.5)
    assert best([dear, wide, shy, cheap]) is cheap
    assert best([shy]) is shy
    assert best([]) is None


def test_end_to_end_and_nothing_is_certified(tmp_path):
    screen = io.StringIO()
    config = compose(*SMALL, f"out={tmp_path}", "grid.h=[1,1.5]", "points.count=4", "metrics=[tv,l2]")
    recommend(config, Display(Console(file=screen, width=200)))
    said = screen.getvalue()
    eps = f"{config.grid.eps[0]:g}"
    assert said.count(" * ") == 2 * len(config.grid.eps), said
    assert eps in said
    assert "test points 4, 5, 6, 7, 8" in said
    assert "no certificates" in said
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints"}


def test_points_before_the_request_serve_where_none_follow():
    plan = make_plan(compose(*SMALL, "points.start=2", "points.count=1"))
    total = len(plan.data.test)
    late = make_plan(compose(*SMALL, f"points.start={total - 1}", "points.count=1"))
    assert pilot_points(plan) == [3, 4, 5, 6, 7]
    assert pilot_points(late) == [0, 1, 2, 3, 4]
    with pytest.raises(RunError, match=r"all \d+ of digits are: lower points.count"):
        pilot_points(make_plan(compose(*SMALL, f"points.count={total}")))


@pytest.mark.parametrize("other", ["certifiers=[center_free]", "certifiers=[center,mean]", "attack=pgd"])
def test_what_it_says_nothing_about_is_refused(other):
    with pytest.raises(RunError, match="recommend is true, which is about centers of the sample"):
        compose(*SMALL, "recommend=true", other)


def test_where_nothing_helps_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(recommending, "SIZES", (1_000,))
    config = compose(*SMALL, f"out={tmp_path}", "rule=measured", "grid.h=[2.9]", "m=9000", "points.count=1")
    with pytest.raises(RunError, match=r"no budget tried certifies any eps at h = 2.9: lower grid.h"):
        recommend(config, Display(Console(file=io.StringIO())))
