"""What `pip install` puts on a machine: every module and every configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
ROOTS = {"centersmooth": "centersmooth", "csrun": "experiments/csrun", "csrun.configs": "configs"}


def packages_of(name: str, folder: str) -> set[str]:
    """Dotted names of the folders that hold modules."""
    found = (path.parent.relative_to(ROOT / folder).parts for path in (ROOT / folder).rglob("__init__.py"))
    return {".".join((name, *parts)) for parts in found}


def test_every_folder_of_modules_is_installed():
    there = set().union(*(packages_of(*root) for root in ROOTS.items()))
    assert "csrun.configs.experiment" in there
    assert set(SETUPTOOLS["packages"]) == there


def test_every_folder_of_configurations_is_installed():
    folders = {path.parent for path in (ROOT / "configs").rglob("*.yaml")}
    assert len(folders) >= 2
    for folder in folders:
        (name,) = (name for name, where in SETUPTOOLS["package-dir"].items() if ROOT / where == folder)
        assert SETUPTOOLS["package-data"][name] == ["*.yaml"]
