"""Certifiers of a user's own, by ``package.module:factory``: their rows, tables and figures, and mistakes in them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from support import ask

from csrun.registry import default_rules, entry_of, key_of, names_of
from csrun.report.tables import DETAILS, read_manifest, read_rows

PAGE = (Path(__file__).parents[2] / "docs" / "extending" / "certifier.md").read_text()
ALARM = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)[0]
OWN = """

from centersmooth import Center, Label


def model():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    return lambda x: network(x.float())[:, 0]


def bounded():
    made = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Hardtanh())
    made.output_range = (-1.0, 1.0)
    return made


def alarm():
    return Alarm(0.0)


ready = Alarm(0.0)


def around(metric):
    return Center(metric)


class Fallen(Alarm):
    def certificate(self, evidence, eps, rule, setting):
        return 1 / 0


fallen = Fallen(0.0)


def number():
    return 3


def two(metric, other): ...


def breaks(metric):
    raise ValueError("not today")
"""
SMALL = ["experiment=custom", "model=mine:model", "data.path=inputs.npy", "grid.eps=[0.1,0.3]", "points.count=2"]
SMALL += ["n=384", "m=384", "delta=0.17", "alpha1=0.02", "alpha2=0.02", "budget=smoke", "workers=1"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(ALARM + OWN)
    np.save(tmp_path / "inputs.npy", np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32))
    return tmp_path


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "runs" / "custom" / "certificates.csv", newline="") as file:
        return list(csv.DictReader(file))


def numbers(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[key] for key in ("rule", "about", "eps", "point", "outcome", "radius", "error", "alpha"))


@pytest.mark.parametrize("name", ["mine:alarm", "mine:ready"])
def test_one_that_brings_its_own_distance_has_rows_table_and_figure(folder, figures, name):
    answer = ask(*SMALL, f"certifier={name}", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    rows = rows_of(folder)
    assert len(rows) == 4  # points, eps
    assert {(row["certifier"], row["metric"], row["rule"], row["about"]) for row in rows} == {
        (name, "", "counts", "map")
    }
    assert {row["radius"] for row in rows} == {"0.0"}
    assert all(row[detail] == "" for row in rows for detail in DETAILS)
    assert read_manifest(folder / "runs" / "custom")["metrics"] == [name]
    assert (folder / "runs" / "custom" / f"radius_{name.replace(':', '_')}.png").is_file()
    assert name in answer.stdout


def test_one_made_from_a_metric_has_the_rows_of_what_it_makes(folder):
    """Beside what the registry makes of the same class: the same numbers in rows of its own name, without details."""
    answer = ask(*SMALL, "certifiers=[mine:around,center,mine:ready]", "metrics=[l1,l2]", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    rows = rows_of(folder)
    own, registered, ready = (
        [row for row in rows if row["certifier"] == name] for name in ("mine:around", "center", "mine:ready")
    )
    assert (len(own), len(ready)) == (2 * 2 * 2 * 3, 4)  # points, eps, metrics, rules
    key = lambda row: (row["metric"], *numbers(row))  # noqa: E731
    assert sorted(map(key, own)) == sorted(map(key, registered))
    assert all(row["delta"] == "" and row["r_hat"] == "" for row in own)
    assert read_manifest(folder / "runs" / "custom")["rule"] == {"certifier": "mine:around", "rule": "paper"}
    assert set(read_rows(folder / "runs" / "custom")["metric"]) == {"l1", "l2", "mine:ready"}


def test_its_rules_are_those_of_the_object(folder):
    assert ask(*SMALL, "certifier=mine:around", "rule=exact", cwd=folder).returncode == 0
    assert read_manifest(folder / "runs" / "custom")["rule"] == {"certifier": "mine:around", "rule": "exact"}
    answer = ask(*SMALL, "certifier=mine:alarm", "rule=exact", cwd=folder)
    assert (answer.returncode, answer.stderr) == (
        2,
        "cs-run: rule is 'exact': expected counts for the certifier mine:alarm\n",
    )


def test_the_same_request_computes_nothing_and_an_edit_everything(folder):
    request = [*SMALL, "certifiers=[center,mine:ready]"]
    assert ask(*request, cwd=folder).returncode == 0
    before = {path: path.read_bytes() for path in (folder / "runs").glob("mine.model*/**/*.npz")}
    table = (folder / "runs" / "custom" / "certificates.csv").read_bytes()
    assert ask(*request, cwd=folder).returncode == 0
    assert {path: path.read_bytes() for path in (folder / "runs").glob("mine.model*/**/*.npz")} == before
    assert (folder / "runs" / "custom" / "certificates.csv").read_bytes() == table
    source = folder / "mine.py"
    source.write_text(source.read_text().replace("ready = Alarm(0.0)", "ready = Alarm(-9.0)"))
    assert ask(*request, cwd=folder).returncode == 0
    assert {row["cell"] for row in rows_of(folder)}.isdisjoint(table.decode().split(","))


def test_it_is_sent_to_worker_processes_that_certify_several_points(folder, one_worker):
    """With the fields of its evidence, a dataclass of its own."""
    request = [one for one in SMALL if one != "workers=1"]
    answer = ask(*request, "certifiers=[mine:alarm,mine:around]", "workers=2", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert {row["outcome"] for row in rows_of(folder)} == {"certified"}


def test_its_statements_about_runs_are_attacked(folder):
    answer = ask(*SMALL, "certifiers=[mine:around]", "attack=search", "attacker.steps=2", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    with open(folder / "runs" / "custom" / "attack.csv", newline="") as file:
        assert {row["certifier"] for row in csv.DictReader(file)} == {"mine:around"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine:nope", "certifiers has 'mine:nope', which cannot be imported"),
        ("nope:nope", "certifiers has 'nope:nope', which cannot be imported"),
        ("mine:number", "the factory mine:number returned int: expected a Certifier"),
        ("mine:two", "certifiers has 'mine:two', which needs metric, other: expected a Certifier, or a function"),
        ("mine:breaks", "the factory mine:breaks failed: ValueError: not today"),
        ("mine:fallen", "the certifier mine:fallen failed: ZeroDivisionError: division by zero"),
        ("mine:__name__", "certifiers has 'mine:__name__', which is str: expected a Certifier, or a function"),
    ],
)
def test_a_mistake_in_it_is_one_line(folder, name, words):
    answer = ask(*SMALL, f"certifier={name}", cwd=folder)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"cs-run: {words}")
    assert len(answer.stderr.splitlines()) == 1
    assert not (folder / "runs" / "custom").exists()


def test_a_certifier_other_than_centers_is_served_by_the_experiment_for_own_models(folder):
    request = [one.replace("mine:model", "mine:bounded") for one in SMALL]
    answer = ask(*request, "certifier=mean", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert read_manifest(folder / "runs" / "custom")["rule"] == {"certifier": "mean", "rule": "spectral"}
    answer = ask(*request, "certifier=center", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert read_manifest(folder / "runs" / "custom")["rule"] == {"certifier": "center", "rule": "measured"}


@pytest.mark.parametrize("certifier", ["center", "center_free", "mine:f", "my.own_package:f", "center.sub:f"])
@pytest.mark.parametrize("metric", ["", "l2", "mine:d", "a.b.c:d"])
def test_a_key_names_one_certifier_and_one_metric(certifier, metric):
    assert names_of(key_of(certifier, metric)) == (certifier, metric)


def test_the_report_knows_an_own_certifier_by_its_rows_alone():
    """It imports nothing for it: of its rules the last leads, in the order of the file."""
    present = [("mine:f", "run"), ("center", "paper"), ("mine:f", "map"), ("mine:f", "run"), ("mine:f", "map")]
    assert default_rules(present) == default_rules() | {"mine:f": "map", "center": "paper"}
    assert (entry_of("mine:f").label, entry_of("mine:f").details) == ("mine:f", ())
