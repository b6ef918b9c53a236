"""What the commands import before they have anything to do: names of modules, never seconds."""

from __future__ import annotations

import subprocess
import sys

from support import HEAVY, imported_by_requests

SETTINGS = [
    "experiment=tv_digit",
    "models=[autoencodr]",
    "metrics=[tvv]",
    "metrics=[lpips]",
    "data.name=digit",
    "certifiers=[center,men]",
    "certifier=center_fre",
    "rule=exat",
    "rule=local",
    "noise=gausian",
    "noise.name=gausian",
    "attack=pdg",
    "executor=rai",
    "precision=float16",
    "nope=1",
]


def imported_by(code: str) -> set[str]:
    """Modules that a fresh interpreter holds after running ``code``."""
    program = f"import sys; {code}; sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_nothing_heavy():
    assert imported_by_requests([["--help"], ["--version"]]) == [(0, set())] * 2


def test_plots_need_no_torch():
    assert "torch" not in imported_by("from csrun.report import plots, tables, plot_cli")


def test_the_library_the_runner_and_its_workers_import_no_optional_package_and_no_optimisers():
    imported = imported_by("import centersmooth, csrun.models, csrun.metrics, csrun.executors.on_cores")
    assert HEAVY & imported <= {"torch", "numpy", "scipy"}
    assert "scipy.optimize" not in imported


def test_a_misspelt_name_is_refused_before_anything_heavy_is_imported():
    answers = imported_by_requests([[setting] for setting in SETTINGS])
    assert dict(zip(SETTINGS, answers, strict=True)) == dict.fromkeys(SETTINGS, (2, set()))
