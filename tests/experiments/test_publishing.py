"""Published results: cells join, nothing is lost or pooled by mistake; `make full` fills in what is missing."""

from __future__ import annotations

import csv
import functools
import importlib
import io
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console
from running import run_in
from support import SMALL, compose, counts_of, own_problems

from centersmooth import GaussianNoise
from centersmooth.bounds import PAPER
from centersmooth.certifiers.center.rules import center_problem, radius_problem
from csrun import publishing
from csrun.cells import METHOD_VERSION
from csrun.config import grid_pairs
from csrun.errors import RunError
from csrun.help import described, experiments
from csrun.plan import make_plan
from csrun.publishing import add, publish
from csrun.registry import entry_of
from csrun.report.claims import Study, current
from csrun.report.panels import draw_panels
from csrun.report.plot_cli import find_experiments
from csrun.report.plots import draw
from csrun.report.published import current_cells, key_of, read_cells
from csrun.report.tables import read_attacks, read_manifest, read_rows, summarise

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of runs with the digits at five points: no test has to train and draw anew."""
    return run_in(tmp_path_factory.mktemp("digits"), "points.count=5", figures=False).folder.parent


@pytest.fixture
def published(digits, tmp_path):
    """Run the digits with these overrides, publish, return the published folder."""
    shutil.copytree(digits, tmp_path / "runs")

    def call(*overrides):
        run_in(tmp_path / "runs", *overrides, figures=False)
        return publish("tv_digits", tmp_path / "runs", tmp_path / "results")

    return call


@pytest.fixture
def from_now_on(monkeypatch):
    """Have what is published from now on drawn by this function of the report."""
    return lambda function: monkeypatch.setattr(publishing, function.__name__, function)


def rows_in(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cell_file(folder, **changes):
    """The one cell of a folder, with changes: as its own new cell beside it."""
    (path,) = read_cells(folder)
    cell = json.loads((path / "cell.json").read_text()) | changes
    target = folder / "cells" / key_of(cell)
    target.mkdir()
    (target / "cell.json").write_text(json.dumps(cell))
    for table in path.glob("*.csv"):
        (target / table.name).write_bytes(table.read_bytes())
    return target


# Cells and rows join


def test_a_published_folder_has_the_rows_the_summary_and_the_figures_of_the_run(run_small, tmp_path, figures):
    run = run_small().folder
    target = publish("tv_digits", tmp_path / "runs", tmp_path / "results")
    assert target == tmp_path / "results" / "tv_digits" / "smoke-cpu"
    (cell,) = read_cells(target)
    assert (cell / "certificates.csv").read_bytes() == (run / "certificates.csv").read_bytes()
    for name in ("summary.csv", "radius_tv.png", "panel_autoencoder.png", "panel_autoencoder.npz"):
        assert (target / name).read_bytes() == (run / name).read_bytes(), name
    assert read_manifest(target)["points"] == 2
    assert find_experiments([tmp_path / "results"]) == [target]


def test_the_key_is_known_before_the_weights_and_free_of_them(published):
    """What `make full` looks for is what was published; another machine's last digits change nothing of it."""
    (cell,) = read_cells(published("cells=null")).values()
    plan = make_plan(compose(*SMALL))
    assert [key_of(plan.request(one)) for one in plan.cells] == [key_of(cell)]
    assert key_of(cell | {"weights": "other", "metric_weights": "other"}) == key_of(cell)
    assert key_of(cell | {"seed": 1}) != key_of(cell)
    assert cell["runs"][0]["weights"]
    assert "weights" not in cell


def test_other_cells_stay_where_new_ones_are_added(published):
    first = published("grid.eps=[0.4]")
    before = {path: (path / "certificates.csv").read_bytes() for path in read_cells(first)}
    target = published("grid.eps=[0.6]")
    cells = read_cells(target)
    assert sorted(cell["scale"] for cell in cells.values()) == [0.4, 0.6]
    assert all((path / "certificates.csv").read_bytes() == content for path, content in before.items())
    assert set(read_rows(target)["eps"]) == {0.4, 0.6}
    assert len(read_manifest(target)["cells"]) == 2
    assert "0.6" in (target / "summary.csv").read_text()


def test_laws_of_one_experiment_join_in_one_figure(published, from_now_on):
    """Run one after the other under one name; each is a curve, also at one scale."""
    grid = ("points.count=2", "grid.eps=[0.2]", "grid.h=null", "grid.scale=[0.5]")
    published("noise=laplace", *grid)
    from_now_on(draw)
    folder = published("noise=uniform", *grid)
    assert len(read_cells(folder)) == 2
    summary = summarise(read_rows(folder))
    assert sorted(set(summary["noise"])) == ["laplace", "uniform"]
    assert set(summary["points"]) == {2}
    assert (folder / "radius_tv.png").is_file()


def test_slices_of_points_join_and_the_manifest_lists_their_runs(published):
    published("points.start=0", "points.count=2")
    target = published("points.start=2", "points.count=3")
    (cell,) = read_cells(target).values()
    assert [run["points"] for run in cell["runs"]] == [{"start": 0, "count": 2}, {"start": 2, "count": 3}]
    assert {"command", "versions", "hardware", "commit", "weights"} <= set(cell["runs"][0])
    assert sorted(set(read_rows(target)["point"])) == [0, 1, 2, 3, 4]
    assert set(summarise(read_rows(target))["points"]) == {5}
    assert read_manifest(target)["points"] == 5


def test_points_that_another_machine_computed_are_said_to_be(published, tmp_path):
    """A run of five points began elsewhere and was cut off after two; this one began with three of them missing."""
    target = published("points.count=5")
    (cell,) = read_cells(target).values()
    assert "continued" not in cell["runs"][-1]
    (path,) = (tmp_path / "runs").glob("*/run.json")
    record = json.loads(path.read_text())
    (here,) = record["runs"]
    elsewhere = {**here, "hardware": {**here["hardware"], "cores": 96}}
    record["runs"] = [elsewhere, {**here, "points": [1, 3, 4]}]
    path.write_text(json.dumps(record))
    (cell,) = read_cells(publish("tv_digits", tmp_path / "runs", tmp_path / "results")).values()
    (run,) = cell["runs"]
    (continued,) = run["continued"]
    assert (continued["points"], continued["hardware"]["cores"]) == ([0, 2], 96)
    assert run["hardware"] == here["hardware"]


def test_slices_give_the_table_of_the_whole(published, run_small, tmp_path):
    published("points.start=0", "points.count=2")
    (cell,) = read_cells(published("points.start=2", "points.count=1"))
    whole = run_small("points.count=3").folder
    assert (cell / "certificates.csv").read_bytes() == (whole / "certificates.csv").read_bytes()


def test_newer_rows_replace_older_ones_and_the_same_run_is_listed_once(published):
    (path,) = read_cells(published())
    table = path / "certificates.csv"
    good = table.read_bytes()
    table.write_bytes(good.replace(b",certified,", b",bad_center,"))
    (again,) = read_cells(published())
    assert table.read_bytes() == good
    assert len(json.loads((again / "cell.json").read_text())["runs"]) == 1


def test_metrics_published_earlier_stay(published, from_now_on):
    published("metrics=[l2]")
    from_now_on(draw)
    target = published("metrics=[tv]")
    assert read_manifest(target)["metrics"] == ["l2", "tv"]
    assert set(read_rows(target)["metric"]) == {"tv", "l2"}
    assert (target / "radius_l2.png").is_file()
    assert (target / "radius_tv.png").is_file()
    assert [line["h"] for line in read_manifest(target)["baselines"]] == [1.0, 1.0]


def test_cells_of_other_counts_are_refused_where_medians_would_mix_them(published):
    target = published()
    before = read_rows(target)
    with pytest.raises(RunError, match=r"autoencoder at scale 0.4 with other counts: give the run a name of its own"):
        published("n=550")
    assert read_rows(target).equals(before)


def test_another_data_set_has_a_folder_of_its_own(published):
    cell_file(published("points.count=1"), dataset="mnist")
    with pytest.raises(RunError, match=r"has cells of mnist, and the run is of digits: give it a name of its own"):
        published("points.count=2")


def test_points_say_the_fewest_and_reduced_means_below_the_paper(published):
    published("points.count=3", "grid.eps=[0.4]")
    manifest = read_manifest(published("points.count=2", "grid.eps=[0.6]"))
    assert (manifest["points"], manifest["reduced"]) == (2, True)
    assert manifest["paper"] == {"n": 10000, "m": 1000000, "points": 50, "epochs": 100, "images": 1297}


def test_points_are_counted_by_line_of_the_summary(published):
    """One cell serves both sizes."""
    published("points.count=3", "grid.eps=[0.4]", "grid.h=null", "grid.scale=[0.4]")
    target = published("points.count=1", "grid.eps=[0.3]", "grid.h=null", "grid.scale=[0.4]")
    assert read_manifest(target)["points"] == 1


def test_rows_of_other_pretrained_weights_do_not_join(published):
    """Rows of one training join, whatever its last digits; a model that is not trained here is told by its weights."""
    (path,) = read_cells(published("points.count=3"))
    cell = json.loads((path / "cell.json").read_text())
    cell["runs"][0]["metric_weights"] = "of another network"
    (path / "cell.json").write_text(json.dumps(cell))
    target = published("points.count=1")
    assert list(read_rows(target)["point"].unique()) == [0]
    assert len(next(iter(read_cells(target).values()))["runs"]) == 1


# Attacks and panels


def test_attacks_join_and_go_where_their_certificate_was_replaced(published):
    attack = ("attack=search", "attacker.points=1", "attacker.steps=2", "attacker.draws=8", "attacker.runs=1")
    target = published(*attack, "points.count=1")
    assert list(read_attacks(target)["point"].unique()) == [0]
    target = published(*attack, "points.start=1", "points.count=1")
    assert sorted(read_attacks(target)["point"].unique()) == [0, 1]
    assert "on 2 points" in " ".join(read_manifest(target)["notes"])
    (path,) = read_cells(target)
    table = path / "attack.csv"
    digest = rows_in(table)[0]["cell"]
    table.write_text(table.read_text().replace(digest, "0" * 12))  # as if other weights had been attacked
    target = published("points.count=2")
    assert read_attacks(target).empty
    assert not any("attacked" in note for note in read_manifest(target)["notes"])


def test_a_panel_stays_where_a_later_slice_has_none(published, run_small, tmp_path, from_now_on):
    target = published("points.count=2")
    before = (target / "panel_autoencoder.npz").read_bytes()
    folder = run_small("points.start=2").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"panels": []}))
    from_now_on(draw_panels)
    publish("tv_digits", tmp_path / "runs", tmp_path / "results")
    assert (target / "panel_autoencoder.npz").read_bytes() == before
    assert (target / "panel_autoencoder.png").is_file()
    assert len(read_manifest(target)["panels"]) == 1


def test_a_panel_goes_with_the_rows_it_shows(published, tmp_path):
    target = published()
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["panels"].append(manifest["panels"][0] | {"file": "panel_old.png", "cell": "0" * 12})
    (target / "manifest.json").write_text(json.dumps(manifest))
    (target / "panel_old.png").write_bytes(b"")
    assert [panel["file"] for panel in read_manifest(published())["panels"]] == ["panel_autoencoder.png"]
    assert not (target / "panel_old.png").exists()


# Older methods


def test_cells_of_an_older_method_are_left_out_once_a_newer_one_is_there(published):
    target = published()
    (new,) = read_cells(target)
    old = cell_file(target, method=METHOD_VERSION - 1)
    assert set(read_cells(target)) == {new, old}
    assert set(current_cells(target)) == {new}
    assert set(summarise(read_rows(target))["points"]) == {2}
    assert not Study.read(target).older
    for path in new.iterdir():
        path.unlink()
    assert set(current_cells(target)) == {old}
    assert "older method" in Study.read(target).conditions


def test_an_older_method_of_other_counts_is_left_out_and_no_reason_to_refuse(published):
    target = published()
    (path,) = read_cells(target)
    old = cell_file(target, method=METHOD_VERSION - 1, counts={"n": 10, "m": 10})
    assert old in read_cells(published())
    assert set(current_cells(target)) == {path}


def test_a_cell_of_an_earlier_version_of_training_is_left_out_too(published):
    """Its weights are others, and so is its request: it neither joins nor is a reason to refuse."""
    target = published()
    (path,) = read_cells(target)
    training = json.loads((path / "cell.json").read_text())["training"]
    old = cell_file(target, training=training | {"version": training["version"] - 1})
    assert old in read_cells(published())
    assert set(current_cells(target)) == {path}


def test_the_report_leaves_out_a_folder_of_an_older_method(published, tmp_path):
    """Once another folder has its cells by a newer method, whatever the version of training; not for other cells."""
    new = published()
    old = tmp_path / "results" / "tv_digits" / "old-cpu"
    (path,) = read_cells(new)
    old.mkdir()
    (old / "manifest.json").write_bytes((new / "manifest.json").read_bytes())
    (old / "cells").mkdir()
    training = json.loads((path / "cell.json").read_text())["training"] | {"version": 1}
    moved = cell_file(new, method=METHOD_VERSION - 1, training=training)
    moved.rename(old / "cells" / moved.name)
    studies = [Study.read(folder) for folder in (new, old)]
    assert studies[1].older
    assert current(studies) == studies[:1]
    assert current(studies[1:]) == studies[1:]
    other = cell_file(new, method=METHOD_VERSION - 1, seed=7)
    other.rename(old / "cells" / other.name)
    (old / "cells" / moved.name / "cell.json").unlink()
    assert current([studies[0], Study.read(old)])[1].older


def test_a_damaged_cell_is_named(published):
    (path,) = read_cells(published())
    (path / "cell.json").write_text("{}")
    with pytest.raises(ValueError, match=r"cell.json: expected a cell with 'model', got none"):
        read_rows(path.parent.parent)


# Some cells of a request


def test_cells_restrict_a_request_to_those_named(run_small):
    grid = ("grid.eps=[0.4,0.6]",)
    plan = make_plan(compose("budget=smoke", *grid, "grid.h=[1]"))
    keys = [key_of(plan.request(cell)) for cell in plan.cells]
    (one,) = plan.only(keys[1:]).cells
    assert one.scale == 0.6
    with pytest.raises(RunError, match=f"cells has 'x', which is not part of this request: expected among {keys[0]}"):
        make_plan(compose("budget=smoke", *grid, "grid.h=[1]", "cells=[x]"))
    with pytest.raises(RunError, match="cells has '', which is not part"):
        make_plan(compose("budget=smoke", *grid, "grid.h=[1]", "cells=[]"))


# make full


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("full")
    for name in ("full", "publish"):
        sys.modules.pop(name, None)


@pytest.fixture
def full(script, monkeypatch):
    """The script in the state it is imported in."""
    return script


BUDGET = "{n: 500, m: 600, delta: 0.17, points: {count: 3}, train: {epochs: 1, images: 100, batch_size: 50}}"


def work(full, folder, hours, *overrides, names=("tv_digits",)):
    """Work on the digits for some hours; the exit code and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    out = f"out={folder / 'runs'}"
    settings = [f"+budgets.full={BUDGET}", "grid.eps=[0.4,0.6]", "grid.h=[1]", "workers=1", out, *overrides]
    return full.compute(hours, names, settings, folder / "results", console), console.file.getvalue()


@pytest.fixture
def compute(full, tmp_path):
    return functools.partial(work, full, tmp_path)


@pytest.fixture(scope="module")
def worked(script, tmp_path_factory):
    """A folder in which everything was computed; the exit code and what was printed."""
    folder = tmp_path_factory.mktemp("worked")
    return folder, *work(script, folder, 1)


@pytest.fixture
def again(worked, compute, tmp_path):
    """The same in a copy of that folder."""
    shutil.copytree(worked[0], tmp_path, dirs_exist_ok=True)
    return compute


def test_full_publishes_every_cell(worked):
    folder, code, said = worked
    assert code == 0
    assert said.count("3/3") == 2
    target = folder / "results" / "tv_digits" / "full-cpu"
    assert sorted(set(read_rows(target)["point"])) == [0, 1, 2]
    assert set(read_rows(target)["scale"]) == {0.4, 0.6}
    assert (target / "summary.csv").is_file()
    assert (target / "radius_tv.png").is_file()
    (run,) = next(iter(read_cells(target).values()))["runs"]
    assert run["command"].startswith("cs-run experiment=tv_digits budget=full")
    assert "points.start=0 points.count=3" in run["command"]
    assert "cells=" in run["command"]
    assert str(folder) not in run["command"]


def test_full_finds_its_cells_done_the_next_time(again):
    code, said = again(1)
    assert code == 0
    assert "points 0 to" not in said
    assert said.count("3/3") == 2


def test_full_without_time_says_so_and_computes_nothing(compute, tmp_path):
    code, said = compute(0)
    assert code == 0
    assert said.count("no time left") == 2
    assert said.count("0/3") == 2
    assert not (tmp_path / "results").exists()


def test_full_cuts_a_cell_into_slices_that_fit(compute, full, monkeypatch, tmp_path):
    monkeypatch.setattr(full, "SLICE_SECONDS", 1.0)
    monkeypatch.setattr(full.Pace, "of", lambda self, part: (0.0, 0.4))
    code, said = compute(1)
    assert code == 0
    assert "points 0 to 1" in said
    assert "points 2 to 2" in said
    cell = next(iter(read_cells(tmp_path / "results" / "tv_digits" / "full-cpu").values()))
    assert [run["points"]["count"] for run in cell["runs"]] == [2, 1]


def test_full_passes_over_what_does_not_fit(compute, full, monkeypatch, tmp_path):
    """A cell whose training alone is too long is left, and said to be; the next one is done."""
    seconds = {0.4: (9e9, 1.0), 0.6: (0.0, 1.0)}
    monkeypatch.setattr(full.Pace, "of", lambda self, part: seconds[part.plan.cells[0].scale])
    code, said = compute(1)
    assert code == 0
    assert "a point takes about" in said
    assert set(read_rows(tmp_path / "results" / "tv_digits" / "full-cpu")["scale"]) == {0.6}


def test_full_counts_what_lies_in_runs_as_done_work(again, full, monkeypatch, tmp_path):
    """Results are lost, evidence is there: nothing but reading it is expected to take time."""
    for path in (tmp_path / "results").rglob("cell.json"):
        path.unlink()
    monkeypatch.setattr(full.Pace, "of", lambda self, part: (0.0, 9e9))
    code, said = again(1)
    assert code == 0
    assert said.count("3/3") == 2


def test_full_computes_the_points_that_results_lack(again, tmp_path):
    target = tmp_path / "results" / "tv_digits" / "full-cpu"
    path = next(iter(read_cells(target)))
    table = path / "certificates.csv"
    good = table.read_text()
    table.write_text("".join(line for line in good.splitlines(keepends=True) if ",test/2," not in line))
    code, said = again(1)
    assert code == 0
    assert said.count("points 2 to 2") == 1
    assert table.read_text() == good


def test_full_names_what_cannot_be_served_and_goes_on(compute, full, monkeypatch):
    def make(config):
        if config.name == "custom":
            raise RunError("no data")
        return make_plan(config)

    monkeypatch.setattr(full, "make_plan", make)
    code, said = compute(0, "model=autoencoder", names=("custom", "tv_digits"))
    assert code == 1
    assert "custom is left out: no data" in said
    assert "no time left" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_full_is_stopped_with_what_is_published(compute, full, monkeypatch, request, tmp_path, number, code):
    """A signal while a cell is published waits until it is; one cell is there, the other is not begun."""
    # A shell that starts the tests in the background has them ignore interrupts, and Python then leaves it at that.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, inherited))

    def add_disturbed(*arguments):
        signal.raise_signal(number)
        return add(*arguments)

    monkeypatch.setattr(full, "add", add_disturbed)
    ended, said = compute(1)
    assert ended == code
    assert "the same command continues" in said
    assert "3/3" in said
    assert "0/3" in said
    monkeypatch.setattr(full, "add", add)
    assert compute(1)[0] == 0
    assert set(read_rows(tmp_path / "results" / "tv_digits" / "full-cpu")["scale"]) == {0.4, 0.6}


@pytest.mark.parametrize("given", [[], ["soon"], ["-1"], ["inf"], ["nan"]])
def test_full_needs_a_number_of_hours(full, given, capsys):
    assert full.main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("full: HOURS is ")
    assert said.count("\n") == 1


def test_full_refuses_a_bad_setting_in_one_line(full, monkeypatch, capsys):
    monkeypatch.setattr(full, "EXPERIMENTS", ("tv_mnist",))
    assert full.main(["1", "certifiers=[centre]"]) == 2
    assert capsys.readouterr().err.startswith("full: certifiers has 'centre'")


def test_full_covers_every_experiment_that_has_its_budget(full):
    have = {name for name in experiments() if "full" in described(name)["budgets"]}
    assert set(full.EXPERIMENTS) == have
    assert len(full.EXPERIMENTS) == len(have)


def test_full_computes_an_experiment_under_each_of_its_laws(full):
    names = [own[0] for name, own in full._requests(["tv_mnist", "l1_mnist"]) if name == "l1_mnist"]
    assert names == ["noise=laplace", "noise=uniform", "noise=splitting", "noise=splitting_8bit"]
    for name, own in full._requests(["l1_mnist"]):
        config = full.resolved([f"experiment={name}", "budget=full", *own])
        (scale,) = config.grid.scale
        deviation = scale * (2**0.5 if config.noise["name"] == "laplace" else 3**-0.5)
        assert deviation == pytest.approx(0.5, rel=1e-3)


@functools.cache
def composed(name, budget):
    own = ["model=package.module:factory"] if name == "custom" else []
    return compose(f"experiment={name}", f"budget={budget}", *own)


@pytest.mark.parametrize("name", ["tv_mnist", "ablation_mnist", "tv_cifar10", "l2_cifar10"])
def test_full_trains_for_three_thousand_steps(name):
    train = composed(name, "full").train
    assert train.epochs * -(-train.images // train.batch_size) == 3000
    assert train.batch_size == 100


def test_full_is_the_papers_points_and_grid_at_counts_that_certify(full):
    """Under the paper's bounds, and so under the others; never more than the paper's own counts."""
    for name in full.EXPERIMENTS:
        config, paper = (composed(name, budget) for budget in ("full", "paper"))
        assert (config.points, config.grid, config.delta) == (paper.points, paper.grid, paper.delta)
        assert config.n <= paper.n
        assert config.m <= paper.m
        if not any(entry_of(certifier).measured for certifier in config.certifiers):
            assert not any(problems := own_problems(config)), problems
            continue
        counts = counts_of(config)
        assert not center_problem(counts, PAPER)
        for pair in grid_pairs(config.grid):
            assert not radius_problem(counts, GaussianNoise(pair.scale), pair.eps, PAPER)


@pytest.mark.slow
def test_full_computes_a_shared_cell_once(compute, data_folder, tmp_path):
    """Figures 5 to 7 on MNIST: one cell in runs/, its rows in three folders, each with its own metric."""
    names = ("tv_mnist", "l2_mnist", "angular_mnist")
    counts = ("n=200", "m=400", "delta=0.2", "alpha1=0.05", "alpha2=0.05", "forward_block=40")
    small = ("models=[autoencoder]", "grid.eps=[0.4]", f"data.path={data_folder}", *counts)
    code, said = compute(1, *small, names=names)
    assert code == 0
    assert "for tv_mnist, l2_mnist, angular_mnist: points 0 to 2" in said
    assert len(list((tmp_path / "runs").glob("autoencoder-mnist-*"))) == 1
    for name, metric in zip(names, ("tv", "l2", "angular"), strict=True):
        assert set(read_rows(tmp_path / "results" / name / "full-cpu")["metric"]) == {metric}
