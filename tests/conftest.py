"""One thread (the machine is shared, and thread counts change last digits), reproducible examples, rows by name."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest
import torch
from hypothesis import settings
from plugins import TABLES

_LONGEST = """
ray experiments contracts cores publishing custom ocr denoisers rotation spectral simulated_coverage
figures campaigns known_laws cli panels mean additive coverage recommend plots attacks examples
memory environment direction rounding safety labels laws tolerance
"""
LONGEST = [f"test_{name}.py" for name in _LONGEST.split()]
"""Files of more than twenty seconds, longest first; that of Ray mostly waits, and is best beside those that compute."""

torch.set_num_threads(1)
gc.set_threshold(20_000)  # half a million objects come with imports: to look through them took a twelfth of the time
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start: threads that wait for a busy core burn the other
settings.register_profile("repository", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    for kind in TABLES:
        parser.addoption(f"--{kind}", metavar="NAME", help=f"only the contract tests of the {kind} of this name")


def pytest_configure(config: pytest.Config) -> None:
    for kind, table in TABLES.items():
        if config.getoption(kind) not in (None, *table):
            raise pytest.UsageError(f"{kind} is {config.getoption(kind)!r}: expected one of {', '.join(table)}")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Tests have no examples in docstrings: to look for some in all that they import takes each process two seconds."""
    return [one for one in (yield) if type(one) is pytest.Module]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the rows of the plug-in that was asked for; of several processes, none ends long after the others."""
    for kind in TABLES:
        if name := config.getoption(kind):
            items[:] = [one for one in items if hasattr(one, "callspec") and one.callspec.params.get(kind) == name]
    if hasattr(config, "workerinput"):  # of pytest-xdist, which hands out files in this order
        items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
