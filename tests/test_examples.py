"""The scripts in examples/ print what their docstrings say."""

from __future__ import annotations

import ast
import importlib.util
import io
import runpy
import textwrap
from contextlib import chdir, redirect_stdout
from pathlib import Path

import pytest
from support import assert_same_text

from csrun.registry import CERTIFIERS

FOLDER = Path(__file__).parent.parent / "examples"
NEEDS = {"face_box.py": "facenet_pytorch"}


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_an_example_prints_what_its_docstring_says(script, tmp_path):
    needed = NEEDS.get(script.name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    docstring = ast.get_docstring(ast.parse(script.read_text()), clean=True)
    said = textwrap.dedent(docstring.partition("Prints:\n")[2])
    printed = io.StringIO()
    with chdir(tmp_path), redirect_stdout(printed):
        runpy.run_path(str(script), run_name="__main__")
    assert said.strip()
    assert_same_text(printed.getvalue(), said)


def test_each_certifier_has_an_example():
    assert {f"{name}.py" for name in CERTIFIERS} <= {path.name for path in FOLDER.glob("*.py")}
