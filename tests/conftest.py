"""One thread (the machine is shared, and thread counts change last digits), reproducible examples, rows by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from plugins import TABLES

torch.set_num_threads(1)
settings.register_profile("repository", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    for kind in TABLES:
        parser.addoption(f"--{kind}", metavar="NAME", help=f"only the contract tests of the {kind} of this name")


def pytest_configure(config: pytest.Config) -> None:
    for kind, table in TABLES.items():
        if config.getoption(kind) not in (None, *table):
            raise pytest.UsageError(f"{kind} is {config.getoption(kind)!r}: expected one of {', '.join(table)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the rows of the plug-in that was asked for."""
    for kind in TABLES:
        if name := config.getoption(kind):
            items[:] = [one for one in items if hasattr(one, "callspec") and one.callspec.params.get(kind) == name]
