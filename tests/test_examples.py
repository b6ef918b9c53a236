"""The scripts in examples/ print what their docstrings say."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import textwrap
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
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert said.strip()
    assert_same_text(done.stdout, said)


def test_each_certifier_has_an_example():
    assert {f"{name}.py" for name in CERTIFIERS} <= {path.name for path in FOLDER.glob("*.py")}
