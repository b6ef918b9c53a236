"""The certifier, rule and counts that a pilot recommends are what runs then bear out, on points it has not seen."""

from __future__ import annotations

import functools
import io
import shlex
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch
from rich.console import Console
from support import SMALL, ask, compose

from centersmooth import L1, L2, Angular, Budget, Center, Direction, GaussianNoise, Mean, Nearest, RandomStream
from centersmooth.bounds import EXACT
from centersmooth.gathering import Setting, gather, gather_one
from centersmooth.sampling import Sampler
from csrun import recommend as recommending
from csrun.config import GridPoint
from csrun.errors import RunError
from csrun.plan import CellPlan, make_plan
from csrun.recommend import (
    Foreseeing,
    Option,
    Pilot,
    cheapest,
    choices,
    commands,
    expected_answers,
    pilot_budget,
    pilot_points,
    recommend,
    sharpest,
    tried,
)
from csrun.system.progress import Display

WEIGHT = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
NOISE = GaussianNoise(0.25)
SAMPLER = Sampler(lambda inputs: torch.sigmoid(inputs @ WEIGHT), NOISE, 128, 1024, (0.0, 1.0))
CERTIFIERS = {
    "center.l2": Center(L2()),
    "center_free.l2": Center(L2(), "free"),
    "mean.l1": Mean(L1()),
    "mean.l2": Mean(L2()),
    "center_nearest.l2": Nearest(L2()),
    "direction.angular": Direction(Angular()),
}
POINTS = [torch.full((8,), level) for level in (-0.1, 0.0, 0.1)]


def pilot_of(*hs: float, n0: int = 0, asked: int = 10_000) -> Pilot:
    """A pilot at three points, of every certifier that suits."""
    budget = pilot_budget(Budget(asked, asked, 0.08, n0=n0))
    setting = Setting.of(SAMPLER, budget)
    certifiers = {key: one for key, one in CERTIFIERS.items() if not one.unsuited(setting)}
    asked_for = {key: Foreseeing(one) for key, one in certifiers.items()}
    points = [gather(SAMPLER, asked_for, budget, x, RandomStream(i)) for i, x in enumerate(POINTS)]
    pairs = tuple(GridPoint(0.25 * h, h, 0.25) for h in hs)
    return Pilot(CellPlan("model", None, NOISE, pairs, None), [setting] * len(points), certifiers, points, 1e-3)


@pytest.fixture(scope="module")
def pilot() -> Pilot:
    return pilot_of(1.0, 1.5)


@pytest.fixture(scope="module")
def options_of(pilot: Pilot) -> Callable[[str], list[Option]]:
    """Expectations of the pilot for each certifier, by the certifier's key."""
    return functools.cache(lambda key: list(tried(pilot, key, Budget(delta=0.1))))


@functools.cache
def evidence_of(key: str, budget: Budget) -> list[Any]:
    """Evidence of a run at the same points, for every rule and eps."""
    return [gather_one(SAMPLER, CERTIFIERS[key], budget, x, RandomStream(9, i)) for i, x in enumerate(POINTS)]


def certified(key: str, rule: str, eps: float, budget: Budget) -> float:
    """Median radius of a run at the same points."""
    certifier, setting = CERTIFIERS[key], Setting.of(SAMPLER, budget)
    return median(certifier.certificate(one, eps, rule, setting).radius for one in evidence_of(key, budget))


@pytest.mark.parametrize("h", [1.0, 1.5])
@pytest.mark.parametrize(("n", "m"), [(1_000, 2_000), (2_000, 4_000)])
@pytest.mark.parametrize("key", CERTIFIERS)
def test_expected_radii_are_near_the_certified_ones(
    options_of: Callable[[str], list[Option]], key: str, n: int, m: int, h: float
) -> None:
    budget, rules = Budget(n, m, 0.1), CERTIFIERS[key].rules
    options = [one for one in options_of(key) if one.budget == budget and one.pair.h == h]
    assert {option.rule for option in options} == set(rules if key == "center.l2" else rules[-1:])
    for option in options:
        assert option.radius == pytest.approx(certified(key, option.rule, option.pair.eps, budget), rel=0.1)


def test_expected_radii_of_candidates_drawn_apart_are_near_the_certified_ones() -> None:
    """Under Smooth-HD, which means and free centers do not suit."""
    pilot = pilot_of(1.0, n0=30)
    assert set(pilot.certifiers) == {"center.l2", "center_nearest.l2"}
    options = [one for one in tried(pilot, "center.l2", Budget(n0=30)) if one.budget.n == one.budget.m == 4_000]
    for option in options:
        assert option.radius == pytest.approx(certified("center.l2", option.rule, 0.25, option.budget), rel=0.1)
    assert len(options) > 3


def test_the_sharpest_choice_is_the_one_that_certifies_least(pilot: Pilot, monkeypatch) -> None:
    """Among all certifiers under l2, from runs at the counts recommended for each."""
    monkeypatch.setattr(recommending, "SIZES", (1_000, 2_000, 4_000))
    chosen = [one for one in choices(pilot, Budget()) if one.metric == "l2" and one.pair.h == 1.0]
    assert {one.certifier for one in chosen} == {"center", "center_free", "mean", "center_nearest"}
    radii = {(one.key, one.rule): certified(one.key, one.rule, one.pair.eps, one.budget) for one in chosen}
    best = sharpest(chosen)
    assert (best.key, best.rule) == min(radii, key=radii.__getitem__)


def test_counts_too_small_for_a_radius_are_left_out() -> None:
    """At h = 3 no more than a few thousand draws tell the center's radius."""
    found = {(option.budget.m, option.rule) for option in tried(pilot_of(3.0), "center.l2", Budget())}
    assert not {m for m, _ in found if m < 4_000}
    assert (100_000, "exact") in found
    assert (100_000, "paper") not in found


def test_expected_answers_are_how_often_centers_pass() -> None:
    """Of 150 runs at three slacks; the law of the draws around a mass of one half would have 99% pass at the second."""
    budgets = [Budget(500, 500, delta) for delta in (0.07, 0.113, 0.14)]
    certifier = CERTIFIERS["center.l2"]
    runs = [gather_one(SAMPLER, certifier, budgets[0], POINTS[1], RandomStream(i), radius=False) for i in range(150)]
    for budget in budgets:
        passed = sum(budget.accepts_center(run.inside, EXACT) for run in runs) / 150
        assert passed == pytest.approx(expected_answers(0.5, budget, "exact"), abs=0.09)


def option(n: int, m: int, radius: float, answers: float = 1.0, **rest) -> Option:
    values = {"model": "autoencoder", "key": "center.tv", "rule": "measured", "pair": GridPoint(0.5, 1.0, 0.5)}
    values |= {"sampled": True} | rest
    return Option(
        **values,
        budget=Budget(n, m, 0.1),
        radius=radius,
        error=0.1,
        answers=answers,
        passes=n + m,
        seconds=1,
    )


def test_the_cheapest_of_nearly_equal_budgets_is_recommended() -> None:
    cheap, dear, wide = option(1_000, 2_000, 1.04), option(4_000, 9_000, 1.0), option(500, 900, 1.2)
    shy = option(400, 800, 0.5, answers=0.5)
    assert cheapest([dear, wide, shy, cheap]) is cheap
    assert cheapest([shy]) is shy


def test_the_best_is_the_sharpest_of_those_that_answer() -> None:
    cheap, dear, shy = option(1_000, 2_000, 1.04), option(4_000, 9_000, 1.0), option(400, 800, 0.5, answers=0.5)
    assert sharpest([cheap, dear, shy]) is dear


SETTINGS = ["experiment=tv_digits", "recommend=true", "n=1200", "data.path=my folder", "grid.h=[1,2]", "metrics=[tv]"]


def test_commands_are_the_request_with_what_was_chosen() -> None:
    """Choices that differ in eps alone make one command; what has one value in the request stays as it was given."""
    best = [
        option(1_000, 2_000, 1.0, pair=GridPoint(eps, h, eps / h)) for eps, h in ((0.1, 1.0), (0.3, 1.0), (0.5, 2.0))
    ]
    lines = commands(compose(*SETTINGS[:1], *SETTINGS[4:]), SETTINGS, best)
    chosen = "metrics=[tv] certifiers=[center] rule=measured n=1000 m=2000 delta=0.1".split()
    start = ["cs-run", "experiment=tv_digits", "data.path=my folder", *chosen]
    assert [shlex.split(line) for line in lines] == [
        [*start, "grid.h=[1.0]", "grid.eps=[0.1,0.3]"],
        [*start, "grid.h=[2.0]", "grid.eps=[0.5]"],
    ]


def test_commands_name_model_and_metric_of_several_and_no_slack_but_of_centers() -> None:
    config = compose("models=[autoencoder,reconstructor]", "metrics=[tv,l2]", "grid.h=null", "grid.scale=[0.5]")
    mean = option(1_000, 2_000, 1.0, key="mean.l2", rule="spectral")
    [line] = commands(config, ["models=[autoencoder,reconstructor]", "metrics=[tv,l2]", "grid.h=null"], [mean])
    assert shlex.split(line) == [
        *("cs-run", "grid.h=null", "models=[autoencoder]", "metrics=[l2]", "certifiers=[mean]", "rule=spectral"),
        *("n=1000", "m=2000", "grid.scale=[0.5]", "grid.eps=[0.5]"),
    ]


def test_nothing_is_certified_and_the_command_printed_certifies(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recommending, "SIZES", (1_000, 2_000))
    out = f"out={tmp_path}/my runs"
    said = ask("recommend=true", *SMALL, out, "metrics=[tv,l2]", "points.count=4", cwd=tmp_path)
    assert (said.returncode, said.stderr) == (0, "")
    assert "test points 4, 5, 6, 7, 8" in said.stdout
    assert "Estimates, no certificates" in said.stdout
    assert said.stdout.count("│ * │") == 2
    assert {path.name for path in (tmp_path / "my runs").iterdir()} == {"checkpoints"}
    lines = [shlex.split(line)[1:] for line in said.stdout.splitlines() if line.startswith("cs-run ")]
    assert [{"metrics=[tv]", "metrics=[l2]"} & set(line) for line in lines] == [{"metrics=[tv]"}, {"metrics=[l2]"}]
    done = ask(*lines[1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [certifier], [rule] = (
        [one.partition("=")[2] for one in lines[1] if one.startswith(key)] for key in ("certi", "rule")
    )
    rows = (tmp_path / "my runs" / "tv_digits" / "certificates.csv").read_text()
    assert f",{certifier.strip('[]')},l2,{rule}," in rows


def test_a_law_whose_inputs_can_all_be_computed_is_certified_without_counts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recommending, "SIZES", (1_000, 2_000))
    noise = ("noise=patch", "grid.h=null", "grid.scale=[3]", "grid.eps=[1]")
    said = ask("recommend=true", *SMALL, *noise, f"out={tmp_path}", cwd=tmp_path)
    assert (said.returncode, said.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")] for line in said.stdout.splitlines() if "center" in line]
    counts = {row[6]: row[7:10] for row in rows if len(row) > 10}
    assert set(counts) == {"paper", "exact", "measured", "enumerated"}
    assert counts["enumerated"] == ["", "", ""]
    chosen = option(1, 1, 1.0, rule="enumerated", sampled=False, pair=GridPoint(1.0, 1 / 3, 3.0))
    given = [*(one for one in SMALL if not one.startswith("grid")), *noise, f"out={tmp_path}"]
    [line] = commands(compose(*SMALL, *noise), given, [chosen])
    settings = shlex.split(line)[1:]
    assert not [one for one in settings if one.startswith(("n=", "m=", "delta="))]
    assert ask(*settings, cwd=tmp_path).returncode == 0


def test_counts_of_the_request_that_certify_nothing_are_no_obstacle(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recommending, "SIZES", (1_000, 2_000))
    screen = io.StringIO()
    config = compose(*SMALL, f"out={tmp_path}", "recommend=true", "n=100", "m=100")
    recommend(config, Display(Console(file=screen, width=200)), [])
    assert "certifiers=[" in screen.getvalue()


def test_points_before_the_request_serve_where_none_follow() -> None:
    plan = make_plan(compose(*SMALL, "points.start=2", "points.count=1"))
    total = len(plan.data.test)
    late = make_plan(compose(*SMALL, f"points.start={total - 1}", "points.count=1"))
    assert pilot_points(plan) == [3, 4, 5, 6, 7]
    assert pilot_points(late) == [0, 1, 2, 3, 4]
    with pytest.raises(RunError, match=r"all \d+ of digits are: lower points.count"):
        pilot_points(make_plan(compose(*SMALL, f"points.count={total}")))


@pytest.mark.parametrize(
    "other", ["certifiers=[center_free]", "certifiers=[center,mean]", "rule=measured", "attack=pgd"]
)
def test_what_it_chooses_itself_is_refused(other: str) -> None:
    with pytest.raises(RunError, match="recommend is true, which chooses certifier and rule"):
        compose(*SMALL, "recommend=true", other)


def test_where_nothing_helps_one_line_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recommending, "SIZES", (1_000,))
    config = compose(*SMALL, f"out={tmp_path}", "recommend=true", "metrics=[sql2]", "grid.h=[9]")
    with pytest.raises(RunError, match="no budget tried certifies any eps of the grid"):
        recommend(config, Display(Console(file=io.StringIO())), [])
