"""Figures from an experiment's folder: what is drawn, that redrawing changes no byte; `cs-plot`."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time

import matplotlib
import numpy as np
import pandas as pd
import pytest
from made_up import MANIFEST, rows_of, write
from matplotlib.backends.backend_agg import FigureCanvasAgg

from csrun.report import plot_cli, plots
from csrun.report.tables import (
    FREE_RULE,
    KEYS,
    MEAN_RULE,
    PAPER_RULE,
    SHARPER_RULE,
    of_rule,
    read_manifest,
    read_rows,
    summarise,
)

pytestmark = pytest.mark.usefixtures("figures")

ABSTAINS = [None, None, None]

GRID = {
    (1.0, 0.2): [1.0, 2.0, 3.0],
    (1.0, 0.4): [2.0, 3.0, 4.0],
    (1.0, 0.6): [3.0, 4.0, 95.0],
    (1.5, 0.2): [0.5, 1.5, 2.5],
    (1.5, 0.4): ABSTAINS,
    (1.5, 0.6): [1.0, 2.0, None],
    (2.0, 0.2): ["infeasible"],
}


@pytest.fixture
def experiment(tmp_path):
    return write(tmp_path / "runs" / "tv_digits", rows_of(GRID))


def figure_of(folder, metric="tv"):
    """The figure as `draw` makes it, before it is saved."""
    manifest, rows = read_manifest(folder), read_rows(folder)
    layout = plots.layout_of(manifest, rows["threat"].iloc[0])
    summary, curves = plots._with_curves(summarise(rows), layout)
    with plots.style():
        lines = summary[summary["metric"] == metric]
        return plots._figure(lines, metric, curves, layout, plots.footer_lines(rows, manifest, manifest["rule"]))


def drawn(ax, color, linestyle="-"):
    """The y values of the line of one colour and style."""
    (line,) = [
        line
        for line in ax.lines
        if line.get_color() == color and line.get_linestyle() == linestyle and len(line.get_xdata()) > 1
    ]
    return line.get_ydata().tolist()


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_files_are_written_in_the_manifests_order(tmp_path):
    rows = pd.concat([rows_of(GRID), rows_of(GRID, metric="my.module:metric"), rows_of(GRID, metric="l1")])
    folder = write(tmp_path, rows, metrics=["my.module:metric", "tv", "lpips"])
    paths = plots.draw(folder)
    stems = ["radius_my.module_metric", "radius_tv"]
    assert paths == [folder / f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png")]
    assert all(path.stat().st_size > 1000 for path in paths)
    assert {path.name for path in folder.glob("radius_*")} == {path.name for path in paths}


def test_the_sharper_rule_is_a_dotted_curve_beside_the_papers(tmp_path):
    """Also where the paper's rule abstains or is infeasible; not where it is the rule drawn."""
    sharper = {(h, eps): [0.25 * h, 0.5 * h, 0.75 * h] for h, eps in GRID}
    both = pd.concat([rows_of(GRID), rows_of(sharper, rule="measured")])
    rows, rule = both.reset_index(drop=True), SHARPER_RULE
    folder = write(tmp_path / "a", rows)
    (one,) = [one for one in plots.beside(MANIFEST["rule"]) if one.rule == rule]
    main, side = (summarise(of_rule(read_rows(folder), r)) for r in (MANIFEST["rule"], rule))
    merged = plots._with_medians(main, side, one.column)
    assert merged[one.column].tolist() == [0.5 * h for h in merged["h"]]
    assert set(merged["status"]) == {"ok", "abstains", "infeasible"}

    with plots.style():
        summary, curves = plots._with_curves(merged, plots.LAYOUTS["h"])
        figure = plots._figure(summary, "tv", curves, plots.LAYOUTS["h"], [], [one])
    dotted = [line for line in figure.axes[0].lines if line.get_linewidth() == plots.DOTTED["linewidth"]]
    assert [line.get_ydata().tolist() for line in dotted] == [[0.5] * 3, [0.75] * 3, [1.0]]
    assert "sharper (measured)" in legend_of(figure)
    assert plots.draw(write(tmp_path / "b", rows, rule=rule))
    assert "sharper (measured)" not in legend_of(figure_of(write(tmp_path / "c", rows_of(GRID))))


def test_the_local_bound_of_the_mean_is_a_curve_of_its_own(tmp_path):
    """Beside the paper's, and named in the legend only where there is one."""
    mean = {(h, eps): [0.1 * h, 0.2 * h, 0.3 * h] for h, eps in GRID}
    rows = pd.concat([rows_of(GRID), rows_of(mean, **MEAN_RULE)]).reset_index(drop=True)
    folder = write(tmp_path / "a", rows)
    (one,) = [one for one in plots.beside(MANIFEST["rule"]) if one.rule == MEAN_RULE]
    main, side = (summarise(of_rule(read_rows(folder), r)) for r in (MANIFEST["rule"], MEAN_RULE))
    merged = plots._with_medians(main, side, one.column)
    assert merged[one.column].tolist() == [0.2 * h for h in merged["h"]]
    with plots.style():
        summary, curves = plots._with_curves(merged, plots.LAYOUTS["h"])
        figure = plots._figure(summary, "tv", curves, plots.LAYOUTS["h"], [], [one])
    crossed = [line.get_ydata().tolist() for line in figure.axes[0].lines if line.get_marker() == "d"]
    assert [0.2] * 3 in crossed
    assert "mean (spectral)" in legend_of(figure)
    assert "mean (spectral)" not in legend_of(figure_of(write(tmp_path / "b", rows_of(GRID))))
    assert plots.draw(folder)


def drawn_figures(folder, monkeypatch):
    """What `draw` saves, by metric."""
    figures = {}
    monkeypatch.setattr(plots, "save", lambda figure, path, title: figures.setdefault(path.stem, figure) and [])
    plots.draw(folder)
    return figures


def attacks_of(rule, movement, **changes):
    """One attacked point at each place of the grid at h = 1."""
    rows = rows_of({place: [movement] for place in GRID if place[0] == 1.0}, **rule)
    return rows.assign(**{"movement": movement, "runs": 1, "beyond": 0} | changes)


def test_free_centers_and_means_have_curves_and_attacks_of_their_own(tmp_path, monkeypatch):
    """They are other smoothed models: what moves one says nothing about another."""
    others = {(h, eps): [0.1 * h, 0.2 * h, 0.3 * h] for h, eps in GRID}
    everywhere = {(h, eps): [500.0 * h] for h, eps in GRID}
    rows = [rows_of(GRID), rows_of(others, **FREE_RULE), rows_of(others, **MEAN_RULE)]
    rows.append(rows_of(everywhere, **MEAN_RULE | {"rule": "global"}))
    folder = write(tmp_path, pd.concat(rows))
    moved = {"+": MANIFEST["rule"], "1": FREE_RULE, "2": MEAN_RULE}
    attacks = [attacks_of(rule, 0.01 * (place + 1)) for place, rule in enumerate(moved.values())]
    pd.concat(attacks).to_csv(folder / "attack.csv", index=False)
    (figure,) = drawn_figures(folder, monkeypatch).values()
    (ax,) = figure.axes
    for place, marker in enumerate(moved):
        (line,) = [line for line in ax.lines if line.get_marker() == marker]
        assert line.get_ydata().tolist() == [0.01 * (place + 1)] * len(line.get_xdata())
    assert [0.2] * 3 in [line.get_ydata().tolist() for line in ax.lines if line.get_marker() == "s"]
    assert {"free centers (measured)", "mean (spectral)", "free centers, attacked", "mean, attacked"} <= set(
        legend_of(figure)
    )
    assert "mean (global), not drawn: 500 at h = 1, 750 at h = 1.5, 1000 at h = 2" in figure.texts[0].get_text()
    assert ax.get_ylim()[1] < 200


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            PAPER_RULE,
            [
                "center/measured",
                "center_free/measured",
                "mean/spectral",
                "percentile_box/order_run",
                "direction/spectral",
                "center_nearest/nearest",
            ],
        ),
        (
            PAPER_RULE | {"rule": "exact"},
            [
                "center/measured",
                "center_free/measured",
                "mean/spectral",
                "percentile_box/order_run",
                "direction/spectral",
                "center_nearest/nearest",
            ],
        ),
        (
            SHARPER_RULE,
            [
                "center_free/measured",
                "mean/spectral",
                "percentile_box/order_run",
                "direction/spectral",
                "center_nearest/nearest",
            ],
        ),
        (
            FREE_RULE,
            [
                "center/measured",
                "mean/spectral",
                "percentile_box/order_run",
                "direction/spectral",
                "center_nearest/nearest",
            ],
        ),
        (
            MEAN_RULE,
            [
                "center/measured",
                "center_free/measured",
                "percentile_box/order_run",
                "direction/spectral",
                "center_nearest/nearest",
            ],
        ),
        (
            MEAN_RULE | {"rule": "global"},
            [
                "mean/spectral",
                "center/measured",
                "center_free/measured",
                "percentile_box/order_run",
                "direction/spectral",
                "center_nearest/nearest",
            ],
        ),
    ],
)
def test_what_stands_beside_a_rule(rule, expected):
    """The sharpest for the same smoothed model first, then the others, told apart by their lines and marks."""
    others = plots.beside(rule)
    assert [one.column for one in others] == [f"beside {name}" for name in expected]
    assert [bool(one.marker) for one in others] == [one.rule["certifier"] != rule["certifier"] for one in others]
    assert len({one.label for one in others}) == len({one.style["marker"] for one in others}) == len(others)


def test_laws_of_one_scale_are_curves_of_their_own(tmp_path):
    """Each with its own symbol of the scale; none of them is taken for another training."""
    laws = ("uniform", "splitting", "gaussian[p=1]")
    rows = [rows_of({(0.5, 0.2): [i, i, i], (1.0, 0.4): [i, i, i]}, noise=law) for i, law in enumerate(laws, 1)]
    figure = figure_of(write(tmp_path, pd.concat(rows), curve="scale", noise={"name": "uniform"}))
    expected = ["gaussian[p=1], σ = 0.4", "splitting, scale = 0.4", "uniform, λ = 0.4"]
    assert set(expected) <= set(legend_of(figure))
    (ax,) = figure.axes
    assert [drawn(ax, color) for color in plots.PALETTE[:3]] == [[3, 3], [2, 2], [1, 1]]


def test_a_rule_that_draws_nothing_stands_beside_one_that_does_where_it_has_rows():
    rule = {"certifier": "center", "rule": "measured"}
    labels = [one.label for one in plots.beside(rule, [("center", "measured"), ("center", "enumerated")])]
    assert labels[0] == "no draws (enumerated)"
    assert "no draws (enumerated)" not in [one.label for one in plots.beside(rule)]


def test_baselines_are_curves_where_h_goes_across(tmp_path, monkeypatch):
    lines = [
        {"metric": "tv", "label": label, "h": h, "value": factor * h}
        for h in (1.0, 1.5, 2.0)
        for label, factor in (("paper's baseline, mean", 9.0), ("best global bound, mean", 7.0))
    ]
    rows = rows_of({(h, 0.2): [1.0, 2.0, 3.0] for h in (1.0, 1.5, 2.0)})
    (figure,) = drawn_figures(write(tmp_path, rows, curve="eps", baselines=lines), monkeypatch).values()
    (ax,) = figure.axes
    grey = [line.get_ydata().tolist() for line in ax.lines if line.get_color() == "#666666"]
    assert grey == [[9.0, 13.5, 18.0], [7.0, 10.5, 14.0]]
    assert {"paper's baseline, mean", "best global bound, mean"} <= set(legend_of(figure))
    assert ax.get_ylim()[1] >= 18


@pytest.mark.parametrize("label", ["short", "a" * 30, "a" * 45])
def test_a_legend_stays_within_the_figure(tmp_path, monkeypatch, label):
    """In as many columns as fit."""
    lines = [{"metric": "tv", "label": label + kind, "h": 1.0, "value": 1.0} for kind in "bcde"]
    (figure,) = drawn_figures(write(tmp_path, rows_of(GRID), baselines=lines), monkeypatch).values()
    figure.set_dpi(200)
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text.get_window_extent(renderer) for text in figure.legends[0].get_texts()]
    assert min(text.x0 for text in texts) >= 0
    assert max(text.x1 for text in texts) <= figure.bbox.width
    assert figure.legends[0]._ncols == (1 if len(label) > 20 else 2)


@pytest.fixture(scope="module")
def drawn_alone(tmp_path_factory):
    """An experiment that `cs-plot` has drawn in a process of its own, without torch, pyplot and the library."""
    folder = write(tmp_path_factory.mktemp("drawn") / "tv_digits", rows_of(GRID))
    script = """
import sys
from csrun.report import plot_cli
assert not {"pandas", "matplotlib"} & set(sys.modules)
plot_cli.main(sys.argv[1:])
assert not {"torch", "centersmooth", "matplotlib.pyplot"} & set(sys.modules)
"""
    return folder, subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)


def test_drawing_needs_neither_torch_nor_pyplot_nor_the_library(drawn_alone):
    _, done = drawn_alone
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 2
    assert done.stderr == ""


@pytest.mark.usefixtures("cut_fonts")
def test_redrawing_changes_no_byte_and_changed_rows_do(drawn_alone, experiment, monkeypatch):
    """Redrawn in another process, at another time, with other defaults of matplotlib."""
    before = {experiment / path.name: path.read_bytes() for path in drawn_alone[0].glob("radius_tv.*")}
    assert len(before) == 2
    later = time.time() + 86_400 * 400
    monkeypatch.setattr(time, "time", lambda: later)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 5, "pdf.fonttype": 3}):
        assert set(plots.draw(experiment)) == set(before)
        assert matplotlib.rcParams["font.size"] == 20
    assert {path: path.read_bytes() for path in before} == before
    write(experiment, rows_of(GRID | {(1.0, 0.2): [1.0, 2.5, 3.0]}))
    plots.draw(experiment)
    assert all(path.read_bytes() != content for path, content in before.items())


def test_files_have_no_date_true_type_fonts_and_two_hundred_dots(drawn_alone):
    pdf, png = (drawn_alone[0] / f"radius_tv.{kind}" for kind in ("pdf", "png"))
    content = pdf.read_bytes()
    assert b"CreationDate" not in content
    assert b"Total variation on digits" in content
    assert b"/TrueType" in content or b"/CIDFontType2" in content
    assert b"/Type3" not in content
    assert b"Software" not in png.read_bytes()
    height, width = matplotlib.image.imread(png).shape[:2]
    assert width == 660
    assert height < 800


def test_lines_are_the_medians_with_gaps(experiment):
    figure = figure_of(experiment)
    (ax,) = figure.axes
    blue, vermilion, green = plots.PALETTE[:3]
    assert drawn(ax, blue) == [2, 3, 4]
    np.testing.assert_equal(drawn(ax, vermilion), [1.5, math.nan, 2.0])
    assert drawn(ax, blue, "--") == [0.5, 0.75, 1.0]
    assert drawn(ax, vermilion, "--") == [0.375, 0.5, 0.5]
    marks = {
        (line.get_marker(), line.get_color()): line.get_xdata().tolist()
        for line in ax.lines
        if line.get_transform() == ax.get_xaxis_transform()
    }
    assert marks == {("x", vermilion): [0.4], ("|", green): [0.2]}
    hollow = [line.get_xdata().tolist() for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [[0.6]]
    assert ax.get_ylim()[0] == 0


def test_labels_legend_and_footer(experiment):
    figure = figure_of(experiment)
    (ax,) = figure.axes
    assert ax.get_xlabel() == "perturbation ε (l2)"
    assert ax.get_ylabel() == "total variation distance"
    assert ax.get_title() == "autoencoder, digits"
    assert {"h = 1", "h = 1.5", "h = 2", "certified radius (median)", "smoothing error (median)"} < set(
        legend_of(figure)
    )
    assert {"abstains", "infeasible", "vacuous for some points"} < set(legend_of(figure))
    assert figure.texts[0].get_text().splitlines() == [
        "reduced counts: n = 1,200, m = 2,500, Δ = 0.1, 3 points, centers of the",
        "sample by the rule paper",
        "stand-in data: digits",
    ]


def test_legend_says_only_what_occurs_and_covers_no_panel(tmp_path):
    figure = figure_of(write(tmp_path, rows_of({(1.0, 0.2): [1.0], (1.0, 0.4): [2.0]})))
    assert not {"abstains", "infeasible", "vacuous for some points"} & set(legend_of(figure))
    figure.draw_without_rendering()
    renderer = figure._get_renderer()
    legend, footer = figure.legends[0].get_window_extent(renderer), figure.texts[0].get_window_extent(renderer)
    assert legend.y1 <= figure.axes[0].get_tightbbox(renderer).y0
    assert 0 <= footer.y0 < footer.y1 <= legend.y0
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1
    assert footer.x1 <= figure.bbox.x1


def test_the_footer_names_what_is_not_the_papers_rule(tmp_path):
    rule = FREE_RULE
    rows = rows_of({(1.0, 0.2): [1.0], (1.0, 0.4): [2.0]}, n0=30, **rule)
    rows.loc[rows.eps == 0.4, "m"] = 1_000_000
    folder = write(tmp_path, rows, rule=rule, reduced=False, notes=[])
    assert plots.footer_lines(read_rows(folder), read_manifest(folder), rule) == [
        "n0 = 30, n = 1,200, m = 2,500 or 1,000,000, Δ = 0.1, 1 point, free centers by the rule measured"
    ]


def test_the_footer_has_the_counts_the_certifier_uses(tmp_path):
    """Rows of the mean have neither candidates nor a slack."""
    rows = rows_of({(1.0, 0.2): [1.0]}, **MEAN_RULE).assign(n0=None, delta=None)
    folder = write(tmp_path, rows, rule=MEAN_RULE, reduced=False, notes=[])
    assert plots.footer_lines(read_rows(folder), read_manifest(folder), MEAN_RULE) == [
        "n = 1,200, m = 2,500, 1 point, mean by the rule spectral"
    ]


def test_no_wider_rule_of_the_same_certifier_is_drawn(tmp_path):
    wider, exact = rows_of({(1.0, 0.2): [50.0], (3.0, 0.4): [70.0]}), rows_of(GRID, rule="exact")
    rule = {"certifier": "center", "rule": "exact"}
    alone = write(tmp_path / "a", exact, rule=rule)
    both = write(tmp_path / "b", pd.concat([wider, exact]), rule=rule)
    for one, two in zip(plots.draw(alone), plots.draw(both), strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_a_panel_for_each_model_and_data_set(tmp_path):
    pairs = itertools.product(("autoencoder", "reconstructor"), ("cifar10", "mnist"))
    rows = pd.concat([rows_of(GRID, model=model, dataset=dataset) for model, dataset in pairs])
    figure = figure_of(write(tmp_path, rows))
    titles = ["autoencoder, CIFAR-10", "autoencoder, MNIST", "reconstructor, CIFAR-10", "reconstructor, MNIST"]
    assert [ax.get_title() for ax in figure.axes] == titles
    assert figure.get_size_inches()[0] == pytest.approx(4 * 3.3)


def test_curves_of_a_training_comparison(tmp_path):
    with_noise, without = rows_of(GRID), rows_of(GRID, train="none")
    one_h = [rows[rows.h == 1] for rows in (without, with_noise)]
    figure = figure_of(write(tmp_path / "a", pd.concat(one_h), curve="training"))
    assert {"trained with noise", "trained without noise"} < set(legend_of(figure))
    assert not any("h = " in text for text in legend_of(figure))
    figure = figure_of(write(tmp_path / "b", pd.concat([with_noise, without])))
    assert {"h = 1, trained with noise", "h = 1.5, trained without noise"} < set(legend_of(figure))


def test_curves_of_fixed_scale(tmp_path):
    rows = rows_of({(0.1, 0.1): [1.0], (0.2, 0.2): [2.0], (0.4, 0.2): [1.5]}, train="none")
    figure = figure_of(write(tmp_path, rows, curve="scale"))
    assert {"σ = 1", "σ = 0.5"} < set(legend_of(figure))
    assert drawn(figure.axes[0], plots.PALETTE[1]) == [1, 2]


@pytest.mark.parametrize(
    "grid",
    [
        {(1.0, 0.2): ABSTAINS, (1.0, 0.4): ABSTAINS},
        {(1.0, 0.2): ["infeasible"]},
        {(1.0, 0.2): ["failed"], (1.0, 0.4): ["failed"]},
        {(1.0, 0.2): [1.0]},
        {(1.0, 0.0): [0.0]},
        {(float(h), 0.2): [1.0] for h in range(1, 12)},
        {(1.0, 0.1 * eps): [0.1 * eps] for eps in range(1, 30)},
    ],
)
def test_odd_grids_are_drawn_without_a_warning(tmp_path, grid):
    rows = rows_of(grid).assign(scale=0.2)
    plots.draw(write(tmp_path, rows))


def test_nothing_in_the_metrics_is_one_line(experiment):
    write(experiment, rows_of(GRID, metric="l1"))
    with pytest.raises(ValueError, match=r"metrics to be drawn \(tv\), found none"):
        plots.draw(experiment)


def test_a_metric_without_the_rule_is_led_by_its_own_certifiers(tmp_path, monkeypatch):
    score = {"certifier": "score", "rule": "cdf"}
    own = rows_of(GRID, metric="", **score)
    means, centers = rows_of(GRID, metric="l2", **MEAN_RULE), rows_of(GRID, metric="l2")
    folder = write(tmp_path, pd.concat([own, means, centers]), metrics=["score", "l2"], rule=score)
    figures = drawn_figures(folder, monkeypatch)
    footers = {name: figure.texts[0].get_text().replace("\n", " ") for name, figure in figures.items()}
    assert "mean score by the rule cdf" in footers["radius_score"]
    assert "centers of the sample by the rule paper" in footers["radius_l2"]
    assert "mean (spectral)" in legend_of(figures["radius_l2"])
    assert "mean (spectral)" not in legend_of(figures["radius_score"])


def test_certified_accuracy_by_each_rule_for_prototypes(tmp_path, monkeypatch):
    reach = {"lipschitz": [0.1, 0.2, None], "cdf": [0.3, 0.4, 0.5]}
    rows = [
        rows_of(
            {(1.0, 0.2): [0.0 if one else 1.0 for one in radii]}, metric="", certifier="prototypes", rule=rule
        ).assign(reach=radii, label=[3, 3, 3], target=[3, 3, 4], p_low=None)
        for rule, radii in reach.items()
    ]
    lead = {"certifier": "prototypes", "rule": "cdf"}
    folder = write(tmp_path, pd.concat(rows), metrics=["prototypes"], rule=lead)
    (figure,) = drawn_figures(folder, monkeypatch).values()
    (ax,) = figure.axes
    steps = {line.get_label().partition(",")[0]: (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}
    assert steps["lipschitz"][0] == [0, 0.1, 0.2, 0.2]
    assert steps["cdf"][0] == [0, 0.3, 0.4, 0.4]  # the class of the third point is another
    assert steps["cdf"][1] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])


def failing(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        plot_cli.main(argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    return out, err


def test_cli_finds_experiments_and_prints_the_files(experiment, capsys, monkeypatch):
    base = experiment.parent.parent
    write(base / "results" / "mean_mnist" / "paper-cuda", rows_of(GRID))
    (base / "runs" / "cell").mkdir()
    (base / "runs" / "cell" / "certificates.csv").write_text("a cell has no manifest")
    monkeypatch.chdir(base)
    plot_cli.main([])
    stems = ["results/mean_mnist/paper-cuda/radius_tv", "runs/tv_digits/radius_tv"]
    assert capsys.readouterr().out.splitlines() == [f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png")]
    assert (base / "results/mean_mnist/paper-cuda/radius_tv.pdf").is_file()


def test_cli_errors_are_one_line(experiment, capsys, monkeypatch):
    base = experiment.parent.parent
    empty = base / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    for argv, said in [
        ([], "nothing to draw under runs/ or results/; run cs-run first"),
        (["gone"], "gone: no such folder"),
        ([str(empty)], "holds no certificates.csv and no manifest.json; give one"),
        ([str(base / "runs")], f"did you mean {experiment}?"),
        (["--colour"], "see cs-plot --help"),
    ]:
        out, err = failing(argv, capsys)
        assert out == ""
        assert said in err
        assert err.startswith("cs-plot: ")
        assert err.count("\n") == 1


def test_cli_draws_the_others_when_one_fails(experiment, capsys):
    broken = write(experiment.parent / "broken", rows_of(GRID).drop(columns="error"))
    out, err = failing([str(broken), str(experiment)], capsys)
    assert out.count("\n") == 2
    assert err.count("\n") == 1
    assert "missing: error" in err


def test_cli_help_and_version(capsys):
    for argument, said in [("--help", "cs-plot runs/tv_digits"), ("--version", "cs-plot ")]:
        with pytest.raises(SystemExit) as caught:
            plot_cli.main([argument])
        assert caught.value.code == 0
        assert said in capsys.readouterr().out


def test_several_h_at_one_eps_are_drawn_against_h(tmp_path):
    rows = rows_of({(h, 0.4): [radius] for h, radius in ((1.0, 4.0), (2.0, 3.0), (3.0, 2.0))})
    figure = figure_of(write(tmp_path, rows, curve="eps"))
    assert legend_of(figure)[0] == "ε = 0.4"
    ax = figure.axes[0]
    assert ax.get_xlabel() == "h = ε/σ, perturbation (l2) over noise"
    assert [3.0, 2.0] in [list(line.get_xydata()[-1]) for line in ax.lines if len(line.get_xydata())]


def trade_off(folder, lines):
    """An experiment of ``{training: (radius, error)}`` by two certifiers, the second with twice the radius."""
    rules = (("mean", "spectral", 1), ("center", "measured", 2))
    rows = [
        rows_of({(1, 0.4): [radius and factor * radius] * 3}, train=train, certifier=certifier, rule=rule, error=error)
        for train, (radius, error) in lines.items()
        for certifier, rule, factor in rules
    ]
    return write(folder, pd.concat(rows), curve="tradeoff", rule={"certifier": "mean", "rule": "spectral"})


def test_a_trade_off_has_a_curve_a_method_in_the_order_of_its_parameter_and_a_panel_a_certifier(tmp_path, monkeypatch):
    lines = {
        "augment@0.4": (9.0, 1.0),
        "spectral[weight=16]@0.4": (3.0, 3.0),
        "spectral@0.4": (7.0, 2.0),  # at its default, 1
        "spectral[weight=4]@0.4": (5.0, 2.5),
        "output_mix@0.4": (None, 4.0),
    }
    (figure,) = drawn_figures(trade_off(tmp_path, lines), monkeypatch).values()
    for ax, factor in zip(figure.axes, (2, 1), strict=True):
        assert ax.get_xlabel().startswith("smoothing error")
        curves = {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}
        assert curves["augment"] == [[1.0, 9.0 * factor]]
        assert curves["spectral"] == [[2.0, 7.0 * factor], [2.5, 5.0 * factor], [3.0, 3.0 * factor]]
        assert curves["output_mix"] == []
        assert [text.get_text() for text in ax.texts] == ["", "1", "4", "16"]
    assert "center" in figure.axes[0].get_title()
    said = figure.texts[-1].get_text()
    assert "Numbers: weight" in said
    assert "No median radius: output_mix@0.4 (center measured), output_mix@0.4 (mean spectral)" in said


def test_a_trade_off_with_the_truth_is_drawn_against_the_distance_to_it_above(tmp_path, monkeypatch):
    folder = trade_off(tmp_path, {"augment@0.4": (9.0, 1.0), "spectral@0.4": (7.0, 2.0)})
    distances = read_rows(folder)[[*KEYS, "point"]]
    spectral, mean = distances["train"] == "spectral@0.4", distances["certifier"] == "mean"
    distances = distances.assign(distance=3.0 + spectral + 10 * mean + 0.1 * distances["point"].astype(float))
    distances.to_csv(folder / "truth.csv", index=False)
    (figure,) = drawn_figures(folder, monkeypatch).values()
    above, below = figure.axes[:2], figure.axes[2:]
    assert [ax.get_xlabel().split(",")[0] for ax in (above[0], below[0])] == [
        "smoothed output to the truth",
        "smoothing error",
    ]
    curves = [[line.get_xydata().tolist() for line in ax.get_lines()] for ax in above]
    assert np.allclose(curves, [[[[3.1, 18.0]], [[4.1, 14.0]]], [[[13.1, 9.0]], [[14.1, 7.0]]]])


def test_a_trade_off_is_the_same_bytes_again(tmp_path):
    folder = trade_off(tmp_path, {"augment@0.4": (9.0, 1.0), "spectral@0.4": (7.0, 2.0)})
    first, again = ([path.read_bytes() for path in plots.draw(folder)] for _ in range(2))
    assert first == again
