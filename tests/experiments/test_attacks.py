"""Attacks of a run: found beside certified, kept, never a change of a certificate; a wrong one fails the run loudly."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
from rich.console import Console
from running import run_in
from support import SMALL, compose

from centersmooth.certifiers.center import rules
from csrun import cli
from csrun.cells import attacks
from csrun.cells.attacks import attack_note, broken, chance
from csrun.data import load_data
from csrun.errors import RunError
from csrun.plan import make_plan
from csrun.report import plots
from csrun.report.tables import (
    ATTACK_FILE,
    KEYS,
    RULE,
    of_rule,
    quantile,
    read_attacks,
    read_manifest,
    read_rows,
    render,
)
from csrun.report.tables import summarise as summary_of
from csrun.runner import _units, dry_run
from csrun.system.progress import Display

QUICK = ("attack=pgd", "attacker.steps=3", "attacker.restarts=1", "attacker.draws=8", "attacker.runs=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of runs with four certified points, none of them attacked."""
    return run_in(tmp_path_factory.mktemp("made"), "points.count=4", figures=False).folder.parent


@pytest.fixture
def kept(made, tmp_path):
    """A copy of these runs, where `run_small` finds them certified."""
    shutil.copytree(made, tmp_path / "runs")


def lines_of(folder):
    with (folder / ATTACK_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(folder):
    rows = read_rows(folder)
    return rows.drop(columns="seconds")


def test_every_certified_row_has_its_movement_and_no_row_changes(run_small, tmp_path):
    folder = run_small(*QUICK, "metrics=[tv,l2]").folder
    rows, lines = without_seconds(folder), lines_of(folder)
    certified = rows[rows["outcome"] == "certified"]
    assert len(lines) == len(certified) > 0
    known = {(row["metric"], str(row["point"]), *row[list(RULE)]): row["radius"] for _, row in certified.iterrows()}
    for line in lines:
        assert float(line["radius"]) == known[line["metric"], line["point"], *(line[part] for part in RULE)]
        assert int(line["abstained"]) <= int(line["runs"]) == 2
        assert (line["movement"] == "") == (line["abstained"] == line["runs"])
        assert line["beyond"] == "0"
    plain = run_small("metrics=[tv,l2]", f"out={tmp_path / 'plain'}").folder
    assert without_seconds(plain).equals(rows)
    assert not (plain / ATTACK_FILE).exists()
    run_small("metrics=[tv,l2]")
    assert not (folder / ATTACK_FILE).exists()  # a run that does not ask for it leaves none behind


def test_no_attack_is_done_twice_and_more_points_extend_them(kept, run_small, tmp_path, monkeypatch):
    folder = run_small(*QUICK, "attacker.points=1").folder
    (attack,) = (tmp_path / "runs").glob("*/attacks/*.json")
    before, then = lines_of(folder), attack.stat().st_mtime_ns
    run_small(*QUICK, "attacker.points=2")
    assert attack.stat().st_mtime_ns == then
    assert [line for line in lines_of(folder) if line["point"] == "0"] == before
    assert {line["point"] for line in lines_of(folder)} == {"0", "1"}

    def refuse(*arguments, **options):
        raise AssertionError("attacked again")

    monkeypatch.setattr(attacks, "judge", refuse)
    run_small(*QUICK, "attacker.points=2")
    with pytest.raises(AssertionError, match="attacked again"):
        run_small(*QUICK, "attacker.points=2", "attacker.steps=4")


def test_what_is_damaged_is_attacked_again(kept, run_small, tmp_path):
    before = lines_of(run_small(*QUICK).folder)
    files = sorted((tmp_path / "runs").glob("*/attacks/*.json"))
    files[0].write_bytes(files[0].read_bytes()[:40])
    files[1].unlink()
    assert lines_of(run_small(*QUICK).folder) == before


def test_attacks_do_not_depend_on_order_or_batches(kept, run_small, tmp_path):
    one = lines_of(run_small(*QUICK).folder)
    out = f"out={tmp_path / 'other'}"
    run_small(*QUICK, out, "points.start=1", "points.count=1", "batch_size=7")
    assert lines_of(run_small(*QUICK, out, "batch_size=7").folder) == one


def test_what_is_judged_lies_within_eps_and_every_run_is_kept(kept, run_small, tmp_path, monkeypatch):
    judge, judged = attacks.judge, []

    def watching(sampler, certifier, budget, perturbed, answer, stream, **options):
        judged.append((stream.point, perturbed))
        return judge(sampler, certifier, budget, perturbed, answer, stream, **options)

    monkeypatch.setattr(attacks, "judge", watching)
    run_small(*QUICK)
    data = load_data("digits", None)
    inputs = data.images(data.test, [0, 1])
    norms = [float((perturbed.double() - inputs[point].double()).norm()) for point, perturbed in judged]
    assert len(norms) == 2 * 2
    assert all(0.2 <= norm <= 0.4 for norm in norms), norms
    for path in (tmp_path / "runs").glob("*/attacks/*.json"):
        found = json.loads(path.read_text())
        assert (found["key"], found["eps"], found["kind"]) == ("center.tv", 0.4, "pgd")
        assert len(found["judged"]) == found["runs"] == 2


def shrunk(monkeypatch, factor):
    """Certificates that are too small by a factor, everywhere."""
    total = rules.Radii.total
    monkeypatch.setattr(rules.Radii, "total", lambda self, metric, bounds: factor * total(self, metric, bounds))


def test_wrong_certificates_fail_the_run(kept, monkeypatch, capsys, tmp_path, figures):
    request = (*QUICK, "points.count=4", "attacker.runs=4", "n=500", "m=600", "alpha1=0.005", "alpha2=0.005")
    assert run_in(tmp_path / "runs", *request, figures=False).broken == []
    shrunk(monkeypatch, 0.02)
    result = run_in(tmp_path / "runs", *request, figures=False)
    assert len(result.broken) == 3
    assert all("certificates are broken" in line for line in result.broken)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*SMALL, *request, f"out={tmp_path / 'runs'}"])
    assert stopped.value.code == 70
    assert capsys.readouterr().err.count("cs-run: certificates are broken: ") == 3
    assert "runs beyond it" in read_manifest(result.folder)["notes"][0]
    assert (result.folder / "radius_tv.png").is_file()  # nothing is lost


def row(beyond, metric="tv", **other):
    fixed = dict.fromkeys(KEYS, "1") | {"metric": metric, "beyond": str(beyond), "runs": "4", "point": "0"}
    fixed |= {"abstained": "0", "movement": "0.5", "radius": "2.0", "attack": "pgd"}
    return fixed | {"alpha1": "0.005", "alpha2": "0.005"} | other


def test_one_wrong_certificate_is_allowed_and_many_are_not():
    """alpha2 = 1/200: one point of ten with all its runs beyond is no proof, five are."""
    assert broken([row(4), *[row(0)] * 9], 10) == []
    (line,) = broken([*[row(4)] * 5, *[row(0)] * 5, row(0, "l2")], 10)
    assert "20 of 40 runs" in line
    assert "metric tv" in line
    assert broken([], 10) == []


def test_the_chance_is_a_tail_by_hand():
    """Two points, one run each: none, one or both beyond, each with 1 - 0.9 * 0.8."""
    p = 0.1 + 0.9 * 0.2
    assert chance(0, 2, 1, 0.2, 0.1) == pytest.approx(1)
    assert chance(1, 2, 1, 0.2, 0.1) == pytest.approx(1 - (1 - p) ** 2)
    assert chance(2, 2, 1, 0.2, 0.1) == pytest.approx(p**2)


def test_the_note_gives_shares_of_the_certificate():
    rows = [row(0), row(1, movement="1.0", point="1"), row(0, "l2", movement="", abstained="4")]
    note = attack_note(rows)
    assert note == (
        "attacked by pgd on 2 points: largest movement over certified radius tv 0.25 to 0.5; l2 –; "
        "1 of 12 runs beyond it, 4 abstained"
    )
    assert attack_note([]) == ""


def test_the_figure_and_the_end_table_show_what_was_found(kept, run_small):
    folder = run_small(*QUICK).folder
    manifest, rows = read_manifest(folder), read_rows(folder)
    found = of_rule(read_attacks(folder), manifest["rule"])
    lead = of_rule(rows, manifest["rule"])
    attacked = plots._with_attacks(summary_of(lead), found, "attacked")
    (line,) = attacked.to_dict("records")
    assert line["attacked"] == quantile(found["movement"], 0.5) < line["radius_median"]
    drawn, curves = plots._with_curves(
        plots._with_attacks(summary_of(lead), found, "attacked"), plots.LAYOUTS[manifest["curve"]]
    )
    assert "attacked (median)" in [
        h.get_label() for h in plots._legend_handles(drawn, curves, plots.beside(manifest["rule"]))
    ]
    screen = io.StringIO()
    Console(file=screen, width=200).print(*render(summary_of(rows), manifest))
    assert "attacked by pgd on 2 points" in screen.getvalue()


def test_the_estimate_counts_attacks():
    said = []
    for overrides in ((), QUICK):
        screen = io.StringIO()
        config = compose(*SMALL, *overrides)
        dry_run(config, Display(Console(file=screen, width=300)))
        said.append(screen.getvalue())
    attack = 8 * (3 * 3 + 1) + 2 * (1 + 2 * 384)
    passes = 2 * (1 + 384 + 384)
    assert f"{passes:,} forward passes" in said[0]
    assert f"{passes + 2 * attack:,} forward passes" in said[1]
    assert _units(make_plan(compose(*SMALL, *QUICK))) - _units(make_plan(compose(*SMALL))) == 2 * attack


@pytest.mark.parametrize(
    ("overrides", "expected"), [(["attack=fgsm"], "none, pgd or search"), (["attacker.runs=0"], "attacker.runs is 0")]
)
def test_a_wrong_request_is_one_line(overrides, expected):
    with pytest.raises(RunError, match=expected):
        compose(*SMALL, *overrides)


def test_a_model_without_gradients_is_refused_before_any_point(run_small, tmp_path, monkeypatch):
    (tmp_path / "steps.py").write_text("def model():\n    return lambda x: (x > 0.5).float()\n")
    monkeypatch.chdir(tmp_path)
    custom = ("model=steps:model", "metrics=[l1]")
    with pytest.raises(Exception, match="search needs none"):
        run_small(*custom, *QUICK)
    assert not list((tmp_path / "runs").glob("*/evidence/center.tv-v1/*"))
    assert run_small(*custom, *QUICK, "attack=search").broken == []


def test_a_point_whose_attack_fails_is_counted_and_tried_again(kept, run_small, monkeypatch):
    from centersmooth import ModelError

    judge = attacks.judge

    def failing(sampler, certifier, budget, perturbed, answer, stream, **options):
        if stream.point == 1:
            raise ModelError("the model returned NaN")
        return judge(sampler, certifier, budget, perturbed, answer, stream, **options)

    monkeypatch.setattr(attacks, "judge", failing)
    result = run_small(*QUICK)
    assert result.failed == 1
    assert {line["point"] for line in lines_of(result.folder)} == {"0"}
    monkeypatch.setattr(attacks, "judge", judge)
    result = run_small(*QUICK)
    assert result.failed == 0
    assert {line["point"] for line in lines_of(result.folder)} == {"0", "1"}
