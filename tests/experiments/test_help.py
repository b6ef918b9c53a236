"""The help of `cs-run`: one screen, and a topic for everything that has names."""

from __future__ import annotations

import math
import re

import pytest
from support import ask, imported_by_requests

from centersmooth.certifiers import Certifier
from centersmooth.metrics import L2
from csrun import registry
from csrun.config import KEYS, settings
from csrun.help import experiments, groups, options, told
from csrun.metrics import build_metrics

TOPICS = {
    "experiments": experiments(),
    "models": registry.MODELS,
    "metrics": registry.METRICS,
    "data": registry.DATA,
    "noise": registry.NOISES,
    "certifiers": registry.CERTIFIERS,
    "train": registry.METHODS,
}


def test_the_help_is_one_screen_and_names_every_topic(tmp_path):
    answer = ask("--help", cwd=tmp_path)
    assert answer.returncode == 0
    assert len(answer.stdout.splitlines()) <= 40
    assert all(len(line) <= 110 for line in answer.stdout.splitlines())
    assert f"all there is: {', '.join(TOPICS)}, keys" in answer.stdout


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_lists_every_name(topic):
    lines = told(topic).splitlines()
    assert max(map(len, lines)) <= 130
    listed = [line.split()[0] for line in lines if re.match(r"  \S", line)]
    assert set(TOPICS[topic]) <= set(listed)


def test_adapters_are_told_with_the_models():
    told_models = told("models")
    assert all(f"  {entry.usage(name)}  " in told_models for name, entry in registry.ADAPTERS.items())
    assert "boxes:SCORE:COUNT  " in told_models


def test_keys_list_every_setting():
    named = set()
    for keys in KEYS:
        first, *others = re.split(r",? ", keys)
        holder = first.partition(".")[0]
        named |= {first, *(f"{holder}{key}" if key.startswith(".") else key for key in others)}
    holders = {key.partition(".")[0] for key in settings() if "." in key}
    assert named - {"experiment"} == set(settings()) - (holders - {"noise", "data", "train"}) | {"noise.name"}


def test_help_imports_nothing_heavy():
    topics = ["", *TOPICS, "keys"]
    answers = imported_by_requests([["--help", topic] for topic in topics])
    assert dict(zip(topics, answers, strict=True)) == dict.fromkeys(topics, (0, set()))


def test_a_misspelt_topic_is_one_line(tmp_path):
    answer = ask("--help", "nois", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert re.fullmatch(
        r"cs-run: --help has 'nois': expected one of experiments, .*, keys; did you mean noise\?\n", answer.stderr
    )


def test_settings_beside_the_flag_are_no_topic(tmp_path):
    assert ask("--help", "experiment=tv_mnist", cwd=tmp_path).stdout == ask("-h", cwd=tmp_path).stdout


@pytest.mark.parametrize("name", registry.CERTIFIERS)
def test_rules_are_said_to_be_about_what_they_are(name):
    entry = registry.CERTIFIERS[name]
    certifier: Certifier = entry.build(L2()) if entry.measured else entry.build()
    assert {rule for rule in certifier.rules if certifier.about(rule) == "map"} == set(entry.of_map)


def test_the_rule_that_leads_is_marked():
    told_certifiers = told("certifiers")
    assert "rules paper* (run), exact (run), measured (run)" in told_certifiers
    assert "rules counts_run (run), betting (map), counts* (map)" in told_certifiers


@pytest.mark.parametrize("name", [name for name in registry.METRICS if name != "lpips"])
def test_the_range_of_a_metric_is_its_own(name):
    """Whatever the length of outputs: that of texts is a limit of edits."""
    metric, shapes = build_metrics([name], {}, "cpu")[name], ((1, 4, 4), (1, 4, 8)) if name == "tv" else ((4,), (8,))
    short, long = (metric.diameter(shape, None) for shape in shapes)
    assert (short if short == long else math.inf) == registry.METRICS[name].largest


def test_every_noise_says_what_its_scale_is():
    assert all(entry.size and entry.threat for entry in registry.NOISES.values())


def test_every_group_has_a_file_for_every_name():
    assert groups() == ["data", "experiment", "noise", "train"]
    assert set(options("data")) == set(registry.DATA)
    assert set(options("noise")) == set(registry.NOISES)
