"""What is said of the paper's claims, and the page that says it."""

from __future__ import annotations

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from csrun.cells import METHOD_VERSION
from csrun.report import page as report
from csrun.report.claims import Study, judge, sharpenings
from csrun.report.plots import draw
from csrun.report.tables import COLUMNS, FREE_RULE, MEAN_RULE, SHARPER_RULE, SLIP_FILE, SLIP_NUMBER

RULE = {"certifier": "center", "rule": "paper"}
RISING = {(1.0, 0.2): (10.0, 1.0), (1.0, 0.4): (20.0, 2.0), (1.5, 0.2): (8.0, 1.0), (1.5, 0.4): (16.0, 2.0)}


def study_in(
    folder: Path, grid, experiment="tv_mnist", metric="tv", trainings=(None,), seconds=90.0, **manifest
) -> Study:
    """A folder of results with one point a setting, of which radius and error are given."""
    rows = []
    for training in trainings:
        for (h, eps), (radius, error) in grid(training).items() if callable(grid) else grid.items():
            row = dict.fromkeys(COLUMNS) | {"model": "autoencoder", "dataset": "mnist"}
            row |= {"cell": f"c{eps / h}-{training}"}
            row |= {"train": f"augment@{eps / h}" if training is None else training, "metric": metric, "eps": eps}
            row |= {"noise": "gaussian", "threat": "l2", "about": "run"}
            row |= {"h": h, "scale": eps / h, "point": 0, "n0": 0, "n": 10, "m": 20, "delta": 0.1, "seed": 0} | RULE
            row |= {"outcome": "certified", "radius": radius, "error": error, "vacuous": False, "seconds": seconds}
            rows.append(row if radius is not None else row | {"outcome": "bad_center", "radius": None})
    content = {"experiment": experiment, "title": f"Title of {experiment}", "metrics": [metric], "curve": "h"}
    content |= {
        "rule": RULE,
        "reduced": False,
        "device": "cuda",
        "hardware": {"device": "GPU", "cores": 1, "threads": 1},
    }
    content |= {"data": {"name": "mnist"}, "command": "cs-run <here>", "counts": {"n": 10, "m": 20}} | manifest
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "certificates.csv", index=False)
    (folder / "manifest.json").write_text(json.dumps(content))
    return Study.read(folder)


def verdicts(*studies):
    return {claim.text.split()[0] + " " + claim.text.split()[1]: claim.verdict for claim in judge(studies)}


def finding(study, words):
    (claim,) = [claim for claim in judge([study]) if words in claim.text]
    return " / ".join(found.text for found in claim.findings)


def test_nothing_is_measured_without_results():
    assert {claim.verdict for claim in judge([])} == {"not measured"}


def test_experiments_that_are_not_the_papers_have_no_say(tmp_path):
    assert set(verdicts(study_in(tmp_path / "a", RISING, "tv_digits")).values()) == {"not measured"}


def test_rising_curves_small_errors_and_larger_h_hold(tmp_path):
    said = verdicts(study_in(tmp_path / "a", RISING))
    assert [said[key] for key in ("Certified radius", "The smoothing", "A larger", "A point")] == ["holds"] * 4


def test_a_curve_that_falls_is_named(tmp_path):
    study = study_in(tmp_path / "a", RISING | {(1.0, 0.4): (9.5, 2.0)})
    assert "the radius falls from 10 to 9.5 at eps = 0.4 (tv, autoencoder, h = 1)" in finding(study, "rise with eps")
    assert verdicts(study)["Certified radius"] == "contradicted"


def test_an_abstention_is_an_infinite_radius(tmp_path):
    rises = study_in(tmp_path / "a", RISING | {(1.0, 0.4): (None, 2.0)})
    falls = study_in(tmp_path / "b", RISING | {(1.0, 0.2): (None, 1.0)})
    assert verdicts(rises)["Certified radius"] == "holds"
    assert "falls from" in finding(falls, "rise with eps")
    assert "over 3 settings" in finding(rises, "well below")


def test_an_error_above_half_the_radius_contradicts(tmp_path):
    assert verdicts(study_in(tmp_path / "a", RISING | {(1.0, 0.4): (20.0, 11.0)}))["The smoothing"] == "contradicted"


def test_two_studies_that_disagree_hold_in_part(tmp_path):
    other = study_in(tmp_path / "b", RISING | {(1.5, 0.2): (12.0, 1.0)})
    assert verdicts(study_in(tmp_path / "a", RISING), other)["A larger"] == "holds in part"


def test_jaccard_at_two(tmp_path):
    grid = {(2.0, 0.1): (0.15, 0.01), (2.0, 0.2): (0.25, 0.02), (1.0, 0.1): (0.9, 0.0)}
    study = study_in(tmp_path / "a", grid, "jaccard_celeba", "jaccard")
    assert verdicts(study)["At h"] == "contradicted"
    assert finding(study, "Jaccard") == "certified, by eps: 0.15 at 0.1, 0.25 at 0.2"
    small = study_in(tmp_path / "b", {(2.0, 0.1): (0.15, 0.01)}, "jaccard_celeba", "jaccard")
    assert verdicts(small)["At h"] == "holds"


def test_the_unit_slip_is_no_certificate(tmp_path):
    study = study_in(tmp_path / "a", {(2.0, 0.1): (0.35, 0.01)}, "jaccard_celeba", "jaccard")
    slips = {"model": "mtcnn", "dataset": "celeba", "metric": "jaccard", "eps": 0.1, "h": 2.0, "scale": 0.05}
    lines = pd.DataFrame([{**slips, "point": i, SLIP_NUMBER: value} for i, value in enumerate((0.07, 0.09, 0.3, None))])
    lines.to_csv(tmp_path / "a" / SLIP_FILE, index=False)
    assert "not a certificate" in finding(study, "Jaccard")
    assert finding(study, "Jaccard").endswith("0.09 at 0.1")


@pytest.mark.parametrize(("without", "verdict"), [(12.0, "holds"), (9.0, "contradicted")])
def test_training_noise(tmp_path, without, verdict):
    def grid(training):
        return {(1.0, 0.2): (without, 2.0) if training == "none" else (10.0, 1.0)}

    study = study_in(tmp_path / "a", grid, "ablation_mnist", trainings=("augment@0.2", "none"), curve="training")
    assert finding(study, "Training").startswith(f"radius lower in {int(without > 10)} of 1 settings")
    assert verdicts(study)["Training with"] == ("holds" if verdict == "holds" else "holds in part")


def test_the_l2_baselines(tmp_path):
    lines = [{"metric": "l2", "h": 1, "label": "paper's baseline, mean", "value": 15.0}]
    grid = {(1.0, 0.2): (10.0, 1.0), (1.0, 0.4): (14.0, 1.0)}
    study = study_in(tmp_path / "a", grid, "l2_mnist", "l2", baselines=lines)
    assert finding(study, "baseline") == "median radii 10 to 14; paper's baseline, mean 15"
    assert verdicts(study)["The l2"] == "holds"
    above = study_in(tmp_path / "b", grid | {(1.0, 0.6): (16.0, 1.0)}, "l2_mnist", "l2", baselines=lines)
    assert verdicts(above)["The l2"] == "contradicted"


def test_times_decide_only_at_the_papers_counts_on_a_gpu(tmp_path):
    assert verdicts(study_in(tmp_path / "a", RISING, seconds=500.0))["A point"] == "contradicted"
    assert verdicts(study_in(tmp_path / "b", RISING, reduced=True))["A point"] == "not measured"
    assert verdicts(study_in(tmp_path / "c", RISING, device="cpu"))["A point"] == "not measured"


def test_verdicts_from_reduced_counts_say_so(tmp_path):
    claims = {claim.text: claim for claim in judge([study_in(tmp_path / "a", RISING, reduced=True)])}
    assert claims["A larger h = eps/sigma gives a smaller radius"].reduced
    (checkerboard,) = [claim for text, claim in claims.items() if text.startswith("1458")]
    assert checkerboard.verdict == "contradicted"
    assert not checkerboard.reduced


def with_sharper_rule(study, factor):
    """The same study with rows of a sharper rule beside those of the paper's; radii scaled, None abstains."""
    rows = pd.read_csv(study.folder / "certificates.csv")
    ours = rows.assign(**SHARPER_RULE, radius=rows["radius"] * (factor or 1))
    if factor is None:
        ours = ours.assign(radius=None, outcome="bad_center")
    pd.concat([rows, ours]).to_csv(study.folder / "certificates.csv", index=False)
    return Study.read(study.folder)


@pytest.mark.parametrize("experiment", ["tv_mnist", "jaccard_celeba"])
def test_how_much_sharper(tmp_path, experiment):
    grid = RISING | {(1.0, 0.4): (None, 2.0)}
    study = study_in(tmp_path / "a", grid, experiment)
    if experiment == "jaccard_celeba":  # a model that was not trained here
        rows = pd.read_csv(study.folder / "certificates.csv").assign(train="")
        rows.to_csv(study.folder / "certificates.csv", index=False)
    assert sharpenings([study]) == []
    first, second = sharpenings([with_sharper_rule(study, 0.5)])
    assert (first.h, first.eps, first.ratios) == (1.0, (0.2,), (0.5,))
    assert (second.h, second.eps, second.ratios) == (1.5, (0.2, 0.4), (0.5, 0.5))
    assert [report.ratio_text(one) for one in (first, second)] == ["0.5", "0.5"]


def test_every_rule_is_compared_by_itself(tmp_path):
    study = with_sharper_rule(study_in(tmp_path / "a", {(1.0, 0.2): (2.0, 1.0)}), 0.5)
    rows = pd.read_csv(study.folder / "certificates.csv")
    papers = rows[rows["rule"] == "paper"]
    parts = [papers.assign(**rule, radius=papers["radius"] * f) for rule, f in ((FREE_RULE, 0.4), (MEAN_RULE, 0.3))]
    pd.concat([rows, *parts]).to_csv(study.folder / "certificates.csv", index=False)
    found = {one.rule: report.ratio_text(one) for one in sharpenings([Study.read(study.folder)])}
    assert found == {"measured": "0.5", "measured, free centers": "0.4", "mean, spectral": "0.3"}


def test_where_only_one_rule_certifies(tmp_path):
    abstains = {(1.0, 0.2): (None, 1.0)}
    study = study_in(tmp_path / "a", abstains)
    rows = pd.read_csv(study.folder / "certificates.csv")
    ours = rows.assign(**SHARPER_RULE, radius=3.0, outcome="certified")
    pd.concat([rows, ours]).to_csv(study.folder / "certificates.csv", index=False)
    (found,) = sharpenings([Study.read(study.folder)])
    assert (found.ratios, found.paper_abstains, found.paper_infeasible) == ((), 1, 0)
    assert report.ratio_text(found) == "the paper's rule abstains at 1 setting that ours certifies"
    pd.concat([rows.assign(outcome="infeasible"), ours]).to_csv(study.folder / "certificates.csv", index=False)
    (found,) = sharpenings([Study.read(study.folder)])
    assert report.ratio_text(found) == "the paper's rule needs more draws at 1 setting that ours certifies"
    assert sharpenings([with_sharper_rule(study_in(tmp_path / "b", {(1.0, 0.2): (2.0, 1.0)}), None)]) == []


def test_curves_that_abstain_throughout_are_no_evidence(tmp_path):
    study = study_in(tmp_path / "a", {(1.0, 0.2): (None, 1.0), (1.0, 0.4): (None, 2.0)})
    assert verdicts(study)["Certified radius"] == "not measured"


def test_a_smoke_run_is_quoted_and_decides_nothing(tmp_path):
    claims = judge([study_in(tmp_path / "a", RISING, reduced=True, budget="smoke")])
    (larger,) = [claim for claim in claims if claim.text.startswith("A larger")]
    assert (larger.verdict, len(larger.findings)) == ("not measured", 1)


def test_findings_say_under_what_conditions(tmp_path):
    notes = ["a small network stands in for a large one", "NOT a certificate: 3"]
    rule = RULE | {"rule": "exact"}
    study = study_in(tmp_path / "a", RISING, reduced=True, budget="cpu", points=1, notes=notes)
    assert study.conditions == ["reduced counts", "1 point", "stand-in"]
    assert "`tv_mnist` (reduced counts, 1 point, stand-in): smaller" in report.markdown(judge([study]))
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(study.manifest | {"rule": rule, "points": 7}))
    assert Study.read(tmp_path / "a").conditions == ["reduced counts", "7 points", "rule exact", "stand-in"]


def test_findings_say_that_another_smoothed_model_was_certified(tmp_path):
    study = study_in(tmp_path / "a", RISING, rule=FREE_RULE)
    assert study.conditions == ["free centers, rule measured"]
    assert study_in(tmp_path / "b", RISING, rule=MEAN_RULE).conditions == ["mean, rule spectral"]


class Outside(HTMLParser):
    """Collects what a page would load from elsewhere, and checks that tags are closed."""

    def __init__(self):
        super().__init__()
        self.outside, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.outside += [v for k, v in attributes if k in ("src", "href") and not v.startswith(("data:", "#"))]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "results" / "tv_mnist" / "cpu-cpu"
    study = study_in(folder, RISING, reduced=True, notes=["stand-in <data>"])
    draw(study.folder)
    (folder / "panel_a.png").write_bytes((folder / "radius_tv.png").read_bytes())
    content = json.loads((folder / "manifest.json").read_text())
    panels = [{"file": "panel_a.png", "caption": "Base & smoothed"}, {"file": "gone.png", "caption": "gone"}]
    (folder / "manifest.json").write_text(json.dumps(content | {"panels": panels}))
    monkeypatch.chdir(tmp_path)
    report.main([])
    assert capsys.readouterr().out == "report.html\n"
    page = (tmp_path / "report.html").read_text()
    parser = Outside()
    parser.feed(page)
    assert (parser.outside, parser.open) == ([], [])
    images = re.findall(r"base64,([\w+/=]+)", page)
    assert [base64.b64decode(image) for image in images] == [(folder / "radius_tv.png").read_bytes()] * 2
    for text in (
        "stand-in &lt;data&gt;",
        "Base &amp; smoothed",
        "reduced counts",
        "cs-run &lt;here&gt;",
        "at reduced counts",
    ):
        assert text in page
    assert "tv_mnist-cpu-cpu" in re.findall(r'id="results-([^"]+)"', page)


def test_folders_of_experiments_can_be_named(tmp_path, monkeypatch, capsys):
    study = study_in(tmp_path / "elsewhere" / "tv_mnist", RISING)
    draw(study.folder)
    for root in (tmp_path / "elsewhere", study.folder):
        report.main([str(root), "--out", str(tmp_path / "page.html")])
        assert "Title of tv_mnist" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to report on"),
        (["nowhere"], "no such folder"),
        (["undrawn"], "cs-plot undrawn draws it"),
        (["broken"], "manifest.json"),
        (["--nonsense"], "--help"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    study_in(tmp_path / "undrawn", RISING)
    study_in(tmp_path / "broken", RISING)
    (tmp_path / "broken" / "manifest.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        report.main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_the_page_of_results_has_the_published_claims():
    root = Path(__file__).parents[2]
    sys.path.insert(0, str(root / "scripts"))
    try:
        import publish
    finally:
        sys.path.pop(0)
    page = (root / "results" / "README.md").read_text()
    assert page.count("**holds") >= 3
    tables = publish.tables_of(root / "results")
    assert publish.with_tables(page, tables) == page
    lost = re.sub(r"\*\*holds.*", "", page)
    assert publish.with_tables(lost, tables) == page


def test_results_of_an_older_method_are_marked(tmp_path):
    cells = [[{"folder": "c", "method": METHOD_VERSION - one}] for one in (0, 1)]
    new, old = (study_in(tmp_path / f"{i}", RISING, cells=own) for i, own in enumerate(cells))
    assert "older method" not in new.conditions
    assert "older method" in old.conditions
    draw(old.folder), draw(new.folder)
    page = report.page([new, old])
    assert page.count("computed before the\nlast change of the method") == 1
    assert "version 5" in page
