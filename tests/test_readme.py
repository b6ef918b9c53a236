"""What the README and the pages of docs/ show runs, and the numbers they list are the library's and the results'."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import support
import torch
from scipy.stats import binom
from support import ask, assert_page_runs, assert_same_text, compose, compose_raw

from centersmooth import GaussianNoise
from centersmooth.betting import first_above
from centersmooth.bounds import BOUNDS, EXACT
from csrun import registry
from csrun.config import grid_pairs, resolve
from csrun.help import config_folder
from csrun.registry import CERTIFIERS
from csrun.report.claims import Study, sharpenings
from csrun.report.tables import ROW_COLUMNS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results/README.md", *sorted(ROOT.glob("docs/**/*.md"))]
README = (ROOT / "README.md").read_text()
LIBRARY = (ROOT / "docs/library.md").read_text()
CODE_PAGES = ("library", "outputs", "extending/noise", "extending/metric", "extending/certifier")
WITH_CODE = ("README.md", *(f"docs/{page}.md" for page in CODE_PAGES))


@pytest.mark.parametrize("path", WITH_CODE)
def test_the_code_of_a_page_prints_what_it_says(path):
    with torch.random.fork_rng(devices=[]):
        assert assert_page_runs(ROOT / path) >= 1


def test_the_page_on_experiments_is_one(tmp_path, monkeypatch):
    page = ROOT / "docs/extending/experiment.md"
    (written,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.S)
    shutil.copytree(config_folder(), tmp_path / "configs")
    (tmp_path / "configs/experiment/l1_digits.yaml").write_text(written)
    monkeypatch.setattr(support, "config_folder", lambda: tmp_path / "configs")
    config = compose("experiment=l1_digits")
    assert (config.name, config.metrics, config.certifiers) == ("l1_digits", ["l1", "l2"], ["center", "mean"])
    assert (config.grid.eps, config.grid.h, config.data.name) == ([0.2, 0.4], [1], "digits")
    assert len({point.scale for point in grid_pairs(config.grid)}) == 2  # as the page says of its cells
    monkeypatch.setattr(registry, "METRICS", dict(registry.METRICS))
    assert assert_page_runs(page) == 1


def test_a_page_that_says_what_is_not_printed_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('radius 0.5')\n```\n\n```text\nradius 0.51\n```\n")
    with pytest.raises(AssertionError, match="printed"):
        assert_page_runs(page)
    page.write_text("```python\nprint('radius')\n```\n\n```text\n```\n")
    with pytest.raises(AssertionError, match="printed"):
        assert_page_runs(page)
    assert_same_text("radius 0.5001", "radius 0.5")


ROWS = re.findall(r"^\| (paper|exact), delta = ([\d.]+) \|(.*)\|$", LIBRARY, flags=re.M)


def test_there_are_counts():
    assert len(ROWS) == 4


@pytest.mark.parametrize(("bounds", "delta", "counts"), ROWS)
def test_the_table_of_counts(bounds, delta, counts):
    least = [
        BOUNDS[bounds].least_m(GaussianNoise(1.0).required_mass(0.5 + float(delta), h), 0.005) for h in (1, 1.5, 2, 3)
    ]
    assert [int(count.replace(",", "")) for count in counts.split("|")] == least


def test_the_least_n():
    assert (
        f"{BOUNDS['paper'].least_n(0.05, 0.0025):,} (paper) or {BOUNDS['exact'].least_n(0.05, 0.0025)} (exact)"
        in LIBRARY
    )


HEADLINES = re.findall(r"^\| .* \| (.*\d.*) \| \[.*\]\(([^)#]+).*\) \|$", README, flags=re.M)


def test_there_are_headlines():
    assert len(HEADLINES) >= 5


@pytest.mark.parametrize(("said", "source"), [one for one in HEADLINES if one[1] != "results/README.md"])
def test_a_headline_is_in_one_paragraph_of_its_source(said, source):
    numbers = set(re.findall(r"[\d.,]*\d", said))
    paragraphs = (ROOT / source).read_text().split("\n\n")
    assert any(numbers <= set(re.findall(r"[\d.,]*\d", paragraph)) for paragraph in paragraphs)


def test_the_headlines_on_radii_are_of_the_published_rows():
    """Ratios to the paper's rule, from the least to the largest of a whole grid, outward at their last digit."""
    said = re.findall(r"^\| (?:radius over|the same by).*?\| (.*?) \| \[results\]", README, flags=re.M)
    digits = _ratios("tv_digits/cpu-cpu", "measured", "tv")
    assert said[0] == f"{min(digits):.3f} to {max(digits):.3f}"
    means = [_ratios(f"{name}/full-cuda", "mean, spectral", metric) for name, metric in MEANS]
    assert said[1] == " and ".join(f"{min(one):.2f} to {max(one):.2f}" for one in means)


MEANS = (("tv_mnist", "tv"), ("l2_mnist", "l2"))


def _ratios(folder, rule, metric):
    study = Study.read(ROOT / "results" / folder)
    found = [one for one in sharpenings([study]) if (one.rule, one.metric, one.h) == (rule, metric, 1)]
    return [ratio for one in found for ratio in one.ratios]


def test_the_caption_of_the_picture_is_its_certificate():
    rows = pd.read_csv(ROOT / "results/jaccard_astronaut/cpu-cpu/summary.csv").query("eps == 0.3").set_index("rule")
    exact, measured = rows["radius_median"][["exact", "measured"]]
    caption = README[README.index("*A face detector's") :].partition("\n\n")[0]
    said = re.search(r"distance ([\d.]+) of the blue one by the rule `exact`, and within ([\d.]+)", caption)
    assert [float(one) for one in said.groups()] == [round(exact, 3), round(measured, 3)]


@pytest.mark.parametrize("page", ["README.md", "docs/which-certifier.md"])
def test_certifiers_and_rules_that_a_page_names_exist(page):
    text = (ROOT / page).read_text()
    table = text[text.index("| output | distance | certifier |") :].partition("\n\n")[0]
    cells = [row.split("|")[3] for row in table.splitlines()[2:]]
    named = [re.findall(r"`(\w+)`", cell)[:2] for cell in cells]
    assert {name for names in named for name in names if "_" in name or name in CERTIFIERS} <= set(CERTIFIERS)
    assert set(CERTIFIERS) <= {name for names in named for name in names}


def test_rules_on_the_page_are_those_there_are():
    text = (ROOT / "docs/which-certifier.md").read_text()
    table = text[text.index("| certifier | rule") :].partition("\n\n")[0]
    rules: dict[str, list[str]] = {}
    for row in table.splitlines()[2:]:
        certifier, rule = (re.findall(r"`(\w+)`", cell) for cell in row.split("|")[1:3])
        rules.setdefault(*certifier or [list(rules)[-1]], []).extend(rule)
    assert rules == {name: list(entry.every_rule) for name, entry in CERTIFIERS.items()}


def test_the_columns_on_the_page_are_those_of_a_row():
    text = (ROOT / "docs/running.md").read_text()
    table = text[text.index("| columns |") :].partition("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(ROW_COLUMNS)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_a_page_links_to_exist(path):
    links = re.findall(r"\]\((?!http|#)([^)\s]+)\)", path.read_text())
    assert [link for link in links if not (path.parent / link.partition("#")[0]).exists()] == []


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 125
    assert len(re.findall(r"\]\((?!http|#)([^)\s]+)\)", README)) >= 10


COMMANDS = {path: path.read_text() for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("**/*.md"))]}
COMMANDS |= {ROOT / f"--help {topic}": ask("--help", topic, cwd=ROOT).stdout for topic in ("keys", "metrics", "")}


def unquoted_brackets(text: str) -> list[str]:
    """Settings and packages with a bracket outside quotes, which zsh would take for a pattern; Python is left out."""
    text = re.sub(r"```(?:python|yaml)\n.*?```", "", text, flags=re.S)
    return re.findall(r"""(?<![\w.'"])[\w./]+=\[[^\s`]*|(?<=pip install )[\w-]+\[[^\s`]*""", text)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_quote_their_brackets(path):
    assert unquoted_brackets(COMMANDS[path]) == []


def commands_of(text: str) -> list[str]:
    """The cs-run commands of a page's blocks, each on one line."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M)
    lines = "\n".join(block for language, block in blocks if not language).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("cs-run ")]


ASKED = [command for path in PAGES for command in commands_of(path.read_text())]


@pytest.mark.parametrize("command", sorted({one for one in ASKED if "--multirun" not in one}))
def test_a_command_of_a_page_is_understood(command):
    arguments = shlex.split(command, comments=True)[1:]
    resolve(compose_raw(*(one for one in arguments if not one.startswith("--"))), cuda=True)


def test_commands_are_found():
    assert len(ASKED) > 20
    assert commands_of("```\ncs-run a=b \\\n  c=d  # why\n```\n") == ["cs-run a=b    c=d  # why"]


def test_an_unquoted_bracket_is_found():
    assert unquoted_brackets("cs-run models=[a] \"metrics=[tv,l2]\" 'grid.h=[1]' `grid.eps=[0.1,0.2]`") == [
        "models=[a]",
        "grid.eps=[0.1,0.2]",
    ]
    assert unquoted_brackets("pip install a[b], pip install 'a[b]'") == ["a[b],"]
    assert unquoted_brackets("```python\ncertify(x, eps=[0.1])\n```") == []
    assert sum(text.count("=[") for text in COMMANDS.values()) > 10


WHICH = (ROOT / "docs/which-certifier.md").read_text()
BETTING = re.findall(r"^\| ([\d.]+) \| [\d.]+ \(h = ([\d.]+)\) \| ([\d,]+) \| ([\d,]+) \|$", WHICH, flags=re.M)


def test_the_page_has_draws_of_betting_and_of_counts():
    assert len(BETTING) == 6


@pytest.mark.parametrize(("mass", "h", "mean", "fewest"), BETTING)
def test_the_listed_draws_of_a_class_are_the_librarys(mass, h, mean, fewest):
    p, needed, alpha = float(mass), GaussianNoise(1.0).required_mass(0.5, float(h)), 0.001
    assert _chance(_integer(fewest), p, needed, alpha) >= 0.99
    assert all(_chance(draws, p, needed, alpha) < 0.99 for draws in range(5, _integer(fewest)))
    draws = np.random.default_rng(0).random((400, 20 * _integer(mean))) < p
    stopped = [first_above(row, needed, alpha) for row in draws]
    assert np.mean(stopped) == pytest.approx(_integer(mean), abs=6 * np.std(stopped) / math.sqrt(len(stopped)))


def _chance(draws, mass, needed, alpha):
    """Probability that so many draws of a class of this mass certify it."""
    least = int(binom.isf(alpha, draws, needed)) + 1  # the tail at this count is at most alpha
    assert EXACT.mass_floor(min(least, draws), draws, alpha) > needed or least > draws
    assert EXACT.mass_floor(least - 1, draws, alpha) <= needed
    return binom.sf(least - 1, draws, mass)


def _integer(text):
    return int(text.replace(",", ""))
