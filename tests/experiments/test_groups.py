"""Groups of configuration files on the command line, and what of them is refused before anything heavy is imported."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import ask, compose, compose_raw, imported_by_requests

from csrun import registry
from csrun.config import require_known_names
from csrun.errors import RunError


@pytest.mark.parametrize("name", registry.DATA)
def test_a_data_set_is_chosen_by_its_file(name):
    assert compose(f"data={name}").data.name == name


def test_groups_win_over_what_the_experiment_chooses():
    config = compose("experiment=tv_mnist", "data=digits", "train=ablation", "noise=gaussian", "data.path=/here")
    assert (config.data.name, config.data.path) == ("digits", "/here")
    assert config.train.method == ["augment", "none"]
    assert config.noise == {"name": "gaussian"}


def test_a_title_does_not_name_other_data_than_there_are():
    own = "Total variation on MNIST, autoencoder and reconstructor (figure 5a, 5b)"
    assert compose("experiment=tv_mnist").title == own
    assert compose("experiment=tv_mnist", "data=digits").title == f"{own}; here on digits"
    assert compose("experiment=tv_mnist", "data=digits", "title=Mine").title == "Mine"


@pytest.mark.parametrize(
    ("experiment", "data", "methods"),
    [
        ("tv_mnist", "mnist", ["augment"]),
        ("ablation_mnist", "mnist", ["augment", "none"]),
        ("ablation_cifar10", "cifar10", ["augment", "none"]),
        ("jaccard_astronaut", "astronaut", ["augment"]),
        ("lpips_biggan", "latents128", ["augment"]),
    ],
)
def test_an_experiment_chooses_its_data_and_training(experiment, data, methods):
    config = compose(f"experiment={experiment}")
    assert (config.data.name, config.train.method) == (data, methods)
    assert compose(f"experiment={experiment}", "train=none").train.method == ["none"]


REFUSED = {
    "experiment=tv_digit": (
        "experiment is 'tv_digit': expected one of cs-run --help experiments; did you mean tv_digits?"
    ),
    "noise=gausian": "noise is 'gausian': expected .*; did you mean gaussian?",
    "data=mnsit": "data is 'mnsit': expected one of astronaut, .*; did you mean mnist?",
    "data=null": "data is 'null': expected one of",
    "experiment=0.05": "experiment is '0.05': expected one of",
    "train=[augment,none]": "train is '[augment,none]': expected one of ablation, augment, ",
    "data=[null]": "data is '[null]': expected one of",
    "train=a b": "train is 'a b': expected one of ablation",
    "noise=int(3)": "one of data, experiment, noise, train is not a name: expected one, as in noise=gaussian",
    "+data=mnsit": "data is 'mnsit': expected one of",
    "train=ablaton": "train is 'ablaton': expected one of ablation, .*; did you mean ablation?",
    "train.method=[agument]": "train.method has 'agument': expected .*; did you mean augment?",
    "noise='gausian'": "noise is 'gausian': expected .*; did you mean gaussian?",
    "certifiers=[centre]": "certifiers has 'centre': expected one of .*or package.module:factory; did you mean center?",
    "rule=local": "rule is 'local': expected one of paper, exact, measured, enumerated for the certifier center",
    "grid.esp=[0.1]": "'grid.esp' is not a setting: cs-run --help keys lists them; did you mean grid.eps?",
    "metricss=[tv]": "'metricss' is not a setting: cs-run --help keys lists them; did you mean metrics?",
    "+nope=3": "'nope' is not a setting: cs-run --help keys lists them",
    "noise.q=3": "'noise.q' is not a setting: cs-run --help keys lists them",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_what_is_not_there_is_refused_in_one_line(tmp_path, setting):
    answer = ask(setting, cwd=tmp_path)
    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 1
    start, _, end = REFUSED[setting].partition(".*")
    assert answer.stderr.startswith(f"cs-run: {start}")
    assert end in answer.stderr


def test_a_sweep_is_refused_before_its_first_job(tmp_path):
    answer = ask("--multirun", "train=none,ablaton", "name=a,b", "dry_run=true", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "train is 'ablaton'" in answer.stderr


def test_it_is_refused_before_anything_heavy_is_imported():
    requests = [[setting] for setting in (*REFUSED, "certifiers=[mean,centre]")] + [["certifier=label", "rule=paper"]]
    assert imported_by_requests(requests) == [(2, set())] * len(requests)


def test_a_grid_in_h_is_refused_with_the_names(monkeypatch):
    """`require_known_names` is what the command line asks before it imports PyTorch."""
    law = replace(registry.NOISES["gaussian"], ratio=False)
    monkeypatch.setitem(registry.NOISES, "gaussian", law)
    with pytest.raises(RunError, match=r"^grid\.h is set, and gaussian noise has no ratio .*: expected grid\.scale$"):
        require_known_names(compose_raw())
    require_known_names(compose_raw("grid.h=null", "grid.scale=[0.5]"))
