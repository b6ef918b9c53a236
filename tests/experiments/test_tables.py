"""Medians with abstentions, by hand; reading strictly; the table of a run's end."""

from __future__ import annotations

import io
import itertools
import json
import math

import pandas as pd
import pytest
from rich.console import Console

from csrun.registry import CERTIFIERS
from csrun.report.attacked import attacks_table
from csrun.report.tables import (
    COLUMNS,
    SUMMARY_COLUMNS,
    number,
    read_manifest,
    read_rows,
    render,
    summarise,
    write_summary,
)

MANIFEST = {
    "experiment": "tv_digits",
    "title": "Total variation on digits",
    "metrics": ["tv", "l2"],
    "curve": "h",
    "rule": {"certifier": "center", "rule": "paper"},
    "budget": "cpu",
    "reduced": True,
    "notes": ["stand-in data: digits"],
    "points": 4,
}
ABSTAIN = "bad_center"


def cell_of(row):
    """Its name: other noise, training or data is another cell."""
    return "-".join(str(row[key]) for key in ("model", "dataset", "train", "scale"))


def rows_of(radii, *, errors=None, **fixed):
    """A row a point: a number is a certified radius, a word the outcome of a point without one."""
    made = []
    for point, radius in enumerate(radii):
        row = dict.fromkeys(COLUMNS)
        row |= {"model": "autoencoder", "dataset": "digits", "train": "augment@0.5", "metric": "tv"}
        row |= {"eps": 0.5, "h": 1.0, "scale": 0.5, "point": point, "source": f"test/{point}", "n0": 0, "n": 1200}
        row |= {"m": 2500, "delta": 0.1, "alpha1": 0.005, "alpha2": 0.005, "alpha": 0.01, "seed": 0}
        row |= {"certifier": "center", "rule": "paper", "about": "run", "noise": "gaussian", "threat": "l2"}
        row |= {"device": "cpu"}
        if isinstance(radius, str):
            row |= {"outcome": radius, "vacuous": False}
        else:
            row |= {"outcome": "certified", "radius": radius, "vacuous": radius > 90}
        if row["outcome"] not in ("infeasible", "failed"):
            row |= {"error": errors[point] if errors else 1.0 + point, "seconds": 0.25 * (point + 1)}
        made.append(row | fixed)
    rows = pd.DataFrame(made)
    return rows.assign(cell=[cell_of(row) for row in made])


def write(folder, rows, manifest=MANIFEST):
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "certificates.csv", index=False)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def line_of(radii, folder, **fixed):
    """The one summary line of these points, by way of the file."""
    summary = summarise(read_rows(write(folder, rows_of(radii, **fixed))))
    assert len(summary) == 1
    return summary.iloc[0]


@pytest.mark.parametrize(
    ("radii", "q25", "median", "q75"),
    [
        ([7.0], 7, 7, 7),
        ([3.0, 1.0, 2.0], 1, 2, 3),
        ([4.0, 3.0, 2.0, 1.0], 1, 2, 3),
        ([5.0, 1.0, 4.0, 2.0, 3.0], 2, 3, 4),
        # an even count: the lower of the two middle values, unless the upper one is an abstention
        ([1.0, 2.0, 3.0, ABSTAIN], 1, 2, math.inf),
        ([1.0, 2.0, ABSTAIN, ABSTAIN], 1, math.inf, math.inf),
        ([1.0, ABSTAIN, ABSTAIN, ABSTAIN], math.inf, math.inf, math.inf),
        # an odd count
        ([1.0, 2.0, 3.0, ABSTAIN, ABSTAIN], 2, 3, math.inf),
        ([1.0, 2.0, ABSTAIN, ABSTAIN, ABSTAIN], 2, math.inf, math.inf),
        ([1.0, 2.0, 3.0, 4.0, ABSTAIN], 2, 3, 4),
        # every way to have no radius counts alike
        ([1.0, 2.0, 3.0, "failed", "ratio_exceeded"], 2, 3, math.inf),
        (["failed", 1.0], 1, math.inf, math.inf),
        ([ABSTAIN], math.inf, math.inf, math.inf),
    ],
)
def test_quantiles_are_order_statistics_and_abstentions_are_infinite(tmp_path, radii, q25, median, q75):
    line = line_of(radii, tmp_path)
    assert (line.radius_q25, line.radius_median, line.radius_q75) == (q25, median, q75)
    assert line.status == ("ok" if math.isfinite(median) else "abstains")


def test_half_of_fifty_points_abstaining_is_no_median(tmp_path):
    radii = [float(value) for value in range(1, 51)]
    assert line_of(radii[:26] + [ABSTAIN] * 24, tmp_path / "a").radius_median == 25
    assert line_of(radii[:25] + [ABSTAIN] * 25, tmp_path / "b").status == "abstains"


def test_counts_errors_and_seconds(tmp_path):
    line = line_of([100.0, 2.0, 3.0, ABSTAIN, "ratio_exceeded", "failed"], tmp_path)
    counts = ["points", "certified", "abstained", "infeasible", "failed", "vacuous", "error_points"]
    assert line[counts].tolist() == [6, 3, 2, 0, 1, 1, 5]
    assert (line.error_q25, line.error_median, line.error_q75) == (2, 3, 4)  # an abstention has a center, and an error
    assert line.seconds_median == 0.75


def test_all_failed_abstains_and_has_no_error(tmp_path):
    line = line_of(["failed"] * 3, tmp_path)
    assert (line.status, line.failed, line.error_points) == ("abstains", 3, 0)
    assert math.isnan(line.error_median)
    assert math.isnan(line.seconds_median)


def test_infeasible_has_no_medians(tmp_path):
    line = line_of(["infeasible"] * 3, tmp_path)
    assert (line.status, line.infeasible, line.abstained, line.error_points) == ("infeasible", 3, 0, 0)
    assert line[["radius_median", "radius_q25", "radius_q75", "error_median"]].isna().all()


def test_infeasible_rows_may_lack_a_point(tmp_path):
    rows = rows_of(["infeasible"] * 2).assign(point=None)
    assert summarise(read_rows(write(tmp_path, rows))).iloc[0].points == 2


def test_one_line_for_each_group_whatever_the_order_of_the_rows(tmp_path):
    parts = [
        rows_of([1.0 * h, 2.0 * h], h=h, scale=0.5 / h, metric=metric, rule=rule)
        for h, metric, rule in itertools.product((1.0, 2.0), ("tv", "l2"), ("paper", "exact"))
    ]
    rows = pd.concat([*parts, rows_of([9.0], train="", dataset="mnist")])
    summary = summarise(read_rows(write(tmp_path / "a", rows)))
    shuffled = summarise(read_rows(write(tmp_path / "b", rows.sample(frac=1, random_state=0))))
    pd.testing.assert_frame_equal(summary, shuffled)
    assert len(summary) == 9
    assert list(summary.columns) == list(SUMMARY_COLUMNS)
    assert summary[(summary.h == 2) & (summary.metric == "l2")].radius_median.tolist() == [2.0, 2.0]


def test_no_rows_no_lines(tmp_path):
    rows = read_rows(write(tmp_path, rows_of([])[[]].reindex(columns=list(COLUMNS))))
    assert summarise(rows).empty
    assert list(summarise(rows).columns) == list(SUMMARY_COLUMNS)


def test_numbers_are_read_as_they_were_written(tmp_path):
    value = 0.1 + 0.2
    rows = read_rows(write(tmp_path, rows_of([value, ABSTAIN])))
    assert rows.radius.tolist()[0] == value
    assert math.isnan(rows.radius[1])
    assert rows.cell.tolist() == ["autoencoder-digits-augment@0.5-0.5"] * 2
    assert rows.vacuous.tolist() == [False, False]
    assert rows.reason.tolist() == ["", ""]


def test_written_summary_round_trips_and_is_empty_where_there_is_no_number(tmp_path):
    value = 0.1 + 0.2
    parts = [rows_of([value, ABSTAIN, value]), rows_of([ABSTAIN], metric="l1"), rows_of(["infeasible"], metric="l2")]
    write_summary(summarise(read_rows(write(tmp_path, pd.concat(parts)))), tmp_path / "summary.csv")
    text = (tmp_path / "summary.csv").read_bytes().decode()
    assert "0.30000000000000004," in text
    assert not {"inf", "nan"} & {field.lower() for line in text.splitlines() for field in line.split(",")}
    assert "\r" not in text
    back = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).set_index("metric")
    assert back.status.to_dict() == {"tv": "ok", "l1": "abstains", "l2": "infeasible"}
    assert (back.radius_median["l1"], back.radius_q75["tv"], back.error_median["l1"]) == ("", "", "1.0")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows.drop(columns=["error", "seed"]), "missing: error, seed"),
        (lambda rows: rows.assign(outcome="fine"), "got 'fine'"),
        (lambda rows: rows.assign(radius="much"), "expected radius to be a number or empty, got 'much'"),
        (lambda rows: rows.assign(point="first"), "expected point to be an integer or empty, got 'first'"),
        (lambda rows: rows.assign(radius=None), "point 0 has none"),
        (lambda rows: rows.assign(vacuous="perhaps"), "got 'perhaps'"),
        (lambda rows: pd.concat([rows, rows[:1]]), "got point 0 twice"),
    ],
)
def test_a_wrong_table_is_one_line_that_names_the_file(tmp_path, spoil, said):
    write(tmp_path, spoil(rows_of([1.0, 2.0])))
    with pytest.raises(ValueError, match="expected") as caught:
        read_rows(tmp_path)
    message = str(caught.value)
    assert said in message
    assert message.startswith(str(tmp_path / "certificates.csv"))
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "\n", "a,b\n1,2,3\n4\n"])
def test_no_table_at_all_is_a_value_error(tmp_path, text):
    (tmp_path / "certificates.csv").write_text(text)
    with pytest.raises(ValueError, match=r"certificates\.csv: \S") as caught:
        read_rows(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"certificates\.csv: no such file"):
        read_rows(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: no such file"):
        read_manifest(tmp_path)


def test_manifest_is_checked_and_completed(tmp_path):
    path = tmp_path / "manifest.json"
    short = {key: MANIFEST[key] for key in ("experiment", "title", "metrics", "curve", "rule")}
    path.write_text(json.dumps(short))
    assert read_manifest(tmp_path) == {
        **short,
        "budget": "",
        "reduced": False,
        "notes": [],
        "baselines": [],
        "units": {},
        "noise": {"name": "gaussian"},
        "threat": "l2",
    }
    for wrong in ({"curve": "nope"}, {"metrics": "tv"}, {"rule": {"certifier": "center"}}, {"title": None}):
        path.write_text(json.dumps({**MANIFEST, **wrong}))
        with pytest.raises(ValueError, match=f"manifest.json: expected '{next(iter(wrong))}'"):
            read_manifest(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def printed(rows, folder, **changes):
    console = Console(width=100, file=io.StringIO(), color_system=None, markup=False)
    manifest = {**MANIFEST, **changes}
    console.print(*render(summarise(read_rows(write(folder, rows, manifest))), read_manifest(folder)), sep="\n")
    return console.file.getvalue()


def test_each_metric_is_led_by_a_certifier_that_measures_in_it(tmp_path):
    """One table for the metrics that the manifest's rule leads, one for each other leader; notes at the end alone."""
    score = {"certifier": "score", "rule": "cdf"}
    rows = pd.concat([rows_of([0.1, 0.2], metric="l2"), rows_of([0.3, 0.5], metric="", **score)])
    text = printed(rows, tmp_path, metrics=["l2", "score"], rule=score)
    first, second = text.split("error, abstained, vacuous: center, paper")
    assert MANIFEST["title"] in first
    assert (" l2 " in first, " score " in first) == (True, False)
    assert "error, abstained, vacuous: score, cdf" in second
    assert "0.3" in second
    assert text.count("stand-in data: digits") == second.count("stand-in data: digits") == 1


def test_what_attacks_found_stands_beside_the_sharpest_rule_of_each_certifier(tmp_path):
    ours, mean = {"certifier": "center", "rule": "measured"}, {"certifier": "mean", "rule": "spectral"}
    rows = [rows_of([4.0, 8.0, 16.0], **rule) for rule in ({}, ours, mean)]
    folder = write(tmp_path, pd.concat(rows), MANIFEST)
    assert attacks_table(folder, MANIFEST) is None
    moved = [1.0, 4.0, None]
    attacked = pd.concat(one.assign(movement=moved, runs=4, beyond=[0, 1, 0]) for one in rows[:2])
    attacked.to_csv(folder / "attack.csv", index=False)
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(attacks_table(folder, MANIFEST))
    (line,) = [line.split() for line in console.file.getvalue().splitlines() if "center" in line]
    assert line[-8:] == ["center", "measured", "1", "0.5", "2", "4", "1", "2"]  # 4 over 1 and 8 over 4: the lower
    assert "1 of 8 runs at attacked inputs were beyond their radius" in console.file.getvalue()
    assert "mean" not in console.file.getvalue().replace("medians", "")


def test_rendered_words_and_numbers(tmp_path):
    rows = pd.concat(
        [
            rows_of([12.34567, 12.34567, ABSTAIN]),
            rows_of([3.5, 3.5, 3.5], rule="exact"),
            rows_of([1.0, ABSTAIN], h=1.5, scale=1 / 3, train=f"augment@{1 / 3}"),
            rows_of(["infeasible"] * 2, h=2.0, scale=0.25, train="augment@0.25"),
            rows_of([1234.5678, 1.0, 12345.678], metric="l2"),
        ]
    )
    text = printed(rows, tmp_path)
    lines = [line.split() for line in text.splitlines()]
    assert ["model", "metric", "h", "eps", "paper", "exact", "error", "abstained", "vacuous", "point"] in lines
    assert ["autoencoder", "digits", "tv", "1", "0.5", "12.35", "3.5", "2", "1/3", "0", "0.5"] in lines
    assert ["1.5", "0.5", "abstains", "–", "1", "1/2", "0", "0.25"] in lines
    assert ["2", "0.5", "infeasible", "–", "–", "–", "–", "–"] in lines
    assert ["l2", "1", "0.5", "1235", "–", "2", "0/3", "2", "0.5"] in lines
    assert "reduced counts" in text
    assert "stand-in data: digits" in text
    assert text.index(" tv ") < text.rindex(" l2 ")
    assert text.splitlines()[1].strip() == "eps in l2"


def test_a_radius_in_a_certifiers_own_distance_is_explained(tmp_path):
    rows = rows_of([0.0, 1.0], certifier="label", metric=None, rule="counts")
    text = printed(rows, tmp_path, metrics=["label"], rule={"certifier": "label", "rule": "counts"})
    assert "radius of label: 1 where the class can change, else 0" in text
    assert "radius of" not in printed(rows_of([1.0]), tmp_path)


def test_curves_stay_together_though_each_point_is_its_own_model(tmp_path):
    grid = itertools.product((0.2, 0.4), (1.0, 1.5))
    rows = pd.concat([rows_of([1.0], eps=eps, h=h, scale=eps / h, train=f"augment@{eps / h}") for eps, h in grid])
    lines = [line.split() for line in printed(rows, tmp_path).splitlines()]
    numbers = [line[-7:-5] for line in lines if line and line[-1] == "0.25"]
    assert numbers == [["1", "0.2"], ["1", "0.4"], ["1.5", "0.2"], ["1.5", "0.4"]]


def test_rendering_says_how_the_model_was_trained_and_what_failed(tmp_path):
    rows = pd.concat([rows_of([1.0, "failed", 2.0]), rows_of([3.0], train="none")])
    text = printed(rows, tmp_path, curve="training")
    assert "with noise" in text
    assert "without" in text
    assert "failed" in text


def test_a_method_of_training_stands_in_whole_above_its_parameters(tmp_path):
    trainings = ("output_consistency@0.5", "output_consistency[weight=16]@0.5")
    rows = pd.concat([rows_of([1.0], train=train) for train in trainings])
    words = printed(rows, tmp_path, curve="training").split()
    assert words.count("output_consistency") == 2
    assert words.count("[weight=16]") == 1


def test_the_scale_replaces_h(tmp_path):
    text = printed(rows_of([1.0]), tmp_path, curve="scale")
    assert "scale" in text.splitlines()[3]
    assert " h " not in text


def test_a_hundred_columns_suffice_at_worst(tmp_path):
    parts = [
        rows_of(["infeasible"], model="reconstructor", dataset="cifar10", metric="jaccard", certifier=name, rule=rule)
        for name, certifier in CERTIFIERS.items()
        for rule in certifier.rules
    ]
    text = printed(pd.concat(parts), tmp_path, metrics=["jaccard"])
    assert text.count("infeasible") == 4
    assert f"{len(parts) - 4} more rules in the summary file" in text
    assert "reconstructor" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (9999.6, "10000"), (9999.4, "9999"), (1e7, "1e+07"), (123456.0, "123456"), (math.inf, "–")],
)
def test_number(value, text):
    assert number(value) == text
