"""What the commands import before they have anything to do: names of modules, never seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "scipy", "pandas", "matplotlib", "sklearn", "lpips", "facenet_pytorch"}


def imported_by(code: str) -> set[str]:
    """Those of the heavy packages that a fresh interpreter holds after running ``code``."""
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stderr.split())


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_imports_nothing_heavy(flag):
    assert imported_by(f"from csrun import cli; cli.main(['{flag}'])") == set()


def test_plots_need_no_torch():
    assert "torch" not in imported_by("from csrun.report import plots, tables, plot_cli")


def test_the_library_and_the_runner_import_no_optional_package():
    heavy = imported_by("import centersmooth, csrun.models, csrun.metrics")
    assert heavy <= {"torch", "scipy"}


@pytest.mark.parametrize(
    "setting",
    [
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
    ],
)
def test_a_misspelt_name_is_refused_before_anything_heavy_is_imported(setting):
    assert imported_by(f"from csrun import cli; cli.main(['{setting}'])") == set()
