"""The paper's figures from published results: which rows a panel takes, what is said of gaps, that bytes repeat."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from made_up import rows_of, write
from support import compose

from csrun.cells import METHOD_VERSION
from csrun.config import grid_pairs
from csrun.report import figures, page, plot_cli, plots
from csrun.report.claims import Study, judge
from csrun.report.paper import PANELS, WITH_STAND_INS, settings_of
from csrun.report.reproduced import overall, reproductions
from csrun.report.tables import SHARPER_RULE

pytestmark = pytest.mark.usefixtures("figures")

ROOT = Path(__file__).parents[2]
TV = {"model": "autoencoder", "dataset": "mnist"}
COUNTS = {"n": 5000, "m": 20000}
TRAINING = {"epochs": 5, "images": 60000, "batch_size": 100}
WHOLE = {(h, eps): [100 * eps, 100 * eps, 100 * eps] for h in (1.0, 1.5) for eps in (0.2, 0.4, 0.6, 0.8, 1.0)}


def cells_of(rows, method=METHOD_VERSION):
    """The manifest's entries of the cells that rows are of."""
    places = rows[["model", "dataset", "train", "scale"]].drop_duplicates().to_dict("records")
    trained = [TRAINING if place["train"] else None for place in places]
    there = zip(places, trained, strict=True)
    return [
        place | {"folder": "made-up", "method": method, "counts": COUNTS, "training": training}
        for place, training in there
    ]


def published(results, experiment, rows, budget="full", method=METHOD_VERSION, **changes):
    """An experiment's published folder."""
    cells = cells_of(rows, method)
    content = {"experiment": experiment, "counts": COUNTS, "cells": cells, "budget": budget, "reduced": False}
    content |= {"device": "cpu", "data": {"name": str(rows["dataset"].iloc[0])}, "notes": []}
    content |= {"hardware": {"device": "cpu", "cores": 1, "threads": 1}}
    return write(results / experiment / f"{budget}-cpu", rows, **content | changes)


def both_rules(grid, **fixed):
    ours = {place: [radius and 0.7 * radius for radius in radii] for place, radii in grid.items()}
    return pd.concat([rows_of(grid, **fixed), rows_of(ours, **fixed | SHARPER_RULE)], ignore_index=True)


def read(results):
    return [Study.read(folder) for folder in plot_cli.find_experiments([results])]


def panel_of(name, *studies):
    (found,) = [one for one in reproductions(studies) if f"{one.panel.figure}{one.panel.letter}" == name]
    return found


def axes_of(*made):
    """The axes of a figure of these panels, by title."""
    with plots.style():
        return {ax.get_title(loc="left"): ax for ax in figures.figure_of(made).axes}


def texts_of(ax):
    return " ".join(" ".join(text.get_text().split()) for text in ax.texts)


def line_of(ax, color, linestyle="-"):
    (line,) = [
        line
        for line in ax.lines
        if (line.get_color(), line.get_linestyle(), line.get_marker()) == (color, linestyle, "o")
    ]
    return line.get_xdata().tolist(), line.get_ydata().tolist()


@pytest.mark.parametrize("panel", WITH_STAND_INS, ids=lambda panel: f"{panel.figure}{panel.letter}-{panel.model}")
def test_a_panel_is_what_its_experiment_computes_at_the_papers_grid(panel):
    config = compose(f"experiment={panel.experiment}", "budget=paper")
    assert panel.metric in config.metrics
    assert panel.model in config.models
    assert panel.dataset == config.data.name
    pairs = {(round(pair.h, 6), round(pair.eps, 6)) for pair in grid_pairs(config.grid)}
    assert {(setting.h, setting.eps) for setting in panel.settings()} == pairs
    methods = {"": set(), "with noise": {"augment"}, "without noise": {"none"}}
    trained = set().union(*(methods[training] for training in panel.trainings))
    assert not trained or trained == set(config.train.method)


def test_the_grid_is_the_papers_panels_times_curves_times_eps():
    assert [f"{panel.figure}{panel.letter}" for panel in PANELS][:3] == ["3a", "4a", "5a"]
    assert [len(settings_of([figure])) for figure in range(3, 9)] == [15, 10, 40, 20, 40, 40]
    assert len(settings_of([3], h=2)) == 5


def test_a_whole_panel_has_the_papers_curves_and_ours_beside(tmp_path):
    published(tmp_path, "tv_mnist", both_rules(WHOLE, **TV))
    made = panel_of("5a", *read(tmp_path))
    ax = axes_of(made)["5a  autoencoder, MNIST"]
    x, y = line_of(ax, plots.PALETTE[0])
    assert (x, y) == ([0.2, 0.4, 0.6, 0.8, 1.0], [20.0, 40.0, 60.0, 80.0, 100.0])
    dotted = [line for line in ax.lines if line.get_linewidth() == plots.DOTTED["linewidth"]]
    assert [line.get_ydata().tolist() for line in dotted] == [pytest.approx([14, 28, 42, 56, 70])] * 2
    dashed = [line for line in ax.lines if line.get_linewidth() == figures._ERROR["linewidth"]]
    assert [line.get_ydata().tolist() for line in dashed] == [[5.0, 10.0, 15.0, 20.0, 25.0]] * 2
    assert texts_of(ax) == "3 points, n = 5,000, m = 20,000, 3,000 steps; 10 of 10 settings"
    assert made.exact


def test_what_a_panel_lacks_is_said_and_seen(tmp_path):
    """A curve breaks at a setting that is not computed; a curve without any is named, with the command for it."""
    some = {place: radii for place, radii in WHOLE.items() if place in [(1.0, 0.2), (1.0, 0.4), (1.0, 0.8)]}
    published(tmp_path, "tv_mnist", both_rules(some | {(1.0, 0.9): [1, 1, 1]}, **TV), reduced=True)
    ax = axes_of(panel_of("5a", *read(tmp_path)))["5a  autoencoder, MNIST"]
    x, y = line_of(ax, plots.PALETTE[0])
    assert x == [0.2, 0.4, 0.6, 0.8, 0.9, 1.0]
    assert [value == value for value in y] == [True, True, False, True, True, False]
    assert "reduced counts; 3 of 10 settings and ε = 0.9; h = 1.5: not computed here" in texts_of(ax)
    assert "(cs-run experiment=tv_mnist budget=full)" in texts_of(ax)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.2", "0.4", "0.6", "0.8", "1"]


def test_a_panel_without_a_row_says_so_with_its_command(tmp_path):
    published(tmp_path, "tv_mnist", both_rules(WHOLE, **TV))
    for name, experiment in (("5b", "tv_mnist"), ("6c", "l2_cifar10"), ("4a", "lpips_biggan")):
        made = panel_of(name, *read(tmp_path))
        (ax,) = axes_of(made).values()
        assert texts_of(ax).strip() == f"not computed here cs-run experiment={experiment} budget=full"
        assert (len(ax.lines), len(ax.get_yticks())) == (0, 0)
        assert made.extent.startswith("0 of ")


def test_faces_that_the_papers_rule_needs_more_draws_for_are_marked_and_ours_drawn(tmp_path):
    fixed = {"model": "mtcnn", "dataset": "celeba", "metric": "jaccard", "train": ""}
    ours = rows_of({(2.0, 0.1): [0.3]}, **fixed | SHARPER_RULE)
    rows = pd.concat([rows_of({(2.0, 0.1): ["infeasible"]}, **fixed), ours], ignore_index=True)
    published(tmp_path, "jaccard_celeba", rows)
    made = panel_of("3a", *read(tmp_path))
    with plots.style():
        figure = figures.figure_of([made])
    (ax,) = figure.axes
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"h = 1", "h = 1.5", "h = 2"} <= set(legend)
    assert "the paper's rule needs more draws" in legend
    marks = [line for line in ax.lines if line.get_marker() == "|"]
    assert [(line.get_xdata().tolist(), line.get_color()) for line in marks] == [([0.1], plots.PALETTE[2])]
    assert made.computed == {one for one in made.panel.settings() if (one.h, one.eps) == (2, 0.1)}
    errors = [line.get_ydata().tolist() for line in ax.lines if line.get_marker() == "_"]
    assert errors == [[0.3 / 4]]


def test_a_stand_in_serves_until_the_generator_itself_has_rows_and_says_so(tmp_path):
    fixed = {"metric": "lpips", "train": ""}
    stand_in = rows_of({(1.0, 0.01): [0.1]}, model="dcgan", dataset="latents100", **fixed)
    published(tmp_path, "lpips_dcgan", stand_in, notes=["a small DCGAN stands in for BigGAN"])
    made = panel_of("4a", *read(tmp_path))
    assert (made.stand_in, made.exact, made.conditions) == (True, False, ["stand-in"])
    assert list(axes_of(made)) == ["4a  DCGAN (stand-in for BigGAN)"]
    published(tmp_path, "lpips_biggan", rows_of({(1.0, 0.01): [0.1]}, model="biggan", dataset="latents128", **fixed))
    made = panel_of("4a", *read(tmp_path))
    assert (made.stand_in, list(axes_of(made))) == (False, ["4a  BigGAN"])


def test_a_panel_of_two_trainings_has_a_curve_of_each(tmp_path):
    at_one = {(1.0, 0.2): [1.0], (1.0, 0.4): [2.0]}
    rows = pd.concat([rows_of(at_one, **TV), rows_of({(1.0, 0.2): [5.0]}, **TV, train="none")], ignore_index=True)
    published(tmp_path, "ablation_mnist", rows, curve="training")
    made = panel_of("8a", *read(tmp_path))
    assert made.extent == "3 of 10 settings"
    with plots.style():
        figure = figures.figure_of([made])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"trained with noise", "trained without noise"} <= set(legend)
    colours = {line.get_color() for line in figure.axes[0].lines if line.get_marker() in "o^"}
    assert colours == {plots.PALETTE[0], plots.PALETTE[3]}
    assert {claim.short: claim.verdict for claim in made.claims()} == {"training noise lowers both": "holds"}


def test_baselines_are_those_of_the_figures_metric_and_h(tmp_path):
    lines = [{"metric": "l2", "h": h, "label": "paper's baseline, mean", "value": 7.0 * h} for h in (1.0, 1.5)]
    published(tmp_path, "l2_mnist", rows_of({(1.0, 0.2): [1.0]}, **TV, metric="l2"), baselines=lines)
    (ax,) = axes_of(panel_of("6a", *read(tmp_path))).values()
    grey = [line.get_ydata() for line in ax.lines if line.get_color() == "#666666"]
    assert grey == [[7.0, 7.0]]
    assert ax.get_ylim()[1] > 7


def test_the_newest_method_serves_before_more_of_the_grid_and_that_before_more_draws(tmp_path):
    two, one = ({place: WHOLE[place] for place in [(1.0, 0.2), (1.0, 0.4)][:count]} for count in (2, 1))
    published(tmp_path, "tv_mnist", rows_of(WHOLE, **TV), "cpu", METHOD_VERSION - 1)
    assert panel_of("5a", *read(tmp_path)).conditions == ["older method"]
    published(tmp_path, "tv_mnist", rows_of(one, **TV), "paper")
    assert panel_of("5a", *read(tmp_path)).extent == "1 of 10 settings"
    published(tmp_path, "tv_mnist", rows_of(two, **TV), "full")
    made = panel_of("5a", *read(tmp_path))
    assert (made.extent, made.conditions) == ("2 of 10 settings", [])
    published(tmp_path, "tv_mnist", rows_of(WHOLE, **TV), "smoke", reduced=True)
    assert panel_of("5a", *read(tmp_path)).extent == "2 of 10 settings"
    published(tmp_path, "mean_mnist", rows_of(WHOLE, **TV))
    assert panel_of("5a", *read(tmp_path)).study.name == "tv_mnist"


def test_claims_say_on_how_much_of_the_grid_they_are_decided(tmp_path):
    published(tmp_path, "tv_mnist", rows_of({(1.0, 0.2): [1.0], (1.0, 0.4): [2.0], (1.0, 0.9): [3.0]}, **TV))
    (claim,) = [claim for claim in judge(read(tmp_path)) if claim.short == "both rise"]
    assert claim.conditions == ["on 2 of 105 settings of the paper's figures 3, 4, 5, 7"]
    assert claim.extent_of(claim.findings[0]) == "covers 2 of 40 settings of the paper's figure 5"
    whole = replace(claim.findings[0], settings=claim.grid)
    assert replace(claim, findings=(whole,)).conditions == []
    assert claim.extent_of(whole) == ""
    assert "covers 2 of 40 settings" in page.markdown([claim])
    undecided = replace(claim.findings[0], holds=None, settings=claim.grid)
    assert replace(claim, findings=(*claim.findings, undecided)).conditions == claim.conditions


def test_the_table_says_command_counts_and_claims_of_every_panel(tmp_path):
    published(tmp_path, "tv_mnist", rows_of(WHOLE, **TV), reduced=True)
    made = reproductions(read(tmp_path))
    table = page.figures_markdown(made, tmp_path)
    assert table.startswith(
        "Of the 165 settings in the 18 panels of the paper's figures 3 to 8, 15 are computed here, in 2 panels; "
        "none of them at the paper's counts.\n"
    )
    rows = {row.split("]")[0].removeprefix("| ["): row for row in table.splitlines() if row.startswith("| [")}
    assert len(rows) == 18
    assert "[`tv_mnist`](tv_mnist/full-cpu): 3 points, n = 5,000, m = 20,000, 3,000 steps, reduced counts" in rows["5a"]
    assert "10 of 10 settings | both rise: **holds**; error well below radius: **holds**" in rows["5a"]
    assert "larger h, smaller radius: **contradicted** |" in rows["5a"]  # equal is not smaller
    assert "`cs-run experiment=tv_cifar10 budget=full` | not computed here | 0 of 10 settings" in rows["5c"]
    assert "15 of them" in overall([replace(one, study=_at_the_papers_counts(one.study)) for one in made])


def _at_the_papers_counts(study):
    return study and replace(study, manifest=study.manifest | {"reduced": False})


def test_nothing_published_has_no_figures(tmp_path):
    assert figures.draw_figures(tmp_path) == []


@pytest.fixture(scope="module")
def drawn_alone(tmp_path_factory):
    """A folder with published results that `cs-plot` has drawn in a process of its own, and what that printed."""
    folder = tmp_path_factory.mktemp("drawn")
    published(folder / "results", "tv_mnist", both_rules(WHOLE, **TV))
    script = """
import sys
from csrun.report import plot_cli
plot_cli.main([])
assert not {"torch", "centersmooth", "matplotlib.pyplot"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.splitlines()


def test_cs_plot_draws_them_of_what_is_published_without_torch(drawn_alone):
    _, said = drawn_alone
    assert "results/figures/overview.png" in said
    assert "results/tv_mnist/full-cpu/radius_tv.png" in said


@pytest.mark.usefixtures("cut_fonts")
def test_redrawing_changes_no_byte_and_new_rows_do(drawn_alone, tmp_path):
    """Redrawn in another process, with other defaults of matplotlib."""
    results = shutil.copytree(drawn_alone[0] / "results", tmp_path / "results")
    names = [*(f"figure{number}" for number in range(3, 9)), "overview"]
    paths = [results / "figures" / f"{name}.{kind}" for name in names for kind in ("pdf", "png")]
    before = {path: path.read_bytes() for path in paths}
    with matplotlib.rc_context({"font.size": 20}):
        assert figures.draw_figures(results) == paths
    assert {path: path.read_bytes() for path in paths} == before
    published(results, "tv_mnist", both_rules(WHOLE | {(1.0, 0.2): [30.0]}, **TV))
    figures.draw_figures(results)
    changed = {path.stem for path in paths if path.read_bytes() != before[path]}
    assert changed == {"figure5", "figure8", "overview"}  # its cells at h = 1 are figure 8's, trained with noise


def test_the_report_opens_with_what_was_reproduced(tmp_path, monkeypatch):
    folder = published(tmp_path / "results", "tv_mnist", both_rules(WHOLE, **TV))
    plots.draw(folder)
    drawn = tmp_path / "results" / "figures"
    drawn.mkdir()
    for name in ("figure5", "overview"):
        (drawn / f"{name}.png").write_bytes(b"a picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "judge", lambda studies: [])
    page.main([])
    text = (tmp_path / "report.html").read_text()
    assert text.index("15 are computed here") < text.index('id="figures"') < text.index('id="claims"')
    assert text.count("<code>cs-run experiment=") == 18
    assert text.count("<figcaption>Figure 5 of the paper</figcaption>") == 1


def test_the_published_figures_are_those_of_the_papers():
    assert [path.stem for path in figures.figures_in(ROOT / "results")] == [f"figure{number}" for number in range(3, 9)]
    assert (ROOT / "results" / "figures" / "overview.png").is_file()
