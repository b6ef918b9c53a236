"""One thread (the machine is shared, and thread counts change last digits), reproducible hypothesis examples."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hypothesis import settings

# Only this folder, not tests/: that one holds a folder called centersmooth, which would shadow the library.
sys.path.append(str(Path(__file__).parent / "reference"))

torch.set_num_threads(1)
settings.register_profile("repository", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("repository")
