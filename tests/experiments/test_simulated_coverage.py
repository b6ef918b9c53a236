"""A short version of the campaign that simulates the coverage of every rule under every law, and its worlds."""

from __future__ import annotations

import csv
import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plugins import NOISES as LAWS

from centersmooth import RandomStream
from csrun.registry import CERTIFIERS, NOISES

ROOT = Path(__file__).parents[2]
CAMPAIGNS = ROOT / "scripts" / "campaigns"

sys.path.insert(0, str(CAMPAIGNS))
campaign = importlib.import_module("simulate_coverage")
known_worlds = importlib.import_module("known_worlds")
sys.path.remove(str(CAMPAIGNS))

BOUNDED_ONLY = ("translation", "brightness_contrast", "rotation", "scaling")
FOLDED = "composed[blur[law=folded_normal], brightness]"
"""Worlds in which the bound of the law is not attained."""

DRAWS = 20_000


def mass_of_draws(world, x, threshold):
    noisy = world.noise.sample(x, DRAWS, RandomStream(7).draws(f"mass at {float(x.sum())}", 0, x))
    return float((world.statistic(noisy) <= threshold).double().mean())


@pytest.mark.parametrize("name", known_worlds.WORLDS)
def test_a_world_has_the_masses_it_states(name):
    """At x' by its closed form, at x no more than the law's bound allows, and that much where it is attained."""
    world, error = known_worlds.WORLDS[name](), 5 / math.sqrt(4 * DRAWS)
    threshold = world.threshold(0.5)
    stated = world.mass_at_x_prime(threshold)
    required = world.noise.required_mass(stated, world.eps)
    at_x, at_x_prime = (mass_of_draws(world, x, threshold) for x in (world.x, world.x_prime))
    assert stated < 0.5 - world.margin
    assert abs(at_x_prime - stated) <= error + world.margin
    assert at_x <= required + error + world.margin
    if name not in (*BOUNDED_ONLY, FOLDED):
        assert at_x >= required - error


def test_no_certifier_rule_or_law_is_left_out():
    rules: dict[str, set[str]] = {}
    for case in campaign.CASES.values():
        rules.setdefault(case.certifier.name, set()).update(case.masses)
    _, enumerated = campaign.ENUMERATED
    rules[enumerated.name].update(enumerated.rules)
    assert rules == {name: set(entry.every_rule) for name, entry in CERTIFIERS.items()}
    laws = {name.partition("[")[0] for name in known_worlds.WORLDS}
    assert laws == {*NOISES, *LAWS}


def complaints(found):
    return campaign.complaints(campaign.with_allowed([one for one in found if isinstance(one, campaign.Row)]))


SOME = {
    "center": "gaussian",
    "center_free": "laplace",
    "center_nearest": "brightness",
    "mean": "gaussian[p=inf]",
    "direction": "contrast",
    "label": "rayleigh",
    "segmentation": "uniform[p=inf]",
    "score": "ablation",
    "prototypes": "splitting_8bit",
    "percentile": "composed[blur, brightness]",
    "percentile_box": "patch",
}


@pytest.mark.parametrize("name", SOME)
def test_certificates_fail_no_more_often_than_they_may(name):
    noise = SOME[name]
    found = list(campaign.simulate(name, campaign.CASES[name], noise, known_worlds.WORLDS[noise](), 60))
    assert not complaints(found)
    assert {row.rule for row in found if isinstance(row, campaign.Row)}


@pytest.mark.parametrize("name", campaign.FURTHER)
def test_certificates_that_use_up_their_alpha_fail_no_more_often(name):
    assert not complaints(campaign.of_further(name, 60))


FAULTS = [(variant.name, name) for variant, name, _, _ in campaign.BROKEN]


@pytest.mark.parametrize("fault", range(len(FAULTS)), ids=[f"{name}, {fault}" for fault, name in FAULTS])
def test_a_broken_variant_is_caught(fault):
    """With less noise, and with a ball for the range, most runs fail; of the others about twice as many as may."""
    runs = 60 if campaign.BROKEN[fault][0] in (campaign.LESS_NOISE, campaign.BALL_FOR_SIDES) else 400
    assert not complaints(campaign.of_broken(fault, runs))


def test_the_rule_without_draws_never_fails_and_a_broken_variant_is_caught():
    for noise in ("patch", "splitting_8bit"):
        (row,) = campaign.sweep(*campaign.ENUMERATED, noise, known_worlds.WORLDS[noise]())
        assert (row.violations, row.alpha) == (0, 0.0)
        assert row.informative > 0
    assert not complaints(campaign.of_broken_sweep())


def test_what_is_wrong_is_told():
    rows = campaign.of_further("prototypes, small shift", 10)
    above = [replace(row, violations=10) for row in rows]
    assert "10 of 10 certificates fail" in complaints(above)[0]
    assert len(complaints(above)) == len(rows)
    missed = [replace(row, variant="less noise", violations=0) for row in rows]
    assert complaints(missed) == ["prototypes, small shift with less noise is not caught"]


def test_the_published_campaign_covers_every_rule_in_a_thousand_runs():
    with open(ROOT / "docs" / "campaigns" / "coverage.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sound = [row for row in rows if row["variant"] == "sound"]
    assert all(int(row["violations"]) <= int(row["allowed"]) for row in sound)
    assert all(int(row["trials"]) >= 1_000 for row in rows if row["rule"] != "enumerated")
    names = {(row["certifier"], row["rule"]) for row in sound}
    assert names == {(name, rule) for name, entry in CERTIFIERS.items() for rule in entry.every_rule}
    caught = {(row["variant"], row["case"]) for row in rows if int(row["violations"]) > int(row["allowed"])}
    assert caught == {(row["variant"], row["case"]) for row in rows if row["variant"] != "sound"}


def test_refusals_are_listed_with_the_reason_of_the_library():
    world = known_worlds.WORLDS["uniform"]()
    (refusal,) = campaign.simulate("nearest", campaign.CASES["center_nearest"], "uniform", world, 1)
    assert refusal.reason.startswith("noise is UniformNoise")
    assert "| nearest | nearest | 1 | uniform | noise is UniformNoise" in campaign.summary(
        campaign.with_allowed(campaign.of_further("prototypes, small shift", 2)), [refusal], "command", 1.0
    )


def test_the_mass_at_a_threshold_is_the_largest_below():
    """Of a discrete law, whose next mass is as large."""
    world = known_worlds.WORLDS["patch"]()
    threshold = world.threshold(0.5)
    assert world.mass_at_x_prime(threshold) == pytest.approx(0.49)
    larger = torch.nextafter(torch.tensor(threshold, dtype=torch.float64), torch.tensor(math.inf).double())
    assert world.mass_at_x_prime(float(larger)) == pytest.approx(0.5)
