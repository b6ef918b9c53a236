"""Provenance of a result: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from csrun.registry import packages_of

_PACKAGES = ("centersmooth", "torch", "torchvision", "numpy", "scipy", "pandas", "hydra-core", "scikit-learn")


def provenance(device: str, used: Iterable[str] = ()) -> dict[str, Any]:
    """Facts needed to repeat a run, apart from its command and configuration.

    Parameters
    ----------
    used : iterable of str
        Models, metrics and data sets of the run: the versions of their packages are recorded too.
    """
    packages = (*_PACKAGES, *packages_of(used))
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "commit": _commit(),
        "hardware": {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The checkout's commit, marked where files differ from it; 'not a checkout' for an installed package."""
    folder = Path(__file__).resolve().parents[1]  # csrun, beside which git finds the rest of the checkout

    asked = ("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--", ".", ":/centersmooth", ":/configs")
    try:
        done = subprocess.run(("git", "-C", str(folder), *asked), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
    lines = done.stdout.splitlines()
    changed = any(not line.startswith("#") for line in lines)
    return lines[0].removeprefix("# branch.oid ") + (" with local changes" if changed else "")
