"""What the README shows runs, and the counts it lists are the library's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support import cs_run

from centersmooth import GaussianNoise
from centersmooth.bounds import BOUNDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"eps = ([0-9.]+)", line)[1] for line in lines] == ["0.1", "0.25", "0.5"]
    assert any("stays within" in line for line in lines)


ROWS = re.findall(r"^\| (paper|exact), delta = ([\d.]+) \|(.*)\|$", README, flags=re.M)


@pytest.mark.parametrize(("bounds", "delta", "counts"), ROWS)
def test_the_table_of_counts(bounds, delta, counts):
    least = [
        BOUNDS[bounds].least_m(GaussianNoise(1.0).required_mass(0.5 + float(delta), h), 0.005) for h in (1, 1.5, 2, 3)
    ]
    assert [int(count.replace(",", "")) for count in counts.split("|")] == least


def test_the_least_n():
    assert (
        f"{BOUNDS['paper'].least_n(0.05, 0.0025):,} (paper) or {BOUNDS['exact'].least_n(0.05, 0.0025)} (exact)"
        in README
    )


def test_files_it_links_to_exist():
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert len(links) >= 6
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


COMMANDS = {path: path.read_text() for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]}
COMMANDS[ROOT / "cs-run --help"] = cs_run("--help", cwd=ROOT).stdout


def unquoted_brackets(text: str) -> list[str]:
    """Settings and packages with a bracket outside quotes, which zsh would take for a pattern; Python is left out."""
    text = re.sub(r"```python\n.*?```", "", text, flags=re.S)
    return re.findall(r"""(?<![\w.'"])[\w./]+=\[[^\s`]*|(?<=pip install )[\w-]+\[[^\s`]*""", text)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_quote_their_brackets(path):
    assert unquoted_brackets(COMMANDS[path]) == []


def test_an_unquoted_bracket_is_found():
    assert unquoted_brackets("cs-run models=[a] \"metrics=[tv,l2]\" 'grid.h=[1]' `grid.eps=[0.1,0.2]`") == [
        "models=[a]",
        "grid.eps=[0.1,0.2]",
    ]
    assert unquoted_brackets("pip install a[b], pip install 'a[b]'") == ["a[b],"]
    assert unquoted_brackets("```python\ncertify(x, eps=[0.1])\n```") == []
    assert sum(text.count("=[") for text in COMMANDS.values()) > 10
